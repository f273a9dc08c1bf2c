"""Facts about the fleet's figures as text; read back by prometheus_client, which is not ours."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from flowcatd.control import Fleet, WorkerLine
from flowcatd.metrics import FAMILIES, Buckets, Kind, Metrics, Snapshot
from supervisor.exposition import MOST_SLOTS, SILENT_SECONDS, Exposition, Format, negotiate


class Process:
    """A worker that counts."""

    def __init__(self, seat: int, pid: int, *, slot: int = 0, begun: float = 1.0) -> None:
        self.metrics = Metrics()
        self.seat, self.pid, self.slot, self.begun = seat, pid, slot, begun
        self.uptime = 0.0

    def shot(self) -> Snapshot:
        """The next snapshot, a second after the last; a copy, as if it had travelled."""
        self.uptime += 1
        at = 1e9 + self.begun + self.uptime
        return copied(
            self.metrics.snapshot(
                seat=self.seat,
                slot=self.slot,
                pid=self.pid,
                at_utc=at,
                uptime_seconds=self.uptime,
                begun=self.begun,
            )
        )

    def line(self, state: str = "ready") -> WorkerLine:
        """How the supervisor speaks of it."""
        return WorkerLine(
            seat=self.seat, slot=self.slot, pid=self.pid, state=state, generation=1, seconds=1
        )


def copied(snapshot: Snapshot) -> Snapshot:
    """Another with the same figures, sharing nothing."""
    return msgspec.json.decode(msgspec.json.encode(snapshot), type=Snapshot)


def fleet(*lines: WorkerLine, slots: int = 1, **changes) -> Fleet:
    """What the supervisor says."""
    told = {
        "version": "1.2.3",
        "pid": 10,
        "uptime_seconds": 5.0,
        "state": "serving",
        "slots": slots,
        "generation": 1,
        "restarts": 0,
        "config": "/secret/path",
        "address": "127.0.0.1:6210",
        "workers": list(lines),
    }
    return Fleet(**(told | changes))


def samples(exposition: Exposition, now: float = 1.0) -> dict[tuple, float]:
    """Every sample by its name and labels, as an independent OpenMetrics parser reads them."""
    text = exposition.render(Format.OPENMETRICS, now)
    found = {}
    for family in openmetrics.text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def total(exposition: Exposition, name: str, now: float = 1.0, **labels: str) -> float:
    """One sample."""
    return samples(exposition, now)[(f"flowcatd_{name}", *sorted(labels.items()))]


# --- from the start -------------------------------------------------------------------------------


def test_every_counter_and_histogram_is_there_at_zero_before_anything_is_heard():
    """With every value of its label, so that the first one is seen as a step."""
    found = samples(Exposition(0.0))
    for family in FAMILIES:
        if family.kind is Kind.COUNTER:
            for value in family.values or ("",):
                labels = ((family.label, value),) if family.label else ()
                assert found[(f"flowcatd_{family.name}_total", *labels)] == 0
        if family.kind is Kind.HISTOGRAM:
            assert found[(f"flowcatd_{family.name}_count",)] == 0
            assert found[(f"flowcatd_{family.name}_bucket", ("le", "+Inf"))] == 0
    assert found[("flowcatd_worker_restarts_total",)] == 0
    assert found[("flowcatd_bridge_connected",)] == 0


def test_every_family_is_described_from_the_start():
    """HELP and TYPE of gauges too, which have no samples before somebody told them."""
    text = Exposition(0.0).render(Format.OPENMETRICS, 0.0)
    families = list(openmetrics.text_string_to_metric_families(text))
    assert {f"flowcatd_{family.name}" for family in FAMILIES} <= {f.name for f in families}
    assert all(family.documentation.endswith(".") for family in families)


def test_units_stand_in_openmetrics_and_are_the_names_suffix():
    """UNIT for seconds and bytes, nothing for counts."""
    text = Exposition(0.0).render(Format.OPENMETRICS, 0.0)
    for family in openmetrics.text_string_to_metric_families(text):
        expected = next((u for u in ("seconds", "bytes") if family.name.endswith(f"_{u}")), "")
        assert family.unit == expected


def test_both_formats_hold_the_same_samples():
    """And the older one neither UNIT nor EOF, and counters described with `_total`."""
    exposition = Exposition(0.0)
    worker = Process(0, 7)
    worker.metrics.observe("loop_lag_seconds", 0.003)
    exposition.receive_snapshot(worker.shot(), 1.0)
    exposition.receive_fleet(fleet(worker.line()), 1.0)
    new = exposition.render(Format.OPENMETRICS, 1.0)
    old = exposition.render(Format.TEXT, 1.0)
    bare = [line for line in new.splitlines() if not line.startswith("#")]
    assert bare == [line for line in old.splitlines() if not line.startswith("#")]
    assert new.endswith("\n# EOF\n")
    assert "# UNIT" not in old
    assert "# EOF" not in old
    assert "# TYPE flowcatd_calls_started_total counter\n" in old
    assert "# TYPE flowcatd_calls_started counter\n" in new
    assert "# TYPE flowcatd_build_info gauge\n" in old
    assert "# TYPE flowcatd_build info\n" in new
    read = {s.name for f in text_string_to_metric_families(old) for s in f.samples}
    assert read == {line.split("{")[0].split(" ")[0] for line in bare}


# --- totals ---------------------------------------------------------------------------------------


def test_totals_are_summed_over_processes_living_and_dead():
    """A successor begins at 0, and the sum goes on from where it was."""
    exposition = Exposition(0.0)
    first, other = Process(0, 7), Process(1, 8, slot=1)
    first.metrics.add("calls_started", 5)
    other.metrics.add("calls_started", 2)
    for process in (first, other):
        exposition.receive_snapshot(process.shot(), 1.0)
    assert total(exposition, "calls_started_total") == 7
    again = Process(0, 9, begun=50.0)
    exposition.receive_snapshot(again.shot(), 50.0)
    assert total(exposition, "calls_started_total") == 7
    again.metrics.add("calls_started", 1)
    exposition.receive_snapshot(again.shot(), 51.0)
    assert total(exposition, "calls_started_total") == 8


def test_the_same_pid_forked_anew_in_the_same_seat_is_another_process():
    """Pids come round again."""
    exposition = Exposition(0.0)
    for begun, count in ((1.0, 5), (50.0, 2)):
        process = Process(0, 7, begun=begun)
        process.metrics.add("calls_started", count)
        exposition.receive_snapshot(process.shot(), begun)
    assert total(exposition, "calls_started_total") == 7


def test_a_snapshot_twice_late_or_of_a_dead_predecessor_adds_nothing():
    """It is counted as late."""
    exposition = Exposition(0.0)
    old, new = Process(0, 7), Process(0, 8, begun=50.0)
    shots = []
    for _ in range(3):
        old.metrics.add("calls_started", 5)
        shots.append(old.shot())
    for shot in (shots[1], shots[1], shots[0], shots[2]):
        exposition.receive_snapshot(shot, 1.0)
    exposition.receive_snapshot(new.shot(), 50.0)
    assert not exposition.receive_snapshot(shots[2], 51.0)
    assert total(exposition, "calls_started_total") == 15
    assert total(exposition, "bridge_messages_total", kind="late") == 3


def test_without_a_time_of_birth_the_clock_tells_who_came_later():
    """Another pid in the seat, with a later snapshot, is the successor."""
    exposition = Exposition(0.0)
    old, new = Process(0, 7, begun=0.0), Process(0, 8, begun=0.0)
    new.uptime = 60.0
    shots = []
    for process, count in ((old, 5), (new, 2)):
        process.metrics.add("calls_started", count)
        shots.append(process.shot())
        assert exposition.receive_snapshot(shots[-1], 1.0)
    assert not exposition.receive_snapshot(shots[0], 1.0)
    assert total(exposition, "calls_started_total") == 7


def test_workers_of_a_machine_that_was_started_anew_are_taken_up():
    """Its monotonic clock began at 0 again; another daemon's pid tells."""
    exposition = Exposition(0.0)
    old, new = Process(0, 7, begun=90_000.0), Process(0, 7, begun=3.0)
    for process, pid in ((old, 10), (new, 11)):
        process.metrics.add("calls_started", 4)
        exposition.receive_fleet(fleet(process.line(), pid=pid), 1.0)
        assert exposition.receive_snapshot(process.shot(), 1.0)
    assert total(exposition, "calls_started_total") == 8


