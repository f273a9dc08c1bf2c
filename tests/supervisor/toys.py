"""Toy supervisors as processes, for the tests beside this (`toy_daemon.py` is what they run)."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).with_name("toy_daemon.py")


def _holds(pid: int, what: str) -> bool:
    with contextlib.suppress(FileNotFoundError):  # it is closing what it does not need
        return any(what in str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


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

    def workers(self) -> list[int]:
        """Its children that hold the load table, as only workers do."""
        return [pid for pid in self.pids() if _holds(pid, "flowcatd-load")]

    def events(self, event: str) -> list[dict]:
        """All lines of an event so far."""
        return [line for line in self.lines if line["event"] == event]


def answers_to(daemon, directory, ask):
    """What was told under this id, up to the last."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert daemon.process.poll() is None
        told = directory / "told.jsonl"
        lines = told.read_text().splitlines() if told.exists() else []
        found = [line for line in map(json.loads, lines) if line.get("id") == ask]
        if found and found[-1]["done"]:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no answer to {ask}")
