"""The call table: admission is exact, draining waits, places come back."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from flowcatd.errors import CapacityError
from flowcatd.options import Calls
from workers.calls import CallTable


async def test_exactly_as_many_calls_as_places_are_admitted() -> None:
    """Of two hundred that come at once at a limit of fifty, fifty get in and all others are told."""
    table = CallTable(Calls(per_worker=50, retry_after_seconds=7))
    leave = asyncio.Event()
    refused: list[CapacityError] = []

    async def come() -> None:
        try:
            with table.place():
                await leave.wait()
        except CapacityError as error:
            refused.append(error)

    callers = [asyncio.create_task(come()) for _ in range(200)]
    await asyncio.sleep(0)
    assert len(table) == 50
    assert len(refused) == 150
    assert {error.retry_after for error in refused} == {7}
    leave.set()
    await asyncio.gather(*callers)
    assert len(table) == 0


async def test_a_place_comes_back_when_its_call_raised() -> None:
    """Whatever ends the block gives the place back."""
    table = CallTable(Calls(per_worker=1))
    with pytest.raises(RuntimeError), table.place():
        raise RuntimeError
    with table.place():
        assert len(table) == 1


async def test_a_draining_worker_takes_nobody_and_waits_for_the_last() -> None:
    """`drained` is true once the last place is free, and false when that takes too long."""
    table = CallTable(Calls())
    with ExitStack() as call:
        call.enter_context(table.place())
        table.draining = True
        with pytest.raises(CapacityError), table.place():
            pass
        assert not await table.drained(0.01)
    assert await table.drained(0.01)
