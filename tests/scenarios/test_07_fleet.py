"""Scenario 7: the fleet is killed, reloaded, resized and flooded while calls are up."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.scenarios.daemon import FLOWCATD, Daemon, running, until
from tests.scenarios.traffic import Traffic, traffic

pytestmark = pytest.mark.scenario


async def operate(daemon: Daemon, *words: str) -> tuple[int, str]:
    """`flowcatd WORDS` against this daemon: exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        str(FLOWCATD),
        *words,
        "--connect",
        daemon.ready["control"],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode()


def nobody_noticed(seen: Traffic) -> None:
    """No long call lost, doubled or swapped a frame or was cut; no short one was refused or cut."""
    assert [call for call in seen.long if call.wrong or call.closed_by_daemon] == []
    assert [call for call in seen.long if call.heard != call.sent] == []
    assert dict(seen.refused) == {}
    assert (seen.cut, seen.wrong) == (0, 0)


def figure(what: str, value: str) -> None:
    """Shown by `pytest -s`."""
    sys.stdout.write(f"\n  {what} {value}\n")


async def slots_of(daemon: Daemon) -> dict[str, int]:
    """Run id to worker slot, as the daemon tells."""
    _, said = await operate(daemon, "calls", "--json")
    return {call["run_id"]: call["slot"] for call in json.loads(said)["calls"]}


async def test_a_killed_worker_costs_the_other_workers_calls_nothing_and_is_back_in_a_second(
    tmp_path: Path,
) -> None:
    """Calls on both; one is killed: no frame lost, no gap above 40 ms, the slot serves within 1 s."""
    async with running(tmp_path, "workers.count=2") as daemon, aiohttp.ClientSession():
        await until(lambda: len(daemon.log("worker.started")) == 2, "both workers")
        async with traffic(daemon, long=16) as seen:
            slots = await slots_of(daemon)
            victim = slots["long-0"]
            mine = [call for call in seen.long if slots[f"long-{call.number}"] == victim]
            others = [call for call in seen.long if slots[f"long-{call.number}"] != victim]
            assert mine
            assert others
            pid = next(
                line["pid"] for line in daemon.log("worker.started") if line["slot"] == victim
            )
            loop = asyncio.get_running_loop()
            os.kill(pid, signal.SIGKILL)
            killed_at = loop.time()
            await until(lambda: len(daemon.log("worker.started")) == 3, "the successor")
            back_after = loop.time() - killed_at
            before = others[0].heard
            await until(lambda: others[0].heard > before + 50, "a second of the others' echoes")
    figure(
        "killed worker: slot serves again after",
        f"{back_after:.2f} s; worst gap of the other worker's calls "
        f"{max(call.worst_gap_ms for call in others):.0f} ms",
    )
    assert back_after < 1.0
    assert [call for call in others if call.wrong or call.heard != call.sent] == []
    assert max(call.worst_gap_ms for call in others) <= 40
    assert all(call.closed_by_daemon for call in mine)


async def test_ten_reloads_and_ten_resizes_under_load_are_noticed_by_nobody(tmp_path: Path) -> None:
    """New calls all the time and long ones: none refused, cut, doubled or moved."""
    async with (
        running(tmp_path, "workers.count=2", "workers.most=4") as daemon,
        traffic(daemon, long=8, new_per_second=20) as seen,
    ):
        before = await slots_of(daemon)
        for turn in range(10):
            code, said = await operate(daemon, "reload")
            assert code == 0, said
            code, said = await operate(daemon, "scale", str(1 + turn % 3))
            assert code == 0, said
        after = await slots_of(daemon)
    figure(
        "10 reloads and 10 resizes:",
        f"{seen.short_done} short calls, {seen.total} frames of long ones, nothing refused or lost; "
        f"worst gap {max(call.worst_gap_ms for call in seen.long):.0f} ms",
    )
    nobody_noticed(seen)
    assert seen.short_done >= 100
    long = [name for name in before if name.startswith("long-")]
    assert {name: after[name] for name in long} == {name: before[name] for name in long}
    assert daemon.log("worker.lost") == []


async def test_a_storm_at_the_limit_gives_exactly_as_many_calls_and_clear_refusals(
    tmp_path: Path,
) -> None:
    """200 connects at once, 50 places in two workers: 50 calls, 150 times 503 with Retry-After."""
    settings = ("workers.count=2", "calls.per_worker=25", "log.level=warning")
    async with running(tmp_path, *settings) as daemon:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            for _ in range(3):
                results = await asyncio.gather(
                    *(_try(session, daemon, number) for number in range(200))
                )
                calls = [each for each in results if not isinstance(each, tuple)]
                refusals = [each for each in results if isinstance(each, tuple)]
                assert len(calls) == 50
                assert set(refusals) == {(503, "5")}
                slots = Counter((await slots_of(daemon)).values())
                assert slots == {0: 25, 1: 25}
                await asyncio.gather(*(call.close() for call in calls))
                await _until_empty(daemon)


async def _try(
    session: aiohttp.ClientSession, daemon: Daemon, number: int
) -> aiohttp.ClientWebSocketResponse | tuple[int, str]:
    address = daemon.media("raw", f"storm-{number}", encoding="mulaw", rate=8000)
    try:
        return await session.ws_connect(address)
    except aiohttp.WSServerHandshakeError as error:
        return error.status, (error.headers or {})["Retry-After"]


async def _until_empty(daemon: Daemon) -> None:
    for _ in range(100):
        if not await slots_of(daemon):
            return
    raise AssertionError("calls stay up")
