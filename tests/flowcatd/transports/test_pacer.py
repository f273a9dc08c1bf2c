"""The pacer: on time for ever, spread over the period, and never more than two at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.transports.pacer import MOST_OWED, PERIOD, SLOTS, TOGETHER, Beat, Pacer
from flowcatd.wake import WakeList
from tests.builders import VirtualScope
from workers.clock import WorkerClock

START = 1000.0


def ticking(pacer: Pacer) -> tuple[list[float], Beat]:
    """A stream that notes when it was called."""
    times: list[float] = []
    return times, pacer.add(times.append)


class Stalling:
    """A clock that can stand still while time passes, as a loop does that is held up."""

    def __init__(self) -> None:
        self.time = START
        self.wakes = WakeList()

    def now(self) -> float:
        """Seconds."""
        return self.time

    def wake(self, due, callback):
        """Call back at `due`."""
        return self.wakes.add(due, callback)

    def run_until(self, end: float) -> None:
        """Every wake at its time."""
        while (due := self.wakes.wake_at()) is not None and due <= end:
            self.time = max(self.time, due)
            self.wakes.wake(self.time)
        self.time = max(self.time, end)

    def stall(self, seconds: float) -> None:
        """Nothing runs for so long."""
        self.time += seconds


def test_a_stream_is_called_every_20_ms_and_does_not_drift():
    """After an hour the tick stands where the first one stood in its period."""
    scope = VirtualScope()
    pacer = Pacer(scope)
    times, beat = ticking(pacer)
    scope.pass_for(3600)
    assert len(times) in {180_000, 180_001}
    assert times[-1] - times[0] == pytest.approx((len(times) - 1) * PERIOD, abs=1e-6)
    assert (times[0] - pacer._origin + 1e-6) % PERIOD == pytest.approx(beat.phase, abs=1e-5)


def test_calls_are_spread_over_the_period():
    """A hundred streams are ten in each slot, whatever moment each began at."""
    scope = VirtualScope()
    pacer = Pacer(scope)
    for _ in range(100):
        pacer.add(lambda _: None)
        scope.pass_for(0.0137)
    beats = Counter(round(beat.phase * 1000) for slot in pacer._slots for beat in slot)
    assert beats == dict.fromkeys(range(0, 20, 2), 10)


def test_a_few_calls_share_a_wake_and_the_next_few_are_as_far_apart_as_may_be():
    """A slot takes TOGETHER, then another is opened half a period away; a freed place is taken first."""
    pacer = Pacer(VirtualScope())
    beats = [pacer.add(lambda _: None) for _ in range(TOGETHER + 1)]
    assert [beat.phase for beat in beats] == [*([0.0] * TOGETHER), 0.01]
    beats[0].cancel()
    assert pacer.add(lambda _: None).phase == 0.0


def test_many_calls_are_spread_evenly():
    """Every slot has as many as any other, give or take one."""
    pacer = Pacer(VirtualScope())
    counts = Counter(pacer.add(lambda _: None).slot for _ in range(10 * SLOTS + 3))
    assert len(counts) == SLOTS
    assert max(counts.values()) - min(counts.values()) <= 1


def test_the_first_tick_comes_within_one_period():
    """Not at once in a burst, and not later."""
    scope = VirtualScope()
    pacer = Pacer(scope)
    scope.pass_for(12.345)
    begun = scope.now()
    lists = [ticking(pacer)[0] for _ in range(30)]
    scope.pass_for(PERIOD)
    assert all(len(times) == 1 and begun < times[0] <= begun + PERIOD for times in lists)


def test_a_cancelled_stream_is_called_no_more_and_the_timer_rests_when_none_is_left():
    """Cancelling twice is as good as once."""
    scope = VirtualScope()
    pacer = Pacer(scope)
    times, beat = ticking(pacer)
    others, _ = ticking(pacer)
    scope.pass_for(1)
    beat.cancel()
    beat.cancel()
    seen = len(times)
    scope.pass_for(1)
    assert len(times) == seen
    assert len(others) == 100
    assert len(pacer) == 1
    _.cancel()
    assert len(pacer) == 0
    assert len(scope.wakes) == 0


def test_a_stream_may_cancel_itself_and_its_neighbour_from_within_a_tick():
    """Whoever was cancelled in this very turn is not called in it."""
    scope = VirtualScope()
    pacer = Pacer(scope)
    called: list[str] = []
    beats: list[Beat] = []

    def first(_: float) -> None:
        called.append("first")
        for beat in beats:
            beat.cancel()

    beats.append(pacer.add(first))
    beats.append(pacer.add(lambda _: called.append("second")))
    for _ in range(SLOTS - 1):
        pacer.add(lambda _: None)
    assert beats[0].slot == beats[1].slot
    scope.pass_for(1)
    assert called == ["first"]
    assert len(pacer) == SLOTS - 1


def test_the_last_stream_may_cancel_itself():
    """Then nothing rings any more, until another one comes."""
    scope = VirtualScope()
    pacer = Pacer(scope)
    beats: list[Beat] = []
    beats.append(pacer.add(lambda _: beats[0].cancel()))
    scope.pass_for(1)
    assert (len(pacer), len(scope.wakes)) == (0, 0)
    times, _ = ticking(pacer)
    scope.pass_for(1)
    assert len(times) == 50


def test_a_stream_may_be_added_from_within_a_tick():
    """Its ticks are its own period's; it is not called in the turn that made it."""
    scope = VirtualScope()
    pacer = Pacer(scope)
    added: list[list[float]] = []

    def tick(_: float) -> None:
        if len(added) < 12:
            added.append(ticking(pacer)[0])

    pacer.add(tick)
    scope.pass_for(2)
    assert len(added) == 12
    for times in added:
        gaps = {round(b - a, 6) for a, b in pairwise(times)}
        assert gaps == {PERIOD}


