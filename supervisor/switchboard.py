"""The switchboard: the process that owns every ZeroMQ socket of the daemon's side.

It is a child of the supervisor, forked like a worker, and speaks with it over a socket pair that
keeps messages whole. `endpoints.py` has the sockets, `routing.py` decides who is asked and answered,
and this carries between them: operators' and workers' messages into the routing and out again,
workers' published messages (and the supervisor's Fleet, on topic `fleet`) to subscribers and to the
metrics bridge, whose HTTP server runs on the same loop.

When it dies it is forked again: workers and operators reconnect by themselves, and calls never
depended on it. It ends when the supervisor closes the line, and a second after the supervisor died.
Nothing waits: what cannot be delivered is dropped, counted by kind, and told now and then.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from flowcatd.control import MESSAGE_MAX
from flowcatd.errors import ConfigError, LinkRefused
from flowcatd.links.zeromq import Sent
from flowcatd.log import configure, get_logger
from flowcatd.options import Options
from supervisor.endpoints import Ears, Endpoints
from supervisor.routing import FleetTold, LevelAsked, Routing
from workers.plan import READY_MARK, ExitCode

if TYPE_CHECKING:
    from supervisor.bridge import Bridge

PARTING_SECONDS = 1.0
"""How long it outlives the supervisor, for the last figures of workers that end with it."""
TOLD_SECONDS = 10.0
"""Between two lines about trouble of one kind."""
SUPERVISOR_BATCH = 64
"""Messages of the supervisor read before others have their turn."""
_TOPICS = (b"metrics.", b"call.")


@dataclass(frozen=True, slots=True)
class SwitchboardPlan:
    """The switchboard's orders."""

    runtime_directory: Path
    """Where its ipc sockets are; made by the supervisor, ours alone."""
    supervisor_fd: int
    """Its end of the line to the supervisor (SOCK_SEQPACKET); it ends when the line does."""
    alive_fd: int
    """Ends when the supervisor does."""
    ready_fd: int
    """Where to write READY_MARK."""
    metrics_fd: int | None
    """The listening TCP socket of /metrics, or None."""
    options: Options
    config_directory: Path
    """Where control.curve_clients starts, if it is a relative path."""


def run(plan: SwitchboardPlan) -> int:
    """Carry messages until the supervisor is gone; the result is the process's exit code."""
    configure(plan.options.log, slot=None)
    try:
        return uvloop.run(_Switchboard(plan).serve())
    except ConfigError as error:
        get_logger().error("switchboard.given_up", why=str(error))
        return ExitCode.CONFIG
    except LinkRefused as error:
        get_logger().error("switchboard.given_up", why=str(error))
        return ExitCode.BIND


