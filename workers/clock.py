"""The worker's clock: one wake list, one loop timer for all calls.

Playout ticks, turn timeouts, dialog timeouts and limits of every call hang on one ordered list
(`flowcatd/wake.py`); the loop is asked to wake for the earliest of them only. Calls begin at
arbitrary moments, so their 20 ms ticks lie spread over the period without further help.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

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

    def __len__(self) -> int:
        """How many wakes are pending."""
        return len(self._wakes)

    def wake(self, due: float, callback: Callable[[], None]) -> Wake:
        """Call back at `due`, on the loop."""
        wake = self._wakes.add(due, callback)
        if not self._running and (self._timer is None or due < self._armed):
            self._arm(due)
        return wake

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = due
        self._timer = self._loop.call_later(max(0.0, due - time.monotonic()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._running = True
        try:
            self._wakes.wake(time.monotonic())
        finally:
            self._running = False
            due = self._wakes.wake_at()
            if due is not None:
                self._arm(due)
