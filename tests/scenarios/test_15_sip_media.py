"""What calls over SIP carry, through the real daemon: codecs, packet lengths, directions, keys, early media.

Tones go there and back through the echo agent and are measured (`secure_phone.flaws`): frequency, level,
noise and clicks. A wrong rate is a wrong frequency, a lost frame a click.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from flowcatd.audio import g722, opus, tones
from flowcatd.sip.agent_event import Connected, Media
from flowcatd.sip.body import DTMF, RELAY, Digit
from tests.scenarios.daemon import until
from tests.scenarios.secure_phone import Extras, SecurePhone, Tape, able, secure_phone
from tests.scenarios.sip_phone import Manner, tone
from tests.scenarios.test_13_sip_fleet import Fleet, parted
from tests.scenarios.test_15_sip_transports import KEYS, TRUNK, listening, until_clean
from tests.scenarios.test_16_sip_outbound import ask, out, record_of

pytestmark = pytest.mark.scenario

EVERY_KEY = "1234567890*#ABCD"
READER = """
name: reader
initial_state: wait
variables: {keys: ""}
states:
  wait:
    transitions:
      - digits: "[0-9*#ABCD]{16}"
        set: {keys: "{{ .Slots.digits }}"}
        target: done
    timeout: 30s
  done:
    on_enter: [{type: play_tts, params: {text: "Thank you."}}]
    terminal: true
"""
NOISE_DB = {"pcmu": 30.0, "pcma": 30.0, "g722": 15.0, "opus": 15.0}
"""How far below the tone a codec's own noise has to be, there and back; G.722 has two bits for 5 kHz."""

wide = pytest.mark.skipif(
    not (g722.available() and opus.available()), reason="needs the `wideband` codecs"
)


def manner(*names: str, ptime_ms: int = 20, mux: bool = True) -> Manner:
    """A telephone with these codecs."""
    return Manner(capabilities=able(*names, ptime_ms=ptime_ms, mux=mux))


@asynccontextmanager
async def echo(tmp_path: Path, *settings: str) -> AsyncIterator[Fleet]:
    """One worker that echoes, in every codec."""
    async with listening(tmp_path, "workers.count=1", KEYS, *settings, loopback=TRUNK) as place:
        yield place
        assert place.daemon.log("call.failed") == []


async def measured(place: Fleet, phone: SecurePhone, name: str, hz: float) -> None:
    """One call in one codec."""
    talk = await phone.ring_up(place.uri(), tone(hz, 8000))
    assert talk.has(Connected), talk.ended
    assert talk.session is not None
    assert talk.session.codec.format.name.lower() == name
    await until_clean(talk, hz, noise_db=NOISE_DB[name])
    names = await parted(phone, talk)
    assert (await place.record(phone, names[0]))["sip"]["codec"].lower() == name


@wide
async def test_every_codec_brings_a_tone_there_and_back(tmp_path: Path) -> None:
    """PCMU, PCMA, G.722 and Opus: its frequency, its level, no clicks; wideband carries 5 kHz."""
    tries = [("pcmu", 440.0), ("pcma", 440.0), ("g722", 440.0), ("g722", 5000.0), ("opus", 440.0)]
    async with echo(tmp_path) as place, AsyncExitStack() as stack:
        phones = [await stack.enter_async_context(secure_phone(manner(name))) for name, _ in tries]
        await asyncio.gather(
            *(
                measured(place, phone, name, hz)
                for phone, (name, hz) in zip(phones, tries, strict=True)
            )
        )


@wide
async def test_the_codec_changes_in_mid_call_and_changes_back(tmp_path: Path) -> None:
    """By re-INVITE: µ-law, G.722, Opus, µ-law; what is heard is right in each."""
    async with echo(tmp_path) as place, secure_phone(manner("pcmu")) as phone:
        talk = await phone.ring_up(place.uri())
        await until_clean(talk)
        for name in ("g722", "opus", "pcma", "pcmu"):
            before = talk.count(Media)
            phone.change(talk, name)
            await until(lambda b=before: talk.count(Media) > b, "another codec")  # type: ignore[misc]
            assert talk.session is not None
            assert talk.session.codec.format.name.lower() == name
            await until_clean(talk, noise_db=15.0)
        await parted(phone, talk)


