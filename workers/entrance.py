"""How a connection gets to its worker: door, steering, fellows and the HTTP server, put together.

    listener ─► Door ─ Steering ─┬─ ours ─────► HTTP server (workers/listeners.py) ─► a call
                                 └─ another's ─► HandOver ─► that worker's Door.take

A connection that Steering keeps for us holds a promised place; it is redeemed under the caller's
address when the request has been parsed, or released when the connection ends before.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Any

from aiohttp import web

from flowcatd.log import get_logger
from workers.calls import CallTable
from workers.door import Door
from workers.hand_over import HandOver, Receivers, Source
from workers.listeners import Doors
from workers.plan import WorkerPlan
from workers.sip_door import Refuser, Routes, SipDoor
from workers.steer import Steering

log = get_logger()

SHUTDOWN_SECONDS = 1.0
"""What HTTP requests get that are no calls, when the worker ends."""


class Entrance:
    """Everything that lets connections in; made on the loop, used by one worker."""

    def __init__(self, plan: WorkerPlan, table: CallTable, doors: Doors) -> None:
        self._plan = plan
        self._table = table
        self._runner = web.AppRunner(
            doors.application(),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        self._arriving: set[asyncio.Task[Any]] = set()
        self._door: Door
        self._fellows: HandOver
        self._sip: SipDoor | None = None
        self._refuser: Refuser

    async def open(self, bound: float) -> None:
        """Accept from now on; whose call it is, Steering decides."""
        plan = self._plan
        await self._runner.setup()
        steering = Steering(plan.seat, plan.load, self._promise, bound, time.monotonic)
        listener = socket.socket(fileno=plan.door_fd)
        self._fellows = HandOver(
            plan.runtime_directory,
            plan.seat,
            Receivers(taken=self._taken, returned=self._returned, datagram=self._datagram),
        )
        self._door = Door(listener, steering.decide, self._serve, self._fellows.give)
        if plan.sip_fd is not None:
            self._sip = self._open_sip(plan.sip_fd, bound)
            self._sip.start()
        self._door.start()

    def stop(self) -> None:
        """Take what waits at the door, route it, and accept nothing more; fellows still may give."""
        self._door.stop()
        if self._sip is not None:
            self._sip.stop()

    def hand_overs(self) -> tuple[int, int, int]:
        """Connections given, taken and returned."""
        return self._fellows.given, self._fellows.taken, self._fellows.failed

    async def close(self) -> None:
        """Let nobody in, and end what HTTP is left."""
        self._door.close()
        if self._sip is not None:
            self._sip.close()
        self._fellows.close()
        await asyncio.sleep(
            0
        )  # what fellows did not take was returned, and is refused or served here
        for task in list(self._arriving):
            task.cancel()
        await self._runner.cleanup()

    def _open_sip(self, descriptor: int, bound: float) -> SipDoor:
        """Until calls come in over SIP, whoever tries is told when to try again."""
        wire = socket.socket(fileno=descriptor)
        routes = Routes(self._plan.load, bound)
        door = SipDoor(wire, self._plan.seat, routes, self._fellows.give_datagram, self._refuse)
        self._refuser = Refuser(door, self._plan.options.calls.retry_after_seconds)
        return door

    def _refuse(self, data: bytes, source: Source) -> None:
        self._refuser.on_datagram(data, source)

    def _taken(self, connection: socket.socket, passed: tuple[int, ...]) -> None:
        self._door.take(connection, passed)

    def _returned(self, connection: socket.socket, passed: tuple[int, ...]) -> None:
        self._door.route(connection, passed)

    def _datagram(self, data: bytes, source: Source) -> None:
        if self._sip is not None:
            self._sip.receive(data, source)

    def _promise(self, connection: object) -> bool:
        assert isinstance(connection, socket.socket)
        try:
            return self._table.promise(connection.getpeername())
        except OSError:  # it went away; serving it ends at once
            return True

    def _serve(self, connection: socket.socket) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(connection))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _connect(self, connection: socket.socket) -> None:
        server = self._runner.server
        if server is None:
            connection.close()
            return
        with contextlib.suppress(OSError):  # it went away meanwhile; its promise expires
            await asyncio.get_running_loop().connect_accepted_socket(server, connection)
