"""What keeps a worker fit while calls are up: its heartbeat, and what hangs on it.

At every beat of the media timer (workers/lag.py) the row of the load table gets its tick; then the
shedder decides what is given up, and the collector whether there is slack for a full collection. At
the first beat of each second the figures are brought up to date. Nothing here is owned by a call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from flowcatd.call import Call
from flowcatd.control import encode
from flowcatd.log import get_logger
from flowcatd.metrics import Metrics
from flowcatd.options import Calls as CallsOptions
from workers.calls import CallTable
from workers.clock import WorkerClock
from workers.collector import Collector
from workers.lag import LagWatch
from workers.leftovers import Leftovers, Remain, TaskRemain
from workers.load import LoadRow
from workers.plan import WorkerPlan
from workers.shed import Level, Shedding, Thing
from workers.vitals import Counts, Vitals

SECOND = 1.0

log = get_logger()


@dataclass(slots=True)
class Outside:
    """Figures that other rooms count, read once a second."""

    hand_overs: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)
    """Given, taken, failed."""
    events_dropped: Callable[[], int] = lambda: 0
    helpers_lost: Callable[[], int] = lambda: 0
    sip: Callable[[Metrics], None] = lambda _metrics: None
    """Writes what the SIP side counts into the figures."""
    pace: Callable[[bool], None] = lambda _deferring: None
    """Told whether snapshots have to be rare."""


class Household:
    """One worker's housekeeping, from its construction until the loop ends."""

    def __init__(
        self,
        plan: WorkerPlan,
        clock: WorkerClock,
        metrics: Metrics,
        table: CallTable,
        row: LoadRow,
    ) -> None:
        """It beats from now on, and collects once `settle` was called."""
        options: CallsOptions = plan.options.calls
        self._plan = plan
        self._clock = clock
        self.metrics = metrics
        self._table = table
        self.outside = Outside()
        self.shedding = Shedding(options.lag_limit_ms)
        self.leftovers = Leftovers(clock, metrics)
        self._collector = Collector(metrics, clock.slack, on_full=self.leftovers.collected)
        self._vitals = Vitals(metrics)
        self._capacity = options.per_worker
        self._began = clock.now()
        self._second_at = clock.now()
        self._settled = False
        self._lag = LagWatch(clock, row=row, metrics=metrics, beat=self._beat)

    def settle(self) -> None:
        """The worker is warm and has no calls: from now on collections are ours."""
        self._collector.take_over(self._clock.now())
        self._lag.forget()
        self._settled = True

    def defers(self) -> bool:
        """Whether what can wait has to."""
        return self.shedding.gives_up(Thing.HOUSEKEEPING)

    def snapshot(self) -> bytes:
        """All figures as they are, encoded."""
        return encode(
            self.metrics.snapshot(
                seat=self._plan.seat,
                slot=self._plan.slot,
                pid=os.getpid(),
                at_utc=time.time(),
                uptime_seconds=self._clock.now() - self._began,
                begun=self._began,
            )
        )

    def ended(self, call: Call, connection: Remain | None) -> None:
        """A call is over: in a few seconds nothing of it may be left."""
        remains: list[Remain | None] = [
            TaskRemain(name, task) for name, task in call.unfinished.items()
        ]
        self.leftovers.ended(call, call.id, [*remains, connection])

    def close(self) -> None:
        """Give the collector back and let go of descriptors."""
        self._collector.give_back()
        self._vitals.close()

    def _beat(self, now: float, lag_seconds: float) -> None:
        changed = self.shedding.lagged(lag_seconds, now) if self._settled else None
        if changed is not None:
            log.warning(
                "load.shed",
                step=changed.target.name.lower(),  # not `level`, which is the line's own
                before=changed.source.name.lower(),
                lag_ms=round(changed.lag_seconds * 1000),
            )
            self._table.shedding = self.shedding.level >= Level.REFUSE
            self.outside.pace(self.defers())
        if self._settled:
            self._collector.beat(now, calls=len(self._table), deferring=self.defers())
        if now >= self._second_at:
            self._second_at = now + SECOND
            self._every_second(now)

    def _every_second(self, now: float) -> None:
        self._table.expire(now)
        self._vitals.beat(
            Counts(
                len(self._table),
                self._capacity,
                self.shedding.level,
                self.defers(),
                len(self._clock),
            )
        )
        metrics, outside = self.metrics, self.outside
        for way, count in zip(("given", "taken", "failed"), outside.hand_overs(), strict=True):
            metrics.total("hand_overs", count, label=way)
        metrics.total("events_dropped", outside.events_dropped())
        metrics.total("helpers_lost", outside.helpers_lost())
        outside.sip(metrics)
