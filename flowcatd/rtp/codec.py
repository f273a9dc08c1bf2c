"""A payload described: which type it has, how long it lasts, how it becomes PCM and comes of it.

Everything else in this room works on bytes and on ticks of the RTP clock. What is special about a
codec stands in its `Codec`: G.722's clock runs at 8 kHz though it samples at 16 (RFC 3551 §4.5.2),
Opus's always at 48 (RFC 7587 §4.1). Decoders with a memory are closures of one call; a decoder that
cannot read a payload raises RtpError, and the payload is concealed as if it had been lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowcatd.audio.g711 import alaw_to_pcm, mulaw_to_pcm, pcm_to_alaw, pcm_to_mulaw
from flowcatd.media import PTIME_MS

MAX_PTIME_MS = 200
"""No packet may claim to last longer; as much is to be taken (RFC 3551 §4.2), and Opus ends at 120."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One payload format as negotiated for a call."""

    name: str
    """The encoding name of the rtpmap line: `PCMU`, `PCMA`, `G722`, `opus`."""
    payload_type: int
    clock_hz: int
    """Ticks of the RTP timestamp per second."""
    rate_hz: int
    """Samples per second of the PCM."""
    decode: Callable[[bytes], bytes]
    """Payload → s16le mono at `rate_hz`; RtpError when it is none."""
    encode: Callable[[bytes], bytes]
    """s16le mono at `rate_hz` → payload."""
    ticks: Callable[[bytes], int]
    """How many ticks a payload lasts; 0 when it is no payload of this codec."""
    recover: Callable[[bytes, int], bytes] | None = None
    """The payload behind a hole and the samples that are lost before it → those samples, by its error
    correction (RFC 6716 §2.1.7); RtpError when it is no payload. It is decoded itself afterwards."""
    conceal: Callable[[int], bytes] | None = None
    """So many samples, whole 2.5 ms of them, in place of what is lost: where the decoder knows better
    than the sound itself what would have followed."""

    @property
    def step(self) -> int:
        """Ticks per 20 ms."""
        return self.clock_hz * PTIME_MS // 1000

    @property
    def frame_bytes(self) -> int:
        """Bytes of PCM per 20 ms."""
        return self.rate_hz * PTIME_MS // 1000 * 2


PCMU = Codec("PCMU", 0, 8000, 8000, mulaw_to_pcm, pcm_to_mulaw, len)
"""G.711 µ-law, static type 0 (RFC 3551 §6)."""
PCMA = Codec("PCMA", 8, 8000, 8000, alaw_to_pcm, pcm_to_alaw, len)
"""G.711 A-law, static type 8 (RFC 3551 §6)."""
