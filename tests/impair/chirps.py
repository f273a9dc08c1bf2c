"""Sound that tells how late it is: a chirp every second over a faint tone, and the ear that finds it.

A chirp of 30 ms sweeps from 600 to 3000 Hz, the next one back again, so that one is never taken for the
other. A caller says 20 ms and hears 20 ms in the same tick, so the place of a chirp in what was heard
less its place in what was said is the delay of the whole way round, in the caller's own samples: no clock
is read. The matched filter's peak is taken where it is at least ALIKE of a perfect one; what was lost,
concealed or spliced in its middle is not counted.

Numbers are samples of 8000 a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

RATE_HZ = 8000
FRAME = 160
EVERY = RATE_HZ
"""From the beginning of one chirp to that of the next."""
LENGTH = 240
AT = 2000
"""Where in its second a chirp begins."""
REACH = RATE_HZ * 3 // 2
"""A delay beyond it is not looked for; the chirp of the other kind lies within it, its own does not."""
ALIKE = 0.7

_Samples = npt.NDArray[np.float64]


def chirp(number: int) -> _Samples:
    """The number-th; of level 1."""
    time = np.arange(LENGTH) / RATE_HZ
    low, high = (600.0, 3000.0) if number % 2 == 0 else (3000.0, 600.0)
    sweep = (high - low) / (LENGTH / RATE_HZ)
    made: _Samples = np.sin(2 * np.pi * (low * time + sweep * time * time / 2)) * np.hanning(LENGTH)
    return made


def _second(number: int) -> bytes:
    """A whole second with the number-th chirp in it."""
    sound = 600 * np.sin(2 * np.pi * 200 * np.arange(EVERY) / RATE_HZ)
    sound[AT : AT + LENGTH] += 12_000 * chirp(number)
    return sound.astype("<i2").tobytes()


_SECONDS = tuple(_second(number) for number in range(2))
_CHIRPS = tuple(chirp(number) for number in range(2))


def said(frame: int) -> bytes:
    """The frame-th 20 ms of it, s16le."""
    second, at = divmod(frame, EVERY // FRAME)
    return _SECONDS[second % 2][at * FRAME * 2 : (at + 1) * FRAME * 2]


class Ear:
    """Keeps what was heard for as long as a chirp may still come, and tells the delays found."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._first = 0
        """Which sample of all that was heard is the first that is kept."""
        self._next = 0
        """The chirp that is looked for next."""
        self.missed = 0
        """Chirps that were not found."""
        self.found: list[tuple[float, float]] = []
        """When each was said, in seconds, and its delay, in ms."""

    def hear(self, pcm: bytes) -> None:
        """20 ms; once a second there is something to be found."""
        self._kept += pcm
        begin = self._next * EVERY + AT
        if self._first + len(self._kept) // 2 >= begin + REACH + LENGTH:
            self._find(begin)

    def _find(self, begin: int) -> None:
        at = begin - self._first
        heard = np.frombuffer(bytes(self._kept[at * 2 : (at + REACH + LENGTH) * 2]), "<i2")
        place = place_of(heard.astype(np.float64), self._next)
        if place is None:
            self.missed += 1
        else:
            self.found.append((begin / RATE_HZ, place * 1000 / RATE_HZ))
        self._next += 1
        done = begin + EVERY - self._first
        del self._kept[: done * 2]
        self._first += done


def place_of(heard: _Samples, number: int) -> int | None:
    """Where in this the number-th chirp begins; None when it is not there."""
    wanted = _CHIRPS[number % 2]
    products = np.correlate(heard, wanted)
    squares = np.concatenate(([0.0], np.cumsum(heard * heard)))
    energy = (squares[LENGTH:] - squares[:-LENGTH]) * float(wanted @ wanted)
    alike = products / np.sqrt(np.maximum(energy, 1e6))
    best = int(alike.argmax())
    return best if alike[best] >= ALIKE else None


def growth_ms(found: Sequence[tuple[float, float]], settled: float) -> float:
    """By how much the delay grew from `settled` seconds on, by least squares over all of them."""
    points = np.array([each for each in found if each[0] >= settled])
    slope = float(np.polyfit(points[:, 0], points[:, 1], 1)[0])
    return slope * float(points[-1, 0] - points[0, 0])
