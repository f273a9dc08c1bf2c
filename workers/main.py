"""What runs after the fork: one loop, its doors, its calls, until it is told to go.

Order of a start: the log, the agents, the speech helpers, the doors; only then is READY written, so
a worker that says it serves can serve. Order of an end: the doors close, live calls finish (SIGTERM)
or are ended (SIGINT), helpers go, the disk has written what it was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Callable
from enum import Enum, auto

import uvloop
from aiohttp import web

from flowcatd.environment import reveal
from flowcatd.errors import ConfigError, LinkError
from flowcatd.links.disk import Disk
from flowcatd.log import configure, get_logger
from flowcatd.record import Reason
from workers.agents import load_agents
from workers.calls import CallTable
from workers.clock import WorkerClock
from workers.lag import LagWatch
from workers.listeners import BACKLOG, Doors, listen
from workers.plan import READY_MARK, ExitCode, WorkerPlan
from workers.speech import Speech
from workers.wiring import Wiring, warm

log = get_logger()


class Order(Enum):
    """What a worker can be told."""

    DRAIN = auto()
    """No new calls; live ones finish within calls.drain_seconds."""
    STOP = auto()
    """End every call now."""
    ORPHAN = auto()
    """The supervisor is gone: drain, and say so with the exit code."""


def run(plan: WorkerPlan) -> int:
    """Serve until told to go; the result is the process's exit code."""
    configure(plan.options.log, slot=plan.slot)
    try:
        return uvloop.run(_Worker(plan).serve())
    except ConfigError as error:
        log.error("fleet.given_up", why=str(error))
        return ExitCode.CONFIG
    except LinkError as error:  # a speech helper that does not come up; it may the next time
        log.error("helper.lost", why=str(error))
        return ExitCode.CRASHED


class _Worker:
    """One process of many calls."""

    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._orders: asyncio.Queue[Order] = asyncio.Queue(maxsize=8)

    async def serve(self) -> int:
        """Start, serve, end."""
        plan, options = self._plan, self._plan.options
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_loop_raised)
        token = reveal(options.server.token)
        agents = load_agents(plan.agents_directory, options.agents.default)
        try:
            door = listen(options.server.host, plan.port)
        except OSError as error:
            where = f"{options.server.host}:{plan.port}"
            log.error("fleet.given_up", why=f"cannot listen on {where}: {error.strerror or error}")
            return ExitCode.BIND
        self._watch(loop)
        table = CallTable(options.calls)
        disk = Disk()
        voices = {agent.voice for agent in agents.values()}
        speech = Speech(options.speech, plan.providers_directory, voices)
        try:
            await speech.start()
            warm()
            clock = WorkerClock(loop)
            LagWatch(clock)
            wiring = Wiring(options, clock, speech, disk, plan.records_directory)
            doors = Doors(token, table, wiring, agents, (plan.slot, options.agents.default))
            runner = web.AppRunner(
                doors.application(), access_log=None, handle_signals=False, shutdown_timeout=1.0
            )
            await runner.setup()
            site = web.SockSite(runner, door, backlog=BACKLOG)
            await site.start()
            self._ready()
            log.info("worker.started", pid=os.getpid(), port=plan.port)
            code = await self._until_told(table, site)
            await runner.cleanup()
        finally:
            with contextlib.suppress(LinkError):
                await speech.close()
            await disk.close(options.calls.end_seconds)
        log.info("worker.stopped", leaked=table.leaked)
        return code

    async def _until_told(self, table: CallTable, site: web.SockSite) -> int:
        """Wait for an order, then for the calls."""
        options = self._plan.options.calls
        order = await self._orders.get()
        table.draining = True
        await site.stop()
        log.info("worker.drained" if order is not Order.STOP else "worker.told", calls=len(table))
        if order is not Order.STOP:
            await self._drain(table, options.drain_seconds)
        table.end_all(Reason.DRAINED)
        await table.drained(options.end_seconds + 1.0)
        return ExitCode.PARENT_GONE if order is Order.ORPHAN else ExitCode.OK

    async def _drain(self, table: CallTable, within: float) -> None:
        """Until the last call is gone, the time is up, or somebody says stop."""
        draining = asyncio.ensure_future(table.drained(within))
        while not draining.done():
            told = asyncio.ensure_future(self._orders.get())
            await asyncio.wait({draining, told}, return_when=asyncio.FIRST_COMPLETED)
            if told.done() and told.result() is Order.STOP:
                draining.cancel()
                break
            told.cancel()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_signal_handler(signal.SIGTERM, self._told, Order.DRAIN)
        loop.add_signal_handler(signal.SIGINT, self._told, Order.STOP)
        os.set_blocking(self._plan.alive_fd, False)
        loop.add_reader(self._plan.alive_fd, self._parent_watch(loop))

    def _parent_watch(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        def readable() -> None:
            with contextlib.suppress(BlockingIOError):
                if not os.read(self._plan.alive_fd, 64):
                    loop.remove_reader(self._plan.alive_fd)
                    log.warning("worker.orphaned")
                    self._told(Order.ORPHAN)

        return readable

    def _told(self, order: Order) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._orders.put_nowait(order)

    def _ready(self) -> None:
        gc.collect()
        gc.freeze()
        os.write(self._plan.ready_fd, READY_MARK)
        os.close(self._plan.ready_fd)


def _loop_raised(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """The loop's own boundary: what raised outside of any call is logged, and nobody's call ends."""
    error = context.get("exception")
    log.error(
        "loop.raised",
        what=str(context.get("message", "")),
        exc_info=error if isinstance(error, BaseException) else None,
    )
