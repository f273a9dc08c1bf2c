"""Sample-rate conversion: a streaming FIR for calls, soxr for whole recordings.

To go from `from_hz` to `to_hz` = from_hz·L/M is, on paper, to raise the rate by L with zeros, to
low-pass, and to keep every M-th sample: output n is the sum of x[k]·h(n·M - k·L), h a
Kaiser-windowed sinc. Only taps that meet an input are multiplied. Among 8, 16, 24, 32 and 48 kHz a
push is one product with a small matrix; against 11.025, 22.05 and 44.1 each output has its own row.

The filter reaches 12 samples of the lower rate to each side (1.5 ms at 8 kHz), is flat within
0.5 dB to 0.85 of the lower Nyquist frequency (3.4 kHz of 4) and 60 dB down from 1.15 of it: what
folds lands above 0.85, outside telephone speech. soxr would hold back 20 to 157 ms of a stream.

Taps are multiples of 2^-20 and sums stay below 2^53, so float64 adds them exactly in any order:
any way of cutting the input gives the same bytes, whatever the BLAS.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr

from flowcatd.errors import LocalError

RATES_HZ = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""The rates that carriers, codecs and providers speak."""

_REACH = 12  # samples of the lower rate to each side; 10 misses the figures above, 14 costs 0.25 ms
_BETA = 6.4  # of the Kaiser window: 60 dB with room for the coefficients' rounding
_CUTOFF = 0.96  # of the lower Nyquist frequency, where the filter is 6 dB down
_QUANTUM = 2.0**-20
_PERIODS = 8  # of L outputs per matrix row: measured fastest at 20 ms for each small ratio
_SMALL = 6  # the largest L or M that takes the matrix: 8 against 48 kHz
_PASS = 4_096  # samples taken at once: a minute of audio must not need a gigabyte of windows

_S16 = np.dtype("<i2")
_TOP, _BOTTOM = np.float64(32_767), np.float64(-32_768)

_Floats = npt.NDArray[np.float64]


class Resampler:
    """One stream of s16le mono from one rate to another, in pieces of any whole number of samples.

    The first sample out stands where the first sample in stood. That costs `delay_ms`: the end of
    what was pushed comes out with the next push. With `primed`, that much silence goes ahead of the
    first sample, and every push returns its full share at once (20 ms in, 20 ms out): what a live
    direction wants, because a frame short of 1.5 ms would wait 20 ms for the next one.
    """

    __slots__ = ("_given", "_held", "_phase", "_plan", "_primed", "_taken")

    def __init__(self, from_hz: int, to_hz: int, *, primed: bool = False) -> None:
        for rate_hz in (from_hz, to_hz):
            if rate_hz not in RATES_HZ:
                raise LocalError(f"{rate_hz} Hz is none of the rates of a stream: {RATES_HZ}")
        self._plan = _plan(from_hz, to_hz) if from_hz != to_hz else None
        self._primed = primed
        self.reset()

    @property
    def delay_ms(self) -> float:
        """How much audio is held back, at most, after a push of whole frames."""
        return self._plan.lead * 1000 / self._plan.to_hz if self._plan else 0.0

    def push(self, pcm: bytes) -> bytes:
        """What `pcm` makes ready, which may be nothing; LocalError for half a sample."""
        if self._plan is None or not pcm:
            return pcm
        try:
            samples = np.frombuffer(pcm, _S16)
        except ValueError as error:
            raise LocalError(f"{len(pcm)} bytes are no whole number of 16-bit samples") from error
        lead = b""
        if self._primed and not self._taken:
            lead = bytes(2 * self._plan.lead)
        if len(samples) <= _PASS:
            return lead + self._run(self._plan, samples)
        passes = range(0, len(samples), _PASS)
        return lead + b"".join(self._run(self._plan, samples[i : i + _PASS]) for i in passes)

    def flush(self) -> bytes:
        """The rest, so that n samples in made round(n·L/M) out; afterwards it is as new."""
        if self._plan is None:
            return b""
        plan, given = self._plan, self._given
        missing = round(self._taken * plan.up / plan.down) - given
        silence = np.zeros(plan.taps + plan.down + plan.up, _S16)
        rest = self._run(plan, silence)[: 2 * missing]
        self.reset()
        return rest

    def reset(self) -> None:
        """Forget the stream: what is pushed next is the first of a new one."""
        self._taken = 0
        self._given = 0
        self._phase = 0
        self._held = np.zeros(self._plan.before) if self._plan else np.zeros(0)

    def _run(self, plan: _Plan, samples: npt.NDArray[np.int16]) -> bytes:
        self._taken += len(samples)
        length = len(self._held) + len(samples)
        count = plan.ready(self._phase, length)
        if count <= 0:
            self._held = np.concatenate((self._held, samples))
            return b""
        # One row may look past the end; what it then computes is cut off by `count`.
        inputs = np.zeros(max(length, plan.wants(count)))
        inputs[: len(self._held)] = self._held
        inputs[len(self._held) : length] = samples
        out = plan.apply(inputs, self._phase, count)
        self._held = inputs[plan.offset(self._phase, count) : length].copy()
        self._phase = (self._phase + count) % plan.up
        self._given += count
        np.rint(out, out=out)
        np.minimum(out, _TOP, out=out)
        np.maximum(out, _BOTTOM, out=out)
        return out.astype(_S16).tobytes()


