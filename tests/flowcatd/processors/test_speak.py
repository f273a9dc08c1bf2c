"""Speak: lines become audio, one after the other, whatever the voice does; in virtual time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flowcatd.errors import LinkTimeout, LocalError, ProviderError
from flowcatd.frames import (
    Cancel,
    End,
    Failure,
    Frame,
    Interruption,
    LineHeard,
    Start,
    TtsAudio,
    TtsSpeak,
    TtsStarted,
    TtsStopped,
)
from flowcatd.pipeline.chain import interrupt
from flowcatd.pipeline.processor import Processor, down
from flowcatd.processors.speak import (
    FAILURES_IN_A_ROW,
    FIRST_AUDIO_SECONDS,
    LINE_SECONDS,
    LINES,
    Speak,
)
from flowcatd.services import Usage
from tests.builders import LoopScope, Recording, Rig, ScriptedVoice, names, tone

NO = ProviderError("no voice today")


@pytest.fixture
def scope() -> Iterator[LoopScope]:
    """A call with a loop in virtual time."""
    with LoopScope() as made:
        yield made


class Call:
    """A mouth, and what leaves it."""

    def __init__(
        self, scope: LoopScope, voice: ScriptedVoice | None, *, rate_hz: int = 8000
    ) -> None:
        self.scope = scope
        self.usage = Usage()
        self.front = Recording()
        self.speak = Speak(voice, self.usage)
        self.rig = Rig([self.front, self.speak], scope)
        self.rig.feed(Start(rate_hz))

    def say(self, *texts: str, epoch: int = 0) -> None:
        """Lines."""
        for text in texts:
            self.rig.feed(TtsSpeak(epoch, text))

    def lines(self) -> list[str]:
        """What left, but for the audio, in short."""
        short: list[str] = []
        for frame in self.rig.tail:
            match frame:
                case TtsStarted(text):
                    short.append(text)
                case TtsStopped(failed):
                    short.append("failed" if failed else ".")
                case End(reason):
                    short.append(f"end {reason}")
        return short


def test_lines_are_said_one_after_the_other_and_then_the_end(scope: LoopScope) -> None:
    """Each between its start and its stop, and End behind all of them."""
    call = Call(scope, ScriptedVoice({"one": [tone(20), 0.1, tone(40)]}))
    call.say("one", "two")
    call.rig.feed(End("bye"))
    scope.pass_for(1)
    assert names(call.rig.tail[1:]) == [
        "TtsStarted",
        "TtsAudio",
        "TtsAudio",
        "TtsStopped",
        "TtsStarted",
        "TtsAudio",
        "TtsStopped",
        "End",
    ]
    assert call.lines() == ["one", ".", "two", ".", "end bye"]
    assert b"".join(f.pcm for f in call.rig.out(TtsAudio)[:2]) == tone(60)


def test_a_line_is_announced_when_it_is_taken_up(scope: LoopScope) -> None:
    """In the same turn of the loop as the end of the line before: nobody sees a gap."""
    call = Call(scope, ScriptedVoice({"one": [0.5, tone(20)], "two": [0.5, tone(20)]}))
    call.say("one", "two")
    assert call.lines() == ["one"]
    scope.pass_for(0.7)
    assert call.lines() == ["one", ".", "two"]


def test_the_audio_comes_as_it_is_made(scope: LoopScope) -> None:
    """Not when the line is done."""
    call = Call(scope, ScriptedVoice({"one": [tone(20), 2.0, tone(20)]}))
    call.say("one")
    scope.pass_for(1)
    assert len(call.rig.out(TtsAudio)) == 1


def test_a_voice_of_another_rate_is_resampled_to_its_end(scope: LoopScope) -> None:
    """Not a sample is lost."""
    call = Call(scope, ScriptedVoice(), rate_hz=16_000)
    call.say("abcdef")
    scope.pass_for(1)
    audio = call.rig.out(TtsAudio)
    assert {frame.rate_hz for frame in audio} == {16_000}
    assert sum(len(frame.pcm) for frame in audio) == 6 * 60 * 32


def test_without_a_voice_lines_are_silent_and_the_end_comes(scope: LoopScope) -> None:
    """At once."""
    call = Call(scope, None)
    call.say("one", "two")
    call.rig.feed(End("bye"))
    assert call.lines() == ["one", ".", "two", ".", "end bye"]
    assert not call.rig.out(TtsAudio)
    scope.loop.run_until_complete(call.speak.close())


def test_whether_a_line_may_be_interrupted_travels_with_it(scope: LoopScope) -> None:
    """With a voice and without."""
    for voice in (None, ScriptedVoice()):
        call = Call(scope, voice)
        call.rig.feed(TtsSpeak(0, "terms", "", interruptible=False))
        assert call.rig.out(TtsStarted) == [TtsStarted("terms", interruptible=False)]


# --- failures ------------------------------------------------------------------------------------


def test_a_voice_that_fails_costs_its_line_and_the_next_is_tried(scope: LoopScope) -> None:
    """With a problem for the record."""
    call = Call(scope, ScriptedVoice({"one": [tone(20), NO]}))
    call.say("one", "two")
    scope.pass_for(1)
    assert call.lines() == ["one", "failed", "two", "."]
    assert call.rig.back(Failure) == [Failure("speak", "no voice today")]
    assert call.usage.tts_failures == 1


def test_an_agent_that_has_become_mute_ends_the_call(scope: LoopScope) -> None:
    """After so many lines in a row, and no other."""
    script: dict[str, list[bytes | float | Exception]] = {
        "bad": [NO],
        "worse": [LinkTimeout("slow")],
    }
    call = Call(scope, ScriptedVoice(script))
    call.say(*["bad", "worse"] * 2, "good")
    call.say(*["bad"] * (FAILURES_IN_A_ROW - 1), "good")
    scope.pass_for(1)
    ends = call.rig.out(End)
    assert ends == [End("agent_failed")]
    assert call.lines().index("end agent_failed") == 2 * FAILURES_IN_A_ROW


def test_one_line_that_is_said_forgives_the_failures_before_it(scope: LoopScope) -> None:
    """In a row means in a row."""
    call = Call(scope, ScriptedVoice({"bad": [NO]}))
    call.say(*[*["bad"] * (FAILURES_IN_A_ROW - 1), "good"] * 3)
    scope.pass_for(1)
    assert call.rig.out(End) == []
    assert call.usage.tts_failures == 3 * (FAILURES_IN_A_ROW - 1)


def test_a_voice_that_yields_nothing_has_said_its_line(scope: LoopScope) -> None:
    """Silence is no failure: there may be nothing in it that can be said."""
    call = Call(scope, ScriptedVoice({"...": [b""], "": []}))
    call.say("...", "", "two")
    scope.pass_for(1)
    assert call.lines() == ["...", ".", "", ".", "two", "."]
    assert call.rig.back(Failure) == []


@pytest.mark.parametrize("steps", [[60.0, tone(20)], [b"", 60.0, tone(20)]])
def test_a_voice_that_does_not_begin_is_given_up(
    scope: LoopScope, steps: list[bytes | float | Exception]
) -> None:
    """Nothing is no beginning."""
    voice = ScriptedVoice({"one": steps})
    call = Call(scope, voice)
    call.say("one", "two")
    scope.pass_for(FIRST_AUDIO_SECONDS - 0.1)
    assert call.lines() == ["one"]
    scope.pass_for(0.2)
    assert call.lines() == ["one", "failed", "two", "."]
    assert call.rig.back(Failure) == [Failure("speak", "the voice took too long")]
    assert voice.stopped == 1


def test_a_voice_that_drips_is_given_up_when_a_line_has_had_its_time(scope: LoopScope) -> None:
    """Each piece in time is not the line in time."""
    drip: list[bytes | float | Exception] = [tone(20), 4.0] * 1000
    call = Call(scope, ScriptedVoice({"one": drip}))
    call.say("one")
    scope.pass_for(LINE_SECONDS - 1)
    assert call.lines() == ["one"]
    scope.pass_for(2)
    assert call.lines() == ["one", "failed"]


def test_what_nobody_expected_is_the_calls_to_deal_with(scope: LoopScope) -> None:
    """A bug is not taken for a provider's refusal."""
    call = Call(scope, ScriptedVoice({"one": [LocalError("a bug")]}))
    call.say("one")
    with pytest.raises(LocalError, match="a bug"):
        scope.pass_for(1)
    assert call.rig.back(Failure) == []


