"""The call table: admission is exact, promises are kept or expire, draining waits, places come back."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.call import Call
from flowcatd.errors import LocalError
from flowcatd.options import Calls
from flowcatd.record import Identity, Ledger, Reason
from workers.calls import PROMISE_SECONDS, CallTable, NoPlaceError
from workers.clock import WorkerClock
from workers.load import WORDS, LoadTable, Standing


class Clock:
    """Time that only moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Monotonic seconds."""
        return self.now


def loads_of(*capacities: int) -> LoadTable:
    """Seats 0, 1, … in slot 0, the first the oldest, all of them starting."""
    loads = LoadTable([0] * (4 * WORDS))
    for seat, capacity in enumerate(capacities):
        loads.row(seat).sit(slot=0, capacity=capacity, now=float(seat))
    return loads


def open_table(capacity: int, clock: Clock | None = None) -> CallTable:
    """The table of a worker that serves, alone in its slot."""
    loads = loads_of(capacity)
    options = Calls(per_worker=capacity, retry_after_seconds=7)
    table = CallTable(options, loads.row(0), loads, clock or Clock())
    table.shedding = False
    return table


def call_of(number: int, run_id: str) -> Call:
    """A call that nobody runs."""
    identity = Identity(
        call_id=f"call-{number}", run_id=run_id, carrier="raw", agent="echo", worker_slot=3
    )
    clock = WorkerClock(asyncio.get_running_loop())
    return Call(Ledger(identity, datetime.now(UTC), 0.0), Calls(), clock, lambda *_: None)


async def test_exactly_as_many_calls_as_places_are_admitted() -> None:
    """Of two hundred that come at once at a limit of fifty, fifty get in and all others are told."""
    table = open_table(50)
    leave = asyncio.Event()
    refused: list[NoPlaceError] = []

    async def come() -> None:
        try:
            with table.place():
                await leave.wait()
        except NoPlaceError as error:
            refused.append(error)

    callers = [asyncio.create_task(come()) for _ in range(200)]
    await asyncio.sleep(0)
    assert len(table) == 50
    assert len(refused) == 150
    assert {(error.retry_after, error.cause) for error in refused} == {(7, "full")}
    leave.set()
    await asyncio.gather(*callers)
    assert len(table) == 0


def test_a_place_comes_back_when_its_call_raised() -> None:
    """Whatever ends the block gives the place back."""
    table = open_table(1)
    with pytest.raises(RuntimeError), table.place():
        raise RuntimeError
    with table.place():
        assert len(table) == 1


async def test_a_draining_worker_takes_nobody_and_waits_for_the_last() -> None:
    """`drained` is true once the last place is free, and false when that takes too long."""
    table = open_table(5)
    with ExitStack() as call:
        call.enter_context(table.place())
        table.draining = True
        with pytest.raises(NoPlaceError) as refused, table.place():
            pass
        assert refused.value.cause == "draining"
        assert not await table.drained(0.01)
    assert await table.drained(0.01)


def test_every_change_stands_in_the_load_table() -> None:
    """Fellows see places, promises and the standing as they are."""
    loads = loads_of(3)
    table = CallTable(Calls(), loads.row(0), loads, Clock())
    assert loads.read(0).standing is Standing.STARTING
    table.shedding = False
    assert loads.read(0).standing is Standing.SERVING
    with table.place():
        assert table.promise("a")
        assert loads.read(0).calls == 2
        table.shedding = True
        assert loads.read(0).standing is Standing.SHEDDING
    assert loads.read(0).calls == 1
    table.draining = True
    table.shedding = False
    assert loads.read(0).standing is Standing.DRAINING


def test_a_worker_that_sheds_takes_nobody_for_the_moment() -> None:
    """The caller is told that it is overloaded; afterwards all is as before."""
    table = open_table(5)
    table.shedding = True
    assert not table.promise("a")
    with pytest.raises(NoPlaceError) as refused, table.place():
        pass
    assert refused.value.cause == "overloaded"
    table.shedding = False
    assert table.promise("a")


def test_a_worker_that_drains_does_not_come_back() -> None:
    """Its successor may have filled its places already."""
    table = open_table(5)
    table.draining = True
    with pytest.raises(LocalError):
        table.draining = False


def test_a_successor_fills_what_its_predecessor_left() -> None:
    """Both processes of a slot together never hold more than its capacity, and reach it."""
    loads = loads_of(3, 3)
    old = CallTable(Calls(), loads.row(0), loads, Clock())
    new = CallTable(Calls(), loads.row(1), loads, Clock())
    old.shedding = new.shedding = False
    with ExitStack() as calls:
        calls.enter_context(old.place())
        assert not new.promise("early")
        old.draining = True
        assert new.promise("a")
        assert new.promise("b")
        assert not new.promise("c")
    assert new.promise("c")
    assert [load.calls for load in loads] == [0, 3]


def test_a_promised_place_is_redeemed_once() -> None:
    """By the same connection, even when nobody else gets in any more."""
    table = open_table(1)
    assert table.promise("a")
    assert table.promise("a")
    assert len(table) == 1
    assert not table.promise("b")
    table.draining = True
    with table.place("a"):
        assert len(table) == 1
        with pytest.raises(NoPlaceError), table.place("a"):
            pass
    assert len(table) == 0


def test_a_promise_that_is_released_or_too_old_is_a_free_place() -> None:
    """A connection that became no call costs no call."""
    clock = Clock()
    table = open_table(2, clock)
    assert table.promise("a")
    table.release("a")
    table.release("a")
    assert len(table) == 0
    assert table.promise("b")
    clock.now += PROMISE_SECONDS / 2
    assert table.promise("c")
    table.expire(clock.now + PROMISE_SECONDS / 2)
    assert len(table) == 1
    clock.now += PROMISE_SECONDS
    with table.place("c"):
        assert len(table) == 1


def test_a_call_that_had_a_place_before_us_has_one_here() -> None:
    """Full, or not serving yet: it is not refused, and counts."""
    table = open_table(1)
    with table.place():
        table.promise_again("kept")
        assert len(table) == 2
        with table.place("kept"):
            assert len(table) == 2
        assert not table.promise("new")
    assert len(table) == 0


def test_a_promise_made_again_begins_anew() -> None:
    """One place, for as long as the last promise says: a descriptor's number may come again."""
    clock = Clock()
    table = open_table(2, clock)
    assert table.promise("a")
    assert table.promise("b")
    clock.now += PROMISE_SECONDS * 0.6
    assert table.promise("a")
    assert len(table) == 2
    clock.now += PROMISE_SECONDS * 0.6
    table.expire(clock.now)
    assert len(table) == 1
    table.release("a")
    assert len(table) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["promise", "release", "enter", "leave", "wait"]), st.integers(0, 6)
        ),
        max_size=60,
    )
)
def test_whatever_happens_the_row_says_how_many_places_are_taken(steps) -> None:
    """Never above capacity, and nothing is left when everybody is gone."""
    clock = Clock()
    loads = loads_of(4)
    table = CallTable(Calls(), loads.row(0), loads, clock)
    table.shedding = False
    inside: list[ExitStack] = []
    for step, name in steps:
        if step == "promise":
            table.promise(name)
        elif step == "release":
            table.release(name)
        elif step == "wait":
            clock.now += 4.0
        elif step == "leave" and inside:
            inside.pop().close()
        elif step == "enter":
            stack = ExitStack()
            try:
                stack.enter_context(table.place(name))
                inside.append(stack)
            except NoPlaceError:
                assert len(table) == 4
        assert len(inside) <= len(table) <= 4
        assert loads.read(0).calls == len(table)
    for stack in inside:
        stack.close()
    table.expire(clock.now + PROMISE_SECONDS)
    assert len(table) == loads.read(0).calls == 0


