"""The worker's call table: who is up, and whether one more may come.

Admission is exact: a place is taken in the same turn of the loop that looks whether there is one,
and given back when nothing of the call is left. Draining refuses everybody and waits for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from flowcatd.call import Call
from flowcatd.errors import CapacityError
from flowcatd.options import Calls as CallsOptions
from flowcatd.record import Outcome, Reason


class CallTable:
    """The live calls of one worker."""

    def __init__(self, options: CallsOptions) -> None:
        self._options = options
        self._places = 0
        self._calls: dict[str, Call] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = False
        self.leaked = 0
        """Things that calls left behind; stays zero unless we have a bug."""

    def __len__(self) -> int:
        """How many places are taken."""
        return self._places

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for the duration of the block; CapacityError when there is none."""
        retry = self._options.retry_after_seconds
        if self.draining:
            raise CapacityError("this worker takes no new calls", retry)
        if self._places >= self._options.per_worker:
            raise CapacityError(f"all {self._options.per_worker} places are taken", retry)
        self._places += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._places -= 1
            if not self._places:
                self._empty.set()

    def add(self, call: Call) -> None:
        """The call lives."""
        self._calls[call.id] = call

    def remove(self, call: Call) -> None:
        """Nothing of it is left, but for what its teardown named."""
        del self._calls[call.id]
        self.leaked += len(call.leftovers)

    async def drained(self, within: float) -> bool:
        """Wait until the last call is gone; false when that takes longer."""
        try:
            async with asyncio.timeout(within):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def end_all(self, reason: Reason) -> None:
        """End every live call."""
        for call in list(self._calls.values()):
            call.end(Outcome(reason=reason))