def test_a_worker_s_lag_is_told_apart():
    """One sick worker is seen, and the sum of both is the fleet's."""
    exposition = Exposition(0.0)
    for slot, lag in ((0, 0.0005), (1, 0.3)):
        process = Process(slot, 7 + slot, slot=slot)
        process.metrics.observe("loop_lag_seconds", lag)
        exposition.receive_snapshot(process.shot(), 1.0)
    found = samples(exposition)
    name = "flowcatd_worker_loop_lag_seconds_bucket"
    assert found[(name, ("le", "0.1"), ("worker", "0"))] == 1
    assert found[(name, ("le", "0.1"), ("worker", "1"))] == 0
    assert found[("flowcatd_loop_lag_seconds_bucket", ("le", "0.1"))] == 1
    assert found[("flowcatd_loop_lag_seconds_count",)] == 2
    assert found[("flowcatd_loop_lag_seconds_sum",)] == pytest.approx(0.3005)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["count", "tell", "again", "die", "fleet"]),
        st.integers(0, 3),
        st.integers(0, 30),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.randoms(use_true_random=False))
def test_totals_never_fall_and_miss_nothing_under_any_order(steps, chance):
    """Deaths, restarts, repetitions and late snapshots: what was told last of each is the sum."""
    exposition = Exposition(0.0)
    living = {seat: Process(seat, 100 + seat, slot=seat // 2) for seat in range(4)}
    sent: list[Snapshot] = []
    told: dict[tuple[int, int, float], float] = {}
    before: dict[tuple, float] = {}
    now = 10.0
    for step, seat, count in steps:
        now += 0.5
        process = living[seat]
        if step == "count":
            process.metrics.add("calls_started", count)
            process.metrics.observe("loop_lag_seconds", count / 10)
        elif step == "tell":
            sent.append(process.shot())
            told[seat, process.pid, process.begun] = sent[-1].counters["calls_started"][""]
            exposition.receive_snapshot(sent[-1], now)
        elif step == "again" and sent:
            exposition.receive_snapshot(chance.choice(sent), now)
        elif step == "die":
            living[seat] = Process(seat, 1000 + count, slot=seat // 2, begun=now)
        elif step == "fleet":
            exposition.receive_fleet(fleet(*(p.line() for p in living.values()), slots=2), now)
        after = {k: v for k, v in samples(exposition, now).items() if k[0].endswith(GROWING)}
        assert all(after[key] >= value for key, value in before.items())
        before = after
    assert total(exposition, "calls_started_total", now) == sum(told.values())


GROWING = ("_total", "_bucket", "_count", "_sum")


NUMBERS = st.one_of(
    st.floats(), st.integers(-(10**30), 10**30), st.sampled_from([float("nan"), float("inf")])
)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["calls_started", "calls_ended", "x"]),
        st.dictionaries(st.sampled_from(["", "completed", 'a"b']), NUMBERS),
    ),
    st.lists(st.integers(-5, 10**20), max_size=14),
    NUMBERS,
)
def test_whatever_stands_in_a_snapshot_the_text_can_be_read(series, counts, sum_):
    """Foreign names are dropped, impossible numbers are no progress, buckets stay cumulative."""
    exposition = Exposition(0.0)
    exposition.receive_snapshot(
        Snapshot(
            seat=0,
            slot=0,
            pid=1,
            at_utc=1.0,
            uptime_seconds=1.0,
            counters=series,
            gauges={"calls_live": {"": sum_}},
            histograms={"loop_lag_seconds": Buckets(counts, sum_)},
        ),
        1.0,
    )
    assert all(0 <= v <= 2.0**57 for k, v in samples(exposition).items() if k[0].endswith(GROWING))


