"""An operator's end of the control protocol: a DEALER that asks the daemon's ROUTER, and waits.

Where the daemon is comes from `--connect`, or from the configuration: its runtime directory holds
`control.sock`. Being refused is silent in ZeroMQ, which simply goes on trying; so the socket's monitor
is read, and each of its events has a meaning a person can use: nobody listens, the keys are wrong,
it is no flowcatd (zmq_socket_monitor(3), RFC ZMTP 3.1 for the handshake). Whoever was connected once and
asked for something long waits as long as the daemon still answers AskStatus, whatever that takes.

Synchronous on purpose: a command asks one thing and ends. No part of the daemon imports this.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import stat
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from flowcatd.control import (
    CONTROL_SOCKET,
    MESSAGE_MAX,
    VERSION,
    Answer,
    Ask,
    AskStatus,
    Calls,
    LadderIs,
    Reader,
    Refused,
    Reply,
    Status,
    TrunksAre,
    encode,
)
from flowcatd.environment import runtime_directories
from flowcatd.errors import ConfigError, ControlError, LinkClosed, LinkRefused, LinkTimeout
from flowcatd.options import Options
from flowcatd.settings import load_options
from supervisor.config import add_config_arguments, read_config
from supervisor.curve import load_public, load_secret

TIMEOUT = 5.0
"""Seconds until no answer counts as none: the daemon answers in milliseconds."""

# A switchboard that died is back within this; a socket file nobody listens on is no sooner believed.
_GRACE = 1.0
_HINT = "is it running? with another configuration or port give --config/--set or --connect"
_KEYS_HINT = "--server-key is the daemon's public key, --client-key one whose public key it knows"
_REPLIES = Reader(Reply)

Told = Status | Calls | Answer | LadderIs | TrunksAre
"""What a daemon replies to a question that it understood."""


# --- where the daemon is -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keys:
    """CURVE: the daemon's public key, and our own pair."""

    server: bytes
    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return "•••"


@dataclass(frozen=True, slots=True)
class Where:
    """What to connect to."""

    endpoint: str
    keys: Keys | None = None


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    """`--connect`, its keys, `--timeout`, and `--config`/`--set` to find the daemon without."""
    add = parser.add_argument
    add("--connect", metavar="ENDPOINT", help="ipc://PATH or tcp://HOST:PORT of the daemon")
    add("--server-key", metavar="FILE", type=Path, help="for tcp: the daemon's public key")
    add("--client-key", metavar="FILE", type=Path, help="for tcp: your own secret key")
    add(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=TIMEOUT,
        help=f"how long to wait for an answer (default {TIMEOUT:g})",
    )
    add_config_arguments(parser)


def locate(args: argparse.Namespace, name: str = CONTROL_SOCKET) -> Where:
    """The endpoint meant by the command line; raises ConfigError, or LinkRefused for nobody."""
    if args.connect:
        return _named(args.connect, args.server_key, args.client_key)
    if args.server_key or args.client_key:
        raise ConfigError("--server-key", "keys are for --connect tcp://…, which is missing")
    options, problem = _options(args)
    setting, port = options.control.directory, options.server.port
    found = find_runtime(runtime_directories(setting, port), name)
    if found is not None:
        if problem is not None:
            sys.stderr.write(f"flowcatd: remark: {problem}\n")
        return Where(f"ipc://{found / name}")
    others = _others(name)
    if port == 0 and not setting and len(others) == 1:
        # The daemon took a free port, which the configuration does not know.
        return Where(f"ipc://{others[0]}")
    if problem is not None:
        raise problem
    tried = runtime_directories(setting, port)[0] / name
    there = f" (there is ipc://{', ipc://'.join(map(str, others[:4]))})" if others else ""
    raise LinkRefused(f"no flowcatd answers at ipc://{tried}; {_HINT}{there}")


def _options(args: argparse.Namespace) -> tuple[Options, ConfigError | None]:
    """The configuration, and what is wrong with its file, which is no reason not to find the daemon.

    Whoever spoiled the file of a daemon that runs wants to command it, now more than ever. What is
    wrong with the command line is raised.
    """
    where, text = read_config(args.config)
    try:
        return load_options(text or "", where, args.overrides), None
    except ConfigError as error:
        return load_options(_where_alone(text or ""), where, args.overrides), error


def _where_alone(text: str) -> str:
    """A configuration with nothing but the two settings that say where the daemon is."""
    lines = []
    with suppress(tomllib.TOMLDecodeError):
        found = tomllib.loads(text)
        for section, key, kind in (("control", "directory", str), ("server", "port", int)):
            part = found.get(section)
            value = part.get(key) if isinstance(part, dict) else None
            if isinstance(value, kind):
                lines.append(f"{section}.{key} = {msgspec.json.encode(value).decode()}\n")
    return "".join(lines)


