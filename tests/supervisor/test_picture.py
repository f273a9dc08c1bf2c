"""Facts about the figures of `flowcatd top`: differences of snapshots, quantiles, totals."""

from hypothesis import given
from hypothesis import strategies as st

from flowcatd.control import CallEvent
from supervisor.picture import quantile_ms
from tests.supervisor.toy_switchboard import fleet, gathered, snapshot, worker


def test_rates_are_differences_of_two_snapshots():
    """Of what happened between them, over the time between them."""
    line = worker(0, calls=7)
    early = snapshot(line, 10, started=100, lags=[0.5] * 9, cpu=5.0)
    late = snapshot(line, 12, started=103, lags=[0.5] * 9 + [0.0005] * 99 + [0.03], cpu=6.0)
    (row,) = gathered(fleet([line]), early, late).picture(0.0, 0.0).rows
    assert (row.calls, row.new_per_second, row.cpu_percent) == (7, 1.5, 50.0)
    assert (row.lag_p50_ms, row.lag_p99_ms, row.gc_ms) == (1.0, 1.0, 0.0)


def test_one_snapshot_has_no_rates():
    """They would be averages since the start, and look like now."""
    line = worker(0)
    (row,) = gathered(fleet([line]), snapshot(line, 10, started=100)).picture(0.0, 0.0).rows
    assert (row.new_per_second, row.cpu_percent, row.lag_p50_ms) == (None, None, None)


def test_a_successor_in_the_same_seat_begins_anew():
    """Its counters start at zero, and no rate is ever negative."""
    old, new = worker(0), worker(0, pid=77)
    gathering = gathered(fleet([new]), snapshot(old, 10, started=9), snapshot(new, 1))
    (row,) = gathering.picture(0.0, 0.0).rows
    assert (row.pid, row.new_per_second) == (77, None)


def test_figures_of_a_predecessor_are_not_its_successors():
    """The fleet says who sits there; another's snapshot does not count."""
    gathering = gathered(fleet([worker(0, pid=77)]), snapshot(worker(0), 10))
    (row,) = gathering.picture(0.0, 0.0).rows
    assert row.own_bytes is None


def test_a_worker_that_fell_silent_has_no_figures_but_the_fleets():
    """Old figures are worse than none."""
    line = worker(0)
    gathering = gathered(fleet([line]), snapshot(line, 1), snapshot(line, 2), now=10.0)
    assert gathering.picture(13.0, 0.0).rows[0].own_bytes is not None
    assert gathering.picture(14.0, 0.0).rows[0].own_bytes is None


def test_totals_merge_histograms_and_leave_resident_memory_out():
    """A quantile of all is not an average of quantiles, and shared pages count once."""
    one, two = worker(0, calls=1), worker(1, calls=2)
    gathering = gathered(
        fleet([one, two]),
        *(snapshot(line, 1) for line in (one, two)),
        snapshot(one, 2, lags=[0.0005] * 98, cpu=0.5),
        snapshot(two, 2, lags=[0.09] * 2, pauses=[0.015], cpu=0.75),
    )
    total = gathering.picture(0.0, 0.0).total
    assert (total.calls, total.capacity, total.cpu_percent) == (3, 400, 125.0)
    assert (total.lag_p50_ms, total.lag_p99_ms, total.gc_ms) == (1.0, 100.0, 20.0)
    assert (total.own_bytes, total.rss_bytes) == (20 * 2**20, None)


def test_a_gathering_is_complete_once_every_serving_worker_was_heard_twice():
    """Before that there are no rates; one that only starts is not waited for."""
    one, two = worker(0), worker(1, state="starting")
    gathering = gathered()
    assert not gathering.has_heard
    assert not gathering.is_complete
    gathering.receive(snapshot(one, 1), 0.0)
    assert gathering.has_heard
    gathering.receive(fleet([one, two]), 0.0)
    assert not gathering.is_complete
    gathering.receive(snapshot(one, 2), 1.0)
    assert gathering.is_complete


def test_a_worker_that_was_replaced_is_waited_for_while_it_has_calls():
    """Otherwise the row that people look for after a reload would have no rates."""
    old, new = worker(0, state="retiring"), worker(0, seat=1, pid=4_000_009)
    gathering = gathered(fleet([old, new], slots=1), snapshot(new, 1), snapshot(new, 2))
    gathering.receive(snapshot(old, 1), 0.0)
    assert not gathering.is_complete
    gathering.receive(snapshot(old, 2), 1.0)
    assert gathering.is_complete


def test_a_histogram_of_another_shape_is_no_histogram_of_ours():
    """Another release may have other buckets."""
    line = worker(0)
    late = snapshot(line, 2, lags=[0.5])
    late.histograms["loop_lag_seconds"].counts.append(1)
    (row,) = gathered(fleet([line]), snapshot(line, 1), late).picture(0.0, 0.0).rows
    assert row.lag_p99_ms is None


def test_a_seat_beyond_all_seats_is_not_kept():
    """Whatever is published, memory is bounded."""
    gathering = gathered(*(snapshot(worker(0, seat=seat), 1) for seat in (-1, 1024, 1 << 40)))
    assert gathering.picture(0.0, 0.0).rows == ()


def test_events_are_kept_newest_first_and_not_all():
    """A busy daemon has hundreds a second."""
    events = [CallEvent(event="started", at_utc=float(at), slot=0) for at in range(200)]
    kept = gathered(*events).picture(0.0, 0.0).events
    assert kept[0].at_utc == 199
    assert len(kept) == 50


counts = st.lists(st.integers(0, 1000), min_size=13, max_size=13)


@given(counts, st.floats(0.01, 1))
def test_a_quantile_has_its_share_below_and_is_the_least_bound_that_has(found, share):
    """The definition, over any histogram."""
    bound = quantile_ms("loop_lag_seconds", found, share)
    bounds = [
        quantile_ms("loop_lag_seconds", [0] * at + [1] + [0] * (12 - at), 1) for at in range(13)
    ]
    if bound is None:
        assert sum(found) == 0
        return
    at = bounds.index(bound)
    assert sum(found[: at + 1]) >= sum(found) * share
    assert found[at] > 0
    assert sum(found[:at]) < sum(found) * share
