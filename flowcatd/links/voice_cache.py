"""Lines that were spoken before, kept per worker: a greeting is synthesised once, not per call.

The key is the voice's name, the text, and the rate of the call that wants it. A line is kept as it
is heard: without the silence before its first sound and at the call's rate, in one piece which all
calls share. What a call then holds of a line is a reference, and its audio is copied by no one.

Only complete lines are kept, the least recently used go first, and a line that would take more than
a quarter of the room is not kept at all: one long announcement must not empty the cache of the
short lines that every call needs. Texts made of what callers said are spoken once and age out;
nothing here is written down or logged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from flowcatd.audio.lead import Lead
from flowcatd.audio.resample import Resampler
from flowcatd.services import Voice


@dataclass(frozen=True, slots=True)
class Spoken:
    """Which line it is."""

    voice: str
    text: str
    rate_hz: int


class VoiceCache:
    """Spoken lines, bounded in bytes of audio."""

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes` of 0 keeps nothing."""
        self.hits = 0
        self.misses = 0
        self.size = 0
        """Bytes of audio kept now."""
        self._most_bytes = most_bytes
        self._lines: OrderedDict[Spoken, bytes] = OrderedDict()

    def find(self, line: Spoken) -> bytes | None:
        """The line's audio, or None when it is not kept; counted either way."""
        pcm = self._lines.get(line)
        if pcm is None:
            self.misses += 1
            return None
        self.hits += 1
        self._lines.move_to_end(line)
        return pcm

    def has_room_for(self, size: int) -> bool:
        """Whether a line of so many bytes would be kept."""
        return size <= self._most_bytes // 4

    def keep(self, line: Spoken, pcm: bytes) -> None:
        """Keep a complete line, at the cost of those that were not wanted for longest."""
        if not pcm or not self.has_room_for(len(pcm)):
            return
        self.size += len(pcm) - len(self._lines.pop(line, b""))
        self._lines[line] = pcm
        while self.size > self._most_bytes:
            _, dropped = self._lines.popitem(last=False)
            self.size -= len(dropped)


class CachedVoice:
    """A voice at a call's rate that looks into the cache first."""

    def __init__(
        self,
        voice: Voice,
        name: str,
        cache: VoiceCache,
        rate_hz: int,
        on_hit: Callable[[], None] | None = None,
    ) -> None:
        """`name` tells voices apart in the cache; `on_hit` is told of each line found there."""
        self.rate_hz = rate_hz
        self._voice = voice
        self._name = name
        self._cache = cache
        self._on_hit = on_hit

    async def speak(self, text: str) -> AsyncGenerator[bytes, None]:
        """Yield the line: whole and at once when it is kept, else as it is made."""
        wanted = Spoken(self._name, text, self.rate_hz)
        kept = self._cache.find(wanted)
        if kept is not None:
            if self._on_hit is not None:
                self._on_hit()
            yield kept
            return
        made: list[bytes] | None = []
        size = 0
        async with aclosing(self._made(text)) as line:
            async for piece in line:
                size += len(piece)
                if made is not None and self._cache.has_room_for(size):
                    made.append(piece)
                else:
                    made = None
                yield piece
        if made:
            self._cache.keep(wanted, b"".join(made))

    async def _made(self, text: str) -> AsyncGenerator[bytes, None]:
        """What the voice says, from its first sound on, at the call's rate."""
        lead = Lead(self._voice.rate_hz)
        resampler = Resampler(self._voice.rate_hz, self.rate_hz)
        async with aclosing(self._voice.speak(text)) as line:
            async for piece in line:
                yield resampler.push(lead.push(piece))
        yield resampler.flush()

    async def close(self) -> None:
        """Close the voice; the lines stay for other calls."""
        await self._voice.close()
