"""Facts about counting a trunk's calls across processes: sums are right, caps hold, names keep their place."""

from __future__ import annotations

import mmap
import multiprocessing
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from workers.trunk_counts import COLUMNS, TrunkCounts, counts_words

SEATS = 4
NAMES = ("carrier", "loopback", "a", "z" * 64, "z" * 63 + "y")


def made(seats=SEATS, columns=16):
    """Counts over plain words."""
    return TrunkCounts([0] * counts_words(seats, columns), seats)


class Counting(RuleBasedStateMachine):
    """Workers count, die and are followed, trunks come and go, against a dictionary."""

    @initialize()
    def begin(self):
        """A fleet of two trunks."""
        self.counts = made()
        self.counts.enlist(NAMES[:2])
        self.workers = [self.counts.of(seat) for seat in range(SEATS)]
        self.model = {}

    @rule(
        seat=st.integers(0, SEATS - 1),
        name=st.sampled_from(NAMES),
        inbound=st.booleans(),
        change=st.sampled_from((1, 1, -1)),
    )
    def count(self, seat, name, inbound, change):
        """A call begins, or ends."""
        key = seat, name, inbound
        if self.model.get(key, 0) + change < 0:
            return
        self.model[key] = self.model.get(key, 0) + change
        self.workers[seat].add(name, inbound=inbound, change=change)

    @rule(names=st.sets(st.sampled_from(NAMES)))
    def reload(self, names):
        """Other trunks are there."""
        assert self.counts.enlist(names) == []

    @rule(seat=st.integers(0, SEATS - 1))
    def die(self, seat):
        """A process is gone, and followed."""
        self.counts.leave(seat)
        self.workers[seat] = self.counts.of(seat)
        self.model = {key: calls for key, calls in self.model.items() if key[0] != seat}

    @invariant()
    def sums_are_right(self):
        """Everybody finds the calls of all, and what it counted alone."""
        for name in NAMES:
            for inbound in (True, False):
                mine = [worker.total(name, inbound=inbound) for worker in self.workers]
                calls = [self.model.get((seat, name, inbound), 0) for seat in range(SEATS)]
                alone = [
                    sum(own for key, own in worker._own.items() if key == (name, inbound))
                    for worker in self.workers
                ]
                shared = sum(calls) - sum(alone)
                assert mine == [shared + own for own in alone]


TestCounting = Counting.TestCase


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 5))
def test_whoever_adds_first_and_looks_second_never_exceeds_a_cap(turns, cap):
    """However the two steps of two workers are interleaved, no more than `cap` calls are let in."""
    counts = made(2)
    counts.enlist(["carrier"])
    workers = [counts.of(0), counts.of(1)]
    pending, live = {}, 0
    for second in turns:
        worker = workers[second]
        if second in pending:
            del pending[second]
            if worker.total("carrier", inbound=True) > cap:
                worker.add("carrier", inbound=True, change=-1)
            else:
                live += 1
        else:
            pending[second] = worker.add("carrier", inbound=True, change=1)
        assert live <= cap


def test_the_two_directions_are_counted_apart():
    """A full trunk inbound may still be called over."""
    worker = TrunkCounts.alone().of(0)
    assert worker.add("x", inbound=True, change=2) == 2
    assert worker.total("x", inbound=False) == 0


def test_a_trunk_that_is_enlisted_while_a_worker_counts_it_alone_loses_no_call():
    """What was counted alone is taken back alone."""
    counts = made()
    worker = counts.of(1)
    assert worker.add("new", inbound=True, change=1) == 1
    counts.enlist(["new"])
    assert worker.add("new", inbound=True, change=1) == 2
    assert counts.of(2).total("new", inbound=True) == 1
    assert worker.add("new", inbound=True, change=-1) == 1
    assert worker.add("new", inbound=True, change=-1) == 0
    assert counts.of(2).total("new", inbound=True) == 0


def test_a_count_is_never_below_nobody():
    """A call that ends twice takes nothing from the others."""
    counts = made()
    counts.enlist(["x"])
    assert counts.of(0).add("x", inbound=True, change=-1) == 0
    assert counts.of(1).add("x", inbound=True, change=1) == 1


def test_columns_are_given_on_only_when_all_are_used_and_nobody_counts_in_them():
    """A removed trunk's calls are still its own."""
    counts = made(columns=3)
    assert counts.enlist(["a", "b", "c"]) == []
    counts.of(0).add("b", inbound=False, change=1)
    stale = counts.of(1)
    assert stale.add("a", inbound=True, change=0) == 0
    assert counts.enlist(["c", "d", "e"]) == ["e"]
    assert counts.find("a") is None
    assert counts.of(2).total("b", inbound=False) == 1
    stale.add("a", inbound=True, change=1)
    assert counts.of(2).total("d", inbound=True) == 0


def test_no_seat_is_beyond_the_last():
    """A mistake of ours is told before it writes into somebody's cell."""
    with pytest.raises(IndexError):
        made().of(SEATS)


def _count(descriptor, seat, times):
    words = memoryview(mmap.mmap(descriptor, 0)).cast("q")
    worker = TrunkCounts(words, SEATS).of(seat)
    for _ in range(times):
        worker.add("carrier", inbound=True, change=1)


def test_processes_count_in_one_memory():
    """Three processes at once lose nothing, and as many columns as there may be take no memory."""
    descriptor = os.memfd_create("counts")
    os.ftruncate(descriptor, counts_words(SEATS) * 8)
    memory = mmap.mmap(descriptor, 0)
    counts = TrunkCounts(memoryview(memory).cast("q"), SEATS)
    counts.enlist(["loopback", "carrier"])
    assert counts.columns == COLUMNS
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_count, args=(descriptor, seat, 500)) for seat in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert counts.of(3).total("carrier", inbound=True) == 1500
    counts.leave(1)
    assert counts.of(3).total("carrier", inbound=True) == 1000
    assert os.fstat(descriptor).st_blocks * 512 <= 64 * 1024
    os.close(descriptor)
