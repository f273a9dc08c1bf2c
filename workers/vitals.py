"""Vitals: once a second, what the worker costs, into the gauges of its Metrics.

Each figure has its price, measured with 600 descriptors and 800 tasks; so some are asked for rarely:

    every second        cpu_seconds      0.4 µs   the process's own clock
                        memory rss       1 µs     /proc/self/statm, kept open (proc_pid_statm(5))
                        descriptors      2.3 µs   size of /proc/self/fd (Linux 6.2 and later;
                                                  230 µs before, where the entries are counted)
    every ten seconds   memory own       1.5 ms   Private_* of smaps_rollup (proc_pid_smaps(5)):
                                                  the kernel walks all pages
                        tasks            90 µs    asyncio copies its weak set

The two dear ones fall into different seconds, and wait while housekeeping is given up. With the
gauges' own arithmetic a beat takes 26 µs, 220 µs in the mean of ten.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from time import process_time

from flowcatd.metrics import Metrics

RARE_BEATS = 10
"""Every how many beats a dear figure is asked for."""
OWN_BEAT = 0
TASKS_BEAT = 5

_PAGE = os.sysconf("SC_PAGE_SIZE")
_DESCRIPTORS = Path("/proc/self/fd")
_ROLLUP = Path("/proc/self/smaps_rollup")


@dataclass(frozen=True, slots=True)
class Counts:
    """What the worker knows of itself."""

    calls: int
    capacity: int
    level: int
    """Shedding.level."""
    deferring: bool
    """Whether housekeeping is given up."""
    wakes: int
    """Wakes pending on the worker's clock."""


class Vitals:
    """Measures this process; made after the fork, on the loop's thread."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        self._beats = 0

    def beat(self, counts: Counts) -> None:
        """Once a second: fill the gauges."""
        metrics = self._metrics
        if self._statm < 0:
            return  # the worker's heart beats longer than it keeps house
        metrics.set("calls_live", counts.calls)
        metrics.set("calls_capacity", counts.capacity)
        metrics.set("shedding_level", counts.level)
        metrics.set("wakes", counts.wakes)
        metrics.total("cpu_seconds", process_time())
        metrics.set("memory_bytes", self._resident(), label="rss")
        metrics.set("descriptors", open_descriptors())
        turn = self._beats % RARE_BEATS
        self._beats += 1
        if counts.deferring:
            return
        if turn == OWN_BEAT:
            metrics.set("memory_bytes", own_bytes(), label="own")
        elif turn == TASKS_BEAT:
            metrics.set("tasks", len(asyncio.all_tasks()))

    def close(self) -> None:
        """Let go of the descriptor; idempotent, and beats that come later do nothing."""
        if self._statm >= 0:
            os.close(self._statm)
            self._statm = -1

    def _resident(self) -> int:
        return int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE


def open_descriptors() -> int:
    """How many descriptors this process has open, less the one that looking takes."""
    size = _DESCRIPTORS.stat().st_size
    return size or sum(1 for _ in _DESCRIPTORS.iterdir()) - 1


def own_bytes() -> int:
    """Bytes of this process that no other shares: what one more like it would cost."""
    lines = _ROLLUP.read_bytes().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Private_"))
