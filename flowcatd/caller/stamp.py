"""Frames that can be told apart, and the verdict on what came back. Pure.

A frame of n bytes begins with its number and goes on with bytes that only this number gives, so that
a frame which comes back changed, twice, late or not at all is seen as that. No byte is 0x7F or 0xFF,
the two zeros of µ-law, of which an echo that goes through samples returns only one; every other byte
survives µ-law, A-law and PCM alike.

What comes back may be cut anywhere; it is read as one stream of frames. A frame that is not whole in
itself is *corrupt*; a good one is *duplicate* when its number was there before, *reordered* when a
higher number was, and *lost* are those that never came.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowcatd.audio.chunker import Chunker
from flowcatd.errors import LocalError

_ALPHABET = bytes(byte for byte in range(256) if byte not in {0x7F, 0xFF})
_BASE = len(_ALPHABET)
_INDEX = {byte: index for index, byte in enumerate(_ALPHABET)}
_NUMBER_BYTES = 4
_WEIGHTS = (1, 3, 5, 9)
"""Prime to 254 too: a change of any one digit of the number changes every byte behind it."""
_STEP = 97
"""Prime to the alphabet's 254, so that the bytes behind a number run through all of it."""

FRAMES_LIMIT = 1_000_000
"""Frames one verdict can keep: five and a half hours of a call."""


def stamp(number: int, size: int) -> bytes:
    """The frame of this number, `size` bytes long."""
    if not 0 <= number < FRAMES_LIMIT or size <= _NUMBER_BYTES:
        raise LocalError(f"no frame of {size} bytes has the number {number}")
    head = bytearray()
    rest, first = number, 7
    for weight in _WEIGHTS:
        rest, digit = divmod(rest, _BASE)
        head.append(_ALPHABET[digit])
        first += weight * digit
    body = bytes(_ALPHABET[(first + at * _STEP) % _BASE] for at in range(size - _NUMBER_BYTES))
    return bytes(head) + body


def read_stamp(frame: bytes) -> int | None:
    """The number of a frame, or None when it is not as it was made."""
    number = 0
    for byte in reversed(frame[:_NUMBER_BYTES]):
        digit = _INDEX.get(byte)
        if digit is None:
            return None
        number = number * _BASE + digit
    if number >= FRAMES_LIMIT or len(frame) <= _NUMBER_BYTES or stamp(number, len(frame)) != frame:
        return None
    return number


@dataclass(slots=True)
class Verdict:
    """How many of each."""

    sent: int = 0
    right: int = 0
    lost: int = 0
    duplicate: int = 0
    reordered: int = 0
    corrupt: int = 0

    @property
    def all_right(self) -> bool:
        """Whether every frame came back once, in order and unchanged."""
        return self.sent > 0 and self.right == self.sent and not self.corrupt + self.duplicate


class StampCheck:
    """Judges one stream of frames that comes back."""

    def __init__(self, size: int) -> None:
        """`size` is that of one frame in bytes."""
        self._size = size
        self._chunker = Chunker(size)
        self._sent_at: list[float] = []
        self._seen: set[int] = set()
        self._highest = -1
        self._verdict = Verdict()
        self.trips: list[float] = []
        """Round trips in seconds, in the order of return."""

    def next_frame(self, now: float) -> bytes:
        """The next frame to send, at `now`."""
        frame = stamp(len(self._sent_at), self._size)
        self._sent_at.append(now)
        return frame

    def receive(self, data: bytes, now: float) -> None:
        """Something came back."""
        for frame in self._chunker.push(data):
            number = read_stamp(frame)
            if number is None or number >= len(self._sent_at):
                self._verdict.corrupt += 1
            elif number in self._seen:
                self._verdict.duplicate += 1
            else:
                self._seen.add(number)
                self.trips.append(now - self._sent_at[number])
                if number < self._highest:
                    self._verdict.reordered += 1
                else:
                    self._highest = number
                    self._verdict.right += 1

    @property
    def complete(self) -> bool:
        """Whether every frame sent has come back."""
        return len(self._seen) == len(self._sent_at)

    def verdict(self) -> Verdict:
        """The count so far; what has not come yet counts as lost."""
        sent = len(self._sent_at)
        verdict = self._verdict
        return Verdict(
            sent,
            verdict.right,
            sent - len(self._seen),
            verdict.duplicate,
            verdict.reordered,
            verdict.corrupt,
        )
