"""The runtime directory: ours alone, nobody else's, and taken by one daemon at a time.

It holds the sockets of control and metrics and the workers' own (`seat-N.sock`). Whoever can write
there can command the daemon, so it must belong to our user and nobody else may enter; one that does
not is refused rather than repaired, because in a shared temporary directory somebody may have put it
there for us. A lock (flock(2)) keeps a second daemon out; the kernel lets go of it when we die.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from flowcatd.errors import LinkRefused

LOCK = "lock"
LONGEST_PATH = 80
"""Bytes: a socket's address has 107 (unix(7)), and names are put behind."""


def take_runtime(path: Path) -> int:
    """Make the directory and lock it; the descriptor holds the lock. Raises LinkRefused."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise LinkRefused(
            f"control.directory '{path}' is too long for socket addresses: "
            f"{LONGEST_PATH} bytes at most"
        )
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_ours(path)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        problem = f"control.directory '{path}' cannot be used: {error.strerror}"
        raise LinkRefused(problem) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        problem = (
            f"control.directory '{path}' is in use by another flowcatd; "
            "choose another with --set control.directory=…"
        )
        raise LinkRefused(problem) from error
    return lock


def sweep(path: Path) -> None:
    """Remove the sockets that a daemon which was killed left behind; we hold the lock."""
    for entry in path.iterdir():
        if stat.S_ISSOCK(entry.lstat().st_mode):
            entry.unlink(missing_ok=True)


def _check_ours(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise LinkRefused(f"control.directory '{path}' is no directory")
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise LinkRefused(
            f"control.directory '{path}' must be ours and closed to others (mode 0700)"
        )
