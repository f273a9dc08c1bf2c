"""SIPp against the daemon: what a call can meet, step by step, and what must come back."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.interop.place import NUMBER, OUTBOUND, Answerer, answerer
from tests.interop.programs import free_ports, needs
from tests.interop.sipp import (
    Target,
    ack,
    ack_refused,
    again,
    answer,
    answered,
    ask,
    asked,
    bye,
    called,
    expect,
    invite,
    must_match,
    pause,
    play,
    play_out,
    reply,
    request,
    ringing,
    sdp,
    send,
    sipp,
)
from tests.interop.sound import write_payload

pytestmark = [
    pytest.mark.interop,
    pytest.mark.scenario,
    pytest.mark.asyncio(loop_scope="module"),
    needs("sipp"),
]

OVER = (bye(9), expect(200))
MEDIAN_MS = 5.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def far(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Answerer]:
    """One daemon with the echo agent for all of them."""
    async with answerer(tmp_path_factory.mktemp("sipp") / "daemon") as one:
        yield one


def info(cseq: int, kind: str, body: str) -> str:
    """A digit by INFO, taken."""
    text = request("INFO", cseq, body=body, kind=kind)
    return send(text, retrans=True) + "\n" + expect(200)


SCENARIOS = {
    "a call is answered, acknowledged and hung up": (
        invite(sdp()),
        answered(action=""),
        pause(0.2),
        *OVER,
    ),
    "an INVITE without SDP gets an offer, and its answer comes in the ACK": (
        invite(),
        ringing(),
        expect(200, action=must_match("m=audio [1-9]"), begins=True),
        ack(1, sdp()),
        pause(0.2),
        *OVER,
    ),
    "a call is held and taken up again": (
        invite(sdp()),
        answered(),
        again(sdp(direction="sendonly", version=2), cseq=2),
        expect(100, optional=True),
        expect(200, action=must_match("a=recvonly")),
        ack(2),
        pause(0.2),
        again(sdp(direction="sendrecv", version=3), cseq=3),
        expect(100, optional=True),
        expect(200, action=must_match("a=sendrecv")),
        ack(3),
        pause(0.2),
        *OVER,
    ),
    "a call that is inactive both ways stays up": (
        invite(sdp()),
        answered(),
        again(sdp(direction="inactive", version=2), cseq=2),
        expect(100, optional=True),
        expect(200, action=must_match("a=inactive")),
        ack(2),
        *OVER,
    ),
    "a re-INVITE changes the codec": (
        invite(sdp(0, 101)),
        ringing(),
        expect(200, action=must_match("RTP/AVP 0"), begins=True),
        ack(1),
        again(sdp(8, 101, version=2), cseq=2),
        expect(100, optional=True),
        expect(200, action=must_match("RTP/AVP 8")),
        ack(2),
        *OVER,
    ),
    "a re-INVITE with a codec nobody has is 488, and the call goes on": (
        invite(sdp(0, 101)),
        answered(),
        again(
            sdp(0, version=2).replace("RTP/AVP 0", "RTP/AVP 3").replace("0 PCMU", "3 GSM"), cseq=2
        ),
        expect(100, optional=True),
        expect(488),
        ack_refused(2),
        *OVER,
    ),
    "an UPDATE with SDP is answered with SDP": (
        invite(sdp()),
        answered(),
        send(request("UPDATE", 2, body=sdp(direction="sendonly", version=2)), retrans=True),
        expect(200, action=must_match("a=recvonly")),
        *OVER,
    ),
    "a lower CSeq within the dialog is 500": (
        invite(sdp(), cseq=7),
        answered(7),
        send(request("OPTIONS", 3), retrans=True),
        expect(500),
        *OVER,
    ),
    "the second BYE is 481": (
        invite(sdp()),
        answered(),
        bye(2),
        expect(200),
        bye(3),
        expect(481),
    ),
    "a request within a call that is not there is 481": (
        send(request("BYE", 5, begins=True).replace("port]>\nCall", "port]>;tag=none\nCall")),
        expect(481),
    ),
    "OPTIONS is answered with what we can": (
        send(request("OPTIONS", 1, begins=True), retrans=True),
        expect(200, action=must_match("INVITE", "Allow")),
    ),
    "a digit by INFO is taken in either form": (
        invite(sdp()),
        answered(),
        info(2, "application/dtmf-relay", "Signal=5\nDuration=160\n"),
        info(3, "application/dtmf", "7\n"),
        *OVER,
    ),
    "an INFO of an unknown type is 415": (
        invite(sdp()),
        answered(),
        send(request("INFO", 2, body="x\n", kind="application/x-unknown"), retrans=True),
        expect(415),
        *OVER,
    ),
    "an unknown method is 405 or 501": (
        invite(sdp()),
        answered(),
        send(request("PUBLISH", 2), retrans=True),
        expect(501, optional=True, more=' next="1"'),
        expect(405),
        '<label id="1"/>',
        *OVER,
    ),
    "an unknown extension that is required is 420": (
        invite(sdp(), "Require: x-unheard-of"),
        expect(100, optional=True),
        expect(420, action=must_match("x-unheard-of", "Unsupported")),
        ack_refused(1),
    ),
    "an offer without a codec of ours is 488": (
        invite(sdp(0).replace("RTP/AVP 0", "RTP/AVP 3").replace("0 PCMU", "3 GSM")),
        expect(100, optional=True),
        expect(488),
        ack_refused(1),
    ),
    "a session timer that is asked for is granted, and the refresh of the caller is taken": (
        invite(sdp(), "Supported: timer", "Session-Expires: 90;refresher=uac"),
        ringing(),
        expect(200, action=must_match("90;refresher=uac", "Session-Expires"), begins=True),
        ack(1),
        send(
            request("UPDATE", 2, headers=("Supported: timer", "Session-Expires: 90;refresher=uac"))
        ),
        expect(200, action=must_match("90;refresher=uac", "Session-Expires")),
        *OVER,
    ),
    "a session timer below the least is 422 and says what would do": (
        invite(sdp(), "Supported: timer", "Session-Expires: 20"),
        expect(100, optional=True),
        expect(422, action=must_match("90", "Min-SE")),
        ack_refused(1),
    ),
    "a REFER is refused or taken, and never without an answer": (
        invite(sdp()),
        answered(),
        send(
            request("REFER", 2, headers=("Refer-To: <sip:nobody@127.0.0.1:9>",)),
            retrans=True,
        ),
        expect(202, optional=True, more=' next="2"'),
        expect(603, optional=True, more=' next="3"'),
        expect(403, more=' next="3"'),
        '<label id="2"/>',
        asked("NOTIFY"),
        answer("200 OK"),
        '<label id="3"/>',
        *OVER,
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_sipp_finds_that(far: Answerer, tmp_path: Path, name: str) -> None:
    """Each scenario runs to its end, and no message comes that it does not expect."""
    await play_out(tmp_path, far.target, SCENARIOS[name])


async def test_a_call_that_requires_reliable_answers_is_taken(
    far: Answerer, tmp_path: Path
) -> None:
    """RFC 3262 §3: 100rel is understood; who answers at once owes no provisional answer."""
    steps = (
        invite(sdp(), "Supported: 100rel", "Require: 100rel"),
        expect(100, optional=True),
        expect(200, begins=True),
        ack(1),
        *OVER,
    )
    await play_out(tmp_path, far.target, steps)


async def test_we_acknowledge_a_reliable_answer_with_early_media(tmp_path: Path) -> None:
    """We call SIPp: its 183 with SDP wants a PRACK, its 200 an ACK, and its BYE an answer."""
    steps = (
        called(),
        reply("183 Session Progress", "Require: 100rel", "RSeq: 4711", body=sdp()),
        asked("PRACK", action=must_match("4711 [0-9]+ INVITE", "RAck")),
        answer("200 OK"),
        pause(0.2),
        reply("200 OK"),
        asked("ACK"),
        pause(0.2),
        ask("BYE", 1),
        expect(200),
    )
    own = free_ports()
    trunk = OUTBOUND.format(proxy=f"127.0.0.1:{own}", transport="udp")
    async with (
        answerer(tmp_path / "daemon", trunks={"outbound": trunk}) as far,
        sipp(tmp_path / "sipp", Target("127.0.0.1", far.target.port), steps, port=own) as peer,
    ):
        await far.place(NUMBER)
        status = await peer.ended()
        record = await far.new_record(0)
    assert status == 0, peer.log[-3000:]
    assert (record["sip"]["status"], record["sip"]["direction"]) == (200, "outbound")


async def test_digits_by_rtp_are_taken_each_once(far: Answerer, tmp_path: Path) -> None:
    """SIPp plays four RFC 4733 digits, always as payload type 96: they are these four, in their order."""
    if far.daemon is None:
        pytest.skip("only the daemon tells of the keys")
    before = len(far.records())
    tone = write_payload(tmp_path / "tone.ulaw", 2)
    keys = '<nop><action><exec play_dtmf="159#"/></action></nop>'
    steps = (invite(sdp(0, 96)), answered(action=play(tone)), keys, pause(2.5), *OVER)
    await play_out(tmp_path, far.target, steps)
    record = await far.new_record(before)
    assert far.keys(record) == "159#"


async def test_digits_by_info_are_taken_each_once(far: Answerer, tmp_path: Path) -> None:
    """Three digits by INFO stand in the transcript in their order."""
    if far.daemon is None:
        pytest.skip("only the daemon tells of the keys")
    before = len(far.records())
    kind = "application/dtmf-relay"
    infos = [info(2 + at, kind, f"Signal={key}\nDuration=160\n") for at, key in enumerate("4*2")]
    await play_out(
        tmp_path, far.target, (invite(sdp()), answered(), pause(0.3), *infos, pause(0.3), *OVER)
    )
    assert far.keys(await far.new_record(before)) == "4*2"


@pytest.mark.parametrize(("mode", "calls"), [("t1", 5), ("tn", 5)])
async def test_calls_go_over_tcp(far: Answerer, tmp_path: Path, mode: str, calls: int) -> None:
    """On one connection for all calls and on one for each."""
    steps = (invite(sdp()), answered(), pause(0.2), bye(2), expect(200))
    await play_out(tmp_path, far.target, steps, "-t", mode, calls=calls)


async def test_sixty_calls_a_second_are_answered_within_milliseconds(
    far: Answerer, tmp_path: Path
) -> None:
    """A hundred calls at 60 a second: all answered, half of them within 5 ms by SIPp's own clock."""
    steps = (
        invite(sdp(), more=' start_rtd="1"'),
        answered(more=' rtd="1"'),
        pause(0.5),
        bye(2),
        expect(200),
    )
    words = ("-r", "60", "-trace_rtt", "-rtt_freq", "1")
    await play_out(tmp_path, far.target, steps, *words, calls=100)
    times = answer_times_ms(tmp_path)
    assert len(times) == 100
    assert statistics.median(times) < MEDIAN_MS, sorted(times)


def answer_times_ms(place: Path) -> list[float]:
    """What SIPp measured from INVITE to 200."""
    [path] = place.glob("*_rtt.csv")
    return [float(line.split(";")[1]) for line in path.read_text().splitlines()[1:]]


@pytest.mark.long
@pytest.mark.timeout(90)
async def test_without_an_ack_we_send_bye_after_64_t1(far: Answerer, tmp_path: Path) -> None:
    """RFC 3261 §13.3.1.4: the 200 is repeated for 32 seconds, then the call is ended by us."""
    steps = (
        invite(sdp()),
        ringing(),
        expect(200, begins=True),
        asked("BYE", more=' timeout="50000"'),
        answer("200 OK"),
    )
    words = ("-default_behaviors", "all,-abortunexp", "-nr")
    await play_out(tmp_path, far.target, steps, *words, seconds=60)
