"""The silence before a line's first sound, left out.

Synthesisers begin a line with 200 to 300 ms of silence (flite's slt: 220 to 280 measured), which a
caller who waits for an answer hears as slowness. Windows of 10 ms are judged by their RMS; from
LEAD_MS before the first that sounds everything passes untouched, pauses included. Memory is LEAD_MS
and a window; a stream that never sounds gives nothing.
"""

from __future__ import annotations

from flowcatd.audio.level import rms

LEAD_MS = 20
"""Kept before the first sound, so that a soft attack is not clipped."""

SOUND_RMS = 30
"""About -61 dBFS in 10 ms: above a synthesiser's dither, below the softest consonant."""


class Lead:
    """One stream of s16le mono; bytes in, bytes out."""

    __slots__ = ("_held", "_keep", "_step")

    def __init__(self, rate_hz: int) -> None:
        self._step = rate_hz // 100 * 2
        self._keep = self._step * LEAD_MS // 10
        self._held: bytes | None = b""

    def push(self, pcm: bytes) -> bytes:
        """What of it is to be heard: nothing yet, the lead and the first sound, or all of it."""
        if self._held is None:
            return pcm
        held = self._held + pcm
        step = self._step
        judged = min(self._keep, len(self._held) - len(self._held) % step)
        for at in range(judged, len(held) - step + 1, step):
            if rms(held[at : at + step]) >= SOUND_RMS:
                self._held = None
                return held[max(0, at - self._keep) :]
        whole = len(held) - len(held) % step
        self._held = held[max(0, whole - self._keep) :]
        return b""
