"""Forking one worker: its seat, its sockets, its CPU and its orders, put together and given to a child.

Whatever is missing (a seat, a descriptor, memory, a process) makes it a ForkFailed, and nothing of
the attempt is left; the fleet tries again later.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

from flowcatd.environment import records_directory
from flowcatd.errors import ConfigError
from flowcatd.log import get_logger
from supervisor.config import Config
from supervisor.holdings import Holdings
from supervisor.orders import Forked, ForkFailed
from supervisor.process import now
from workers.plan import WorkerPlan

Work = Callable[[WorkerPlan], int]
"""A worker's life in its child."""
Prepare = Callable[[Config], Mapping[str, Any]]
"""Reads the agents of a configuration, once for all its workers."""

log = get_logger()


class Forking:
    """Makes workers out of slots and configurations."""

    def __init__(self, holdings: Holdings, work: Work, prepare: Prepare) -> None:
        self._holdings = holdings
        self._work = work
        self._prepare = prepare
        self._agents: dict[int, Mapping[str, Any]] = {}
        self.cpus = sorted(os.sched_getaffinity(0))

    def fork(self, config: Config, slot: int, generation: int) -> Forked | ForkFailed:
        """Start a worker for this slot with this configuration."""
        seats = self._holdings.seats
        seat = seats.take(slot, config.options.calls.per_worker, now())
        if seat is None:
            return _failed(slot, "no seat is free")
        why = "no process or no descriptor is left"
        try:
            born = self._fork(config, slot, seat, generation)
        except (OSError, ConfigError) as error:
            why, born = str(error), ForkFailed(slot)
        if isinstance(born, Forked):
            seats.seated(seat, born.pid)
            return born
        seats.free(seat)
        return _failed(slot, why)

    def enlist(self, trunks: Collection[str]) -> None:
        """These trunks' calls are counted from now on, by all workers together."""
        if uncounted := self._holdings.seats.trunk_counts.enlist(trunks):
            log.warning("trunks.uncounted", trunks=len(uncounted))

    def keep(self, generations: Collection[int]) -> None:
        """Nobody will be forked of any other."""
        self._agents = {each: self._agents[each] for each in self._agents if each in generations}

    def _fork(self, config: Config, slot: int, seat: int, generation: int) -> Forked | ForkFailed:
        doors = self._holdings.open_doors(slot)
        agents = self._agents_of(config, generation)
        seats = self._holdings.seats
        cpu = self.cpus[slot % len(self.cpus)] if config.options.workers.pin_cpus else None

        def live(ready_fd: int, alive_fd: int) -> int:
            return self._work(
                WorkerPlan(
                    slot=slot,
                    seat=seat,
                    generation=generation,
                    load=seats.table,
                    cpu=cpu,
                    options=config.options,
                    port=self._holdings.port,
                    door_fd=doors[0],
                    sip_doors=doors[1],
                    ready_fd=ready_fd,
                    alive_fd=alive_fd,
                    agents=agents,
                    runtime_directory=self._holdings.runtime,
                    records_directory=records_directory(config.options.records.directory),
                    providers_directory=config.providers_directory,
                    trunk_counts=seats.trunk_counts,
                    trunks=config.trunks,
                    trunks_directory=config.trunks_directory,
                    config_directory=config.directory,
                )
            )

        keep = {doors[0], *doors[1].values(), seats.descriptor}
        return self._holdings.children.fork(slot, live, cpu=cpu, keep=keep)

    def _agents_of(self, config: Config, generation: int) -> Mapping[str, Any]:
        """Read before the fork, so that workers share their pages: 8 MB each otherwise."""
        if generation not in self._agents:
            self._agents[generation] = self._prepare(config)
            self.enlist(config.trunks)
        return self._agents[generation]


def _failed(slot: int, why: str) -> ForkFailed:
    log.error("fleet.fork_failed", worker=slot, why=why)
    return ForkFailed(slot)
