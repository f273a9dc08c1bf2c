"""Facts about a worker's housekeeping: what its beat does, and when it gives calls up."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from flowcatd.metrics import Metrics, Snapshot
from flowcatd.options import Calls, Options
from workers.calls import CallTable
from workers.clock import WorkerClock
from workers.household import Household
from workers.load import WORDS, LoadTable, Standing
from workers.plan import WorkerPlan
from workers.shed import Level


class Rig:
    """A household in one seat, on this loop."""

    def __init__(self, lag_limit_ms: int = 10_000) -> None:
        options = Options(calls=Calls(lag_limit_ms=lag_limit_ms, per_worker=7))
        self.loads = LoadTable([0] * WORDS)
        row = self.loads.row(0)
        row.sit(slot=2, capacity=7, now=time.monotonic())
        nowhere = Path()
        plan = WorkerPlan(
            slot=2,
            seat=0,
            generation=1,
            load=self.loads,
            cpu=None,
            options=options,
            port=0,
            door_fd=-1,
            sip_doors={},
            ready_fd=-1,
            alive_fd=-1,
            runtime_directory=nowhere,
            agents={},
            records_directory=nowhere,
            providers_directory=nowhere,
        )
        self.table = CallTable(options.calls, row, self.loads)
        clock = WorkerClock(asyncio.get_running_loop())
        self.house = Household(plan, clock, Metrics(), self.table, row)

    def standing(self) -> Standing:
        """What fellows see."""
        return self.loads.read(0).standing


@pytest.fixture
def rig() -> Iterator[type[Rig]]:
    """Makes one; afterwards the collector is the interpreter's again."""
    made: list[Rig] = []

    class Made(Rig):
        def __init__(self, lag_limit_ms: int = 10_000) -> None:
            super().__init__(lag_limit_ms)
            made.append(self)

    yield Made
    for each in made:
        each.house.close()
    gc.unfreeze()


async def until(condition) -> None:
    """Wait for a condition, at most five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 there is no event to wait for
            await asyncio.sleep(0.005)


async def test_each_second_the_figures_are_brought_up_to_date(rig) -> None:
    """What other rooms count is read, the gauges are set, and a snapshot decodes."""
    one = rig()
    one.house.outside.hand_overs = lambda: (5, 4, 3)
    one.house.outside.helpers_lost = lambda: 2
    one.house.outside.events_dropped = lambda: 1
    await until(lambda: one.house.metrics.counters["hand_overs"]["given"] == 5)
    snapshot = msgspec.json.decode(one.house.snapshot(), type=Snapshot)
    assert (snapshot.slot, snapshot.seat) == (2, 0)
    assert snapshot.gauges["calls_capacity"][""] == 7
    assert snapshot.counters["hand_overs"] == {"given": 5, "taken": 4, "failed": 3}
    assert snapshot.counters["helpers_lost"][""] == 2
    assert snapshot.counters["events_dropped"][""] == 1


async def test_what_starting_took_turns_nobody_away(rig) -> None:
    """Stalls before `settle` are no load; the worker opens its doors at once."""
    one = rig(lag_limit_ms=20)
    for _ in range(4):
        time.sleep(0.12)  # noqa: ASYNC251 the stall is what is tested
        await asyncio.sleep(0.06)
    one.house.settle()
    one.table.shedding = False
    await asyncio.sleep(0.2)
    assert one.house.shedding.level is Level.NOTHING
    assert one.standing() is Standing.SERVING


async def test_a_loop_that_is_late_again_and_again_takes_no_more_calls(rig) -> None:
    """Fellows see it shedding, and snapshots become rare."""
    one = rig(lag_limit_ms=20)
    told: list[bool] = []
    one.house.outside.pace = told.append
    one.house.settle()
    one.table.shedding = False
    for _ in range(5):
        time.sleep(0.12)  # noqa: ASYNC251 the stall is what is tested
        await asyncio.sleep(0.06)
    await until(lambda: one.standing() is Standing.SHEDDING)
    assert told[-1] is True
    assert one.house.defers()
