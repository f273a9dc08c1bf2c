"""Playout, cut short: interruption, Cancel, bounds, and the truth under whatever comes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcatd.frames import (
    BotStartedSpeaking,
    BotStoppedSpeaking,
    Cancel,
    End,
    Failure,
    Frame,
    Interruption,
    LineHeard,
    MarkPlayed,
    OutputAudio,
    PlayoutCleared,
    SentAudio,
    TtsStarted,
    TtsStopped,
)
from flowcatd.options import Playout as PlayoutOptions
from flowcatd.pipeline.chain import interrupt
from flowcatd.playout import MARK_GRACE_MS
from tests.builders import (
    ORIGIN,
    RATE,
    Marks,
    names,
    tone,
)
from tests.flowcatd.processors.playing import ALL_MARKS, LEAD_MS, Call

# --- interruption --------------------------------------------------------------------------------


@pytest.mark.parametrize("marks", ALL_MARKS)
@pytest.mark.parametrize("latency", [0.0, 0.15])
def test_after_an_interruption_nothing_old_is_heard_and_the_line_is_as_long_as_it_got(
    marks: Marks, latency: float
) -> None:
    """What is told lies within the far end's delay of what its listener heard."""
    call = Call(marks, latency)
    call.say("one two three four five six seven eight nine ten", 4000)
    call.say("never", 1000)
    call.wait(1000)
    interrupt(call.caller)
    call.wait(5000)
    assert call.told()[0] == "starts"
    assert call.told()[2:] == ["interrupted"]
    (line,) = call.rig.out(LineHeard)
    assert line.text in {"one two", "one two three"}
    assert not line.complete
    played_ms = (call.wire.pieces[-1].end - ORIGIN - latency) * 1000
    assert played_ms - 1 <= line.end_ms <= played_ms + 21
    assert call.rig.out(PlayoutCleared) == [PlayoutCleared(line.end_ms)]
    assert call.wire.clears == 1
    assert len(call.scope.wakes) == 0


def test_what_was_made_but_not_sent_is_not_taken_for_heard() -> None:
    """A quarter of the line is a quarter of its words, though all that left was heard."""
    call = Call()
    call.say("aaaa bbbb cccc dddd", 4000)
    call.wait(1000)
    interrupt(call.caller)
    assert call.told() == ["starts", "aaaa…", "interrupted"]


def test_the_next_line_after_an_interruption_begins_at_once() -> None:
    """What the far end forgot no longer stands in its way."""
    call = Call()
    call.say("one", 4000)
    call.wait(1000)
    interrupt(call.caller)
    call.say("two", 100)
    assert call.rig.out(SentAudio)[-5].media_ms == 1000
    call.wait(1000)
    assert call.told()[-3:] == ["starts", "two", "stops"]


def test_an_end_that_waits_survives_an_interruption() -> None:
    """It no longer waits for what was cut off."""
    call = Call()
    call.say("goodbye and thank you", 3000)
    call.hang_up()
    call.wait(1200)
    interrupt(call.caller)
    assert call.told() == ["starts", "goodbye…", "interrupted", "end done"]


def test_an_agent_that_is_quiet_cannot_be_interrupted() -> None:
    """There is nothing to clear, and the interruption goes on."""
    call = Call()
    call.say("one", 100)
    call.wait(1000)
    interrupt(call.caller)
    assert call.wire.clears == 0
    assert call.told() == ["starts", "one", "stops"]
    assert call.behind.seen[-1] == Interruption(1)


@pytest.mark.parametrize("piece_ms", [20, 100, 1000])
def test_an_interruption_by_the_first_frame_lets_no_frame_out(piece_ms: int) -> None:
    """Though the rest of the piece is in hand; start and stop are told in this order."""
    call = Call(Marks.TWILIO)
    call.caller.speaks = True
    call.say("hello", 1000, piece_ms=piece_ms)
    call.wait(1000)
    assert call.wire.sent == []
    assert call.told() == ["starts", "interrupted"]
    assert call.told_before() == ["BotStartedSpeaking", "BotStoppedSpeaking"]
    assert call.wire.marks == []
    call.caller.speaks = False
    call.say("again", 100)
    call.wait(1000)
    assert call.told()[2:] == ["starts", "again", "stops"]


def test_a_line_that_began_and_never_sounded_leaves_nothing_behind() -> None:
    """The end does not wait for it."""
    call = Call()
    call.rig.feed(TtsStarted("never", interruptible=True))
    interrupt(call.caller)
    call.hang_up()
    call.wait(100)
    assert call.told() == ["end done"]


def test_a_stop_that_comes_after_its_line_was_cut_off_stops_nothing() -> None:
    """Nor does it end the line that came after."""
    call = Call()
    call.say("one", 1000)
    interrupt(call.caller)
    call.rig.feed(TtsStopped())
    call.wait(100)
    assert call.told() == ["starts", "interrupted"]


def test_what_a_tone_had_left_is_cleared_too() -> None:
    """No line, no turn, and the far end forgets it."""
    call = Call()
    call.rig.feed(OutputAudio(0, tone(1000), RATE))
    call.wait(100)
    interrupt(call.caller)
    assert call.rig.out(PlayoutCleared) == [PlayoutCleared(100)]
    assert call.told() == []
    call.wait(2000)
    assert len(call.wire.sent) == 17


