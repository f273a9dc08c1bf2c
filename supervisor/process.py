"""Forking, signalling and reaping: exactly what the fleet decided, and what came of it as events.

Signal handlers only enqueue: Python writes each signal's number into a pipe (`set_wakeup_fd`) and
the one `poll` of the supervisor reads it. A worker tells that it serves through a pipe of its own,
and notices our death by another, whose write end nobody but this process holds.

All signals are blocked across the fork: the child shares the pipe until it lets go of it, so a
signal meant for a newborn would otherwise be taken for one of ours. The child leads a process group
of its own (a terminal's Ctrl-C must not bypass the supervisor) and reads from /dev/null.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from flowcatd.errors import ConfigError
from supervisor.orders import Exited, Forked, ForkFailed, Ready
from workers.plan import READY_MARK, ExitCode

HEARD = frozenset(
    {signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
)
"""The signals that arrive as `Told` (SIGCHLD: as `Exited`)."""
KILL_SECONDS = 1.0
"""What the kernel gets to end a process that was killed."""


@dataclass(frozen=True, slots=True)
class Told:
    """This process was sent a signal."""

    number: int


@dataclass(frozen=True, slots=True)
class Readable:
    """A descriptor that is watched has something to read, or has ended."""

    descriptor: int


News = Exited | Ready | Told | Readable
Run = Callable[[int, int], int]
"""A worker's whole life: given its ready_fd and alive_fd, it returns its exit code."""


