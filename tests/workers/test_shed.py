"""Shedding: what is given up when, in virtual time; and the properties that keep it from flapping."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.shed import DWELL_SECONDS, NEVER, ORDER, STAY, Changed, Level, Shedding, Thing

LIMIT_MS = 60
BEAT = 0.05


def levels(lags: list[float], beat: float = BEAT) -> list[Level]:
    """The level after each of these lags, one per beat."""
    shedding = Shedding(LIMIT_MS)
    found = []
    for number, lag in enumerate(lags):
        shedding.lagged(lag, number * beat)
        found.append(shedding.level)
    return found


@pytest.mark.parametrize(
    ("lag", "level"),
    [
        (0.0, Level.NOTHING),
        (0.029, Level.NOTHING),
        (0.030, Level.DEFER),
        (0.059, Level.DEFER),
        (0.060, Level.REFUSE),
        (0.119, Level.REFUSE),
        (0.120, Level.TRIM),
        (9.0, Level.TRIM),
    ],
)
def test_a_lag_reaches_its_level_at_once(lag, level):
    """Half the limit defers, the limit refuses, twice the limit trims."""
    shedding = Shedding(LIMIT_MS)
    changed = shedding.lagged(lag, 1.0)
    assert shedding.level is level
    assert changed == (Changed(Level.NOTHING, level, lag) if level else None)


def test_things_are_given_up_in_the_declared_order():
    """What can wait first, who is not here yet next, what only looks on last."""
    shedding = Shedding(LIMIT_MS)
    given_up = []
    for lag in (0.0, 0.03, 0.06, 0.12):
        shedding.lagged(lag, 0.0)
        given_up.append([thing for thing in Thing if shedding.gives_up(thing)])
    assert given_up == [
        [],
        [Thing.HOUSEKEEPING],
        [Thing.HOUSEKEEPING, Thing.NEW_CALLS],
        [Thing.HOUSEKEEPING, Thing.NEW_CALLS, Thing.TAPS],
    ]
    assert shedding.trimmed()


def test_every_thing_has_one_step_and_nothing_sacred_has_any():
    """The table is complete, rises, and knows nothing of what is never given up."""
    assert {step.gives_up for step in ORDER} == set(Thing)
    assert [step.level for step in ORDER] == sorted(set(Level) - {Level.NOTHING})
    assert [step.share for step in ORDER] == sorted(step.share for step in ORDER)
    assert len(NEVER) == 3


def test_falling_goes_step_by_step_with_the_dwell_between():
    """From the top to nothing takes three dwells of calm."""
    shedding = Shedding(LIMIT_MS)
    shedding.lagged(0.5, 0.0)
    fell = []
    for beat in range(1, 400):
        changed = shedding.lagged(0.0, beat * BEAT)
        if changed is not None:
            fell.append((changed.source, changed.target, beat * BEAT))
    assert [(source, target) for source, target, _ in fell] == [
        (Level.TRIM, Level.REFUSE),
        (Level.REFUSE, Level.DEFER),
        (Level.DEFER, Level.NOTHING),
    ]
    times = [at for _, _, at in fell]
    assert times == pytest.approx([DWELL_SECONDS * n for n in (1, 2, 3)], abs=3 * BEAT)


def test_a_lag_just_below_the_threshold_keeps_the_level():
    """Hysteresis: it has to be below STAY of the threshold for the whole dwell."""
    assert levels([0.06] + [0.06 * (STAY + 0.01)] * 400)[-1] is Level.REFUSE
    assert levels([0.06] + [0.06 * (STAY - 0.01)] * 400)[-1] is Level.DEFER


LAGS = st.lists(st.floats(0, 0.3), min_size=1, max_size=300)


@given(LAGS)
def test_two_falls_or_a_rise_and_a_fall_are_a_dwell_apart(lags):
    """However the lag jumps, the level does not flap."""
    shedding = Shedding(LIMIT_MS)
    last = float("-inf")
    for number, lag in enumerate(lags * 3):
        now = number * 0.4
        changed = shedding.lagged(lag, now)
        if changed is not None:
            if changed.target < changed.source:
                assert now - last >= DWELL_SECONDS
                assert changed.source - changed.target == 1
            last = now


@given(st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 0.3)), min_size=1, max_size=300))
def test_more_lag_never_means_a_lower_level(pairs):
    """Two workers, one later than the other at every moment: it is never better off."""
    less = levels([min(pair) for pair in pairs], 0.5)
    more = levels([max(pair) for pair in pairs], 0.5)
    assert all(low <= high for low, high in zip(less, more, strict=True))


@given(LAGS)
def test_calm_always_leads_back_to_nothing(lags):
    """After any storm, three dwells of calm end it."""
    calm = [0.0] * int(3 * DWELL_SECONDS / BEAT + 4)
    assert levels([*lags, *calm])[-1] is Level.NOTHING
