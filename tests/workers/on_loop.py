"""Tests of shells on the loop that workers run on, and what such tests wait for."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop


def on_worker_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The async test, run by uvloop; its fixtures must not need a loop."""

    @functools.wraps(test)
    def run(*args: object, **fixtures: object) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **fixtures))

    del run.__wrapped__
    run.__signature__ = inspect.signature(test)
    return run


async def until(condition: Callable[[], object], within: float = 5.0) -> None:
    """Wait until it holds; TimeoutError when that takes longer than `within` seconds."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 what is waited for is in the kernel, or elsewhere
            await asyncio.sleep(0.002)


def open_descriptors() -> int:
    """How many this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def highest_descriptor() -> int:
    """The largest number in use."""
    return max(int(each.name) for each in Path("/proc/self/fd").iterdir())
