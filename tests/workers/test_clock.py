"""The worker's clock: one timer, every wake on time and in order."""

from __future__ import annotations

import asyncio
import time
from math import inf

import pytest
import uvloop

from workers.clock import WorkerClock


async def test_wakes_fire_in_the_order_of_their_time_whatever_order_they_were_asked_in() -> None:
    """A later wish for an earlier time re-arms the one timer."""
    clock = WorkerClock(asyncio.get_running_loop())
    fired: list[int] = []
    done = asyncio.Event()
    now = clock.now()
    clock.wake(now + 0.03, lambda: (fired.append(3), done.set()))
    clock.wake(now + 0.01, lambda: fired.append(1))
    clock.wake(now + 0.02, lambda: fired.append(2))
    await asyncio.wait_for(done.wait(), 2)
    assert fired == [1, 2, 3]
    assert clock.now() >= now + 0.03


async def test_a_wake_asked_for_by_a_wake_fires_too() -> None:
    """A chain of wakes, each asked for by the one before, reaches its end."""
    clock = WorkerClock(asyncio.get_running_loop())
    done = asyncio.Event()
    left = [5]

    def again() -> None:
        left[0] -= 1
        if left[0]:
            clock.wake(clock.now() + 0.001, again)
        else:
            done.set()

    clock.wake(clock.now(), again)
    await asyncio.wait_for(done.wait(), 2)
    assert len(clock) == 0


async def test_a_cancelled_wake_never_fires_and_costs_nobody_else_theirs() -> None:
    """The earliest one called off, the next still comes."""
    clock = WorkerClock(asyncio.get_running_loop())
    done = asyncio.Event()
    fired: list[str] = []
    clock.wake(clock.now() + 0.005, lambda: fired.append("cancelled")).cancel()
    clock.wake(clock.now() + 0.01, done.set)
    await asyncio.wait_for(done.wait(), 2)
    assert fired == []


async def test_a_wake_that_raises_does_not_stop_the_clock() -> None:
    """The loop's own handler hears of it; later wakes come."""
    loop = asyncio.get_running_loop()
    heard: list[object] = []
    loop.set_exception_handler(lambda _loop, context: heard.append(context["exception"]))
    clock = WorkerClock(loop)
    done = asyncio.Event()
    clock.wake(clock.now(), lambda: 1 // 0)
    clock.wake(clock.now() + 0.01, done.set)
    await asyncio.wait_for(done.wait(), 2)
    assert [type(error) for error in heard] == [ZeroDivisionError]


async def test_slack_is_the_time_until_the_next_wake() -> None:
    """Infinite with none pending, nothing with one overdue."""
    clock = WorkerClock(asyncio.get_running_loop())
    assert clock.slack(clock.now()) == inf
    now = clock.now()
    wake = clock.wake(now + 5, lambda: None)
    assert clock.slack(now + 2) == pytest.approx(3)
    assert clock.slack(now + 9) == 0
    wake.cancel()
    assert clock.slack(now) == inf


async def test_lateness_is_that_of_the_latest_ring_and_asked_once() -> None:
    """A loop that was held makes a late ring; a wish for the past makes none."""
    clock = WorkerClock(asyncio.get_running_loop())
    done = asyncio.Event()
    clock.wake(clock.now() + 0.001, lambda: None)
    clock.wake(clock.now() - 60, lambda: None)
    time.sleep(0.05)  # noqa: ASYNC251 the stall is what is tested
    clock.wake(clock.now() + 0.01, done.set)
    await asyncio.wait_for(done.wait(), 2)
    assert 0.04 < clock.worst_lateness() < 5
    assert clock.worst_lateness() == 0


def test_a_wake_is_never_early_and_rings_once_in_the_loop_that_workers_have() -> None:
    """The loop rounds to milliseconds: a timer that rings early would spin until the wake is due."""

    async def live() -> tuple[int, list[float]]:
        clock = WorkerClock(asyncio.get_running_loop())
        late: list[float] = []
        for number in range(100):
            done = asyncio.Event()
            due = clock.now() + 0.0004 + number * 0.00003

            def rang(due: float = due, done: asyncio.Event = done) -> None:
                late.append(clock.now() - due)
                done.set()

            clock.wake(due, rang)
            await asyncio.wait_for(done.wait(), 2)
        return clock.rings, late

    rings, late = uvloop.run(live())
    assert min(late) >= 0
    assert rings == 100
