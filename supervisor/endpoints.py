"""The switchboard's ZeroMQ sockets: what is bound where, with which limits, and who is let in.

    control.sock   ROUTER   operators and workers
    control.tcp    ROUTER   operators on other machines, by CURVE; a socket of its own, so that nobody
                            there can take a worker's identity
    publish.sock   XSUB     workers' metrics and call events
    metrics.sock   XPUB     …for whoever subscribes
    metrics_tcp    XPUB     the same for other machines, by CURVE

Nothing waits. Each peer has its own bounded queue in libzmq (the *_HWM below), and what does not fit
is dropped. A subscriber that does not read loses what it did not read, by libzmq's own hand, which
keeps no count (zmq_setsockopt(3), ZMQ_XPUB_NODROP: the alternative would make all others lose it).

Over tcp, libzmq asks about every key during the handshake (ZAP, see curve.py). A refusal is final for
that connection: libzmq's clients do not try again by themselves. When a key is taken away, the tcp
sockets are closed and bound anew, so that its owner is cut off and everybody else reconnects.

XXX libzmq has no limit for the number of frames in one message, only for each frame's size.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq

from flowcatd.control import CONTROL_SOCKET, MESSAGE_MAX, METRICS_SOCKET, PUBLISH_SOCKET
from flowcatd.environment import reveal
from flowcatd.errors import LinkRefused
from flowcatd.links.zeromq import Sent, Wire
from flowcatd.options import Control
from supervisor.curve import ZAP_DOMAIN, load_clients, parse_secret, zap_reply

CONTROL_HWM = 64
"""Messages waiting per local peer: all asks that may be pending at once."""
REMOTE_HWM = 16
"""And per operator on another machine: what one of them may have pending."""
PUBLISHED_HWM = 1000
"""Messages waiting per publisher and per subscriber: half a minute of a large fleet, 5 MB."""
REMOTE_MESSAGE_MAX = 64 * 1024
"""Bytes that another machine, or a subscriber, may send at once; an ask has 300."""
HANDSHAKE_MS = 5_000
"""A connection that has not said by then who it is goes."""
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 10_000, 30_000
"""Dead machines say nothing: after this long without a pong their connections go. For tcp only; the
kernel tells at once when a local peer is gone."""
LINGER_MS = 200
"""What the last answers get to leave this process."""
REBIND_SECONDS = 0.5
"""Between tries for a tcp address; a socket just closed holds its own for a moment."""
_REMOTE = b"\0remote/"
"""Before a remote operator's identity: what it chose cannot begin with a zero byte, and what libzmq
chose for it has five bytes."""


@dataclass(frozen=True, slots=True)
class Ears:
    """Who hears what arrives."""

    control: Callable[[bytes, list[bytes]], None]
    """An operator's or worker's identity, and the frames it sent."""
    published: Callable[[list[bytes]], None]
    """A published message's frames."""
    trouble: Callable[[str, str], None]
    """What did not work, in one word and in a sentence."""


