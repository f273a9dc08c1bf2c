"""Requests to a trunk outside of any call: each goes to one target after another until one answers.

REGISTER and OPTIONS are such errands. RFC 3263 §4.3: a target that is silent, cannot be reached or says
503 is shunned, and the same request goes to the next one, with a Via and a branch of its own; any other
answer is the answer. A target has TARGET_SECONDS while there is another one to try, which is five
transmissions over UDP; the last has what RFC 3261 gives it (Timer F), unless the errand is in a hurry.

The transactions are our own, so that the user agent of the calls knows nothing of them; an answer is ours
by its branch. Names are looked up in tasks, everything else happens in one turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol

from flowcatd.errors import CapacityError, LinkError
from flowcatd.links.dns import Found
from flowcatd.sip.event import Answered, Ended, Hop, TimedOut, TransactionId, Undelivered
from flowcatd.sip.message import Request, Response
from flowcatd.sip.register_terms import retry_after
from flowcatd.sip.resolve import Target, is_failure_of_target
from flowcatd.sip.timers import Timers
from flowcatd.sip.transaction import Transactions
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri
from flowcatd.wake import Wake

TARGET_SECONDS: Final = 8.0
TARGETS_MAX: Final = 8
"""Of one errand; with more it would not be over before the next one begins."""
LOOKUPS: Final = 16
"""Names that are looked up at once."""


class Clock(Protocol):
    """The worker's (`clock.py`)."""

    def now(self) -> float:
        """Monotonic seconds."""

    def wake(self, due: float, callback: Callable[[], None]) -> Wake:
        """Call back then."""


class Finder(Protocol):
    """The resolver (`links/dns.py`)."""

    async def find(self, uri: Uri) -> tuple[Target, ...]:
        """Where to send; SipError or LinkError when there is no such place."""

    async def look(self, uri: Uri) -> Found:
        """As `find`, and how long that holds."""

    def shun(self, target: Target, retry_after: float | None = None) -> None:
        """It failed."""

    def praise(self, target: Target) -> None:
        """It answered."""