def find_runtime(candidates: Sequence[Path], name: str = CONTROL_SOCKET) -> Path | None:
    """The first directory where somebody listens; else the first where somebody did.

    One that a stranger may have put there is passed over.
    """
    there = [path for path in candidates if _is_socket(path / name) and _is_trusted(path)]
    return next((path for path in there if _is_heard(path / name)), next(iter(there), None))


def _named(endpoint: str, server_key: Path | None, client_key: Path | None) -> Where:
    scheme, _, rest = endpoint.partition("://")
    if scheme not in {"ipc", "tcp"} or not rest:
        raise ConfigError("--connect", f"{endpoint} is neither ipc://PATH nor tcp://HOST:PORT")
    if scheme == "ipc":
        return Where(endpoint)
    if server_key is None or client_key is None:
        missing = "--server-key" if server_key is None else "--client-key"
        raise ConfigError("--connect", f"tcp needs CURVE keys: {missing} FILE is missing")
    return Where(endpoint, load_keys(server_key, client_key))


def load_keys(server_key: Path, client_key: Path) -> Keys:
    """The daemon's public key and our own pair, as `flowcatd keys` made them; raises ConfigError."""
    public, secret = load_secret(client_key)
    return Keys(load_public(server_key), public, secret)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _is_trusted(directory: Path) -> bool:
    """Whether we may be led there: in a directory open to all, only to what we own ourselves."""
    try:
        parent = directory.parent.stat()
        found = directory.lstat()
    except OSError:
        return False
    return not parent.st_mode & stat.S_ISVTX or found.st_uid in {0, os.getuid()}