@pytest.mark.parametrize(
    "where", [{"slot": -1}, {"slot": MOST_SLOTS}, {"seat": -1}, {"seat": 9999}]
)
def test_a_seat_or_slot_that_cannot_be_is_garbage(where):
    """What is kept stays bounded."""
    exposition = Exposition(0.0)
    shot = msgspec.structs.replace(Process(0, 7).shot(), **where)
    assert not exposition.receive_snapshot(shot, 1.0)
    assert total(exposition, "bridge_messages_total", kind="garbage") == 1


def test_ten_thousand_processes_take_no_more_room_than_one():
    """One row per seat, one per slot."""
    exposition = Exposition(0.0)
    for number in range(10_000):
        process = Process(0, number, begun=float(number))
        process.metrics.add("calls_started")
        exposition.receive_snapshot(process.shot(), float(number))
    assert total(exposition, "calls_started_total", 1e4) == 10_000
    assert (len(exposition._seats), len(exposition._slots)) == (1, 1)


# --- gauges ---------------------------------------------------------------------------------------


def gauges_of(exposition: Exposition, now: float) -> dict[tuple, float]:
    """Calls by worker and stage."""
    found = samples(exposition, now)
    return {key[1:]: v for key, v in found.items() if key[0] == "flowcatd_calls_live"}


