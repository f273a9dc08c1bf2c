"""Leftovers: what a call has not let go of is found, named and counted; what it has costs nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import tracemalloc

import pytest

from flowcatd import log as logging
from flowcatd.metrics import Metrics
from flowcatd.options import Log
from tests.builders import VirtualScope
from workers.leftovers import (
    GRACE_SECONDS,
    MOST_WATCHED,
    Leftovers,
    TaskRemain,
    WakeRemain,
    descriptor_remain,
)


class Ended:
    """A call that is over."""


class Port:
    """Something with a name that may or may not be released."""

    def __init__(self, name: str, *, released: bool) -> None:
        self.name = name
        self.released = released

    def is_released(self) -> bool:
        """As it was said."""
        return self.released


class Rig:
    """Leftovers in virtual time, and the lines they wrote."""

    def __init__(self, capfd) -> None:
        logging.configure(Log(level="warning", format="json"), slot=0)
        self._capfd = capfd
        self.scope = VirtualScope()
        self.metrics = Metrics()
        self.leftovers = Leftovers(self.scope, self.metrics)

    def lines(self) -> list[tuple[str, list[str]]]:
        """Which calls left what."""
        err = self._capfd.readouterr().err
        found = [json.loads(line) for line in err.splitlines()]
        return [(f["call"], f["leftovers"]) for f in found if f["event"] == "call.leaked"]

    def counted(self) -> float:
        """The metric."""
        return self.metrics.counters["calls_leftovers"][""]


@pytest.fixture
def rig(capfd) -> Rig:
    """Fresh ones."""
    return Rig(capfd)


def test_a_call_that_let_go_of_everything_leaves_no_line(rig):
    """Nothing is counted, and nothing is kept."""
    rig.leftovers.ended(Ended(), "c1", [Port("rtp 10000", released=True), None])
    assert len(rig.leftovers) == 1
    rig.scope.pass_for(GRACE_SECONDS)
    rig.leftovers.collected()
    assert rig.lines() == []
    assert rig.counted() == 0
    assert len(rig.leftovers) == 0
    assert len(rig.scope.wakes) == 0


def test_what_is_held_is_named_five_seconds_later_and_once(rig):
    """In one line per call, sorted, and counted one by one."""
    call = Ended()
    ports = [Port(name, released=False) for name in ("rtp 10002", "file b")]
    rig.leftovers.ended(call, "c1", ports)
    del call
    rig.scope.pass_for(GRACE_SECONDS - 0.1)
    assert rig.lines() == []
    rig.scope.pass_for(0.2)
    assert rig.lines() == [("c1", ["file b", "rtp 10002"])]
    rig.scope.pass_for(60)
    assert rig.lines() == []
    assert rig.counted() == rig.leftovers.found == 2


def test_what_is_released_within_the_grace_is_no_leftover(rig):
    """Five seconds are given for that."""
    port = Port("rtp", released=False)
    rig.leftovers.ended(Ended(), "c1", [port])
    rig.scope.pass_for(GRACE_SECONDS - 1)
    port.released = True
    rig.scope.pass_for(2)
    assert rig.lines() == []


def test_a_call_in_a_circle_is_no_leftover_until_a_full_collection_has_passed(rig):
    """Then it is gone; one that somebody holds is told."""
    circle, held = Ended(), Ended()
    circle.me = circle
    rig.leftovers.ended(circle, "circle", [])
    rig.leftovers.ended(held, "held", [])
    del circle
    rig.scope.pass_for(GRACE_SECONDS)
    assert rig.lines() == []
    gc.collect()
    rig.leftovers.collected()
    assert rig.lines() == [("held", ["the call itself"])]
    assert rig.counted() == 1
    assert len(rig.leftovers) == 0


def test_a_collection_before_the_grace_is_over_says_nothing_about_a_call(rig):
    """It may be held rightly until then."""
    held = Ended()
    rig.leftovers.ended(held, "held", [])
    rig.leftovers.collected()
    assert rig.lines() == []
    assert len(rig.leftovers) == 1


def test_a_wake_that_may_still_fire_is_a_leftover(rig):
    """One that was cancelled is not."""
    pending, cancelled = (rig.scope.wakes.add(1e9, lambda: None) for _ in range(2))
    cancelled.cancel()
    remains = [WakeRemain("wake limit", pending), WakeRemain("wake mark", cancelled)]
    rig.leftovers.ended(Ended(), "c1", remains)
    rig.scope.pass_for(GRACE_SECONDS)
    assert rig.lines() == [("c1", ["wake limit"])]


async def test_a_task_that_goes_on_is_a_leftover(rig):
    """One that has ended is not."""
    waiting = asyncio.create_task(asyncio.Event().wait())
    done = asyncio.create_task(asyncio.sleep(0))
    await done
    rig.leftovers.ended(
        Ended(), "c1", [TaskRemain("task hear", waiting), TaskRemain("task speak", done)]
    )
    rig.scope.pass_for(GRACE_SECONDS)
    assert rig.lines() == [("c1", ["task hear"])]
    waiting.cancel()


def test_an_open_socket_is_a_leftover_and_a_number_used_again_is_not(rig):
    """What counts is the socket, not the number of its descriptor."""
    open_one, closed = socket.socket(), socket.socket()
    remains = [descriptor_remain("wire", s.fileno()) for s in (open_one, closed)]
    number = closed.fileno()
    closed.close()
    again = socket.socket()
    assert again.fileno() == number
    with open_one, again:
        rig.leftovers.ended(Ended(), "c1", remains)
        rig.scope.pass_for(GRACE_SECONDS)
        assert rig.lines() == [("c1", ["wire"])]
    assert descriptor_remain("wire", number) is None


def test_memory_stays_bounded_through_fifty_thousand_short_calls(rig):
    """Ten thousand in each of five graces; afterwards nothing of them is kept."""
    for name in ("warm", "up"):
        rig.leftovers.ended(Ended(), name, [])
    rig.scope.pass_for(GRACE_SECONDS)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5):
            for number in range(MOST_WATCHED + 5):
                rig.leftovers.ended(Ended(), f"c{number}", [Port("rtp", released=True)])
            assert len(rig.scope.wakes) == 1
            rig.scope.pass_for(GRACE_SECONDS)
            rig.leftovers.collected()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rig.leftovers.unwatched == 5 * 5
    assert peak - before < 10e6
    assert after - before < 200_000  # four bytes a call
    assert rig.counted() == 0


def test_calls_that_linger_are_bounded_when_no_collection_ever_comes(rig):
    """The oldest are let go of, and counted."""
    held = [Ended() for _ in range(MOST_WATCHED + 7)]
    for number, call in enumerate(held):
        rig.leftovers.ended(call, f"c{number}", [])
        if number == 100:
            rig.scope.pass_for(GRACE_SECONDS)
    rig.scope.pass_for(GRACE_SECONDS)
    assert len(rig.leftovers) == MOST_WATCHED
    assert rig.leftovers.unwatched == 7
