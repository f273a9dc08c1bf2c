"""The metrics bridge: what is published over ZeroMQ, served as text at /metrics.

    GET /metrics    the figures: OpenMetrics or Prometheus text by Accept, gzip by Accept-Encoding
    GET /healthz    200 while this process's loop turns; `connected` tells whether the daemon is heard

`Bridge` runs in the daemon's switchboard, which feeds it, and in `flowcatd bridge`, which subscribes
to a daemon here (ipc) or on another machine (tcp, CURVE keys needed). It decides nothing:
`supervisor/exposition.py` adds up and writes down. ZeroMQ reconnects by itself; while the daemon is
silent the gauges go away and `flowcatd_bridge_connected` is 0.

Whoever scrapes can hold up nobody: at most SCRAPES_MAX answers are on their way at once, each for at
most ANSWER_SECONDS, on at most CONNECTIONS_MAX connections; beyond that is 503 or a closed socket.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import zmq
from aiohttp import web

from flowcatd.control import MESSAGE_MAX, Fleet, Reader
from flowcatd.errors import ConfigError, ControlError
from flowcatd.links.zeromq import Wire
from flowcatd.log import configure as configure_log
from flowcatd.log import get_logger
from flowcatd.metrics import Snapshot
from flowcatd.options import Log
from supervisor.curve import load_public, load_secret
from supervisor.exposition import SILENT_SECONDS, Exposition, negotiate
from workers.plan import ExitCode

TOPICS = (b"metrics.", b"fleet")
"""What the bridge subscribes to."""
SCRAPES_MAX = 8
"""Answers on their way at once; a Prometheus asks for one every 15 s or so."""
CONNECTIONS_MAX = 64
ANSWER_SECONDS = 10.0
"""What a scraper gets to read its answer: Prometheus's own default scrape_timeout."""
IDLE_SECONDS = 75.0
"""How long a connection may stay open between two scrapes, or before its first request."""
RECEIVE_QUEUE = 4096
"""Messages that may wait for us: ten seconds of 256 workers, and more."""
HEARTBEAT_MS = 5000
"""How often a silent TCP connection is asked whether it is still there."""
RECONNECT_MS, RECONNECT_MAX_MS = 100, 5000

_COMPRESSION = 1
"""gzip's quickest level: text like this still shrinks to a tenth."""

log = get_logger()


