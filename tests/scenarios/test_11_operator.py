"""Scenario 11: the operator's commands, as a person or a script uses them, on the real daemon."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.scenarios.daemon import FLOWCATD, Daemon, running, until
from tests.scenarios.traffic import traffic

pytestmark = pytest.mark.scenario

LIMIT_SECONDS = 60


async def flowcatd(*words: str) -> tuple[int, str, str]:
    """Any command: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        str(FLOWCATD), *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def operate(daemon: Daemon, *words: str) -> tuple[int, str, str]:
    """A command to this daemon."""
    return await flowcatd(*words, "--connect", daemon.ready["control"])


async def status(daemon: Daemon) -> dict[str, object]:
    """What `status --json` says."""
    _, out, _ = await operate(daemon, "status", "--json")
    found: dict[str, object] = json.loads(out)
    return found


async def test_status_is_for_people_and_for_scripts(tmp_path: Path) -> None:
    """A table, one JSON line, or silence; 0 while all is well and 1 when a reload was refused."""
    config = tmp_path / "its.toml"
    config.write_text('[agents]\ndefault = "echo"\n')
    async with running(tmp_path, "workers.count=2", config=str(config)) as daemon:
        code, out, err = await operate(daemon, "status")
        assert (code, err) == (0, "")
        assert f"address  127.0.0.1:{daemon.ready['port']}\n" in out
        assert len(re.findall(r"^ +[01] +\d+  ready +0/200 ", out, re.MULTILINE)) == 2
        facts = await status(daemon)
        assert (facts["state"], facts["slots"], facts["pid"]) == ("serving", 2, daemon.process.pid)
        assert await operate(daemon, "status", "--check") == (0, "", "")
        config.write_text('[agents]\ndefualt = "echo"\n')
        code, out, err = await operate(daemon, "reload")
        assert (code, out) == (1, "")
        assert "its.toml:2: agents.defualt: is not a setting, did you mean 'default'?" in err
        said = await _checked(daemon, 1)
        assert "the last reload failed" in said
        assert said.count("\n") == 1
        config.write_text('[agents]\ndefault = "echo"\n')
        code, out, err = await operate(daemon, "reload")
        assert (code, err) == (0, "")
        assert await _checked(daemon, 0) == ""


async def _checked(daemon: Daemon, wanted: int) -> str:
    """What `status --check` says; it must exit with `wanted`, at once."""
    code, out, _ = await operate(daemon, "status", "--check")
    assert code == wanted
    return out


async def test_calls_and_top_show_the_live_calls_and_hangup_ends_the_one_that_is_named(
    tmp_path: Path,
) -> None:
    """By run id or call id; a name that is nobody's is an error."""
    async with running(tmp_path, "workers.count=2") as daemon, traffic(daemon, long=5) as seen:
        code, out, _ = await operate(daemon, "calls")
        assert code == 0
        assert len(re.findall(r"^ +\d{8}T\d{6}Z-\w+  long-\d +raw ", out, re.MULTILINE)) == 5
        _, out, _ = await operate(daemon, "calls", "--json")
        ids = {call["run_id"]: call["call_id"] for call in json.loads(out)["calls"]}
        assert set(ids) == {f"long-{number}" for number in range(5)}
        code, out, _ = await operate(daemon, "top", "--once")
        assert code == 0
        assert "5 of 400 calls" in out.splitlines()[0]
        assert len(re.findall(r"^ +[01] ready +\d/200 ", out, re.MULTILINE)) == 2
        assert await _calls_by_json(daemon) == 5
        for name in ("long-3", ids["long-4"]):
            code, out, err = await operate(daemon, "hangup", name)
            assert (code, out, err) == (0, "the call is told to end\n", "")
        await until(lambda: seen.long[3].closed_by_daemon, "the end of one call")
        await until(lambda: seen.long[4].closed_by_daemon, "the end of the other")
        code, out, err = await operate(daemon, "hangup", "long-3")
        assert (code, out, err) == (1, "", "flowcatd: no such call\n")
    assert [call.closed_by_daemon for call in seen.long[:3]] == [False] * 3


async def _calls_by_json(daemon: Daemon) -> int:
    """The total of the first line of `top --json`, which goes on until it is told to end."""
    process = await asyncio.create_subprocess_exec(
        *(str(FLOWCATD), "top", "--json", "--connect", daemon.ready["control"]),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), LIMIT_SECONDS)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), LIMIT_SECONDS) == 128 + signal.SIGTERM
    total: int = json.loads(line)["total"]["calls"]
    return total


async def test_long_jobs_say_how_far_they_are(tmp_path: Path) -> None:
    """Reload, upgrade and scale: a line for each step, then what was reached; status agrees."""
    async with running(tmp_path, "workers.count=2", "workers.most=3") as daemon:
        replaced = ["worker 0 replaced, 1 of 2", "worker 1 replaced, 2 of 2"]
        code, out, err = await operate(daemon, "reload")
        assert (code, err) == (0, "")
        assert out.splitlines()[-3:-1] == replaced
        assert out.splitlines()[-1] == "all workers run the new configuration (generation 2)"
        code, out, err = await operate(daemon, "upgrade")
        assert (code, err) == (0, "")
        assert out.splitlines()[-3:-1] == replaced
        facts = await status(daemon)
        assert (facts["pid"], facts["generation"]) == (daemon.process.pid, 3)
        for count in (3, 1):
            code, out, err = await operate(daemon, "scale", str(count))
            assert (code, err) == (0, "")
            assert (await status(daemon))["slots"] == count
        code, out, err = await operate(daemon, "scale", "4")
        assert (code, out) == (1, "")
        assert "at most 3 workers (workers.most)" in err
        for words in (("scale", "0"), ("log-level", "loud")):
            assert (await operate(daemon, *words))[0] == 2
        assert (await operate(daemon, "log-level", "warning"))[:2] == (0, "log level is warning\n")


