"""Levels against arithmetic done the long way."""

from __future__ import annotations

import array
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.audio import level
from flowcatd.errors import LocalError

SAMPLES = st.lists(st.integers(-32_768, 32_767), min_size=1, max_size=400)


@given(SAMPLES)
def test_rms_is_the_root_of_the_mean_square_rounded_down(samples):
    """Exact integer arithmetic gives the same number."""
    expected = math.isqrt(sum(x * x for x in samples) // len(samples))
    assert level.rms(array.array("h", samples).tobytes()) == expected


@given(SAMPLES)
def test_peak_is_the_largest_magnitude(samples):
    """-32768 counts as 32768, not as 32767 and not as negative."""
    assert level.peak(array.array("h", samples).tobytes()) == max(map(abs, samples))


@given(SAMPLES)
def test_dbfs_lies_between_the_floor_and_zero(samples):
    """Any piece has a finite level, and a louder RMS never a lower one."""
    pcm = array.array("h", samples).tobytes()
    value = level.dbfs(pcm)
    assert level.FLOOR_DBFS <= value <= 0.0
    assert (value == level.FLOOR_DBFS) == (level.rms(pcm) == 0)


def test_a_full_scale_sine_is_three_db_below_a_full_scale_square():
    """The reference is the square wave: 0 dBFS, and -3.01 for the sine."""
    sine = array.array("h", [round(32_767 * math.sin(math.tau * n / 80)) for n in range(800)])
    square = array.array("h", [-32_768] * 800)
    assert level.dbfs(square.tobytes()) == 0.0
    assert level.dbfs(sine.tobytes()) == pytest.approx(-3.01, abs=0.01)


def test_silence_and_nothing_are_the_floor():
    """Neither divides by zero nor becomes minus infinity."""
    for pcm in (b"", bytes(320)):
        assert (level.rms(pcm), level.peak(pcm), level.dbfs(pcm)) == (0, 0, level.FLOOR_DBFS)


@pytest.mark.parametrize("measure", [level.rms, level.peak, level.dbfs])
def test_half_a_sample_is_a_local_error(measure):
    """One byte is no 16-bit sample."""
    with pytest.raises(LocalError, match="1 bytes"):
        measure(b"a")


def test_gain_scales_and_stops_at_full_scale():
    """6.02 dB doubles a sample, none keeps the object, and what would wrap is cut."""
    pcm = array.array("h", [100, -100, 30_000, -30_000]).tobytes()
    doubled = array.array("h", level.gain(pcm, 20 * math.log10(2)))
    assert doubled.tolist()[:2] == [pytest.approx(200, abs=1), pytest.approx(-200, abs=1)]
    assert doubled.tolist()[2:] == [32_767, -32_768]
    assert level.gain(pcm, 0.0) is pcm
    with pytest.raises(LocalError):
        level.gain(b"odd", -6)
