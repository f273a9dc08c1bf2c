"""Telling systemd how we are: READY, RELOADING, STOPPING, STATUS, WATCHDOG, in lines of `KEY=value`.

Run as a module it is the unit's ExecStopPost: `python -P -m supervisor.systemd %n`.

Nothing happens where nobody listens, and a message that cannot be sent is dropped: the service
manager's attention is no reason to fail. A reload that was refused ends with `ready` like one that
succeeded, because the daemon serves; that it was refused is the exit code of `flowcatd reload`.

sd_notify(3): an address that begins with `@` is in the abstract namespace, where the first byte is
zero. RELOADING=1 carries the monotonic clock in microseconds, so that a READY=1 of an earlier
reload is told from ours; EXTEND_TIMEOUT_USEC, sent before TimeoutStopSec is over, makes it longer
and never shorter.

systemd.kill(5): when a main process dies, KillMode=mixed kills all others at once. A supervisor that
dies leaves workers which drain, so the unit says KillMode=process, and its ExecStopPost waits until
the service's control group (cgroups(7)) holds nobody else. At TimeoutStopSec systemd sends SIGTERM to
whoever waits there, and that one kills the rest.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.2


def notify(address: str, *lines: str) -> None:
    """Send these `KEY=value` lines to `address` ($NOTIFY_SOCKET); nowhere when it is empty."""
    if not address:
        return
    path = f"\0{address[1:]}" if address.startswith("@") else address
    flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, flags) as sender:
        sender.sendto("\n".join(lines).encode(), path)


def ready(address: str, status: str, *, pid: int) -> None:
    """All workers serve, at the start, after a reload and after a refused one; `pid` is ours."""
    notify(address, "READY=1", f"MAINPID={pid}", _status(status))


def reloading(address: str, now: float, status: str = "reloading") -> None:
    """A reload or an upgrade begins at `now` (monotonic seconds); `ready` must follow."""
    notify(address, "RELOADING=1", f"MONOTONIC_USEC={int(now * 1e6)}", _status(status))


def stopping(address: str, status: str, seconds: float) -> None:
    """The daemon drains or ends, and may take `seconds` from now to be gone."""
    usec = f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}"
    notify(address, "STOPPING=1", usec, _status(status))


def status(address: str, text: str) -> None:
    """One line for `systemctl status`; nothing in it may be a caller's."""
    notify(address, _status(text))


def alive(address: str) -> None:
    """The sign of life WatchdogSec waits for."""
    notify(address, "WATCHDOG=1")


@dataclass(frozen=True, slots=True)
class Group:
    """The control group of one of systemd's services."""

    unit: str
    """`flowcatd.service`; another group than this unit's is nobody's business here."""
    hierarchy: Path = Path("/sys/fs/cgroup")
    membership: Path = Path("/proc/self/cgroup")

    def others(self) -> set[int]:
        """Who is in it besides us; nobody when we are not, or where it cannot be told."""
        try:
            lines = self.membership.read_text(encoding="utf-8").splitlines()
            path = next(line[4:] for line in lines if line.startswith("0::/"))
            if not self.unit or Path(path).name != self.unit:
                return set()
            pids = (self.hierarchy / path / "cgroup.procs").read_text(encoding="utf-8").split()
            return {int(pid) for pid in pids} - {os.getpid()}
        except (OSError, StopIteration, ValueError):
            return set()

    def outlive(self) -> None:
        """Wait for the others; SIGTERM kills them instead, and ends this process."""
        signal.signal(signal.SIGTERM, self._end_them)
        while self.others():
            time.sleep(POLL_SECONDS)

    def _end_them(self, _number: int, _frame: object) -> None:
        for pid in self.others():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        sys.exit(0)


def _status(text: str) -> str:
    # A line end would begin another KEY=value.
    return f"STATUS={' '.join(text.split())}"


if __name__ == "__main__":
    Group(sys.argv[1] if sys.argv[1:] else "").outlive()
