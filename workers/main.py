"""What runs after the fork: one loop, its doors, its calls, until it is told to go.

Order of a start: the log, the agents, the speech helpers, the household, the doors; only then does
the row say SERVING and READY is written, so a worker that says it serves can serve. Order of an end:
no new calls, live ones finish or hear a goodbye, then fellows, helpers and the disk are let go of.

    SIGUSR1  retire: the queue of the door is taken, then the door is closed; calls may go on long
    SIGHUP   read the trunks again
    SIGTERM  drain: the door stays open to refuse in the caller's language; calls may go on a while
    SIGINT   stop: every call is ended now
    parent's death as SIGTERM, with the door closed; a more urgent order replaces one that is being carried out
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from enum import IntEnum
from functools import partial

import uvloop

from flowcatd.control import CallLine, Level, TrunkLine
from flowcatd.environment import reveal
from flowcatd.errors import ConfigError, LinkError
from flowcatd.links.disk import Disk
from flowcatd.log import configure, get_logger, set_level
from flowcatd.metrics import Metrics
from flowcatd.record import Outcome, Reason
from flowcatd.sip_figures import SipFigures
from workers.calls import CallTable
from workers.clock import WorkerClock
from workers.entrance import Entrance
from workers.household import Household
from workers.listeners import Doors
from workers.orphans import Orphans
from workers.plan import READY_MARK, ExitCode, WorkerPlan
from workers.rest import Rest
from workers.sip_figures import count
from workers.sip_side import Around, SipSide
from workers.speech import Speech
from workers.uplink import Place, Uplink
from workers.watch import CallWatch
from workers.wiring import Store, Wiring, open_store, warm

log = get_logger()

FINISH_SECONDS = 1.0
"""Beyond calls.end_seconds: calls that ended at the last moment close their sockets."""


class Order(IntEnum):
    """What a worker can be told; the greater the more urgent."""

    RETIRE = 1
    """A successor serves: live calls finish within workers.retire_seconds."""
    DRAIN = 2
    """The daemon ends: live calls finish within calls.drain_seconds."""
    ORPHAN = 3
    """The supervisor is gone: drain, and say so with the exit code."""
    STOP = 4
    """End every call now."""


_SIGNALS = {
    signal.SIGUSR1: Order.RETIRE,
    signal.SIGTERM: Order.DRAIN,
    signal.SIGINT: Order.STOP,
}


def run(plan: WorkerPlan) -> int:
    """Serve until told to go; the result is the process's exit code."""
    configure(plan.options.log, slot=plan.slot)
    # Python's own handler runs between bytecodes only; this one, in C, also tells of a hung worker
    # where it hangs. Files, lines and function names, no values.
    faulthandler.register(signal.SIGUSR2, file=sys.stderr, all_threads=True)
    try:
        return uvloop.run(_Worker(plan).serve())
    except ConfigError as error:
        log.error("worker.failed", why=str(error))
        return ExitCode.CONFIG
    except (LinkError, OSError) as error:
        # A speech helper that does not come up, no descriptors, no room: the next time it may.
        log.error("worker.failed", why=str(error))
        return ExitCode.CRASHED


