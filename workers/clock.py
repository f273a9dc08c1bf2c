"""The worker's clock: one wake list, one loop timer for all calls.

Playout ticks, turn timeouts, dialog timeouts and limits of every call hang on one ordered list
(`flowcatd/wake.py`); the loop is asked to wake for the earliest of them only. Calls begin at
arbitrary moments, so their 20 ms ticks lie spread over the period without further help.

The loop's timers count whole milliseconds: libuv keeps its time in them, rounded down
(uv_now(3), uv_timer_start(3)), and uvloop rounds a delay to the nearest. A timer armed for a
fraction therefore rings early, finds nothing due, and is armed for nought again: a spin until the
wake is due. So the clock asks for the first whole millisecond at or after `due`, counted from
libuv's present one. A wake comes up to two milliseconds late, never early, and rings once.

The clock also knows how late it rang (`worst_lateness`), which is the truest measure of loop lag
there is, because audio hangs on the same list; and how long nothing is due (`slack`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import ceil, floor, inf

from flowcatd.wake import Wake, WakeList


class WorkerClock:
    """Monotonic time and wakes for one event loop."""

    now = staticmethod(time.monotonic)
    """Monotonic seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wakes = WakeList()
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0.0
        self._running = False
        self._worst = 0.0
        self.rings = 0
        """How often the loop's timer rang; with nothing wrong, at most once per wake."""

    def __len__(self) -> int:
        """How many wakes are pending."""
        return len(self._wakes)

    def wake(self, due: float, callback: Callable[[], None]) -> Wake:
        """Call back at `due`, on the loop; a time that has passed is now."""
        now = time.monotonic()
        due = max(due, now)  # else an old wish would be taken for a late ring
        wake = self._wakes.add(due, callback)
        if not self._running and (self._timer is None or due < self._armed):
            self._arm(due, now)
        return wake

    def slack(self, now: float) -> float:
        """Seconds until the next wake is due: infinite when there is none, 0 when one is overdue."""
        due = self._wakes.wake_at()
        return inf if due is None else max(0.0, due - now)

    def worst_lateness(self) -> float:
        """How late the latest ring since the last question was, in seconds."""
        worst, self._worst = self._worst, 0.0
        return worst

    def _arm(self, due: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = due
        milliseconds = ceil(due * 1000) - floor(now * 1000)
        self._timer = self._loop.call_later(max(0, milliseconds) / 1000, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._running = True
        self.rings += 1
        now = time.monotonic()
        self._worst = max(self._worst, now - self._armed)
        try:
            self._wakes.wake(now)
        finally:
            self._running = False
            due = self._wakes.wake_at()
            if due is not None:
                self._arm(due, time.monotonic())
