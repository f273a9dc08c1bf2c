"""Where the peers of trunks with `inbound.peer_is_source` are: looked up by every worker for itself.

A call from one of their addresses is the trunk's, so all of them count, of every proxy and of the
registrar. They are looked up again when the first answer runs out, within LEARN_SECONDS in any case.
A name that cannot be resolved now is where it was: a DNS that fails must not turn callers away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import Final

from flowcatd.errors import LinkError
from flowcatd.log import get_logger
from flowcatd.sip.trouble import SipError
from flowcatd.sip.trunk import Trunk
from flowcatd.sip.uri import Uri
from flowcatd.wake import Wake
from workers.trunk_errands import LOOKUPS, Clock, Finder

log = get_logger()

LEARN_SECONDS: Final = 60.0
LEAST_SECONDS: Final = 5.0

OnLearned = Callable[[str, tuple[str, ...]], None]


class TrunkSources:
    """Of all trunks; `learn` is told of a trunk whenever its addresses are not as before."""

    def __init__(self, finder: Finder, clock: Clock, learn: OnLearned) -> None:
        self._finder = finder
        self._clock = clock
        self._learn = learn
        self._wanted: dict[str, tuple[Uri, ...]] = {}
        self._known: dict[str, dict[str, tuple[str, ...]]] = {}
        self._told: dict[str, tuple[str, ...]] = {}
        self._wakes: dict[str, Wake] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lookups = asyncio.Semaphore(LOOKUPS)

    def change(self, trunks: Mapping[str, Trunk]) -> None:
        """These are the trunks now; one whose peers are the same is not looked up anew."""
        wanted = {name: _peers(each) for name, each in trunks.items() if _is_asked_for(each)}
        for name in [each for each in self._wanted if wanted.get(each) != self._wanted[each]]:
            self._forget(name)
        for name in wanted.keys() - self._wanted.keys():
            self._begin(name)
        self._wanted = wanted
        # Whoever is told may have begun anew with the trunks.
        for name in wanted.keys() & self._told.keys():
            self._learn(name, self._told[name])

    def close(self) -> None:
        """Look up nothing more."""
        for name in list(self._wanted):
            self._forget(name)
        self._wanted = {}

    def _forget(self, name: str) -> None:
        for kept in (self._wanted, self._known, self._told):
            kept.pop(name, None)
        if (wake := self._wakes.pop(name, None)) is not None:
            wake.cancel()
        if (task := self._tasks.pop(name, None)) is not None:
            task.cancel()

    def _begin(self, name: str) -> None:
        self._wakes.pop(name, None)
        task = asyncio.get_running_loop().create_task(self._look(name), name="trunk.sources")
        self._tasks[name] = task
        task.add_done_callback(partial(self._ended, name))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]

    async def _look(self, name: str) -> None:
        async with self._lookups:
            until = inf
            known = self._known.setdefault(name, {})
            for uri in self._wanted[name]:
                try:
                    found = await self._finder.look(uri)
                except (SipError, LinkError) as error:
                    log.debug("trunk.unresolved", trunk=name, why=str(error))
                    until = -inf
                else:
                    known[str(uri)] = tuple(each.host for each in found.targets)
                    until = min(until, found.until)
        now = self._clock.now()
        addresses = tuple(sorted({each for found_at in known.values() for each in found_at}))
        if addresses and addresses != self._told.get(name):
            self._told[name] = addresses
            self._learn(name, addresses)
        if until < inf:
            due = now + min(max(until - now, LEAST_SECONDS), LEARN_SECONDS)
            self._wakes[name] = self._clock.wake(due, partial(self._begin, name))


def _is_asked_for(trunk: Trunk) -> bool:
    return trunk.inbound.peer_is_source


def _peers(trunk: Trunk) -> tuple[Uri, ...]:
    peers = list(trunk.next_hops)
    if trunk.register.enabled:
        peers.append(trunk.registrar)
    return tuple({str(each): each for each in peers}.values())
