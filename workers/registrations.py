"""Every trunk's REGISTER and OPTIONS, each done by exactly one worker of the fleet.

Who does it is rendezvous hashing over the heads that serve (`steer.tender`), looked at every second and
whenever somebody calls `look`. Who becomes a trunk's tender registers it at once; the Contact is the same
for all workers, so that this takes the place of what was there. Who finds twice that another one is it
lets go, and does not unregister.

    a worker dies         its rows say so, or its timer does: within LOOK_SECONDS + STALE_SECONDS its
                          trunks are another's, and again its own when the slot is filled anew
    it drains             `leave`: what a fellow takes over is the fellow's; when nobody is left, when the
                          whole daemon ends, that is, the bindings are taken back
    the trunks change     `change`: a trunk is touched only where what it is registered with differs

Answers to us are known by their branch, which this process stamped: `receive` says whether it was one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flowcatd.log import get_logger
from flowcatd.sip.event import Hop
from flowcatd.sip.message import Response
from flowcatd.sip.register import State
from flowcatd.sip.trunk import REREGISTER, Trunk, compare_trunks
from flowcatd.wake import Wake
from workers.steer import find_tender, heads
from workers.trunk_errands import Errands
from workers.trunk_sources import TrunkSources
from workers.trunk_tending import Means, Pinging, Registering

log = get_logger()

LOOK_SECONDS: Final = 1.0
STARTS_PER_SECOND: Final = 50
"""Of a thousand trunks: their registrars may be one."""
AWAY_LOOKS: Final = 2
"""How often in a row another must be the tender: one who is late for a moment gets its trunks back."""
HAND_OVER_SECONDS: Final = 1.0
"""How long a worker that leaves waits to see whether its fellows leave as well."""
LEAVE_SECONDS: Final = 5.0
"""From then on; a registration itself gives up after `leave_seconds` (4)."""


@dataclass(frozen=True, slots=True)
class TrunkLine:
    """How one trunk stands, as its tender sees it; times are seconds from now."""

    trunk: str
    state: str
    """idle, asking, registered, waiting, leaving, left; empty for a trunk that does not register."""
    is_registered: bool
    expires_in: float
    next_in: float | None
    failures: int
    """Registrations in a row that failed."""
    status: int
    """Of the last answer to REGISTER; 0 is none."""
    problem: str
    is_alive: bool
    unanswered: int
    """OPTIONS in a row without a good answer."""
    seen: str
    """Where the registrar saw us, when a NAT stands between: host and port."""


@dataclass(slots=True)
class _Tended:
    """A trunk that is done here."""

    registering: Registering | None
    pinging: Pinging | None
    away: int = 0
    """Looks in a row after which it was another's."""

    def drop(self) -> None:
        if self.registering is not None:
            self.registering.drop()
        if self.pinging is not None:
            self.pinging.drop()


