"""The resampler, measured with real tones, and its laws: length, any split, silence, saturation.

Figures are relative to the Nyquist frequency of the lower rate: up to 0.85 of it a tone passes,
from 1.15 of it on it is gone; in between anything may happen.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.audio.resample import RATES_HZ, Resampler, resample_whole
from flowcatd.errors import LocalError

PAIRS = list(itertools.permutations(RATES_HZ, 2))
PAIR = st.sampled_from(PAIRS)
# Where the input can hold a tone that the output must not.
DOWNWARD = [(high, low) for high, low in PAIRS if 0.98 * high > 1.15 * low]
# Rates of which a 20 ms frame is a whole number of periods, whatever the other one.
FRAMED = list(itertools.permutations((8_000, 16_000, 24_000, 32_000, 48_000), 2))


def tone(rate_hz: int, hz: float, seconds: float = 0.25, amplitude: float = 20_000.0) -> bytes:
    """A sine as s16le."""
    at = np.arange(round(rate_hz * seconds)) / rate_hz
    return np.rint(amplitude * np.sin(2 * np.pi * hz * at)).astype("<i2").tobytes()


def noise(samples: int, seed: int = 3550) -> bytes:
    """Loud noise that is the same every time."""
    source = np.random.default_rng(seed)
    return source.integers(-32_768, 32_768, samples).astype("<i2").tobytes()


def converted(pcm: bytes, from_hz: int, to_hz: int, *, primed: bool = False) -> bytes:
    """All of it, in one push."""
    resampler = Resampler(from_hz, to_hz, primed=primed)
    return resampler.push(pcm) + resampler.flush()


def middle(pcm: bytes, rate_hz: int) -> np.ndarray:
    """The samples without the first and last 10 ms, where a tone is switched on and off."""
    edge = rate_hz // 100
    return np.frombuffer(pcm, "<i2").astype(float)[edge:-edge]


def level_db(samples: np.ndarray, amplitude: float = 20_000.0) -> float:
    """RMS relative to a sine of this amplitude, floored at -120."""
    rms = np.sqrt(np.mean(samples * samples)) / (amplitude / np.sqrt(2))
    return float(20 * np.log10(max(rms, 1e-6)))


def split_off(samples: np.ndarray, rate_hz: int, hz: float) -> tuple[np.ndarray, np.ndarray]:
    """The samples as the best-fitting tone of `hz`, and everything else."""
    at = np.arange(len(samples)) / rate_hz
    basis = np.stack([np.sin(2 * np.pi * hz * at), np.cos(2 * np.pi * hz * at)], axis=1)
    fitted = basis @ np.linalg.lstsq(basis, samples, rcond=None)[0]
    return fitted, samples - fitted


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
def test_speech_passes_and_leaves_no_image(from_hz, to_hz):
    """Up to 0.85 of Nyquist a tone keeps its level within 0.5 dB; all else is 60 dB below it."""
    nyquist = min(from_hz, to_hz) / 2
    for part in (0.05, 0.3, 0.6, 0.85):
        hz = part * nyquist
        out = middle(converted(tone(from_hz, hz), from_hz, to_hz), to_hz)
        fitted, rest = split_off(out, to_hz, hz)
        assert abs(level_db(fitted)) < 0.5
        assert level_db(rest) < -60


@pytest.mark.parametrize(("from_hz", "to_hz"), DOWNWARD)
def test_what_would_fold_is_gone(from_hz, to_hz):
    """From 1.15 of the lower Nyquist on, a tone leaves nothing above -60 dB."""
    for hz in np.linspace(1.15 * to_hz / 2, 0.98 * from_hz / 2, 9):
        out = middle(converted(tone(from_hz, hz), from_hz, to_hz), to_hz)
        assert level_db(out) < -60


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
def test_it_agrees_with_soxr(from_hz, to_hz):
    """The same samples at the same places as an independent resampler's, 50 dB down."""
    pcm = tone(from_hz, 0.1 * min(from_hz, to_hz))
    ours = middle(converted(pcm, from_hz, to_hz), to_hz)
    theirs = middle(resample_whole(pcm, from_hz, to_hz), to_hz)
    assert level_db(ours - theirs) < -50


@given(PAIR, st.integers(0, 3_000), st.data())
def test_any_split_gives_the_same_bytes(pair, samples, data):
    """Whole, or cut anywhere into any number of pieces: bit for bit the same."""
    pcm = noise(samples, seed=samples)
    cuts = sorted(data.draw(st.lists(st.integers(0, samples), max_size=12)))
    resampler = Resampler(*pair)
    pieces = [
        resampler.push(pcm[2 * start : 2 * end])
        for start, end in itertools.pairwise([0, *cuts, samples])
    ]
    assert b"".join(pieces) + resampler.flush() == converted(pcm, *pair)


@pytest.mark.parametrize(
    "pair", [(8_000, 16_000), (48_000, 8_000), (24_000, 32_000), (22_050, 8_000)]
)
def test_one_sample_at_a_time_gives_the_same_bytes(pair):
    """The smallest pieces that there are."""
    pcm = noise(700)
    resampler = Resampler(*pair)
    pieces = [resampler.push(pcm[at : at + 2]) for at in range(0, len(pcm), 2)]
    assert b"".join(pieces) + resampler.flush() == converted(pcm, *pair)


@given(PAIR, st.integers(0, 20_000))
def test_n_samples_make_their_exact_share(pair, samples):
    """After the flush, n samples have made round(n·to/from)."""
    assert len(converted(bytes(2 * samples), *pair)) == 2 * round(samples * pair[1] / pair[0])


@given(PAIR, st.integers(1, 1_000))
def test_silence_stays_silence(pair, samples):
    """No dither, no offset."""
    assert not any(converted(bytes(2 * samples), *pair))