# --- interruption and the end --------------------------------------------------------------------


def test_an_interruption_stops_the_voice_and_forgets_the_lines(scope: LoopScope) -> None:
    """End stays, behind nothing now, and no stop is told for the line that was cut."""
    voice = ScriptedVoice({"one": [tone(20), 5.0, tone(20)]})
    call = Call(scope, voice)
    call.say("one", "two")
    call.rig.feed(End("bye"))
    scope.pass_for(1)
    interrupt(call.front)
    scope.pass_for(10)
    assert call.lines() == ["one", "end bye"]
    assert names(call.rig.tail[-2:]) == ["Interruption", "End"]
    assert (voice.asked, voice.stopped) == (["one"], 1)


def test_after_an_interruption_lines_of_the_new_epoch_are_said(scope: LoopScope) -> None:
    """And those of the old no more."""
    call = Call(scope, ScriptedVoice({"one": [tone(20), 5.0]}))
    call.say("one")
    scope.pass_for(1)
    call.speak.epoch.value += 1
    call.rig.feed(Interruption(1))
    call.say("late", epoch=0)
    call.say("new", epoch=1)
    scope.pass_for(10)
    assert call.lines() == ["one", "new", "."]
    assert call.rig.chain.stale == 1


def test_an_interruption_before_the_voice_was_asked_leaves_it_alone(scope: LoopScope) -> None:
    """The line's task is called off before it began."""
    voice = ScriptedVoice()
    call = Call(scope, voice)
    call.say("one")
    interrupt(call.front)
    scope.pass_for(1)
    assert voice.asked == []
    assert call.lines() == ["one"]


