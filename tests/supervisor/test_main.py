"""Facts about the running supervisor: real forks, real signals, toy workers (toy_daemon.py)."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).with_name("toy_daemon.py")

pytestmark = pytest.mark.timeout(30)


class Toy:
    """One toy supervisor; its log lines are read until the one that a test waits for."""

    def __init__(self, directory: Path, kind: str, *overrides: str, **environ: str) -> None:
        self.lines: list[dict] = []
        self.process = subprocess.Popen(
            [sys.executable, str(TOY), kind, *overrides],
            cwd=directory,
            env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, event: str, count: int = 1) -> dict:
        """The `count`-th line with this event from now on; fails when the log ends before."""
        for line in self.process.stderr:
            if line.startswith("{"):
                self.lines.append(json.loads(line))
                count -= self.lines[-1]["event"] == event
                if count == 0:
                    return self.lines[-1]
        raise AssertionError(f"{event} never came: {self.lines}")

    def ready(self) -> dict:
        """What is said when all workers serve."""
        return json.loads(self.process.stdout.readline())

    def send(self, number: int) -> None:
        """A signal for the supervisor."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Its exit code, once it and all its workers are gone."""
        out, err = self.process.communicate()
        self.rest = out + err
        self.lines += [json.loads(line) for line in err.splitlines() if line.startswith("{")]
        return self.process.returncode

    def pids(self) -> list[int]:
        """Its children, as the kernel tells."""
        pid = self.process.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def events(self, event: str) -> list[dict]:
        """All lines of an event so far."""
        return [line for line in self.lines if line["event"] == event]


@pytest.fixture
def toy(tmp_path):
    """Starts toy supervisors, and ends by pid what a failed test left."""
    made = []

    def start(kind, *overrides, **environ):
        made.append(Toy(tmp_path, kind, *overrides, **environ))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            for pid in [*one.pids(), one.process.pid]:
                os.kill(pid, signal.SIGKILL)
            one.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_order_ends_all_workers_and_the_exit_code_is_0(toy, number):
    """Ctrl-C and kill are both clean ends."""
    daemon = toy("good")
    assert daemon.ready()["workers"] == 2
    workers = daemon.pids()
    daemon.send(number)
    assert daemon.end() == 0
    assert len(workers) == 2
    assert len(daemon.events("worker.reaped")) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_killed_worker_is_replaced(toy):
    """The fleet is whole again, and the other worker is the same process."""
    daemon = toy("good", "log.level=debug")
    daemon.until("worker.counted", 2)
    victim, other = daemon.pids()
    os.kill(victim, signal.SIGKILL)
    lost = daemon.until("worker.lost")
    assert (lost["how"], lost["again_seconds"]) == ("signal 9", 0.1)
    daemon.until("worker.counted")
    replaced = set(daemon.pids())
    assert len(replaced) == 2
    assert other in replaced
    assert victim not in replaced
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_workers_notice_that_the_supervisor_is_gone(toy, tmp_path):
    """Even SIGKILL of the supervisor leaves no orphan behind."""
    daemon = toy("good")
    daemon.ready()
    deaths = [os.pidfd_open(pid) for pid in daemon.pids()]
    daemon.send(signal.SIGKILL)
    assert daemon.end() == -signal.SIGKILL
    for death in deaths:
        assert select.select([death], [], [], 10)[0] == [death]
        os.close(death)
    assert (tmp_path / "orphaned").exists()


def test_deaf_workers_are_killed(toy):
    """Told, asked again by a second signal, gone."""
    daemon = toy("deaf")
    daemon.ready()
    daemon.send(signal.SIGINT)
    daemon.until("fleet.told")
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0
    assert [line["how"] for line in daemon.events("worker.reaped")] == ["signal 9", "signal 9"]


def test_a_drain_has_its_limit(toy):
    """drain, end and stop seconds pass, then SIGINT, then SIGKILL."""
    limits = ("calls.drain_seconds=0.1", "calls.end_seconds=0.1", "workers.stop_seconds=0.1")
    daemon = toy("deaf", *limits)
    daemon.ready()
    daemon.send(signal.SIGTERM)
    assert daemon.end() == 0
    assert [line["how"] for line in daemon.events("worker.reaped")] == ["signal 9", "signal 9"]


def test_a_worker_that_never_serves_is_killed_and_given_up_on(toy):
    """Three attempts, then a clear end."""
    daemon = toy("silent", "workers.ready_seconds=0.2")
    assert daemon.end() == 1
    assert "failed 3 times to start: it was not ready within 0.2 s" in daemon.rest
    assert daemon.process.stdout.closed