@pytest.mark.parametrize("pair", PAIRS)
def test_a_constant_stays_itself_to_the_bit(pair):
    """Every phase of the filter sums to one, closely enough for the loudest sample."""
    pcm = np.full(pair[0] // 10, -32_000, "<i2").tobytes()
    assert set(middle(converted(pcm, *pair), pair[1])) == {-32_000.0}


@pytest.mark.parametrize("pair", PAIRS)
def test_overshoot_saturates(pair):
    """A full-scale edge rings above full scale: it is clipped there, and never wraps around."""
    step = np.repeat([32_767, -32_768], pair[0] // 10).astype("<i2")
    out = np.frombuffer(converted(step.tobytes(), *pair), "<i2")
    assert (out.max(), out.min()) == (32_767, -32_768)
    half, ringing = len(out) // 2, pair[1] // 500
    assert out[ringing : half - ringing].min() > 30_000
    assert out[half + ringing : -ringing].max() < -30_000


@pytest.mark.parametrize("pair", PAIRS)
def test_little_is_held_back(pair):
    """After whole frames no more than `delay_ms` is missing, and that is less than 2 ms."""
    resampler = Resampler(*pair)
    made = 0
    for _ in range(50):
        made += len(resampler.push(bytes(2 * (pair[0] // 50)))) // 2
    missing = 50 * (pair[0] // 50) * pair[1] / pair[0] - made
    assert 0 < missing * 1000 / pair[1] <= resampler.delay_ms < 2.0


@pytest.mark.parametrize("pair", FRAMED)
def test_a_primed_stream_keeps_step(pair):
    """Every 20 ms in give 20 ms out at once, from the first."""
    resampler = Resampler(*pair, primed=True)
    frame = bytes(2 * (pair[0] // 50))
    assert {len(resampler.push(frame)) for _ in range(10)} == {2 * (pair[1] // 50)}


@given(PAIR, st.integers(1, 2_000))
def test_a_primed_stream_is_the_same_behind_its_silence(pair, samples):
    """Priming puts `delay_ms` of silence in front, once, and changes nothing else."""
    pcm = noise(samples)
    lead = round(Resampler(*pair).delay_ms * pair[1] / 1000)
    resampler = Resampler(*pair, primed=True)
    primed = resampler.push(b"") + resampler.push(pcm[:2]) + resampler.push(pcm[2:])
    assert primed + resampler.flush() == bytes(2 * lead) + converted(pcm, *pair)


@pytest.mark.parametrize("pair", [(16_000, 8_000), (8_000, 44_100)])
def test_what_is_held_is_bounded(pair):
    """After any push, ready or not, the stream holds a filter's length of input and no more."""
    resampler = Resampler(*pair)
    most = 0
    for samples in [1] * 200 + [30_000, 1, 160, 9_999]:
        resampler.push(bytes(2 * samples))
        most = max(most, len(resampler._held))
    assert most <= 2 * 12 * max(pair) // min(pair) + max(pair) // min(pair) + 2


@pytest.mark.parametrize("end", ["flush", "reset"])
def test_a_stream_that_ended_is_as_new(end):
    """Nothing of the old stream is heard in the next one, which is primed again."""
    resampler = Resampler(16_000, 8_000, primed=True)
    resampler.push(noise(999))
    getattr(resampler, end)()
    pcm = noise(500, seed=1)
    assert resampler.push(pcm) + resampler.flush() == converted(pcm, 16_000, 8_000, primed=True)


def test_equal_rates_pass_untouched():
    """The same object comes out, nothing is held, not even half a sample."""
    resampler = Resampler(16_000, 16_000, primed=True)
    pcm = noise(321)
    assert resampler.push(pcm) is pcm
    assert (resampler.flush(), resampler.delay_ms) == (b"", 0.0)
    assert resample_whole(pcm, 8_000, 8_000) is pcm


@pytest.mark.parametrize("pair", [(8_000, 44_101), (0, 8_000)])
def test_a_rate_that_nobody_speaks_is_refused(pair):
    """A filter table of any size could be asked for otherwise."""
    with pytest.raises(LocalError, match=r"44101 Hz|0 Hz"):
        Resampler(*pair)


def test_half_a_sample_is_a_local_error():
    """Streams are cut between samples; a piece that is not leaves the stream as it was."""
    resampler = Resampler(8_000, 16_000)
    with pytest.raises(LocalError, match="3 bytes"):
        resampler.push(b"abc")
    pcm = noise(100)
    assert resampler.push(pcm) + resampler.flush() == converted(pcm, 8_000, 16_000)


@given(st.integers(4_000, 96_000), st.integers(4_000, 96_000), st.integers(0, 500))
def test_a_whole_recording_makes_its_exact_share(from_hz, to_hz, samples):
    """Any two rates, any length: round(n·to/from) samples, and silence stays silence."""
    out = resample_whole(bytes(2 * samples), from_hz, to_hz)
    assert out == bytes(2 * round(samples * to_hz / from_hz))


def test_a_whole_recording_saturates():
    """A full-scale edge does not wrap around."""
    square = np.repeat(np.tile([32_767, -32_768], 10), 100).astype("<i2").tobytes()
    out = np.frombuffer(resample_whole(square, 8_000, 16_000), "<i2")
    assert out[80] > 20_000
    assert (out.max(), out.min()) == (32_767, -32_768)


@pytest.mark.parametrize(("pcm", "to_hz"), [(b"abc", 16_000), (b"ab", 0)])
def test_a_whole_recording_of_nonsense_is_a_local_error(pcm, to_hz):
    """Half a sample, or no rate."""
    with pytest.raises(LocalError, match="cannot bring"):
        resample_whole(pcm, 8_000, to_hz)
