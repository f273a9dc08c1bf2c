"""Calls over SIP on one worker: what each costs, how it is paced, how fast it is answered.

Run: `python -m bench.sip [--rounds 3] [--seconds 10] [--write]`; some six minutes, two CPUs.

The daemon's one worker has CPU 0 for itself, whoever calls has CPU 1. Printed are medians of the rounds:

* cost: CPU time of the worker per G.711 call, by the scheduler's own count (/proc/PID/schedstat), in per
  cent of a core; through the whole chain with the echo agent, whose caller never stops, and with a dialog
  that listens to line noise. SIPp's `-rtp_echo` does the least that can be done, a packet back for a
  packet, in C, and without a jitter buffer or a codec: how many times that we take is the ratio.
* pace: how far the gap between two packets of a call is from 20 ms where they arrive, by the kernel's
  time stamps; SIPp's is that of our own caller, whose packets it sends back at once.
* answers: 60 calls a second, each timed from when its INVITE was due to its 200.

The exit status is 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import io
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.figures import ROOT, heading, section, write
from bench.fleet.daemon import daemon, until
from bench.sip.answers import Answers, ask, sipp_echo
from bench.sip.callers import Heard

COMMAND = "bench.sip"
CALLS = (20, 50, 100)
COST_PERCENT = 0.6
PACE_P99_MS = 2.0
ANSWER_MEDIAN_MS = 5.0
WORKER_CPU, CALLER_CPU = 0, 1
CONFIG = "conf/flowcatd.toml"
TRUNK = """\
[trunk]
name = "bench"
[inbound]
sources = ["127.0.0.0/8"]
calls_per_second = 10000
[media]
codecs = ["pcmu"]
[[route]]
"""
COMMON: dict[str, object] = {
    "workers.count": 1,
    "calls.per_worker": 200,
    "records.recording": "false",
    "records.transcript": "false",
    "records.record": "false",
    "records.journal": "false",
}
AGENTS: dict[str, tuple[str, dict[str, object]]] = {
    "echo": ("tone", {"agents.default": "echo"}),
    "at_rest": (
        "noise",
        {"agents.directory": ROOT / "bench" / "fleet" / "agents", "agents.default": "at_rest"},
    ),
}
"""Agent to what it hears, and its settings."""


@dataclass(frozen=True, slots=True)
class Place:
    """Who answers: its SIP port and its process."""

    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement."""

    percent: float
    """Of a core, per call."""
    heard: Heard


