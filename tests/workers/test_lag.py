"""Loop lag: a loop that stands still is noticed, once, with the worst of it; the heart beats on."""

from __future__ import annotations

import asyncio
import time

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from flowcatd import log as logging
from flowcatd.metrics import LAG_BOUNDS, Metrics
from flowcatd.options import Log
from workers.clock import WorkerClock
from workers.lag import (
    BEATS_SEEN,
    HALF_LIFE_SECONDS,
    LIMIT_MS,
    MOST_SECONDS,
    LagWatch,
    RecentLag,
    SustainedLag,
)
from workers.load import WORDS, LoadTable


async def until(condition) -> None:
    """Wait for a condition, at most five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 there is no event to wait for
            await asyncio.sleep(0.001)


OVER_60_MS = LAG_BOUNDS.index(0.06) + 1


async def test_a_loop_that_stood_still_is_told_once(capfd) -> None:
    """Two stalls within the reporting period make one line; a loop that turns makes none."""
    logging.configure(Log(level="warning", format="json"), slot=0)
    metrics = Metrics()
    watch = LagWatch(WorkerClock(asyncio.get_running_loop()), metrics=metrics)
    late = metrics.histograms["loop_lag_seconds"]
    for stalls in (1, 2):
        time.sleep(0.1 + 2 * LIMIT_MS / 1000)  # noqa: ASYNC251 the stall is what is tested
        await until(lambda stalls=stalls: sum(late.counts[OVER_60_MS:]) >= stalls)
    lines = [line for line in capfd.readouterr().err.splitlines() if "loop.lagged" in line]
    assert len(lines) == 1
    assert watch.longest_ms >= LIMIT_MS


async def test_every_beat_ticks_in_the_row_and_is_observed() -> None:
    """The row's tick moves, the histogram counts, and the beat is given time and lag."""
    row = LoadTable([0] * WORDS)
    metrics = Metrics()
    beats: list[tuple[float, float]] = []
    clock = WorkerClock(asyncio.get_running_loop())
    began = clock.now()
    watch = LagWatch(
        clock, row=row.row(0), metrics=metrics, beat=lambda now, lag: beats.append((now, lag))
    )
    await until(lambda: len(beats) >= 3)
    load = row.read(0)
    assert load.tick_us == int(beats[-1][0] * 1e6)
    assert load.lag_us == int(watch.recent * 1e6)
    assert beats[-1][1] <= watch.recent
    assert beats[-1][0] > began
    assert sum(metrics.histograms["loop_lag_seconds"].counts) == len(beats)


async def test_a_stall_shows_in_full_though_it_began_between_two_beats() -> None:
    """The lateness of any wake counts, so a stall is not shortened by the heart's own period."""
    clock = WorkerClock(asyncio.get_running_loop())
    watch = LagWatch(clock)
    clock.wake(clock.now() + 0.011, lambda: time.sleep(0.1))
    clock.wake(clock.now() + 0.021, lambda: None)
    await until(lambda: watch.recent > 0)
    await until(lambda: watch.longest_ms > 50)
    assert 0.08 < watch.recent < 0.2


async def test_a_beat_that_raises_does_not_stop_the_heart() -> None:
    """A worker with a fault in its housekeeping is not a hung worker."""
    loop = asyncio.get_running_loop()
    heard: list[object] = []
    loop.set_exception_handler(lambda _loop, context: heard.append(context["exception"]))
    LagWatch(WorkerClock(loop), beat=lambda _now, _lag: 1 // 0)
    await until(lambda: len(heard) >= 2)
    assert {type(error) for error in heard} == {ZeroDivisionError}


def test_recent_lag_rises_at_once_and_halves_every_second():
    """A peak is believed in full, and fades."""
    recent = RecentLag()
    assert recent.seen(0.1, 10.0) == 0.1
    assert recent.seen(0.0, 10.0 + HALF_LIFE_SECONDS) == pytest.approx(0.05)
    assert recent.seen(0.0, 10.0 + 4 * HALF_LIFE_SECONDS) == pytest.approx(0.1 / 16)
    assert recent.seen(0.08, 14.1) == 0.08


def test_one_stall_of_hours_counts_for_a_second():
    """A machine that slept is taken back within seconds."""
    recent = RecentLag()
    assert recent.seen(7200.0, 0.0) == MOST_SECONDS
    assert recent.seen(0.0, 7.0) < 0.008


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 5)), min_size=1, max_size=60))
def test_recent_lag_is_never_below_what_was_just_seen(seen):
    """Nor below zero, above the cap, or above the worst of all."""
    recent, now, worst = RecentLag(), 0.0, 0.0
    for late, passed in seen:
        now += passed
        worst = max(worst, late)
        value = recent.seen(late, now)
        assert min(late, MOST_SECONDS) <= value <= min(worst, MOST_SECONDS)


def test_the_heart_beats_in_the_loop_that_workers_have():
    """Its timers count whole milliseconds; the beats come all the same, and in time."""

    async def live() -> int:
        metrics = Metrics()
        beats: list[float] = []
        clock = WorkerClock(asyncio.get_running_loop())
        LagWatch(clock, metrics=metrics, beat=lambda now, _lag: beats.append(now))
        await until(lambda: len(beats) >= 5)
        return clock.rings

    assert uvloop.run(live()) == 5


def test_a_single_stall_is_no_overload_and_lateness_at_each_beat_is() -> None:
    """Three late beats of the last second's twenty are what counts, and how late all three were."""
    lag = SustainedLag()
    assert [lag.seen(late) for late in (0.4, 0.001, 0.002, 0.3)] == [0, 0, 0.001, 0.002]
    assert [lag.seen(late) for late in (0.2, 0.25)] == [0.2, 0.25]
    assert [lag.seen(0.001) for _ in range(BEATS_SEEN)][-1] == 0.001


async def test_what_starting_took_is_forgotten() -> None:
    """A stall before `forget` leaves neither recent nor sustained lag."""
    watch = LagWatch(WorkerClock(asyncio.get_running_loop()))
    time.sleep(0.2)  # noqa: ASYNC251 the stall is what is tested
    await until(lambda: watch.recent > 0.05)
    watch.forget()
    assert watch.recent == 0.0
