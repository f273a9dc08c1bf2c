"""Loss concealed: the voice goes on for a moment as it was, and fades into the background.

The idea is that of G.711 Appendix I. The pitch period is found in the sound before the hole, by
normalised cross-correlation at lags of 5 to 15 ms, and repeated: one period for the first 10 ms, then
two, then three, so that a long hole does not buzz. From 10 ms on it fades by a fifth per 10 ms, and
is gone after 60; what remains is noise as loud as the background was. The first frame after the hole
is faded in over the continued repetition, the longer the hole the slower, to at most 10 ms.

Unlike the appendix this adds no delay. The appendix holds 3.75 ms of every frame back, to blend the
last good samples into the repetition; here the repetition is instead moved, at its first sample, to
where the sound ended, and let go of it within a quarter of a period.

Nothing but a slice of history is kept while all is well; numpy is used only in and after a hole.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from flowcatd.audio.level import rms
from flowcatd.rtp.comfort import NoiseGenerator, level_of

HISTORY_MS = 50
"""Three of the longest periods and a quarter."""
SHORTEST_MS, LONGEST_MS = 5, 15
"""Lags: 200 to 66 Hz; a higher voice is found at a multiple of its period."""
COMPARED_MS = 20
FULL_MS = 10
"""Without fading."""
GONE_MS = 60
"""After it nothing of the voice is left."""

_LOUDEST_BACKGROUND = 200.0
"""No noise of ours is louder: -44 dBFS."""
_RISE = 1.004
"""Per piece of 20 ms: a background that got louder is believed after some seconds."""

_Samples = npt.NDArray[np.float64]
_NOTHING: _Samples = np.zeros(0)


class Concealer:
    """What was heard last of one stream, and its continuation."""

    def __init__(self, rate_hz: int, noise: NoiseGenerator) -> None:
        """`noise` is what silence sounds like; without a description of it, the quietest heard."""
        self._rate = rate_hz
        self._fade = _fade_of(rate_hz)
        self._keep = rate_hz * HISTORY_MS // 1000 * 2
        self._history = b""
        self._noise = noise
        self.floor = _LOUDEST_BACKGROUND
        """The RMS of the background: the quietest pieces of the last seconds."""
        self.loudness = 0
        """The RMS of the last good piece."""
        self._known = _NOTHING
        self._period = 0
        self._cycle = _NOTHING
        self._at = 0
        self._done = 0
        """Samples made since the last good one."""

    @property
    def concealing(self) -> bool:
        """Whether the last that was played is ours."""
        return self._done > 0

    def heard(self, pcm: bytes) -> None:
        """A good piece was played."""
        self._history = (self._history + pcm)[-self._keep :]
        self.loudness = loudness = rms(pcm)
        if loudness < self.floor:
            self.floor = float(loudness)
        else:
            self.floor = min(self.floor * _RISE + 0.01, _LOUDEST_BACKGROUND)

    def passed(self, pcm: bytes) -> None:
        """A piece was played that says nothing of the background: a decoder made it up."""
        self._let_go()
        self._history = (self._history + pcm)[-self._keep :]

    def conceal(self, samples: int) -> bytes:
        """The next so many samples of a hole."""
        if not self._done:
            self._begin()
        made = self._voice(samples) + self._background(samples)
        self._done += samples
        return _pcm(made)

    def silence(self, samples: int) -> bytes:
        """So much of the background, where the sender said nothing."""
        self._let_go()
        self._settle()
        pcm = self._noise.make(samples)
        self._history = (self._history + pcm)[-self._keep :]
        return pcm

    def rejoin(self, pcm: bytes) -> bytes:
        """The first good piece after a hole, faded in over what the hole had become."""
        length = len(pcm) // 2
        holes = self._done * 1000 // self._rate // 10
        # G.711 I.2.7: a quarter of a period, and 4 ms more per 10 ms of hole.
        blend = min(self._period // 4 + holes * 4 * self._rate // 1000, self._rate // 100, length)
        if blend:
            weight = (np.arange(blend) + 0.5) / blend
            tail = self._voice(blend) + self._background(blend)
            good = np.frombuffer(pcm, "<i2")
            pcm = _pcm(tail * (1.0 - weight) + good[:blend] * weight) + pcm[2 * blend :]
        self._let_go()
        return pcm

    def skip(self) -> None:
        """What follows does not join what was played: go on from it for the join's sake."""
        if not self._done:
            self._begin()
            self._done = 1

    # --- the voice -------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._known = np.frombuffer(self._history, "<i2").astype(np.float64)
        self._period = self._pitch()
        self._at = 0
        self._cycle = self._seamless(1)
        self._settle()

    def _let_go(self) -> None:
        """The hole is over: most calls have had one, and 5 KB of it would stay."""
        self._done = 0
        self._known = self._cycle = _NOTHING

    def _settle(self) -> None:
        """Let the noise be as loud as the background was, unless the far end described it."""
        if self._noise.noise is None and self.floor < _LOUDEST_BACKGROUND:
            self._noise.level(level_of(self.floor))

    def _pitch(self) -> int:
        """The lag at which the last 20 ms resemble what was before; 0 when there is too little."""
        rate, known = self._rate, self._known
        shortest, longest = rate * SHORTEST_MS // 1000, rate * LONGEST_MS // 1000
        compared = rate * COMPARED_MS // 1000
        if len(known) < compared + longest:
            return 0
        tail = known[-compared:]
        before = known[-compared - longest : -shortest]
        products = np.correlate(before, tail)
        squares = np.concatenate(([0.0], np.cumsum(before * before)))
        energy = squares[compared:] - squares[:-compared]
        alike = products / np.sqrt(np.maximum(energy, 1.0))
        return longest - int(alike.argmax())

    def _voice(self, samples: int) -> _Samples:
        """The repetition, fading; zeros where there is none."""
        made = np.zeros(samples)
        if not self._period:
            return made
        start, at = self._done, 0
        full = self._rate * FULL_MS // 1000
        samples = min(samples, len(self._fade) - start)
        while at < samples:
            turn = min(samples - at, full - (start + at) % full)
            made[at : at + turn] = self._turn(turn, (start + at) // full)
            at += turn
        if at:
            made[:at] *= self._fade[start : start + at]
        return made

    def _turn(self, samples: int, number: int) -> _Samples:
        """So much of the repetition in the given 10 ms of the hole."""
        periods = min(number + 1, 3, len(self._known) // self._period)
        quarter = min(self._period // 4, samples)
        fade = (np.arange(quarter) + 0.5) / max(quarter, 1)
        if periods * self._period > len(self._cycle):
            # More periods from here on, at the same place within the period.
            old = self._read(quarter)
            self._at = (self._at - quarter) % self._period
            self._cycle = self._seamless(periods)
            made = self._read(samples)
            made[:quarter] = old * (1.0 - fade) + made[:quarter] * fade
        else:
            made = self._read(samples)
            if not self._done and not number and quarter:
                known, period = self._known, self._period
                made[:quarter] += (known[-1] - known[-period - 1]) * (1.0 - fade)
        return made

    def _read(self, samples: int) -> _Samples:
        """The next samples of the cycle."""
        made: _Samples = self._cycle.take(np.arange(self._at, self._at + samples), mode="wrap")
        self._at = (self._at + samples) % len(self._cycle)
        return made

    def _seamless(self, periods: int) -> _Samples:
        """So many periods, whose end is blended into what leads to their beginning."""
        known = self._known
        start = len(known) - periods * self._period
        cycle = known[start:].copy()
        before = known[max(0, start - self._period // 4) : start]
        if len(before):
            weight = (np.arange(len(before)) + 0.5) / len(before)
            cycle[-len(before) :] *= 1.0 - weight
            cycle[-len(before) :] += before * weight
        return cycle

    def _background(self, samples: int) -> _Samples:
        """Noise that grows as the voice fades."""
        sound = np.frombuffer(self._noise.make(samples), "<i2").astype(np.float64)
        fading = self._fade[self._done : self._done + samples]
        sound[: len(fading)] *= 1.0 - fading
        return sound


@functools.cache
def _fade_of(rate_hz: int) -> _Samples:
    """How much of the voice is left at each sample of a hole, until nothing is."""
    place = np.arange(rate_hz * GONE_MS // 1000)
    full = rate_hz * FULL_MS // 1000
    fade: _Samples = np.minimum(1.0, (len(place) - place) / (len(place) - full))
    return fade


def _pcm(sound: _Samples) -> bytes:
    """Rounded and, where it is too loud, cut; `np.clip` says the same in ten times the time."""
    return np.rint(np.minimum(np.maximum(sound, -32768.0), 32767.0)).astype("<i2").tobytes()
