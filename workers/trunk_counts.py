"""Live calls per trunk, of all workers: how a cap of a trunk holds for the whole daemon.

Like the load table (`load.py`) this lies in memory that all processes share, outlives an upgrade, and
has no lock: every process writes only the cells of its own seat, one aligned 64-bit word each. Whoever
wants one more call adds first and looks second (`SeatCounts.add` returns the sum): two who do it at once
may both find the trunk full, but never both find room for the last call.

    head     how many columns have been used
    column   a trunk: 8 words of name, 1 that is not 0 while it answers no OPTIONS, then inbound calls of
             each seat, then outbound calls of each

Whether a trunk lives is written by the one worker that asks it, for all that call over it.

The supervisor alone writes names. A column keeps its trunk when that is removed, since its calls go on;
it is given to another only when all columns are used and nobody counts in it. A trunk without a column
(somebody wrote a file between the supervisor's look and the worker's, or all columns are in use) is
counted by each worker for itself, so its cap holds per worker instead.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, MutableSequence
from typing import Protocol, Self, overload

from flowcatd.sip.trunk import TRUNKS_MAX

NAME_BYTES = 64
"""The longest name of a trunk."""
NAME_WORDS = NAME_BYTES // 8
COLUMNS = 2 * TRUNKS_MAX
"""Trunks that are there, and as many that were removed while their calls go on."""
_HEAD = 1
Spelt = tuple[int, ...]
"""A name as words; the first is never 0."""


class Words(Protocol):
    """Shared memory seen as signed 64-bit words: a memoryview cast to "q", or a list in a test."""

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Iterable[int]: ...
    def __getitem__(self, index: int | slice) -> int | Iterable[int]:
        """One word, or several."""

    def __setitem__(self, index: int, value: int) -> None:
        """Store one word."""

    def __len__(self) -> int:
        """How many."""


def counts_words(seats: int, columns: int = COLUMNS) -> int:
    """How many words the counts of this many seats and trunks take; untouched ones cost no memory."""
    return _HEAD + columns * _column_words(seats)


def _column_words(seats: int) -> int:
    return NAME_WORDS + 1 + 2 * seats


def _spell(name: str) -> Spelt:
    data = name.encode("ascii")[:NAME_BYTES].ljust(NAME_BYTES, b"\0")
    return tuple(int.from_bytes(data[at : at + 8], "little") for at in range(0, NAME_BYTES, 8))


class TrunkCounts:
    """All counts; the supervisor enlists trunks and clears seats, a worker counts through `of`."""

    def __init__(self, words: Words, seats: int) -> None:
        """`words` has `counts_words(seats)` of them, 0 at first."""
        self._words = words
        self.seats = seats
        self.columns = (len(words) - _HEAD) // _column_words(seats)

    @classmethod
    def alone(cls) -> Self:
        """Counts that no other process shares: for a worker without a supervisor, in a test."""
        words: MutableSequence[int] = [0] * counts_words(64, 16)
        return cls(words, 64)

    def enlist(self, names: Iterable[str]) -> list[str]:
        """These trunks are counted from now on; returns those there is no column for."""
        wanted = {name: _spell(name) for name in names}
        known = {self._name(column) for column in range(self._words[0])}
        kept = set(wanted.values())
        return [
            name
            for name, spelt in wanted.items()
            if spelt not in known and not self._take_column(spelt, kept)
        ]

    def leave(self, seat: int) -> None:
        """The seat's process is gone, and its calls with it."""
        for column in range(self._words[0]):
            at = self._cells(column)
            for cell in (at + seat, at + self.seats + seat):
                if self._words[cell]:
                    self._words[cell] = 0

    def of(self, seat: int) -> SeatCounts:
        """What the process in this seat counts with."""
        if not 0 <= seat < self.seats:
            raise IndexError(f"there is no seat {seat}")
        return SeatCounts(self, seat)

    def find(self, name: str) -> int | None:
        """The trunk's column."""
        spelt = _spell(name)
        for column in range(self._words[0]):
            at = self._names(column)
            if self._words[at] == spelt[0] and self.is_column(column, spelt):
                return column
        return None

    def is_column(self, column: int, spelt: Spelt) -> bool:
        """Whether this is the column of the trunk with this spelling."""
        return self._name(column) == spelt

    def mark(self, column: int, *, is_dead: bool) -> None:
        """The trunk answers no OPTIONS, or does again."""
        self._words[self._names(column) + NAME_WORDS] = int(is_dead)

    def is_dead(self, column: int) -> bool:
        """Whether it was last found dead."""
        return bool(self._words[self._names(column) + NAME_WORDS])

    def total(self, column: int, *, inbound: bool) -> int:
        """Live calls of all seats."""
        at = self.cell(column, 0, inbound=inbound)
        return sum(self._words[at : at + self.seats])

    def change(self, column: int, seat: int, change: int, *, inbound: bool) -> None:
        """Add to the seat's own cell, which is never below 0."""
        cell = self.cell(column, seat, inbound=inbound)
        self._words[cell] = max(0, self._words[cell] + change)

    def cell(self, column: int, seat: int, *, inbound: bool) -> int:
        """Which word counts the seat's calls."""
        return self._cells(column) + (0 if inbound else self.seats) + seat

    def _names(self, column: int) -> int:
        return _HEAD + column * _column_words(self.seats)

    def _cells(self, column: int) -> int:
        return self._names(column) + NAME_WORDS + 1

    def _name(self, column: int) -> Spelt:
        at = self._names(column)
        return tuple(self._words[at : at + NAME_WORDS])

    def _take_column(self, spelt: Spelt, kept: Container[Spelt]) -> bool:
        used = self._words[0]
        column = used if used < self.columns else self._find_idle(kept)
        if column is None:
            return False
        # Readers scan up to `used` and compare whole names: the first word, last, makes it one.
        at = self._names(column)
        self._words[at] = 0
        for offset in reversed(range(NAME_WORDS)):
            self._words[at + offset] = spelt[offset]
        self._words[0] = max(used, column + 1)
        return True

    def _find_idle(self, kept: Container[Spelt]) -> int | None:
        """A column whose trunk is gone, and its calls too."""
        for column in range(self.columns):
            sums = (self.total(column, inbound=inbound) for inbound in (True, False))
            if self._name(column) not in kept and not any(sums):
                return column
        return None


