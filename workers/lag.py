"""Loop lag: how late the worker's own timer rings, which is how late everybody's audio is.

The heart of a worker. A wake every PERIOD_SECONDS, on the wake list that playout hangs on, writes the
time into the worker's row of the load table: a process whose row stops ticking is hung, whatever else
of it still answers. Each beat also takes the worst lateness of any wake since the last one. It is
observed in `loop_lag_seconds`, told to the operator from LIMIT_MS on (it has cost audio: at most one
line per REPORT_SECONDS, with the worst of it), and goes into the recent lag that admission reads.

Recent lag is a peak that fades: it is at least the lateness just seen, and halves every second. One
stall shows at once and in full; what it says is forgotten within seconds. A mean would have hidden
the stall among twenty good beats, and a maximum over a window forgets all of it in one step, which
makes admission flap. No lateness counts for more than a second: a machine that was suspended is
late by hours, once.

What is given up under load (workers/shed.py) goes by a stricter figure: the lag that SUSTAINED beats of
the last second reached. A single stall, which on a shared machine is somebody else's doing and over
when it is seen, is no reason to turn a call away; a loop with more work than time is late each beat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import nlargest
from typing import Protocol

from flowcatd.log import get_logger
from flowcatd.metrics import Metrics
from workers.clock import WorkerClock

log = get_logger()

PERIOD_SECONDS = 0.05
"""Fine enough to find a hung worker within workers.hung_seconds, at 20 wakes a second."""

LIMIT_MS = 60
"""Three frames: more than that and a carrier with a short buffer has run dry."""

REPORT_SECONDS = 10.0

HALF_LIFE_SECONDS = 1.0
"""100 ms are 50 ms a second later and 6 ms after four: long enough for the cause to show again."""

MOST_SECONDS = 1.0
"""One stall, however long, is forgotten (below 8 ms) after seven seconds."""

SUSTAINED = 3
"""Late beats in a second that make it overload and no hiccup."""

BEATS_SEEN = 20
"""A second's worth."""

Beat = Callable[[float, float], None]
"""What else is done at every beat, given the time and the sustained lag, both in seconds."""


class Row(Protocol):
    """The worker's row of the load table, as its heart sees it."""

    def ticked(self, now: float, lag_seconds: float) -> None:
        """The media timer rang."""


class RecentLag:
    """A peak that fades; pure."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """How late the loop has been of late."""
        self._at: float | None = None

    def seen(self, late: float, now: float) -> float:
        """One more lateness (seconds); returns the recent lag."""
        since = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        faded = self.seconds * 0.5 ** (since / HALF_LIFE_SECONDS)
        self.seconds = max(faded, min(max(late, 0.0), MOST_SECONDS))
        return self.seconds


class SustainedLag:
    """The lateness that at least SUSTAINED of the last BEATS_SEEN beats had; pure."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=BEATS_SEEN)

    def seen(self, late: float) -> float:
        """One more lateness (seconds); returns the sustained lag."""
        self._seen.append(min(max(late, 0.0), MOST_SECONDS))
        return nlargest(SUSTAINED, self._seen)[-1] if len(self._seen) >= SUSTAINED else 0.0


class LagWatch:
    """Watches one worker's loop, from its construction until the loop ends."""

    def __init__(
        self,
        clock: WorkerClock,
        *,
        row: Row | None = None,
        metrics: Metrics | None = None,
        beat: Beat | None = None,
    ) -> None:
        """`beat` is called last, when the next wake of the list is somebody else's."""
        self._clock = clock
        self._row = row
        self._metrics = metrics
        self._beat = beat
        self._recent = RecentLag()
        self._sustained = SustainedLag()
        self._told_at = float("-inf")
        self._times = 0
        self._worst_ms = 0.0
        self.longest_ms = 0.0
        """The worst there ever was."""
        clock.wake(clock.now() + PERIOD_SECONDS, self._rang)

    @property
    def recent(self) -> float:
        """The recent lag in seconds, as of the last beat."""
        return self._recent.seconds

    def forget(self) -> None:
        """The worker is warm: what starting took says nothing about the load of calls."""
        self._clock.worst_lateness()
        self._recent = RecentLag()
        self._sustained = SustainedLag()

    def _rang(self) -> None:
        now = self._clock.now()
        late = self._clock.worst_lateness()
        try:
            recent = self._recent.seen(late, now)
            if self._row is not None:
                self._row.ticked(now, recent)
            if self._metrics is not None:
                self._metrics.observe("loop_lag_seconds", late)
            self._report(late * 1000, now)
            if self._beat is not None:
                self._beat(now, self._sustained.seen(late))
        finally:  # whatever raises, the heart goes on
            self._clock.wake(now + PERIOD_SECONDS, self._rang)

    def _report(self, late_ms: float, now: float) -> None:
        self.longest_ms = max(self.longest_ms, late_ms)
        if late_ms >= LIMIT_MS:
            self._times += 1
            self._worst_ms = max(self._worst_ms, late_ms)
        if self._times and now - self._told_at >= REPORT_SECONDS:
            log.warning("loop.lagged", times=self._times, worst_ms=round(self._worst_ms))
            self._told_at, self._times, self._worst_ms = now, 0, 0.0
