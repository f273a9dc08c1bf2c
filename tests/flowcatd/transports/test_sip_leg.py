"""The SIP leg end to end: two telephones in one process, over real RTP sockets and a real pacer."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from functools import partial

import msgspec
import pytest

from flowcatd.audio.g722 import available as has_g722
from flowcatd.audio.level import rms
from flowcatd.audio.opus import available as has_opus
from flowcatd.frames import (
    BotStartedSpeaking,
    BotStoppedSpeaking,
    End,
    Hold,
    InputAudio,
    InputDtmf,
    LineHeard,
    OutputDtmf,
    Transfer,
)
from flowcatd.pipeline.chain import interrupt
from flowcatd.pipeline.processor import Processor, down
from flowcatd.record import Reason
from flowcatd.rtp.watchdog import Patience
from flowcatd.sip.agent_event import CallEnded, CallNumber
from flowcatd.sip.ladder import Ladder
from flowcatd.sip.session import CODECS, SUITES, Capabilities, Secrecy
from flowcatd.transports import dtls
from flowcatd.transports.sip_leg import Facts, LegState, SipLeg
from tests.flowcatd.transports.phones import Conversation, House, Phone, PhoneLine, sound
from tests.workers.on_loop import on_worker_loop, until


class Fragile(Processor):
    """Breaks at the third frame."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = 0

    @down(InputAudio)
    def break_at_the_third(self, frame: InputAudio) -> None:
        """One, two."""
        self.frames += 1
        if self.frames == 3:
            raise ZeroDivisionError
        self.push(frame)


def only(*names: str, **more: object) -> Capabilities:
    """What a phone with these codecs can do."""
    return Capabilities(codecs=tuple(CODECS[name] for name in names), **more)


PCMU = only("pcmu")


def repairs(end: Conversation) -> tuple[int, ...]:
    """What a stream had to make up for, as it says itself."""
    media = end.leg.figures().media
    assert media is not None
    return (
        media.late,
        media.discarded,
        media.concealed_ms,
        media.shortened_ms,
        media.lengthened_ms,
    )


async def arrives(near: Conversation, far: Conversation, ms: int = 400) -> None:
    """What one says the other hears to the byte.

    On a machine that stands still a packet comes late, and the far stream mends the hole and says so;
    then, and only then, it is said again.
    """
    for attempt in range(6):
        before, said = repairs(far), sound(ms, seed=1000 + attempt)
        heard = len(near.told(LineHeard))
        near.say(f"attempt {attempt}", said)
        await until(partial(lambda count: len(near.told(LineHeard)) > count, heard))
        with contextlib.suppress(TimeoutError):
            await until(partial(lambda pcm: pcm in far.heard, said), within=1.0)
            return
        assert repairs(far) != before, "it was changed on its way, and nobody noticed"
    raise AssertionError("this machine never carried it in time")


@on_worker_loop
async def test_a_line_arrives_to_the_last_sample_and_is_then_told_as_heard() -> None:
    """PCMU, 1.01 s: every byte, in order, without a gap; marks make the truth of what was heard."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        await arrives(near, far, 1010)
        line = near.told(LineHeard)[-1]
        assert line.complete
        assert 1000 <= line.end_ms - line.start_ms <= 1040
        assert near.leg.figures().media.packets_out >= 50


@on_worker_loop
async def test_a_call_runs_from_the_invite_to_the_record() -> None:
    """Who hangs up, how, and what the record says of it, at both ends."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        near.say("bye", sound(200))
        near.feed(End("completed"))
        mine, theirs = await near.outcome, await far.outcome
        assert (mine.reason, theirs.reason) == (Reason.COMPLETED, Reason.CALLER_HUNG_UP)
        await until(lambda: any(isinstance(each, CallEnded) for each in near.events))
        sip = near.call.ledger.sip
        assert (sip.trunk, sip.direction, sip.transport) == ("test", "outbound", "UDP")
        assert (sip.status, sip.codec, sip.srtp) == (200, "PCMU", "")
        assert sip.ladder[0] == "0.000 → INVITE 1 +body"
        assert any(line.endswith("→ BYE 2") for line in sip.ladder)
        assert sip.media.lost == 0
        assert sip.media.packets_in > 0
        theirs = far.call.ledger.sip
        assert (theirs.direction, theirs.cause) == ("inbound", "Q.850 16")
        assert theirs.media.mos > 4