def _is_heard(path: Path) -> bool:
    """Whether somebody listens: a daemon that was killed leaves its socket's file behind."""
    with socket.socket(socket.AF_UNIX) as knock:
        knock.setblocking(False)
        try:
            knock.connect(str(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def _others(name: str) -> list[Path]:
    """Sockets of daemons that are not where the configuration says: the likeliest mistake is the port."""
    return sorted(
        path / name
        for place in runtime_directories("", 0)
        for path in place.parent.glob(place.name.removesuffix("0") + "*")
        if place.name.endswith("-0") and _is_socket(path / name) and _is_trusted(path)
    )


def _seconds(word: str) -> float:
    value = float(word)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError("must lie between 0.1 and 3600")
    return value


# --- sockets -------------------------------------------------------------------------------------


def open_socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, where: Where
) -> zmq.Socket[bytes]:
    """A socket of this kind with our keys and limits, not connected yet."""
    link = context.socket(kind)
    link.linger = 0
    link.maxmsgsize = MESSAGE_MAX
    link.ipv6 = True
    link.reconnect_ivl = 50
    link.reconnect_ivl_max = 500
    if where.keys is not None:
        link.curve_serverkey = where.keys.server
        link.curve_publickey = where.keys.public
        link.curve_secretkey = where.keys.secret
    return link


def connect(link: zmq.Socket[bytes], where: Where) -> None:
    """Begin to connect; raises ConfigError for an endpoint that cannot be one."""
    try:
        link.connect(where.endpoint)
    except zmq.ZMQError as error:
        raise ConfigError("--connect", f"{where.endpoint}: {error.strerror}") from error


class Operator:
    """Asks one daemon; `with Operator(where) as operator: operator.ask(AskStatus(id=…))`."""

    def __init__(self, where: Where, *, timeout: float = TIMEOUT) -> None:
        """`timeout` is in seconds, for the handshake and for each answer."""
        self.where = where
        self._timeout = timeout
        self._name = secrets.token_hex(6)
        self._asked = 0
        self._lost = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._link = open_socket(self._context, zmq.DEALER, where)
        self._monitor = self._link.get_monitor_socket()

    def __enter__(self) -> Self:
        """Connected; raises LinkRefused, LinkTimeout or ConfigError, all for a person to read."""
        try:
            connect(self._link, self.where)
            self._shake_hands()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Closed; what was not sent is dropped."""
        self.close()

    def close(self) -> None:
        """Give everything back; may be repeated."""
        with suppress(zmq.ZMQError):
            self._link.disable_monitor()
        self._monitor.close(linger=0)
        self._link.close(linger=0)
        self._context.term()

    def next_id(self) -> str:
        """An id nobody else uses."""
        self._asked += 1
        return f"{self._name}.{self._asked}"

    def send(self, question: Ask) -> None:
        """Ask, and do not wait."""
        try:
            self._link.send(encode(question), zmq.NOBLOCK)
        except zmq.Again as error:
            raise LinkTimeout(f"flowcatd at {self.where.endpoint} takes no messages") from error

    def ask(self, question: Ask) -> Told:
        """The first reply; raises LinkTimeout, or ControlError when it was not understood."""
        self.send(question)
        return self.first(question.id)

    def first(self, *ids: str) -> Told:
        """The next reply to any of these questions, within the timeout."""
        deadline = time.monotonic() + self._timeout
        while (reply := self._next(deadline)) is not None:
            if reply.id in ids:
                return reply
        raise LinkTimeout(
            f"flowcatd at {self.where.endpoint} did not answer within {self._timeout:g} s"
        )

    def follow(self, question: Ask) -> Iterator[Answer]:
        """Answers up to the one that is `done`, for as long as the daemon answers at all.

        Raises LinkClosed when the connection broke meanwhile, and with it perhaps the answers.
        """
        self._lost = False
        self.send(question)
        probe = ""
        while True:
            reply = self._next(time.monotonic() + self._timeout, until_lost=True)
            if reply is None and self._lost:
                raise LinkClosed(f"the connection to {self.where.endpoint} broke while waiting")
            if reply is None and probe:
                raise LinkTimeout(f"flowcatd at {self.where.endpoint} stopped answering")
            if reply is None:
                probe = self.next_id()
                self.send(AskStatus(id=probe))
            elif reply.id == question.id and isinstance(reply, Answer):
                probe = ""
                yield reply
                if reply.done:
                    return
            else:
                # How it is does not matter: it answers.
                probe = ""

    def _shake_hands(self) -> None:
        """Wait until the other side has let us in, or it is known that it will not."""
        start = time.monotonic()
        refused = False
        while (left := start + (_GRACE if refused else self._timeout) - time.monotonic()) > 0:
            if not self._monitor.poll(max(1, int(left * 1000))):
                continue
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return
            if event in _NOT_LET_IN:
                raise ConfigError(self.where.endpoint, self._why_not(event))
            refused = refused or event == zmq.EVENT_CLOSED
        if refused:
            raise LinkRefused(
                f"no flowcatd answers at {self.where.endpoint}; {self._why_refused()}"
            )
        raise LinkTimeout(f"what listens at {self.where.endpoint} does not answer as a flowcatd")

    def _why_not(self, event: int) -> str:
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return f"flowcatd did not let us in; {_KEYS_HINT}"
        if self.where.keys is not None:
            return (
                "the keys do not fit, or it is not what is wanted here (commands are taken at "
                f"control.tcp, figures told at control.metrics_tcp); {_KEYS_HINT}"
            )
        return "it wants keys, or is no flowcatd; its own control.sock on its machine needs none"

    def _why_refused(self) -> str:
        scheme, _, rest = self.where.endpoint.partition("://")
        if scheme == "ipc" and Path(rest).exists() and not os.access(rest, os.R_OK | os.W_OK):
            return "the socket is not ours to use: be its user, or root"
        return _HINT

    def _next(self, deadline: float, *, until_lost: bool = False) -> Told | None:
        """The next message, or None when the time is up (or, if asked for, the connection)."""
        while True:
            self._note_loss()
            left = deadline - time.monotonic()
            broken = until_lost and self._lost
            if not self._link.poll(
                0 if broken else max(0, int(left * 1000) if left < 0.25 else 250)
            ):
                if broken or left <= 0:
                    return None
                continue
            reply = decode_reply(self._link.recv())
            if isinstance(reply, Refused):
                raise refusal(reply)
            return reply

    def _note_loss(self) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._lost = self._lost or event == zmq.EVENT_DISCONNECTED


_NOT_LET_IN = frozenset(
    {
        zmq.EVENT_HANDSHAKE_FAILED_AUTH,
        zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    }
)


def decode_reply(data: bytes) -> Reply:
    """What the daemon said; raises ControlError, for another version with both versions."""
    try:
        reply = _REPLIES.decode(data)
    except ControlError as error:
        if error.code != "version":
            raise ControlError(
                error.code, f"flowcatd's answer is not understood: {error}"
            ) from error
        raise _other_version(_spoken(data)) from error
    assert isinstance(reply, Told | Refused)
    return reply


def refusal(reply: Refused) -> ControlError:
    """Why the daemon did not take our message, as something to raise."""
    if reply.code == "version":
        return _other_version(str(reply.speaks))
    return ControlError(reply.code, f"flowcatd refused the message ({reply.code}): {reply.text}")


def _other_version(spoken: str) -> ControlError:
    return ControlError(
        "version",
        f"the daemon speaks version {spoken} of the control protocol, this command version "
        f"{VERSION}: use the command of the flowcatd that is running",
    )


def _spoken(data: bytes) -> str:
    try:
        return str(msgspec.json.decode(data, type=dict[str, object]).get("v"))[:20]
    except msgspec.DecodeError:
        return "?"
