"""Scenario 5: processes come and go; calls elsewhere do not notice, and live ones may finish."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.scenarios.daemon import bystander, running, stamp, until

pytestmark = pytest.mark.scenario


async def test_a_killed_worker_takes_no_other_workers_call_with_it(tmp_path: Path) -> None:
    """SIGKILL to the worker without the bystander: its slot is filled again, no frame is lost."""
    async with running(tmp_path, "workers.count=2") as daemon, bystander(daemon):
        await until(lambda: len(daemon.log("worker.started")) == 2, "both workers' lines")
        busy = daemon.log("call.started")[0]["slot"]
        other = next(line for line in daemon.log("worker.started") if line["slot"] != busy)
        os.kill(other["pid"], signal.SIGKILL)
        await until(lambda: len(daemon.log("worker.started")) == 3, "the slot's successor")
        successor = daemon.log("worker.started")[2]
    assert successor["slot"] == other["slot"]
    assert successor["pid"] != other["pid"]
    assert len(daemon.log("worker.lost")) == 1


async def test_a_drained_daemon_lets_a_live_call_finish_and_takes_no_new_one(
    tmp_path: Path,
) -> None:
    """After SIGTERM the call goes on; who calls now gets 503 and when to try; then the daemon ends."""
    async with running(tmp_path, "workers.count=1") as daemon, aiohttp.ClientSession() as session:
        address = daemon.media("raw", encoding="mulaw", rate=8000)
        async with session.ws_connect(address) as call:
            await call.send_bytes(stamp(0))
            assert (await call.receive(timeout=5)).data == stamp(0)
            daemon.tell(signal.SIGTERM)
            await until(lambda: bool(daemon.log("worker.drained")), "the drain")
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(address)
            assert refused.value.status == 503
            assert refused.value.headers["Retry-After"] == "5"
            for number in range(1, 20):
                await call.send_bytes(stamp(number))
                assert (await call.receive(timeout=5)).data == stamp(number)
        assert await daemon.end(signal.SIGTERM) == 0
    assert daemon.log("call.ended")[0]["reason"] == "caller_hung_up"


async def test_workers_whose_supervisor_is_killed_drain_and_end(tmp_path: Path) -> None:
    """No orphan stays: the worker notices the closed pipe, finishes its call and ends."""
    async with running(tmp_path, "workers.count=1") as daemon, aiohttp.ClientSession() as session:
        await until(lambda: bool(daemon.log("worker.started")), "the worker's line")
        worker = daemon.log("worker.started")[0]["pid"]
        address = daemon.media("raw", encoding="mulaw", rate=8000)
        async with session.ws_connect(address) as call:
            await call.send_bytes(stamp(0))
            await call.receive(timeout=5)
            daemon.tell(signal.SIGKILL)
            await until(lambda: bool(daemon.log("worker.orphaned")), "the worker to notice")
            await call.send_bytes(stamp(1))
            assert (await call.receive(timeout=5)).data == stamp(1)
        await until(lambda: bool(daemon.log("worker.stopped")), "the worker's end")
        await until(lambda: not Path(f"/proc/{worker}").exists(), "the process to be gone")
