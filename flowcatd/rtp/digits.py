"""Keys pressed, as RTP says them: telephone-event packets read and written (RFC 4733 §2).

     0                   1                   2                   3
    |     event     |E|R| volume    |          duration             |

All packets of one press carry the timestamp of its beginning; the duration grows (§2.5.1.2), the last
has the E bit and is sent three times (§2.5.1.4). What outlasts 16 bits of duration goes on in a new
segment, whose timestamp lies 0xFFFF later and which has no marker (§2.5.1.3).

Reading. A press is known by its timestamp alone: the marker may be missing, any packet may be lost,
and the same digit with another timestamp is another press. It is `Pressed` with the first packet that
says so, and told as a `Digit` once, when it ends: by E, by another press, or TIMEOUT after its last
packet. A packet older than the newest press is ignored. So is a duration of 0 (§2.3.5). A sender that
wrongly moves the timestamp on within a press betrays itself: the "new" press would begin before the
old one had ended.

Writing. One packet per 20 ms from the first full interval on. The three ends are 20 ms apart, so that
a burst of loss does not take all, and lie in the pause before the next key.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass

import msgspec

from flowcatd.errors import LocalError
from flowcatd.media import PTIME_MS
from flowcatd.rtp.sequence import ahead32
from flowcatd.rtp.trouble import RtpError

KEYS = "0123456789*#ABCD!"
"""By event code: 0 to 15 (RFC 4733 §3.2), and 16, a hook flash (RFC 2833 §3.10), as `!`."""
TONE_MS = 100
"""A key held this long: ITU-T Q.24 wants 40, some carriers 80."""
PAUSE_MS = 100
"""Between two keys; the end packets need 60 of it."""
MOST_KEYS = 64
"""Waiting to be sent; a card number and more."""
MOST_TONE_MS = 60_000
ENDS = 3
TIMEOUT = 0.25
"""Seconds: five update intervals of the slowest senders (50 ms)."""
STALE = 2.0
"""No packet is reordered for this long: an older timestamp now is a sender that began anew."""
MOST_EVENTS = 64
"""Waiting to be drained."""
VOLUME = 10
"""-10 dBm0, as telephones send it; what is no tone has none, and says 0 (RFC 4733 §2.3.4)."""
TONES = 16
"""Codes below it are tones."""

_EVENT = struct.Struct("!BBH")
_END = 0x80
_LONGEST = 0xFFFF
_MOST_PER_PACKET = 8


@dataclass(frozen=True, slots=True)
class Pressed:
    """A key went down."""

    key: str


@dataclass(frozen=True, slots=True)
class Digit:
    """A key was pressed and let go: one of these per press."""

    key: str
    duration_ms: int


class EventPacket(msgspec.Struct, frozen=True, gc=False):
    """One packet to be sent in place of audio."""

    payload: bytes
    timestamp: int
    marker: bool


def build_event(code: int, duration: int, *, end: bool) -> bytes:
    """The payload for one event; `duration` in ticks."""
    volume = VOLUME if code < TONES else 0
    return _EVENT.pack(code, (_END if end else 0) | volume, duration)


class DigitReader:
    """What the far end presses."""

    def __init__(self, clock_hz: int) -> None:
        """`clock_hz` is the clock rate negotiated for telephone-event."""
        self._clock = clock_hz
        self._events: list[Pressed | Digit] = []
        self._begun = False
        self._down = False
        self._timestamp = 0
        self._code = 0
        self._duration = 0
        self._before = 0
        """Ticks in earlier segments of this press."""
        self._lapsed = False
        """The last press was given up without its end."""
        self._last = 0.0

    def receive(self, payload: bytes, timestamp: int, now: float, *, marker: bool = False) -> None:
        """One packet's payload; RtpError when it is none. Drain `events` afterwards."""
        if len(payload) < _EVENT.size:
            raise RtpError(f"a telephone event of {len(payload)} bytes")
        whole = min(len(payload) // _EVENT.size, _MOST_PER_PACKET) * _EVENT.size
        for at in range(0, whole, _EVENT.size):  # §2.5.1.5: several, one after the other
            code, flags, duration = _EVENT.unpack_from(payload, at)
            if code < len(KEYS) and duration:
                heard = self._hear(code, timestamp, duration, now, marker=marker)
                if heard and flags & _END:
                    self._end()
                    self._lapsed = False
            timestamp = timestamp + duration & 0xFFFFFFFF

    def reset(self) -> None:
        """Another source presses keys now, and its timestamps are its own."""
        self._end()
        self._begun = self._lapsed = False

    def reclock(self, clock_hz: int) -> None:
        """Another codec was agreed on, and with it another clock."""
        self.reset()
        self._clock = clock_hz

    def wake_at(self) -> float | None:
        """When a press whose end was lost counts as ended."""
        return self._last + TIMEOUT if self._down else None

    def wake(self, now: float) -> None:
        """Time passed."""
        if self._down and now >= self._last + TIMEOUT:
            self._end()
            self._lapsed = True

    def events(self) -> list[Pressed | Digit]:
        """Drain what was pressed."""
        told, self._events = self._events, []
        return told

    def _hear(self, code: int, timestamp: int, duration: int, now: float, *, marker: bool) -> bool:
        """Take a report in; false when it is about a press that is over."""
        later = ahead32(timestamp, self._timestamp) if self._begun else 1
        if later < 0:
            if now - self._last < STALE:
                return False
            self._end()
        if self._lapsed and later == _LONGEST and code == self._code and not marker:
            # §2.5.2.2: the next segment of what was told already is nothing new.
            self._timestamp, self._last = timestamp, now
            return False
        if later and not (self._down and self._goes_on(code, later, duration, marker)):
            self._end()
            self._lapsed = False
            self._begun = self._down = True
            self._code, self._duration, self._before = code, 0, 0
            self._tell(Pressed(KEYS[code]))
        elif not self._down:
            return False
        self._timestamp = timestamp
        self._duration = max(self._duration, duration)
        self._last = now
        return True

    def _goes_on(self, code: int, later: int, duration: int, marker: bool) -> bool:  # noqa: FBT001 as it came
        """Whether a packet with a later timestamp is about the same press."""
        if code != self._code or marker:
            return False
        if later == _LONGEST:
            self._before += _LONGEST
            self._duration = 0
            return True
        return later <= self._duration < duration

    def _end(self) -> None:
        if self._down:
            self._down = False
            ticks = self._before + self._duration
            self._tell(Digit(KEYS[self._code], ticks * 1000 // self._clock))

    def _tell(self, event: Pressed | Digit) -> None:
        if len(self._events) >= MOST_EVENTS:
            raise LocalError("events of a digit reader were not drained")
        self._events.append(event)


class DigitWriter:
    """Keys to press towards the far end."""

    def __init__(self, clock_hz: int) -> None:
        self._step = clock_hz * PTIME_MS // 1000
        self._ms = clock_hz // 1000
        self._keys: deque[tuple[int, int, int]] = deque()
        self._start: int | None = None
        self._elapsed = 0
        """Ticks since the press, or its present segment, began."""
        self._segments = 0
        self._ends = 0
        self._pause = 0

    @property
    def busy(self) -> bool:
        """Whether a key is being pressed, or waits to be."""
        return bool(self._keys) or self._start is not None or self._pause > 0

    def press(self, keys: str, tone_ms: int = TONE_MS, pause_ms: int = PAUSE_MS) -> None:
        """Queue keys; LocalError for one that does not exist or when too many wait."""
        codes = [KEYS.find(key) for key in keys.upper()]
        if min(codes, default=0) < 0:
            raise LocalError("a key that no telephone has")
        if len(self._keys) + len(codes) > MOST_KEYS:
            raise LocalError(f"more than {MOST_KEYS} keys wait to be pressed")
        if not PTIME_MS <= tone_ms <= MOST_TONE_MS or pause_ms < ENDS * PTIME_MS:
            raise LocalError(f"a key cannot be held {tone_ms} ms with pauses of {pause_ms}")
        self._keys.extend((code, tone_ms, pause_ms) for code in codes)

    def cancel(self) -> None:
        """Forget the keys that wait; one that is down is let go by itself."""
        kept = list(self._keys)[: self._start is not None]
        self._keys.clear()
        self._keys.extend(kept)

    def tick(self, timestamp: int) -> EventPacket | None:
        """What to send in the 20 ms that end now and began at `timestamp`; None: audio."""
        if self._pause:
            return self._rest()
        if not self._keys:
            return None
        first = self._start is None
        if self._start is None:
            self._start, self._elapsed, self._segments, self._ends = timestamp, 0, 0, 0
        code, tone_ms, pause_ms = self._keys[0]
        whole = tone_ms * self._ms - self._segments * _LONGEST
        if self._elapsed >= _LONGEST < whole:
            self._start = self._start + _LONGEST & 0xFFFFFFFF
            self._elapsed -= _LONGEST
            self._segments += 1
            whole -= _LONGEST
        self._elapsed += self._step
        done = min(self._elapsed, whole)
        end = done == whole <= _LONGEST
        if end:
            self._pause = max(ENDS, -(-pause_ms // PTIME_MS))
            self._ends = 1
        return EventPacket(build_event(code, min(done, _LONGEST), end=end), self._start, first)

    def _rest(self) -> EventPacket | None:
        """In the pause after a key: its end again, then nothing."""
        self._pause -= 1
        packet = None
        if self._ends < ENDS and self._start is not None:
            code, tone_ms, _ = self._keys[0]
            duration = tone_ms * self._ms - self._segments * _LONGEST
            packet = EventPacket(build_event(code, duration, end=True), self._start, marker=False)
            self._ends += 1
        if self._ends >= ENDS and self._start is not None:
            self._start = None
            self._keys.popleft()
        return packet