class SeatCounts:
    """One process's own counts, and the sums of all."""

    def __init__(self, counts: TrunkCounts, seat: int) -> None:
        """Made by TrunkCounts.of."""
        self._counts = counts
        self._seat = seat
        self._columns: dict[str, tuple[int, Spelt]] = {}
        """Trunk to its column, and its name's spelling, which tells whether it still is."""
        self._own: dict[tuple[str, bool], int] = {}
        """Calls of trunks that had no column when they were counted."""

    def add(self, trunk: str, *, inbound: bool, change: int) -> int:
        """Count `change` calls more (or fewer, when negative); returns the live calls of all seats."""
        column = self._column(trunk)
        own = self._own.get((trunk, inbound), 0)
        if column is None or (change < 0 < own):
            self._count_alone(trunk, inbound=inbound, calls=max(0, own + change))
        else:
            self._counts.change(column, self._seat, change, inbound=inbound)
        return self.total(trunk, inbound=inbound)

    def total(self, trunk: str, *, inbound: bool) -> int:
        """Live calls of all seats."""
        column = self._column(trunk)
        shared = 0 if column is None else self._counts.total(column, inbound=inbound)
        return shared + self._own.get((trunk, inbound), 0)

    def mark(self, trunk: str, *, is_dead: bool) -> None:
        """Tell all workers whether a trunk answers; one without a column is not told of."""
        column = self._column(trunk)
        if column is not None:
            self._counts.mark(column, is_dead=is_dead)

    def is_dead(self, trunk: str) -> bool:
        """Whether whoever asks the trunk gets no answer."""
        column = self._column(trunk)
        return column is not None and self._counts.is_dead(column)

    def _count_alone(self, trunk: str, *, inbound: bool, calls: int) -> None:
        if calls:
            self._own[trunk, inbound] = calls
        else:
            self._own.pop((trunk, inbound), None)

    def _column(self, trunk: str) -> int | None:
        known = self._columns.get(trunk)
        if known is not None and self._counts.is_column(*known):
            return known[0]
        column = self._counts.find(trunk)
        if column is None:
            self._columns.pop(trunk, None)
        else:
            self._columns[trunk] = column, _spell(trunk)
        return column