@on_worker_loop
async def test_an_interruption_silences_the_far_end_at_once() -> None:
    """What waits in the leg is forgotten: no more than two packets follow."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        near.say("a long line", sound(3000))
        await until(lambda: rms(far.heard[-1600:]) > 500)
        before = near.leg.figures().media.packets_out
        interrupt(near.ears)
        await until(lambda: near.told(LineHeard))
        (line,) = near.told(LineHeard)
        assert not line.complete
        assert near.told(BotStoppedSpeaking)[0].interrupted
        await until(lambda: rms(far.heard[-1600:]) < 100)
        # Comfort noise announces the silence, and one frame may have been on its way.
        assert near.leg.figures().media.packets_out - before <= 2


@on_worker_loop
async def test_keys_arrive_once_by_rtp() -> None:
    """telephone-event, agreed by default."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        near.feed(OutputDtmf(0, "159#"))
        await until(lambda: len(far.seen(InputDtmf)) == 4)
        await asyncio.sleep(0.3)
        assert [each.digit for each in far.seen(InputDtmf)] == list("159#")


@on_worker_loop
async def test_on_hold_nothing_is_said_and_afterwards_the_line_goes_on() -> None:
    """A line that a hold cuts in two is heard whole, and late by the hold."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        said = sound(1000)
        begun = near.leg.figures().media.packets_out
        near.say("the line", said)
        await until(lambda: near.told(BotStartedSpeaking))
        await until(lambda: rms(far.heard[-1600:]) > 500)
        house.far.do("hold", far.number)
        await until(lambda: near.seen(Hold))
        out = near.leg.figures().media.packets_out
        count = len(near.seen(InputAudio))
        await until(lambda: len(near.seen(InputAudio)) > count + 30)
        assert near.leg.figures().media.packets_out <= out + 1
        assert not near.told(LineHeard)
        house.far.do("hold", far.number, held=False)
        await until(lambda: near.told(LineHeard))
        assert near.told(LineHeard)[0].complete
        assert [each.held for each in near.seen(Hold)] == [True, False]
        # Fifty frames in all, none lost at either end of the hold, and comfort noise once a second.
        assert 50 <= near.leg.figures().media.packets_out - begun <= 54
        assert not near.outcome.done()


@on_worker_loop
async def test_a_held_call_outlives_the_patience_with_silence() -> None:
    """The stream's watchdog and the call's both know that silence is right on hold."""
    async with House(PCMU, PCMU, patience=Patience(0.4, 0.4)) as house:
        near, far = await house.connect()
        house.far.do("hold", far.number)
        await until(lambda: near.seen(Hold))
        count = len(near.seen(InputAudio))
        await until(lambda: len(near.seen(InputAudio)) > count + 50)
        assert not near.outcome.done()


@on_worker_loop
async def test_a_far_end_that_falls_silent_is_lost() -> None:
    """Not held, and no packet: the call ends, with the reason in words."""
    quiet = only("pcmu", has_comfort_noise=False)
    async with House(quiet, quiet, patience=Patience(0.4, 0.4)) as house:
        near, far = await house.connect()
        far.leg._wire.close()
        outcome = await near.outcome
        assert outcome.reason is Reason.SOCKET_LOST
        assert "no media" in outcome.error


@on_worker_loop
async def test_a_silent_agent_is_heard_to_be_there() -> None:
    """Without comfort noise, silence is sent: a far end that gets nothing would hang up."""
    quiet = only("pcmu", has_comfort_noise=False)
    async with House(quiet, quiet) as house:
        near, far = await house.connect()
        await until(lambda: far.leg.figures().media.packets_in > 20)
        assert not any(near.heard)


@pytest.mark.parametrize("name", ["pcma", "g722", "opus"])
def test_every_codec_carries_sound_both_ways(name: str) -> None:
    """At the rate that suits it."""
    if (name == "g722" and not has_g722()) or (name == "opus" and not has_opus()):
        pytest.skip(f"{name} is not installed")

    @on_worker_loop
    async def run() -> None:
        async with House(only(name), only(name)) as house:
            near, far = await house.connect()
            rate_hz = 8000 if name == "pcma" else 16000
            assert far.seen(InputAudio)[0].rate_hz == rate_hz
            loud = (b"\x00\x20" * 8 + b"\x00\xe0" * 8) * (rate_hz // 32)
            near.say("one", loud)
            far.say("two", loud)
            await until(lambda: near.told(LineHeard) and far.told(LineHeard))
            for end in (near, far):
                assert sum(rms(each.pcm) > 3000 for each in end.seen(InputAudio)) >= 20
                assert end.leg.figures().codec.lower() == name

    run()


@on_worker_loop
async def test_sdes_protects_the_media() -> None:
    """The same byte-exact line, through SRTP; the record names the suite."""
    secret = only("pcmu", secrecy=Secrecy.SDES)
    async with House(secret, secret) as house:
        near, far = await house.connect()
        await arrives(near, far)
        assert near.leg.figures().srtp == "AES_CM_128_HMAC_SHA1_80"
        assert far.leg.figures().media.bad == 0


@on_worker_loop
async def test_a_change_of_rate_is_bridged() -> None:
    """The chain keeps the rate it began with when the codec becomes a wider one."""
    if not has_g722():
        pytest.skip("g722 is not installed")
    async with House(PCMU, only("pcmu", "g722")) as house:
        near, far = await house.connect()
        wide = only("g722")
        for phone, end in ((house.near, near), (house.far, far)):
            phone.agent.negotiation(end.number)._capabilities = wide
        house.far.do("re_offer", far.number)
        await until(lambda: near.leg.figures().codec == "G722" == far.leg.figures().codec)
        loud = (b"\x00\x20" * 8 + b"\x00\xe0" * 8) * 250
        near.say("one", loud)
        await until(lambda: near.told(LineHeard))
        await until(lambda: sum(rms(each.pcm) > 3000 for each in far.seen(InputAudio)) >= 20)
        assert {each.rate_hz for each in far.seen(InputAudio)} == {8000}
        assert {len(each.pcm) for each in far.seen(InputAudio)} == {320}


@on_worker_loop
async def test_a_transfer_that_is_taken_ends_the_call_as_transferred() -> None:
    """After the line before it was heard; NOTIFY says 200."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        near.say("one moment", sound(200))
        near.feed(Transfer("sip:sales@192.0.2.9"))
        near.feed(End("transferred"))
        await until(lambda: _referral(house.far) is not None)
        assert near.told(LineHeard)
        assert not near.outcome.done()
        house.far.do("report_refer", far.number, _referral(house.far), 200)
        assert (await near.outcome).reason is Reason.TRANSFERRED


