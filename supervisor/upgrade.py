"""Becoming another flowcatd without ending: the supervisor replaces its own program by exec(2).

A process that execs keeps its pid, its children and its descriptors, so systemd and the workers notice
nothing: listening goes on in the sockets, live calls go on in the workers, and the new program takes
over what stands in `Handed` and then replaces the workers one by one as a reload does. That is needed
after an installation of another version, because everything a worker runs was imported before the
fork: a plain reload starts workers of the *old* program with the new settings.

An exec cannot be undone. So the installed program is first asked, in a process of its own, whether it
starts, likes the configuration and understands a `Handed` that it is shown (`serve --can-take-over`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, NoReturn

import msgspec

from flowcatd.control import encode
from flowcatd.environment import UPGRADE, with_variable
from flowcatd.errors import ConfigError
from supervisor.holdings import Kept, pass_on
from supervisor.lives import LifeLine

VERSION = 2
"""Of `Handed`; raised when a reader of the old one would misread the new. 2: several SIP ports."""
READABLE = (1, 2)
"""The versions we understand: 1 had one SIP port at most, which `sip_ports.lacking` then misses."""
ASKING_SECONDS = 60.0
"""How long the installed program may take to say whether it would start."""
SAID_MAX = 400


class Handed(msgspec.Struct, frozen=True, kw_only=True):
    """What one program image leaves to the next."""

    version: int = VERSION
    kept: Kept
    lives: list[LifeLine]
    generation: int
    restarts: int
    begun: float
    """Monotonic seconds, which exec does not touch."""
    ask: str
    """The operator's id, to be answered when all is done; empty for a signal."""
    switchboard: tuple[int, int]
    """Its pid, and our end of the line to it; 0 and -1 for none."""
    fixed: dict[str, str]
    """Settings that cannot change (`reload.fixed`), with their values."""
    count: int
    """How many workers the settings in force want."""


class Asking:
    """The installed program, asked whether it would take over."""

    def __init__(self, words: Sequence[str], handed: Handed, due: float) -> None:
        """`words` are the arguments after `serve`; the answer must come before `due`.

        It is shown `handed` on its standard input. OSError when it cannot be asked.
        """
        command = [*_program(), "serve", "--can-take-over", str(VERSION), *words]
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 closed by `said`
        shown = _encode_state(handed)
        try:
            self._process = subprocess.Popen(  # noqa: S603 our own program, as it was started
                command, stdin=shown, stdout=self._said, stderr=subprocess.STDOUT
            )
        except OSError:
            self._said.close()
            raise
        finally:
            os.close(shown)
        self.pid = self._process.pid
        self.due = due

    def overdue(self) -> None:
        """It takes too long: end it; the reaper tells."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def said(self) -> str:
        """The last line it wrote, for the operator."""
        self._process.returncode = 0  # reaped by the supervisor, not by this object
        self._said.seek(0)
        lines = self._said.read(64 * 1024).decode(errors="replace").strip().splitlines()
        self._said.close()
        return lines[-1][:SAID_MAX] if lines else "it said nothing"


def become(handed: Handed, words: Sequence[str]) -> NoReturn:
    """Become the installed program; OSError when the system refuses, and all is as before.

    Signals are blocked by now (`Children.hush`), so what is told us meanwhile waits in the kernel
    until the new program listens.
    """
    descriptor = _encode_state(handed)
    try:
        os.set_inheritable(descriptor, True)
        _pass_on(handed, stay=True)
        program = [*_program(), "serve", *words]
        os.execve(sys.executable, program, with_variable(UPGRADE, str(descriptor)))  # noqa: S606
    except OSError:
        _pass_on(handed, stay=False)
        raise
    finally:
        os.close(descriptor)
    raise AssertionError("exec returned")


def receive(descriptor: int) -> Handed:
    """What the former program image left; raises ConfigError when it cannot be understood."""
    handed = read_state(descriptor)
    _pass_on(handed, stay=False)
    return handed


def read_state(descriptor: int) -> Handed:
    """The state that lies behind a descriptor; raises ConfigError when it cannot be understood."""
    try:
        with os.fdopen(descriptor, "rb") as file:
            handed = msgspec.json.decode(file.read(), type=Handed)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            "upgrade", f"the former program's state is not understood: {error}"
        ) from error
    if handed.version not in READABLE:
        raise ConfigError(
            "upgrade", f"the former program's state has version {handed.version}, not {VERSION}"
        )
    return handed


def _pass_on(handed: Handed, *, stay: bool) -> None:
    pass_on(handed.kept, stay=stay)
    if handed.switchboard[1] >= 0:
        os.set_inheritable(handed.switchboard[1], stay)


def _encode_state(handed: Handed) -> int:
    """A memfd with the state as JSON."""
    descriptor = os.memfd_create("flowcatd-upgrade")
    os.write(descriptor, encode(handed))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _program() -> list[str]:
    """How this program was started, up to the sub-command: interpreter, its options, script."""
    words = sys.orig_argv
    at = words.index("serve") if "serve" in words else len(words)
    return [sys.executable, *words[1:at]]
