"""Scenario 8: the supervisor becomes another program, is killed, or is told nonsense; calls go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.scenarios.daemon import FLOWCATD, ROOT, Daemon, running, until
from tests.scenarios.test_07_fleet import nobody_noticed, operate, slots_of
from tests.scenarios.traffic import traffic

pytestmark = pytest.mark.scenario

PATIENT = "calls.lag_limit_ms=1000"
"""Whether a busy test machine is too busy for one more call is not the question here."""


async def status_of(daemon: Daemon) -> dict[str, Any]:
    """`flowcatd status --json`."""
    _, said = await operate(daemon, "status", "--json")
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def serving(status: dict[str, Any]) -> set[int]:
    """Pids of the workers that take new calls."""
    return {line["pid"] for line in status["workers"] if line["state"] == "ready"}


async def test_two_upgrades_are_noticed_by_nobody(tmp_path: Path) -> None:
    """Same pid, new workers, no call refused or cut; then a reload, a resize and a clean end."""
    settings = ("workers.count=2", "workers.most=4", PATIENT)
    async with running(tmp_path, *settings) as daemon:
        async with traffic(daemon, long=6, new_per_second=20) as seen:
            before = await status_of(daemon)
            for generation in (2, 3):
                code, said = await operate(daemon, "upgrade")
                assert code == 0, said
                after = await status_of(daemon)
                assert after["pid"] == before["pid"] == daemon.process.pid
                assert after["generation"] == generation
                assert after["state"] == "serving"
                assert serving(after).isdisjoint(serving(before))
                before = after
            code, said = await operate(daemon, "reload")
            assert code == 0, said
            code, said = await operate(daemon, "scale", "3")
            assert code == 0, said
        nobody_noticed(seen)
        assert seen.short_done >= 50
        assert await daemon.end(signal.SIGTERM) == 0
        assert daemon.process.stdout is not None
        assert await daemon.process.stdout.read() == b""
    assert daemon.log("worker.lost") == []
    assert len(daemon.log("fleet.upgraded")) == 2


def tree_copy(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the program, from which daemons of this test are started."""
    for package in ("flowcatd", "workers", "supervisor"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, directory / package, ignore=ignored)
    monkeypatch.setenv("PYTHONPATH", str(directory))
    return directory


async def test_an_installed_program_that_does_not_start_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told with its reason; the old one goes on with all calls; once repaired it takes over."""
    tree = tree_copy(tmp_path / "installed", monkeypatch)
    async with running(tmp_path, "workers.count=2", PATIENT) as daemon:
        async with traffic(daemon, long=4, new_per_second=10) as seen:
            before = await status_of(daemon)
            room = tree / "workers" / "wiring.py"
            good = room.read_text()
            room.write_text(good + "\ndef broken(:\n")
            code, said = await operate(daemon, "upgrade")
            assert code == 1
            assert "would not start: SyntaxError" in said
            after = await status_of(daemon)
            assert serving(after) == serving(before)
            room.write_text(good)
            code, said = await operate(daemon, "upgrade")
            assert code == 0, said
        nobody_noticed(seen)


async def test_an_upgrade_that_needs_a_restart_is_refused_before_anything_happens(
    tmp_path: Path,
) -> None:
    """What the new file says of memory and sockets cannot be had by the process that has them."""
    config = tmp_path / "flowcatd.toml"
    config.write_text((ROOT / "conf/bench.toml").read_text() + "[workers]\nmost = 4\n")
    async with running(tmp_path, "workers.count=2", PATIENT, config=str(config)) as daemon:
        async with traffic(daemon, long=2) as seen:
            config.write_text(config.read_text().replace("most = 4", "most = 8"))
            code, said = await operate(daemon, "upgrade")
            assert code == 1
            assert "workers.most: cannot change while the daemon runs" in said
            assert (await status_of(daemon))["generation"] == 1
        nobody_noticed(seen)


async def test_systemd_sees_one_service_that_reloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across the exec: READY, RELOADING, READY, always with the same main process."""
    directory = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(directory / "notify"))
            systemd.setblocking(False)
            monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
            async with running(tmp_path, "workers.count=1") as daemon:
                code, said = await operate(daemon, "upgrade")
                assert code == 0, said
                heard = []
                with contextlib.suppress(BlockingIOError):
                    while True:
                        heard.append(systemd.recv(4096).decode())
    finally:
        shutil.rmtree(directory)
    words = [each.split("=")[0] for each in heard if not each.startswith("WATCHDOG")]
    assert words == ["READY", "RELOADING", "READY"]
    ready = [each for each in heard if each.startswith("READY")]
    assert all(f"MAINPID={daemon.process.pid}" in each for each in ready)


