"""Leftovers: what of a call is still there five seconds after its end.

A call hands in what it had: its tasks, its wakes, its socket, its ports, each as something with a
name that can tell whether it is released. Five seconds later, all of them are asked, once. The call
itself is only watched through a weak reference. Whether it is gone cannot be told then, because a
circle of references is no leak until a full garbage collection has passed over it; so a call that is
still there is asked about again after the first full collection that began later (`collected`, which
the collector calls). Nothing here ever collects.

What is found is a line in the log and a count, which must stay zero; it changes nothing. Memory is
bounded: MOST_WATCHED calls wait at most, one wake serves all of them, and what does not fit is
counted in `unwatched`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import ReferenceType, ref

from flowcatd.log import get_logger
from flowcatd.metrics import Metrics

log = get_logger()

GRACE_SECONDS = 5.0
"""What a call gets to let go of everything, beyond its teardown."""

MOST_WATCHED = 10_000
"""Some 6 MB; two thousand calls would have to end in every second."""


class Remain(Protocol):
    """Something of a call that has to be released by its end."""

    @property
    def name(self) -> str:
        """For the log: what it is, nothing that a caller said."""

    def is_released(self) -> bool:
        """Whether it is gone."""


class TaskLike(Protocol):
    """An asyncio.Task, as far as it matters here."""

    def done(self) -> bool:
        """Whether it has ended."""


class WakeLike(Protocol):
    """A Wake, as far as it matters here."""

    @property
    def pending(self) -> bool:
        """Whether it may still fire."""


class ClockLike(Protocol):
    """The worker's clock."""

    def now(self) -> float:
        """Monotonic seconds."""

    def wake(self, due: float, callback: Callable[[], None]) -> Any:
        """Call back at `due`."""


@dataclass(frozen=True, slots=True)
class TaskRemain:
    """A task must have ended."""

    name: str
    task: TaskLike

    def is_released(self) -> bool:
        """Whether it has."""
        return self.task.done()


@dataclass(frozen=True, slots=True)
class WakeRemain:
    """A wake must have fired or been cancelled."""

    name: str
    wake: WakeLike

    def is_released(self) -> bool:
        """Whether it has."""
        return not self.wake.pending


@dataclass(frozen=True, slots=True)
class DescriptorRemain:
    """A socket, port or file must be closed; told by its inode, since its number is used again."""

    name: str
    descriptor: int
    identity: tuple[int, int]

    def is_released(self) -> bool:
        """Whether the number is free or somebody else's."""
        return _identity(self.descriptor) != self.identity


def descriptor_remain(name: str, descriptor: int) -> DescriptorRemain | None:
    """A descriptor that is open now; None for one that is closed already."""
    identity = _identity(descriptor)
    return DescriptorRemain(name, descriptor, identity) if identity is not None else None


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@dataclass(frozen=True, slots=True)
class _Watched:
    due: float
    call_id: str
    call: ReferenceType[object]
    remains: tuple[Remain, ...]


class Leftovers:
    """Asks after the ended calls of one worker."""

    def __init__(self, clock: ClockLike, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._watched: deque[_Watched] = deque()
        self._lingering: deque[_Watched] = deque(maxlen=MOST_WATCHED)
        self.found = 0
        """Things that were left, since the worker began."""
        self.unwatched = 0
        """Calls nobody asked after, because too many ended at once."""

    def ended(self, call: object, call_id: str, remains: Iterable[Remain | None]) -> None:
        """The call is over: ask after it and all of these (None is nothing) once the grace is over."""
        if len(self._watched) >= MOST_WATCHED:
            self.unwatched += 1
            return
        due = self._clock.now() + GRACE_SECONDS
        kept = tuple(remain for remain in remains if remain is not None)
        self._watched.append(_Watched(due, call_id, ref(call), kept))
        if len(self._watched) == 1:
            self._clock.wake(due, self._ask)

    def collected(self) -> None:
        """A full collection is over: a call that has outlived it is held by somebody."""
        while self._lingering:
            watched = self._lingering.popleft()
            if watched.call() is not None:
                self._tell(watched.call_id, ["the call itself"])

    def __len__(self) -> int:
        """How many calls are being watched."""
        return len(self._watched) + len(self._lingering)

    def _ask(self) -> None:
        now = self._clock.now()
        while self._watched and self._watched[0].due <= now:
            watched = self._watched.popleft()
            names = [remain.name for remain in watched.remains if not remain.is_released()]
            if names:
                self._tell(watched.call_id, names)
            if watched.call() is not None:
                self._linger(watched)
        if self._watched:
            self._clock.wake(self._watched[0].due, self._ask)

    def _linger(self, watched: _Watched) -> None:
        """Without its remains, which may hold the call themselves."""
        if len(self._lingering) == MOST_WATCHED:
            self.unwatched += 1
        self._lingering.append(_Watched(watched.due, watched.call_id, watched.call, ()))

    def _tell(self, call_id: str, names: list[str]) -> None:
        self.found += len(names)
        self._metrics.add("calls_leftovers", len(names))
        log.error("call.leaked", call=call_id, leftovers=sorted(names))
