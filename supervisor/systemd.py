"""Telling systemd how we are: READY, RELOADING, STOPPING, STATUS, WATCHDOG, in lines of `KEY=value`.

Nothing happens where nobody listens, and a message that cannot be sent is dropped: the service
manager's attention is no reason to fail. A reload that was refused ends with `ready` like one that
succeeded, because the daemon serves; that it was refused is the exit code of `flowcatd reload`.

sd_notify(3): an address that begins with `@` is in the abstract namespace, where the first byte is
zero. RELOADING=1 carries the monotonic clock in microseconds, so that a READY=1 of an earlier
reload is told from ours; EXTEND_TIMEOUT_USEC, sent before TimeoutStopSec is over, makes it longer
and never shorter.
"""

from __future__ import annotations

import contextlib
import socket


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


def _status(text: str) -> str:
    # A line end would begin another KEY=value.
    return f"STATUS={' '.join(text.split())}"
