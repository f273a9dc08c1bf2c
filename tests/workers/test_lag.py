"""Loop lag: a loop that stands still is noticed, once, with the worst of it."""

from __future__ import annotations

import asyncio
import time

from flowcatd import log as logging
from flowcatd.options import Log
from workers.clock import WorkerClock
from workers.lag import LIMIT_MS, LagWatch


async def test_a_loop_that_stood_still_is_told_once(capfd) -> None:
    """Two stalls within the reporting period make one line; a loop that turns makes none."""
    logging.configure(Log(level="warning", format="json"), slot=0)
    watch = LagWatch(WorkerClock(asyncio.get_running_loop()))
    for _ in range(2):
        before = watch.longest_ms
        time.sleep(0.1 + 2 * LIMIT_MS / 1000)  # noqa: ASYNC251 the stall is what is tested
        async with asyncio.timeout(5):
            while watch.longest_ms == before:  # noqa: ASYNC110 there is no event to wait for
                await asyncio.sleep(0.001)
    lines = [line for line in capfd.readouterr().err.splitlines() if "loop.lagged" in line]
    assert len(lines) == 1
    assert watch.longest_ms >= LIMIT_MS