async def packets(talk: Tape, frames: int = 50) -> float:
    """How many come per second."""
    assert talk.stream is not None
    begun, at = talk.stream.figures().packets_in, len(talk.sounds)
    await until(lambda: len(talk.sounds) >= at + frames, "some time")
    return (talk.stream.figures().packets_in - begun) / (frames * 0.02)


@pytest.mark.parametrize("name", ["pcmu", pytest.param("opus", marks=wide)])
async def test_packets_are_as_long_as_is_asked_and_any_length_is_heard(
    tmp_path: Path, name: str
) -> None:
    """10, 30, 40 and 60 ms both ways; Opus has no frame of 30 ms and sends 20."""

    async def one(phone: SecurePhone, ptime_ms: int) -> None:
        talk = await phone.ring_up(place.uri())
        await until_clean(talk, noise_db=15.0)
        sent_ms = 20 if (name, ptime_ms) == ("opus", 30) else ptime_ms
        assert abs(await packets(talk) - 1000 / sent_ms) <= 6
        await parted(phone, talk)

    async with echo(tmp_path) as place, AsyncExitStack() as stack:
        work = []
        for ptime_ms in (10, 30, 40, 60):
            asked = manner(name, ptime_ms=ptime_ms)
            said = 20 if (name, ptime_ms) == ("opus", 30) else ptime_ms
            phone = await stack.enter_async_context(secure_phone(asked, Extras(packet_ms=said)))
            work.append(one(phone, ptime_ms))
        await asyncio.gather(*work)


# --- what descriptions can say --------------------------------------------------------------------


def bodies(phone: SecurePhone) -> list[str]:
    """The descriptions that the daemon has sent."""
    whole = (each.decode().partition("\r\n\r\n")[2] for each in phone.received)
    return [each for each in whole if each.startswith("v=0")]


async def offered(phone: SecurePhone, talk: Tape, edit: Callable[[str], str]) -> str:
    """The daemon's answer to a description that was changed."""
    before = len(bodies(phone))
    phone.bend(talk, edit)
    await until(lambda: len(bodies(phone)) > before, "an answer")
    return bodies(phone)[-1]


async def test_of_several_streams_the_audio_is_taken_and_the_rest_refused(tmp_path: Path) -> None:
    """Video and a second audio get port 0, line for line; the first audio is heard."""
    more = "m=video 40000 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\nm=audio 40002 RTP/AVP 0\r\n"
    extras = Extras(edit=lambda text: text + more)
    async with echo(tmp_path) as place, secure_phone(manner("pcmu"), extras) as phone:
        talk = await phone.ring_up(place.uri())
        assert talk.has(Connected), talk.ended
        lines = re.findall(r"m=(\w+) (\d+)", bodies(phone)[-1])
        assert [kind for kind, _ in lines] == ["audio", "video", "audio"]
        assert [port == "0" for _, port in lines] == [False, True, True]
        await until_clean(talk)
        await parted(phone, talk)


async def test_directions_are_answered_and_obeyed(tmp_path: Path) -> None:
    """Sendonly, recvonly, inactive and 0.0.0.0: the matching answer, and sound only where it may be."""
    wanted = {"sendonly": "recvonly", "inactive": "inactive", "recvonly": "sendonly"}
    async with echo(tmp_path) as place, secure_phone(manner("pcmu")) as phone:
        talk = await phone.ring_up(place.uri())
        await until_clean(talk)
        for said, answer in wanted.items():
            text = await offered(phone, talk, turned(said))
            assert f"a={answer}\r\n" in text, said
            if said != "recvonly":
                await until_silent(talk)
        text = await offered(phone, talk, lambda text: text.replace("IP4 127.0.0.1", "IP4 0.0.0.0"))
        assert "a=sendrecv" in text
        await until_silent(talk)
        await offered(phone, talk, lambda text: text)
        await until_clean(talk)
        await parted(phone, talk)