class Barging(Processor):
    """Lets the caller take the turn at the first sound, from where turn-taking stands."""

    def __init__(self, turns: Processor) -> None:
        super().__init__()
        self.turns = turns
        self.refused = 0

    @down(TtsAudio)
    def audio(self, frame: TtsAudio) -> None:
        """No."""
        if not self.refused:
            self.refused += 1
            interrupt(self.turns)
        self.push(frame)


def test_an_interruption_from_within_the_first_sound_lets_no_more_of_it_out(
    scope: LoopScope,
) -> None:
    """Though the voice has the rest ready, and the next line is said whole."""
    front, behind = Recording(), Recording()
    voice = ScriptedVoice({"one": [tone(20)] * 5, "two": [tone(40)]})
    usage = Usage()
    rig = Rig([front, Speak(voice, usage), Barging(front), behind], scope)
    rig.feed(Start(8000))
    rig.feed(TtsSpeak(0, "one"))
    scope.pass_for(1)
    rig.feed(TtsSpeak(1, "two"))
    scope.pass_for(1)
    assert [f.pcm for f in behind.seen if isinstance(f, TtsAudio)] == [tone(40)]
    assert names(rig.out(TtsStarted, TtsStopped)) == ["TtsStarted", "TtsStarted", "TtsStopped"]
    assert usage.tts_failures == 0


def test_cancel_stops_the_voice_and_nothing_that_waits_is_said(scope: LoopScope) -> None:
    """Not even End."""
    voice = ScriptedVoice({"one": [tone(20), 5.0, tone(20)]})
    call = Call(scope, voice)
    call.say("one", "two")
    call.rig.feed(End("bye"))
    scope.pass_for(1)
    call.rig.feed(Cancel("caller_hung_up"))
    scope.pass_for(10)
    assert call.lines() == ["one"]
    assert (voice.asked, voice.stopped) == (["one"], 1)
    assert not scope.tasks


# --- bounds and figures --------------------------------------------------------------------------


def test_more_lines_than_the_queue_holds_lose_the_oldest_and_never_the_end(
    scope: LoopScope,
) -> None:
    """Each loss is told."""
    call = Call(scope, ScriptedVoice({"first": [0.5, tone(20)]}))
    call.say("first", *[f"line {index}" for index in range(LINES)])
    call.rig.feed(End("bye"))
    scope.pass_for(1)
    said = [frame.text for frame in call.rig.out(TtsStarted)]
    assert said == ["first", *[f"line {index}" for index in range(1, LINES)]]
    assert call.lines()[-1] == "end bye"
    assert len(call.rig.back(Failure)) == 1


def test_usage_counts_what_was_asked_for_and_what_was_heard(scope: LoopScope) -> None:
    """Characters of lines taken up, seconds of lines heard."""
    call = Call(scope, ScriptedVoice())
    call.say("four", "fives")
    scope.pass_for(1)
    heard: list[Frame] = [
        LineHeard("four", 0, 1500, complete=True),
        LineHeard("f", 1500, 2000, complete=False),
    ]
    for frame in heard:
        call.rig.feed_up(frame)
    assert (call.usage.tts_characters, call.usage.tts_audio_seconds) == (9, 2.0)
    assert call.rig.back(LineHeard) == heard


def test_closing_gives_the_voice_back(scope: LoopScope) -> None:
    """Once."""
    voice = ScriptedVoice()
    call = Call(scope, voice)
    scope.loop.run_until_complete(call.speak.close())
    assert voice.closed
