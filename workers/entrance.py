"""How a connection gets to its worker: door, steering, fellows and the HTTP server, put together.

    listener ─► Door ─ Steering ─┬─ ours ─────► HTTP server (workers/listeners.py) ─► a call
                                 └─ another's ─► HandOver ─► that worker's Door.take

A connection that Steering keeps for us holds a promised place; it is redeemed under the caller's
address when the request has been parsed, or released when the connection ends before.

Who retires serves nothing new: whatever would be served here, requests that are no calls included,
goes to a fellow who serves, and so does at the end who has not yet said what it wants. Only what
nobody takes is refused, or closed, here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Any

from aiohttp import web

from flowcatd.log import get_logger
from workers.calls import CallTable
from workers.door import Door
from workers.hand_over import ACK_SECONDS, Arrival, HandOver, Receivers, Source, head_of
from workers.hand_over_message import SipGone, SipMessage
from workers.listeners import Doors
from workers.plan import WorkerPlan
from workers.sip_side import SipSide
from workers.sip_wire import Give
from workers.steer import Steering, choose

log = get_logger()

SHUTDOWN_SECONDS = 1.0
"""What HTTP requests get that are no calls, when the worker ends."""
REDEEM_POLL_SECONDS = 0.02
"""How often a connection that holds a promise is looked at, for calls.PROMISE_SECONDS at most."""
PART_POLL_SECONDS = 0.01
"""How often we look whether fellows have taken what we gave at the end."""


class Entrance:
    """Everything that lets connections in; made on the loop, used by one worker."""

    def __init__(
        self, plan: WorkerPlan, table: CallTable, doors: Doors, sip: SipSide | None = None
    ) -> None:
        """`sip` is what fellows' SIP messages are for, if anything."""
        self._plan = plan
        self._table = table
        self._sip = sip
        doors.pass_on = self._pass_on
        self._runner = web.AppRunner(
            doors.application(),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_SECONDS,
            logger=_http_log(),
        )
        self._arriving: set[asyncio.Task[Any]] = set()
        self._door: Door
        self._steering: Steering
        self._fellows: HandOver
        self._bound = 1.0
        self._retired = False

    async def open(self, bound: float) -> None:
        """Accept from now on; whose call it is, Steering decides."""
        plan, self._bound = self._plan, bound
        await self._runner.setup()
        self._steering = Steering(plan.seat, plan.load, self._promise, bound, time.monotonic)
        listener = socket.socket(fileno=plan.door_fd)
        self._fellows = HandOver(
            plan.runtime_directory,
            plan.seat,
            Receivers(
                taken=self._taken,
                returned=self._returned,
                datagram=self._datagram,
                sip=self._sip_given,
            ),
        )
        self._door = Door(listener, self._steering.decide, self._serve, self._fellows.give)
        self._door.start()

    @property
    def give_sip(self) -> Give:
        """Hands SIP messages to fellows; there is one once the entrance is open."""
        return self._fellows.give_sip

    def stop(self) -> None:
        """Take what waits at the door, route it, and accept nothing more; fellows still may give."""
        self._retired = True
        self._door.stop()
        if self._sip is not None:
            self._sip.stop()

    def hand_overs(self) -> tuple[int, int, int]:
        """Connections given, taken and returned."""
        return self._fellows.given, self._fellows.taken, self._fellows.failed

    async def close(self) -> None:
        """Let nobody in, give away who has not been served, and end what HTTP is left."""
        self.stop()
        await self._part()
        self._fellows.close()
        await asyncio.sleep(0)  # what fellows did not take is returned by the loop
        self._door.close()
        for task in list(self._arriving):
            task.cancel()
        await asyncio.gather(*self._arriving, return_exceptions=True)
        await self._runner.cleanup()

    async def _part(self) -> None:
        """Give the connections that wait here to fellows; what is given is taken, or late."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + 2 * ACK_SECONDS
        while True:
            for connection, passed in self._door.surrender():
                if not self._give_away(connection, passed):
                    connection.close()
            if not len(self._fellows) or clock() > deadline:
                return
            await asyncio.sleep(PART_POLL_SECONDS)

    def _give_away(self, connection: socket.socket, passed: tuple[int, ...]) -> bool:
        """Whether some fellow who serves gets it, whatever it wants."""
        plan = self._plan
        tried = (*passed, plan.seat)
        seat = choose(b"", plan.load, bound=self._bound, now=time.monotonic(), passed=tried)
        if seat is not None:
            self._fellows.give(seat, connection, tried)
        return seat is not None

    def _taken(self, connection: socket.socket, passed: tuple[int, ...]) -> None:
        self._door.take(connection, passed)

    def _returned(self, connection: socket.socket, passed: tuple[int, ...]) -> None:
        if not self._retired:
            self._door.route(connection, passed)
        elif not self._give_away(connection, passed):
            self._serve_here(connection)

    def _datagram(self, data: bytes, source: Source) -> None:
        if self._sip is not None:
            self._sip.given_datagram(data, source)

    def _sip_given(self, message: SipMessage | SipGone) -> None:
        if self._sip is not None:
            self._sip.given(message)

    def _promise(self, connection: object) -> bool:
        assert isinstance(connection, socket.socket)
        name = _name_of(connection)
        return name is None or self._table.promise(name)  # serving one that is gone ends at once

    def _pass_on(self, arrival: Arrival) -> bool:
        """Whether a fellow gets this connection, whose latest request was read here."""
        line = arrival.head.partition(b"\n")[0]
        way = self._steering.decide(line, (), arrival, given=False)
        if way.seat is not None:
            self._fellows.give(way.seat, arrival, way.passed)
        return way.seat is not None

    def _serve(self, connection: socket.socket) -> None:
        if not (self._retired and self._give_away(connection, ())):
            self._serve_here(connection)

    def _serve_here(self, connection: socket.socket) -> None:
        task = asyncio.get_running_loop().create_task(
            self._connect(connection, _name_of(connection))
        )
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _connect(self, connection: socket.socket, name: object) -> None:
        """Let the HTTP server have it, and see that a promise to it does not outlive it."""
        server, loop = self._runner.server, asyncio.get_running_loop()
        if server is None:
            connection.close()
            self._table.release(name)
            return
        try:
            head = head_of(connection)
            transport, protocol = await loop.connect_accepted_socket(server, connection)
            if head and not transport.is_closing():
                protocol.data_received(head)
            while self._table.is_promised(name) and not transport.is_closing():  # noqa: ASYNC110
                await asyncio.sleep(REDEEM_POLL_SECONDS)
        except OSError:  # it went away meanwhile
            connection.close()
        finally:
            self._table.release(name)


def _name_of(connection: socket.socket) -> object:
    """The name under which the HTTP server knows this connection; None for one that is gone."""
    try:
        name: object = connection.getpeername()
    except OSError:
        return None
    return name


class _Told(logging.Handler):
    """aiohttp's own boundary, in our words: what a handler raised ends its request and no other."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line; the traceback without values (flowcatd/log.py)."""
        error = record.exc_info[1] if record.exc_info else None
        log.error("loop.raised", what="an HTTP request failed", exc_info=error)


def _http_log() -> logging.Logger:
    """The logger aiohttp's server writes to; only what is wrong, and nowhere else."""
    logger = logging.getLogger("flowcatd.http")
    logger.propagate = False
    logger.setLevel(logging.ERROR)
    logger.handlers = [_Told()]
    return logger
