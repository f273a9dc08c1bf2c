"""The media port: what a call may ask of the wire it came in on, whatever the wire.

`processors/playout.py` is the only one who asks; `transports/` answer. All of it returns at once:
a port writes into its socket's buffer and, when the far end does not read, drops audio and says so
by `congested`, never waits.
"""

from __future__ import annotations

from typing import Protocol

PTIME_MS = 20
"""One frame of audio, in both directions, on every wire."""


class MediaPort(Protocol):
    """The far end, for the way out."""

    @property
    def has_marks(self) -> bool:
        """Whether the far end tells us when its playout has passed a mark."""

    @property
    def lead_ms(self) -> int:
        """How far ahead of being heard audio is of use, at most; 0 leaves it to playout.lead_ms."""

    def send_audio(self, pcm: bytes) -> None:
        """One frame of PTIME_MS, s16le mono at the call's rate."""

    def send_mark(self, name: str) -> None:
        """Ask to be told when everything sent so far has been played."""

    def send_clear(self) -> None:
        """Make the far end forget what it has not yet played."""

    def send_digits(self, digits: str) -> None:
        """Press keys towards the far end."""

    def transfer(self, target: str) -> bool:
        """Ask the far end to take the call to `target`; false where it cannot be asked.

        What comes of it is the call's end, or a TransferFailed.
        """


def frame_bytes(rate_hz: int) -> int:
    """The size of one frame of s16le mono PCM at this rate."""
    return rate_hz * PTIME_MS // 1000 * 2