def test_cancel_tells_what_had_been_heard_by_then() -> None:
    """So the transcript has it; nothing that waits is played, and End no longer comes."""
    call = Call()
    call.say("aaaa bbbb cccc dddd", 4000)
    call.hang_up()
    call.wait(2000)
    call.rig.feed(Cancel("caller_hung_up"))
    assert call.told() == ["starts", "aaaa bbbb…", "interrupted"]
    assert names(call.behind.seen[-4:]) == [
        "PlayoutCleared",
        "LineHeard",
        "BotStoppedSpeaking",
        "Cancel",
    ]
    call.wait(5000)
    assert call.told()[3:] == []


# --- bounds --------------------------------------------------------------------------------------


def test_an_agent_that_says_more_than_the_queue_holds_is_cut_and_told_of_once() -> None:
    """The line being made is cut; what fits is said to its end."""
    call = Call(options=PlayoutOptions(lead_ms=LEAD_MS, queue_seconds=1))
    call.say("long", 5000)
    call.say("longer", 5000)
    call.hang_up()
    assert call.rig.back(Failure) == [
        Failure("playout", "the agent says more than the queue holds")
    ]
    call.wait(3000)
    assert call.told() == ["starts", "long", "stops", "end done"]
    assert len(call.wire.sent) == LEAD_MS // 20 + 50
    assert len(call.scope.wakes) == 0


STEPS = st.lists(
    st.one_of(
        st.sampled_from(["start", "start held", "stop", "end", "interrupt", "mark", "speaks"]),
        st.tuples(st.just("sound"), st.integers(1, 2000)),
        st.tuples(st.just("tone"), st.integers(1, 500)),
        st.tuples(st.just("wait"), st.integers(0, 2500)),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(STEPS, st.sampled_from(ALL_MARKS), st.sampled_from([0.0, 0.05, 0.7]))
def test_whatever_comes_the_truth_holds(
    steps: Sequence[str | tuple[str, int]], marks: Marks, latency: float
) -> None:
    """Bounds, order, one place on media time for each frame, each line once, turns in pairs, an end."""
    options = PlayoutOptions(lead_ms=LEAD_MS, queue_seconds=2)
    call = Call(marks, latency, options)
    lines: list[str] = []
    for step in steps:
        _step(call, step, lines)
        assert call.playout._backlog.size <= 100 + 4
        assert len(call.scope.wakes) <= 3 + len(call.wire.marks)
    call.caller.speaks = False
    call.rig.feed(TtsStopped())
    call.hang_up()
    call.wait(3 * MARK_GRACE_MS + 5000)

    assert len(call.rig.out(End)) >= 1
    assert [frame.pcm for frame in call.rig.out(SentAudio)] == call.wire.sent
    _lies_on_media_time(call.behind.seen)
    heard = call.rig.out(LineHeard)
    assert call.rig.back(LineHeard) == heard
    places = [lines.index(line.text.split()[0]) for line in heard if line.text]
    assert places == sorted(set(places)), "a line was told twice, or out of order"
    turns = names(call.rig.out(BotStartedSpeaking, BotStoppedSpeaking))
    assert turns.count("BotStoppedSpeaking") <= turns.count("BotStartedSpeaking")
    assert not turns or turns[-1] == "BotStoppedSpeaking"
    assert len(call.scope.wakes) == 0


def _step(call: Call, step: str | tuple[str, int], lines: list[str]) -> None:
    match step:
        case "start" | "start held":
            lines.append(f"line{len(lines)}")
            text = f"{lines[-1]} has some words"
            call.rig.feed(TtsStarted(text, interruptible=step == "start"))
        case "stop":
            call.rig.feed(TtsStopped())
        case "end":
            call.hang_up()
        case "interrupt":
            interrupt(call.caller)
        case "mark":
            call.rig.feed(MarkPlayed(f"line-{len(call.wire.marks)}"))
        case "speaks":
            call.caller.speaks = not call.caller.speaks
        case ("sound", ms):
            call.sound(int(ms))
        case ("tone", ms):
            call.rig.feed(OutputAudio(call.rig.chain.epoch, tone(int(ms)), RATE))
        case ("wait", ms):
            call.wait(int(ms))


def _lies_on_media_time(seen: Sequence[Frame]) -> None:
    end_ms = 0
    for frame in seen:
        if isinstance(frame, SentAudio):
            assert frame.media_ms >= end_ms, "it overlaps what was sent before"
            end_ms = frame.media_ms + 20
        elif isinstance(frame, PlayoutCleared):
            assert frame.media_ms <= end_ms
            end_ms = frame.media_ms


@pytest.mark.parametrize("marks", ALL_MARKS)
def test_how_far_a_line_was_heard_can_be_asked_and_changes_nothing(marks: Marks) -> None:
    """The words so far, then more of them; the line is heard to its end all the same."""
    asked, other = Call(marks, 0.05), Call(marks, 0.05)
    line = "one two three four five six"
    for call in (asked, other):
        call.say(line, 3000)
    assert asked.playout.under_way() == []
    for call in (asked, other):
        call.wait(1500)
    (half,) = asked.playout.under_way()
    assert line.startswith(half.text)
    assert 1 <= len(half.text.split()) <= 4
    assert not half.complete
    for call in (asked, other):
        call.wait(6000)
    assert asked.playout.under_way() == []
    assert asked.told() == other.told()
    assert asked.wire.pieces == other.wire.pieces
    assert f"{line}" in asked.told()
