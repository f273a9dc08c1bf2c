"""SIP messages out of byte streams and WebSockets (RFC 3261 §18.3, RFC 5626 §3.5.1, RFC 7118).

On a stream a message ends where its Content-Length says; without one nobody could tell, so that is an
error that ends the stream, as is everything else that makes the next message's beginning a guess.
Between messages stand keep-alives: whoever opened the connection sends two line ends (a ping), the
other side answers with one (a pong).

A `Stream` collects bytes and gives whole messages, unparsed; it answers pings by itself. One read of
the socket may hold many messages, and one message many reads: the result is the same. Bytes are
looked at once: the search for a head's end goes on where it stopped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from flowcatd.errors import LocalError
from flowcatd.sip.message import MESSAGE_BYTES
from flowcatd.sip.trouble import DROP, SipError

PENDING_MAX = 1024
"""Events that may wait to be drained; a read of 64 KiB holds fewer messages than that."""

PONG = b"\r\n"
PING = b"\r\n\r\n"

_TOO_LONG = "a message that is too long"
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(
    rb"\n(?:content-length|l)[ \t]*+:(?>(?:[ \t]|\r\n[ \t]|\n[ \t])*)([^\r\n]*+)", re.IGNORECASE
)


class Alive(Enum):
    """A keep-alive that arrived."""

    PING = "ping"
    PONG = "pong"


@dataclass(frozen=True, slots=True)
class Whole:
    """One message, as bytes."""

    data: bytes


StreamEvent = Whole | Alive


class Stream:
    """One TCP or TLS connection's bytes; `opened` when it was ours to open."""

    def __init__(self, *, opened: bool) -> None:
        self.closed = False
        """After an error, or an end: nothing more is read."""
        self._opened = opened
        self._buffer = bytearray()
        self._searched = 0
        self._need = 0
        self._events: list[StreamEvent] = []
        self._outgoing: list[bytes] = []

    def receive_bytes(self, data: bytes, now: float) -> None:  # noqa: ARG002 every core takes the time
        """Bytes arrived; drain `events` and `outgoing` next.

        SipError when the stream cannot be understood any more: what came before is still to be
        drained, an answer may be made of `rest`, and the connection is to be closed.
        """
        if self.closed:
            return
        if max(len(self._events), len(self._outgoing)) >= PENDING_MAX:
            raise LocalError("events of a SIP stream are not drained")
        self._buffer += data
        try:
            while self._step():
                pass
        except SipError:
            self.closed = True
            raise

    def receive_closed(self, now: float) -> None:  # noqa: ARG002 every core takes the time
        """The other side closed; what is incomplete is forgotten."""
        self.closed = True
        self._buffer.clear()

    def events(self) -> list[StreamEvent]:
        """Drain the messages and keep-alives, in order."""
        events, self._events = self._events, []
        return events

    def outgoing(self) -> list[bytes]:
        """Drain what must be sent: pongs."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def wake_at(self) -> float | None:
        """Never: how long a connection may be idle is its owner's to say."""
        return None

    @property
    def rest(self) -> bytes:
        """What could not be understood, for `message.refuse`."""
        return bytes(self._buffer[:MESSAGE_BYTES])

    def _step(self) -> bool:
        """Takes one thing off the buffer; false when more bytes are needed."""
        buffer = self._buffer
        if self._need:
            return self._take()
        if not self._searched and buffer.startswith((b"\r", b"\n")):
            return self._step_over_line_end()
        end = _HEAD_END.search(buffer, max(0, self._searched - 3))
        if end is None:
            self._searched = len(buffer)
            if len(buffer) > MESSAGE_BYTES:
                raise SipError(_TOO_LONG, 513)
            return False
        if end.end() > MESSAGE_BYTES:
            raise SipError(_TOO_LONG, 513)
        self._need = end.end() + _content_length(bytes(buffer[: end.end()]))
        if self._need > MESSAGE_BYTES:
            raise SipError(_TOO_LONG, 513)
        return self._take()

    def _take(self) -> bool:
        if len(self._buffer) < self._need:
            return False
        self._tell(Whole(bytes(self._buffer[: self._need])))
        del self._buffer[: self._need]
        self._need = self._searched = 0
        return bool(self._buffer)

    def _step_over_line_end(self) -> bool:
        buffer = self._buffer
        if self._opened:
            if buffer[:2] == PONG:
                del buffer[:2]
                self._tell(Alive.PONG)
                return bool(buffer)
            return self._skip_odd_line_end()
        if buffer[:4] == PING:
            del buffer[:4]
            self._tell(Alive.PING)
            self._outgoing.append(PONG)
            return bool(buffer)
        if PING.startswith(bytes(buffer[:4])):
            return False  # half a ping, or a line end before a message: the next byte tells
        if buffer[:2] == PONG:
            del buffer[:2]
            return True
        return self._skip_odd_line_end()

    def _skip_odd_line_end(self) -> bool:
        """A line end that is no CRLF, before a message (§7.5); half a CRLF waits for the rest."""
        if self._buffer == b"\r":
            return False
        del self._buffer[:1]
        return bool(self._buffer)

    def _tell(self, event: StreamEvent) -> None:
        # A flood of keep-alives within one read must not grow the list: each has two bytes or more.
        if len(self._events) < PENDING_MAX:
            self._events.append(event)
        else:
            raise SipError("more messages in one read than anyone sends", DROP)


def unwrap_websocket(data: bytes | str) -> bytes | None:
    """The SIP message in one WebSocket message (RFC 7118 §5: one each), or None for a keep-alive."""
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    if len(raw) > MESSAGE_BYTES:
        raise SipError(_TOO_LONG, 513)
    return raw if raw.strip(b"\r\n") else None


def _content_length(head: bytes) -> int:
    found = {value.strip() for value in _LENGTH.findall(head)}
    if len(found) != 1:
        raise SipError("a stream needs one Content-Length")
    (text,) = found
    if not text.isdigit() or len(text) > 9:
        raise SipError("a Content-Length that is no length")
    return int(text)