async def test_a_supervisor_that_is_killed_leaves_no_orphan_and_no_lock(tmp_path: Path) -> None:
    """Its calls finish, everybody else ends, and the next daemon takes its port and directory."""
    helpers = ("workers.count=2", "agents.default=echo", "server.host=127.0.0.1")
    async with running(tmp_path, *helpers, config="conf/flowcatd.toml") as daemon:
        async with traffic(daemon, long=4) as seen:
            family = psutil.Process(daemon.process.pid).children(recursive=True)
            assert len(family) >= 5  # speech helpers among them
            os.kill(daemon.process.pid, signal.SIGKILL)
            await until(lambda: len(daemon.log("worker.orphaned")) == 2, "the workers to notice")
            heard = seen.long[0].heard
            await until(lambda: seen.long[0].heard > heard + 25, "half a second of echoes")
        nobody_noticed(seen)
        await until(lambda: not any(map(psutil.Process.is_running, family)), "everybody's end")
        again = (
            f"server.port={daemon.ready['port']}",
            f"control.directory={Path(daemon.ready['control'].removeprefix('ipc://')).parent}",
        )
        async with running(tmp_path, "workers.count=1", *again) as successor:
            assert successor.ready["port"] == daemon.ready["port"]
            assert (await status_of(successor))["state"] == "serving"


async def test_a_supervisor_without_descriptors_loses_nothing_else(tmp_path: Path) -> None:
    """A worker dies and cannot be replaced, calls elsewhere go on; with descriptors it is."""
    async with running(tmp_path, "workers.count=2", "workers.restart_cap_seconds=1") as daemon:
        async with traffic(daemon, long=8) as seen:
            slots = await slots_of(daemon)
            started = {line["slot"]: line["pid"] for line in daemon.log("worker.started")}
            others = [call for call in seen.long if slots[f"long-{call.number}"] == 0]
            pid = daemon.process.pid
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            held = psutil.Process(pid).num_fds()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (held - 3, before[1]))
            board = next(line["pid"] for line in daemon.log("switchboard.started"))
            os.kill(board, signal.SIGKILL)
            os.kill(started[1], signal.SIGKILL)
            await until(lambda: len(daemon.log("fleet.fork_failed")) > 2, "attempts that fail")
            assert daemon.process.returncode is None
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            await until(lambda: len(daemon.log("worker.started")) == 3, "the successor")
            await until(lambda: len(daemon.log("switchboard.started")) == 2, "a new switchboard")
            heard = others[0].heard
            await until(lambda: others[0].heard > heard + 25, "half a second of echoes")
        assert others
        assert [call for call in others if call.wrong or call.heard != call.sent] == []
        assert serving(await status_of(daemon)) == {
            line["pid"] for line in daemon.log("worker.started") if line["pid"] != started[1]
        }


async def test_a_hung_worker_is_killed_and_its_calls_get_their_records(tmp_path: Path) -> None:
    """SIGSTOP to one of two with calls on both: the other's notice nothing, the slot is filled."""
    settings = (
        *("workers.count=2", "workers.hung_seconds=1", "calls.resume_seconds=0.5"),
        *("records.journal=true", "records.record=true"),
    )
    async with running(tmp_path, *settings) as daemon:
        async with traffic(daemon, long=8) as seen:
            slots = await slots_of(daemon)
            victim = slots["long-0"]
            lost = [name for name, slot in slots.items() if slot == victim]
            others = [call for call in seen.long if slots[f"long-{call.number}"] != victim]
            line = next(each for each in daemon.log("worker.started") if each["slot"] == victim)
            os.kill(line["pid"], signal.SIGSTOP)
            await until(lambda: len(daemon.log("worker.started")) == 3, "the successor")
            said = daemon.log("worker.lost")[0]
            records = [await daemon.record_of(name) for name in lost]
        assert (said["pid"], said["how"]) == (line["pid"], "hung: no media tick for 1 s")
        assert {record["reason"] for record in records} == {"worker_lost"}
        assert others
        assert [call for call in others if call.wrong or call.heard != call.sent] == []
        assert max(call.worst_gap_ms for call in others) <= 40