class Endpoints:
    """All sockets of one switchboard; made after the fork, on its loop."""

    def __init__(self, runtime: Path, control: Control, config_directory: Path, ears: Ears) -> None:
        """Nothing is bound yet."""
        self._runtime = runtime
        self._control = control
        self._ears = ears
        self._clients = config_directory / control.curve_clients
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._wires: dict[str, Wire] = {}
        self._secret = b""
        self._keys: frozenset[bytes] = frozenset()
        self._again: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Bind everything; raises LinkRefused for ipc and ConfigError for keys.

        A tcp address that is taken is trouble, and tried again: commands over ipc work meanwhile.
        """
        self._open_local()
        if self._control.tcp or self._control.metrics_tcp:
            self._secret = parse_secret(reveal(self._control.curve_secret), "control.curve_secret")
            self._keys = load_clients(self._clients)
            # Bound before anything asks it. An absent one would let everybody in by libzmq's
            # default, which ZAP_ENFORCE_DOMAIN turns off as well.
            self._bind("zap", self._context.socket(zmq.REP), "inproc://zeromq.zap.01", self._zap)
            self._open_tcp()

    def close(self) -> None:
        """Everything; takes LINGER_MS at most, for what was said already."""
        if self._again is not None:
            self._again.cancel()
        for wire in self._wires.values():
            wire.close(LINGER_MS)
        self._context.destroy(LINGER_MS)

    def send(self, identity: bytes, data: bytes) -> Sent:
        """To an operator or a worker, under the identity it was heard with."""
        wire = self._wires.get("remote" if identity.startswith(_REMOTE) else "control")
        return Sent.GONE if wire is None else wire.send([identity.removeprefix(_REMOTE), data])

    def publish(self, frames: list[bytes]) -> None:
        """To everybody who subscribed."""
        for name in ("metrics", "remote_metrics"):
            if name in self._wires:
                self._wires[name].send(frames)

    def read_keys(self) -> int | None:
        """Who may connect from now on; how many, or None without tcp. Raises ConfigError."""
        if "zap" not in self._wires:
            return None
        keys = load_clients(self._clients)
        has_lost, self._keys = bool(self._keys - keys), keys
        if has_lost:
            for name in ("remote", "remote_metrics"):
                if name in self._wires:
                    self._wires.pop(name).close(0)
            self._open_tcp()
        return len(keys)

    # --- binding

    def _open_local(self) -> None:
        # The listening sockets' files are made here and now, under this mask: 0600.
        mask = os.umask(0o177)
        try:
            router = self._socket(zmq.ROUTER, CONTROL_HWM, MESSAGE_MAX)
            router.setsockopt(zmq.ROUTER_MANDATORY, 1)
            # A worker that was stopped and goes on comes back before its old connection is known
            # to be dead; the newer one counts.
            router.setsockopt(zmq.ROUTER_HANDOVER, 1)
            self._bind("control", router, self._ipc(CONTROL_SOCKET), self._local)
            xsub = self._socket(zmq.XSUB, PUBLISHED_HWM, MESSAGE_MAX)
            self._bind("publish", xsub, self._ipc(PUBLISH_SOCKET), self._ears.published)
            xpub = self._socket(zmq.XPUB, PUBLISHED_HWM, REMOTE_MESSAGE_MAX)
            self._bind("metrics", xpub, self._ipc(METRICS_SOCKET), _ignore)
        finally:
            os.umask(mask)
        self._wires["publish"].send([b"\x01"])  # everything: the bridge wants it, or may

    def _open_tcp(self) -> None:
        """Bind what is not bound yet."""
        self._again = None
        for name, kind, endpoint, hear in (
            ("remote", zmq.ROUTER, self._control.tcp, self._remote),
            ("remote_metrics", zmq.XPUB, self._control.metrics_tcp, _ignore),
        ):
            if not endpoint or name in self._wires:
                continue
            hwm = REMOTE_HWM if kind == zmq.ROUTER else PUBLISHED_HWM
            made = self._socket(kind, hwm, REMOTE_MESSAGE_MAX)
            if kind == zmq.ROUTER:
                made.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._encrypt(made)
            try:
                self._bind(name, made, endpoint, hear)
            except LinkRefused as error:
                self._ears.trouble("bind", str(error))
                if self._again is None:
                    loop = asyncio.get_running_loop()
                    self._again = loop.call_later(REBIND_SECONDS, self._open_tcp)

    def _socket(self, kind: int, hwm: int, message_max: int) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.setsockopt(zmq.SNDHWM, hwm)
        made.setsockopt(zmq.RCVHWM, hwm)
        made.setsockopt(zmq.LINGER, LINGER_MS)
        made.setsockopt(zmq.MAXMSGSIZE, message_max)
        made.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        return made

    def _encrypt(self, made: zmq.Socket[bytes]) -> None:
        made.setsockopt(zmq.CURVE_SERVER, 1)
        made.setsockopt(zmq.CURVE_SECRETKEY, self._secret)
        made.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        made.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        made.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        made.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        # The peer drops us after as long, should this machine go silent.
        made.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)

    def _ipc(self, name: str) -> str:
        return f"ipc://{self._runtime / name}"

    def _bind(
        self,
        name: str,
        made: zmq.Socket[bytes],
        endpoint: str,
        hear: Callable[[list[bytes]], None],
    ) -> None:
        try:
            made.bind(endpoint)
        except zmq.ZMQError as error:
            made.close(0)
            raise LinkRefused(f"cannot listen on {endpoint}: {error.strerror}") from error
        self._wires[name] = Wire(made, hear)

    # --- what arrives

    def _local(self, frames: list[bytes]) -> None:
        self._ears.control(frames[0], frames[1:])

    def _remote(self, frames: list[bytes]) -> None:
        self._ears.control(_REMOTE + frames[0], frames[1:])

    def _zap(self, frames: list[bytes]) -> None:
        self._wires["zap"].send(zap_reply(frames, self._keys))


def _ignore(_frames: list[bytes]) -> None:
    """What subscribers say: libzmq has taken note of it."""
