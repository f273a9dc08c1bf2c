"""Record: both sides of the call as they were heard, handed to a sink block by block.

It stands behind playout: InputAudio is the caller, SentAudio the agent, PlayoutCleared takes back
what the agent never got to say. `recording.py` decides where each sample stands; this room only
brings it the frames and, every second, the time, so that silence is recorded too and what is kept
in memory does not grow with the call.

What the agent says is not final before HOLD_MS have passed: a far end may report a clear as late as its lag and a
lost mark allow (1.5 s each, `playout.py`). The media time is that of playout, counted from Start.

A piece at another rate, or far outside its time, is left out, counted, and told once with Failure;
so is every piece while the worker has no time for taps (`trimmed`), and the recording has a hole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from flowcatd.frames import Cancel, Failure, InputAudio, LineHeard, PlayoutCleared, SentAudio, Start
from flowcatd.pipeline.processor import Processor, down
from flowcatd.pipeline.scope import Cancellable
from flowcatd.recording import Leg, Recording

HOLD_MS = 4000
"""The latest clear there can be (3 s), and a stall of ours on top."""

AHEAD_MS = 120_000
"""How far ahead of being heard audio may come; a carrier that buffers is given whole lines."""

TICK_SECONDS = 0.5
"""How often what is final is handed on: 8 KB of an idle call's line noise, at most."""

GRID_SECONDS = 0.1
"""Calls tick on these, together, so that between them a worker of hundreds of calls finds slack."""


class Sink(Protocol):
    """Where a recording goes; `links/disk.py` has one."""

    def append(self, block: bytes) -> None:
        """More s16le stereo, caller left; never waits."""

    async def close(self) -> object:
        """No more comes; returns when all of it is kept."""


OpenSink = Callable[[int], Sink]
"""Opens the sink of this call, given the sample rate."""


class Recorder(Processor):
    """The tap of both legs."""

    def __init__(self, open_sink: OpenSink, trimmed: Callable[[], bool] = lambda: False) -> None:
        """`trimmed` says whether the worker has no time for this."""
        super().__init__()
        self._open_sink = open_sink
        self._trimmed = trimmed
        self._sink: Sink | None = None
        self._recording = Recording(1, hold_ms=0, ahead_ms=0)  # replaced by Start
        self._rate_hz = 0
        self._origin = 0.0
        self._tick: Cancellable | None = None
        self._over = False
        self.refused = 0
        """Pieces left out: their rate was not the call's, or there was no time for them."""
        self.late_clears = 0
        """Clears that came after some of what they took back had been handed on."""
        self._told = False

    @property
    def seconds(self) -> float:
        """How much has been handed to the sink."""
        return self._recording.seconds

    @down(Start)
    def start(self, frame: Start) -> None:
        """Media time begins."""
        if self._sink is None:
            self._rate_hz = frame.rate_hz
            self._recording = Recording(frame.rate_hz, hold_ms=HOLD_MS, ahead_ms=AHEAD_MS)
            self._origin = self.scope.now()
            self._sink = self._open_sink(frame.rate_hz)
            self._tick = self.scope.wake(self._next_tick(), self._ticked)
        self.push(frame)

    @down(InputAudio)
    def caller(self, frame: InputAudio) -> None:
        """A piece of the caller."""
        if frame.rate_hz == self._rate_hz and not self._trimmed():
            self._recording.caller.put(frame.media_ms, frame.pcm)
        else:
            self.refused += 1
        self.push(frame)

    @down(SentAudio)
    def agent(self, frame: SentAudio) -> None:
        """A piece of the agent, on its way to being heard."""
        if frame.rate_hz != self._rate_hz or self._trimmed():
            self.refused += 1
        elif not self._over:
            self._recording.agent.put(frame.media_ms, frame.pcm)
        self.push(frame)

    @down(LineHeard)
    def heard(self, frame: LineHeard) -> None:
        """A line that was heard to its end is not taken back (`playout.py`)."""
        if frame.complete:
            agent = self._recording.agent
            agent.certain = max(agent.certain, agent.sample_at(frame.end_ms))
        self.push(frame)

    @down(PlayoutCleared)
    def cleared(self, frame: PlayoutCleared) -> None:
        """What the agent had sent from here on was never heard."""
        agent = self._recording.agent
        if agent.clear(agent.sample_at(frame.media_ms)):
            self.late_clears += 1
        self.push(frame)

    @down(Cancel)
    def cancel(self, frame: Cancel) -> None:
        """The call ends now: the agent is heard no further."""
        if not self._over:
            self._over = True
            agent = self._recording.agent
            agent.clear(agent.sample_at(self._media_ms()))
        self.push(frame)

    async def close(self) -> None:
        """Hand on what is left, and wait until the sink has kept it."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        sink, self._sink = self._sink, None
        if sink is not None:
            for block in self._recording.finish(self._media_ms()):
                sink.append(block)
            await sink.close()

    def _next_tick(self) -> float:
        """About TICK_SECONDS from now, on the grid."""
        return round((self.scope.now() + TICK_SECONDS) / GRID_SECONDS) * GRID_SECONDS

    def _media_ms(self) -> int:
        return int((self.scope.now() - self._origin) * 1000)

    def _ticked(self) -> None:
        if self._sink is None:
            return
        for block in self._recording.advance(self._media_ms()):
            self._sink.append(block)
        self._tick = self.scope.wake(self._next_tick(), self._ticked)
        lost = self.refused + _refused(self._recording.caller, self._recording.agent)
        if lost and not self._told:
            self._told = True
            self.push_up(
                Failure("recording", "audio was left out: another rate or time, or overload")
            )


def _refused(*legs: Leg) -> int:
    return sum(leg.refused for leg in legs)