class Children:
    """The processes of this supervisor; one per program, because signals are the program's."""

    def __init__(
        self, alive: tuple[int, int] | None = None, ready: Mapping[int, int] | None = None
    ) -> None:
        """A former program image left `alive`, which its workers watch, and `ready` (see there)."""
        self._ready = dict(ready or {})
        """Read end of a worker's ready pipe to its pid."""
        self._watched: set[int] = set()
        self._alive_read, self._alive_write = alive or os.pipe()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in HEARD:
            signal.signal(number, _enqueued)
        # Whoever ended while one program image followed another is found at the first look.
        os.write(self._wake_write, bytes([signal.SIGCHLD]))
        # exec(2) keeps the mask, and whoever started us may have left us one.
        self.listen()

    @property
    def ready(self) -> dict[int, int]:
        """Read ends of the pipes of workers that do not serve yet, to their pids."""
        return dict(self._ready)

    @property
    def alive(self) -> tuple[int, int]:
        """The pipe by which children notice our death: read end, write end."""
        return self._alive_read, self._alive_write

    def watch(self, descriptor: int) -> None:
        """`wait` tells when it can be read."""
        self._watched.add(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """No longer."""
        self._watched.discard(descriptor)

    def fork(
        self, slot: int, run: Run, *, cpu: int | None, keep: Collection[int] = ()
    ) -> Forked | ForkFailed:
        """Start a process that does nothing but `run`; of our descriptors it has only these."""
        try:
            ready_read, ready_write = os.pipe()
        except OSError:  # no descriptor left
            return ForkFailed(slot)
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more
            sys.stdout.flush()
            sys.stderr.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self._live(run, ready_write, cpu, {*keep, ready_write, self._alive_read})
        except OSError:
            os.close(ready_read)
            os.close(ready_write)
            return ForkFailed(slot)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(ready_write)
        self._ready[ready_read] = pid
        return Forked(slot, pid)

    def send(self, pid: int, number: int) -> None:
        """Signal a child; one that is gone already is no news.

        SIGHUP only brings news to a worker: one that does not listen to it, as those of a former
        version, which still have calls after an upgrade, would die of it, and is left alone.
        """
        if number == signal.SIGHUP and not catches(pid, number):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def hush(self) -> list[News]:
        """Let signals wait in the kernel; returns what had come before."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        return self.wait(0.0)

    def listen(self) -> None:
        """Hear signals."""
        signal.pthread_sigmask(signal.SIG_SETMASK, set())

    def see_off(self, pid: int, within: float) -> None:
        """Wait for the end of a child that was told; kill it when it takes longer than `within`."""
        for seconds in (within, KILL_SECONDS):
            deadline = now() + seconds
            while now() < deadline:
                try:
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        return
                except ChildProcessError:
                    return
                time.sleep(0.01)
            self.send(pid, signal.SIGKILL)

    def wait(self, seconds: float | None) -> list[News]:
        """What happened, at the latest after `seconds`: who is ready, who is gone, what we were told."""
        poll = select.poll()
        for descriptor in (self._wake_read, *self._ready, *self._watched):
            poll.register(descriptor, select.POLLIN)
        # Rounded up: a timer that is asked for a little early would spin until it is due.
        due = {descriptor for descriptor, _ in poll.poll(_milliseconds(seconds))}
        news: list[News] = []
        # Ready before gone, so that a worker that served for a moment has served.
        for descriptor in due & self._ready.keys():
            news += self._read_ready(descriptor)
        if self._wake_read in due:
            numbers = os.read(self._wake_read, 4096)
            news += [Told(number) for number in numbers if number != signal.SIGCHLD]
            news += _reap()
        return news + [Readable(descriptor) for descriptor in sorted(due & self._watched)]

    def close(self) -> None:
        """Let go of signals and pipes; workers that still live take it for our death."""
        signal.set_wakeup_fd(-1)
        for number in HEARD:
            signal.signal(number, signal.SIG_DFL)
        for descriptor in (
            self._alive_read,
            self._alive_write,
            self._wake_read,
            self._wake_write,
            *self._ready,
        ):
            os.close(descriptor)

    def _read_ready(self, descriptor: int) -> list[News]:
        mark = os.read(descriptor, len(READY_MARK))
        os.close(descriptor)
        pid = self._ready.pop(descriptor)
        return [Ready(pid)] if mark == READY_MARK else []

    def _live(self, run: Run, ready_fd: int, cpu: int | None, keep: set[int]) -> NoReturn:
        """The child, from its first instruction to its last."""
        code: int = ExitCode.CRASHED
        try:
            self._become_worker(cpu, keep)
            code = run(ready_fd, self._alive_read)
        except ConfigError as error:
            sys.stderr.write(f"flowcatd: {error}\n")
            code = ExitCode.CONFIG
        except BaseException:  # noqa: BLE001 a child must end here, whatever happened to it
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _become_worker(self, cpu: int | None, keep: set[int]) -> None:
        signal.set_wakeup_fd(-1)
        for number in HEARD:
            signal.signal(number, signal.SIG_DFL)
        # What is ours alone: above all the write end of the alive pipe, and other slots' sockets. The
        # objects that hold them are never freed here, since the child ends by _exit.
        for entry in list(Path("/proc/self/fd").iterdir()):
            if int(entry.name) > 2 and int(entry.name) not in keep:
                with contextlib.suppress(OSError):
                    os.close(int(entry.name))
        os.setpgid(0, 0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        signal.pthread_sigmask(signal.SIG_SETMASK, set())


def now() -> float:
    """The supervisor's clock, in monotonic seconds."""
    return time.monotonic()


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for this signal (proc_pid_status(5), SigCgt)."""
    try:
        lines = (
            Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
        )
    except OSError:  # it is gone
        return False
    masks = (int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return any(mask & 1 << (number - 1) for mask in masks)


def age() -> float:
    """Seconds since this process began, as the kernel counts them (proc_pid_stat(5), field 22)."""
    status = Path("/proc/self/stat").read_text(encoding="utf-8")
    began = int(status.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def _enqueued(_number: int, _frame: object) -> None:
    """The number is in the pipe already."""


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(0, math.ceil(seconds * 1000))


def _reap() -> list[News]:
    """Everybody who is gone: also orphans, which come to us when we are process 1."""
    gone: list[News] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return gone
        if pid == 0:
            return gone
        code = os.waitstatus_to_exitcode(status)
        gone.append(Exited(pid, max(code, 0), max(-code, 0)))
