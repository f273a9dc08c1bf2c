"""Hear: utterances to a recogniser, words back, whatever the recogniser does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.frames import (
    Expect,
    Failure,
    InputAudio,
    InterimTranscription,
    Start,
    Transcription,
    UserStartedSpeaking,
    UserStoppedSpeaking,
    VadUserStartedSpeaking,
    VadUserStoppedSpeaking,
)
from flowcatd.options import Turns as TurnsOptions
from flowcatd.processors.hear import ANSWER_SECONDS, ONSET_MS, PENDING, Hear
from flowcatd.processors.vad import START_WINDOW
from flowcatd.services import Failed, Final, Hearing, Partial, SttEvent, Usage
from tests.builders import Rig, ScriptedEar, VirtualScope, at_once

RATE = 16_000
"""The recogniser's own, so that what it is given can be compared sample for sample."""

OPTIONS = TurnsOptions(start_ms=60, stop_ms=200, barge_in_ms=240, pre_roll_ms=100)
ANSWER = 0.3


class Call:
    """A caller and a recogniser."""

    def __init__(self, *answers: SttEvent, rate_hz: int = RATE, ear: bool = True) -> None:
        self.scope = VirtualScope()
        self.usage = Usage()
        self.ear = ScriptedEar(self.scope, answers, ANSWER)
        self.hear = Hear(OPTIONS, self.usage)
        self.ear.tell = self.hear.on_event
        self.hear.use(self.ear if ear else None)
        self.rig = Rig([self.hear], self.scope)
        self.rate_hz = rate_hz
        self.frames: list[bytes] = []
        self.rig.feed(Start(rate_hz))

    def audio(self, frames: int) -> None:
        """Frames that can be told apart."""
        for _ in range(frames):
            number = len(self.frames)
            pcm = (number % 30_000).to_bytes(2, "little") * (self.rate_hz // 50)
            self.rig.feed(InputAudio(pcm, self.rate_hz, 20 * number))
            self.frames.append(pcm)
            self.scope.pass_for(0.02)

    def begins(self, start_ms: int = 60) -> None:
        """The caller's turn."""
        self.rig.feed(UserStartedSpeaking(start_ms))

    def ends(self, stop_ms: int = 200) -> None:
        """Its end."""
        self.rig.feed(UserStoppedSpeaking(stop_ms))

    def says(self, frames: int) -> None:
        """A whole turn."""
        self.begins()
        self.audio(frames)
        self.ends()

    def words(self) -> list[Transcription]:
        """What came of it."""
        return self.rig.out(Transcription)


def test_an_utterance_is_heard_from_its_pre_roll_to_its_end_without_hole_or_repeat() -> None:
    """Every sample once, in order."""
    call = Call(Final("yes", 0.9, 1.5))
    call.audio(50)
    call.says(30)
    assert call.ear.heard == [b"".join(call.frames[50 - 8 : 80])]


def test_a_second_utterance_begins_after_the_first() -> None:
    """No sample is heard in both, however soon it begins."""
    call = Call(Final("a"), Final("b"))
    call.audio(20)
    call.says(10)
    call.audio(2)
    call.says(10)
    first, second = call.ear.heard
    assert first + second == b"".join(call.frames[20 - 8 :])


def test_an_utterance_at_the_calls_rate_is_resampled_to_the_recognisers() -> None:
    """Each from silence, not from the end of the one before."""
    call = Call(Final("a"), Final("b"), rate_hz=8000)
    call.audio(20)
    call.says(10)
    call.says(10)
    assert 15 * 640 <= len(call.ear.heard[0]) <= 18 * 640
    assert 9 * 640 <= len(call.ear.heard[1]) <= 10 * 640


def test_words_come_with_their_place_on_media_time() -> None:
    """And with what the recogniser thinks of them."""
    call = Call(Final("yes", 0.9, 1.5))
    call.audio(50)
    call.says(30)
    call.scope.pass_for(ANSWER)
    assert call.words() == [Transcription(0, "yes", 0.9, 940, 1400)]
    assert (call.usage.stt_utterances, call.usage.stt_audio_seconds) == (1, 1.5)


def test_a_rejection_is_an_empty_transcription() -> None:
    """Speech that nobody expected."""
    call = Call(Final(""))
    call.says(30)
    call.scope.pass_for(ANSWER)
    assert [words.text for words in call.words()] == [""]
    assert call.rig.back(Failure) == []


def test_a_failure_is_told_and_answered_with_an_empty_transcription() -> None:
    """So the brain asks again, and the caller is not left in silence."""
    call = Call(Failed("overloaded"))
    call.says(30)
    call.scope.pass_for(ANSWER)
    assert [(words.text, words.confidence) for words in call.words()] == [("", 0.0)]
    assert call.rig.back(Failure) == [Failure("hear", "overloaded")]
    assert call.usage.stt_failures == 1


def test_a_failure_while_the_caller_speaks_ends_that_utterance_only() -> None:
    """One answer for it, none again at its end, and the next is heard."""
    call = Call(Final("next"))
    call.begins()
    call.audio(10)
    call.ear.say(Failed("gone"))
    call.audio(10)
    call.ends()
    assert [words.text for words in call.words()] == [""]
    assert call.ear.heard == []
    call.scope.pass_for(ANSWER_SECONDS)
    call.says(10)
    call.scope.pass_for(ANSWER)
    assert [words.text for words in call.words()] == ["", "next"]


def test_a_failure_about_nothing_that_was_said_asks_nobody_again() -> None:
    """It is told, and the caller did not speak."""
    call = Call()
    call.ear.say(Failed("restarted"))
    assert call.rig.back(Failure) == [Failure("hear", "restarted")]
    assert call.words() == []


def test_a_recogniser_that_never_answers_is_taken_for_dead_once() -> None:
    """And what it says after that is too late."""
    call = Call()
    call.says(10)
    call.scope.pass_for(ANSWER_SECONDS - 0.01)
    assert call.words() == []
    call.scope.pass_for(0.02)
    assert [words.text for words in call.words()] == [""]
    call.ear.say(Final("too late"))
    assert [words.text for words in call.words()] == [""]
    assert len(call.rig.back(Failure)) == 1


def test_words_that_come_while_the_caller_speaks_again_are_those_of_before() -> None:
    """The second utterance is heard to its end, and each has its own place."""
    call = Call(Final("first"), Final("second"))
    call.audio(10)
    call.says(20)
    call.begins()
    call.audio(30)
    assert [words.text for words in call.words()] == ["first"]
    assert call.ear.is_open
    call.ends()
    call.scope.pass_for(ANSWER)
    first, second = call.words()
    assert (first.text, second.text) == ("first", "second")
    assert first.end_ms <= second.start_ms < second.end_ms


def test_a_turn_that_begins_twice_is_one_utterance() -> None:
    """The recogniser drops what it had; one answer comes."""
    call = Call(Final("words"), Final("none"))
    call.begins()
    call.audio(10)
    call.says(10)
    call.scope.pass_for(ANSWER_SECONDS)
    assert (call.ear.dropped, len(call.ear.heard)) == (1, 1)
    assert [words.text for words in call.words()] == ["words"]


def test_a_turn_that_ends_without_having_begun_asks_for_nothing() -> None:
    """There is no utterance to end."""
    call = Call(Final("none"))
    call.ends()
    call.scope.pass_for(ANSWER_SECONDS)
    assert (call.words(), call.usage.stt_utterances) == ([], 0)


def test_partial_words_are_passed_on_as_such() -> None:
    """With the epoch they belong to."""
    call = Call()
    call.begins()
    call.ear.say(Partial("ye"))
    assert call.rig.out(InterimTranscription) == [InterimTranscription(0, "ye")]


@pytest.mark.parametrize(("hints", "expected"), [("", ()), ("yes\nno", ("yes", "no"))])
def test_what_may_be_said_reaches_the_recogniser_and_goes_no_further(
    hints: str, expected: tuple[str, ...]
) -> None:
    """It is meant for nobody else."""
    call = Call()
    call.rig.feed_up(Expect("<utterance> = yes;", hints, "de-DE"))
    assert call.ear.hearings == [Hearing("<utterance> = yes;", expected, "de-DE")]
    assert call.rig.back(Expect) == []


def test_without_a_recogniser_everything_passes() -> None:
    """A keypad call."""
    call = Call(ear=False)
    call.rig.feed_up(Expect("", "", "en-US"))
    call.says(10)
    call.scope.pass_for(ANSWER_SECONDS)
    at_once(call.hear.close())
    assert call.words() == []
    assert len(call.rig.out(InputAudio)) == 10


def test_closing_gives_the_recogniser_back() -> None:
    """It tells nothing afterwards."""
    call = Call()
    at_once(call.hear.close())
    assert call.ear.closed


def test_utterances_awaiting_their_words_are_bounded() -> None:
    """The oldest is taken for unanswered."""
    call = Call()
    for _ in range(PENDING + 3):
        call.begins()
        call.ends()
    assert len(call.words()) == 3
    call.scope.pass_for(ANSWER_SECONDS)
    assert len(call.words()) == PENDING + 3
    assert len(call.scope.wakes) == 0


@given(
    st.lists(st.sampled_from(["begins", "audio", "ends", "wait"]), max_size=60),
    st.lists(st.sampled_from([Final("words"), Final(""), Failed("no"), None]), max_size=20),
)
def test_every_utterance_that_ended_gives_one_transcription(
    steps: list[str], answers: list[SttEvent | None]
) -> None:
    """In order, whatever the recogniser answers, in time or not at all; audio always passes."""
    upto = answers.index(None) if None in answers else len(answers)
    call = Call(*[answer for answer in answers[:upto] if answer is not None])
    for step in steps:
        if step == "audio":
            call.audio(7)
        elif step == "wait":
            call.scope.pass_for(ANSWER)
        else:
            getattr(call, step)()
    call.scope.pass_for(ANSWER_SECONDS)
    words = call.words()
    assert len(words) == len(call.ear.heard) == call.usage.stt_utterances
    assert all(word.start_ms <= word.end_ms for word in words)
    assert [word.start_ms for word in words] == sorted(word.start_ms for word in words)
    assert [frame.pcm for frame in call.rig.out(InputAudio)] == call.frames
    assert len(call.scope.wakes) == 0


def test_a_quiet_caller_is_kept_no_longer_than_a_beginning_needs() -> None:
    """The pre-roll and what voice activity takes to notice; a barge-in's doubt only once there is one."""
    call = Call()
    call.audio(100)
    quiet = (OPTIONS.pre_roll_ms + ONSET_MS) // 20
    assert len(call.hear._latest) == quiet
    call.rig.feed(VadUserStartedSpeaking(160))
    call.audio(100)
    assert len(call.hear._latest) == quiet + OPTIONS.barge_in_ms // 20
    call.rig.feed(VadUserStoppedSpeaking(200))
    call.audio(1)
    assert len(call.hear._latest) == quiet


def test_a_barge_in_is_heard_from_its_first_sound() -> None:
    """However long it was doubted: from the pre-roll before the voice began."""
    call = Call(Final("stop", 0.9, 1.5))
    call.audio(50)
    call.rig.feed(VadUserStartedSpeaking(ONSET_MS))
    call.audio(OPTIONS.barge_in_ms // 20)
    call.begins(ONSET_MS + OPTIONS.barge_in_ms)
    call.audio(10)
    call.ends()
    first = 50 - (OPTIONS.pre_roll_ms + ONSET_MS) // 20
    assert call.ear.heard == [b"".join(call.frames[first:])]


def test_voice_activity_notices_within_what_is_kept_for_it() -> None:
    """The two rooms do not know each other, so their figures are compared here."""
    assert ONSET_MS == START_WINDOW * 20
