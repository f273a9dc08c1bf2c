"""Garbage collection, out of the media's way.

A full collection visits every object that holds others: 8 ms for the 180 000 of 200 calls, in which
no audio moves. A young one visits at most the newest 700 (0.02 ms), every tenth of them 7700
(0.2 ms), so young ones stay with the interpreter and only full ones are taken over. CPython 3.11 to
3.13 share this generational collector (3.12 and later run it between bytecodes, which changes
nothing here): the third threshold, out of reach, is what turns automatic full collections off.

* *Frozen once*, when the worker is warm and has no call, straight after a full collection. What is
  frozen is visited no more, for good. Nothing is frozen later: an object of a live call, frozen,
  would stay for ever once it is garbage. Unfreezing would write to every page shared with others.
* *In slack*, a full collection runs when it is EVERY_SECONDS old and the clock has nothing due for
  twice as long as it is expected to take; in a worker without calls, as soon as it is IDLE_SECONDS
  old. One that nothing was allocated since is left out.
* *Overdue* after OVERDUE_YOUNG young ones, it is forced. A young collection means 700 more objects
  than before, so what waits is at most what was alive at the last full one, and 200 000 objects more:
  some 20 MB.

How long it will take can be told: whatever a full collection visits has been visited by a young one
since the last, or by the last one itself, so the sum of their pauses is the measure. A full one takes
0.75 to 0.8 of it, and up to 1.7 where the objects have outgrown the CPU's cache (280 000); hence
MARGIN. Finding a lot of garbage takes longer still, once.

Memory that is free is given back to the kernel (workers/heap.py) in slack of its own, in another beat:
it needs less, and a worker so full that collections are forced needs it most.

https://docs.python.org/3/library/gc.html; bench/micro/collector.py measures the pauses.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import perf_counter
from typing import Final, Literal

from flowcatd.metrics import Metrics
from workers.heap import Heap

YOUNG: Final = 700
"""Objects more than there were that make a young collection: CPython's own figure up to 3.12."""

MIDDLE: Final = 10
"""Every how many young ones what they left is visited again."""

OUT_OF_REACH: Final = 2**31 - 1
"""A C int: the number of middle collections that an automatic full one would wait for."""

EVERY_SECONDS: Final = 10.0
"""With calls up."""

IDLE_SECONDS: Final = 2.0
"""Without: a pause harms nobody."""

OVERDUE_YOUNG: Final = 285
"""Young ones since the last full one, 700 objects each: 200 000 objects."""

MARGIN: Final = 2.0
"""The slack has to be this many times what is expected."""

OnFull = Callable[[], None]


class Collector:
    """The one owner of full collections in a worker."""

    def __init__(
        self, metrics: Metrics, slack: Callable[[float], float], on_full: OnFull | None = None
    ) -> None:
        """`slack` tells for how many seconds from now nothing is due: WorkerClock.slack.

        `on_full` is called after each full collection: what is still there then is no garbage.
        """
        self._metrics = metrics
        self._slack = slack
        self._on_full = on_full
        self._heap = Heap(metrics)
        self._trimmed_at = float("-inf")
        self._collected = False  # since then: something was allocated, so something may be free
        self._before = gc.get_threshold()
        self._started = 0.0
        self._full_pause = 0.0
        self._young_pauses = 0.0
        self._full_at = float("-inf")
        self.young = 0
        """Young collections since the last full one."""
        self.forced = 0
        """Full collections that could not wait for slack."""

    def take_over(self, now: float) -> None:
        """The worker is warm and has no calls: tidy up, freeze, and collect in slack from now on."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG, MIDDLE, OUT_OF_REACH)
        gc.callbacks.append(self._called)
        gc.enable()
        self._collect(now)  # of next to nothing: the first expectation

    def give_back(self) -> None:
        """Everything is the interpreter's again; idempotent."""
        if self._called in gc.callbacks:
            gc.callbacks.remove(self._called)
            gc.set_threshold(*self._before)

    def beat(self, now: float, *, calls: int, deferring: bool) -> bool:
        """Collect, or give memory back, if this is the time for it; whether it collected.

        `deferring` is Shedding's HOUSEKEEPING: then only what is overdue runs.
        """
        if self._is_due(now, calls=calls, deferring=deferring):
            self._collect(now)
            return True
        if self._collected and not deferring and now - self._trimmed_at >= EVERY_SECONDS:
            has_slack = self._slack(now) >= MARGIN * self._heap.expected()
            if calls == 0 or has_slack:
                self._trimmed_at, self._collected = now, False
                self._heap.trim()
        return False

    def expected(self) -> float:
        """Seconds the next full collection is likely to take, by what its predecessors took."""
        return self._full_pause + self._young_pauses

    def _is_due(self, now: float, *, calls: int, deferring: bool) -> bool:
        if self.young == 0:
            return False
        if self.young >= OVERDUE_YOUNG:
            self.forced += not self._has_slack(now) and calls > 0
            return True
        if calls == 0:
            return now - self._full_at >= IDLE_SECONDS
        return not deferring and now - self._full_at >= EVERY_SECONDS and self._has_slack(now)

    def _has_slack(self, now: float) -> bool:
        return self._slack(now) >= MARGIN * self.expected()

    def _collect(self, now: float) -> None:
        self._full_at = now
        gc.collect()
        if self._on_full is not None:
            self._on_full()

    def _called(self, phase: Literal["start", "stop"], info: dict[str, int]) -> None:
        """The interpreter begins or ends a collection, at any allocation and on any thread."""
        if phase == "start":
            self._started = perf_counter()
            return
        self._collected = True
        pause = perf_counter() - self._started
        full = info["generation"] == 2
        self._metrics.observe("gc_pause_seconds", pause)
        self._metrics.add("gc_collections", label="full" if full else "young")
        if full:
            self._full_pause, self._young_pauses, self.young = pause, 0.0, 0
        else:
            self._young_pauses += pause
            self.young += 1
