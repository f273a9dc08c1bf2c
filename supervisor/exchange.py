"""The supervisor's end of the line to the switchboard, and the life of that process.

The switchboard owns every ZeroMQ socket of the daemon, so that the supervisor, which forks for as
long as it lives, never has a thread. They speak `flowcatd/control.py` over a socket pair that keeps
messages whole (SOCK_SEQPACKET, unix(7)). A switchboard that dies costs a few seconds of metrics and
commands and no call; it is forked again after a pause that doubles up to PAUSE_MAX.

What cannot be sent at once: answers wait in a bounded queue; the fleet's state is dropped, because a
newer one follows within a second.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Collection

import msgspec

from flowcatd.control import MESSAGE_MAX, Answer, Ask, Fleet, Reader, encode
from flowcatd.errors import ControlError
from flowcatd.log import get_logger
from supervisor.orders import Forked
from supervisor.process import Children

log = get_logger()

PAUSE_FIRST = 0.1
PAUSE_MAX = 5.0
STEADY_SECONDS = 10.0
"""A switchboard that lived this long was no failure of the kind that repeats at once."""
ANSWERS_MAX = 256
"""Answers that may wait for a switchboard that does not read; then the oldest is lost."""

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
        self.pid = 0
        self.serves = False

    # --- its life

    def wake_at(self) -> float | None:
        """When there is something to do without being told."""
        return self._due

    def wake(self, now: float) -> None:
        """Fork it, if that is due."""
        if self._due is None or now < self._due:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
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
            self._back_off(now)
            return
        self.adopt(ours, born.pid, now)

    def adopt(self, line: socket.socket, pid: int, now: float) -> None:
        """A switchboard runs at the other end of `line`."""
        self._line, self.pid, self._since, self._due = line, pid, now, None
        self._children.watch(line.fileno())

    def reaped(self, how: str, now: float) -> None:
        """It is gone; another comes, unless nobody wants one any more."""
        log.warning("switchboard.lost", pid=self.pid, how=how)
        self._hang_up()
        if now - self._since >= STEADY_SECONDS:
            self._pause = PAUSE_FIRST
        self._back_off(now)

    def renew(self) -> None:
        """Have another one, made by this program: the present one ends when the line closes."""
        if self._line is not None:
            self._children.unwatch(self._line.fileno())
            self._line.close()
            self._line = None

    def end(self) -> None:
        """No more switchboard: it ends when the line closes."""
        self._hang_up()
        self._due = None

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
            if not data:
                self._children.unwatch(self._line.fileno())
                break  # it ended; the reaper tells
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
        except OSError:  # full, or its reader is gone: told by the reaper
            return False
        return True

    def _hang_up(self) -> None:
        if self._line is not None:
            self._children.unwatch(self._line.fileno())
            self._line.close()
        self._line, self.pid, self.serves = None, 0, False

    def _back_off(self, now: float) -> None:
        self._due = now + self._pause
        self._pause = min(PAUSE_MAX, self._pause * 2)


def encode_state(message: msgspec.Struct) -> int:
    """A memfd with the message as JSON, for the next program image; the descriptor survives exec."""
    descriptor = os.memfd_create("flowcatd-upgrade", 0)
    os.write(descriptor, encode(message))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
