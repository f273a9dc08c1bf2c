"""The fuzz run, short: `python -m tests.fuzz.rtp` is the long one."""

from __future__ import annotations

from tests.fuzz.rtp import fuzz


def test_mutated_datagrams_do_nothing_but_drop() -> None:
    """Ten thousand of them, always the same."""
    assert fuzz(10_000, 3550, lambda: True) == 10_000


def test_a_run_ends_when_its_time_is_up() -> None:
    """Before its count."""
    assert fuzz(10_000, 1, lambda: False) == 0
