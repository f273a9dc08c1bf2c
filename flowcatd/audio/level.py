"""How loud a piece of s16le PCM is: RMS, peak, and RMS in dBFS.

0 dBFS is here the RMS of a full-scale square wave (32768), so a full-scale sine measures -3.01. The
smallest RMS that counts, 1, is -90.3; below it there is only the floor of -96, so that a level is
always a number that can be compared, averaged and written as JSON.

Used as a cheap gate before voice detection and for the levels in a call's record; `audioop` does it
in C for a tenth of what numpy takes on 20 ms.
"""

from __future__ import annotations

import math

from flowcatd.audio.g711 import audioop
from flowcatd.errors import LocalError

FLOOR_DBFS = -96.0
"""What silence measures: one step of 6 dB, half of an RMS of 1, below the smallest that counts."""

_FULL_SCALE = 32_768


def rms(pcm: bytes) -> int:
    """The root mean square of the samples, rounded down, 0 to 32768; 0 for an empty piece."""
    try:
        value: int = audioop.rms(pcm, 2)
    except audioop.error as error:
        raise LocalError(f"{len(pcm)} bytes are no whole number of 16-bit samples") from error
    return value


def gain(pcm: bytes, db: float) -> bytes:
    """The piece louder by `db` (softer if negative); what would pass full scale is cut there."""
    if not db:
        return pcm
    try:
        louder: bytes = audioop.mul(pcm, 2, 10 ** (db / 20))
    except audioop.error as error:
        raise LocalError(f"{len(pcm)} bytes are no whole number of 16-bit samples") from error
    return louder


def peak(pcm: bytes) -> int:
    """The largest magnitude among the samples, 0 to 32768; 0 for an empty piece."""
    try:
        value: int = audioop.max(pcm, 2)
    except audioop.error as error:
        raise LocalError(f"{len(pcm)} bytes are no whole number of 16-bit samples") from error
    return value


def dbfs(pcm: bytes) -> float:
    """The RMS in dB relative to 32768, at most 0; FLOOR_DBFS when it rounds down to nothing."""
    value = rms(pcm)
    return 20.0 * math.log10(value / _FULL_SCALE) if value else FLOOR_DBFS
