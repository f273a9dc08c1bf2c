"""Loop lag: how late the worker's own timer rings, which is how late everybody's audio is.

A wake every PERIOD_SECONDS compares when it came with when it was due. One that is LIMIT_MS late has
cost audio, and the operator is told: at most one line per REPORT_SECONDS, with the worst of it.
"""

from __future__ import annotations

from flowcatd.log import get_logger
from workers.clock import WorkerClock

log = get_logger()

PERIOD_SECONDS = 0.1

LIMIT_MS = 60
"""Three frames: more than that and a carrier with a short buffer has run dry."""

REPORT_SECONDS = 10.0


class LagWatch:
    """Watches one worker's loop."""

    def __init__(self, clock: WorkerClock) -> None:
        """It watches from now on, until the loop ends."""
        self._clock = clock
        self._due = 0.0
        self._told_at = float("-inf")
        self._times = 0
        self._worst_ms = 0.0
        self.longest_ms = 0.0
        """The worst there ever was."""
        self._arm()

    def _arm(self) -> None:
        self._due = self._clock.now() + PERIOD_SECONDS
        self._clock.wake(self._due, self._rang)

    def _rang(self) -> None:
        now = self._clock.now()
        late_ms = (now - self._due) * 1000
        self.longest_ms = max(self.longest_ms, late_ms)
        if late_ms >= LIMIT_MS:
            self._times += 1
            self._worst_ms = max(self._worst_ms, late_ms)
        if self._times and now - self._told_at >= REPORT_SECONDS:
            log.warning("loop.lagged", times=self._times, worst_ms=round(self._worst_ms))
            self._told_at, self._times, self._worst_ms = now, 0, 0.0
        self._arm()
