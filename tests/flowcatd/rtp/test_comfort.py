"""Comfort noise: RFC 3389."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.audio.level import dbfs, rms
from flowcatd.rtp.comfort import (
    MAX_ORDER,
    Noise,
    NoiseGenerator,
    build_noise,
    level_of,
    parse_noise,
)
from flowcatd.rtp.trouble import RtpError


@given(st.integers(0, 127), st.lists(st.integers(0, 254), max_size=MAX_ORDER).map(tuple))
def test_a_description_comes_back_as_it_went(level, reflection) -> None:
    """Level and coefficients."""
    noise = Noise(level, reflection)
    assert parse_noise(build_noise(noise)) == noise


@pytest.mark.parametrize("payload", [b"", b"\x80"])
def test_without_a_level_it_is_none(payload) -> None:
    """§3.1: one octet at least, its first bit zero."""
    with pytest.raises(RtpError):
        parse_noise(payload)


def test_higher_orders_are_left_out() -> None:
    """§3.2 allows it; the reserved 255 is taken for its neighbour."""
    assert parse_noise(b"\x20" + b"\xff" * 50) == Noise(32, (254,) * MAX_ORDER)


@pytest.mark.parametrize("level", [20, 45, 60])
@pytest.mark.parametrize("reflection", [(), (60, 200), (20,) * 4])
def test_noise_is_as_loud_as_described(level, reflection) -> None:
    """Over a second, whatever its colour."""
    generator = NoiseGenerator(5)
    generator.describe(Noise(level, reflection))
    pcm = b"".join(generator.make(160) for _ in range(50))
    assert dbfs(pcm) == pytest.approx(-level, abs=1.5)
    assert level_of(rms(pcm)) == pytest.approx(level, abs=2)


def test_a_first_coefficient_colours_the_noise() -> None:
    """Of one sign it lies low, of the other high."""
    spread = {}
    for number in (20, 234):
        generator = NoiseGenerator()
        generator.describe(Noise(30, (number,)))
        sound = np.frombuffer(b"".join(generator.make(160) for _ in range(50)), "<i2").astype(float)
        power = np.abs(np.fft.rfft(sound)) ** 2
        half = len(power) // 2
        spread[number] = power[:half].sum() / power[half:].sum()
    assert spread[20] > 10
    assert spread[234] < 0.1


def test_fainter_than_a_step_is_silence() -> None:
    """And so is what was never described."""
    generator = NoiseGenerator()
    assert generator.make(80) == bytes(160)
    generator.describe(Noise(100))
    assert generator.make(80) == bytes(160)


def test_levels_of_nothing_and_of_everything() -> None:
    """The scale's ends."""
    assert [level_of(0), level_of(32_768)] == [127, 0]