class Registrations:
    """One worker's share; made on its loop. Nothing is done before `start`."""

    def __init__(self, means: Means, trunks: Mapping[str, Trunk]) -> None:
        self._means = means
        self._clock = means.road.clock
        self._errands = Errands(means.road)
        self._sources = TrunkSources(means.road.finder, self._clock, means.learn)
        self._trunks = dict(trunks)
        self._tended: dict[str, _Tended] = {}
        self._parting: set[Registering] = set()
        self._heads: dict[int, int] = {}
        self._mine: frozenset[str] = frozenset()
        self._leaving = False
        self._wake: Wake | None = None

    # --- wanted

    def start(self) -> None:
        """Begin: look who does what, and learn where the peers are."""
        self._sources.change(self._trunks)
        self._tick()

    def look(self) -> None:
        """See whether what is ours to do has changed; done every second anyway."""
        if self._leaving:
            return
        found = heads(self._means.loads, self._clock.now())
        if found != self._heads:
            self._heads = found
            self._assign()
        lacking = self._mine - self._tended.keys()
        if lacking:
            self._take([name for name in self._trunks if name in lacking])
        for name in [each for each in self._tended if each not in self._mine]:
            tended = self._tended[name]
            # With nobody to do it, whoever did goes on.
            tended.away = tended.away + 1 if self._heads else 0
            if tended.away >= AWAY_LOOKS:
                self._tended.pop(name).drop()
        for name in self._mine & self._tended.keys():
            self._tended[name].away = 0
        self._parting = {each for each in self._parting if not each.is_over}

    def change(self, trunks: Mapping[str, Trunk]) -> None:
        """These are the trunks now, after a reload."""
        difference = compare_trunks(self._trunks, trunks)
        old, self._trunks = self._trunks, dict(trunks)
        for trunk in difference.removed:
            self._part(trunk.name)
        for trunk, sections in difference.changed:
            if trunk.name not in self._tended or not sections & REREGISTER:
                continue
            if _is_same_binding(old[trunk.name], trunk):
                self._tended.pop(trunk.name).drop()
            else:
                self._part(trunk.name)
        self._sources.change(trunks)
        self._assign()
        self.look()

    async def leave(self) -> None:
        """We take no more calls: fellows take over, or else the bindings are taken back. Bounded."""
        self._leaving = True
        deadline = self._clock.now() + HAND_OVER_SECONDS
        while self._tended and self._clock.now() < deadline:
            if not self._fellows():
                for name in list(self._tended):
                    self._part(name)
                break
            await self._pause(0.05)  # the load table is memory: there is nobody to wake us
        for name in list(self._tended):
            self._tended.pop(name).drop()
        deadline = self._clock.now() + LEAVE_SECONDS
        while self._is_parting() and self._clock.now() < deadline:
            await self._pause(0.02)

    def close(self) -> None:
        """Send nothing more."""
        self._leaving = True
        if self._wake is not None:
            self._wake.cancel()
        for tended in self._tended.values():
            tended.drop()
        for registering in self._parting:
            registering.drop()
        self._tended = {}
        self._parting = set()
        self._sources.close()
        self._errands.close()

    # --- told

    def receive(self, response: Response, hop: Hop, now: float) -> bool:
        """An answer arrived; whether it was ours."""
        return self._errands.receive(response, hop, now)

    def receive_failure(self, hop: Hop, now: float) -> bool:
        """Nothing can be sent there any more; whether that concerns us, as it may others, too."""
        concerns = self._errands.receive_failure(hop, now)
        for tended in list(self._tended.values()):
            if tended.registering is not None and tended.registering.receive_failure(hop, now):
                concerns = True
        return concerns

    # --- to collect

    def is_alive(self, trunk: str) -> bool:
        """Whether calls over it are worth trying; one that is not asked, or not by us, is."""
        tended = self._tended.get(trunk)
        return tended is None or tended.pinging is None or tended.pinging.health.is_alive

    def lines(self) -> tuple[TrunkLine, ...]:
        """How the trunks stand that are ours to do, by name."""
        return tuple(_line(name, self._tended[name]) for name in sorted(self._tended))

    # --- who does what

    def _tick(self) -> None:
        self.look()
        if not self._leaving:
            self._wake = self._clock.wake(self._clock.now() + LOOK_SECONDS, self._tick)

    def _assign(self) -> None:
        seat = self._means.seat
        self._mine = frozenset(
            name
            for name, trunk in self._trunks.items()
            if _is_work(trunk) and find_tender(_key(name), self._heads) == seat
        )

    def _fellows(self) -> dict[int, int]:
        others = [each for each in self._means.loads if each.seat != self._means.seat]
        return heads(others, self._clock.now())

    def _take(self, names: list[str]) -> None:
        now = self._clock.now()
        for number, name in enumerate(names):
            due = now + number / STARTS_PER_SECOND
            self._tended[name] = self._begin(self._trunks[name], due)

    def _begin(self, trunk: Trunk, due: float) -> _Tended:
        registering = pinging = None
        if trunk.register.enabled:
            registering = Registering(trunk, self._means, self._errands)
            registering.start(due)
        if trunk.peer.options_seconds:
            pinging = Pinging(
                trunk,
                self._means,
                self._errands,
                lambda: None if registering is None else registering.flow,
            )
            pinging.start(due)
        return _Tended(registering, pinging)

    def _part(self, name: str) -> None:
        """Take a binding back, if it is ours to take back."""
        tended = self._tended.pop(name, None)
        if tended is None:
            return
        if tended.pinging is not None:
            tended.pinging.drop()
        if tended.registering is not None:
            self._parting.add(tended.registering)
            tended.registering.stop()

    async def _pause(self, seconds: float) -> None:
        passed = asyncio.Event()
        wake = self._clock.wake(self._clock.now() + seconds, passed.set)
        try:
            await passed.wait()
        finally:
            wake.cancel()

    def _is_parting(self) -> bool:
        return any(not each.is_over for each in self._parting)


def _key(trunk: str) -> bytes:
    return b"trunk\0" + trunk.encode()


def _is_work(trunk: Trunk) -> bool:
    return trunk.register.enabled or trunk.peer.options_seconds > 0


def _is_same_binding(old: Trunk, new: Trunk) -> bool:
    """Whether the new trunk's REGISTER takes the place of the old one's."""
    return new.register.enabled and all(
        one == other
        for one, other in (
            (old.registrar, new.registrar),
            (old.domain, new.domain),
            (old.account.user, new.account.user),
            (old.peer.transport, new.peer.transport),
        )
    )


def _line(name: str, tended: _Tended) -> TrunkLine:
    registering, pinging = tended.registering, tended.pinging
    status = None if registering is None else registering.status()
    health = None if pinging is None else pinging.health
    return TrunkLine(
        trunk=name,
        state="" if status is None else _WORDS[status.state],
        is_registered=status is not None and status.is_registered,
        expires_in=0.0 if status is None else status.expires_in,
        next_in=None if status is None else status.next_in,
        failures=0 if status is None else status.failures,
        status=0 if status is None else status.last_status,
        problem="" if status is None else status.problem,
        is_alive=health is None or health.is_alive,
        unanswered=0 if health is None else health.failures,
        seen="" if registering is None else registering.seen,
    )


_WORDS: Final = {state: state.name.lower() for state in State}
