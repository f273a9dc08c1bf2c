"""Lines that were spoken before, kept per worker: a greeting is synthesised once, not per call.

The key is the voice's name and the text. Only complete lines are kept, the least recently used go
first, and a line that would take more than a quarter of the room is not kept at all: one long
announcement must not empty the cache of the short lines that every call needs. Texts made of what
callers said are spoken once and age out; nothing here is written down or logged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from flowcatd.services import Voice


class VoiceCache:
    """Spoken lines, bounded in bytes of audio."""

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes` of 0 keeps nothing."""
        self.hits = 0
        self.misses = 0
        self.size = 0
        """Bytes of audio kept now."""
        self._most_bytes = most_bytes
        self._lines: OrderedDict[tuple[str, str], tuple[bytes, ...]] = OrderedDict()

    def find(self, name: str, text: str) -> tuple[bytes, ...] | None:
        """The line's pieces, or None when it is not kept; counted either way."""
        pieces = self._lines.get((name, text))
        if pieces is None:
            self.misses += 1
            return None
        self.hits += 1
        self._lines.move_to_end((name, text))
        return pieces

    def has_room_for(self, size: int) -> bool:
        """Whether a line of so many bytes would be kept."""
        return size <= self._most_bytes // 4

    def keep(self, name: str, text: str, pieces: tuple[bytes, ...]) -> None:
        """Keep a complete line, at the cost of those that were not wanted for longest."""
        size = _size(pieces)
        if not pieces or not self.has_room_for(size):
            return
        self.size += size - _size(self._lines.pop((name, text), ()))
        self._lines[name, text] = pieces
        while self.size > self._most_bytes:
            _, dropped = self._lines.popitem(last=False)
            self.size -= _size(dropped)


class CachedVoice:
    """A voice that looks into the cache first."""

    def __init__(
        self, voice: Voice, name: str, cache: VoiceCache, on_hit: Callable[[], None] | None = None
    ) -> None:
        """`name` tells voices apart in the cache; `on_hit` is told of each line found there."""
        self.rate_hz = voice.rate_hz
        self._voice = voice
        self._name = name
        self._cache = cache
        self._on_hit = on_hit

    async def speak(self, text: str) -> AsyncGenerator[bytes, None]:
        """Yield the line: at once when it is kept, else as it is made."""
        kept = self._cache.find(self._name, text)
        if kept is not None:
            if self._on_hit is not None:
                self._on_hit()
            for piece in kept:
                yield piece
            return
        made: list[bytes] | None = []
        size = 0
        async with aclosing(self._voice.speak(text)) as line:
            async for piece in line:
                size += len(piece)
                if made is not None and self._cache.has_room_for(size):
                    made.append(piece)
                else:
                    made = None
                yield piece
        if made:
            self._cache.keep(self._name, text, tuple(made))

    async def close(self) -> None:
        """Close the voice; the lines stay for other calls."""
        await self._voice.close()


def _size(pieces: tuple[bytes, ...]) -> int:
    return sum(len(piece) for piece in pieces)