@on_worker_loop
@pytest.mark.parametrize("status", [603, 486])
async def test_a_transfer_that_is_refused_is_the_agents_failure(status: int) -> None:
    """At once by the far end, or later by whom it called."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        house.far.referred = 603 if status == 603 else 202
        near.feed(Transfer("sip:sales@192.0.2.9"))
        near.feed(End("transferred"))
        if status != 603:
            await until(lambda: _referral(house.far) is not None)
            house.far.do("report_refer", far.number, _referral(house.far), status)
        assert (await near.outcome).reason is Reason.AGENT_FAILED
        assert near.told(End) == [End("transfer_failed")]


def _referral(phone: Phone) -> int | None:
    found = [each.reference for each in phone.told if type(each).__name__ == "Referred"]
    return found[0] if found else None


@on_worker_loop
async def test_media_prove_a_call_up_whose_ack_is_lost() -> None:
    """The caller speaks: the agent does not wait for the ACK, and goes on when it comes late."""
    async with House(PCMU, PCMU) as house:
        house.drops = lambda _phone, data: data.startswith(b"ACK")
        near = house.near.dial(house.far)
        await until(lambda: house.hears(near))
        far = next(iter(house.far.calls.values()))
        near.say("hello?", sound(200))
        await until(lambda: far.seen(InputAudio))
        house.drops = lambda _phone, _data: False
        await until(lambda: any(type(each).__name__ == "Connected" for each in far.events))
        assert not far.outcome.done()


@on_worker_loop
async def test_a_call_of_ours_that_nobody_answers_is_given_up() -> None:
    """No answer within the ring time: not answered, and the ports come back."""
    async with House(PCMU, PCMU, start_seconds=0.3) as house:
        house.drops = lambda _phone, _data: True
        near = house.near.dial(house.far)
        assert (await near.outcome).reason is Reason.NOT_ANSWERED
        assert near.call.ledger.sip.status == 0


@on_worker_loop
@pytest.mark.parametrize("takes_info", [True, False])
async def test_keys_go_by_info_or_as_tones_where_events_were_not_agreed(
    *, takes_info: bool
) -> None:
    """Each arrives once, whichever way it takes."""
    async with House(PCMU, PCMU, takes_info=takes_info) as house:
        near, far = await house.connect()
        for end in (near, far):
            bare = replace(end.leg._session, events=None)
            end.leg.agreed(bare, house.clock.now(), is_early=False)
        near.feed(OutputDtmf(0, "159#"))
        await until(lambda: len(far.seen(InputDtmf)) >= 4)
        await asyncio.sleep(0.3)
        assert [each.digit for each in far.seen(InputDtmf)] == list("159#")
        infos = sum(type(each).__name__ == "Pressed" for each in far.events)
        assert infos == (4 if takes_info else 0)


@on_worker_loop
async def test_dtls_protects_the_media() -> None:
    """Keys from a handshake on the RTP port; nothing is sent in the clear before."""
    if not dtls.available():
        pytest.skip("pyOpenSSL is not installed")
    certificate = dtls.make_certificate()
    secret = only("pcmu", secrecy=Secrecy.DTLS)
    async with House(secret, secret) as house:
        house.fingerprint = certificate.fingerprint
        house.shake = partial(dtls.Dtls, certificate)
        near, far = await house.connect()
        await until(lambda: near.leg.figures().srtp and far.leg.figures().srtp)
        await arrives(near, far)
        assert near.leg.figures().srtp in SUITES


@on_worker_loop
async def test_another_certificate_than_the_described_one_ends_the_call() -> None:
    """There is no plain RTP to fall back to."""
    if not dtls.available():
        pytest.skip("pyOpenSSL is not installed")
    secret = only("pcmu", secrecy=Secrecy.DTLS)
    async with House(secret, secret) as house:
        house.fingerprint = dtls.make_certificate().fingerprint
        house.shake = partial(dtls.Dtls, dtls.make_certificate())
        near = house.near.dial(house.far)
        await until(lambda: house.far.calls)
        far = next(iter(house.far.calls.values()))
        ends = {(await each.outcome).reason for each in (near, far)}
        # Who sees it first hangs up; the other one may have seen it, too.
        assert Reason.PROTOCOL_ERROR in ends
        assert ends <= {Reason.PROTOCOL_ERROR, Reason.CALLER_HUNG_UP}
        for end in (near, far):
            assert end.call.ledger.sip.media.packets_out == 0


@on_worker_loop
@pytest.mark.parametrize("secrecy", [Secrecy.ALLOWED, Secrecy.SDES])
async def test_another_process_goes_on_with_the_leg(secrecy: Secrecy) -> None:
    """Through JSON: the same SSRC, port and keys; the far end hears on, and hears no second source."""
    how = only("pcmu", secrecy=secrecy)
    async with House(how, how) as house:
        near, far = await house.connect()
        near.say("one", sound(200))
        await until(lambda: near.told(LineHeard))
        now = house.clock.now()
        text = msgspec.json.encode(near.leg.snapshot(now))
        session, line = near.leg._session, PhoneLine(house.near, near.number)
        near.leg._wire._beat.cancel()  # as kill -9 has it: no goodbye
        for ear in near.leg._wire._ears:
            ear.close()
        house.ports.give_back(near.pair)
        near.outcome.cancel()
        near.leg._is_closed = True
        await asyncio.gather(near.outcome, return_exceptions=True)
        pair = house.ports.take_again(near.pair.port)
        state = msgspec.json.decode(text, type=LegState)
        assert state.facts == near.leg.facts
        leg = SipLeg.taken_up(state, line, house.near.ends(pair), session, house.clock.now())
        again = house.near.converse(near.number, leg, pair)
        leg.connected(house.clock.now())
        await until(lambda: house.hears(again))
        await arrives(again, far)
        await arrives(far, again)
        assert far.leg.figures().media.sources == 1
        assert far.leg.figures().media.bad == 0
        assert leg.snapshot(house.clock.now()).stream.sender.ssrc == state.stream.sender.ssrc


@on_worker_loop
async def test_another_dialog_takes_the_conversation_over() -> None:
    """The old port goes back, the chain goes on, and the other one's media are heard."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        other = house.near.dial(house.far)
        await until(lambda: house.hears(other) and len(house.far.calls) == 2)
        second = list(house.far.calls.values())[1]
        old = near.pair
        ends = house.near.ends(other.pair)
        session, line = other.leg._session, PhoneLine(house.near, other.number)
        other.leg._shut = lambda: None  # its ports are the other's now
        other.leg._wire.close()
        other.outcome.cancel()
        other.leg._is_closed = True
        await asyncio.gather(other.outcome, return_exceptions=True)
        near.leg.replaced(line, ends)
        assert old.rtp.fileno() == -1
        near.leg.agreed(session, house.clock.now(), is_early=False)
        near.say("hello", sound(200, seed=2))  # another source: its first packet proves nothing
        await until(lambda: near.told(LineHeard))
        await arrives(near, second)
        near.feed(End("completed"))
        assert (await near.outcome).reason is Reason.COMPLETED
        assert (await second.outcome).reason is Reason.CALLER_HUNG_UP
        far.outcome.cancel()


