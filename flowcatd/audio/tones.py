"""In-band DTMF both ways: keys as pairs of tones (ITU-T Q.23), and found again in speech (Q.24).

*Finding.* Every 5 ms the last 20 ms, under a Hann window, are correlated with the eight frequencies
(Goertzel's bins, all at once as one matrix product). A step is *good* when the strongest row and column
hold nearly all energy of the window, neither is too weak nor too much weaker than the other, and each
tone's phase has advanced since the step before by what its frequency asks for. The window alone could
not tell 1.5 % off from 3.5 % off; the phase tells it to a hertz, and voices, whose pitch glides, fail it.

`_STEPS_ON` good steps of one key in a row are a key: a tone of 40 ms makes so many wherever it lies, one
of 23 ms never. `_STEPS_OFF` steps without the key end it: a break of 10 ms is bridged, a pause of 40 ms
parts two equal keys. Levels are dBm0: a full-scale sine is +3.14 (G.711 A-law).

Figures asked: frequency ±1.5 % taken, ±3.5 % refused; high tone 4 dB above to 8 dB below the low one; 25 dB
of level; 15 dB above noise. Sources: ITU-T Q.23, Q.24 table 1 (AT&T column), ETSI ES 201 235-3.
"""

from __future__ import annotations

import cmath
import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from flowcatd.audio.g711 import audioop
from flowcatd.errors import LocalError

ROWS_HZ: Final = (697, 770, 852, 941)
COLUMNS_HZ: Final = (1209, 1336, 1477, 1633)
KEYS: Final = "123A456B789C*0#D"
"""Row by row."""
RATES_HZ: Final = (8_000, 16_000)
MOST_KEYS: Final = 64
"""Keys in one `press`: what a person could be meant to dial."""

_FULL_SCALE_DBM0: Final = 3.14
_LOW_DBM0, _HIGH_DBM0 = -8.0, -6.0
"""What we send. ES 201 235-2: the high tone 2 dB above the low one, because lines lose high ones."""
_RAMP_SECONDS: Final = 0.0015
"""How a tone of ours begins and ends, so that it does not click; a receiver loses nothing by it."""

_FRAME_MS, _STEP_MS = 20, 5
_STEPS: Final = _FRAME_MS // _STEP_MS
_STEPS_ON: Final = 5
_STEPS_OFF: Final = 6
_LEAST_DBM0: Final = -37.0
"""The weaker tone: 25 dB of level and 8 dB of twist below -4 dBm0, the loudest two tones unclipped."""
_LEAST_RMS: Final = 60
"""A frame below it is not looked at: 13 dB under what the weakest pair makes."""
_PURITY: Final = 0.82
"""Of the energy must be in the two tones; noise 15 dB below them leaves 0.97, G.711 takes little."""
_HELD_PURITY: Final = 0.55
"""Of a key that is held: enough to know it again, under a voice or a short break."""
_TWIST_TOP_DB, _TWIST_LEAST_DB = 5.5, -9.5
_OFF_FREQUENCY: Final = 0.024
"""How far off a tone may be, between the 1.5 % to be taken and the 3.5 % to be refused."""

_F32 = np.float32
_Floats = npt.NDArray[np.float32]
_S16 = np.dtype("<i2")


