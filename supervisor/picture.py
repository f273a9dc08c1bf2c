"""The figures of `flowcatd top`: what was published of late, and what it amounts to.

    Gathering   takes Fleet, Snapshot and CallEvent, and keeps the last two snapshots of every seat
    Picture     all figures at one moment: rates, quantiles and CPU are differences of those two

A quantile is the upper bound of the bucket it falls in, which is all that a histogram knows. Which
workers there are is the fleet's word; how they do is their own. A snapshot counts for its own process
only: a seat that somebody else sits in now begins anew, so no rate is ever negative.

Pure: both clocks are given.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from flowcatd.control import CallEvent, Fleet, WorkerLine
from flowcatd.metrics import BY_NAME, Snapshot

MOST_SEATS = 1024
"""What the load table has for 256 slots; a higher seat is nobody's."""
SILENT_SECONDS = 3.5
"""Snapshots come once a second; this long without one, and what it said is no longer shown."""
_MOST_EVENTS = 50
_TELLING = frozenset({"ready", "retiring", "draining"})
_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One worker, or all together, over the last interval; None is not known (yet)."""

    slot: int | None
    seat: int | None
    pid: int
    state: str
    generation: int
    seconds: float
    calls: int
    capacity: int
    new_per_second: float | None = None
    lag_p50_ms: float | None = None
    lag_p99_ms: float | None = None
    """An upper bound; infinite beyond the last bucket (`null` in JSON)."""
    gc_ms: float | None = None
    """The longest pause's upper bound; 0 for none."""
    cpu_percent: float | None = None
    rss_bytes: float | None = None
    own_bytes: float | None = None
    descriptors: int | None = None
    shedding: int | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything to be shown, at one moment."""

    at_utc: float
    where: str
    silent_seconds: float
    """Since anything at all was heard."""
    fleet: Fleet | None = None
    rows: tuple[Figures, ...] = ()
    total: Figures | None = None
    events: tuple[CallEvent, ...] = ()
    """Newest first."""


@dataclass(slots=True)
class _Series:
    latest: Snapshot
    heard: float
    before: Snapshot | None = None


@dataclass(slots=True)
class Gathering:
    """What was published of late. Times are monotonic seconds."""

    where: str
    since: float
    fleet: Fleet | None = None
    _heard: float | None = None
    _series: dict[int, _Series] = field(default_factory=dict)
    _events: deque[CallEvent] = field(default_factory=lambda: deque(maxlen=_MOST_EVENTS))

    @property
    def is_complete(self) -> bool:
        """Whether every worker that may have calls has been heard twice, so that rates are known."""
        if self.fleet is None:
            return False
        seats = [line.seat for line in self.fleet.workers if line.state in _TELLING]
        series = [self._series.get(seat) for seat in seats]
        return all(one is not None and one.before is not None for one in series)

    @property
    def has_heard(self) -> bool:
        """Whether anything came at all."""
        return self._heard is not None

    def receive(self, message: Fleet | Snapshot | CallEvent, now: float) -> None:
        """Something was published."""
        self._heard = now
        if isinstance(message, Fleet):
            self.fleet = message
        elif isinstance(message, CallEvent):
            self._events.appendleft(message)
        elif 0 <= message.seat < MOST_SEATS:
            known = self._series.get(message.seat)
            follows = (
                known is not None
                and known.latest.pid == message.pid
                and known.latest.uptime_seconds < message.uptime_seconds
            )
            before = known.latest if follows and known is not None else None
            self._series[message.seat] = _Series(message, now, before)

    def picture(self, now: float, at_utc: float) -> Picture:
        """All of it; what is no longer published is forgotten."""
        self._series = {
            seat: one for seat, one in self._series.items() if now - one.heard < SILENT_SECONDS
        }
        rows = tuple(self._rows())
        heard = self.since if self._heard is None else self._heard
        intervals = [one for one in self._series.values() if one.before is not None]
        total = _total(rows, intervals) if rows else None
        return Picture(
            at_utc, self.where, now - heard, self.fleet, rows, total, tuple(self._events)
        )

    def _rows(self) -> Iterable[Figures]:
        if self.fleet is None:
            yield from (_figures(None, self._series[seat]) for seat in sorted(self._series))
            return
        for line in self.fleet.workers:
            series = self._series.get(line.seat)
            same = series is not None and series.latest.pid == line.pid
            yield _figures(line, series if same else None)


def _figures(line: WorkerLine | None, series: _Series | None) -> Figures:
    """One row: who it is from the fleet, how it does from its snapshots."""
    if series is None:
        assert line is not None
        return _of_line(line)
    now, before = series.latest, series.before
    who = _of_line(line) if line is not None else _of_snapshot(now)
    known = replace(
        who,
        calls=int(_gauge(now, "calls_live")),
        capacity=int(_gauge(now, "calls_capacity")) or who.capacity,
        rss_bytes=_gauge(now, "memory_bytes", "rss"),
        own_bytes=_gauge(now, "memory_bytes", "own"),
        descriptors=int(_gauge(now, "descriptors")),
        shedding=int(_gauge(now, "shedding_level")),
    )
    if before is None:
        return known
    seconds = now.uptime_seconds - before.uptime_seconds
    lag = _differences([series], "loop_lag_seconds")
    gc = _differences([series], "gc_pause_seconds")
    return replace(
        known,
        new_per_second=(_counter(now, "calls_started") - _counter(before, "calls_started"))
        / seconds,
        cpu_percent=(_counter(now, "cpu_seconds") - _counter(before, "cpu_seconds"))
        / seconds
        * 100,
        lag_p50_ms=quantile_ms("loop_lag_seconds", lag, 0.5),
        lag_p99_ms=quantile_ms("loop_lag_seconds", lag, 0.99),
        gc_ms=quantile_ms("gc_pause_seconds", gc, 1.0) or 0.0,
    )


def _of_line(line: WorkerLine) -> Figures:
    return Figures(
        slot=line.slot,
        seat=line.seat,
        pid=line.pid,
        state=line.state,
        generation=line.generation,
        seconds=line.seconds,
        calls=line.calls,
        capacity=line.capacity,
        lag_p99_ms=None if line.state == "backing_off" else line.lag_ms,
        shedding=int(line.shedding),
    )


def _of_snapshot(now: Snapshot) -> Figures:
    return Figures(now.slot, now.seat, now.pid, "?", 0, now.uptime_seconds, 0, 0)


def _total(rows: Sequence[Figures], series: Sequence[_Series]) -> Figures:
    lag = _differences(series, "loop_lag_seconds")
    gc = _differences(series, "gc_pause_seconds")
    descriptors = _sum(row.descriptors for row in rows)
    return Figures(
        slot=None,
        seat=None,
        pid=0,
        state=f"{sum(row.state == 'ready' for row in rows)} ready",
        generation=0,
        seconds=0.0,
        calls=sum(row.calls for row in rows),
        capacity=sum(row.capacity for row in rows if row.state in {"ready", "?"}),
        new_per_second=_sum(row.new_per_second for row in rows),
        lag_p50_ms=quantile_ms("loop_lag_seconds", lag, 0.5),
        lag_p99_ms=quantile_ms("loop_lag_seconds", lag, 0.99),
        gc_ms=(quantile_ms("gc_pause_seconds", gc, 1.0) or 0.0) if series else None,
        cpu_percent=_sum(row.cpu_percent for row in rows),
        # Resident memory shares pages, so a sum would count them once per worker.
        own_bytes=_sum(row.own_bytes for row in rows),
        descriptors=None if descriptors is None else int(descriptors),
        shedding=max(row.shedding or 0 for row in rows),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _gauge(snapshot: Snapshot, name: str, label: str = "") -> float:
    return snapshot.gauges.get(name, {}).get(label, 0.0)


def _counter(snapshot: Snapshot, name: str) -> float:
    return sum(snapshot.counters.get(name, {}).values())


def _differences(series: Iterable[_Series], name: str) -> list[int]:
    """How often each bucket was hit in the last interval, over several workers."""
    counts = [0] * (len(BY_NAME[name].bounds) + 1)
    for one in series:
        now = one.latest.histograms.get(name)
        before = one.before.histograms.get(name) if one.before is not None else None
        if (
            now is None
            or before is None
            or not len(now.counts) == len(before.counts) == len(counts)
        ):
            continue
        for at, (new, old) in enumerate(zip(now.counts, before.counts, strict=True)):
            counts[at] += max(0, new - old)
    return counts


def quantile_ms(name: str, counts: Sequence[int], share: float) -> float | None:
    """The upper bound, in ms, of the bucket where `share` of the values lie; None without values."""
    wanted = math.ceil(sum(counts) * share)
    if not wanted:
        return None
    bounds = (*BY_NAME[name].bounds, math.inf)
    return bounds[bisect_left(list(accumulate(counts)), wanted)] * _MS
