"""Facts about a process's figures: the table is closed, complete from the start, and travels whole."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.control import Reader, encode
from flowcatd.errors import ControlError, LocalError
from flowcatd.metrics import BY_NAME, FAMILIES, LAG_BOUNDS, Family, Kind, Metrics, Snapshot
from flowcatd.record import Reason


def shot(metrics: Metrics) -> Snapshot:
    """Its snapshot, of no process in particular."""
    return metrics.snapshot(seat=1, slot=0, pid=7, at_utc=1e9, uptime_seconds=2.5, begun=3.5)


def test_every_family_and_label_value_is_there_at_zero_from_the_start():
    """A rate needs the zero before the first one."""
    metrics = Metrics()
    assert len(FAMILIES) == len({family.name for family in FAMILIES})
    for family in FAMILIES:
        if family.kind is Kind.HISTOGRAM:
            assert metrics.histograms[family.name].counts == [0] * (len(family.bounds) + 1)
        else:
            kept = metrics.counters if family.kind is Kind.COUNTER else metrics.gauges
            assert kept[family.name] == dict.fromkeys(family.values or ("",), 0)


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_names_keep_to_the_conventions(family):
    """Base units as suffix, no `_total` of our own, a label only with its values, growing bounds."""
    assert re.fullmatch(r"[a-z][a-z_]*[a-z]", family.name)
    assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
    assert family.unit in {"", "seconds", "bytes"}
    assert family.name.endswith(f"_{family.unit}" if family.unit else "")
    assert bool(family.label) == bool(family.values)
    assert list(family.bounds) == sorted(set(family.bounds))
    assert (family.kind is Kind.HISTOGRAM) == bool(family.bounds)
    assert family.help.endswith(".")


def test_every_reason_of_a_call_s_end_can_be_counted():
    """Whatever ends a call, ends it in the figures too."""
    metrics = Metrics()
    for reason in Reason:
        metrics.add("calls_ended", label=reason)
    assert set(metrics.counters["calls_ended"].values()) == {1}


@pytest.mark.parametrize(
    "misuse",
    [
        lambda m: m.add("calls_ended", label="a-call-id"),
        lambda m: m.add("calls_ended"),
        lambda m: m.add("nonesuch"),
        lambda m: m.total("calls_live", 3),
        lambda m: m.set("calls_live", 3, label="x"),
        lambda m: m.set("calls_started", 3),
        lambda m: m.observe("calls_live", 3),
    ],
)
def test_what_is_not_in_the_table_cannot_be_counted(misuse):
    """So no label is unbounded, and no misspelling goes unnoticed."""
    with pytest.raises(LocalError):
        misuse(Metrics())


def test_a_total_kept_by_somebody_else_never_goes_back():
    """CPU time, for one."""
    metrics = Metrics()
    for value in (2.0, 1.0):
        metrics.total("cpu_seconds", value)
    assert metrics.counters["cpu_seconds"][""] == 2.0


@given(st.lists(st.floats(0, 10), max_size=40))
def test_a_bucket_holds_what_is_at_most_its_bound(values):
    """Bounds belong to the bucket below, as Prometheus's `le` says."""
    metrics = Metrics()
    for value in values:
        metrics.observe("loop_lag_seconds", value)
    counts = metrics.histograms["loop_lag_seconds"].counts
    for place, bound in enumerate(LAG_BOUNDS):
        assert sum(counts[: place + 1]) == sum(value <= bound for value in values)
    assert sum(counts) == len(values)
    assert metrics.histograms["loop_lag_seconds"].sum == pytest.approx(sum(values))


def test_a_snapshot_travels_whole():
    """JSON and back, through the reader the bridge uses."""
    metrics = Metrics()
    metrics.add("turns", 3, label="caller")
    metrics.set("memory_bytes", 123456789.0, label="rss")
    metrics.observe("gc_pause_seconds", 0.002)
    snapshot = shot(metrics)
    assert Reader(Snapshot).decode(encode(snapshot)) == snapshot


@pytest.mark.parametrize("change", [{"v": 2}, {"counters": 3}, {"seat": "x"}])
def test_a_snapshot_of_another_version_or_shape_is_refused(change):
    """With ControlError, as every message."""
    told = msgspec.to_builtins(shot(Metrics())) | change
    with pytest.raises(ControlError) as raised:
        Reader(Snapshot).decode(msgspec.json.encode(told))
    assert raised.value.code == ("version" if "v" in change else "garbage")


def test_every_family_can_be_found_by_name():
    """BY_NAME is FAMILIES."""
    assert tuple(BY_NAME.values()) == FAMILIES


def test_what_only_informs_is_not_counted():
    """Its text is the label; there is nothing to keep."""
    metrics = Metrics([Family("build_info", Kind.INFO, "", "Which.", "version")])
    assert (metrics.counters, metrics.gauges, metrics.histograms) == ({}, {}, {})