def test_a_worker_that_retires_is_told_apart_from_its_successor():
    """Two of them retiring are added up; the worst shedding of them counts."""
    exposition = Exposition(0.0)
    for seat, calls in ((0, 5), (1, 7), (2, 1)):
        process = Process(seat, 10 + seat, begun=float(seat + 1))
        process.metrics.set("calls_live", calls)
        process.metrics.set("shedding_level", seat + 1)
        exposition.receive_snapshot(process.shot(), 5.0)
    current, retiring = ((("stage", stage), ("worker", "0")) for stage in ("current", "retiring"))
    assert gauges_of(exposition, 5.0) == {current: 1, retiring: 12}
    assert total(exposition, "shedding_level", 5.0, stage="retiring", worker="0") == 2


def test_the_last_process_of_a_slot_that_was_scaled_away_retires():
    """The supervisor's word counts more than that it is the newest."""
    exposition = Exposition(0.0)
    process = Process(1, 8, slot=1)
    exposition.receive_snapshot(process.shot(), 1.0)
    exposition.receive_fleet(fleet(process.line("retiring"), slots=1), 1.0)
    assert list(gauges_of(exposition, 1.0)) == [(("stage", "retiring"), ("worker", "1"))]


def test_a_dead_process_s_gauges_go_away():
    """At once when the supervisor no longer lists it, and after a while in any case."""
    exposition = Exposition(0.0)
    dead, silent = Process(0, 7), Process(1, 8, slot=1)
    for process in (dead, silent):
        exposition.receive_snapshot(process.shot(), 1.0)
    exposition.receive_fleet(fleet(silent.line(), slots=2), 2.0)
    assert list(gauges_of(exposition, 2.0)) == [(("stage", "current"), ("worker", "1"))]
    assert gauges_of(exposition, 1.0 + SILENT_SECONDS + 0.1) == {}


def test_a_worker_s_freshness_is_told_even_when_it_never_spoke():
    """Up is 0 and the age grows from when it was wanted."""
    exposition = Exposition(0.0)
    process = Process(0, 7)
    exposition.receive_fleet(fleet(process.line(), slots=2), 1.0)
    exposition.receive_snapshot(process.shot(), 3.0)
    assert total(exposition, "worker_up", 4.0, worker="0") == 1
    assert total(exposition, "worker_up", 4.0, worker="1") == 0
    assert total(exposition, "worker_snapshot_age_seconds", 4.0, worker="0") == 1
    assert total(exposition, "worker_snapshot_age_seconds", 4.0, worker="1") == 3
    assert total(exposition, "worker_up", 30.0, worker="0") == 0


