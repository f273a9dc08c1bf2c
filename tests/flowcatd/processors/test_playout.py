"""Playout: pacing, what is told of what was heard, and the end; far ends in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.frames import (
    End,
    LineHeard,
    MarkPlayed,
    OutputAudio,
    OutputDtmf,
    SentAudio,
    TtsAudio,
    TtsStarted,
    TtsStopped,
)
from flowcatd.playout import MARK_GRACE_MS
from tests.builders import (
    FRAME,
    RATE,
    Marks,
    tone,
)
from tests.flowcatd.processors.playing import ALL_MARKS, LEAD_MS, Call

# --- pacing --------------------------------------------------------------------------------------


def test_with_nothing_waiting_a_frame_leaves_in_the_call_that_brought_it() -> None:
    """The same object, and no timer is set: an echo costs none."""
    call = Call()
    pcm = tone(20)
    call.rig.feed(OutputAudio(0, pcm, RATE))
    assert call.wire.sent == [pcm]
    assert call.wire.sent[0] is pcm
    assert call.rig.out(SentAudio) == [SentAudio(pcm, RATE, 0)]
    assert len(call.scope.wakes) == 0


def test_what_is_beyond_the_lead_waits_and_leaves_in_time() -> None:
    """The far end never runs dry and never holds more than the lead."""
    call = Call()
    call.say("hello", 2000)
    assert len(call.wire.sent) == LEAD_MS // 20
    for _ in range(200):
        call.wait(10)
        ahead = call.wire.pieces[-1].end - call.scope.now()
        assert ahead <= LEAD_MS / 1000 + 0.02 + 1e-6
    assert b"".join(call.wire.sent) == tone(2000)
    assert call.holes() == []


@pytest.mark.parametrize("marks", ALL_MARKS)
def test_a_line_that_follows_leaves_no_hole_whatever_marks_do(marks: Marks) -> None:
    """The wait for the mark of the line before holds no audio up."""
    call = Call(marks, latency=0.3)
    call.say("one", 1000)
    call.wait(800)
    call.rig.feed(TtsStarted("two", interruptible=True))
    call.sound(3000)
    call.rig.feed(TtsStopped())
    call.wait(5000)
    assert call.holes() == []
    assert len(call.wire.sent) == 200


@given(st.lists(st.integers(1, 700), min_size=1, max_size=20))
def test_pieces_of_any_size_become_whole_frames(sizes: list[int]) -> None:
    """The last one filled up with silence; not a byte is lost or doubled."""
    call = Call()
    call.rig.feed(TtsStarted("x", interruptible=True))
    sound = bytes(index % 251 for index in range(2 * sum(sizes)))
    at = 0
    for size in sizes:
        call.rig.feed(TtsAudio(0, sound[at : at + 2 * size], RATE))
        at += 2 * size
    call.rig.feed(TtsStopped())
    call.wait(2000)
    assert all(len(pcm) == FRAME for pcm in call.wire.sent)
    assert b"".join(call.wire.sent) == sound.ljust(len(call.wire.sent) * FRAME, b"\0")


# --- what is told --------------------------------------------------------------------------------


@pytest.mark.parametrize("marks", ALL_MARKS)
@pytest.mark.parametrize("latency", [0.0, 0.4])
def test_a_line_is_told_when_it_begins_when_it_was_heard_and_when_all_is_quiet(
    marks: Marks, latency: float
) -> None:
    """Once each, both ways, whatever the far end does with marks."""
    call = Call(marks, latency)
    call.say("hello", 500)
    assert call.told() == ["starts"]
    call.wait(400)
    assert call.told() == ["starts"]
    call.wait(2500)
    assert call.told() == ["starts", "hello", "stops"]
    assert call.told_before() == ["BotStartedSpeaking", "LineHeard", "BotStoppedSpeaking"]
    assert call.rig.out(LineHeard) == [LineHeard("hello", 0, 500, complete=True)]
    assert len(call.scope.wakes) == 0


def test_with_marks_a_line_was_heard_when_its_mark_returns() -> None:
    """Half a second late on a slow line, and not when its time was over."""
    call = Call(Marks.TWILIO, latency=0.25)
    call.say("hello", 500)
    call.wait(980)
    assert call.told() == ["starts"]
    call.wait(40)
    assert call.told() == ["starts", "hello", "stops"]


@pytest.mark.parametrize("marks", ALL_MARKS)
def test_lines_that_follow_each_other_are_one_turn(marks: Marks) -> None:
    """One start, each line once and in order, one stop."""
    call = Call(marks, latency=0.1)
    for text in ("one", "two", "three"):
        call.say(text, 300)
    call.wait(6000)
    assert call.told() == ["starts", "one", "two", "three", "stops"]


def test_a_line_that_comes_later_is_a_turn_of_its_own() -> None:
    """The agent was quiet in between."""
    call = Call()
    call.say("one", 300)
    call.wait(1000)
    call.say("two", 300)
    call.wait(1000)
    assert call.told() == ["starts", "one", "stops", "starts", "two", "stops"]


def test_a_change_of_what_may_be_interrupted_is_told_within_the_turn() -> None:
    """When the first frame of that line leaves."""
    call = Call()
    call.say("one", 300)
    call.say("terms", 300, interruptible=False)
    call.say("two", 300)
    call.wait(2000)
    told = call.told()
    assert [word for word in told if word.startswith("st")] == [
        "starts",
        "starts held",
        "starts",
        "stops",
    ]


def test_a_line_without_a_sound_is_a_turn_all_the_same() -> None:
    """Who waits for the agent to be done goes on."""
    call = Call()
    call.rig.feed(TtsStarted("...", interruptible=True))
    call.rig.feed(TtsStopped(failed=True))
    call.wait(10)
    assert call.told() == ["starts", "stops"]
    assert call.wire.sent == []


def test_between_two_lines_without_a_sound_the_agent_is_not_done() -> None:
    """They come in one turn of the loop: one start, one stop."""
    call = Call()
    for _ in range(2):
        call.rig.feed(TtsStarted("...", interruptible=True))
        call.rig.feed(TtsStopped())
    assert call.told() == ["starts"]
    call.wait(10)
    assert call.told() == ["starts", "stops"]


def test_a_line_is_not_over_while_it_is_being_made() -> None:
    """A voice that pauses leaves a hole and no end."""
    call = Call(Marks.TWILIO)
    call.rig.feed(TtsStarted("one two", interruptible=True))
    call.sound(200)
    call.wait(5000)
    assert call.told() == ["starts"]
    call.sound(200)
    call.rig.feed(TtsStopped())
    call.wait(1000)
    assert call.told() == ["starts", "one two", "stops"]


def test_keys_go_to_the_far_end() -> None:
    """And nowhere else."""
    call = Call()
    call.rig.feed(OutputDtmf(0, "12#"))
    assert call.wire.digits == ["12#"]
    assert call.rig.out(OutputDtmf) == []


def test_marks_of_others_are_no_marks_of_ours() -> None:
    """Whatever a far end makes up."""
    call = Call(Marks.LOST)
    call.say("hello", 500)
    call.rig.feed(MarkPlayed("line-7"))
    call.rig.feed(MarkPlayed(""))
    assert call.told() == ["starts"]


# --- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("marks", ALL_MARKS)
def test_the_end_comes_when_all_of_it_was_heard(marks: Marks) -> None:
    """Behind every line, and after the agent has stopped."""
    call = Call(marks, latency=0.1)
    call.say("one", 500)
    call.say("bye", 500)
    call.hang_up()
    call.wait(990)
    assert call.rig.out(End) == []
    call.wait(2 * MARK_GRACE_MS + 500)
    assert call.told() == ["starts", "one", "bye", "stops", "end done"]
    assert len(call.scope.wakes) == 0


def test_a_mark_that_never_returns_delays_the_end_by_its_grace() -> None:
    """And no longer."""
    call = Call(Marks.LOST)
    call.say("bye", 500)
    call.hang_up()
    call.wait(500 + MARK_GRACE_MS - 10)
    assert call.rig.out(End) == []
    call.wait(20)
    assert call.rig.out(End) == [End("done")]


def test_with_nothing_to_say_the_end_comes_at_once() -> None:
    """And only once, however often it is said."""
    call = Call()
    call.hang_up()
    assert call.rig.out(End) == [End("done")]


def test_the_first_end_is_the_one_that_waits() -> None:
    """What comes behind it is never heard."""
    call = Call()
    call.say("bye", 500)
    call.hang_up()
    call.rig.feed(End("again"))
    call.say("and another thing", 500)
    call.wait(3000)
    assert call.told() == ["starts", "bye", "stops", "end done"]
    assert len(call.wire.sent) == 25


def test_a_line_that_begins_within_another_ends_it() -> None:
    """Whoever forgot to."""
    call = Call(Marks.TWILIO)
    call.rig.feed(TtsStarted("one", interruptible=True))
    call.sound(200)
    call.say("two", 200)
    call.hang_up()
    call.wait(1000)
    assert call.told() == ["starts", "one", "two", "stops", "end done"]


def test_an_end_within_a_line_ends_the_line() -> None:
    """Whoever forgot to."""
    call = Call()
    call.rig.feed(TtsStarted("bye", interruptible=True))
    call.sound(500)
    call.hang_up()
    call.wait(1000)
    assert call.told() == ["starts", "bye", "stops", "end done"]


def test_the_end_waits_for_audio_that_is_no_line() -> None:
    """A tone is heard to its end too."""
    call = Call()
    call.rig.feed(OutputAudio(0, tone(600), RATE))
    call.hang_up()
    call.wait(590)
    assert call.rig.out(End) == []
    call.wait(20)
    assert call.told() == ["end done"]
