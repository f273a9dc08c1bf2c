"""A SIP call's audio between its chain and its codec: a queue on the way out, frames on the way in.

`Mouth` holds what playout has sent and what the far end has not been sent yet, with the marks that stand in
it: one frame leaves at each tick, and a mark is told at the tick after the frame before it has left,
when its last sample is over. So marks say what was heard to 20 ms, and playout, which sends them, owns
the truth. Clearing forgets both. Tones pressed in band go before what waits; it comes later by as much.

`Ear` gives each frame its place on the call's media time. Where the codec's rate is not the chain's (which
is fixed when the agent begins) a streaming resampler stands in between, both ways.

Silence is one object for every call, so what keeps the last half second of a call keeps next to nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Final

from flowcatd.audio.chunker import Chunker
from flowcatd.audio.resample import Resampler
from flowcatd.frames import InputAudio
from flowcatd.media import PTIME_MS, frame_bytes

MOST_FRAMES: Final = 100
"""Two seconds: playout's lead is a tenth of it."""
MOST_MARKS: Final = 64
MOST_TONES: Final = 1_000
"""20 seconds: as many keys as one may press at once."""
BEHIND_MS: Final = 200
"""Media time this far behind the clock has lost ticks; less is on its way."""


@cache
def quiet(rate_hz: int) -> bytes:
    """A frame of silence."""
    return bytes(frame_bytes(rate_hz))


class Mouth:
    """The way out."""

    __slots__ = (
        "_frames",
        "_marks",
        "_queue",
        "_quiet",
        "_resampler",
        "_sounded",
        "_tell",
        "_tones",
        "dropped",
        "idle",
    )

    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` is told each mark when what stands before it has been played."""
        self._tell = tell
        self._queue: deque[bytes | str] = deque()
        self._tones: deque[bytes] = deque()
        self._frames = self._marks = 0
        self._resampler: Resampler | None = None
        self._sounded = False
        self._quiet = b""
        self.idle: bytes | None = None
        """What is said while there is nothing to say."""
        self.dropped = 0
        """Frames that found the queue full."""

    def __len__(self) -> int:
        """Frames that wait."""
        return self._frames

    def bridge(self, from_hz: int, to_hz: int) -> None:
        """The chain's rate, and the codec's."""
        self._resampler = Resampler(from_hz, to_hz, primed=True) if from_hz != to_hz else None
        self._quiet = quiet(from_hz)

    def put(self, pcm: bytes) -> None:
        """One frame at the chain's rate."""
        if self._frames >= MOST_FRAMES:
            self.dropped += 1
            return
        self._frames += 1
        self._queue.append(pcm)

    def mark(self, name: str) -> None:
        """To be told of when what waits has been played."""
        if self._marks < MOST_MARKS:
            self._marks += 1
            self._queue.append(name)

    def clear(self) -> None:
        """Forget what waits, marks as well: a cleared mark was not played."""
        self._queue.clear()
        self._frames = self._marks = 0

    def press(self, tones: bytes, rate_hz: int) -> None:
        """Tones of keys, at the chain's rate; whole keys only fit."""
        size = frame_bytes(rate_hz)
        frames = [tones[at : at + size] for at in range(0, len(tones), size)]
        if len(self._tones) + len(frames) > MOST_TONES:
            self.dropped += len(frames)
            return
        self._tones.extend(frames)

    def next(self) -> bytes | None:
        """The 20 ms of this tick, at the codec's rate."""
        pcm = self._take()
        if self._resampler is None:
            return self.idle if pcm is None else pcm
        return self._bridged(pcm)

    def _take(self) -> bytes | None:
        if self._tones:
            return self._tones.popleft()
        queue = self._queue
        while queue:
            item = queue.popleft()
            if isinstance(item, bytes):
                self._frames -= 1
                return item
            self._marks -= 1
            self._tell(item)  # which may bring more to say, or clear what there is
        return None

    def _bridged(self, pcm: bytes | None) -> bytes | None:
        """One frame more than there is, so that the resampler gives up the end of the last one."""
        assert self._resampler is not None
        if pcm is None:
            if not self._sounded:
                return self.idle
            self._sounded = False
            return self._resampler.push(self._quiet)
        self._sounded = True
        return self._resampler.push(pcm)


class Ear:
    """The way in."""

    __slots__ = ("_chunker", "_origin", "_quiet", "_resampler", "media_ms", "rate_hz")

    def __init__(self, rate_hz: int, now: float) -> None:
        """The chain's rate; its media time begins now."""
        self.rate_hz = rate_hz
        self.media_ms = 0
        self._origin = now
        self._quiet = quiet(rate_hz)
        self._resampler: Resampler | None = None
        self._chunker = Chunker(len(self._quiet))

    def bridge(self, from_hz: int) -> None:
        """The codec's rate."""
        is_same = from_hz == self.rate_hz
        self._resampler = None if is_same else Resampler(from_hz, self.rate_hz, primed=True)
        self._chunker.clear()

    def hear(self, pcm: bytes) -> InputAudio:
        """20 ms at the chain's own rate."""
        media_ms = self.media_ms
        self.media_ms = media_ms + PTIME_MS
        return InputAudio(self._quiet if pcm == self._quiet else pcm, self.rate_hz, media_ms)

    def hear_bridged(self, pcm: bytes) -> list[InputAudio]:
        """20 ms at another rate: mostly one frame."""
        if self._resampler is None:
            return [self.hear(pcm)]
        return [self.hear(each) for each in self._chunker.push(self._resampler.push(pcm))]

    def silence(self) -> InputAudio:
        """20 ms in which nobody is to be heard."""
        return self.hear(self._quiet)

    @property
    def is_bridged(self) -> bool:
        """Whether the codec has another rate."""
        return self._resampler is not None

    def keep_up(self, now: float) -> None:
        """Ticks that never came are a gap: media time goes on with the clock."""
        behind = int((now - self._origin) * 1000) - self.media_ms
        if behind >= BEHIND_MS:
            self.media_ms += behind // PTIME_MS * PTIME_MS