class Bridge:
    """Figures in by `feed`, scrapes out by `serve`; `now` tells monotonic seconds."""

    def __init__(self, now: Callable[[], float], *, answer_seconds: float = ANSWER_SECONDS) -> None:
        """Nothing is listened on yet."""
        self._now = now
        self._answer_seconds = answer_seconds
        self._exposition = Exposition(now())
        self._snapshots = Reader(Snapshot)
        self._fleets = Reader(Fleet)
        self._scrapes = 0
        self._runner: web.AppRunner | None = None
        self._door: asyncio.Server | None = None

    def feed(self, topic: bytes, payload: bytes) -> None:
        """One published message, whatever it is: what is not understood is counted."""
        try:
            if topic.startswith(b"metrics."):
                self._feed_snapshot(topic, self._snapshots.decode(payload))
            elif topic == b"fleet":
                fleet = self._fleets.decode(payload)
                assert isinstance(fleet, Fleet)
                self._exposition.receive_fleet(fleet, self._now())
            else:
                self._exposition.own.add("bridge_messages", label="other")
        except (ControlError, UnicodeDecodeError):  # msgspec tells of bad UTF-8 by the second
            self._exposition.receive_garbage()

    def is_connected(self) -> bool:
        """Whether the daemon was heard of late."""
        return self._exposition.is_connected(self._now())

    async def serve(self, sock: socket.socket) -> None:
        """Answer on this listening socket, which is the bridge's from now on, until `close`."""
        application = web.Application(client_max_size=1024)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/{path:.*}", self._nowhere)
        runner = web.AppRunner(application, access_log=None, keepalive_timeout=IDLE_SECONDS)
        await runner.setup()
        self._runner = runner
        self._door = await asyncio.get_running_loop().create_server(self._connection, sock=sock)

    async def close(self) -> None:
        """No more scrapes; those that are being answered get a second."""
        if self._door is not None:
            self._door.close()
            self._door = None
        if self._runner is not None:
            runner, self._runner = self._runner, None
            assert runner.server is not None
            await runner.server.shutdown(1.0)
            await runner.cleanup()

    def _feed_snapshot(self, topic: bytes, snapshot: object) -> None:
        assert isinstance(snapshot, Snapshot)
        if topic != b"metrics.%d" % snapshot.slot:
            self._exposition.receive_garbage()
        else:
            self._exposition.receive_snapshot(snapshot, self._now())

    # --- HTTP

    def _connection(self) -> asyncio.Protocol:
        """What talks on a new connection."""
        server = None if self._runner is None else self._runner.server
        if server is None or len(server.connections) >= CONNECTIONS_MAX:
            return _Closed()
        return server()

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        if self._scrapes >= SCRAPES_MAX:
            self._exposition.own.add("bridge_scrapes", label="busy")
            return web.Response(
                status=503, text="too many scrapes at once\n", headers={"Retry-After": "1"}
            )
        self._scrapes += 1
        try:
            return await self._answer(request)
        finally:
            self._scrapes -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        """Rendered, and written here and not by aiohttp, so that a slow reader's time is limited."""
        response = self._render(request)
        outcome = "broken"
        try:
            async with asyncio.timeout(self._answer_seconds):
                await response.prepare(request)
                await response.write_eof()
            outcome = "served"
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._exposition.own.add("bridge_scrapes", label=outcome)
        return response

    def _render(self, request: web.Request) -> web.Response:
        begun = time.perf_counter()
        form = negotiate(",".join(request.headers.getall("Accept", ())))
        body = self._exposition.render(form, self._now()).encode()
        headers = {"Content-Type": form.value, "Vary": "Accept, Accept-Encoding"}
        if _wants_gzip(",".join(request.headers.getall("Accept-Encoding", ()))):
            body = gzip.compress(body, _COMPRESSION, mtime=0)
            headers["Content-Encoding"] = "gzip"
        self._exposition.own.add("bridge_render_seconds", time.perf_counter() - begun)
        return web.Response(body=body, headers=headers)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "connected": self.is_connected()})

    async def _nowhere(self, _request: web.Request) -> web.Response:
        return web.Response(status=404, text="flowcatd's figures are at /metrics\n")


class _Closed(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _wants_gzip(accept: str) -> bool:
    """Whether an Accept-Encoding header (RFC 9110 §12.5.3) names gzip, and not with a weight of 0."""
    for choice in accept.lower().split(","):
        coding, _, weight = choice.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "").rstrip("0") not in {"q=", "q=0."}
    return False


