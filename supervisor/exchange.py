"""The supervisor's end of the line to the switchboard, and the life of that process.

The switchboard owns every ZeroMQ socket of the daemon, so that the supervisor, which forks for as
long as it lives, never has a thread. They speak `flowcatd/control.py` over a socket pair that keeps
messages whole (SOCK_SEQPACKET, unix(7)). A switchboard that dies costs a few seconds of metrics and
commands and no call; it is forked again after a pause that doubles up to PAUSE_MAX. One that does not
read for DEAF_SECONDS, or does not end when the line was closed, is killed.

What cannot be sent at once: answers wait in a bounded queue; the fleet's state is dropped, because a
newer one follows within a second.
"""

from __future__ import annotations

import signal
import socket
from collections import deque
from collections.abc import Callable, Collection

from flowcatd.control import MESSAGE_MAX, Answer, Ask, Fleet, Reader, encode
from flowcatd.errors import ControlError
from flowcatd.log import get_logger
from supervisor.orders import Forked
from supervisor.process import Children, now

log = get_logger()

PAUSE_FIRST = 0.1
PAUSE_MAX = 5.0
STEADY_SECONDS = 10.0
"""A switchboard that lived this long was no failure of the kind that repeats at once."""
ANSWERS_MAX = 256
"""Answers that may wait for a switchboard that does not read; then the oldest is lost."""
DEAF_SECONDS = 20.0
"""How long the line may be full; some minutes of messages fit into it before."""
PARTING_SECONDS = 3.0
"""From the line's end to the switchboard's."""

Live = Callable[[int, int, int], int]
"""The switchboard's whole life: given supervisor_fd, ready_fd, alive_fd, it returns its exit code."""


class Exchange:
    """Keeps a switchboard running and carries messages to and from it."""

    def __init__(self, children: Children, live: Live, keep: Collection[int]) -> None:
        """`keep` are the descriptors that the switchboard needs of ours."""
        self._children = children
        self._live = live
        self._keep = keep
        self._line: socket.socket | None = None
        self._reader = Reader(Ask)
        self._answers: deque[bytes] = deque(maxlen=ANSWERS_MAX)
        self._pause = PAUSE_FIRST
        self._due: float | None = 0.0
        self._since = 0.0
        self._patience_ends: float | None = None
        """When a switchboard that does not read, or does not end, is killed."""
        self.pid = 0
        self.serves = False

    # --- its life

    def wake_at(self) -> float | None:
        """When there is something to do without being told."""
        return self._due if self._patience_ends is None else self._patience_ends

    def wake(self, at: float) -> bool:
        """Fork it, or kill it, if that is due; whether there is a new one."""
        if self._patience_ends is not None and at >= self._patience_ends:
            self._patience_ends = None
            self._children.send(self.pid, signal.SIGKILL)
        if self._due is None or at < self._due:
            return False
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:  # no descriptor left
            self._back_off(at)
            return False
        ours.setblocking(False)
        keep = {*self._keep, theirs.fileno()}
        born = self._children.fork(
            -1,
            lambda ready_fd, alive_fd: self._live(theirs.fileno(), ready_fd, alive_fd),
            cpu=None,
            keep=keep,
        )
        theirs.close()
        if not isinstance(born, Forked):
            ours.close()
            self._back_off(at)
            return False
        self.adopt(ours, born.pid, at)
        return True

    def adopt(self, line: socket.socket | None, pid: int, at: float) -> None:
        """A switchboard runs at the other end of `line`; without one, it is about to end."""
        self._line, self.pid, self._since, self._due = line, pid, at, None
        if line is None:
            self._patience_ends = at + PARTING_SECONDS
        else:
            self._children.watch(line.fileno())

    def reaped(self, how: str, at: float) -> None:
        """It is gone; another comes, unless nobody wants one any more."""
        if self._line is None and how == "exit code 0":
            log.info("switchboard.renewed", pid=self.pid)
        else:
            log.warning("switchboard.lost", pid=self.pid, how=how)
        self._hang_up()
        if at - self._since >= STEADY_SECONDS:
            self._pause = PAUSE_FIRST
        self._back_off(at)

    def renew(self, at: float) -> None:
        """Have another one, made by this program: the present one ends when the line closes."""
        if self._line is not None:
            self._close_line()
            self._patience_ends = at + PARTING_SECONDS

    def end(self) -> None:
        """No more switchboard: it ends when the line closes. Returns when it has."""
        pid = self.pid
        self._hang_up()
        self._due = None
        if pid:
            # It holds the socket of /metrics, which a successor of ours may want at once.
            self._children.see_off(pid, PARTING_SECONDS)

    def line(self) -> int:
        """The line's descriptor; -1 when there is none."""
        return -1 if self._line is None else self._line.fileno()

    # --- messages

    def read(self) -> list[Ask]:
        """What operators asked since the last look."""
        asks: list[Ask] = []
        while self._line is not None:
            try:
                data = self._line.recv(MESSAGE_MAX)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:  # it ended, or will: the reaper tells
                self._close_line()
                self._patience_ends = now() + PARTING_SECONDS
                break
            try:
                asks.append(self._reader.decode(data))  # type: ignore[arg-type]
            except ControlError as error:
                log.warning("control.refused", code=error.code)
        return asks

    def answer(self, answer: Answer) -> None:
        """Tell an operator."""
        self._answers.append(encode(answer))
        self.flush()

    def flush(self) -> None:
        """Send the answers that wait, as far as the line takes them."""
        while self._answers and self._send(self._answers[0]):
            self._answers.popleft()

    def tell(self, fleet: Fleet) -> None:
        """Tell everybody how the daemon is."""
        self.flush()
        self._send(encode(fleet))

    # --- private

    def _send(self, message: bytes) -> bool:
        if self._line is None:
            return False
        try:
            self._line.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            if self._patience_ends is None:
                self._patience_ends = now() + DEAF_SECONDS
            return False
        except OSError:  # its reader is gone: told by the reaper
            return False
        self._patience_ends = None
        return True

    def _close_line(self) -> None:
        if self._line is not None:
            self._children.unwatch(self._line.fileno())
            self._line.close()
            self._line = None

    def _hang_up(self) -> None:
        self._close_line()
        self.pid, self.serves, self._patience_ends = 0, False, None

    def _back_off(self, at: float) -> None:
        self._due = at + self._pause
        self._pause = min(PAUSE_MAX, self._pause * 2)
