"""Seats: who of the workers sits in which row of the shared load table, and who stopped ticking.

Beside it lie the live calls per trunk and seat (`workers/trunk_counts.py`), which go with the seat.

The tables lie in memfds, mapped shared: every fork inherits the mappings, and an upgrade by exec
hands the descriptors on. A worker writes its media tick into its row; one whose tick is older than
workers.hung_seconds is hung. That is judged only by a supervisor that was itself on time: after both
were stopped (SIGSTOP, a suspended machine) nobody's tick is fresh, and nobody is to blame.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from workers.load import Load, LoadTable, Standing, table_bytes

LATE_SECONDS = 1.0
"""A look at the ticks that comes this much later than it was meant to says nothing about workers."""


class Seats:
    """The supervisor's side of the load table, and of what is counted by seat beside it."""

    def __init__(
        self, most_workers: int, descriptor: int = -1, counts_descriptor: int = -1
    ) -> None:
        """The descriptors are the tables of a former program image, or -1 for new ones."""
        # Late, as everything of the workers' but their orders; it owns neither loop nor socket.
        from workers.trunk_counts import TrunkCounts, counts_words  # noqa: PLC0415

        self.descriptor, words = _memory("flowcatd-load", table_bytes(most_workers), descriptor)
        self.table = LoadTable(words)
        size = counts_words(self.table.seats) * 8
        self.counts_descriptor, words = _memory(
            "flowcatd-trunks", size, _if_as_large(counts_descriptor, size)
        )
        self.trunk_counts = TrunkCounts(words, self.table.seats)
        self._of: dict[int, int] = {}
        """Pid to seat."""
        self._looked: float | None = None

    def take(self, slot: int, capacity: int, now: float) -> int | None:
        """A seat for a process that is about to be forked; None when all are taken."""
        seat = self.table.free_seat()
        if seat is not None:
            self.table.row(seat).sit(slot=slot, capacity=capacity, now=now)
        return seat

    def seated(self, seat: int, pid: int) -> None:
        """The process exists."""
        self.table.row(seat).pid(pid)
        self._of[pid] = seat

    def free(self, seat: int) -> None:
        """It could not be forked."""
        self._leave(seat)

    def gone(self, pid: int) -> Load | None:
        """The process was reaped; returns its last row, when it had one."""
        seat = self._of.pop(pid, None)
        if seat is None:
            return None
        last = self.table.read(seat)
        self._leave(seat)
        return last

    def load_of(self, pid: int) -> Load | None:
        """The process's row as it is now."""
        seat = self._of.get(pid)
        return None if seat is None else self.table.read(seat)

    def adopt(self) -> None:
        """Find the seats of a former program image's processes; who is not there any more has none.

        Also those that were given up on and are not reaped yet.
        """
        for row in list(self.table):
            if row.pid and Path(f"/proc/{row.pid}").exists():
                self._of[row.pid] = row.seat
            else:
                self._leave(row.seat)

    def close(self) -> None:
        """No other program image gets the tables; they go with the last process that maps them."""
        os.close(self.descriptor)
        os.close(self.counts_descriptor)

    def hung(self, now: float, within: float, every: float) -> list[int]:
        """Pids of serving workers that have not ticked for `within`; asked again after `every` seconds."""
        before, self._looked = self._looked, now
        if before is None or now - before > every + LATE_SECONDS:
            return []
        oldest = int((now - within) * 1e6)
        return [
            row.pid
            for row in self.table
            if row.pid in self._of
            and row.standing is not Standing.STARTING
            and row.tick_us < oldest
        ]

    def _leave(self, seat: int) -> None:
        """What its process counted goes with it; only then may another sit there."""
        self.trunk_counts.leave(seat)
        self.table.row(seat).leave()


def _memory(name: str, size: int, descriptor: int) -> tuple[int, memoryview]:
    """Shared memory as words, of a former program image or new."""
    if descriptor < 0:
        descriptor = os.memfd_create(name)
        os.ftruncate(descriptor, size)
    return descriptor, memoryview(mmap.mmap(descriptor, size)).cast("q")


def _if_as_large(descriptor: int, size: int) -> int:
    """Another version may have counted otherwise: then its workers go on with theirs, ours anew."""
    if descriptor < 0 or os.fstat(descriptor).st_size == size:
        return descriptor
    os.close(descriptor)
    return -1