# --- flowcatd bridge ------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `flowcatd bridge`."""
    parser.add_argument(
        "--connect",
        required=True,
        metavar="ENDPOINT",
        help="the daemon's metrics: ipc://DIR/metrics.sock, or tcp://host:port with keys",
    )
    parser.add_argument(
        "--listen",
        default="127.0.0.1:9464",
        metavar="HOST:PORT",
        help="where to serve /metrics; port 0 takes a free one (default %(default)s)",
    )
    parser.add_argument("--server-key", type=Path, metavar="FILE", help="the daemon's public key")
    parser.add_argument("--client-key", type=Path, metavar="FILE", help="our own secret key")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; the result is the exit code."""
    configure_log(Log(), slot=None)
    keys = _keys(args.connect, args.server_key, args.client_key)
    host, port = _host_port(args.listen)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        door = socket.create_server((host, port), family=family, backlog=CONNECTIONS_MAX)
    except OSError as error:
        sys.stderr.write(f"flowcatd: {args.listen} cannot be listened on: {error.strerror}\n")
        return ExitCode.BIND
    with door, zmq.Context() as context, suppress(KeyboardInterrupt):
        subscriber = _subscribe(context, args.connect, keys)
        try:
            asyncio.run(_serve(door, subscriber, args.connect))
        finally:
            subscriber.close(0)
    return ExitCode.OK


async def _serve(door: socket.socket, subscriber: zmq.Socket[bytes], endpoint: str) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    bridge = Bridge(time.monotonic)
    wire = Wire(subscriber, lambda frames: _feed(bridge, frames))
    try:
        await bridge.serve(door)
        host, port = door.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        sys.stdout.write(f"http://{name}:{port}/metrics shows {endpoint}\n")
        sys.stdout.flush()
        await _watch(bridge, ended, endpoint)
    finally:
        wire.close(0)
        await bridge.close()


async def _watch(bridge: Bridge, ended: asyncio.Event, endpoint: str) -> None:
    """Until the end, tell when the daemon is heard, when no more, and when it never was."""
    told: bool | None = None
    due = time.monotonic() + SILENT_SECONDS
    while not ended.is_set():
        hears = bridge.is_connected()
        if hears is not told and (hears or told or time.monotonic() > due):
            told = hears
            if hears:
                log.info("bridge.heard")
            else:
                # Wrong keys are silent in ZeroMQ, and so is the endpoint of commands.
                log.warning("bridge.silenced", endpoint=endpoint, wanted="control.metrics_tcp")
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), 1.0)


def _feed(bridge: Bridge, frames: Sequence[bytes]) -> None:
    topic, payload = frames if len(frames) == 2 else (b"fleet", b"")
    bridge.feed(topic, payload)


def _subscribe(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, keys: tuple[bytes, bytes, bytes] | None
) -> zmq.Socket[bytes]:
    """A SUB socket that goes on trying; ConfigError when the endpoint is none."""
    subscriber = context.socket(zmq.SUB)
    options = {
        zmq.RCVHWM: RECEIVE_QUEUE,
        zmq.MAXMSGSIZE: MESSAGE_MAX,
        zmq.LINGER: 0,
        zmq.IPV6: 1,
        zmq.HEARTBEAT_IVL: HEARTBEAT_MS,
        zmq.HEARTBEAT_TIMEOUT: 2 * HEARTBEAT_MS,
        zmq.RECONNECT_IVL: RECONNECT_MS,
        zmq.RECONNECT_IVL_MAX: RECONNECT_MAX_MS,
    }
    for option, value in options.items():
        subscriber.setsockopt(option, value)
    if keys is not None:
        subscriber.curve_serverkey, subscriber.curve_publickey, subscriber.curve_secretkey = keys
    for topic in TOPICS:
        subscriber.setsockopt(zmq.SUBSCRIBE, topic)
    try:
        subscriber.connect(endpoint)
    except zmq.ZMQError as error:
        subscriber.close(0)
        raise ConfigError(
            endpoint, f"cannot be connected to: {error.strerror}", key="--connect"
        ) from error
    return subscriber


def _keys(
    endpoint: str, server: Path | None, client: Path | None
) -> tuple[bytes, bytes, bytes] | None:
    """Server's public, our public and our secret key; None where none are needed."""
    scheme, _, rest = endpoint.partition("://")
    if scheme not in {"ipc", "tcp"} or not rest:
        raise ConfigError("--connect", f"{endpoint} is neither ipc://PATH nor tcp://HOST:PORT")
    if scheme == "ipc":
        if server or client:
            raise ConfigError("--connect", "keys are for tcp; ipc is guarded by its directory")
        return None
    if server is None or client is None:
        raise ConfigError(
            "--connect",
            "tcp only with CURVE: give --server-key and --client-key (`flowcatd keys` makes them), "
            "or on the daemon's machine ipc://DIR/metrics.sock",
        )
    return (load_public(server), *load_secret(client))


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ConfigError("--listen", f"{text} is not HOST:PORT")
    return host, int(port)