def resample_whole(pcm: bytes, from_hz: int, to_hz: int) -> bytes:
    """A whole recording or prompt at another rate, s16le mono: round(n·to/from) samples, by soxr.

    Any rate will do. It is sharper than a stream's filter and takes its time: not for the 20 ms path.
    """
    if from_hz == to_hz:
        return pcm
    if len(pcm) % 2 or min(from_hz, to_hz) < 1:
        raise LocalError(f"cannot bring {len(pcm)} bytes of PCM from {from_hz} to {to_hz} Hz")
    # Through float32, because soxr dithers when it writes 16 bits: silence would not stay silence.
    samples = np.frombuffer(pcm, _S16).astype(np.float32)
    wanted = round(len(samples) * to_hz / from_hz)
    out = np.zeros(wanted)
    if len(samples):
        made = soxr.resample(samples, from_hz, to_hz, quality="HQ")[:wanted]
        out[: len(made)] = made
    return np.clip(np.rint(out), _BOTTOM, _TOP).astype(_S16).tobytes()


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything about one pair of rates that does not change: shared by all streams of the pair."""

    to_hz: int
    up: int
    """L."""
    down: int
    """M."""
    half: int
    """How far h reaches from its centre, in samples of the raised rate."""
    taps: int
    """How many inputs one output needs."""
    bank: _Floats
    """Row n: the taps of outputs n, n+L, n+2L, … in the order of the inputs they meet."""
    block: _Floats | None
    """Window of inputs → `_PERIODS`·L outputs, for a small ratio."""

    @property
    def before(self) -> int:
        """How many inputs of silence stand before the first."""
        return -self._first(0)

    @property
    def lead(self) -> int:
        """The most outputs that lag behind their share once whole frames were pushed."""
        lag = -(-(self.taps * self.up - self.half) // self.down)
        return -(-lag // self.up) * self.up if self.block is not None else lag

    def _first(self, output: int) -> int:
        return (output * self.down - self.half) // self.up + 1

    def offset(self, phase: int, count: int) -> int:
        """How many inputs fewer are needed `count` outputs after an output of this phase."""
        return self._first(phase + count) - self._first(phase)

    def ready(self, phase: int, length: int) -> int:
        """How many outputs `length` inputs allow; whole periods of L for a small ratio."""
        last = self._first(phase) + length - self.taps
        count = -(-(last * self.up + self.half) // self.down) - phase
        return count - count % self.up if self.block is not None else count

    def wants(self, count: int) -> int:
        """How many inputs the rows that hold `count` outputs look at."""
        if self.block is None:
            return 0
        rows = -(-count // (_PERIODS * self.up))
        return (rows - 1) * _PERIODS * self.down + len(self.block)

    def apply(self, inputs: _Floats, phase: int, count: int) -> _Floats:
        """The next `count` outputs, unrounded; `inputs` begins with the first one needed."""
        if self.block is None:
            outputs = np.arange(phase, phase + count)
            starts = (outputs * self.down - self.half) // self.up + 1 - self._first(phase)
            windows = _windows(inputs, len(inputs) - self.taps + 1, self.taps, 1)
            made: _Floats = np.einsum("ij,ij->i", windows[starts], self.bank[outputs % self.up])
            return made
        rows = -(-count // (_PERIODS * self.up))
        windows = _windows(inputs, rows, len(self.block), _PERIODS * self.down)
        # dot, not @: a fifth faster here, because it copies the overlapping windows and calls BLAS.
        product: _Floats = windows.dot(self.block)
        return product.ravel()[:count]


def _windows(inputs: _Floats, rows: int, width: int, step: int) -> _Floats:
    """Overlapping windows without a copy; `np.lib.stride_tricks` says the same in 4 µs, not 0.4."""
    return np.ndarray((rows, width), np.float64, inputs, 0, (8 * step, 8))


@functools.lru_cache(maxsize=len(RATES_HZ) ** 2)
def _plan(from_hz: int, to_hz: int) -> _Plan:
    common = math.gcd(from_hz, to_hz)
    up, down = to_hz // common, from_hz // common
    half = _REACH * max(up, down)
    outputs = np.arange(up)[:, np.newaxis]
    first = (outputs * down - half) // up + 1
    taps = -(-2 * half // up)
    inputs = first + np.arange(taps)
    bank = _prototype(outputs * down - inputs * up, half)
    # Each row sums to 1, but for the taps' rounding: a constant stays itself in every phase.
    bank = np.round(bank / bank.sum(axis=1, keepdims=True) / _QUANTUM) * _QUANTUM
    block = _block(bank, up, down, half) if max(up, down) <= _SMALL else None
    return _Plan(to_hz, up, down, half, taps, bank, block)


def _prototype(distance: npt.NDArray[np.int64], half: int) -> _Floats:
    """The filter h at these distances from its centre, unscaled; zero from `half` on."""
    inside = np.abs(distance) < half
    part = np.where(inside, distance / half, 0.0)
    window = np.i0(_BETA * np.sqrt(1.0 - part * part))
    return np.where(inside, np.sinc(part * _REACH * _CUTOFF) * window, 0.0)


def _block(bank: _Floats, up: int, down: int, half: int) -> _Floats:
    """The rows of the bank, repeated for some periods, as columns at the height of their inputs."""
    outputs = np.arange(_PERIODS * up)
    offsets = (outputs * down - half) // up - (-half // up)
    taps = bank.shape[1]
    block = np.zeros((int(offsets[-1]) + taps, len(outputs)))
    for output, offset in zip(outputs, offsets, strict=True):
        block[offset : offset + taps, output] = bank[output % up]
    return block
