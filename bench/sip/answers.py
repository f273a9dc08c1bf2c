"""A caller with a clock, 60 calls a second; and the cheapest answerer there is, SIPp.

SIPp's own clock (`-trace_rtt`) has whole milliseconds, too coarse for what is measured here, so the caller is
ours (bench.peers.sip_caller, in a process of its own). As an answerer SIPp runs its own `uas` scenario and
sends every RTP packet back where it came from.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bench.figures import ROOT
from bench.peers.sip_caller import NotAnsweredError, Placed, SipCaller

RATE = 60
HOLD_SECONDS = 0.5
MEDIA_PORT = 9
"""Discard: these calls are silent."""
START_SECONDS = 0.5
PATIENCE_SECONDS = 30.0


class Answers(msgspec.Struct, frozen=True):
    """How fast calls were answered."""

    calls: int
    failed: int
    median_ms: float
    p99_ms: float


def ask(port: int, seconds: float, cpu: int) -> Answers:
    """Call for so long, from a process on this CPU."""
    words = [sys.executable, "-m", "bench.sip.answers", str(port), str(seconds)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as running:
        os.sched_setaffinity(running.pid, {cpu})
        said, _ = running.communicate(timeout=seconds + PATIENCE_SECONDS)
    return msgspec.json.decode(said, type=Answers)


def call(port: int, seconds: float) -> Answers:
    """Calls that begin when they are due, each hung up after a while.

    A call that begins late, since the one before was answered late, is timed from when it was due.
    """
    caller = SipCaller("127.0.0.1", port)
    calls, failed = int(seconds * RATE), 0
    times: list[float] = []
    up: deque[tuple[float, Placed]] = deque()
    begun = time.monotonic()
    for number in range(calls):
        due = begun + number / RATE
        while up and up[0][0] <= time.monotonic() < due:
            failed += caller.hang_up(up.popleft()[1]) != 200
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            placed = caller.call(MEDIA_PORT)
        except NotAnsweredError:
            failed += 1
            continue
        times.append(1000 * (time.monotonic() - due))
        up.append((time.monotonic() + HOLD_SECONDS, placed))
    for _, placed in up:
        failed += caller.hang_up(placed) != 200
    caller.close()
    times.sort()
    if not times:
        return Answers(calls, failed, math.inf, math.inf)
    late = times[min(len(times), math.ceil(0.99 * len(times))) - 1]
    return Answers(calls, failed, statistics.median(times), late)


@contextmanager
def sipp_echo(port: int) -> Iterator[tuple[int, int]]:
    """SIPp answers, and sends packets back: its port and its pid."""
    words = f"-sn uas -i 127.0.0.1 -p {port} -mi 127.0.0.1 -mp {port + 100} -rtp_echo -nostdin"
    with (
        tempfile.TemporaryDirectory(prefix="fc-") as name,
        subprocess.Popen(
            [found(), *words.split()],
            cwd=name,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as running,
    ):
        try:
            time.sleep(START_SECONDS)
            yield port, running.pid
        finally:
            running.kill()


def found() -> str:
    """Where SIPp is; SystemExit where it is not."""
    program = shutil.which("sipp")
    if program is None:
        raise SystemExit("Debian's sip-tester is missing")
    return program


if __name__ == "__main__":
    found_answers = call(int(sys.argv[1]), float(sys.argv[2]))
    sys.stdout.write(msgspec.json.encode(found_answers).decode())
