"""The wake list: who wants to be woken when, in one ordered heap instead of a timer per thing.

A worker has thousands of small deadlines (playout ticks, turn timeouts, call limits, SIP timers
later), most of which are cancelled or moved before they come. One heap and one loop timer for the
earliest of them costs a push per deadline and nothing per cancellation: a cancelled wake stays in
the heap, marked, until it surfaces, and the heap is rebuilt when more than half of it is marked.

Pure: `now` and `due` are monotonic seconds. Shells ask `wake_at()` and call `wake(now)`.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

REBUILD_FLOOR = 64
"""Below this many cancelled wakes a rebuild costs more than it saves."""


class Wake:
    """One deadline; `cancel()` is idempotent and safe after it has fired."""

    __slots__ = ("_list", "callback", "due", "queued")

    def __init__(self, owner: WakeList, due: float, callback: Callable[[], None]) -> None:
        """Made by WakeList.add only."""
        self._list = owner
        self.due = due
        self.callback: Callable[[], None] | None = callback
        self.queued = True

    def cancel(self) -> None:
        """Forget it."""
        if self.callback is not None:
            self.callback = None
            if self.queued:
                self._list.note_cancelled()

    @property
    def pending(self) -> bool:
        """Whether it may still fire."""
        return self.callback is not None


class WakeList:
    """All the deadlines of one worker (or of one test)."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Wake]] = []
        self._order = 0
        self._cancelled = 0

    def __len__(self) -> int:
        """How many are pending."""
        return len(self._heap) - self._cancelled

    def add(self, due: float, callback: Callable[[], None]) -> Wake:
        """Call `callback` at `due`; equal times fire in the order they were added."""
        wake = Wake(self, due, callback)
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, wake))
        return wake

    def wake_at(self) -> float | None:
        """The earliest due time, or None when nothing is pending."""
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heapq.heappop(heap)
            self._cancelled -= 1
        return heap[0][0] if heap else None

    def wake(self, now: float) -> int:
        """Run everything due by `now`, in order; returns how many ran.

        A callback may add wakes; one that is due at once runs in the next round, so that a callback
        which re-arms itself in the past cannot hold the loop. What a callback raises passes through,
        and the rest of the round stays due.
        """
        due: deque[tuple[float, int, Wake]] = deque()
        heap = self._heap
        while heap and heap[0][0] <= now:
            entry = heapq.heappop(heap)
            entry[2].queued = False
            if entry[2].callback is None:
                self._cancelled -= 1
            else:
                due.append(entry)
        ran = 0
        try:
            while due:
                wake = due.popleft()[2]
                callback = wake.callback
                if callback is None:
                    continue  # cancelled by an earlier callback of this round
                wake.callback = None
                ran += 1
                callback()
        finally:
            for entry in due:  # only after a raise
                if entry[2].callback is not None:
                    entry[2].queued = True
                    heapq.heappush(self._heap, entry)
        return ran

    def note_cancelled(self) -> None:
        """Count a cancelled wake; rebuild the heap when most of it is dead."""
        self._cancelled += 1
        if self._cancelled > REBUILD_FLOOR and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0