def test_a_wrong_configuration_ends_at_once(toy):
    """One line with file and key, no traceback, no second attempt, exit code 78."""
    daemon = toy("config", "workers.count=1")
    assert daemon.end() == 78
    assert "flowcatd: toy.toml:1: toy.key: is wrong\n" in daemon.rest
    assert "Traceback" not in daemon.rest
    assert len(daemon.events("worker.lost")) == 1


def test_an_unexpected_error_shows_its_traceback(toy):
    """A bug must not hide, and is no reason to try for ever."""
    daemon = toy("raise", "workers.count=1")
    assert daemon.end() == 1
    assert daemon.rest.count("RuntimeError: toy") == 3


def test_a_worker_killed_before_it_listens_to_signals_dies_of_them(toy):
    """Handlers are reset in the child, so its death is its own and not taken for an order."""
    daemon = toy("interrupt", "workers.count=1")
    assert daemon.end() == 1
    assert {line["how"] for line in daemon.events("worker.lost")} == {"signal 2"}
    assert daemon.events("fleet.told") == []


def test_a_hiccup_at_the_start_is_survived(toy):
    """Two failures, then serving."""
    daemon = toy("twice", "workers.count=1")
    assert daemon.ready()["workers"] == 1
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0
    assert len(daemon.events("worker.lost")) == 2


def test_the_banner_is_one_json_object(toy):
    """A program that starts us finds the port, the addresses and the pid in it."""
    daemon = toy("good", "agents.default=echo", "records.directory=kept")
    ready = daemon.ready()
    assert ready["pid"] == daemon.process.pid
    assert ready["event"] == "ready"
    assert ready["url"] == f"ws://127.0.0.1:{ready['port']}"
    assert re.fullmatch(
        rf"ws://127\.0\.0\.1:{ready['port']}/\S+/twilio/\S*", ready["media"]["twilio"]
    )
    assert ready["records"].endswith("/kept")
    assert 0 < ready["seconds"] < 20
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_each_worker_leads_its_own_process_group(toy):
    """A terminal's Ctrl-C reaches the supervisor alone."""
    daemon = toy("good")
    daemon.ready()
    assert [os.getpgid(pid) for pid in daemon.pids()] == daemon.pids()
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_workers_hold_nothing_of_the_supervisor_s(toy):
    """Standard streams, two pipe ends, and the toy's own pipe: no socket, no other worker's pipe."""
    daemon = toy("good")
    daemon.ready()
    for pid in daemon.pids():
        held = {int(fd.name): str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        assert held[0] == os.devnull
        # The reservation is closed in the worker's first step by the supervisor's own code.
        assert not [link for link in held.values() if link.startswith("socket:")]
        assert len([fd for fd in held if fd > 2]) == 4
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_pinned_workers_stay_on_one_cpu_each(toy):
    """workers.pin_cpus gives slot n the n-th CPU of those allowed."""
    daemon = toy("good", "workers.pin_cpus=true")
    daemon.ready()
    cpus = sorted(os.sched_getaffinity(0))
    wanted = [{cpus[slot % len(cpus)]} for slot in range(2)]
    assert [os.sched_getaffinity(pid) for pid in daemon.pids()] == wanted
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_hangup_without_a_terminal_changes_nothing(toy):
    """SIGHUP is for reload, which is to come; until then it must not kill."""
    daemon = toy("good")
    daemon.ready()
    daemon.send(signal.SIGHUP)
    assert daemon.until("fleet.told")["command"] == "nothing"
    assert len(daemon.pids()) == 2
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_systemd_is_told(toy, tmp_path):
    """READY with a status, signs of life, STOPPING."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        daemon = toy("good", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="100000")
        heard = []
        while not any(message.startswith("READY=1\n") for message in heard):
            heard.append(systemd.recv(4096).decode())
        assert "STATUS=2 workers serve" in heard[-1]
        assert systemd.recv(4096) == b"WATCHDOG=1"
        daemon.send(signal.SIGTERM)
        while not heard[-1].startswith("STOPPING=1\n"):
            heard.append(systemd.recv(4096).decode())
    assert daemon.end() == 0


def test_a_closed_terminal_ends_the_daemon(tmp_path):
    """On a terminal SIGHUP means that its window is gone."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, str(TOY), "good"])
    said = b""
    while b'"event":"ready"' not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
