"""Lines typed while the call is up, without a thread and without blocking the call's clock.

The descriptor is read when the loop says that it is ready, and cut into lines here: Python's own
line buffer would hold back what it has read ahead. A regular file cannot be watched; it is read at
once, as if somebody had typed very fast.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

PIECE = 4096
LINE_LIMIT = 2000
"""Characters of one line; more than anybody says in one turn."""
FILE_LIMIT = 65_536


class Keyboard:
    """One descriptor being read line by line."""

    def __init__(
        self, descriptor: int, on_line: Callable[[str], None], on_end: Callable[[], None]
    ) -> None:
        """`on_end` is called once, on Ctrl-D."""
        self._descriptor = descriptor
        self._on_line = on_line
        self._on_end = on_end
        self._held = b""
        self._watched = False

    def start(self) -> None:
        """Begin to read; on a running loop."""
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(self._descriptor, self._ready)
            self._watched = True
        except (PermissionError, OSError):
            self._take(os.read(self._descriptor, FILE_LIMIT))
            self._end()

    def stop(self) -> None:
        """Read no more; idempotent."""
        if self._watched:
            self._watched = False
            asyncio.get_running_loop().remove_reader(self._descriptor)

    def _ready(self) -> None:
        data = os.read(self._descriptor, PIECE)
        if data:
            self._take(data)
        else:
            self.stop()
            self._end()

    def _take(self, data: bytes) -> None:
        *lines, self._held = (self._held + data).split(b"\n")
        self._held = self._held[:LINE_LIMIT]
        for line in lines:
            self._on_line(line[:LINE_LIMIT].decode(errors="replace"))

    def _end(self) -> None:
        last, self._held = self._held, b""
        if last:
            self._on_line(last.decode(errors="replace"))
        self._on_end()
