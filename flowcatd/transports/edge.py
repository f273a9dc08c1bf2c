"""The edge: between a wire's encoded audio of any size and the chain's 20 ms frames of PCM.

Inbound, pieces are cut to 20 ms before they are decoded, and each frame gets its place on the
call's media time. Media time is counted from the samples, since a WebSocket loses none; it jumps
forward when the carrier's own timestamps say that it left something out (silence suppression), or,
where a carrier has none, when nothing came for STALL_MS (a stalled sender that dropped its backlog).

Silence, which is most of what a listening caller sends, is decoded once: every such frame of every call
is the same object, so what keeps the last half second of a call keeps next to nothing.

Outbound, one frame of PCM becomes one encoded payload.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

from flowcatd.audio.chunker import Chunker
from flowcatd.audio.g711 import alaw_to_pcm, mulaw_to_pcm, pcm_to_alaw, pcm_to_mulaw
from flowcatd.carriers.events import Encoding
from flowcatd.frames import InputAudio
from flowcatd.media import PTIME_MS

GAP_MS = 60
"""A carrier timestamp this far ahead of the samples is a gap, not jitter of its clock."""

AHEAD_MS = 2000
"""Media time never runs further ahead of the clock than this, whatever a carrier claims."""

STALL_MS = 1000
"""Without timestamps, silence on the wire this long is a gap; shorter is a burst on its way."""


def _same(data: bytes) -> bytes:
    return data


DECODE: Final[dict[Encoding, Callable[[bytes], bytes]]] = {
    Encoding.MULAW: mulaw_to_pcm,
    Encoding.ALAW: alaw_to_pcm,
    Encoding.PCM: _same,
}

ENCODE: Final[dict[Encoding, Callable[[bytes], bytes]]] = {
    Encoding.MULAW: pcm_to_mulaw,
    Encoding.ALAW: pcm_to_alaw,
    Encoding.PCM: _same,
}

SAMPLE_BYTES: Final[dict[Encoding, int]] = {
    Encoding.MULAW: 1,
    Encoding.ALAW: 1,
    Encoding.PCM: 2,
}

SILENCE: Final[dict[Encoding, bytes]] = {
    Encoding.MULAW: b"\xff",
    Encoding.ALAW: b"\xd5",
    Encoding.PCM: b"\0",
}
"""The code of a zero sample, which fills a frame that a gap cut short."""


@cache
def _silent_frame(encoding: Encoding, rate_hz: int) -> tuple[bytes, bytes]:
    """A frame of zeros, encoded and decoded."""
    coded = SILENCE[encoding] * (rate_hz * PTIME_MS // 1000 * SAMPLE_BYTES[encoding])
    return coded, DECODE[encoding](coded)


class Edge:
    """One call's border between wire and chain."""

    __slots__ = (
        "_begun",
        "_chunker",
        "_decode",
        "_media_ms",
        "_quiet",
        "_quiet_pcm",
        "_silence",
        "encode",
        "rate_hz",
    )

    def __init__(self, encoding: Encoding, rate_hz: int) -> None:
        """As the carrier's start message said."""
        self.rate_hz = rate_hz
        self.encode: Callable[[bytes], bytes] = ENCODE[encoding]
        """One frame of s16le PCM → one payload."""
        self._decode = DECODE[encoding]
        self._silence = SILENCE[encoding]
        self._quiet, self._quiet_pcm = _silent_frame(encoding, rate_hz)
        self._chunker = Chunker(rate_hz * PTIME_MS // 1000 * SAMPLE_BYTES[encoding])
        self._media_ms = 0
        self._begun = False

    def receive(
        self, payload: bytes, timestamp_ms: int | None, elapsed_ms: int
    ) -> list[InputAudio]:
        """Whole frames out of one payload.

        `timestamp_ms` is the carrier's media time of its first sample, `elapsed_ms` the time since
        the stream began; the first is believed where it is given.
        """
        frames = []
        if timestamp_ms is None:
            limit = STALL_MS if self._begun else PTIME_MS  # the first frame stands where it came
            behind = elapsed_ms - self._media_ms
        else:
            believed_ms = min(timestamp_ms, elapsed_ms + AHEAD_MS)
            behind, limit = believed_ms - self._media_ms, GAP_MS
        self._begun = True
        if behind > limit:
            last = self._chunker.flush(self._silence)
            if last is not None:
                frames.append(self._frame(last))
            self._media_ms += max(0, behind // PTIME_MS * PTIME_MS - PTIME_MS * len(frames))
        frames.extend([self._frame(data) for data in self._chunker.push(payload)])
        return frames

    def _frame(self, data: bytes) -> InputAudio:
        media_ms = self._media_ms
        self._media_ms = media_ms + PTIME_MS
        pcm = self._quiet_pcm if data == self._quiet else self._decode(data)
        return InputAudio(pcm, self.rate_hz, media_ms)
