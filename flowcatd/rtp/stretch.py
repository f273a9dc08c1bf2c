"""A little less or a little more of the same sound: one pitch period taken out or put in.

Speech is nearly periodic over 20 ms. Where the sound at a place resembles the sound one lag further
on, the stretch between the two can be left out (or said twice) with a short cross-fade, and nobody
hears it but as slightly quicker (slower) speech. The lag is sought between 2.5 and 15 ms, the
periods of voices from 400 to 66 Hz, by normalised cross-correlation of BLEND_MS. Noise and
silence resemble themselves at every lag, so `quiet` sound is cut anywhere. This is the overlap-add
of WSOLA (Verhelst & Roelands, ICASSP 1993) for a single splice, which is all a jitter buffer needs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLEND_MS = 5
"""How long the cross-fade is; also what is compared."""
LEAST_MS = 2.5
MOST_MS = 15
ALIKE = 0.6
"""A correlation below it is no period: the splice would be heard."""

_Samples = npt.NDArray[np.float64]


def shorten(pcm: bytes, rate_hz: int, most: int, *, quiet: bool) -> bytes | None:
    """The piece without one period of at most `most` samples; None where it has none to give."""
    samples, blend = _samples(pcm), _blend(rate_hz)
    lag = _lag(samples, rate_hz, most, quiet=quiet)
    if lag is None:
        return None
    joint = _fade(samples[:blend], samples[lag : lag + blend])
    return _bytes(np.concatenate((joint, samples[lag + blend :])))


def lengthen(pcm: bytes, rate_hz: int, most: int, *, quiet: bool) -> bytes | None:
    """The piece with one period of at most `most` samples said twice; None where there is none."""
    samples, blend = _samples(pcm), _blend(rate_hz)
    lag = _lag(samples, rate_hz, most, quiet=quiet)
    if lag is None:
        return None
    joint = _fade(samples[lag : lag + blend], samples[:blend])
    return _bytes(np.concatenate((samples[:lag], joint, samples[blend:])))


def _samples(pcm: bytes) -> _Samples:
    return np.frombuffer(pcm, "<i2").astype(np.float64)


def _bytes(samples: _Samples) -> bytes:
    return np.rint(samples).astype("<i2").tobytes()


def _blend(rate_hz: int) -> int:
    return rate_hz * BLEND_MS // 1000


def _fade(out: _Samples, into: _Samples) -> _Samples:
    weight = (np.arange(len(out)) + 0.5) / len(out)
    faded: _Samples = out * (1.0 - weight) + into * weight
    return faded


def _lag(samples: _Samples, rate_hz: int, most: int, *, quiet: bool) -> int | None:
    """The lag at which the sound resembles its beginning most; None when nothing does."""
    blend = _blend(rate_hz)
    longest = min(most, int(rate_hz * MOST_MS / 1000), len(samples) - blend)
    shortest = int(rate_hz * LEAST_MS / 1000)
    if longest < shortest:
        return None
    if quiet:
        return longest
    head = samples[:blend]
    behind = samples[shortest : longest + blend]
    products = np.correlate(behind, head)
    squares = np.concatenate(([0.0], np.cumsum(behind * behind)))
    energy = (squares[blend:] - squares[:-blend]) * float(head @ head)
    alike = products / np.sqrt(np.maximum(energy, 1.0))
    best = int(alike.argmax())
    return shortest + best if alike[best] >= ALIKE else None
