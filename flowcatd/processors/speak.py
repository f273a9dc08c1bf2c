"""Speak: lines become audio, one after the other, as they are made.

Lines, Transfer and End wait in one queue, so what was to be said is said before the end. The line being
spoken has a task of its own, which pushes the audio as it is made, and TtsStopped; TtsStarted goes
ahead of it in the same turn of the loop, so that between two lines nobody takes the agent for done.
An interruption ends that task and drops the lines of the old epoch.

Synthesisers begin with up to 300 ms of silence, which a caller who waits for an answer hears as
slowness: all but 20 ms of it is left out (`audio/lead.py`). A line out of the worker's cache is past
that and has the call's rate: its one object goes on as it is.

A voice that fails costs its line, not the call: a Failure is reported and the next line is tried.
After FAILURES_IN_A_ROW the agent is mute and the call ends with that reason.

`part` is the last word of a call that the daemon ends: it takes the place of all that is being said,
may not be interrupted, and after it nobody else is heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from flowcatd.audio.lead import Lead
from flowcatd.audio.resample import Resampler
from flowcatd.errors import LinkError, ProviderError
from flowcatd.frames import (
    Cancel,
    End,
    Failure,
    Interruption,
    LineHeard,
    Start,
    Transfer,
    TtsAudio,
    TtsSpeak,
    TtsStarted,
    TtsStopped,
)
from flowcatd.pipeline.chain import interrupt
from flowcatd.pipeline.processor import Processor, down, up
from flowcatd.pipeline.queue import FrameQueue
from flowcatd.pipeline.scope import Cancellable
from flowcatd.services import Usage, Voice

LINES = 32
"""Lines waiting; a brain that says more at once loses the oldest."""

FAILURES_IN_A_ROW = 3

FIRST_AUDIO_SECONDS = 5.0
"""A voice that has not begun by then is not coming."""

LINE_SECONDS = 60.0
"""A voice that is not done with one line by then is stuck."""


def _no_other_voice(_name: str) -> Voice | None:
    return None


class Speak(Processor):
    """The call's mouth."""

    def __init__(
        self,
        voice: Voice | None,
        usage: Usage,
        find_voice: Callable[[str], Voice | None] = _no_other_voice,
    ) -> None:
        """`voice` says every line that names no other; `find_voice` gives those that do."""
        super().__init__()
        self._voice = voice
        self._usage = usage
        self._find_voice = find_voice
        self._others: dict[str, Voice] = {}
        self._queue = FrameQueue(LINES)
        self._line: Cancellable | None = None
        self._current: TtsSpeak | None = None
        self._rate_hz = 0
        self._failures = 0
        self._ending = False  # End has come: no line can follow it

    @down(Start)
    def start(self, frame: Start) -> None:
        """The rate is known."""
        self._rate_hz = frame.rate_hz
        self.push(frame)

    @down(TtsSpeak, Transfer, End)
    def queue(self, frame: TtsSpeak | Transfer | End) -> None:
        """Say it when what came before has been said."""
        if self._ending:
            return
        self._ending = isinstance(frame, End)
        if self._queue.put(frame) is not None:
            self.push_up(Failure("speak", "more lines at once than the queue holds"))
        self._next()

    def part(self, text: str, reason: str) -> None:
        """Say this line instead of everything else, then End; nothing when the end is near anyway."""
        if self._ending:
            return
        self._ending = True
        self._queue = FrameQueue(LINES)
        self._hush()
        interrupt(self)
        self._queue.put(TtsSpeak(self.epoch.value, text, interruptible=False))
        self._queue.put(End(reason))
        self._next()

    @down(Interruption)
    def interruption(self, frame: Interruption) -> None:
        """Stop saying, and forget what was to be said."""
        self._queue.interrupt(frame.epoch)
        self._hush()
        self.push(frame)
        self._next()

    @down(Cancel)
    def cancel(self, frame: Cancel) -> None:
        """The call is over: nothing that waits is said."""
        self._queue = FrameQueue(LINES)
        self._hush()
        self.push(frame)

    @up(LineHeard)
    def heard(self, frame: LineHeard) -> None:
        """A line was heard, to its end or not: usage counts what sounded."""
        self._usage.tts_audio_seconds += (frame.end_ms - frame.start_ms) / 1000
        self.push_up(frame)

    async def close(self) -> None:
        """Give the voices back."""
        for voice in (self._voice, *self._others.values()):
            if voice is not None:
                await voice.close()

    def _next(self) -> None:
        while self._line is None:
            frame = self._queue.take()
            if frame is None:
                return
            if not isinstance(frame, TtsSpeak):
                self.push(frame)
            elif (voice := self._voice_of(frame)) is None:
                self.push(TtsStarted(frame.text, frame.interruptible))
                self.push(TtsStopped())
            else:
                self._current = frame
                self._usage.tts_characters += len(frame.text)
                self._line = self.scope.spawn(self._speak(frame, voice), "speak.line")
                self.push(TtsStarted(frame.text, frame.interruptible))

    def _voice_of(self, line: TtsSpeak) -> Voice | None:
        """The voice that a line names; where there is no such, the usual one says it."""
        if not line.voice or self._voice is None:
            return self._voice
        voice = self._others.get(line.voice) or self._find_voice(line.voice)
        if voice is None:
            self.push_up(Failure("speak", "a line names a voice that there is not"))
            return self._voice
        self._others[line.voice] = voice
        return voice

    def _hush(self) -> None:
        self._current = None
        if self._line is not None:
            self._line.cancel()
            self._line = None

    async def _speak(self, line: TtsSpeak, voice: Voice) -> None:
        failed = ""
        try:
            await self._say(line, voice)
        except (LinkError, ProviderError, TimeoutError) as error:
            failed = str(error) or "the voice took too long"
        if self._current is not line:
            return  # an interruption came between the last piece and here
        self._current = self._line = None
        self.push(TtsStopped(bool(failed)))
        self._settle(failed)
        self._next()

    async def _say(self, line: TtsSpeak, voice: Voice) -> None:
        lead = Lead(voice.rate_hz)
        resampler = Resampler(voice.rate_hz, self._rate_hz)
        pieces = voice.speak(line.text)
        latest = asyncio.get_running_loop().time() + LINE_SECONDS
        async with asyncio.timeout(FIRST_AUDIO_SECONDS) as deadline, aclosing(pieces):
            async for pcm in pieces:
                if pcm:
                    deadline.reschedule(latest)
                self._push_audio(line.epoch, resampler.push(lead.push(pcm)))
            self._push_audio(line.epoch, resampler.flush())

    def _push_audio(self, epoch: int, pcm: bytes) -> None:
        if pcm:
            self.push(TtsAudio(epoch, pcm, self._rate_hz))

    def _settle(self, failed: str) -> None:
        if not failed:
            self._failures = 0
            return
        self._failures += 1
        self._usage.tts_failures += 1
        self.push_up(Failure("speak", failed))
        if self._failures == FAILURES_IN_A_ROW:
            self.push(End("agent_failed"))