def turned(direction: str) -> Callable[[str], str]:
    """An edit that says this direction."""
    return lambda text: text.replace("a=sendrecv", f"a={direction}")


async def until_silent(talk: Tape) -> None:
    """For a third of a second no packet comes."""
    assert talk.stream is not None
    stream = talk.stream
    last, since = -1, 0

    def is_silent() -> bool:
        nonlocal last, since
        count = stream.figures().packets_in
        if count != last:
            last, since = count, len(talk.sounds)
        return len(talk.sounds) >= since + 16

    await until(is_silent, "silence")


@pytest.mark.parametrize("mux", [True, False])
async def test_reports_go_where_the_description_says(tmp_path: Path, mux: bool) -> None:  # noqa: FBT001 pytest's
    """A port of its own by a=rtcp, or RTP's with a=rtcp-mux: both sides learn what the other hears."""
    async with echo(tmp_path) as place, secure_phone(manner("pcmu", mux=mux)) as phone:
        talk = await phone.ring_up(place.uri())
        assert ("a=rtcp-mux" in bodies(phone)[-1]) is mux
        assert talk.stream is not None
        stream = talk.stream
        await until(lambda: stream.figures().remote_loss is not None, "a report")
        names = await parted(phone, talk)
        media = (await place.record(phone, names[0]))["sip"]["media"]
    assert media["remote_loss"] is not None
    assert media["foreign"] == 0


# --- keys -----------------------------------------------------------------------------------------


@asynccontextmanager
async def reading(tmp_path: Path) -> AsyncIterator[Fleet]:
    """An agent that waits for sixteen keys."""
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / "reader.yaml").write_text(READER)
    said = (f"agents.directory={agents}", "agents.default=reader", "workers.count=1")
    trunk = TRUNK.partition("[[route]]")[0] + "[[route]]\n"
    async with listening(tmp_path, *said, loopback=trunk) as place:
        yield place


async def read(place: Fleet, phone: SecurePhone, talk: Tape) -> dict[str, object]:
    """The keys that the agent read, and how they came."""
    name = phone.agent.call_id(talk.number)
    record = await place.record(phone, name)
    return {"keys": record["variables"]["keys"], "ways": record["sip"]["keys"]}


def no_events(text: str) -> str:
    """A description without telephone-event."""
    numbers = re.findall(r"a=rtpmap:(\d+) telephone-event", text)
    for number in numbers:
        text = re.sub(rf"a=(rtpmap|fmtp):{number} [^\r]*\r\n", "", text)
        text = re.sub(rf"(m=audio [^\r]*) {number}\b", r"\1", text)
    return text


def pressing(keys: str) -> Callable[[int], bytes | None]:
    """A mouth that presses keys, after half a second, and is silent."""
    chunks: Iterator[bytes] | None = None

    def say(rate_hz: int) -> bytes:
        nonlocal chunks
        size = rate_hz // 50 * 2
        if chunks is None:
            sound = bytes(rate_hz) + tones.press(keys, rate_hz)
            chunks = (sound[at : at + size] for at in range(0, len(sound), size))
        return next(chunks, b"").ljust(size, b"\0")

    return say


