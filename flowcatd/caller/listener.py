"""What a telephone's earpiece plays, and what of it is speech. Pure, counted in samples.

Audio comes in as it is sent (a whole line at once, or 20 ms at a time) and is played at the rate of
a clock: a piece that arrives while another plays waits for it, one that arrives in silence plays at
once. Marks stand in the queue and are reached when all before them has been played. A clear empties
the queue; the marks in it come back at once where the carrier works so (Twilio), else never.

What was played is judged in windows of 10 ms: audible from AUDIBLE on. The first and the last
audible sample are found to the sample, because answer latency is the distance between two of them.
A stretch of speech ends after `quiet_ms` of silence, or at once when a clear throws the rest away.

Positions are samples since the call began; events speak in seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from flowcatd.audio.chunker import Chunker
from flowcatd.audio.level import rms

AUDIBLE = 150
"""-47 dBFS: above line noise and the code noise of G.711, far below any voice on a telephone."""

WINDOW_MS = 10

QUIET_MS = 700
"""Silence after which a person takes it that the other has finished; pauses between sentences of
synthesisers stay below 500 ms."""

QUEUE_SECONDS = 180
"""Audio and marks that may wait to be played: more than the daemon itself would hold back."""

MARKS_LIMIT = 1024
"""Marks that may wait."""


@dataclass(frozen=True, slots=True)
class AgentStarted:
    """The agent became audible at `at`."""

    at: float


@dataclass(frozen=True, slots=True)
class AgentStopped:
    """The agent was audible from `start` to `end`; `cut` if a clear took the rest away."""

    start: float
    end: float
    cut: bool


@dataclass(frozen=True, slots=True)
class MarkReached:
    """Give this mark back."""

    name: str


Heard = AgentStarted | AgentStopped | MarkReached


class Listener:
    """One call's earpiece."""

    def __init__(
        self, rate_hz: int, *, returns_cleared_marks: bool, quiet_ms: int = QUIET_MS
    ) -> None:
        self._rate_hz = rate_hz
        self._returns_cleared_marks = returns_cleared_marks
        self._quiet = rate_hz * quiet_ms // 1000
        self._limit = 2 * rate_hz * QUEUE_SECONDS
        self._queue: deque[bytes | str] = deque()
        self._queued = 0
        self._head_at = 0
        self._played = bytearray()
        self._position = 0
        self._taken = 0
        self._window = rate_hz * WINDOW_MS // 1000
        self._windows = Chunker(2 * self._window)
        self._judged = 0
        self._start: int | None = None
        self._last = 0
        self._events: list[Heard] = []
        self.audible_samples = 0
        """How much of what was played was speech."""
        self.overflowed = 0
        """Pieces dropped because the queue was full."""

    # --- what arrives -----------------------------------------------------------------------------

    def push(self, pcm: bytes, at: int) -> None:
        """A piece of the agent arrived at sample `at`: s16le mono, any length."""
        self._advance(at)
        if not pcm:
            return
        if self._queued + len(pcm) > self._limit:
            self.overflowed += 1
            return
        self._queue.append(pcm)
        self._queued += len(pcm)

    def mark(self, name: str, at: int) -> None:
        """Tell when everything that arrived until now has been played."""
        self._advance(at)
        waiting = sum(isinstance(item, str) for item in self._queue)
        if waiting >= MARKS_LIMIT:
            self.overflowed += 1
            return
        self._queue.append(name)
        self._reach_marks()

    def clear(self, at: int) -> None:
        """Forget what has not been played."""
        self._advance(at)
        dropped = self._queued > 0
        if self._returns_cleared_marks:
            self._events += [MarkReached(item) for item in self._queue if isinstance(item, str)]
        self._queue.clear()
        self._queued = 0
        self._head_at = 0
        if dropped and self._start is not None:
            self._stop(cut=True)

    def finish(self) -> None:
        """The call is over: a stretch that was going on ended with what was heard of it."""
        if self._start is not None:
            self._stop(cut=False)

    # --- what is heard ----------------------------------------------------------------------------

    def play(self, until: int) -> bytes:
        """Everything heard since the last call of this, up to sample `until`, silence included."""
        self._advance(until)
        count = 2 * max(0, until - self._taken)
        heard = bytes(self._played[:count])
        del self._played[:count]
        self._taken = max(until, self._taken)
        return heard

    def events(self) -> list[Heard]:
        """Drain what was noticed, in order."""
        drained, self._events = self._events, []
        return drained

    @property
    def audible_seconds(self) -> float:
        """How long the agent was heard to speak."""
        return self.audible_samples / self._rate_hz

    # --- private ----------------------------------------------------------------------------------

    def _advance(self, until: int) -> None:
        """Play up to there."""
        while self._position < until:
            wanted = 2 * (until - self._position)
            self._reach_marks()
            if not self._queue:
                self._hear(bytes(wanted))
                continue
            head = self._queue[0]
            assert isinstance(head, bytes), "marks at the head have been reached"
            piece = head[self._head_at : self._head_at + wanted]
            self._head_at += len(piece)
            self._queued -= len(piece)
            if self._head_at >= len(head):
                self._queue.popleft()
                self._head_at = 0
            self._hear(piece)
        self._reach_marks()

    def _reach_marks(self) -> None:
        while self._queue and isinstance(self._queue[0], str):
            self._events.append(MarkReached(self._queue[0]))
            self._queue.popleft()

    def _hear(self, pcm: bytes) -> None:
        self._position += len(pcm) // 2
        self._played += pcm
        for window in self._windows.push(pcm):
            self._judge(window)
            self._judged += self._window

    def _judge(self, window: bytes) -> None:
        if rms(window) >= AUDIBLE:
            first, last = audible_span(window)
            self.audible_samples += self._window
            self._last = self._judged + last
            if self._start is None:
                self._start = self._judged + first
                self._events.append(AgentStarted(self._start / self._rate_hz))
        elif self._start is not None and self._judged + self._window - self._last >= self._quiet:
            self._stop(cut=False)

    def _stop(self, *, cut: bool) -> None:
        assert self._start is not None, "only a stretch that began can end"
        start, end = self._start / self._rate_hz, self._last / self._rate_hz
        self._start = None
        self._events.append(AgentStopped(start, end, cut))


def audible_span(pcm: bytes) -> tuple[int, int]:
    """From the first audible sample to behind the last one; (0, 0) when none is."""
    loud = np.flatnonzero(np.abs(np.frombuffer(pcm, "<i2").astype(np.int32)) >= AUDIBLE)
    return (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, 0)


def voice_span(pcm: bytes, rate_hz: int) -> tuple[int, int]:
    """From the first sample of voice to behind the last one, judged as the earpiece judges."""
    window = rate_hz * WINDOW_MS // 1000
    start: int | None = None
    end = 0
    for at in range(0, len(pcm) // 2, window):
        piece = pcm[2 * at : 2 * (at + window)]
        if rms(piece) >= AUDIBLE:
            first, last = audible_span(piece)
            start = at + first if start is None else start
            end = at + last
    return (start or 0, end)
