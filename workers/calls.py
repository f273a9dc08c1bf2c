"""The worker's call table: who is up, and whether one more may come.

Admission is exact: a place is taken in the same turn of the loop that looks whether there is one
(`steer.room`: the slot's capacity less the calls of all its processes), and given back when nothing
of the call is left. Every change stands in the worker's row of the load table at once, so fellows
send nobody here in vain. Draining refuses everybody and waits for the rest.

A connection may hold a place before it is a call: whoever accepts it for us *promises* one, under
any hashable name for the connection, and the HTTP server redeems it once the request is parsed. A
promise that is not redeemed (a broken request, a lost socket) is released, or expires by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from flowcatd.call import Call, State
from flowcatd.control import CallLine
from flowcatd.errors import CapacityError, LocalError
from flowcatd.options import Calls as CallsOptions
from flowcatd.record import Outcome, Reason
from workers.load import LoadRow, LoadTable, Standing
from workers.steer import refusal, room

PROMISE_SECONDS = 2.0
"""From a connection's head, all of which is there, to its call: parsed and let in. A worker that is
later than that loses nothing: the place is asked for again."""

_PROBLEMS = {
    "draining": "no new calls are taken",
    "full": "all places are taken",
    "overloaded": "this machine is too busy for one more call",
}


class NoPlaceError(CapacityError):
    """No place for one more call; `cause` is a word of metrics.REFUSALS."""

    def __init__(self, cause: str, retry_after: int) -> None:
        """`cause` is full, draining or overloaded; `retry_after` whole seconds."""
        self.cause = cause
        super().__init__(_PROBLEMS[cause], retry_after)


class CallTable:
    """The live calls of one worker."""

    def __init__(
        self,
        options: CallsOptions,
        row: LoadRow,
        loads: LoadTable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`row` is this worker's own in `loads`; nobody is let in before `shedding` is set to False."""
        self._options = options
        self._row = row
        self._loads = loads
        self._clock = clock
        self._places = 0
        self._promises: dict[Hashable, float] = {}
        """Connection to when its promise expires, oldest first; never more than places."""
        self._calls: dict[str, Call] = {}
        self._since: dict[str, float] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False
        self._shedding = True
        self.leaked = 0
        """Things that calls left behind; stays zero unless we have a bug."""

    def __len__(self) -> int:
        """How many places are taken, promised ones included."""
        return self._places

    # --- whether calls are taken ------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether no call will ever be taken again."""
        return self._draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        if self._draining and not draining:
            # The slot's next process may have begun to fill the places that this one gave up.
            raise LocalError("a worker that drains does not come back")
        if draining:
            self._draining = True
            self._row.standing(Standing.DRAINING)

    @property
    def shedding(self) -> bool:
        """Whether no call is taken for the moment: not serving yet, or late with those it has."""
        return self._shedding

    @shedding.setter
    def shedding(self, shedding: bool) -> None:
        self._shedding = shedding
        if not self._draining:
            self._row.standing(Standing.SHEDDING if shedding else Standing.SERVING)

    # --- places -----------------------------------------------------------------------------------

    def promise(self, connection: Hashable) -> bool:
        """Keep a place for this connection for PROMISE_SECONDS; false when there is none.

        A name that holds a promise already keeps that one place, from now on anew.
        """
        now = self._clock()
        self.expire(now)
        if self._promises.pop(connection, None) is None:
            if not self._has_room():
                return False
            self._take()
        self._promises[connection] = now + PROMISE_SECONDS
        return True

    def promise_again(self, connection: Hashable) -> None:
        """Keep a place for a call that had one in the worker before us: there is room for it.

        Its slot's capacity is the same, and nobody was let in while it was away.
        """
        self.expire(self._clock())
        self._take()
        self._promises[connection] = self._clock() + PROMISE_SECONDS

    def release(self, connection: Hashable) -> None:
        """The connection became no call; nothing happens when it holds no promise."""
        if self._promises.pop(connection, None) is not None:
            self._give_back()

    def is_promised(self, connection: Hashable) -> bool:
        """Whether a place is kept for this connection, and it has not come for it yet."""
        return connection in self._promises

    def expire(self, now: float) -> None:
        """Give back what was promised to connections that never came; `now` is monotonic seconds."""
        while self._promises:
            connection, due = next(iter(self._promises.items()))
            if due > now:
                return
            self.release(connection)

    @contextmanager
    def place(self, connection: Hashable = None) -> Iterator[None]:
        """A place for the duration of the block: the one promised to `connection`, or a fresh one.

        Raises NoPlaceError when there is none.
        """
        if connection is None or self._promises.pop(connection, None) is None:
            self.expire(self._clock())
            if not self._has_room():
                raise NoPlaceError(refusal(self._loads), self._options.retry_after_seconds)
            self._take()
        try:
            yield
        finally:
            self._give_back()

    def _has_room(self) -> bool:
        return room(self._row.seat, self._loads) > 0

    def _take(self) -> None:
        self._places += 1
        self._row.calls(self._places)
        self._empty.clear()

    def _give_back(self) -> None:
        self._places -= 1
        self._row.calls(self._places)
        if not self._places:
            self._empty.set()

    # --- calls ------------------------------------------------------------------------------------

    def add(self, call: Call) -> None:
        """The call lives."""
        self._calls[call.id] = call
        self._since[call.id] = self._clock()

    def remove(self, call: Call) -> None:
        """Nothing of it is left, but for what its teardown named."""
        del self._calls[call.id], self._since[call.id]
        self.leaked += len(call.leftovers)

    def find(self, call_or_run_id: str) -> Call | None:
        """The live call with this call id, or else the latest with this run id, or None."""
        if (call := self._calls.get(call_or_run_id)) is not None:
            return call
        for call in reversed(self._calls.values()):
            if call.ledger.identity.run_id == call_or_run_id:
                return call
        return None

    def lines(self, now: float) -> list[CallLine]:
        """Every live call, as operators are told; `now` is monotonic seconds."""
        return [_line(call, now - self._since[call.id]) for call in self._calls.values()]

    async def drained(self, within: float) -> bool:
        """Wait until the last call is gone; false when that takes longer."""
        try:
            async with asyncio.timeout(within):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def say_goodbye(self, text: str) -> None:
        """Let every live call hear this line and end after it."""
        for call in list(self._calls.values()):
            call.say_goodbye(text)

    def end_all(self, reason: Reason) -> None:
        """End every live call."""
        for call in list(self._calls.values()):
            call.end(Outcome(reason=reason))


_STATES = {state: state.name.lower() for state in State}


def _line(call: Call, seconds: float) -> CallLine:
    identity, sip = call.ledger.identity, call.ledger.sip
    return CallLine(
        call_id=identity.call_id,
        run_id=identity.run_id,
        carrier=identity.carrier,
        agent=identity.agent,
        slot=identity.worker_slot,
        state=_STATES[call.state],
        seconds=round(seconds, 3),
        turns=call.ledger.turns.user,
        resumed=call.ledger.resumed,
        direction="" if sip is None else sip.direction,
        trunk="" if sip is None else sip.trunk,
    )