def pin(pid: int, cpu: int) -> None:
    """Keep every thread of a process on one CPU."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {cpu})


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have had."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def one_round(place: Place, calls: int, seconds: float, sound: str) -> Round:
    """So many calls at once, from a process of their own."""
    words = ["bench.sip.callers", str(place.port), str(calls), str(seconds), sound]
    with subprocess.Popen(
        [sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as callers:
        os.sched_setaffinity(callers.pid, {CALLER_CPU})
        assert callers.stdout is not None
        if not callers.stdout.readline():
            raise SystemExit(f"{calls} calls did not come about")
        before = cpu_seconds(place.pid)
        callers.stdout.readline()
        used = cpu_seconds(place.pid) - before
        heard = msgspec.json.decode(callers.stdout.readline(), type=Heard)
    return Round(100 * used / heard.seconds / calls, heard)


@contextmanager
def flowcatd(agent: str) -> Iterator[Place]:
    """A daemon whose worker is pinned."""
    _, settings = AGENTS[agent]
    with tempfile.TemporaryDirectory(prefix="fc-", dir="/tmp") as name:
        trunks = Path(name) / "trunks.d"
        trunks.mkdir()
        (trunks / "bench.toml").write_text(TRUNK)
        port = free_port()
        given = {**COMMON, **settings, "sip.port": port, "sip.trunks": trunks}
        with daemon(CONFIG, given) as here:
            until(lambda: here.worker() != 0)
            pin(here.worker(), WORKER_CPU)
            yield Place(port, here.worker())


def free_port() -> int:
    """One that nobody has over UDP and over TCP, below the ephemeral range."""
    for port in range(5070, 5990, 2):
        try:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                with socket.socket(socket.AF_INET, kind) as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return port
    raise SystemExit("no port is free")


def median(rounds: list[Round], value: Callable[[Round], float]) -> float:
    """Of one value."""
    return statistics.median(value(each) for each in rounds)


def loads(name: str, place: Place, sound: str, args: argparse.Namespace) -> list[str]:
    """Cost and pace of all numbers of calls: a line each, and the promises that were broken."""
    broken = []
    for calls in args.calls:
        rounds = [one_round(place, calls, args.seconds, sound) for _ in range(args.rounds)]
        cost = median(rounds, lambda each: each.percent)
        p50 = median(rounds, lambda each: each.heard.p50_us) / 1000
        p99 = median(rounds, lambda each: each.heard.p99_us) / 1000
        worst = median(rounds, lambda each: each.heard.worst_us) / 1000
        sent = sum(each.heard.sent for each in rounds)
        missing = 100 * (1 - sum(each.heard.received for each in rounds) / sent)
        print(
            f"{name:<10}{calls:>6}{cost:>10.3f}{p50:>10.3f}{p99:>9.3f}{worst:>9.2f}{missing:>10.2f}",
            flush=True,
        )
        if name == "sipp":
            continue
        if cost > COST_PERCENT:
            broken.append(f"{name}, {calls} calls: {cost:.3f} % of a core per call")
        if p99 > PACE_P99_MS and name == "echo":
            broken.append(f"{name}, {calls} calls: paced with p99 {p99:.3f} ms")
    return broken


def answers(args: argparse.Namespace) -> list[str]:
    """Time to answer at 60 calls a second."""
    with flowcatd("echo") as place:
        rounds = [ask(place.port, args.seconds, CALLER_CPU) for _ in range(args.rounds)]
    return told(rounds)


def told(rounds: list[Answers]) -> list[str]:
    """A line, and whether the promise was kept."""
    middle, late = (
        statistics.median(getattr(each, part) for each in rounds)
        for part in ("median_ms", "p99_ms")
    )
    calls = sum(each.calls for each in rounds)
    failed = sum(each.failed for each in rounds)
    print(f"\n60 calls a second, {calls} calls, {failed} failed: INVITE to 200 in ms", flush=True)
    print(f"median {middle:.2f}, p99 {late:.2f}", flush=True)
    broken = [f"answers: median {middle:.2f} ms"] if middle > ANSWER_MEDIAN_MS else []
    return broken + ([f"{failed} calls failed"] if failed else [])


def measure(args: argparse.Namespace) -> list[str]:
    """All of it: what was promised and is not so."""
    print(f"medians of {args.rounds} rounds of {args.seconds:g} s; one worker on one CPU")
    print("who        calls  % a call   pace ms: p50     p99    worst  missing %", flush=True)
    broken = []
    for agent, (sound, _) in AGENTS.items():
        with flowcatd(agent) as place:
            broken += loads(agent, place, sound, args)
    with sipp_echo(free_port()) as (port, pid):
        pin(pid, WORKER_CPU)
        broken += loads("sipp", Place(port, pid), "tone", args)
    return broken + answers(args)


def main() -> int:
    """Measure, print, and keep it if asked to."""
    parser = argparse.ArgumentParser(prog=f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--calls", type=int, nargs="*", default=list(CALLS))
    parser.add_argument("--write", action="store_true", help="keep the figures in bench/FIGURES.md")
    args = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two CPUs are needed: one for the worker, one for its callers")
    page = io.StringIO()
    begun = time.monotonic()
    with redirect_stdout(page) if args.write else _nothing():
        broken = measure(args)
        for line in broken:
            print(f"broken: {line}")
    if args.write:
        print(page.getvalue())
        write(
            COMMAND,
            [heading(COMMAND, "2 CPUs, one each"), section(COMMAND, page.getvalue())],
        )
    print(f"{time.monotonic() - begun:.0f} s")
    return 1 if broken else 0


@contextmanager
def _nothing() -> Iterator[None]:
    yield


if __name__ == "__main__":
    sys.exit(main())