class _Switchboard:
    """Carries between the endpoints, the routing, the supervisor and the bridge."""

    def __init__(self, plan: SwitchboardPlan) -> None:
        self._plan = plan
        self._log = get_logger()
        self._routing = Routing(str(os.getpid()))
        self._line = socket.socket(fileno=plan.supervisor_fd)
        self._endpoints = Endpoints(
            plan.runtime_directory,
            plan.options.control,
            plan.config_directory,
            Ears(self._on_control, self._on_published, self._trouble),
        )
        self._bridge: Bridge | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._troubles: Counter[str] = Counter()
        self._told: dict[str, float] = {}
        self._ended: asyncio.Future[ExitCode] | None = None

    async def serve(self) -> int:
        """Open, serve, close."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._raised)
        self._ended = loop.create_future()
        try:
            self._endpoints.open()
            self._watch(loop)
            await self._open_bridge()
            gc.collect()
            gc.freeze()
            os.write(self._plan.ready_fd, READY_MARK)
            os.close(self._plan.ready_fd)
            self._log.info("switchboard.started", pid=os.getpid())
            return await self._ended
        finally:
            await self._close(loop)

    # --- its life

    async def _open_bridge(self) -> None:
        if self._plan.metrics_fd is None:
            return
        from supervisor.bridge import Bridge  # noqa: PLC0415 it brings an HTTP server along

        self._bridge = Bridge(time.monotonic)
        await self._bridge.serve(socket.socket(fileno=self._plan.metrics_fd))

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_signal_handler(signal.SIGTERM, self._end, ExitCode.OK)
        loop.add_signal_handler(signal.SIGINT, self._end, ExitCode.OK)
        self._line.setblocking(False)
        loop.add_reader(self._line.fileno(), self._on_supervisor)
        os.set_blocking(self._plan.alive_fd, False)
        loop.add_reader(self._plan.alive_fd, partial(self._on_alive, loop))

    def _end(self, code: ExitCode) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(code)

    async def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._line.fileno())
        loop.remove_reader(self._plan.alive_fd)
        if self._timer is not None:
            self._timer.cancel()
        if self._bridge is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(PARTING_SECONDS):
                    await self._bridge.close()
        self._endpoints.close()
        self._line.close()

    # --- what arrives

    def _on_control(self, identity: bytes, frames: list[bytes]) -> None:
        """The control sockets' boundary: whatever is sent there, the others are answered."""
        # A message is one frame; anything else is as little understood as an empty one.
        data = frames[0] if len(frames) == 1 else b""
        # A newborn's first question may come before it has read how the daemon is.
        self._on_supervisor()
        try:
            self._routing.receive(identity, data, time.monotonic())
        except Exception as error:  # noqa: BLE001 one of the four boundaries
            self._log.error("control.failed", exc_info=error)
        self._carry()

    def _on_published(self, frames: list[bytes]) -> None:
        if len(frames) != 2 or not frames[0].startswith(_TOPICS):
            self._trouble("publish", "a published message is none of ours")
            return
        self._publish(frames)

    def _on_supervisor(self) -> None:
        for _ in range(SUPERVISOR_BATCH):
            try:
                data = self._line.recv(MESSAGE_MAX)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                asyncio.get_running_loop().remove_reader(self._line.fileno())
                self._end(ExitCode.OK)
                break
            self._routing.receive_supervisor(data, time.monotonic())
            self._carry()

    def _on_alive(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(BlockingIOError):
            if not os.read(self._plan.alive_fd, 64):
                loop.remove_reader(self._plan.alive_fd)
                # The line is closed too, and would end us at once.
                loop.remove_reader(self._line.fileno())
                loop.call_later(PARTING_SECONDS, self._end, ExitCode.PARENT_GONE)

    def _ring(self) -> None:
        self._timer = None
        self._routing.wake(time.monotonic())
        self._carry()

    # --- what is carried

    def _carry(self) -> None:
        """Everything the routing wants, until it wants nothing more; then its next wake."""
        routing = self._routing
        while True:
            sends, words, events = routing.outgoing(), routing.to_supervisor(), routing.events()
            if not (sends or words or events):
                break
            for send in sends:
                self._send(send.identity, send.data)
            for word in words:
                self._tell_supervisor(word)
            for event in events:
                self._act(event)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._routing.wake_at()
        if due is not None:
            wait = max(0.0, due - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self._ring)

    def _send(self, identity: bytes, data: bytes) -> None:
        sent = self._endpoints.send(identity, data)
        if sent is Sent.GONE:
            self._routing.receive_gone(identity, time.monotonic())
        elif sent is Sent.FULL:
            self._trouble("control", "a peer does not read what it is told")

    def _tell_supervisor(self, word: bytes) -> None:
        try:
            self._line.send(word)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "?")
            self._trouble("supervisor", f"the supervisor could not be told: {name}")
            self._routing.receive_lost(word, time.monotonic())

    def _act(self, event: FleetTold | LevelAsked) -> None:
        if isinstance(event, LevelAsked):
            self._set_level(event.level)
            return
        self._publish([b"fleet", event.data])
        if event.is_reloaded:
            self._set_level(self._plan.options.log.level)
            self._read_keys()

    def _publish(self, frames: list[bytes]) -> None:
        self._endpoints.publish(frames)
        if self._bridge is not None:
            self._bridge.feed(frames[0], frames[1])

    def _set_level(self, level: str) -> None:
        configure(replace(self._plan.options.log, level=level), slot=None)
        self._log = get_logger()

    def _read_keys(self) -> None:
        try:
            keys = self._endpoints.read_keys()
        except ConfigError as error:
            self._trouble("keys", f"the keys stay as they were: {error}")
        else:
            if keys is not None:
                self._log.info("keys.read", keys=keys)

    # --- what is told

    def _trouble(self, what: str, why: str) -> None:
        """Count it, and say so now and then."""
        self._troubles[what] += 1
        now = time.monotonic()
        if now - self._told.get(what, float("-inf")) >= TOLD_SECONDS:
            self._told[what] = now
            times = self._troubles[what]
            self._log.warning("switchboard.troubled", what=what, why=why, times=times)

    def _raised(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        self._log.error(
            "loop.raised",
            what=str(context.get("message", "")),
            exc_info=error if isinstance(error, BaseException) else None,
        )
