"""The collector: no full collection while calls need the loop, and garbage bounded all the same."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from weakref import ref

import pytest

from flowcatd.metrics import Metrics
from workers.collector import EVERY_SECONDS, IDLE_SECONDS, OVERDUE_YOUNG, YOUNG, Collector


class Knot:
    """Garbage that only a collection can find."""

    def __init__(self) -> None:
        self.me = self


def litter(count: int) -> None:
    """Make this many circles of two objects each, old enough to have left the young generation."""
    knots = [Knot() for _ in range(count)]
    gc.collect(1)
    del knots


class Slack:
    """How long nothing is due."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, _now: float) -> float:
        """The answer, whatever the time."""
        return self.seconds


@contextmanager
def taken_over(slack: float = inf, on_full=None) -> Iterator[tuple[Collector, Metrics, Slack]]:
    """A collector in charge since time 0; afterwards the interpreter is as it was."""
    metrics, room = Metrics(), Slack(slack)
    before = gc.get_threshold()
    collector = Collector(metrics, room, on_full)
    try:
        collector.take_over(0.0)
        yield collector, metrics, room
    finally:
        collector.give_back()
        gc.unfreeze()
    assert gc.get_threshold() == before
    assert collector._called not in gc.callbacks


def fulls(metrics: Metrics) -> float:
    """How many full collections there were."""
    return metrics.counters["gc_collections"]["full"]


def test_no_full_collection_runs_by_itself_however_much_is_allocated() -> None:
    """A quarter of a million objects and their garbage bring young collections only."""
    with taken_over() as (_, metrics, _room):
        before = fulls(metrics)
        kept = [Knot() for _ in range(250_000)]
        assert fulls(metrics) == before
        assert metrics.counters["gc_collections"]["young"] >= 250_000 / YOUNG / 2
        del kept


def test_every_pause_is_in_the_histogram() -> None:
    """As many observations as collections, and some time in them."""
    with taken_over() as (_, metrics, _room):
        litter(5000)
        gc.collect()
    pauses = metrics.histograms["gc_pause_seconds"]
    assert sum(pauses.counts) == sum(metrics.counters["gc_collections"].values()) > 2
    assert 0 < pauses.sum < 5


def test_with_calls_up_it_waits_for_slack_and_for_its_time() -> None:
    """Too early, or no room for twice what it is expected to take: not now."""
    with taken_over() as (collector, metrics, room):
        litter(3000)
        before = fulls(metrics)
        assert not collector.beat(EVERY_SECONDS / 2, calls=1, deferring=False)
        room.seconds = collector.expected() * 1.5
        assert not collector.beat(EVERY_SECONDS, calls=1, deferring=False)
        room.seconds = collector.expected() * 2.5
        assert not collector.beat(EVERY_SECONDS, calls=1, deferring=True)
        assert collector.beat(EVERY_SECONDS, calls=1, deferring=False)
        assert fulls(metrics) == before + 1
        assert collector.forced == 0


def test_without_calls_it_runs_soon_and_needs_no_slack() -> None:
    """An idle worker tidies up, once."""
    with taken_over(slack=0.0) as (collector, metrics, _room):
        litter(3000)
        before = fulls(metrics)
        assert not collector.beat(IDLE_SECONDS / 2, calls=0, deferring=False)
        assert collector.beat(IDLE_SECONDS, calls=0, deferring=False)
        assert not collector.beat(2 * IDLE_SECONDS, calls=0, deferring=False)
        assert fulls(metrics) == before + 1


def test_one_that_is_overdue_is_forced_even_under_overload() -> None:
    """No slack, no time, everything deferred: memory is bounded all the same."""
    with taken_over(slack=0.0) as (collector, _metrics, _room):
        watched = Knot()
        gone = ref(watched)
        litter(1)
        del watched
        kept = [Knot() for _ in range(YOUNG * OVERDUE_YOUNG + 5000)]
        assert collector.young >= OVERDUE_YOUNG
        assert gone() is not None
        assert collector.beat(0.05, calls=9, deferring=True)
        assert gone() is None
        assert collector.forced == 1
        assert collector.young == 0
        del kept


def test_garbage_of_a_busy_worker_stays_within_the_bound() -> None:
    """A million circles, a beat after every thousand: never more garbage than the bound says."""
    with taken_over(slack=0.0) as (collector, _metrics, _room):
        most = 0
        before = sum(isinstance(each, Knot) for each in gc.get_objects())
        for beat in range(400):
            litter(1000)
            collector.beat(beat * 0.05, calls=9, deferring=True)
            if beat % 20 == 19:
                alive = sum(isinstance(each, Knot) for each in gc.get_objects())
                most = max(most, alive - before)
        assert collector.forced >= 1
        assert 0 < most < YOUNG * OVERDUE_YOUNG


def test_what_is_expected_is_at_least_what_it_takes() -> None:
    """The young ones' pauses since the last full one tell how long the next will be.

    The best of three: a pause is measured once, and whatever else the machine does can only stretch it.
    """
    shares = []
    for _ in range(3):
        with taken_over() as (collector, metrics, _room):
            kept = [[Knot()] for _ in range(60_000)]
            expected = collector.expected()
            before = metrics.histograms["gc_pause_seconds"].sum
            collector.beat(EVERY_SECONDS, calls=1, deferring=False)
            took = metrics.histograms["gc_pause_seconds"].sum - before
            assert expected > 0.0005
            shares.append(took / expected)
            del kept
    assert min(shares) < 2, shares


def test_whoever_asks_is_told_after_each_full_collection() -> None:
    """Then, and not before, what is still there is no garbage."""
    told: list[bool] = []
    gone: list[ref[Knot]] = []
    with taken_over(on_full=lambda: told.append(bool(gone) and gone[0]() is None)) as (
        collector,
        _metrics,
        _room,
    ):
        knot = Knot()  # not before: what is frozen is never found to be garbage
        gone.append(ref(knot))
        del knot
        litter(1000)
        collector.beat(IDLE_SECONDS, calls=0, deferring=False)
    assert told == [False, True]


def test_memory_is_given_back_in_slack_of_its_own() -> None:
    """A full worker has no slack for a collection, but for this; not while housekeeping is given up."""
    with taken_over() as (collector, metrics, room):
        trims = metrics.histograms["heap_trim_seconds"]
        kept = [Knot() for _ in range(60_000)]
        room.seconds = 2.1 * collector._heap.expected()
        collector._full_pause = 1.0  # far more than there is slack for
        assert not collector.beat(EVERY_SECONDS, calls=9, deferring=True)
        assert sum(trims.counts) == 0
        assert not collector.beat(EVERY_SECONDS, calls=9, deferring=False)
        assert sum(trims.counts) == 1
        assert not collector.beat(1.5 * EVERY_SECONDS, calls=9, deferring=False)
        assert sum(trims.counts) == 1
        del kept


def test_giving_back_twice_is_harmless() -> None:
    """The end of a worker may come twice."""
    with taken_over() as (collector, _metrics, _room):
        collector.give_back()
        assert gc.get_threshold()[2] < 1000


@pytest.mark.parametrize("generation", [0, 1])
def test_a_young_pause_is_far_below_a_frame(generation) -> None:
    """Half of all young collections of a full worker take less than a millisecond."""
    with taken_over() as (_, metrics, _room):
        kept = [[Knot()] for _ in range(60_000)]
        gc.collect(generation)
        counts = metrics.histograms["gc_pause_seconds"].counts
        assert sum(counts[:3]) > sum(counts) / 2
        del kept
