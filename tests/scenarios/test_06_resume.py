"""Scenario 6: a worker is killed with calls on it; who comes back goes on, who does not has a record."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.scenarios.daemon import ROOT, Daemon, bystander, running, until

pytestmark = pytest.mark.scenario

SETTINGS = (
    "workers.count=2",
    f"agents.directory={ROOT / 'tests/corpus/agents'}",
    "records.record=true",
    "records.transcript=true",
    "records.journal=true",
)


async def press(socket: aiohttp.ClientWebSocketResponse, digit: str) -> None:
    """A key on a plain socket."""
    await socket.send_str(json.dumps({"event": "dtmf", "digit": digit}))


def journal_with(daemon: Daemon, *words: str) -> bool:
    """Whether some call's journal holds all of these words."""
    for folder, _, names in os.walk(daemon.records / "journal" / "calls"):
        for name in names:
            try:
                text = (Path(folder) / name).read_text()
            except FileNotFoundError:
                continue
            if all(word in text for word in words):
                return True
    return False


async def kill_worker_of(daemon: Daemon, run_id: str) -> dict[str, Any]:
    """SIGKILL to the worker of the call that was answered last; gives its log line."""
    await until(lambda: journal_with(daemon, f'"run_id":"{run_id}"'), f"the journal of {run_id}")
    slot = daemon.log("call.answered")[-1]["slot"]
    line = [each for each in daemon.log("worker.started") if each["slot"] == slot][-1]
    os.kill(line["pid"], signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{line['pid']}").exists(), "the killed worker's end")
    return line


async def test_a_call_goes_on_after_its_worker_was_killed(tmp_path: Path) -> None:
    """First figure, SIGKILL, the same run id again, second figure: one call, one record."""
    async with running(tmp_path, *SETTINGS) as daemon, aiohttp.ClientSession() as session:
        await until(lambda: len(daemon.log("worker.started")) == 2, "both workers")
        address = daemon.media("raw", "resumed", agent="digits")
        async with session.ws_connect(address) as socket:
            await press(socket, "4")
            await until(lambda: journal_with(daemon, '"state":"second"'), "the first figure")
            name = daemon.log("call.answered")[-1]["call"]
            await kill_worker_of(daemon, "resumed")
        async with session.ws_connect(address) as socket:
            await until(lambda: bool(daemon.log("call.resumed")), "the resumption")
            await press(socket, "7")
            async for _message in socket:
                pass
            assert socket.close_code == 1000
        record = await daemon.record_of("resumed")
        records = [path.name for path in daemon.records.glob("*.json")]
    assert record["call_id"] == name
    assert record["variables"] == {"one": "4", "two": "7"}
    assert (record["reason"], record["resumed"]) == ("completed", 1)
    assert [problem["where"] for problem in record["problems"]] == ["worker"]
    assert sorted(records) == [f"{name}.json", f"{name}.transcript.json"]


async def test_a_call_that_nobody_takes_up_has_its_record(tmp_path: Path) -> None:
    """Its worker is killed, its caller is gone: `worker_lost`, once, with what it knew."""
    settings = (*SETTINGS, "calls.resume_seconds=0.5")
    async with running(tmp_path, *settings) as daemon, aiohttp.ClientSession() as session:
        await until(lambda: len(daemon.log("worker.started")) == 2, "both workers")
        async with session.ws_connect(daemon.media("raw", "lost", agent="digits")) as socket:
            await press(socket, "4")
            await until(lambda: journal_with(daemon, '"state":"second"'), "the first figure")
            await kill_worker_of(daemon, "lost")
        record = await daemon.record_of("lost")
        await until(lambda: not journal_with(daemon), "the end of the journal")
        async with bystander(daemon):
            assert len(daemon.log("call.abandoned")) == 1
    assert record["reason"] == "worker_lost"
    assert record["variables"] == {"one": "4", "two": ""}