def test_after_a_stall_one_tick_a_period_is_made_good():
    """At most two at a time, and in the end as many as time has passed."""
    clock = Stalling()
    pacer = Pacer(clock)
    times, _ = ticking(pacer)
    clock.run_until(START + 1)
    before = len(times)
    clock.stall(0.1)
    clock.run_until(START + 3)
    assert max(Counter(times).values()) == 2
    assert len(times) - before == 100
    assert pacer.owed == 4
    assert pacer.given_up == 0


def test_what_was_missed_for_too_long_is_given_up_and_counted():
    """Ten seconds of stall do not become ten seconds of double speed."""
    clock = Stalling()
    pacer = Pacer(clock)
    times, _ = ticking(pacer)
    clock.run_until(START + 1)
    clock.stall(10)
    begun = len(times)
    clock.run_until(START + 12)
    assert len(times) - begun == pytest.approx(50 + MOST_OWED, abs=2)
    assert pacer.given_up + len(times) == pytest.approx(600, abs=1)


def test_after_a_time_without_streams_nobody_is_owed_anything():
    """An idle worker's pacer does not count the hours."""
    clock = Stalling()
    pacer = Pacer(clock)
    _, beat = ticking(pacer)
    clock.run_until(START + 1)
    beat.cancel()
    clock.stall(1000)
    times, _ = ticking(pacer)
    clock.run_until(clock.time + 1)
    assert len(times) in {49, 50, 51}
    assert (pacer.owed, pacer.given_up) == (0, 0)


def test_a_tick_that_raises_is_taken_out_and_its_neighbours_get_theirs():
    """The loop hears of it once; everybody else goes on, in the same turn too."""
    clock = Stalling()
    pacer = Pacer(clock)
    lists = [ticking(pacer)[0] for _ in range(SLOTS)]

    def broken(_: float) -> None:
        raise ZeroDivisionError

    pacer.add(broken)
    lists += [ticking(pacer)[0] for _ in range(SLOTS)]
    with pytest.raises(ZeroDivisionError):
        clock.run_until(START + 1)
    clock.run_until(START + 1)
    assert len(pacer) == 2 * SLOTS
    assert {len(times) for times in lists} <= {50, 51}


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "cancel", "pass", "stall"]), st.floats(0, 0.9)),
        max_size=30,
    )
)
def test_whatever_happens_ticks_are_as_many_as_periods(steps):
    """Ticks made and given up equal the periods passed, and no ring brings more than two."""
    clock = Stalling()
    pacer = Pacer(clock)
    live: list[tuple[list[float], float, Beat]] = []
    for what, amount in steps:
        if what == "add":
            times, beat = ticking(pacer)
            live.append((times, clock.time, beat))
        elif what == "cancel" and live:
            live.pop(int(amount * len(live)))[2].cancel()
        elif what == "stall":
            clock.stall(amount)
            clock.run_until(clock.time)
        else:
            clock.run_until(clock.time + amount)
        assert len(pacer) == len(live)
    clock.run_until(clock.time + (MOST_OWED + 60) * PERIOD * 2)
    for times, begun, _ in live:
        assert max(Counter(times).values()) <= 2
        periods = (clock.time - begun) / PERIOD
        assert len(times) <= periods + 1
        if not pacer.given_up:
            assert len(times) >= periods - 1


def test_a_hundred_streams_keep_time_on_uvloop():
    """On the worker's own clock, half of all ticks are within 2 ms of 20 ms after the last."""

    async def run() -> list[list[float]]:
        clock = WorkerClock(asyncio.get_running_loop())
        pacer = Pacer(clock)
        made: list[list[float]] = [[] for _ in range(100)]
        beats = [pacer.add(lambda _, times=times: times.append(clock.now())) for times in made]
        await asyncio.sleep(1)
        for beat in beats:
            beat.cancel()
        assert len(clock) == 0
        return made

    made = uvloop.run(run())
    errors = sorted(abs(b - a - PERIOD) for times in made for a, b in pairwise(times))
    assert len(errors) > 4000
    assert errors[len(errors) // 2] < 0.002
