"""Live calls of trunks as the shared table of a fleet counts them, in one process."""

from __future__ import annotations

from collections import Counter


class Ledger:
    """One worker's view of a table; others are made `beside` it."""

    def __init__(self, table: Counter[tuple[str, bool]] | None = None) -> None:
        self.table: Counter[tuple[str, bool]] = Counter() if table is None else table

    def beside(self) -> Ledger:
        """Another worker's view of the same table."""
        return Ledger(self.table)

    def add(self, trunk: str, *, inbound: bool, change: int) -> int:
        """Counts; never below zero."""
        self.table[trunk, inbound] += change
        assert self.table[trunk, inbound] >= 0
        return self.table[trunk, inbound]

    def total(self, trunk: str, *, inbound: bool) -> int:
        """What all have."""
        return self.table[trunk, inbound]
