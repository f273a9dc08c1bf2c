"""The worker's clock: one timer, every wake on time and in order."""

from __future__ import annotations

import asyncio

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
