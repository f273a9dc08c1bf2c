"""Comfort noise: RFC 3389's payload read and written, and noise to its description.

A payload is one octet of level, 0 to 127 in -dBov (§3.1: 0 dBov is the RMS of a square wave at full
scale, the same zero as `audio.level`'s dBFS), and any number of reflection coefficients of an all-pole
model, k = 258·(N - 127)/32768 for N from 0 to 254 (§3.2). More than MAX_ORDER are left out, as §3.2
allows; that bounds the work too.

Noise need be neither unguessable nor fresh: it is cut from one table of Gaussian noise at changing
places. A spectrum is laid upon the table once, by its Fourier transform, when the description
changes; a frame then costs one multiplication.
"""

from __future__ import annotations

import functools
import math

import msgspec
import numpy as np
import numpy.typing as npt

from flowcatd.rtp.trouble import RtpError

MAX_ORDER = 12
"""Coefficients used: G.711 appendix II's model has 10."""
QUIETEST_DB = 90
"""Fainter than one step of a sample is silence."""

_TABLE = 8192
"""About a second at 8 kHz: its repetition is not heard, since frames begin anywhere in it."""
_FULL_SCALE = 32768.0

_Floats = npt.NDArray[np.float64]


class Noise(msgspec.Struct, frozen=True, gc=False):
    """A background, described."""

    level_db: int
    """-dBov: 0 is the loudest there is, 127 silence."""
    reflection: tuple[int, ...] = ()
    """Quantised coefficients N, 0 to 254; none for white noise."""


def parse_noise(payload: bytes) -> Noise:
    """The description; RtpError when there is none or its level's first bit is set."""
    if not payload or payload[0] > 127:
        raise RtpError(f"comfort noise of {len(payload)} bytes without a level")
    return Noise(payload[0], tuple(min(octet, 254) for octet in payload[1 : 1 + MAX_ORDER]))


def build_noise(noise: Noise) -> bytes:
    """The payload."""
    return bytes((noise.level_db, *noise.reflection))


def level_of(rms: float) -> int:
    """An RMS of samples (0 to 32768) as RFC 3389's level."""
    return 127 if rms < 1.0 else min(127, max(0, round(-20.0 * math.log10(rms / _FULL_SCALE))))


class NoiseGenerator:
    """An endless background for one stream."""

    __slots__ = ("_at", "_gain", "_table", "noise")

    def __init__(self, start: int = 0) -> None:
        """`start` is where in the table to begin, so that no two legs hum alike."""
        self._at = start % _TABLE
        self.noise: Noise | None = None
        """What was described last, if anything was."""
        self._gain = 0.0
        self._table = _white()

    def describe(self, noise: Noise) -> None:
        """Sound like this from now on."""
        if self.noise is None or noise.reflection != self.noise.reflection:
            self._table = _shaped(noise.reflection) if noise.reflection else _white()
        self.level(noise.level_db)
        self.noise = noise

    def level(self, level_db: int) -> None:
        """Be as loud as this, in -dBov, without its being the far end's description."""
        faint = level_db >= QUIETEST_DB
        self._gain = 0.0 if faint else _FULL_SCALE * 10.0 ** (-level_db / 20.0)

    def make(self, samples: int) -> bytes:
        """So many samples of it, s16le; `samples` is at most the table's half."""
        if not self._gain:
            return bytes(2 * samples)
        # Any stride without a common factor with the table visits every place.
        self._at = (self._at * 5 + 3331) % _TABLE
        at = self._at % (_TABLE - samples)
        sound = self._table[at : at + samples] * self._gain
        return np.rint(np.minimum(np.maximum(sound, -32768.0), 32767.0)).astype("<i2").tobytes()


@functools.cache
def _white() -> _Floats:
    """Gaussian noise with an RMS of 1, the same in every process."""
    table = np.random.default_rng(3389).standard_normal(_TABLE)
    white: _Floats = table / np.sqrt(np.mean(table * table))
    return white


@functools.lru_cache(maxsize=8)
def _shaped(reflection: tuple[int, ...]) -> _Floats:
    """The table under 1/A(z), with an RMS of 1; A from its reflection coefficients by Levinson's step."""
    taps = np.ones(1)
    for number in reflection:
        k = 258.0 * (number - 127) / 32768.0
        taps = np.append(taps, 0.0) + k * np.append(taps, 0.0)[::-1]
    response = np.fft.rfft(taps, _TABLE)
    table = np.fft.irfft(np.fft.rfft(_white()) / np.maximum(np.abs(response), 1e-3), _TABLE)
    shaped: _Floats = table / np.sqrt(np.mean(table * table))
    return shaped
