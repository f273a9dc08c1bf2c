"""The real daemon for a bench: started on free ports in a directory that goes away, looked at from outside.

What a process *owns* (USS) is the Private_* of its smaps_rollup: what one more such process would
cost; shared pages are the supervisor's (proc_pid_smaps(5)). Descriptors are the entries of
/proc/PID/fd. Whatever only the daemon itself can count is read from its /metrics page.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
PROGRAM = (sys.executable, "-c", "import sys; from supervisor.cli import main; sys.exit(main())")
PARTS = ("Rss", "Pss", "Private_Clean", "Private_Dirty")


@dataclass(frozen=True, slots=True)
class Memory:
    """KiB of one process."""

    rss: int
    pss: int
    own: int


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running flowcatd."""

    port: int
    metrics_port: int
    place: Path
    """Everything it writes stands below it."""
    sip_port: int = 0
    """Of SIP over UDP and TCP; 0 where it has none."""

    @property
    def records(self) -> Path:
        """Its records directory."""
        return self.place / "records"

    def log(self, event: str = "") -> list[dict[str, object]]:
        """Its log lines so far, of one event or all."""
        lines = (self.place / "log").read_bytes().splitlines()
        wanted = f'"{event}"'.encode() if event else b""
        return [msgspec.json.decode(line) for line in lines if line[:1] == b"{" and wanted in line]

    def worker(self) -> int:
        """The pid of the worker that said last that it serves; 0 when none did."""
        started = self.log("worker.started")
        return int(str(started[-1]["pid"])) if started else 0

    def media(self, carrier: str, run_id: str, **query: object) -> str:
        """The path and query of a media socket."""
        asked = "&".join(f"{key}={value}" for key, value in query.items())
        return f"/telephony/ws/{carrier}/{run_id}?{asked}"

    def trunk_calls(self) -> dict[str, int]:
        """How many live calls each trunk counts, as `flowcatd trunks` tells."""
        where = f"ipc://{self.place / 'run' / 'control.sock'}"
        words = ("trunks", "--json", "--connect", where)
        told = subprocess.run([*PROGRAM, *words], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        trunks = msgspec.json.decode(told.stdout)["trunks"]
        return {trunk["name"]: trunk["inbound"] + trunk["outbound"] for trunk in trunks}

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by its name with labels."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as page:
            lines = page.read().decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}


def memory_of(pid: int) -> Memory:
    """As the kernel counts it."""
    figures = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, value = line.split(":")
        figures[name] = int(value.split()[0])
    rss, pss, clean, dirty = (figures[part] for part in PARTS)
    return Memory(rss, pss, clean + dirty)


def descriptors_of(pid: int) -> int:
    """How many descriptors it has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@contextmanager
def daemon(config: str, settings: Mapping[str, object]) -> Iterator[Daemon]:
    """`flowcatd serve` with a shipped configuration and these settings, until the block ends."""
    port, metrics_port = _free_ports()
    with tempfile.TemporaryDirectory(prefix="fc-", dir="/tmp") as name:
        place = Path(name)
        given = {
            "server.port": port,
            "records.directory": place / "records",
            "control.directory": place / "run",
            "metrics.port": metrics_port,
            "sip.port": 0,
            "log.format": "json",
            "log.level": "info",
            **settings,
        }
        words = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
        with (place / "log").open("wb") as err:
            running = subprocess.Popen(
                [*PROGRAM, "serve", "--config", str(ROOT / config), *words],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=err,
            )
        try:
            assert running.stdout is not None
            if not running.stdout.readline():  # it says where it serves once it does
                raise SystemExit((place / "log").read_text(encoding="utf-8"))
            here = Daemon(port, metrics_port, place, int(str(given["sip.port"])))
            until(lambda: here.worker() != 0)
            yield here
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(START_SECONDS)
            if running.stdout is not None:
                running.stdout.close()


def until(condition: Callable[[], bool], within: float = START_SECONDS) -> float:
    """Seconds until the condition holds; SystemExit when it never does."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within:
            raise SystemExit("the daemon did not get there in time")
        time.sleep(0.005)
    return time.monotonic() - began


def free_udp_port() -> int:
    """A port that is free for UDP and TCP just now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(one.getsockname())
        return int(one.getsockname()[1])


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