def test_a_silent_daemon_leaves_counters_and_no_gauges_but_the_bridge_s_own():
    """Nobody knows how it is; what it counted is still true."""
    exposition = Exposition(0.0)
    process = Process(0, 7)
    process.metrics.add("calls_started", 3)
    exposition.receive_snapshot(process.shot(), 1.0)
    exposition.receive_fleet(fleet(process.line()), 1.0)
    assert total(exposition, "bridge_connected", 11.0) == 1
    found = samples(exposition, 11.1)
    assert found[("flowcatd_bridge_connected",)] == 0
    assert found[("flowcatd_calls_started_total",)] == 3
    left = {key[0] for key in found if not key[0].endswith(GROWING)}
    assert left == {
        "flowcatd_bridge_connected",
        "flowcatd_worker_up",
        "flowcatd_worker_snapshot_age_seconds",
    }


# --- the supervisor's own -------------------------------------------------------------------------


def test_the_supervisor_s_figures_are_told():
    """States it does not know are `other`; paths and addresses are not told."""
    exposition = Exposition(0.0)
    lines = [Process(n, n).line(state) for n, state in enumerate(("ready", "ready", "dancing"))]
    said = fleet(*lines, slots=3, restarts=2, generation=4, state="reloading", last_reload="no.")
    exposition.receive_fleet(said, 1.0)
    assert total(exposition, "workers", state="ready") == 2
    assert total(exposition, "workers", state="other") == 1
    assert total(exposition, "workers_wanted") == 3
    assert total(exposition, "worker_restarts_total") == 2
    assert total(exposition, "config_generation") == 4
    assert total(exposition, "last_reload_ok") == 0
    assert total(exposition, "daemon_state", state="reloading") == 1
    assert total(exposition, "daemon_state", state="serving") == 0
    assert total(exposition, "uptime_seconds") == 5
    assert total(exposition, "build_info", version="1.2.3") == 1
    text = exposition.render(Format.TEXT, 1.0)
    assert "/secret/path" not in text
    assert "6210" not in text


@pytest.mark.parametrize(("said", "ok"), [("", 1), ("done", 1), ("refused: x", 0)])
def test_a_reload_that_failed_is_told(said, ok):
    """None yet is no failure."""
    exposition = Exposition(0.0)
    exposition.receive_fleet(fleet(last_reload=said), 1.0)
    assert total(exposition, "last_reload_ok") == ok


def test_restarts_go_on_over_another_daemon():
    """Its count begins at 0, ours does not fall."""
    exposition = Exposition(0.0)
    for pid, restarts in ((10, 1), (10, 3), (11, 0), (11, 2), (11, 1)):
        exposition.receive_fleet(fleet(pid=pid, restarts=restarts), 1.0)
    assert total(exposition, "worker_restarts_total") == 3 + 2 + 1


def test_a_label_s_value_is_escaped():
    """Backslash, quote and line feed survive both formats."""
    exposition = Exposition(0.0)
    odd = 'a\\b"c\nd'
    exposition.receive_fleet(fleet(version=odd), 1.0)
    assert total(exposition, "build_info", version=odd) == 1
    read = text_string_to_metric_families(exposition.render(Format.TEXT, 1.0))
    assert [s.labels for f in read for s in f.samples if f.name.endswith("_info")] == [
        {"version": odd}
    ]


# --- which format ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("text/html", Format.TEXT),
        ("text/plain;version=0.0.4", Format.TEXT),
        ("application/openmetrics-text", Format.OPENMETRICS),
        ("Application/OpenMetrics-Text; Version=1.0.0 ; charset=utf-8", Format.OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0", Format.TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0", Format.TEXT),
        ("application/openmetrics-text;q=0.1,text/plain;version=0.0.4;q=0.5", Format.TEXT),
        (
            (
                "application/openmetrics-text;version=1.0.0;q=0.8,"
                "application/openmetrics-text;version=0.0.1;q=0.75,"
                "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
            ),
            Format.OPENMETRICS,
        ),
        (";;,=;q=x", Format.TEXT),
        ("application/openmetrics-text;q=nan", Format.TEXT),
        ("application/openmetrics-text;q=x", Format.TEXT),
    ],
)
def test_the_accept_header_chooses(accept, form):
    """OpenMetrics 1.0 only for who asks for it, and no less than for the other."""
    assert negotiate(accept) is form


@given(st.text())
def test_no_accept_header_is_an_error(accept):
    """Garbage gets the older format."""
    assert negotiate(accept) in Format