@dataclass(frozen=True, slots=True)
class Road:
    """How errands leave this process."""

    send: Callable[[bytes, Hop], None]
    clock: Clock
    finder: Finder
    timers: Timers = field(default_factory=Timers)
    target_seconds: float = TARGET_SECONDS


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an errand."""

    response: Response | None
    """None when nobody answered."""
    hop: Hop | None
    """Where the answer came from: with the number of its connection."""
    problem: str = ""
    """Why nobody did."""


@dataclass(eq=False, slots=True)
class Errand:
    """One request; `addressed` makes it ready for a hop, with a fresh branch."""

    where: tuple[Uri, ...]
    """Whose targets are tried, all of the first before those of the second."""
    addressed: Callable[[Hop], Request]
    done: Callable[[Outcome], None]
    """Told once, unless it is called off."""
    first: Hop | None = None
    """Tried before all others and without looking anything up: where the last answer came from."""
    in_hurry: bool = False
    """Whether the last target has no longer than the others."""
    targets: deque[Target] = field(default_factory=deque)
    looked_up: bool = False
    hop: Hop | None = None
    """Where it is now."""
    transaction: TransactionId | None = None
    patience: Wake | None = None
    problem: str = "no answer"
    over: bool = False


class Errands:
    """All of one worker."""

    def __init__(self, road: Road) -> None:
        self._road = road
        self._transactions = Transactions(road.timers)
        self._errands: dict[TransactionId, Errand] = {}
        self._branches: dict[str, TransactionId] = {}
        self._names: dict[TransactionId, str] = {}
        self._lookups = asyncio.Semaphore(LOOKUPS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake: Wake | None = None

    def __len__(self) -> int:
        """Transactions that are not over."""
        return len(self._names)

    # --- wanted

    def begin(self, errand: Errand) -> None:
        """Send it on its way."""
        if errand.first is not None:
            self._go(errand, errand.first)
        else:
            self._look_up(errand)

    def call_off(self, errand: Errand) -> None:
        """Nobody wants to know any more."""
        errand.over = True
        self._let_go(errand)

    def close(self) -> None:
        """Send and look up nothing more."""
        for task in self._tasks:
            task.cancel()
        if self._wake is not None:
            self._wake.cancel()
        for errand in list(self._errands.values()):
            self.call_off(errand)

    # --- told

    def receive(self, response: Response, hop: Hop, now: float) -> bool:
        """Whether it was ours."""
        if response.top.branch not in self._branches:
            return False
        self._transactions.receive(response, hop, now)
        self._settle()
        return True

    def receive_failure(self, hop: Hop, now: float) -> bool:
        """Nothing can be sent there any more; whether anything of ours was under way to it."""
        # A connection that was opened for us has a number which its first request did not know.
        hops = {hop, replace(hop, connection=0)}
        if not any(errand.hop in hops for errand in self._errands.values()):
            return False
        for each in hops:
            self._transactions.receive_failure(each, now)
        self._settle()
        return True

    # --- one errand

    def _look_up(self, errand: Errand) -> None:
        errand.looked_up = True
        task = asyncio.get_running_loop().create_task(self._find(errand), name="trunk.lookup")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find(self, errand: Errand) -> None:
        found: list[Target] = []
        async with self._lookups:
            for uri in errand.where:
                if errand.over:
                    return
                try:
                    found += await self._road.finder.find(uri)
                except (SipError, LinkError) as error:
                    errand.problem = str(error)
        errand.targets.extend(found[:TARGETS_MAX])
        self._next(errand)

    def _next(self, errand: Errand) -> None:
        if errand.over:
            return
        if errand.targets:
            target = errand.targets[0]
            self._go(errand, Hop(target.transport, target.host, target.port, 0, target.name))
        elif not errand.looked_up:
            self._look_up(errand)
        else:
            self._end(errand, Outcome(None, None, errand.problem))

    def _go(self, errand: Errand, hop: Hop) -> None:
        clock = self._road.clock
        request = errand.addressed(hop)
        errand.hop = hop
        try:
            number = self._transactions.send(request, hop, clock.now())
        except CapacityError as error:
            self._end(errand, Outcome(None, None, str(error)))
            return
        errand.transaction = number
        self._errands[number] = errand
        self._branches[request.top.branch] = number
        self._names[number] = request.top.branch
        if errand.in_hurry or len(errand.targets) > 1 or not errand.looked_up:
            due = clock.now() + self._road.target_seconds
            errand.patience = clock.wake(due, partial(self._fail, errand, number))
        self._settle()

    def _fail(
        self, errand: Errand, number: TransactionId, response: Response | None = None
    ) -> None:
        """This target did not answer, or answered 503."""
        if errand.over or errand.transaction != number:
            return
        self._let_go(errand)
        if errand.targets and errand.looked_up:
            pause = retry_after(response) if response is not None else 0.0
            self._road.finder.shun(errand.targets.popleft(), pause or None)
        errand.problem = "no answer"
        if response is not None and not errand.targets and errand.looked_up:
            self._end(errand, Outcome(response, None))
        else:
            self._next(errand)

    def _answer(self, errand: Errand, number: TransactionId, event: Answered) -> None:
        response = event.response
        if not response.is_final:
            return
        if is_failure_of_target(response.status):
            self._fail(errand, number, response)
            return
        if errand.targets and errand.looked_up:
            self._road.finder.praise(errand.targets[0])
        self._end(errand, Outcome(response, self._way_back(errand, event.hop)))

    def _way_back(self, errand: Errand, hop: Hop) -> Hop:
        """Where the next request of the same purpose goes: the target, over the same connection."""
        assert errand.hop is not None
        return replace(errand.hop, connection=hop.connection if hop.is_reliable else 0)

    def _end(self, errand: Errand, outcome: Outcome) -> None:
        self._let_go(errand)
        errand.over = True
        errand.done(outcome)

    def _let_go(self, errand: Errand) -> None:
        """Late answers of a target that was given up are nobody's."""
        if errand.patience is not None:
            errand.patience.cancel()
            errand.patience = None
        if errand.transaction is not None:
            self._errands.pop(errand.transaction, None)
            errand.transaction = None

    # --- the pump

    def _settle(self) -> None:
        """Send what is to be sent, say what happened, and be woken in time."""
        transactions = self._transactions
        for each in transactions.outgoing():
            self._road.send(each.data, each.hop)
        for event in transactions.events():
            if isinstance(event, Ended):
                self._branches.pop(self._names.pop(event.id, ""), None)
                continue
            if not isinstance(event, Answered | TimedOut | Undelivered):
                continue
            errand = self._errands.get(event.id)
            if errand is None:
                continue
            if isinstance(event, Answered):
                self._answer(errand, event.id, event)
            else:
                self._fail(errand, event.id)
        self._arm()

    def _arm(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
        due = self._transactions.wake_at()
        self._wake = None if due is None else self._road.clock.wake(due, self._woken)

    def _woken(self) -> None:
        self._transactions.wake(self._road.clock.now())
        self._settle()
