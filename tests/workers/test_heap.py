"""The heap: what is free goes back to the kernel, and its price is counted."""

from __future__ import annotations

import psutil
import pytest

from flowcatd.metrics import Metrics
from workers.heap import FIRST_SECONDS, Heap, _malloc_trim

pytestmark = pytest.mark.skipif(_malloc_trim() is None, reason="not glibc")

BLOCK = 20_000
"""Below the size from which glibc asks the kernel for each block: it comes off the heap."""


def test_free_memory_below_a_block_in_use_is_given_back() -> None:
    """Twenty megabytes under one last block stay until the heap is trimmed, and then go."""
    heap, process = Heap(Metrics()), psutil.Process()
    heap.trim()
    blocks = [bytes([7]) * BLOCK for _ in range(1000)]
    last = blocks[-1]
    full = process.memory_info().rss
    del blocks
    heap.trim()
    assert full - process.memory_info().rss > 15_000_000
    assert len(last) == BLOCK


def test_each_pause_is_counted_and_expected_again() -> None:
    """The first is expected to be long; afterwards what it took."""
    metrics = Metrics()
    heap = Heap(metrics)
    assert heap.expected() == FIRST_SECONDS
    heap.trim()
    counted = metrics.histograms["heap_trim_seconds"]
    assert sum(counted.counts) == 1
    assert heap.expected() >= counted.sum > 0
