"""The worker's door: accepts connections, reads their request line without taking it, and steers.

The kernel hands a connection to any worker of the SO_REUSEPORT group. The door peeks (MSG_PEEK) at
the head of the first request, asks `decide` whose it is, and has it served here or given to a
fellow, who finds every byte still there. It understands nothing else: what is no HTTP/1 request line
(a TLS hello, garbage) is served here at once, and the HTTP server says what it thinks of it.

A head that comes in pieces is waited for, whole, so that who dribbles bytes costs this door a little
memory for HEAD_SECONDS and the HTTP server nothing. Peeked bytes stay in the socket, so it would be
readable for ever; SO_RCVLOWAT makes it readable again only when there are more (socket(7): epoll
respects it since Linux 2.6.28; tcp(7) rings early when it is short of memory, hence RECHECK_SECONDS).
At most HEADS wait; one more costs the one that has waited longest its connection, since whoever has
said nothing for so long is the least likely to be a call.

Out of descriptors, accepting pauses: connections wait in the kernel's queue instead of being torn,
while the calls that are up hang up and give descriptors back.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from flowcatd.log import get_logger
from workers.hand_over import head_of
from workers.steer import Way, is_request_line

log = get_logger()

HEAD_BYTES = 8192
"""What is looked at; a longer head is served as it is (aiohttp's own limit is about the same)."""
HEAD_SECONDS = 10.0
"""What a head gets to arrive."""
HEADS = 1024
"""Connections whose head is waited for."""
ACCEPTS = 64
"""Connections taken per turn of the loop, a turn that live calls wait for."""
LAST_ACCEPTS = 8192
"""Connections taken out of the queue when the door closes: twice the longest queue."""
PAUSE_SECONDS = 0.5
"""How long accepting rests when there are no descriptors."""
RECHECK_SECONDS = 0.05
"""When to look again at a socket that was called readable and has nothing new."""

_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Decide(Protocol):
    """Whose connection it is: workers.steer.Steering.decide."""

    def __call__(
        self,
        request_line: bytes,
        passed: tuple[int, ...],
        connection: socket.socket,
        *,
        given: bool,
    ) -> Way:
        """The owner's seat, or None for us."""


Serve = Callable[[socket.socket], None]
Give = Callable[[int, socket.socket, tuple[int, ...]], None]


@dataclass(slots=True)
class _Head:
    """A connection whose head is not there yet."""

    connection: socket.socket
    passed: tuple[int, ...]
    given: bool
    deadline: asyncio.TimerHandle
    seen: int = 0
    """Bytes that were there at the last look."""
    recheck: asyncio.TimerHandle | None = field(default=None)


class Door:
    """The listening socket of one worker, and the connections that have not said what they want."""

    def __init__(self, listener: socket.socket, decide: Decide, serve: Serve, give: Give) -> None:
        """Nothing is accepted before `start`; `serve` and `give` become the connection's owners."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._decide = decide
        self._serve = serve
        self._give = give
        self._heads: dict[int, _Head] = {}
        """By descriptor, in the order of their arrival."""
        self._pause: asyncio.TimerHandle | None = None
        self.dropped = 0
        """Connections closed because their head did not come."""
        listener.setblocking(False)

    def __len__(self) -> int:
        """How many connections have not said what they want."""
        return len(self._heads)

    def start(self) -> None:
        """Accept from now on."""
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        """Take what waits in the queue, then accept nothing more; heads under way still finish.

        The listener is closed; copies of it in other processes go on listening.
        """
        if self._listener.fileno() < 0:
            return
        self._take(LAST_ACCEPTS)
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def close(self) -> None:
        """As stop; and drop the connections that have not said what they want."""
        for connection, _passed in self.surrender():
            connection.close()

    def surrender(self) -> list[tuple[socket.socket, tuple[int, ...]]]:
        """As stop; and let go of the connections that have not said what they want.

        They are the caller's now, each with the seats that could not take it.
        """
        self.stop()
        return [(self._forget(head), head.passed) for head in list(self._heads.values())]

    def take(self, connection: socket.socket, passed: tuple[int, ...]) -> None:
        """A fellow gives us this connection: it chose us."""
        self._look(connection, passed, given=True)

    def route(self, connection: socket.socket, passed: tuple[int, ...]) -> None:
        """Choose (again) who serves this connection, other than the seats in `passed`."""
        self._look(connection, passed, given=False)

    # --- accepting --------------------------------------------------------------------------------

    def _accept(self) -> None:
        self._take(ACCEPTS)

    def _take(self, most: int) -> None:
        for _ in range(most):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._rest(error)
                    return
                continue  # accept(2): the connection's own error, and this one is gone
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.route(connection, ())

    def _rest(self, error: OSError) -> None:
        """Let the queue wait; the operator is told at the first of several rests in a row."""
        if self._pause is None:
            log.warning("door.choked", why=errno.errorcode[error.errno or 0])
        self._loop.remove_reader(self._listener.fileno())
        self._pause = self._loop.call_later(PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        before = self._pause
        self._loop.add_reader(self._listener.fileno(), self._accept)
        self._take(ACCEPTS)
        if self._pause is before:
            self._pause = None

    # --- heads ------------------------------------------------------------------------------------

    def _look(self, connection: socket.socket, passed: tuple[int, ...], *, given: bool) -> None:
        """A connection that is new here."""
        seen = head_of(connection) or _peek(connection)
        if seen is None or not _is_complete(seen):
            self._await_more(connection, passed, given=given, seen=seen)
        else:
            self._steer(connection, seen, passed, given=given)

    def _await_more(
        self, connection: socket.socket, passed: tuple[int, ...], *, given: bool, seen: bytes | None
    ) -> None:
        if seen == b"" or (seen and _is_gone(connection)):
            connection.close()
            return
        if len(self._heads) >= HEADS:
            self._drop(next(iter(self._heads)))
        descriptor = connection.fileno()
        deadline = self._loop.call_later(HEAD_SECONDS, self._drop, descriptor)
        head = _Head(connection, passed, given, deadline, len(seen or b""))
        self._heads[descriptor] = head
        self._watch(head)

    def _watch(self, head: _Head) -> None:
        with contextlib.suppress(OSError):  # a socket that has no such option is looked at again
            head.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, head.seen + 1)
        head.recheck = None
        self._loop.add_reader(head.connection.fileno(), self._more, head)

    def _more(self, head: _Head) -> None:
        """More of the head came, or the end of it, or nothing new."""
        seen = _peek(head.connection)
        if seen is not None and _is_complete(seen):
            self._steer(self._forget(head), seen, head.passed, given=head.given)
        elif seen == b"" or (seen is not None and _is_gone(head.connection)):
            self._forget(head).close()
        elif seen is not None and len(seen) > head.seen:
            head.seen = len(seen)
            self._watch(head)
        else:
            self._loop.remove_reader(head.connection.fileno())
            head.recheck = self._loop.call_later(RECHECK_SECONDS, self._watch, head)

    def _drop(self, descriptor: int) -> None:
        self.dropped += 1
        self._forget(self._heads[descriptor]).close()

    def _forget(self, head: _Head) -> socket.socket:
        connection = head.connection
        del self._heads[connection.fileno()]
        self._loop.remove_reader(connection.fileno())
        head.deadline.cancel()
        if head.recheck is not None:
            head.recheck.cancel()
        return connection

    def _steer(
        self, connection: socket.socket, seen: bytes, passed: tuple[int, ...], *, given: bool
    ) -> None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        line = seen.partition(b"\n")[0]
        way = self._decide(line, passed, connection, given=given)
        if way.seat is None:
            self._serve(connection)
        else:
            self._give(way.seat, connection, way.passed)


def _peek(connection: socket.socket) -> bytes | None:
    """What is there, still there afterwards; None for nothing yet, empty for nothing ever."""
    try:
        return connection.recv(HEAD_BYTES, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""


def _is_complete(seen: bytes) -> bool:
    """Whether no more is needed to say whose it is: a whole head, too long a one, or none at all."""
    if not seen:
        return False
    if len(seen) >= HEAD_BYTES or not seen[:1].isalpha():
        return True
    line, newline, rest = seen.partition(b"\n")
    if not newline:
        return False
    return not is_request_line(line) or b"\n\r\n" in seen or b"\n\n" in seen or rest == b"\n"


def _is_gone(connection: socket.socket) -> bool:
    """Whether the other side sends no more: part of a head is then all there will ever be."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return any(
        events & (select.POLLRDHUP | select.POLLHUP | select.POLLERR) for _, events in poll.poll(0)
    )
