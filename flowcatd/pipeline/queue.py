"""The bounded queue of a processor that works in a task of its own.

Two lanes. System frames wait in the first and overtake everything; data and control frames wait in
the second, in order. An interruption takes the data of older epochs out of the second lane and
leaves control where it stands, so End still comes after what was to come before it.

When the ordered lane is full the oldest data frame in it makes room and is counted; control is
never dropped: a lane full of control is a LocalError, because only a bug can fill it. The system
lane drops its oldest of the same type (the oldest audio), else refuses the same way.

Pure: no task waits in here. The task that drains it sleeps on the event it was given.
"""

from __future__ import annotations

from collections.abc import Callable

from flowcatd.errors import LocalError
from flowcatd.frames import DataFrame, Frame, SystemFrame


def _nothing() -> None:
    """What a queue calls when nobody sleeps on it."""


class FrameQueue:
    """Frames waiting for one processor's task."""

    def __init__(self, limit: int, notify: Callable[[], None] = _nothing) -> None:
        """`limit` holds for each lane; `notify` is called after each put."""
        self._limit = limit
        self._notify = notify
        # Lists, since few frames wait and mostly none: an empty deque takes 760 bytes.
        self._system: list[Frame] = []
        self._ordered: list[Frame] = []
        self.dropped = 0

    def __len__(self) -> int:
        """How many frames wait."""
        return len(self._system) + len(self._ordered)

    def put(self, frame: Frame) -> Frame | None:
        """Add a frame; returns the one that had to make room, if any."""
        system = isinstance(frame, SystemFrame)
        lane = self._system if system else self._ordered
        victim = None
        if len(lane) >= self._limit:
            victim = self._make_room(lane, type(frame) if system else DataFrame)
        lane.append(frame)
        self._notify()
        return victim

    def take(self) -> Frame | None:
        """The next frame, system first, or None."""
        if self._system:
            return self._system.pop(0)
        return self._ordered.pop(0) if self._ordered else None

    def interrupt(self, epoch: int) -> int:
        """Drop waiting data of epochs before this one; returns how many frames went."""
        kept = [
            frame
            for frame in self._ordered
            if not isinstance(frame, DataFrame) or frame.epoch >= epoch
        ]
        gone = len(self._ordered) - len(kept)
        self._ordered = kept
        return gone

    def _make_room(self, lane: list[Frame], kind: type[Frame]) -> Frame:
        for index, frame in enumerate(lane):
            if isinstance(frame, kind):
                del lane[index]
                self.dropped += 1
                return frame
        raise LocalError(f"a queue of {self._limit} frames is full of what may not be dropped")
