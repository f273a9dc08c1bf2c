"""What the caller said and heard, as a stereo WAV file: caller left, agent right, by time.

Written as the call goes, so a long call needs no memory and one that breaks off leaves a file that
plays. What the right side holds is what the earpiece played, not what was sent to it.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from flowcatd.recording import interleave, stereo_header


class Tape:
    """One file; a context manager."""

    def __init__(self, path: Path, rate_hz: int) -> None:
        """Opens the file; OSError when it cannot be written."""
        self._rate_hz = rate_hz
        self._payload = 0
        self._file = path.open("wb")
        self._file.write(stereo_header(rate_hz, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.seek(0)
        self._file.write(stereo_header(self._rate_hz, self._payload))
        self._file.close()

    def add(self, said: bytes, heard: bytes) -> None:
        """The next stretch of both sides, equally long s16le mono."""
        both = interleave(said, heard)
        self._payload += len(both)
        self._file.write(both)