@on_worker_loop
async def test_what_raises_below_a_tick_ends_its_call_and_no_other() -> None:
    """The pacer and the far end's call go on, to their own ends."""
    async with House(PCMU, PCMU) as house:
        house.stages = lambda phone: [Fragile()] if phone is house.near else []
        near = house.near.dial(house.far)
        await until(lambda: house.far.calls)
        far = next(iter(house.far.calls.values()))
        assert (await near.outcome).reason is Reason.INTERNAL_ERROR
        assert (await far.outcome).reason is Reason.CALLER_HUNG_UP
        assert far.call.ledger.sip.cause == "Q.850 41"


@on_worker_loop
async def test_a_call_that_ends_before_anybody_reads_gives_its_ports_back() -> None:
    """`drop` may come at any time, and twice."""
    async with House(PCMU, PCMU) as house:
        pair = house.ports.take()
        facts = Facts("id", "test", False, "1", "2", "", "UDP", {})
        leg = SipLeg(facts, PhoneLine(house.near, CallNumber(9)), house.near.ends(pair))
        leg.ended(CallEnded(CallNumber(9), True, 487), Ladder())
        leg.drop()
        assert len(house.ports) == 0
        assert leg.snapshot(0.0) is None


def test_what_a_message_says_never_overrides_what_we_know() -> None:
    """Identity comes from trunk and route; it stands in no `repr`."""
    facts = Facts("id", "gold", False, "+491", "+492", "Eve", "UDP", {"caller": "+1", "x": "y"})
    session = facts.session()
    assert (session["caller"], session["trunk"], session["x"]) == ("+492", "gold", "y")
    assert "+49" not in repr(facts)
