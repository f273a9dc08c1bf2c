"""The E-model, cut down: ITU-T G.107."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.rtp.mos import burst_ratio, delay_impairment, opinion, rate


def test_a_perfect_call_is_as_good_as_narrow_band_gets() -> None:
    """R of 93.2 is a score of 4.41 (G.107 annex B)."""
    best = rate("PCMU", 0.0, 50.0)
    assert best.r == pytest.approx(93.2)
    assert best.mos == pytest.approx(4.41, abs=0.005)


@pytest.mark.parametrize(
    ("codec", "loss", "r"),
    [("PCMU", 0.01, 89.56), ("PCMA", 0.05, 77.42), ("G729", 0.0, 82.2), ("opus", 0.25, 45.79)],
)
def test_loss_costs_what_equation_7_29_says(codec, loss, r) -> None:
    """With chance losses and no delay that counts."""
    assert rate(codec, loss, 0.0).r == pytest.approx(r, abs=0.01)


@given(st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 2000), st.floats(0, 500), st.floats(1, 9))
def test_what_is_worse_is_never_rated_better(loss, more, delay, longer, bursts) -> None:
    """Loss, delay and bursts all only cost; the score stays on its scale."""
    here = rate("PCMU", loss, delay, bursts)
    assert 1.0 <= here.mos <= 4.5
    assert rate("PCMU", loss + more, delay, bursts).r <= here.r + 1e-9
    assert rate("PCMU", loss, delay + longer, bursts).r <= here.r + 1e-9
    assert rate("PCMU", loss, delay, bursts + 1).r <= here.r + 1e-9


def test_delay_counts_from_a_tenth_of_a_second() -> None:
    """Equation 7-27: nothing up to 100 ms, little at 150, much at 400."""
    assert [delay_impairment(ms) for ms in (0.0, 100.0)] == [0.0, 0.0]
    assert 0.0 < delay_impairment(150.0) < 1.0
    assert 20.0 < delay_impairment(400.0) < 30.0


def test_the_scale_ends_at_both_ends() -> None:
    """Annex B's outer cases, and the cubic's dip below 1."""
    assert [opinion(r) for r in (-5.0, 0.0, 3.0, 100.0, 120.0)] == [1.0, 1.0, 1.0, 4.5, 4.5]


def test_bursts_are_told_from_chance() -> None:
    """Chance losses of a tenth have runs of 1.11; five at a time are much more."""
    assert burst_ratio(100, 90, 1000) == 1.0
    assert burst_ratio(100, 20, 1000) == pytest.approx(4.5)
    assert [burst_ratio(0, 0, 10), burst_ratio(10, 1, 10)] == [1.0, 1.0]
