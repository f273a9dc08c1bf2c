"""Whole calls in virtual time: the caller on one side, the daemon's own carrier core on the other."""

from __future__ import annotations

import pytest

from flowcatd.caller.facts import AgentSpoke, Answered, Line, Opened, Spoke
from flowcatd.caller.handset import Handset
from flowcatd.caller.script import Pace, Script, Turn
from flowcatd.caller.turns import trimmed
from flowcatd.carriers.catalogue import find_row
from flowcatd.carriers.events import Audio, Encoding, Started
from flowcatd.carriers.far_end import FarEnd
from flowcatd.carriers.json_media import JsonMedia
from flowcatd.carriers.raw import RAW, raw
from flowcatd.errors import CarrierError
from tests.flowcatd.caller.played import PlayedAgent, converse, tone, turn

LINES = ("hello", "which time", "goodbye")


def handset(*turns: Turn, carrier: str = "twilio", **options: object) -> Handset:
    """A caller with these turns."""
    script = options.pop("script", None) or Script(turns, Pace(patience=4.0, end_patience=6.0))
    started = Started("CA1", "MZ1", Encoding.MULAW, 8000)
    return Handset(FarEnd(find_row(carrier), started), script, **options)


def core(carrier: str = "twilio") -> JsonMedia:
    """The daemon's side of that wire."""
    row = find_row(carrier)
    return raw(Encoding.MULAW, 8000) if row is RAW else JsonMedia(row)


@pytest.mark.parametrize("carrier", ["twilio", "plivo", "raw"])
def test_a_conversation_reaches_its_end(carrier):
    """Every turn is said and answered, and the agent ends the call, on every wire."""
    caller = handset(turn("one"), turn("two"), carrier=carrier)
    agent = PlayedAgent(core(carrier), LINES)
    converse(caller, agent)
    events = caller.events()
    assert [event.turn.text for event in events if isinstance(event, Spoke)] == ["one", "two"]
    assert [
        event.text for event in events if isinstance(event, Line) and event.role == "agent"
    ] == [*LINES]
    assert [event for event in events if isinstance(event, Opened)] == [Opened("c1", "played")]
    assert agent.marks == [*LINES]
    outcome = caller.outcome
    assert (outcome.ended_by, outcome.reason, outcome.reached_end) == ("agent", "completed", True)
    assert outcome.close_code == 1000


def test_answer_latency_is_from_the_last_audible_sample_to_the_first():
    """The agent answers after 200 ms of silence; the way there and back is all that comes on top."""
    caller = handset(turn("one", 310), turn("two", 300))
    converse(caller, PlayedAgent(core(), LINES))
    answers = [event.ms for event in caller.events() if isinstance(event, Answered)]
    assert len(answers) == 2
    assert all(200 <= ms <= 245 for ms in answers)


def test_frames_leave_every_20_ms_from_the_first_moment():
    """One and a half seconds of call are 76 frames, whatever is said."""
    caller = handset(turn("one"))
    agent = PlayedAgent(core(), LINES, ends=False)
    converse(caller, agent, seconds=1.502)
    assert agent.frames == 76


def test_a_late_shell_catches_up():
    """Frames that were due are sent at once, and the clock has not moved."""
    caller = handset()
    caller.start(10.0)
    caller.outgoing()
    caller.wake(11.0)
    assert len(caller.outgoing()) == 51
    assert caller.wake_at() == pytest.approx(11.02)


def test_a_shell_that_was_stopped_hangs_up():
    """A suspended process does not pour minutes of frames into the call."""
    caller = handset(turn("one"))
    caller.start(10.0)
    caller.outgoing()
    caller.wake(70.0)
    assert len(caller.outgoing()) == 1
    assert caller.outcome.reason == "the caller stood still for 60.0 s"


def test_barge_in_is_heard_as_a_cut_line_and_its_answer_as_an_answer():
    """The interrupted line ends at the clear, and the conversation goes on."""
    caller = handset(turn("stop", interrupt_after_ms=500), turn("two"))
    agent = PlayedAgent(core(), LINES, line_ms=3000)
    converse(caller, agent)
    events = caller.events()
    first = next(event for event in events if isinstance(event, AgentSpoke))
    spoke = next(event for event in events if isinstance(event, Spoke))
    assert first.cut
    assert 0.47 <= spoke.at - first.start <= 0.53
    assert first.end - spoke.at < 0.1
    assert agent.cleared == 1
    assert agent.marks == [*LINES]
    assert caller.outcome.reached_end


def test_keys_reach_the_agent_in_order():
    """They travel as the carrier's own messages, and are answered like speech."""
    caller = handset(Turn("1 2 3", digits="123"), turn("two"))
    agent = PlayedAgent(core(), ("hello", "a", "b", "c", "goodbye"))
    converse(caller, agent)
    assert agent.digits == "123"
    assert caller.outcome.reached_end