def press(keys: str, rate_hz: int, *, on_ms: int = 100, off_ms: int = 100) -> bytes:
    """The tones of these keys, each followed by a pause, as s16le mono; LocalError for what is no key."""
    wrong = len(keys) > MOST_KEYS or set(keys) - set(KEYS)
    if wrong or rate_hz < 8_000 or not (0 < on_ms <= 5_000 and 0 <= off_ms <= 5_000):
        raise LocalError("keys to press are up to 64 of 0-9, *, #, A-D, each up to 5 s")
    silence = bytes(2 * (rate_hz * off_ms // 1000))
    return b"".join(_tone(key, rate_hz, rate_hz * on_ms // 1000) + silence for key in keys)


def amplitude(dbm0: float) -> float:
    """The peak of a sine of this level, in 16-bit samples."""
    return 32_767.0 * math.pow(10.0, (dbm0 - _FULL_SCALE_DBM0) / 20.0)


@functools.lru_cache(maxsize=128)
def _tone(key: str, rate_hz: int, length: int) -> bytes:
    """One key's pair; the cache holds what the daemon's few lengths and rates make."""
    number = KEYS.index(key)
    at = 2 * np.pi * np.arange(length) / rate_hz
    pair = amplitude(_LOW_DBM0) * np.sin(at * ROWS_HZ[number // 4])
    pair += amplitude(_HIGH_DBM0) * np.sin(at * COLUMNS_HZ[number % 4])
    ramp = max(1, min(length // 2, round(rate_hz * _RAMP_SECONDS)))
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(ramp) + 0.5) / ramp)
    pair[:ramp] *= rise
    pair[length - ramp :] *= rise[::-1]
    return np.rint(pair).astype(_S16).tobytes()


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all detectors of one rate share."""

    frame: int
    """Samples of 20 ms, which is also the window."""
    step: int
    bank: _Floats
    """Windows by frequencies, cosines then sines: |sum|² is the tone's energy under the window."""
    weights: _Floats
    """The square of the window, which gives all energy under it."""
    advances: tuple[complex, ...]
    """e^(-jω·step) of each frequency: takes out the advance of a tone that is exact."""
    least_energy: float


@functools.cache
def _plan(rate_hz: int) -> _Plan:
    frame, step = rate_hz * _FRAME_MS // 1000, rate_hz * _STEP_MS // 1000
    at = np.arange(frame)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (at + 0.5) / frame)
    omega = 2 * np.pi * np.array(ROWS_HZ + COLUMNS_HZ) / rate_hz
    # A sine of amplitude a sums to a·frame/4 and has a²·3·frame/16 of energy under the window.
    waves = window[:, None] * np.exp(-1j * at[:, None] * omega) * math.sqrt(3 / frame)
    bank = np.concatenate((waves.real, waves.imag), axis=1)
    return _Plan(
        frame=frame,
        step=step,
        bank=np.ascontiguousarray(bank, _F32),
        weights=np.asarray(window * window, _F32),
        advances=tuple(cmath.exp(-1j * float(each) * step) for each in omega),
        least_energy=amplitude(_LEAST_DBM0) ** 2 * 3 * frame / 16,
    )


class KeyFinder:
    """The keys pressed in one stream of s16le mono, in pieces of any whole number of samples."""

    __slots__ = (
        "_before",
        "_buffer",
        "_good",
        "_key",
        "_missing",
        "_plan",
        "_rest",
        "_stale",
        "_windows",
        "held",
    )

    def __init__(self, rate_hz: int) -> None:
        """LocalError for a rate that is not among RATES_HZ: resample first."""
        if rate_hz not in RATES_HZ:
            raise LocalError(f"keys are found at {RATES_HZ} Hz, not at {rate_hz}")
        self._plan = _plan(rate_hz)
        overlap = self._plan.frame - self._plan.step
        self._buffer: _Floats = np.zeros(self._plan.frame + overlap, _F32)
        self._windows = _windows(self._buffer, self._plan)
        self.held = ""
        """The key that is down, empty for none."""
        self._rest = b""
        self._key = -1
        self._good = 0
        self._missing = 0
        self._stale = True
        self._before: list[float] = []

    def push(self, pcm: bytes) -> str:
        """The keys that this audio makes certain, in order, mostly none; LocalError for half a sample."""
        if len(pcm) % 2:
            raise LocalError(f"{len(pcm)} bytes are no whole number of 16-bit samples")
        size = 2 * self._plan.frame
        if not self._rest and len(pcm) == size:
            return self._frame(pcm)
        whole = self._rest + pcm
        edge = len(whole) - len(whole) % size
        self._rest = whole[edge:]
        return "".join(self._frame(whole[at : at + size]) for at in range(0, edge, size))

    def _frame(self, pcm: bytes) -> str:
        if audioop.rms(pcm, 2) < _LEAST_RMS:
            return self._silence()
        plan, buffer = self._plan, self._buffer
        overlap = plan.frame - plan.step
        buffer[:overlap] = buffer[plan.frame :]
        buffer[overlap:] = np.frombuffer(pcm, _S16)
        self._stale = False
        windows = self._windows.copy()
        sums = (windows @ plan.bank).tolist()
        np.multiply(windows, windows, out=windows)
        energies = (windows @ plan.weights).tolist()
        return "".join(map(self._step, sums, energies))

    def _silence(self) -> str:
        """Four steps of nothing, without a look at it."""
        if not self._stale:
            self._buffer.fill(0.0)
            self._stale = True
        self._good = 0
        self._before = []
        self._miss(_STEPS)
        return ""

    def _step(self, sums: list[float], energy: float) -> str:
        """One step: what it adds to a key that is coming, or to the end of the one that is held."""
        before, self._before = self._before, sums
        powers = [sums[i] * sums[i] + sums[i + 8] * sums[i + 8] for i in range(8)]
        if self.held:
            row, column = divmod(KEYS.index(self.held), 4)
            both = powers[row] + powers[4 + column]
            if both < max(_HELD_PURITY * energy, self._plan.least_energy / 4):
                self._miss(1)
            else:
                self._missing = 0
        low, high = max(powers[:4]), max(powers[4:])
        # The window loses up to 1.6 dB of a tone 1.5 % off; `_is_good` gives it back and asks again.
        if low + high < _PURITY * 0.7 * energy or min(low, high) < self._plan.least_energy * 0.6:
            self._good = 0
            return ""
        row, column = powers.index(low), powers.index(high)
        key = row * 4 + column - 4
        if not before or not self._is_good(before, sums, (row, column), energy):
            self._good = 0
            return ""
        self._good = self._good + 1 if key == self._key else 1
        self._key = key
        return self._press(KEYS[key]) if self._good >= _STEPS_ON else ""

    def _is_good(
        self, before: list[float], sums: list[float], pair: tuple[int, int], energy: float
    ) -> bool:
        """Frequencies by phase, then purity and twist with what the window lost given back."""
        levels = []
        for number in pair:
            now = complex(sums[number], sums[number + 8])
            then = complex(before[number], before[number + 8])
            turn = cmath.phase(now * then.conjugate() * self._plan.advances[number])
            off_hz = turn / (2 * math.pi * _STEP_MS / 1000)
            if abs(off_hz) > _OFF_FREQUENCY * _HZ[number]:
                return False
            levels.append((now.real * now.real + now.imag * now.imag) / _kept(off_hz))
        low, high = levels
        if low + high < _PURITY * energy or min(levels) < self._plan.least_energy:
            return False
        return _TWIST_LEAST < high / low < _TWIST_TOP

    def _press(self, key: str) -> str:
        self._missing = 0
        if key == self.held:
            return ""
        self.held = key
        return key

    def _miss(self, steps: int) -> None:
        self._missing += steps
        if self._missing >= _STEPS_OFF:
            self.held = ""
            self._missing = 0


def _windows(buffer: _Floats, plan: _Plan) -> _Floats:
    """The four windows that end in the new frame, as a view."""
    size = buffer.itemsize
    return np.lib.stride_tricks.as_strided(
        buffer, (_STEPS, plan.frame), (plan.step * size, size), writeable=False
    )


def _kept(off_hz: float) -> float:
    """How much of a tone's energy a Hann window of 20 ms keeps at this distance from its bin."""
    bins = off_hz * _FRAME_MS / 1000
    if abs(bins) < 1e-6:
        return 1.0
    amplitude_kept = math.sin(math.pi * bins) / (math.pi * bins * (1 - bins * bins))
    return amplitude_kept * amplitude_kept


_HZ: Final = ROWS_HZ + COLUMNS_HZ
_TWIST_TOP: Final = math.pow(10.0, _TWIST_TOP_DB / 10.0)
_TWIST_LEAST: Final = math.pow(10.0, _TWIST_LEAST_DB / 10.0)
