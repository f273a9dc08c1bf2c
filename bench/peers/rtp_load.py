"""Many RTP streams in one cheap thread: sends at its own pace, and times what comes by the kernel's clock.

Each line is a UDP socket on loopback. Within every 20 ms the lines take turns, so that their packets are
spread as those of many telephones are. A packet that comes is timed where it entered the socket
(SO_TIMESTAMPNS, socket(7)), so that a reader that is late measures nothing of its own; the error of a
packet is how far the gap to the one before is from 20 ms. `drift_ppm` makes the sending clock run fast.

Telephone events are sent as RFC 4733 has them: a packet every 20 ms whose duration grows, and the last
one three times. Sequence numbers and timestamps go on across them.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

FRAME = 160
PACKET_SECONDS = 0.02
EVENT_PACKETS = 6
EVENT_PAYLOAD = 101
KEY_EVERY = 25
"""Packets from one key to the next."""
KEY_AT = 12
"""Packets before the first."""
KEYS = "0123456789*#ABCD"
READ_BYTES = 2048
SO_TIMESTAMPNS = 35
"""asm-generic/socket.h; Python has no name for it."""
_TIMESPEC = struct.Struct("@qq")
_RTP = struct.Struct("!BBHII")


@dataclass(slots=True)
class Line:
    """One call's media."""

    target: tuple[str, int]
    frames: Sequence[bytes]
    """What it says, over and over: G.711 of 20 ms each."""
    socket: socket.socket
    keys: list[str] = field(default_factory=list)
    """Pressed one after another, half a second apart."""
    ssrc: int = 0
    sequence: int = 0
    timestamp: int = 0
    sent: int = 0
    errors_us: list[float] = field(default_factory=list)
    came_at_ns: int = 0
    received: int = 0
    lost: int = 0
    last: int = -1
    payloads: list[tuple[int, bytes]] | None = None
    """Monotonic ns and payload of every packet, when they are kept."""
    sent_at_ns: list[int] = field(default_factory=list)
    pressing: bool = False

    def send(self) -> None:
        """The packet of this turn."""
        payload = self.frames[self.sent % len(self.frames)]
        kind, timestamp = 0, self.timestamp
        step = (self.sent - KEY_AT) % KEY_EVERY
        if self.keys and (self.pressing or step == 0):
            payload, timestamp = self._event(step)
            kind = EVENT_PAYLOAD
            self.pressing = step <= EVENT_PACKETS
            if not self.pressing:
                self.keys.pop(0)
        head = _RTP.pack(0x80, kind, self.sequence & 0xFFFF, timestamp & 0xFFFFFFFF, self.ssrc)
        if self.payloads is not None:
            self.sent_at_ns.append(time.monotonic_ns())
        self.socket.sendto(head + payload, self.target)
        self.sequence += 1
        self.timestamp += FRAME
        self.sent += 1

    def _event(self, step: int) -> tuple[bytes, int]:
        """A telephone-event packet; the three last ones say the end and the whole duration."""
        is_end = step >= EVENT_PACKETS - 1
        duration = FRAME * min(step + 1, EVENT_PACKETS)
        event = KEYS.index(self.keys[0])
        data = struct.pack("!BBH", event, (0x80 if is_end else 0) | 10, duration)
        return data, self.timestamp - FRAME * step

    def receive(self) -> None:
        """Everything that has come."""
        while True:
            try:
                data, ancillary, _, _ = self.socket.recvmsg(READ_BYTES, 64)
            except BlockingIOError:
                return
            if len(data) < 12 or data[1] & 0x7F > 95 + 32 or 200 <= data[1] <= 204:
                continue
            seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
            self._came(data, seconds * 1_000_000_000 + nanoseconds)

    def _came(self, data: bytes, at_ns: int) -> None:
        sequence = int.from_bytes(data[2:4], "big")
        if self.last >= 0:
            gap = (sequence - self.last) & 0xFFFF
            if gap == 1:
                self.errors_us.append(abs(at_ns - self.came_at_ns - 20_000_000) / 1000)
            elif gap < 0x8000:
                self.lost += gap - 1
        self.last, self.came_at_ns = sequence, at_ns
        self.received += 1
        if self.payloads is not None:
            self.payloads.append((time.monotonic_ns(), data[12:]))


def open_socket(host: str = "127.0.0.1") -> socket.socket:
    """A socket on a free port, whose packets are timed by the kernel."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    made.bind((host, 0))
    return made


def run(lines: Sequence[Line], seconds: float, drift_ppm: float = 0.0) -> None:
    """Send and receive for so long."""
    waiting = select.epoll()
    by_descriptor = {line.socket.fileno(): line for line in lines}
    for descriptor in by_descriptor:
        waiting.register(descriptor, select.EPOLLIN)
    step = PACKET_SECONDS / (1 + drift_ppm / 1e6) / len(lines)
    begun = time.monotonic()
    sent, turns = 0, round(seconds / step)
    try:
        while sent < turns:
            due = begun + sent * step
            left = due - time.monotonic()
            if left <= 0:
                lines[sent % len(lines)].send()
                sent += 1
                continue
            for descriptor, _ in waiting.poll(min(left, 0.005)):
                by_descriptor[descriptor].receive()
    finally:
        waiting.close()