def test_without_notices_a_normal_close_is_the_agents_end():
    """A daemon elsewhere tells nothing, and 1000 means that it was done."""
    caller = handset(turn("one"), turn("two"))
    converse(caller, PlayedAgent(core(), LINES, notices=False))
    assert caller.outcome.reached_end
    assert caller.outcome.ended_by == "agent"


@pytest.mark.parametrize(
    ("code", "why", "reason"),
    [(1011, "", "the connection closed with code 1011"), (1000, "never_spoke", "never_spoke")],
)
def test_any_other_close_is_no_end(code, why, reason):
    """The close code and its reason say what happened."""
    caller = handset(turn("one"))
    caller.start(0.0)
    caller.receive_closed(code, why, 1.0)
    assert not caller.outcome.reached_end
    assert caller.outcome.reason == reason
    assert caller.outcome.close_code == code


def test_the_daemons_reason_is_believed():
    """An agent that gave up closed in good order, and the conversation did not reach its end."""
    caller = handset(turn("one"))
    caller.start(0.0)
    caller.receive_text(
        '{"event":"flowcatd","type":"ended","by":"agent","reason":"never_spoke"}', 1.0
    )
    caller.receive_closed(1000, "", 1.1)
    assert not caller.outcome.reached_end
    assert caller.outcome.reason == "never_spoke"


def test_an_agent_that_never_ends_is_left():
    """The caller says why, and sends what a carrier sends at the end."""
    caller = handset(turn("one"), turn("two"))
    agent = PlayedAgent(core(), LINES, ends=False)
    seconds = converse(caller, agent)
    assert not caller.outcome.reached_end
    assert caller.outcome.ended_by == "caller"
    assert "neither spoke nor ended" in caller.outcome.reason
    assert 6 < seconds < 15
    assert agent.stopped


def test_a_hang_up_that_was_asked_for_is_a_good_end():
    """Once all turns were said and answered."""
    caller = handset(script=Script([turn("one")], hang_up=True))
    converse(caller, PlayedAgent(core(), LINES, ends=False))
    assert caller.outcome.reached_end
    assert caller.outcome.ended_by == "caller"


def test_both_sides_are_on_the_tape_by_time():
    """20 ms of each at a time, the agent where it was played and the caller where it was said."""
    said, heard = [], []

    def keep(left: bytes, right: bytes) -> None:
        assert len(left) == len(right) == 320
        said.append(left)
        heard.append(right)

    caller = handset(turn("one", 300), turn("two"), on_frame=keep)
    seconds = converse(caller, PlayedAgent(core(), LINES))
    events = caller.events()
    assert abs(len(said) * 0.02 - seconds) < 0.05
    spoke = next(event for event in events if isinstance(event, Spoke))
    assert b"".join(said)[round(spoke.at * 8000) * 2 :].startswith(tone(300))
    first = next(event for event in events if isinstance(event, AgentSpoke))
    start = round(first.start * 8000) * 2
    assert not any(b"".join(heard)[:start])
    assert any(b"".join(heard)[start : start + 320])


def test_an_echo_answers_however_its_tail_dies_away():
    """What the ear makes of the echo's end is not to the sample what the mouth made of its own."""
    voice = tone(400)
    dying = b"".join(tone(20, level=level) for level in range(400, 0, -10))
    one = trimmed("one", voice + dying, 8000)
    caller = handset(one, one, script=Script([one, one], Pace(patience=30.0, end_patience=30.0)))
    caller.start(0.0)
    wire = core()
    caller.listener.push(tone(200), 0)
    for step in range(2000):
        now = step * 0.005
        caller.wake(now)
        for message in caller.outgoing():
            wire.receive_text(message, now)
        for event in wire.events():
            if isinstance(event, Audio):
                caller.receive_text(wire.audio(event.payload).decode(), now)
    assert caller.script.remaining == 0
    assert len([event for event in caller.events() if isinstance(event, AgentSpoke)]) == 3


def test_half_a_sample_on_a_plain_socket_waits_for_its_other_half():
    """A plain socket may cut anywhere."""
    started = Started("c", "raw", Encoding.PCM, 8000)
    frames: list[bytes] = []
    caller = Handset(
        FarEnd(RAW, started), Script(), on_frame=lambda _said, heard: frames.append(heard)
    )
    caller.start(0.0)
    line = tone(40)
    caller.receive_binary(line[:101], 0.0)
    caller.receive_binary(line[101:], 0.0)
    caller.wake(0.061)
    assert b"".join(frames).startswith(line)


def test_what_a_carrier_would_refuse_is_refused():
    """A daemon that sends rubbish is told so by the same core that carriers' rules stand in."""
    caller = handset()
    caller.start(0.0)
    with pytest.raises(CarrierError):
        caller.receive_text("{", 0.1)


def test_unknown_notices_are_ignored():
    """A newer daemon may tell more."""
    caller = handset()
    caller.start(0.0)
    caller.receive_text('{"event":"flowcatd","type":"weather","text":7}', 0.1)
    assert caller.events() == []
