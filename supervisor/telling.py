"""How the daemon is, in words for operators and lines for the log."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import assert_never

from flowcatd import __version__
from flowcatd.control import Fleet as FleetState
from flowcatd.control import WorkerLine
from flowcatd.log import get_logger
from supervisor.config import Config
from supervisor.fleet import Fleet
from supervisor.holdings import Holdings
from supervisor.orders import Finished, GiveUp, Gone, Lost, Started, Stopped
from supervisor.process import now
from workers.load import Standing

LINES_MAX = 512
"""Workers named in one state message, which must fit into the line to the switchboard."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class Said:
    """What only the daemon's loop knows."""

    state: str
    last_reload: str
    seconds: float
    """Since the start."""


def serving(workers: int) -> str:
    """`4 workers serve`."""
    return "1 worker serves" if workers == 1 else f"{workers} workers serve"


def describe(fleet: Fleet, holdings: Holdings, config: Config, said: Said) -> FleetState:
    """The whole state as one message."""
    return FleetState(
        version=__version__,
        pid=os.getpid(),
        uptime_seconds=round(said.seconds, 1),
        state=said.state,
        slots=fleet.wanted,
        generation=fleet.generation,
        restarts=fleet.restarts,
        config=config.where,
        address=f"{config.options.server.host}:{holdings.port}",
        metrics_address=holdings.metrics_address,
        last_reload=said.last_reload,
        workers=_lines(fleet, holdings),
    )


def _lines(fleet: Fleet, holdings: Holdings) -> list[WorkerLine]:
    at = now()
    lines = []
    for life in fleet.lines()[:LINES_MAX]:
        load = holdings.seats.load_of(life.pid)
        lines.append(
            WorkerLine(
                seat=-1 if load is None else load.seat,
                slot=life.slot,
                pid=life.pid,
                state=life.state,
                generation=life.generation,
                seconds=round(at - life.since, 1),
                calls=0 if load is None else load.calls,
                capacity=0 if load is None else load.capacity,
                lag_ms=0.0 if load is None else load.lag_us / 1000,
                shedding=load is not None and load.standing is Standing.SHEDDING,
            )
        )
    return lines


def report(action: Started | Lost | Gone | Stopped | GiveUp | Finished) -> None:
    """What the fleet only wants told."""
    match action:
        case Started(slot, pid, seconds):
            log.debug("worker.counted", worker=slot, pid=pid, seconds=round(seconds, 3))
        case Lost(slot, pid, how, again):
            log.warning("worker.lost", worker=slot, pid=pid, how=how, again_seconds=again)
        case Gone(slot, pid, how):
            log.warning("worker.gone", worker=slot, pid=pid, how=how)
        case Stopped(slot, pid, how):
            log.info("worker.reaped", worker=slot, pid=pid, how=how)
        case GiveUp(reason, code):
            log.error("fleet.given_up", reason=reason, code=code)
        case Finished(code):
            log.info("fleet.finished", code=code)
        case _:
            assert_never(action)
