"""What a recogniser is given to hear: a caller's audio narrowed, raised and hushed; and what is a voice.

The model was made from close microphones at 16 kHz. A telephone's audio has nothing above 4 kHz but
what a resampler left there, may be 20 dB quieter, and may carry noise in its pauses; each of these
moves the cepstral means that recognition rests on. Pure arithmetic on s16le mono at RATE_HZ.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RATE_HZ = 16_000
"""The bundled model knows no other."""
Samples = npt.NDArray[np.float64]

_TAPS = 129  # 60 dB down from 4.4 kHz, 4 ms late
_LEVEL = 1_250.0  # quieter loud frames are raised to this. 20 dB down, 53 of 80 phrases are then
# understood, and 73 at their usual level; 1,500 gives 57 and 72
_MOST_GAIN = 30.0
_FRAME = RATE_HZ // 50  # 20 ms
_LOUD_FRAMES = 6  # the loudest, of which the level is the mean: no click of 20 ms makes a level
_CLEAN = 1e-3  # a noise floor 30 dB under the speech needs no gate
_HUSHED = 1e-5  # of the loud frames' energy: what a gate leaves of pauses
_HANG = 2  # frames on either side of what is loud: soft consonants
_HELD = RATE_HZ * 600 // 1000  # heard before the gain is chosen: the pre-roll and a first syllable

_VOICED_FRAMES = 3  # of 20 ms: the shortest vowel of "six" is longer
_VOICED = 0.45  # autocorrelation at the pitch: noise stays below 0.3, vowels are above 0.6
_QUIET = 0.05  # of the loudest frame's energy: quieter frames are not judged


def is_voiced(pcm: bytes) -> bool:
    """Whether any of it can have been a vowel: a pitch between 62 and 400 Hz, for 60 ms in all."""
    samples: npt.NDArray[np.float64] = np.frombuffer(pcm, "<i2").astype(np.float64)
    samples = samples[: len(samples) // 2 * 2].reshape(-1, 2).mean(axis=1)  # 8 kHz is enough
    count = (len(samples) - 320) // 160 + 1
    if count < _VOICED_FRAMES:
        return False
    frames = np.lib.stride_tricks.sliding_window_view(samples, 320)[::160]
    frames = frames - frames.mean(axis=1, keepdims=True)
    spectra = np.fft.rfft(frames, 1024, axis=1)
    correlation = np.fft.irfft(np.abs(spectra) ** 2, axis=1)
    energy = correlation[:, 0]
    loud = energy > max(_QUIET * float(energy.max()), 1.0)
    share = np.arange(320, 192, -1) / 320  # the overlap shrinks with the lag
    peak = (correlation[:, 20:128] / share[20:128]).max(axis=1) / np.maximum(energy, 1.0)
    return int(np.count_nonzero(loud & (peak > _VOICED))) >= _VOICED_FRAMES


def _low_pass() -> npt.NDArray[np.float64]:
    places = np.arange(_TAPS) - _TAPS // 2
    taps = np.sinc(places * (4_000 / (RATE_HZ / 2))) * np.kaiser(_TAPS, 8)
    return np.asarray(taps / taps.sum())


class Narrow:
    """One utterance's audio, cut to the telephone's band; raised when it is quiet.

    Callers then sound alike whatever brought them here, and what a short resampler leaves above
    4 kHz does not upset the spectrum. Level and noise floor are taken once, from the first 600 ms,
    and hold for the utterance: until then nothing comes out. On a noisy line the pauses are turned
    down, which garbage would otherwise explain better than silence does.
    """

    __slots__ = ("_before", "_gain", "_gate", "_held")

    _FILTER = _low_pass()

    def __init__(self) -> None:
        self._before = np.zeros(_TAPS - 1)
        self._held = bytearray()
        self._gain = 0.0
        self._gate: Gate | None = None

    def push(self, pcm: bytes) -> bytes:
        """What is ready: nothing for 600 ms, then all but the filter's 4 ms and the gate's 60."""
        if self._gain:
            return self._pass(_samples(pcm))
        self._held += pcm
        return self._open() if len(self._held) >= 2 * _HELD else b""

    def flush(self) -> bytes:
        """Give what is held back, now that the utterance is over."""
        opened = b"" if self._gain else self._open()
        return opened + (self._filtered(self._gate.flush()) if self._gate is not None else b"")

    def _open(self) -> bytes:
        held = _samples(bytes(self._held))
        self._held.clear()
        self._gain, quiet = levels(held[:_HELD])
        if quiet is not None:
            self._gate = Gate(*quiet)
        return self._pass(held)

    def _pass(self, samples: Samples) -> bytes:
        return self._filtered(samples if self._gate is None else self._gate.push(samples))

    def _filtered(self, samples: Samples) -> bytes:
        if not len(samples):
            return b""
        samples = np.concatenate([self._before, samples])
        self._before = samples[-(_TAPS - 1) :]
        kept = self._gain * np.convolve(samples, self._FILTER, "valid")
        return np.clip(kept, -32_768, 32_767).astype("<i2").tobytes()


def _samples(pcm: bytes) -> Samples:
    return np.frombuffer(pcm, "<i2").astype(np.float64)


def levels(samples: Samples) -> tuple[float, tuple[float, float] | None]:
    """Give the gain that raises these if they are quiet, and a gate's arguments if they are noisy."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    if not len(frames):
        return 1.0, None
    energy = np.sort(frames.var(axis=1))
    loud = max(float(energy[-_LOUD_FRAMES:].mean()), 1.0)
    floor = max(float(energy[len(energy) // 5]), 1e-3)
    gain = min(_MOST_GAIN, max(1.0, _LEVEL / loud**0.5))
    if floor < loud * _CLEAN:
        return gain, None
    return gain, (min(8 * floor, loud / 16), min(1.0, (loud * _HUSHED / floor) ** 0.5))


class Gate:
    """Turns down what is neither louder than `threshold` nor within 40 ms of it; 60 ms late."""

    __slots__ = ("_before", "_gain", "_hushed", "_rest", "_threshold")

    def __init__(self, threshold: float, hushed: float) -> None:
        """`threshold` is a frame's mean square, `hushed` what pauses are multiplied by."""
        self._threshold = threshold
        self._hushed = hushed
        self._rest: Samples = np.zeros(0)
        self._before = [False] * _HANG
        self._gain = hushed

    def push(self, samples: Samples) -> Samples:
        """Take samples, give those of whole frames whose successors are known."""
        self._rest = np.concatenate([self._rest, samples])
        return self._give(len(self._rest) // _FRAME - _HANG)

    def flush(self) -> Samples:
        """Give the rest, as if silence followed."""
        length = len(self._rest)
        count = -(-length // _FRAME)
        self._rest = np.concatenate([self._rest, np.zeros((count + _HANG) * _FRAME - length)])
        return self._give(count)[:length]

    def _give(self, count: int) -> Samples:
        if count <= 0:
            return np.zeros(0)
        frames = self._rest[: (count + _HANG) * _FRAME].reshape(-1, _FRAME)
        loud = [*self._before, *(bool(each) for each in frames.var(axis=1) > self._threshold)]
        gains = [1.0 if any(loud[at : at + 2 * _HANG + 1]) else self._hushed for at in range(count)]
        ramps = [
            np.linspace(start, end, _FRAME)
            for start, end in zip([self._gain, *gains], gains, strict=False)
        ]
        self._gain = gains[-1]
        self._before = loud[count : count + _HANG]
        self._rest = self._rest[count * _FRAME :]
        given: Samples = frames[:count].reshape(-1) * np.concatenate(ramps)
        return given
