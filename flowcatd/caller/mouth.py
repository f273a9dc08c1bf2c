"""What a telephone's mouthpiece sends: the turn being said in frames of 20 ms, or silence. Pure.

A frame that leaves at t holds what was said in the 20 ms before, so a turn begun with that frame
began at t - 20 ms. Keys of a turn go out one by one; the last one is its end.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowcatd.caller.script import Turn
from flowcatd.media import PTIME_MS, frame_bytes

KEY_FRAMES = 10
"""A key every 200 ms, as a person dials."""


@dataclass(frozen=True, slots=True)
class Said:
    """A turn has been said, from its beginning to its last audible sample, in seconds."""

    began: float
    ended: float


class Mouth:
    """One call's mouthpiece."""

    def __init__(self, rate_hz: int) -> None:
        self._silence = bytes(frame_bytes(rate_hz))
        self._pcm = b""
        self._sent = 0
        self._keys = ""
        self._wait = 0
        self._saying: Said | None = None

    @property
    def busy(self) -> bool:
        """Whether a turn is being said."""
        return self._saying is not None

    def begin(self, turn: Turn, at: float) -> Said:
        """Make the frame that leaves at `at` the first of this turn; when it will have been said."""
        self._pcm, self._keys = turn.pcm, turn.digits
        self._sent = self._wait = 0
        seconds = turn.voice_seconds
        if turn.digits:
            seconds = ((len(turn.digits) - 1) * KEY_FRAMES + 1) * PTIME_MS / 1000
        began = at - PTIME_MS / 1000
        self._saying = Said(began, began + seconds)
        return self._saying

    def frame(self) -> bytes:
        """The 20 ms that leave now, as s16le."""
        pcm = self._pcm[self._sent : self._sent + len(self._silence)]
        self._sent += len(pcm)
        return pcm.ljust(len(self._silence), b"\0")

    def key(self) -> str:
        """The key that is pressed now, or nothing; ask once per frame."""
        if self._wait:
            self._wait -= 1
            return ""
        key, self._keys = self._keys[:1], self._keys[1:]
        if key:
            self._wait = KEY_FRAMES - 1
        return key

    def finished(self) -> Said | None:
        """The turn that the last frame and key completed, once."""
        if self._saying is None or self._keys or self._sent < len(self._pcm):
            return None
        said, self._saying = self._saying, None
        self._wait = 0
        return said
