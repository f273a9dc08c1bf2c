"""One ZeroMQ socket on the event loop: messages in by a callback, messages out without waiting.

libzmq does its work in a thread of its own and tells of it through one descriptor per socket, which
is edge-triggered (zmq_getsockopt(3), ZMQ_FD): it says that something happened since the socket was
last looked at, not that there is something to read. What was missed is not told again. Hence the two
rules kept here: after a wake the socket is read until its ZMQ_EVENTS say that it is empty, and after
every send ZMQ_EVENTS are looked at too, because sending takes notice of what came meanwhile and so
uses up the edge.

Nothing here waits. A peer that does not read has a full queue (ZMQ_SNDHWM), a peer that is gone has
none: `send` says which, and the caller counts. One wake reads at most BATCH messages before the loop
has its turn, so whoever floods a socket does not hold its neighbours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum, auto

import zmq

BATCH = 64
"""Messages read before other things of the loop get their turn: below a millisecond."""


class Sent(Enum):
    """What became of a message."""

    DONE = auto()
    """libzmq has it."""
    FULL = auto()
    """Nobody is there, or whoever is does not read."""
    GONE = auto()
    """There is no such peer (EHOSTUNREACH of a ROUTER), or the socket is closed."""


class Wire:
    """A socket that was bound or connected, for as long as it lives."""

    def __init__(self, socket: zmq.Socket[bytes], hear: Callable[[list[bytes]], None]) -> None:
        """`hear` gets every message's frames, on the running loop."""
        self._socket = socket
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._fd = socket.fileno()
        self.closed = False
        self._loop.add_reader(self._fd, self._woken)
        # What came before we listened has used its edge.
        self._look_again()

    def send(self, frames: Sequence[bytes]) -> Sent:
        """One message, now or not at all."""
        if self.closed:
            return Sent.GONE
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return Sent.GONE
        finally:
            self._look_again()
        return Sent.DONE

    def close(self, linger_ms: int) -> None:
        """No more messages; what waits to be sent gets `linger_ms` in libzmq's own thread."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        if self._again is not None:
            self._again.cancel()
        self._socket.close(linger_ms)

    def _look_again(self) -> None:
        if self._again is None and self._readable():
            self._again = self._loop.call_soon(self._woken)

    def _readable(self) -> bool:
        events = self._socket.getsockopt(zmq.EVENTS)
        assert isinstance(events, int)
        return bool(events & zmq.POLLIN)

    def _woken(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        try:
            for _ in range(BATCH):
                if self.closed or not self._readable():
                    return
                self._hear(self._socket.recv_multipart(zmq.DONTWAIT))
        except zmq.Again:
            return  # it had been there when ZMQ_EVENTS were read: its sender went away since
        finally:
            # Also when `hear` raised: the rest is read, and the loop's own handler tells of it.
            if not self.closed:
                self._look_again()
