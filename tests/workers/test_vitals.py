"""Vitals: what the gauges say agrees with what the kernel says."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from time import process_time

import psutil
import pytest

from flowcatd.metrics import Metrics
from workers.vitals import RARE_BEATS, Counts, Vitals, open_descriptors, own_bytes

COUNTS = Counts(calls=3, capacity=200, level=0, deferring=False, wakes=7)


@pytest.fixture
def metrics() -> Metrics:
    """Fresh ones."""
    return Metrics()


async def beat(metrics: Metrics, times: int, counts: Counts = COUNTS) -> Metrics:
    """This many seconds of a worker."""
    vitals = Vitals(metrics)
    for _ in range(times):
        vitals.beat(counts)
    vitals.close()
    return metrics


async def test_one_beat_fills_the_cheap_gauges(metrics):
    """Calls, capacity, level, CPU, resident memory, descriptors."""
    await beat(metrics, 1, Counts(calls=3, capacity=200, level=2, deferring=True, wakes=7))
    gauges = metrics.gauges
    assert gauges["calls_live"][""] == 3
    assert gauges["calls_capacity"][""] == 200
    assert gauges["shedding_level"][""] == 2
    assert metrics.counters["cpu_seconds"][""] == pytest.approx(process_time(), abs=0.5)
    resident = psutil.Process().memory_info().rss
    assert gauges["memory_bytes"]["rss"] == pytest.approx(resident, rel=0.05)
    assert gauges["descriptors"][""] == pytest.approx(psutil.Process().num_fds(), abs=2)


async def test_the_dear_gauges_come_within_ten_beats(metrics):
    """Own memory and tasks."""
    other = asyncio.create_task(asyncio.Event().wait())
    await beat(metrics, RARE_BEATS)
    assert metrics.gauges["tasks"][""] == len(asyncio.all_tasks()) >= 2
    own = psutil.Process().memory_full_info().uss
    assert metrics.gauges["memory_bytes"]["own"] == pytest.approx(own, rel=0.1)
    other.cancel()


async def test_the_dear_gauges_wait_while_housekeeping_is_given_up(metrics):
    """The kernel's walk over all pages is for quiet times."""
    await beat(
        metrics, 2 * RARE_BEATS, Counts(calls=3, capacity=200, level=1, deferring=True, wakes=7)
    )
    assert metrics.gauges["memory_bytes"]["own"] == 0
    assert metrics.gauges["tasks"][""] == 0
    assert metrics.gauges["memory_bytes"]["rss"] > 0


async def test_beats_after_the_end_do_nothing(metrics):
    """The number of a closed descriptor may be somebody else's by then."""
    vitals = Vitals(metrics)
    vitals.close()
    vitals.close()
    vitals.beat(COUNTS)
    assert metrics.gauges["memory_bytes"]["rss"] == 0


def test_descriptors_are_counted_one_by_one():
    """Three sockets more are three more."""
    before = open_descriptors()
    sockets = [socket.socket() for _ in range(3)]
    assert open_descriptors() == before + 3
    for each in sockets:
        each.close()
    assert open_descriptors() == before


def test_own_memory_leaves_out_what_is_shared():
    """Ten megabytes of one's own count; a child that has only been forked owns next to nothing."""
    before = own_bytes()
    # From the kernel itself: the allocator may give what an earlier test left.
    block = mmap.mmap(-1, 10 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.write(os.urandom(1 << 20) * 10)
    assert own_bytes() - before > 9 << 20
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, str(own_bytes()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    childs = int(os.read(read, 32))
    assert childs < before / 2
    assert len(block) == 10 << 20
    os.close(read)
    os.close(write)