async def test_drain_waits_for_the_last_call_and_afterwards_nobody_answers(tmp_path: Path) -> None:
    """New calls are refused, live ones finish, it ends with 0; then each command says so with 69."""
    async with running(tmp_path, "workers.count=2") as daemon:
        async with traffic(daemon, long=2) as seen:
            draining = asyncio.create_task(operate(daemon, "drain"))
            await until(lambda: len(daemon.log("worker.drained")) == 2, "both drain")
            async with aiohttp.ClientSession() as session:
                with pytest.raises((aiohttp.WSServerHandshakeError, aiohttp.ClientConnectorError)):
                    await session.ws_connect(daemon.media("raw", encoding="mulaw", rate=8000))
            before = seen.long[0].heard
            await until(lambda: seen.long[0].heard > before + 25, "half a second of echoes")
            assert not draining.done()
        code, out, err = await draining
        assert (code, err) == (0, "")
        assert out.splitlines()[-1] == "flowcatd has ended"
        assert any(line.startswith("2 calls are up") for line in out.splitlines())
        assert await asyncio.wait_for(daemon.process.wait(), LIMIT_SECONDS) == 0
        assert not any(call.closed_by_daemon for call in seen.long)
        for word in ("status", "calls", "reload", "drain"):
            code, out, err = await operate(daemon, word)
            assert (code, out) == (69, "")
            assert err.startswith(
                f"flowcatd: no flowcatd answers at {daemon.ready['control']}; is "
            )
            assert err.count("\n") == 1


async def test_a_bridge_over_curve_tcp_counts_what_the_daemon_itself_counts(tmp_path: Path) -> None:
    """Commands and figures from another machine's point of view, with keys; without, nothing."""
    made = await asyncio.to_thread(_keys, tmp_path / "keys")
    commands, figures = _free_endpoints()
    settings = (
        "workers.count=2",
        f"control.tcp={commands}",
        f"control.metrics_tcp={figures}",
        f"control.curve_secret=file:{made}/server.key",
        f"control.curve_clients={made}/clients",
    )
    keys = (f"--server-key={made}/server.pub", f"--client-key={made}/operator.key")
    async with (
        running(tmp_path, *settings) as daemon,
        _bridge(tmp_path, "--connect", figures, *keys) as address,
    ):
        assert (await flowcatd("status", "--connect", commands))[0] == 78
        code, out, _ = await flowcatd("status", "--connect", commands, *keys)
        assert code == 0
        assert "MEMORY" not in out
        own = f"http://{daemon.ready['metrics']}/metrics"
        async with aiohttp.ClientSession() as session:
            async with traffic(daemon, long=3, new_per_second=10) as seen:
                await until(lambda: seen.short_done >= 10, "ten short calls")
            ended = len(seen.long) + seen.short_done
            totals = await _totals_that_agree(session, (own, address), ended)
    assert totals["flowcatd_calls_started_total"] == ended
    assert totals['flowcatd_calls_ended_total{reason="caller_hung_up"}'] == ended


def _free_endpoints() -> tuple[str, str]:
    """Two that nobody listens on just now."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = [found.getsockname()[1] for found in (one, two)]
    return f"tcp://127.0.0.1:{ports[0]}", f"tcp://127.0.0.1:{ports[1]}"


def _keys(directory: Path) -> Path:
    subprocess.run([str(FLOWCATD), "keys", str(directory)], check=True, capture_output=True)
    return directory


@asynccontextmanager
async def _bridge(tmp_path: Path, *words: str) -> AsyncIterator[str]:
    """`flowcatd bridge` on a free port; the address of its /metrics."""
    with (tmp_path / "bridge.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(str(FLOWCATD), "bridge", "--listen", "127.0.0.1:0", *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    try:
        said = await asyncio.wait_for(process.stdout.readline(), LIMIT_SECONDS)
        yield said.decode().split()[0]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), LIMIT_SECONDS) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _totals_that_agree(
    session: aiohttp.ClientSession, addresses: Sequence[str], ended: int
) -> dict[str, float]:
    """All counts of calls, once so many have ended and every address says the same."""
    seen: list[dict[str, float]] = []
    for _ in range(100):
        seen = [await _totals(session, address) for address in addresses]
        over = sum(value for name, value in seen[0].items() if "_ended_total{" in name)
        if over == ended and all(one == seen[0] for one in seen):
            return seen[0]
        await asyncio.sleep(0.1)
    raise AssertionError(f"{ended} ended calls are not what all show: {seen}")


async def _totals(session: aiohttp.ClientSession, address: str) -> dict[str, float]:
    async with session.get(address) as answer:
        text = await answer.text()
    lines = [line.rpartition(" ") for line in text.splitlines()]
    return {name: float(value) for name, _, value in lines if name.startswith("flowcatd_calls_")}
