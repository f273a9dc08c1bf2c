"""The wake list: order, cancelling, rounds, and what a callback that raises costs the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.wake import REBUILD_FLOOR, Wake, WakeList


def test_wakes_fire_by_due_time_and_then_in_the_order_they_were_added() -> None:
    """Equal times keep their order."""
    wakes, fired = WakeList(), []
    for name, due in (("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.0)):
        wakes.add(due, lambda name=name: fired.append(name))
    assert wakes.wake(1.5) == 2
    assert wakes.wake(2.0) == 2
    assert fired == ["a", "b", "c", "d"]
    assert wakes.wake_at() is None


def test_a_cancelled_wake_never_fires_and_is_not_waited_for() -> None:
    """Cancelling twice, or after it fired, does nothing."""
    wakes, fired = WakeList(), []
    first = wakes.add(1.0, lambda: fired.append("first"))
    second = wakes.add(2.0, lambda: fired.append("second"))
    first.cancel()
    first.cancel()
    assert (wakes.wake_at(), len(wakes), first.pending) == (2.0, 1, False)
    wakes.wake(3.0)
    second.cancel()
    assert fired == ["second"]
    assert len(wakes) == 0


def test_a_callback_can_cancel_one_that_is_due_in_the_same_round() -> None:
    """Due together does not mean fired together."""
    wakes, fired = WakeList(), []
    later: list[Wake] = []
    wakes.add(1.0, lambda: later[0].cancel())  # noqa: PLW0108 it is added below
    later.append(wakes.add(1.0, lambda: fired.append("cancelled")))
    wakes.add(1.0, lambda: fired.append("third"))
    assert wakes.wake(1.0) == 2
    assert fired == ["third"]
    assert len(wakes) == 0


def test_a_callback_that_rearms_itself_in_the_past_waits_for_the_next_round() -> None:
    """One round ends, whatever its callbacks add."""
    wakes, fired = WakeList(), []

    def again() -> None:
        fired.append(1)
        wakes.add(0.0, again)

    wakes.add(1.0, again)
    assert wakes.wake(1.0) == 1
    assert wakes.wake(1.0) == 1
    assert wakes.wake_at() == 0.0


def test_what_one_callback_raises_costs_no_other_its_wake() -> None:
    """The error passes through, and the rest of the round is still due, in order."""
    wakes, fired = WakeList(), []

    def broken() -> None:
        gone.cancel()
        raise ValueError("of one call")

    wakes.add(1.0, broken)
    wakes.add(1.0, lambda: fired.append("a"))
    gone = wakes.add(1.0, lambda: fired.append("gone"))
    wakes.add(1.0, lambda: fired.append("b"))
    with pytest.raises(ValueError, match="of one call"):
        wakes.wake(1.0)
    assert (len(wakes), wakes.wake_at()) == (2, 1.0)
    assert wakes.wake(1.0) == 2
    assert fired == ["a", "b"]


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=200), st.integers(0, 60))
def test_exactly_what_is_due_and_not_cancelled_fires_in_order(
    plan: list[tuple[int, bool]], now: int
) -> None:
    """For any set of wakes and cancellations."""
    wakes: WakeList = WakeList()
    fired: list[tuple[int, int]] = []
    made = [
        wakes.add(due, lambda due=due, index=index: fired.append((due, index)))
        for index, (due, _) in enumerate(plan)
    ]
    for wake, (_, cancelled) in zip(made, plan, strict=True):
        if cancelled:
            wake.cancel()
    left = [(due, index) for index, (due, cancelled) in enumerate(plan) if not cancelled]
    assert len(wakes) == len(left)
    assert wakes.wake_at() == min((due for due, _ in left), default=None)
    wakes.wake(now)
    assert fired == sorted(entry for entry in left if entry[0] <= now)
    assert len(wakes) == len(left) - len(fired)


@given(st.integers(0, 150), st.integers(0, 1000), st.integers(REBUILD_FLOOR, 600))
def test_cancelled_wakes_do_not_pile_up(kept: int, due: int, cancelled: int) -> None:
    """The heap holds at most twice what is pending and a small floor, and loses nothing."""
    wakes = WakeList()
    for index in range(kept):
        wakes.add(float(index), lambda: None)
    for _ in range(cancelled):
        wakes.add(float(due), lambda: None).cancel()
        assert len(wakes) == kept
        assert len(wakes._heap) <= 2 * kept + REBUILD_FLOOR + 2
    assert wakes.wake(1000.0) == kept
    assert len(wakes) == 0
