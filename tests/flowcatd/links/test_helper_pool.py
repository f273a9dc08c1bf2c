"""The pool against real processes: readiness, replacement, refusal, and an end without remains."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from flowcatd.errors import LinkClosed, LinkError, LinkRefused
from flowcatd.links.helper_pool import HelperPlan, HelperPool
from flowcatd.links.helper_wire import Audio, Begin, FromHelper, Speak
from flowcatd.links.open import available_engines

VOICE = "flowcatd.links.voice_helper"
ENGINE = "flite" if "flite" in available_engines() else "espeak-ng"
NAME = "kal16" if ENGINE == "flite" else "en-us"

pytestmark = pytest.mark.skipif(
    not available_engines() & {"flite", "espeak-ng"}, reason="no synthesiser on this machine"
)


class Owner:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.messages: list[FromHelper] = []
        self.reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def told(self, message: FromHelper) -> None:
        """Keep it."""
        self.messages.append(message)

    def lost(self, reason: str) -> None:
        """Keep the reason."""
        self.reason.set_result(reason)


@asynccontextmanager
async def running(**changes) -> AsyncIterator[HelperPool]:
    """A pool of synthesisers, closed afterwards."""
    pool = HelperPool(HelperPlan(VOICE, (ENGINE,), **changes))
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def until(condition, seconds: float = 10.0) -> None:
    """Let the loop run until it holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 a condition of another process
            await asyncio.sleep(0.01)


async def test_helpers_are_ready_and_leave_nothing_behind():
    """Two helpers start, run niced below their worker, and are gone after close."""
    async with running(count=2) as pool:
        pids = pool.pids
        assert len(set(pids)) == 2
        assert pool.ready is not None
        assert pool.ready.engine == ENGINE
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in pids} == {min(own + 5, 19)}
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert pool.pids == ()


async def test_a_helper_that_dies_is_replaced_and_its_jobs_are_told():
    """A killed helper's job is lost at once, and a new helper takes the next."""
    async with running() as pool:
        (pid,) = pool.pids
        owner = Owner()
        pool.begin(owner)
        os.kill(pid, signal.SIGKILL)
        assert "died" in await asyncio.wait_for(owner.reason, 5)
        await until(lambda: pool.pids not in ((), (pid,)))
        assert pool.restarts == 1


async def test_a_helper_that_hangs_is_replaced():
    """A stopped process misses its job's deadline and is killed, though it cannot hear SIGTERM."""
    async with running(end_seconds=0.2) as pool:
        (pid,) = pool.pids
        os.kill(pid, signal.SIGSTOP)
        owner = Owner()
        job = pool.begin(owner)
        job.send(Speak(job.number, NAME, "hello"))
        job.expect_within(0.2)
        assert "deadline" in await asyncio.wait_for(owner.reason, 5)
        await until(lambda: pool.pids not in ((), (pid,)))
        assert not psutil.pid_exists(pid)


async def test_a_helper_that_stops_reading_is_given_up():
    """What a helper leaves unread is bounded."""
    async with running(most_unsent=200_000, end_seconds=0.2) as pool:
        (pid,) = pool.pids
        os.kill(pid, signal.SIGSTOP)
        owner = Owner()
        job = pool.begin(owner)
        for _ in range(100):
            job.send(Audio(job.number, bytes(20_000)))
        assert "stopped reading" in await asyncio.wait_for(owner.reason, 5)


async def test_a_full_helper_refuses():
    """One job more than allowed is refused."""
    async with running(most_jobs=1) as pool:
        job = pool.begin(Owner())
        with pytest.raises(LinkRefused, match="busy"):
            pool.begin(Owner())
        job.release()
        pool.begin(Owner())


async def test_a_helper_that_cannot_load_fails_the_start():
    """An engine that is not there is an error of start, and no process remains."""
    pool = HelperPool(HelperPlan(VOICE, ("espeak-ng", "nowhere", "not a number")))
    with pytest.raises(LinkClosed, match="before it was ready"):
        await pool.start()
    assert pool.pids == ()
    with pytest.raises(LinkError):
        pool.begin(Owner())


async def test_helpers_end_when_the_worker_is_gone():
    """The end of the socket ends the helper, whoever closed it."""
    async with running(end_seconds=30.0) as pool:
        (pid,) = pool.pids
        process = psutil.Process(pid)
        lines = [line for line in pool._lines if line is not None]
        lines[0]._transport.abort()
        await asyncio.to_thread(process.wait, 5)


async def test_what_is_not_for_a_synthesiser_is_ignored():
    """A message of the other kind of helper neither answers nor hurts."""
    async with running() as pool:
        owner = Owner()
        job = pool.begin(owner)
        job.send(Begin(job.number, "", ""))
        job.send(Speak(job.number, NAME, "yes"))
        await until(lambda: pool.jobs == 0)
        assert type(owner.messages[-1]).__name__ == "Said"
