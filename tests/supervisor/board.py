"""A real switchboard in a process of its own, for tests: with the supervisor's end of its line."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import zmq

from flowcatd.control import Fleet, Reader, Reply, WorkerLine, encode

ROOT = Path(__file__).parents[2]
LIMIT = 15.0
PROGRAM = """
import json, sys
from pathlib import Path
from flowcatd.options import Control, Log, Options, Secret
from supervisor.switchboard import SwitchboardPlan, run
a = json.loads(sys.argv[1])
control = Control(
    tcp=a["tcp"], metrics_tcp=a["metrics_tcp"], curve_secret=Secret(a["secret"]),
    curve_clients="clients",
)
options = Options(control=control, log=Log(format="json"))
plan = SwitchboardPlan(
    Path(a["runtime"]), a["line"], a["alive"], a["ready"], a["metrics"], options, Path(a["runtime"])
)
sys.exit(run(plan))
"""


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A runtime directory whose sockets' names are short enough for unix(7)."""
    path = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def free_port() -> int:
    """A TCP port that nobody had a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@dataclass
class Board:
    """One life of the process; `line` is the supervisor's end."""

    runtime: Path
    tcp: str = ""
    metrics_tcp: str = ""
    secret: str = ""
    """The reference to its CURVE secret; who may connect is in `clients` of the runtime directory."""
    metrics: int | None = None
    buffer: int = 0
    """Bytes that its line to the supervisor takes before that reads; 0 is the system's own."""
    line: socket.socket = field(init=False)
    process: subprocess.Popen = field(init=False)
    alive: int = field(init=False)
    mark: bytes = field(init=False)
    """What it wrote once it served; empty when it ended instead."""
    log: list[dict] = field(init=False)

    def __post_init__(self) -> None:
        """Start it, and wait until it says that it serves, or ends."""
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.settimeout(LIMIT)
        if self.buffer:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.buffer)
        alive_read, self.alive = os.pipe()
        ready_read, ready_write = os.pipe()
        words = {
            "runtime": str(self.runtime),
            "line": theirs.fileno(),
            "alive": alive_read,
            "ready": ready_write,
            "metrics": self.metrics,
            "tcp": self.tcp,
            "metrics_tcp": self.metrics_tcp,
            "secret": self.secret,
        }
        fds = [theirs.fileno(), alive_read, ready_write]
        fds += [] if self.metrics is None else [self.metrics]
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 closed by end()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(words)],
            cwd=ROOT,
            pass_fds=fds,
            stderr=self.stderr,
        )
        theirs.close()
        os.close(alive_read)
        os.close(ready_write)
        if not select.select([ready_read], [], [], LIMIT)[0]:
            self.process.kill()
        self.mark = os.read(ready_read, 8)
        os.close(ready_read)

    def tell(self, message: msgspec.Struct) -> None:
        """As the supervisor."""
        self.line.send(encode(message))

    def end(self) -> int:
        """Close the line; the exit code."""
        self.line.close()
        try:
            return self.process.wait(LIMIT)
        finally:
            if self.process.returncode is None:
                self.process.kill()
                self.process.wait()
            os.close(self.alive)
            self.log = self.said()
            self.stderr.close()

    def said(self) -> list[dict]:
        """Its log lines so far."""
        if self.stderr.closed:
            return self.log
        text = os.pread(self.stderr.fileno(), 1 << 20, 0).decode()
        return [json.loads(line) for line in text.splitlines()]

    def faults(self) -> list[dict]:
        """The lines that tell of a bug."""
        return [line for line in self.said() if line["level"] == "error"]


@contextlib.contextmanager
def sockets() -> Iterator[zmq.Context]:
    """A context whose peers are all closed at the end."""
    context = zmq.Context()
    try:
        yield context
    finally:
        while _OPEN:
            _OPEN.pop().socket.close(0)
        context.term()


_OPEN: list[Peer] = []


class Peer:
    """A ZeroMQ socket of a test, with deadlines."""

    def __init__(self, context: zmq.Context, kind: int, endpoint: str, **options: object) -> None:
        """`options` are names of socket options in lower case."""
        self.socket = context.socket(kind)
        self.socket.linger = 0
        for name, value in options.items():
            setattr(self.socket, name, value)
        self.socket.connect(endpoint)
        _OPEN.append(self)
        self._reader = Reader(Reply)

    def say(self, message: msgspec.Struct | bytes) -> None:
        """One message of one frame."""
        data = message if isinstance(message, bytes) else encode(message)
        assert self.socket.poll(LIMIT * 1000, zmq.POLLOUT)
        self.socket.send(data)

    def hear(self, seconds: float = LIMIT) -> bytes | None:
        """The last frame of the next message, or None."""
        if not self.socket.poll(seconds * 1000):
            return None
        return self.socket.recv_multipart()[-1]

    def reply(self, seconds: float = LIMIT) -> msgspec.Struct:
        """The next message, as an operator reads it."""
        data = self.hear(seconds)
        assert data is not None, "no reply"
        return self._reader.decode(data)

    def ask(self, message: msgspec.Struct | bytes) -> msgspec.Struct:
        """Say, and hear."""
        self.say(message)
        return self.reply()


def fleet(*workers: WorkerLine, generation: int = 1) -> Fleet:
    """What the supervisor tells."""
    return Fleet(
        version="1",
        pid=1,
        uptime_seconds=1.0,
        state="serving",
        slots=len(workers),
        generation=generation,
        restarts=0,
        config="test",
        address="127.0.0.1:0",
        workers=list(workers),
    )


def line(seat: int, *, state: str = "ready", slot: int | None = None, pid: int = 0) -> WorkerLine:
    """A worker as Fleet has it; its pid is 100 + seat unless told otherwise."""
    return WorkerLine(
        seat=seat,
        slot=seat if slot is None else slot,
        pid=pid or 100 + seat,
        state=state,
        generation=1,
        seconds=1.0,
    )


def until(condition, what: str, seconds: float = LIMIT) -> None:
    """Wait for a condition, with a limit."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)
