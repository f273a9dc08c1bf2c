"""Where every sample of a recording stands: two legs on the call's media time, made into blocks.

A piece of audio is placed by its media time, never by its arrival, so the two legs cannot drift
apart. What lies between pieces is silence. Where pieces overlap the one that came first stays: a
packet sent twice changes nothing, and the outcome is the same whether the first had already been
handed on as part of a block or not.

Media times are whole milliseconds, pieces are whole samples. A piece that claims to start within a
millisecond of the end of the one before it is taken to continue it; without that, 11,025 Hz audio
would click at every piece. The claim is compared with media time anew for every piece, so the
error never adds up.

A leg keeps only what may still change; `Recording.advance` makes the rest into blocks of at most one
second, caller left, agent right, s16le. What may change? The caller's past is complete up to the
end of its last piece, since pieces come in order. The agent's may be taken back, but only where it
sounds and is not known to have been heard; and what it will say stands after now. So while the agent
is silent next to nothing waits; from its first sound on everything does, for `hold_ms` at most.

Pure: knows neither files nor the clock. The file format is `audio/wav.py`'s.
"""

from __future__ import annotations

from array import array
from functools import lru_cache

from flowcatd.audio.wav import SampleFormat, wav_header
from flowcatd.errors import LocalError

SAMPLE_BYTES = 2
SNAP_MS = 1
"""Media times are rounded to this, so they are believed to within this."""

GRAIN_MS = 100
"""Blocks are whole grains, so that most have one of few lengths, and a silent one is made only once."""

LAG_MS = 60
"""What the agent says now stands no earlier than now; this is for roundings and a clock read twice."""

SPANS_MAX = 4096
"""Separate stretches of sound in one leg's window; at one frame in two they last 160 s."""

PAYLOAD_MAX = 0xFFFFFF00
"""A little less than 32 bits, which must also count the header."""

CHUNKS = 48
"""Pieces that stay the objects they came as, which others hold too: the pre-roll of an idle call is the
same 20 ms frames, and a tick of the recorder hands on before there are so many. Beyond it, while the
agent speaks, they are joined: small blocks that wait for seconds leave the heap full of holes."""

_SILENCE = bytes(1920)
"""20 ms at 48 kHz: silence is not kept, so that a call in which nobody speaks costs next to nothing."""

_Span = list[int]
"""[first, one past the last]; a list, because the last one grows with every piece."""


