"""The load table: one row per worker process, in memory that all of them share.

The only thing workers share. The supervisor makes it before the first fork (a memfd, so that it also
outlives an upgrade by exec) and gives every process it forks a *seat*: the number of a row. A worker
writes its own row and reads the others'; the supervisor writes a row while nobody sits in it. Every
field is one aligned 64-bit word, stored and loaded whole by the CPUs flowcatd runs on, so there is no
lock, and a reader may see one field of a row a moment newer than another. Whoever decides by what
stands here therefore decides anew where it counts: the owner of a call asks its own call table.

    seat    where a process sits, from 0; its successor in the same slot sits elsewhere
    slot    the place in the fleet that it fills
    tick    when its media timer rang last: what hangs does not tick
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

WORDS = 16
"""64-bit words per row: two cache lines, so that two workers never write the same one."""
ROW_BYTES = WORDS * 8
ROWS_PER_SLOT = 4
"""Processes one slot may have at once, on average: one that serves, others that finish their calls."""


class Standing(IntEnum):
    """Whether a seat's process takes calls."""

    EMPTY = 0
    STARTING = 1
    SERVING = 2
    SHEDDING = 3
    """Serving the calls it has, and too late with them to take more."""
    DRAINING = 4
    """No new calls ever; live ones finish."""


@dataclass(frozen=True, slots=True)
class Load:
    """One row, as read at one moment."""

    seat: int
    pid: int
    slot: int
    standing: Standing
    calls: int
    """Places taken."""
    capacity: int
    lag_us: int
    """Loop lag of late, in microseconds."""
    tick_us: int
    """When its media timer last rang: monotonic microseconds, comparable between processes."""
    since_us: int
    """When it was forked."""


_FIELDS = ("pid", "slot", "standing", "calls", "capacity", "lag_us", "tick_us", "since_us")
_AT = {name: number for number, name in enumerate(_FIELDS)}


class Words(Protocol):
    """Shared memory seen as signed 64-bit words: a memoryview cast to "q"."""

    def __getitem__(self, index: int) -> int:
        """One word."""

    def __setitem__(self, index: int, value: int) -> None:
        """Store one word."""

    def __len__(self) -> int:
        """How many."""


def table_bytes(most_workers: int) -> int:
    """How much memory the table of a fleet of at most this many workers takes."""
    return most_workers * ROWS_PER_SLOT * ROW_BYTES


class LoadTable:
    """All rows; over `memoryview(mmap).cast("q")`, or over any list of words in a test."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self.seats = len(words) // WORDS

    def row(self, seat: int) -> LoadRow:
        """The row of one seat, to write."""
        if not 0 <= seat < self.seats:
            raise IndexError(f"there is no seat {seat}")
        return LoadRow(self._words, seat)

    def read(self, seat: int) -> Load:
        """One row as it is now."""
        at = seat * WORDS
        words = [self._words[at + offset] for offset in range(len(_FIELDS))]
        words[_AT["standing"]] = Standing(words[_AT["standing"]])
        return Load(seat, *words)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Load]:
        """Every row somebody sits in."""
        for seat in range(self.seats):
            if self._words[seat * WORDS + _AT["standing"]]:
                yield self.read(seat)

    def free_seat(self) -> int | None:
        """A seat nobody sits in; for the supervisor."""
        for seat in range(self.seats):
            if not self._words[seat * WORDS + _AT["standing"]]:
                return seat
        return None


class LoadRow:
    """One seat's row; written by whoever sits there, and by the supervisor when nobody does."""

    __slots__ = ("_at", "_words", "seat")

    def __init__(self, words: Words, seat: int) -> None:
        """Made by LoadTable.row."""
        self._words = words
        self._at = seat * WORDS
        self.seat = seat

    def sit(self, *, slot: int, capacity: int, now: float) -> None:
        """The supervisor gives the seat away, before the fork; `now` is monotonic seconds."""
        for name, value in (
            ("pid", 0),
            ("slot", slot),
            ("calls", 0),
            ("capacity", capacity),
            ("lag_us", 0),
            ("tick_us", int(now * 1e6)),
            ("since_us", int(now * 1e6)),
            ("standing", Standing.STARTING),
        ):
            self._store(name, value)

    def leave(self) -> None:
        """The seat is free: its process is gone."""
        for name in ("standing", "calls", "pid"):
            self._store(name, 0)

    def pid(self, pid: int) -> None:
        """Who sits here."""
        self._store("pid", pid)

    def standing(self, standing: Standing) -> None:
        """Whether calls are taken."""
        self._store("standing", standing)

    def calls(self, calls: int) -> None:
        """How many places are taken."""
        self._store("calls", calls)

    def ticked(self, now: float, lag_seconds: float) -> None:
        """The media timer rang at `now` (monotonic seconds), and the loop is this late."""
        self._store("lag_us", int(lag_seconds * 1e6))
        self._store("tick_us", int(now * 1e6))

    def _store(self, name: str, value: int) -> None:
        self._words[self._at + _AT[name]] = value