async def test_every_key_is_read_once_whichever_way_it_comes(tmp_path: Path) -> None:
    """Telephone-event, INFO in both writings, tones in the sound: sixteen keys, each once, in order."""

    async def by_event(phone: SecurePhone) -> dict[str, object]:
        talk = await phone.ring_up(place.uri(), lambda _rate_hz: None)
        assert talk.stream is not None
        talk.stream.press(EVERY_KEY)
        return await read(place, phone, talk)

    async def by_info(phone: SecurePhone, kind: str) -> dict[str, object]:
        talk = await phone.ring_up(place.uri(), lambda _rate_hz: None)
        for key in EVERY_KEY:
            phone.agent.send_digit(talk.number, Digit(key, 160), time.monotonic(), kind)
            phone.pump()
        return await read(place, phone, talk)

    async def by_tone(phone: SecurePhone) -> dict[str, object]:
        talk = await phone.ring_up(place.uri(), pressing(EVERY_KEY))
        assert talk.session is not None
        assert talk.session.events is None
        return await read(place, phone, talk)

    deaf = Extras(edit=no_events)
    async with reading(tmp_path) as place, AsyncExitStack() as stack:
        enter = stack.enter_async_context
        found = await asyncio.gather(
            by_event(await enter(secure_phone(manner("pcmu")))),
            by_info(await enter(secure_phone(manner("pcmu"))), RELAY),
            by_info(await enter(secure_phone(manner("pcmu"))), DTMF),
            by_tone(await enter(secure_phone(manner("pcma"), deaf))),
            by_tone(await enter(secure_phone(manner("pcmu"), deaf))),
        )
    ways = ("rtp", "info", "info", "inband", "inband")
    assert found == [{"keys": EVERY_KEY, "ways": {way: 16}} for way in ways]


@wide
async def test_keys_have_the_clock_of_their_codec(tmp_path: Path) -> None:
    """Opus wants telephone-event at 48000 Hz (RFC 4733 §2.4.1): every key once; so with 8000 Hz only."""

    def narrow(text: str) -> str:
        return text.replace("telephone-event/48000", "telephone-event/8000")

    async def one(phone: SecurePhone, clock_hz: int) -> dict[str, object]:
        talk = await phone.ring_up(place.uri(), lambda _rate_hz: None)
        assert talk.session is not None
        assert talk.session.events is not None
        assert talk.session.events.clock_hz == clock_hz
        assert talk.stream is not None
        talk.stream.press(EVERY_KEY)
        return await read(place, phone, talk)

    trunk = TRUNK.partition("[[route]]")[0] + "[[route]]\n"
    assert "opus" in trunk
    async with reading(tmp_path) as place, AsyncExitStack() as stack:
        enter = stack.enter_async_context
        found = await asyncio.gather(
            one(await enter(secure_phone(manner("opus"))), 48_000),
            one(await enter(secure_phone(manner("opus"), Extras(edit=narrow))), 8_000),
        )
    assert found == [{"keys": EVERY_KEY, "ways": {"rtp": 16}}] * 2


# --- before the answer ----------------------------------------------------------------------------


async def test_early_media_is_acknowledged_and_the_agent_begins_with_the_answer(
    tmp_path: Path,
) -> None:
    """183 with 100rel gets a PRACK, and the callee's tone arrives; nothing is echoed before the 200."""
    async with (
        secure_phone(extras=Extras(is_early=True)) as phone,
        listening(tmp_path, "workers.count=1", out=out(phone.port)) as place,
    ):
        status, body = await ask(place)
        assert status == 202, body
        talk = await phone.rung()
        assert isinstance(talk, Tape)
        await until(lambda: any(x.startswith(b"PRACK ") for x in phone.received), "a PRACK")
        await until(lambda: len(talk.sounds) > 40, "some early media")
        assert talk.heard_at == []
        assert not talk.has(Connected)
        assert talk.stream is not None
        assert talk.stream.figures().packets_out > 30
        phone.pick_up(talk)
        await until_clean(talk, 880.0)
        await parted(phone, talk)
        record = await record_of(place, body["call_id"])
    ladder = [line.split(" ", 1)[1] for line in record["sip"]["ladder"]]
    assert [line.split(" ", 1)[1].split(" ")[0] for line in ladder][:5] == [
        "INVITE",
        "183",
        "PRACK",
        "200",
        "200",
    ]
    assert talk.stream is not None
    # Those of before the answer have arrived, too.
    assert record["sip"]["media"]["packets_in"] >= talk.stream.figures().packets_out - 10
