"""Numbers that wrap: RFC 3550 A.1, A.3."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowcatd.rtp.sequence import (
    MAX_DROPOUT,
    MAX_MISORDER,
    Sequence,
    ahead32,
    nearest32,
)


@given(st.integers(0, 0xFFFF), st.lists(st.integers(1, MAX_DROPOUT - 1), max_size=200))
def test_a_growing_run_never_steps_back(first: int, steps: list[int]) -> None:
    """Through any number of wraps the extended number grows by what the wire grew by."""
    numbers = Sequence()
    before = numbers.receive(first)
    wire = first
    for step in steps:
        wire = (wire + step) & 0xFFFF
        extended = numbers.receive(wire)
        assert extended == before + step
        before = extended
    assert numbers.expected == sum(steps) + 1
    assert numbers.lost == sum(steps) - len(steps)
    assert numbers.reported == first + sum(steps)


@given(st.integers(0, 0xFFFF), st.integers(1, MAX_MISORDER))
def test_a_late_number_keeps_its_place(first: int, behind: int) -> None:
    """Also across a wrap; it fills a hole and makes none."""
    numbers = Sequence()
    start = numbers.receive(first)
    assert numbers.receive((first - behind) & 0xFFFF) == start - behind
    assert numbers.highest == start


@given(st.integers(0, 0xFFFF), st.integers(MAX_DROPOUT + 1, 0xFFFF - MAX_MISORDER))
def test_a_far_jump_is_believed_with_its_second_packet(first: int, jump: int) -> None:
    """The sender restarted; one stray packet does not say so."""
    numbers = Sequence()
    numbers.receive(first)
    assert numbers.receive((first + jump) & 0xFFFF) is None
    assert numbers.receive((first + 1) & 0xFFFF) is not None
    assert numbers.receive((first + jump) & 0xFFFF) is None
    assert numbers.receive((first + jump + 1) & 0xFFFF) is not None
    assert (numbers.restarts, numbers.expected, numbers.lost) == (1, 1, 0)


def test_loss_is_told_since_the_last_report() -> None:
    """RFC 3550 A.3: 256ths of what was expected; duplicates make it no less than none."""
    numbers = Sequence()
    assert numbers.fraction_lost() == 0
    for number in (0, 1, 2, 4, 5, 7):
        numbers.receive(number)
    assert numbers.fraction_lost() == 2 * 256 // 8
    for number in (8, 8, 9):
        numbers.receive(number)
    assert numbers.fraction_lost() == 0
    assert numbers.lost == 1


@given(st.integers(0, 1 << 40), st.integers(-(1 << 31), (1 << 31) - 1))
def test_a_timestamp_is_unwrapped_to_the_nearest(reference: int, apart: int) -> None:
    """What lies within half a turn comes back exactly."""
    number = reference + apart
    assert nearest32(reference, number & 0xFFFFFFFF) == number
    assert ahead32(number & 0xFFFFFFFF, reference & 0xFFFFFFFF) == apart
