"""Hear: the caller's turn goes to a recogniser, and comes back as words.

The latest audio is kept while nobody speaks, so that an utterance begins before turn-taking
noticed it and "yes" survives: from the first sound that voice activity reports until the turn is
the caller's, as much more as that may take. Between UserStartedSpeaking and UserStoppedSpeaking frames are
resampled to what the recogniser wants and handed over as they come, so that little is left to do
when the caller falls silent. One utterance gives one Transcription; empty text is speech that was
rejected. A recogniser that fails is a Failure and an empty Transcription: the brain then asks
again, and the caller is not left in silence.

A caller may go on before the words of their last utterance are there: answers come in the order in
which utterances ended, and each belongs to the oldest that still waits for one.

What may be said comes from the brain as Expect and holds from the next utterance on.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowcatd.audio.resample import Resampler
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
from flowcatd.media import PTIME_MS
from flowcatd.options import Turns as TurnsOptions
from flowcatd.pipeline.processor import Processor, down, up
from flowcatd.pipeline.scope import Cancellable
from flowcatd.services import Failed, Final, Hearing, Partial, SpeechToText, SttEvent, Usage

ANSWER_SECONDS = 8.0
"""After this long without a Final the recogniser is taken for dead; a loaded one needs 1."""

ONSET_MS = 160
"""What voice activity may take to notice speech at the usual settings: its window of 8 frames."""

PENDING = 8
"""Utterances awaiting their words; beyond it the oldest is taken for unanswered."""


@dataclass(frozen=True, slots=True)
class Ended:
    """An utterance that awaits its words."""

    start_ms: int
    end_ms: int
    deadline: Cancellable


class Hear(Processor):
    """The call's ear."""

    def __init__(self, options: TurnsOptions, usage: Usage) -> None:
        super().__init__()
        self._stt: SpeechToText | None = None
        self._usage = usage
        self._pre_roll_ms = options.pre_roll_ms
        onset_ms = max(ONSET_MS, options.start_ms * 3 // 2)
        self._quiet_frames = max(1, (options.pre_roll_ms + onset_ms) // PTIME_MS)
        self._voiced_frames = self._quiet_frames + options.barge_in_ms // PTIME_MS
        self._most = self._quiet_frames
        self._latest: list[InputAudio] = []  # `_most` at most
        self._resampler: Resampler | None = None
        self._open = False
        self._start_ms = 0
        self._media_ms = 0
        self._pending: list[Ended] = []  # few; an empty deque takes 760 bytes

    def use(self, stt: SpeechToText | None) -> None:
        """The recogniser, which wants `on_event` as its callback; None hears nothing."""
        self._stt = stt

    @down(Start)
    def start(self, frame: Start) -> None:
        """The rate is known."""
        if self._stt is not None:
            self._resampler = Resampler(frame.rate_hz, self._stt.rate_hz)
        self.push(frame)

    @up(Expect)
    def expect(self, frame: Expect) -> None:
        """What the caller may sensibly say now."""
        if self._stt is not None:
            hints = tuple(frame.hints.split("\n")) if frame.hints else ()
            self._stt.expect(Hearing(frame.grammar, hints, frame.language))

    @down(InputAudio)
    def audio(self, frame: InputAudio) -> None:
        """Kept for the pre-roll, or handed over."""
        self._media_ms = frame.media_ms + PTIME_MS
        if self._open:
            self._hand_over(frame)
        elif self._stt is not None:
            latest = self._latest
            latest.append(frame)
            if len(latest) > self._most:
                del latest[: -self._most]
        self.push(frame)

    @down(VadUserStartedSpeaking)
    def voice_began(self, frame: VadUserStartedSpeaking) -> None:
        """It may become a turn, and then its beginning is wanted."""
        self._most = self._voiced_frames
        self.push(frame)

    @down(VadUserStoppedSpeaking)
    def voice_ended(self, frame: VadUserStoppedSpeaking) -> None:
        """What comes next is another sound."""
        self._most = self._quiet_frames
        self.push(frame)

    @down(UserStartedSpeaking)
    def turn_began(self, frame: UserStartedSpeaking) -> None:
        """Open an utterance, from a little before the first sound."""
        self._start_ms = max(0, self._media_ms - frame.start_ms)
        if self._stt is not None and self._resampler is not None:
            self._stt.start_utterance()
            self._resampler.reset()
            self._open = True
            earliest = self._start_ms - self._pre_roll_ms
            for kept in self._latest:
                if kept.media_ms >= earliest:
                    self._hand_over(kept)
            self._latest.clear()
        self.push(frame)

    @down(UserStoppedSpeaking)
    def turn_ended(self, frame: UserStoppedSpeaking) -> None:
        """Close the utterance and wait for its words."""
        if self._open and self._stt is not None:
            self._open = False
            if len(self._pending) >= PENDING:
                self._unanswered()
            end_ms = max(self._start_ms, self._media_ms - frame.stop_ms)
            deadline = self.scope.wake(self.scope.now() + ANSWER_SECONDS, self._unanswered)
            self._pending.append(Ended(self._start_ms, end_ms, deadline))
            self._usage.stt_utterances += 1
            self._stt.end_utterance()
        self.push(frame)

    def on_event(self, event: SttEvent) -> None:
        """What the recogniser says."""
        match event:
            case Partial(text):
                self.push(InterimTranscription(self.epoch.value, text))
            case Final(text, confidence, audio_seconds):
                self._usage.stt_audio_seconds += audio_seconds
                self._answered(text, confidence)
            case Failed(reason):
                self._usage.stt_failures += 1
                self.push_up(Failure("hear", reason))
                self._answered("", 0.0)

    async def close(self) -> None:
        """Give the recogniser back."""
        if self._stt is not None:
            await self._stt.close()

    def _hand_over(self, frame: InputAudio) -> None:
        assert self._resampler is not None
        assert self._stt is not None
        pcm = self._resampler.push(frame.pcm)
        if pcm:
            self._stt.push_audio(pcm)

    def _answered(self, text: str, confidence: float) -> None:
        if self._pending:
            ended = self._pending.pop(0)
            ended.deadline.cancel()
            start_ms, end_ms = ended.start_ms, ended.end_ms
        elif self._open:
            self._open = False  # it failed while the caller was still speaking
            start_ms, end_ms = self._start_ms, self._media_ms
        else:
            return  # too late, or about nothing that was said
        self.push(Transcription(self.epoch.value, text, confidence, start_ms, end_ms))

    def _unanswered(self) -> None:
        self.on_event(Failed("no answer from the recogniser"))