async def test_a_bad_new_configuration_is_refused_with_calls_up(tmp_path: Path) -> None:
    """Exit code 1 with file, line and key; the old one stays, and a good one is taken later."""
    config = tmp_path / "flowcatd.toml"
    good = (ROOT / "conf/bench.toml").read_text()
    config.write_text(good + "[calls]\nper_worker = 50\n")
    bad = {
        "per_worker = -1": "per_worker",
        "per_wroker = 3": "did you mean 'per_worker'?",
        "per_worker = ": "flowcatd.toml:",
    }
    async with running(tmp_path, "workers.count=2", PATIENT, config=str(config)) as daemon:
        async with traffic(daemon, long=4, new_per_second=10) as seen:
            before = await status_of(daemon)
            for line, expected in bad.items():
                config.write_text(f"{good}[calls]\n{line}\n")
                at = config.read_text().splitlines().index(line) + 1
                code, said = await operate(daemon, "reload")
                assert code == 1
                assert expected in said
                assert f"flowcatd.toml:{at}" in said
            config.unlink()
            code, said = await operate(daemon, "reload")
            assert (code, "cannot be read" in said) == (1, True)
            after = await status_of(daemon)
            assert serving(after) == serving(before)
            config.write_text(good + "[calls]\nper_worker = 60\n")
            code, said = await operate(daemon, "reload")
            assert code == 0, said
            lines = (await status_of(daemon))["workers"]
            assert {line["capacity"] for line in lines if line["state"] == "ready"} == {60}
        nobody_noticed(seen)


async def test_a_daemon_without_standard_streams_serves(tmp_path: Path) -> None:
    """Started with all three closed, nothing else is taken for them, and it ends well."""
    runtime = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    settings = ("server.port=0", "metrics.port=0", f"control.directory={runtime}")
    words = [f"{FLOWCATD} serve --config {ROOT / 'conf/bench.toml'} --set workers.count=1"]
    words += [f"--set {setting}" for setting in settings]
    process = await asyncio.create_subprocess_shell(
        f"exec {' '.join(words)} <&- >&- 2>&-", cwd=tmp_path
    )
    control = f"ipc://{runtime}/control.sock"
    daemon = Daemon(process, {"port": 0, "control": control}, tmp_path / "none", tmp_path)
    try:
        await until((runtime / "control.sock").exists, "the control socket")
        status: dict[str, Any] = {}
        while status.get("state") != "serving":
            assert process.returncode is None
            status = await status_of(daemon)
        assert os.stat(f"/proc/{process.pid}/fd/1").st_rdev == os.stat(os.devnull).st_rdev  # noqa: PTH116
        assert await daemon.end() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        shutil.rmtree(runtime)


async def test_a_new_daemon_takes_the_port_at_once_while_old_workers_finish_their_calls(
    tmp_path: Path,
) -> None:
    """The supervisor is killed with calls up; its successor serves on the same addresses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        metrics = f"metrics.port={probe.getsockname()[1]}"
    async with running(tmp_path, "workers.count=2", metrics) as daemon:
        family = psutil.Process(daemon.process.pid).children(recursive=True)
        async with traffic(daemon, long=4) as seen:
            os.kill(daemon.process.pid, signal.SIGKILL)
            runtime = Path(daemon.ready["control"].removeprefix("ipc://")).parent
            again = (
                f"server.port={daemon.ready['port']}",
                metrics,
                f"control.directory={runtime}",
            )
            (tmp_path / "two").mkdir()
            async with running(tmp_path / "two", "workers.count=2", *again) as successor:
                assert successor.ready["port"] == daemon.ready["port"]
                async with traffic(successor, long=4, new_per_second=20) as second:
                    heard = seen.long[0].heard
                    await until(lambda: seen.long[0].heard > heard + 50, "a second of echoes")
                nobody_noticed(second)
        nobody_noticed(seen)
        await until(lambda: not any(map(psutil.Process.is_running, family)), "everybody's end")