class _Worker:
    """One process of many calls."""

    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._order: Order | None = None
        self._told_more = asyncio.Event()
        self._clock: WorkerClock
        self._table: CallTable
        self._sip: SipSide | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def serve(self) -> int:
        """Start, serve, end."""
        plan, options = self._plan, self._plan.options
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_loop_raised)
        self._watch(loop)
        row = plan.load.row(plan.seat)
        self._clock = clock = WorkerClock(loop)
        self._table = table = CallTable(options.calls, row, plan.load)
        household = Household(plan, clock, Metrics(), table, row)
        disk = Disk()
        store = open_store(options.records, disk, plan.records_directory, plan.slot)
        voices = {agent.voice for agent in plan.agents.values()}
        speech = Speech(options.speech, plan.providers_directory, voices)
        async with AsyncExitStack() as ending:
            ending.callback(store.close)
            ending.push_async_callback(disk.close, options.calls.end_seconds)
            if plan.sip_doors:
                self._sip = sip = self._make_sip(household)
                ending.push_async_callback(sip.close)
                await sip.adopt(store.journals)
            ending.push_async_callback(_close, speech)
            if await self._unless_told(None, starting := asyncio.ensure_future(speech.start())):
                log.info("worker.told", calls=0)
                return self._exit_code()
            starting.result()
            warm()
            entrance = await self._open(ending, household, store, speech)
            household.settle()
            table.shedding = False
            self._ready()
            log.info("worker.started", pid=os.getpid(), port=plan.port)
            await self._until_over(entrance)
        household.close()
        log.info("worker.stopped", leaked=table.leaked)
        return self._exit_code()

    async def _open(
        self, ending: AsyncExitStack, household: Household, store: Store, speech: Speech
    ) -> Entrance:
        """Everything that takes calls; the worker can speak by now."""
        plan, options = self._plan, self._plan.options
        uplink = self._open_uplink(household)
        ending.callback(uplink.close)
        watch = CallWatch(plan.slot, household.metrics, uplink.publish, household.defers)
        orphans = Orphans(options, self._clock, store, watch)
        orphans.loads = plan.load
        if self._sip is not None:
            orphans.part = self._sip.part
        orphans.begin()
        ending.callback(orphans.close)
        wiring = Wiring(options, self._clock, speech, store, watch, household.shedding)
        identity = (plan.slot, options.agents.default)
        told = (watch.refused, household.ended)
        token = reveal(options.server.token)
        doors = Doors(token, self._table, wiring, plan.agents, identity, told)
        entrance = Entrance(plan, self._table, doors, self._sip)
        await entrance.open(options.workers.bound)
        ending.push_async_callback(entrance.close)
        if self._sip is not None:
            sip = self._sip
            rest = Rest(sip.dialling, token, options.calls.retry_after_seconds)
            doors.dial, doors.sip = rest.place, sip.wire.websocket
            sip.open(wiring, entrance.give_sip, watch.refused)
            ending.push_async_callback(
                sip.close
            )  # before fellows' lines: they are told what is gone
            household.outside.sip = partial(count, sip)
        household.outside.hand_overs = entrance.hand_overs
        household.outside.helpers_lost = lambda: speech.helpers_lost
        household.outside.pace = uplink.pace
        household.outside.events_dropped = lambda: uplink.dropped + watch.left_out
        return entrance

    def _make_sip(self, household: Household) -> SipSide:
        metrics = household.metrics
        return SipSide(
            Around(
                plan=self._plan,
                clock=self._clock,
                table=self._table,
                agents=self._plan.agents,
                ended=household.ended,
                answered_after=partial(metrics.observe, "answer_delay_seconds"),
            )
        )

    def _exit_code(self) -> int:
        return ExitCode.PARENT_GONE if self._order is Order.ORPHAN else ExitCode.OK

    def _open_uplink(self, household: Household) -> Uplink:
        plan = self._plan
        place = Place(plan.runtime_directory, plan.seat, plan.slot, os.getpid())
        return Uplink(place, self, lambda: len(self._table), household.snapshot)

    # --- what operators ask (workers.uplink.Told) -------------------------------------------------

    def list_calls(self) -> list[CallLine]:
        """The live calls."""
        return self._table.lines(self._clock.now())

    def hang_up(self, call: str) -> bool:
        """End the call of this call id or run id; false when there is none."""
        found = self._table.find(call)
        if found is not None:
            found.end(Outcome(reason=Reason.CANCELLED))
        return found is not None

    def set_level(self, level: Level) -> None:
        """Write log lines from this level up."""
        set_level(level)

    def ladder(self, call: str) -> SipFigures | None:
        """How the call of this call id or run id goes; None when it is not here or not over SIP."""
        found = self._table.find(call)
        return None if found is None or self._sip is None else self._sip.figures(found.id)

    def trunks(self) -> list[TrunkLine]:
        """Every trunk, with what this worker knows of it."""
        return [] if self._sip is None else self._sip.trunk_lines()

    def change_trunks(self) -> None:
        """Read the trunks again (SIGHUP)."""
        if self._sip is not None:
            self._sip.change()

    # --- the end ----------------------------------------------------------------------------------

    async def _until_over(self, entrance: Entrance) -> None:
        """Wait for an order, then for the calls; a more urgent order shortens the waiting."""
        order = await self._next_order(None)
        self._table.draining = True
        if self._sip is not None:
            # Beside the waiting for calls: fellows take the trunks over meanwhile.
            self._leaving = asyncio.ensure_future(self._sip.leave())
        while True:
            if order in {Order.RETIRE, Order.ORPHAN}:
                # Somebody else has the port, or is about to: a new daemon can take it at once.
                entrance.stop()
                if self._sip is not None:
                    self._sip.stop()
            if order is Order.ORPHAN and self._sip is not None:
                self._sip.leave_ports()
            if order is Order.RETIRE:
                log.info("worker.retired", calls=len(self._table))
            else:
                log.info(
                    "worker.told" if order is Order.STOP else "worker.drained",
                    calls=len(self._table),
                )
            more = await self._wait_for_calls(order)
            if more is None:
                return
            order = more

    async def _wait_for_calls(self, order: Order) -> Order | None:
        """Let calls finish as this order allows; the more urgent one that came meanwhile, or None."""
        calls, workers = self._plan.options.calls, self._plan.options.workers
        table = self._table
        if order is not Order.STOP:
            patience = workers.retire_seconds if order is Order.RETIRE else calls.drain_seconds
            if (more := await self._unless_told(order, table.drained(patience))) is not None:
                return more
            if len(table) and calls.goodbye and calls.goodbye_seconds:
                table.say_goodbye(calls.goodbye)
                goodbye = table.drained(calls.goodbye_seconds)
                if (more := await self._unless_told(order, goodbye)) is not None:
                    return more
        table.end_all(Reason.DRAINED)
        await table.drained(calls.end_seconds + FINISH_SECONDS)
        if self._leaving is not None:
            await self._leaving
        return None

    async def _unless_told(self, order: Order | None, waiting: Awaitable[object]) -> Order | None:
        """Wait, unless something more urgent than `order` is told; what raises is kept by `waiting`."""
        work = asyncio.ensure_future(waiting)
        told = asyncio.ensure_future(self._next_order(order))
        await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
        more = told.result() if told.done() else None
        for each in (work, told):
            each.cancel()
        await asyncio.gather(work, told, return_exceptions=True)
        return more

    async def _next_order(self, than: Order | None) -> Order:
        """The first order that is more urgent than this one."""
        while self._order is None or (than is not None and self._order <= than):
            self._told_more.clear()
            await self._told_more.wait()
        return self._order

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        for number, order in _SIGNALS.items():
            loop.add_signal_handler(number, self._told, order)
        loop.add_signal_handler(signal.SIGHUP, self.change_trunks)
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
        if self._order is None or order > self._order:
            self._order = order
            self._told_more.set()

    def _ready(self) -> None:
        os.write(self._plan.ready_fd, READY_MARK)
        os.close(self._plan.ready_fd)


async def _close(speech: Speech) -> None:
    with contextlib.suppress(LinkError):
        await speech.close()


def _loop_raised(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """The loop's own boundary: what raised outside of any call is logged, and nobody's call ends."""
    error = context.get("exception")
    log.error(
        "loop.raised",
        what=str(context.get("message", "")),
        exc_info=error if isinstance(error, BaseException) else None,
    )