async def test_a_call_is_found_by_its_own_id_or_its_latest_run() -> None:
    """Nothing else finds it, and nothing finds it once it is gone."""
    table = open_table(5)
    first, second = call_of(1, "same"), call_of(2, "same")
    table.add(first)
    table.add(second)
    assert table.find("call-1") is first
    assert table.find("same") is second
    assert table.find("other") is None
    table.remove(second)
    assert table.find("same") is first
    table.remove(first)
    assert table.find("call-1") is None


async def test_operators_are_told_of_every_live_call() -> None:
    """Who, where, since when, and how far; no word of what was said."""
    clock = Clock()
    table = open_table(5, clock)
    call = call_of(1, "run")
    call.ledger.turns.user = 4
    call.ledger.resumed = 2
    table.add(call)
    (line,) = table.lines(clock.now + 2.5)
    assert (line.call_id, line.run_id, line.carrier, line.agent) == ("call-1", "run", "raw", "echo")
    assert (line.slot, line.state, line.seconds, line.turns) == (3, "waiting", 2.5, 4)
    assert line.resumed == 2


async def test_what_calls_left_behind_is_counted() -> None:
    """It stays zero unless we have a bug."""
    table = open_table(5)
    call = call_of(1, "run")
    table.add(call)
    call.leftovers.append("task:stuck")
    table.remove(call)
    assert table.leaked == 1


@pytest.mark.parametrize("how", ["goodbye", "end"])
async def test_all_live_calls_are_ended_when_the_worker_must_go(how) -> None:
    """With a last line or without one; a call that cannot say it ends at once."""
    table = open_table(5)
    calls = [call_of(number, "run") for number in range(3)]
    for call in calls:
        table.add(call)
    if how == "goodbye":
        table.say_goodbye("bye")
    else:
        table.end_all(Reason.DRAINED)
    assert [call._outcome.result().reason for call in calls] == [Reason.DRAINED] * 3
