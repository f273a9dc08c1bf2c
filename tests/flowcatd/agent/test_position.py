"""Facts about where a call stands."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowcatd.agent.position import Position

TIMES = st.none() | st.integers(0, 1_000).map(float)


@given(TIMES, TIMES, st.integers(0, 1_000).map(float))
def test_shifting_there_and_back_changes_nothing(due, keys_due, seconds):
    """Times become seconds from now, and times again."""
    position = Position(due=due, keys_due=keys_due, pressed="12", hooks=[3], misses=1)
    assert position.shifted(-seconds).shifted(seconds) == position


def test_a_shifted_position_is_a_copy():
    """What is stored does not change with the call."""
    position = Position(hooks=[1])
    position.shifted(0.0).hooks.append(2)
    assert position.hooks == [1]


def test_a_new_state_starts_counting_afresh():
    """Timers, keys and patience; not what lasts longer than a state."""
    position = Position(
        due=1.0, keys_due=2.0, pressed="1", misses=2, silences=1, hooks=[4], is_talking=True
    )
    position.begin()
    assert position == Position(hooks=[4], is_talking=True)


def test_the_end_waits_for_nothing():
    """No timer, no hook."""
    position = Position(due=1.0, hooks=[4])
    position.finish()
    assert position == Position(is_finished=True, reason="completed")
