"""G.722 at 64 kbit/s: 16 kHz PCM against one byte per two samples, by the `G722` package.

A sub-band codec with a memory: an encoder or decoder is one direction of one call, and whatever it is
fed in pieces comes out as it would from the whole. A decoder can read any bytes; after a loss it hears
wrongly for some milliseconds and finds back by itself, since its predictors leak.

The trap of RFC 3551 §4.5.2: the RTP clock of G.722 is written, and runs, as 8000 although it samples at
16000. So a payload lasts as many ticks as it has bytes, 160 for 20 ms, like G.711.

The package is an optional extra (`g722`), written in C and loaded when the first codec is made, never
at import: `available` says whether it is there. It was compared with ffmpeg's implementation, which
shares no code with it: both directions agree to the bit (tests/flowcatd/audio/test_g722.py).
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

import numpy as np

from flowcatd.errors import LocalError

RATE_HZ = 16_000
"""Samples per second."""
CLOCK_HZ = 8_000
"""Ticks of the RTP timestamp per second; see above."""
BIT_RATE = 64_000
"""The only one that RTP's payload type 9 means (RFC 3551 §4.5.2)."""
DELAY_SAMPLES = 22
"""What encoder and decoder together hold back: the quadrature filters, 1.4 ms."""
MISSING = "G.722 is not installed: pip install 'flowcatd[g722]'"

_S16 = np.dtype("<i2")


@cache
def available() -> bool:
    """Whether the package is there; it is not loaded by asking."""
    return all(importlib.util.find_spec(name) is not None for name in ("G722", "G722_numpy"))


class G722Encoder:
    """PCM to G.722, one direction of one call."""

    __slots__ = ("_encode",)

    def __init__(self) -> None:
        """LocalError where the package is not installed."""
        self._encode = _codec().encode

    def encode(self, pcm: bytes) -> bytes:
        """Whole pairs of s16le samples at 16 kHz, a byte for each; LocalError for half a pair."""
        if len(pcm) % 4:
            raise LocalError(f"{len(pcm)} bytes are no whole number of pairs of 16-bit samples")
        codes: bytes = self._encode(np.frombuffer(pcm, _S16))
        return codes


class G722Decoder:
    """G.722 to PCM, one direction of one call."""

    __slots__ = ("_decode",)

    def __init__(self) -> None:
        """LocalError where the package is not installed."""
        self._decode = _codec().decode

    def decode(self, payload: bytes) -> bytes:
        """The samples as s16le at 16 kHz, four times as long."""
        pcm: bytes = self._decode(payload).astype(_S16, copy=False).tobytes()
        return pcm


def _codec() -> Any:
    """One codec state of the package, which publishes no types."""
    if not available():  # pragma: no cover  # tests of the codec want it
        raise LocalError(MISSING)
    return importlib.import_module("G722").G722(RATE_HZ, BIT_RATE, use_numpy=True)
