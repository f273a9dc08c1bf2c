"""A period more or less."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.rtp.stretch import lengthen, shorten


def tone(hz: float, samples: int = 160, rate_hz: int = 8000, start: int = 0) -> bytes:
    """A sine at half scale."""
    t = np.arange(start, start + samples) / rate_hz
    return np.rint(16_000 * np.sin(2 * np.pi * hz * t)).astype("<i2").tobytes()


@pytest.mark.parametrize("hz", [80, 140, 200, 310])
def test_a_voice_loses_and_gains_whole_periods(hz) -> None:
    """The splice is where the sound resembles itself: no step is larger than the sound's own."""
    pcm = tone(hz)
    for change, sign in ((shorten, -1), (lengthen, 1)):
        made = change(pcm, 8000, 120, quiet=False)
        apart = sign * (len(made) - len(pcm)) / 2
        periods = apart * hz / 8000
        assert apart >= 20
        assert abs(periods - round(periods)) < 0.15
        steps = np.abs(np.diff(np.frombuffer(made, "<i2").astype(int)))
        assert steps.max() <= 1.3 * 16_000 * 2 * np.pi * hz / 8000


def test_noise_has_no_period_and_quiet_needs_none() -> None:
    """Noise is left alone unless it is quiet: then it is cut by as much as is wanted."""
    pcm = np.random.default_rng(1).integers(-9000, 9000, 160).astype("<i2").tobytes()
    assert shorten(pcm, 8000, 120, quiet=False) is None
    assert lengthen(pcm, 8000, 120, quiet=False) is None
    assert len(shorten(pcm, 8000, 100, quiet=True)) == 120
    assert len(lengthen(pcm, 8000, 100, quiet=True)) == 520


@given(
    st.binary(max_size=700).map(lambda b: b[: len(b) // 2 * 2]), st.integers(0, 300), st.booleans()
)
def test_no_more_is_changed_than_is_wanted(pcm, most, quiet) -> None:
    """And never more than 15 ms; too short a piece has nothing to give."""
    for change, sign in ((shorten, -1), (lengthen, 1)):
        made = change(pcm, 8000, most, quiet=quiet)
        if made is not None:
            assert 20 <= sign * (len(made) - len(pcm)) // 2 <= min(most, 120)