class Leg:
    """One side's samples from `base` on; earlier ones have been taken and cannot change."""

    def __init__(self, rate_hz: int, window_ms: int) -> None:
        """Samples further than `window_ms` after `base` are refused."""
        self._rate_hz = rate_hz
        self._window = window_ms * rate_hz // 1000
        self._snap = -(-SNAP_MS * rate_hz // 1000)
        self.base = 0
        """The first sample that has not been taken."""
        self.end = 0
        """One past the last sample that stands, or `base` when none does."""
        self.next = 0
        """One past the last piece that was put, wherever it stands."""
        self.sounded = 0
        """One past the last sample that was taken and not silence left out."""
        self.certain = 0
        """Nobody takes back what stands before this sample: it has been heard."""
        self._chunks: list[bytes] = []  # from base on; what is missing up to end is silence
        self._joined = 0  # so many of them, from the first on, are long
        self.size = 0
        """Bytes of sound that wait."""
        self._spans: list[_Span] = []
        self.refused = 0
        """Samples that lay outside the window: placed too late, or too far ahead."""

    def sample_at(self, media_ms: int) -> int:
        """The sample that plays at this media time."""
        return media_ms * self._rate_hz // 1000

    def put(self, media_ms: int, pcm: bytes) -> None:
        """A piece that claims this media time; it continues the one before if that is near enough."""
        start = media_ms * self._rate_hz // 1000
        if -self._snap <= start - self.next <= self._snap:
            start = self.next
        size = len(pcm)
        self.next = end = start + size // SAMPLE_BYTES
        if start == self.end and self._spans and end - self.base <= self._window and not size & 1:
            self._append(start, pcm)  # what nearly every piece does, and `place` would do
            self._spans[-1][1] = self.end = end
        else:
            self.place(start, pcm)

    def place(self, start: int, pcm: bytes) -> None:
        """Put these samples from `start` on, wherever nothing stands yet."""
        end = start + len(pcm) // SAMPLE_BYTES
        if start < self.end or end - self.base > self._window or len(pcm) % SAMPLE_BYTES:
            self._place_within(start, pcm)
            return
        if end == start:
            return
        self._append(start, pcm)
        spans = self._spans
        if spans and (start == self.end or len(spans) == SPANS_MAX):
            spans[-1][1] = end
        else:
            spans.append([start, end])
        self.end = end

    @property
    def is_silent(self) -> bool:
        """Whether all that stands is silence."""
        return not self._chunks

    def unsure(self) -> int | None:
        """The earliest sample that may still be taken back, or None where all is silence or heard."""
        if not self._chunks:
            return None
        certain = self.certain
        return next((max(first, certain) for first, last in self._spans if last > certain), None)

    def clear(self, start: int) -> int:
        """Forget all from `start` on; returns how many samples up to the last sound taken remain."""
        cut = max(start, self.base)
        self._spans = [[first, min(last, cut)] for first, last in self._spans if first < cut]
        self._find_end()
        self._keep(self._all()[: max(0, self.end - self.base) * SAMPLE_BYTES])
        self.next = min(self.next, cut)
        return max(0, self.sounded - start)

    def take(self, count: int) -> bytes:
        """The next `count` samples, silence where nothing stands; they are now past changing."""
        size = count * SAMPLE_BYTES
        taken = self._take(size)
        self.base = base = self.base + count
        if taken:
            ends = (min(last, base) for first, last in self._spans if first < base)
            self.sounded = max(ends, default=self.sounded)
        self._spans = [[max(first, base), last] for first, last in self._spans if last > base]
        self._find_end()
        return taken.ljust(size, b"\0")

    def _append(self, start: int, pcm: bytes) -> None:
        """The piece, behind the silence that was left out before it."""
        if pcm == _SILENCE[: len(pcm)]:
            return
        missing = (start - self.base) * SAMPLE_BYTES - self.size
        if missing:
            self._chunks.append(bytes(missing))
        self._chunks.append(pcm)
        self.size += missing + len(pcm)
        if len(self._chunks) - self._joined > CHUNKS:
            self._chunks[self._joined :] = [b"".join(self._chunks[self._joined :])]
            self._joined += 1

    def _take(self, size: int) -> bytes:
        """The first `size` bytes, or what there is; they no longer wait."""
        chunks, taken, count = self._chunks, 0, 0
        while count < len(chunks) and taken < size:
            taken += len(chunks[count])
            count += 1
        pcm = b"".join(chunks[:count])
        del chunks[:count]
        self._joined = max(0, self._joined - count)
        if taken > size:
            chunks.insert(0, pcm[size:])
            pcm = pcm[:size]
        self.size -= len(pcm)
        return pcm

    def _all(self) -> bytes:
        return b"".join(self._chunks)

    def _keep(self, pcm: bytes | bytearray) -> None:
        """This waits, instead of what did."""
        self._chunks = [bytes(pcm)] if pcm else []
        self._joined = 0
        self.size = len(pcm)

    def _place_within(self, start: int, pcm: bytes) -> None:
        """The general case of `place`: clip to the window, then fill what is free."""
        count = len(pcm) // SAMPLE_BYTES
        first = min(max(start, self.base), start + count)
        last = max(min(start + count, self.base + self._window), first)
        self.refused += count - (last - first)
        grown = bytearray(self._all())
        if last > first:
            grown = grown.ljust((last - self.base) * SAMPLE_BYTES, b"\0")
        for span in self._free(first, last):
            begin, end = span
            at = (begin - self.base) * SAMPLE_BYTES
            source = pcm[(begin - start) * SAMPLE_BYTES : (end - start) * SAMPLE_BYTES]
            grown[at : at + len(source)] = source
            self._add(span)
        self._keep(grown)

    def _free(self, first: int, last: int) -> list[_Span]:
        """The stretches of [first, last) where nothing stands."""
        free: list[_Span] = []
        for begin, end in self._spans:
            if end <= first:
                continue
            if begin >= last:
                break
            if begin > first:
                free.append([first, begin])
            first = end
        if first < last:
            free.append([first, last])
        return free

    def _add(self, span: _Span) -> None:
        """Note a stretch that was free, joined to those it touches."""
        merged: list[_Span] = []
        for begin, end in sorted([*self._spans, span]):
            if merged and (merged[-1][1] == begin or len(merged) == SPANS_MAX):
                merged[-1][1] = end  # beyond the limit silence counts as sound
            else:
                merged.append([begin, end])
        self._spans = merged
        self._find_end()

    def _find_end(self) -> None:
        self.end = self._spans[-1][1] if self._spans else self.base


class Recording:
    """Both legs of one call, and the blocks that are done."""

    def __init__(self, rate_hz: int, *, hold_ms: int, ahead_ms: int) -> None:
        """`hold_ms` is how long sound may still be taken back, `ahead_ms` how early it may come."""
        if rate_hz <= 0:
            raise LocalError(f"a recording cannot have {rate_hz} samples a second")
        self._rate_hz = rate_hz
        self._hold_ms = hold_ms
        self._grain = max(1, GRAIN_MS * rate_hz // 1000)
        # Blocks are taken now and then: up to a second more than what may change waits.
        window_ms = hold_ms + ahead_ms + 1000
        self.caller = Leg(rate_hz, window_ms)
        self.agent = Leg(rate_hz, window_ms)

    @property
    def seconds(self) -> float:
        """How much has been handed out as blocks."""
        return self.caller.base / self._rate_hz

    def advance(self, media_ms: int) -> list[bytes]:
        """Media time has come to `media_ms`: the blocks that can no longer change, in order."""
        count = self._settled(media_ms) - self.caller.base
        count -= count % self._grain
        return self._blocks(count)

    def finish(self, media_ms: int) -> list[bytes]:
        """The call is over at `media_ms`: what is left, without what the agent had still to play."""
        self.agent.clear(self.agent.sample_at(media_ms))
        return self._blocks(max(self.caller.end, self.agent.end) - self.caller.base)

    def _settled(self, media_ms: int) -> int:
        """Up to which sample neither leg can change any more."""
        caller, agent = self.caller, self.agent
        held = caller.sample_at(media_ms - self._hold_ms)
        known = min(caller.next, caller.sample_at(media_ms - LAG_MS))
        unsure = agent.unsure()
        return max(held, known if unsure is None else min(known, unsure))

    def _blocks(self, count: int) -> list[bytes]:
        blocks = []
        while count > 0:
            size = min(count, self._rate_hz)
            blocks.append(self._block(size))
            count -= size
        return blocks

    def _block(self, count: int) -> bytes:
        if self.caller.is_silent and self.agent.is_silent:
            self.caller.take(count)
            self.agent.take(count)
            return _silent(count)
        return interleave(self.caller.take(count), self.agent.take(count))


@lru_cache(maxsize=32)
def _silent(count: int) -> bytes:
    """So many stereo samples of nothing: calls that are silent share it."""
    return bytes(2 * SAMPLE_BYTES * count)


def interleave(left: bytes, right: bytes) -> bytes:
    """Two equally long s16le legs as one stereo stream."""
    both = array("h", bytes(len(left) + len(right)))
    both[0::2] = array(
        "h", left
    )  # whole samples are moved, so the machine's byte order is no matter
    both[1::2] = array("h", right)
    return both.tobytes()


def stereo_header(rate_hz: int, payload_bytes: int) -> bytes:
    """What stands before `payload_bytes` of such a stream in a WAV file; its length is always the same.

    Beyond the 4 GiB that the format can express it says "unknown", which readers take to mean all
    that follows.
    """
    frames: int | None = payload_bytes // (2 * SAMPLE_BYTES)
    if payload_bytes > PAYLOAD_MAX:
        frames = None
    return wav_header(rate_hz, 2, frames, SampleFormat.PCM16)
