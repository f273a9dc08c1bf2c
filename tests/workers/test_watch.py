"""Facts about what is counted and published of calls."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from flowcatd.control import CallEvent
from flowcatd.metrics import REFUSALS, Metrics
from flowcatd.record import Identity, Ledger, Outcome, Reason
from flowcatd.sip_figures import MediaFigures, SipFigures
from workers.watch import CallWatch

IDENTITY = Identity(call_id="c1", run_id="r1", carrier="raw", agent="echo", worker_slot=3)


class Rig:
    """A watch, what it published, and whether there is time for that."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.published: list[CallEvent] = []
        self.is_late = False
        self.watch = CallWatch(3, self.metrics, self.published.append, lambda: self.is_late)

    def count(self, name: str, label: str = "") -> float:
        """One counter."""
        return self.metrics.counters[name][label]


@pytest.fixture
def rig() -> Rig:
    """A fresh one."""
    return Rig()


def record(**problems: str):
    """A call of two seconds that said and heard something."""
    ledger = Ledger(IDENTITY, datetime(2026, 11, 21, tzinfo=UTC), 10.0)
    ledger.answered(10.0)
    ledger.turns.user, ledger.turns.bot, ledger.turns.interruptions = 4, 3, 1
    ledger.audio_seconds.caller, ledger.audio_seconds.agent = 2.0, 1.0
    for latency in (300, 900):
        ledger.responded(latency)
    for where, reason in problems.items():
        ledger.problem(where, reason)
    return ledger.finish(12.0, Outcome(reason=Reason.COMPLETED))


def test_a_calls_life_is_counted_and_told(rig):
    """Started, answered and ended, each once, and nothing in an event but names and figures."""
    rig.watch.started(IDENTITY)
    rig.watch.answered(IDENTITY)
    rig.watch.ended(record())
    assert [event.event for event in rig.published] == ["started", "answered", "ended"]
    assert (rig.count("calls_started"), rig.count("calls_answered")) == (1, 1)
    assert rig.count("calls_ended", "completed") == 1
    last = rig.published[-1]
    assert (last.call_id, last.run_id, last.seconds, last.reason) == ("c1", "r1", 2.0, "completed")
    assert (last.ended_by, last.turns, last.slot) == ("agent", 4, 3)


def test_what_a_record_holds_is_added_up(rig):
    """Turns, interruptions, frames of 20 ms, latencies and the duration."""
    rig.watch.ended(record())
    assert (rig.count("turns", "caller"), rig.count("turns", "agent")) == (4, 3)
    assert rig.count("interruptions") == 1
    assert (rig.count("audio_frames", "in"), rig.count("audio_frames", "out")) == (100, 50)
    assert rig.metrics.histograms["answer_latency_seconds"].sum == pytest.approx(1.2)
    assert rig.metrics.histograms["call_duration_seconds"].sum == 2.0


def test_only_what_could_not_be_written_counts_as_lost(rig):
    """Other problems of a call stand in its record alone."""
    rig.watch.ended(record(recording="ENOSPC", transcript="EIO", hook="unavailable"))
    assert rig.count("records_lost") == 2


def test_a_record_that_could_not_be_written_counts_as_lost(rig):
    """It cannot say so itself: it was finished before."""
    rig.watch.unkept()
    assert rig.count("records_lost") == 1


@pytest.mark.parametrize("cause", REFUSALS)
def test_every_cause_of_a_refusal_can_be_counted(rig, cause):
    """And is told without a name: nobody became a call."""
    rig.watch.refused(cause)
    assert rig.count("calls_refused", cause) == 1
    assert msgspec.to_builtins(rig.published[0])["call_id"] == ""


def test_for_lack_of_time_events_are_left_out_and_figures_kept(rig):
    """What was left out is counted too."""
    rig.is_late = True
    rig.watch.started(IDENTITY)
    rig.watch.resumed(IDENTITY)
    rig.watch.refused("full")
    rig.watch.ended(record())
    assert rig.published == []
    assert rig.watch.left_out == 4
    assert (rig.count("calls_started"), rig.count("calls_resumed")) == (1, 1)
    assert rig.count("calls_ended", "completed") == 1


MEDIA = MediaFigures(
    packets_in=500,
    packets_out=490,
    octets_out=78_400,
    lost=7,
    late=2,
    duplicates=0,
    discarded=1,
    foreign=3,
    bad=4,
    sources=1,
    jitter_ms=12.5,
    delay_ms=60.0,
    concealed_ms=180,
    background_ms=0,
    shortened_ms=0,
    lengthened_ms=0,
    round_trip_ms=None,
    remote_loss=None,
    remote_jitter_ms=None,
    r=90.0,
    mos=4.35,
)


def record_over_sip(sip: SipFigures):
    """A call over SIP that ended so."""
    ledger = Ledger(IDENTITY, datetime(2026, 11, 21, tzinfo=UTC), 10.0)
    ledger.sip = sip
    return ledger.finish(12.0, Outcome(reason=Reason.COMPLETED))


def test_what_became_of_a_calls_media_is_added_up_at_its_end(rig):
    """Packets, what was lost and late, what was made up, and how it sounded."""
    rig.watch.ended(record_over_sip(SipFigures(trunk="t", status=200, media=MEDIA)))
    assert rig.count("sip_calls", "inbound") == 1
    assert (rig.count("rtp_packets", "in"), rig.count("rtp_packets", "out")) == (500, 490)
    assert (rig.count("rtp_lost"), rig.count("rtp_late")) == (7, 2)
    assert (rig.count("rtp_foreign"), rig.count("rtp_bad")) == (3, 4)
    assert rig.count("rtp_concealed_seconds") == pytest.approx(0.18)
    assert rig.metrics.histograms["call_mos"].sum == 4.35
    assert rig.metrics.histograms["call_jitter_seconds"].sum == 0.0125


def test_a_call_that_heard_nothing_has_no_opinion_of_its_sound(rig):
    """A call that was refused, or whose far end never sent, must not look like a bad line."""
    silent = msgspec.structs.replace(MEDIA, packets_in=0, mos=1.0)
    rig.watch.ended(record_over_sip(SipFigures(trunk="t", status=200, media=silent)))
    rig.watch.ended(record_over_sip(SipFigures(trunk="t", status=486)))
    assert sum(rig.metrics.histograms["call_mos"].counts) == 0
    assert sum(rig.metrics.histograms["call_jitter_seconds"].counts) == 0


@pytest.mark.parametrize(
    ("direction", "status", "failed"),
    [("outbound", 486, 1), ("outbound", 0, 1), ("outbound", 200, 0), ("inbound", 487, 0)],
)
def test_only_our_own_calls_can_fail_to_reach_somebody(rig, direction, status, failed):
    """A caller who hangs up while it rings is none of our failures."""
    rig.watch.ended(record_over_sip(SipFigures(trunk="t", direction=direction, status=status)))
    assert rig.count("sip_calls", direction) == 1
    assert rig.count("sip_failed_outbound") == failed


def test_a_call_without_sip_counts_nothing_of_it(rig):
    """Calls over a carrier's WebSocket have no RTP of ours."""
    rig.watch.ended(record())
    assert sum(rig.metrics.counters["sip_calls"].values()) == 0
    assert sum(rig.metrics.counters["rtp_packets"].values()) == 0


def test_a_call_over_sip_that_goes_on_is_adopted(rig):
    """And resumed, as any; one over a WebSocket is resumed only."""
    rig.watch.resumed(IDENTITY)
    rig.watch.resumed(msgspec.structs.replace(IDENTITY, carrier="sip"))
    assert (rig.count("calls_resumed"), rig.count("calls_adopted")) == (2, 1)


def test_keys_are_counted_by_how_they_came(rig):
    """Which keys they were stands nowhere."""
    rig.watch.ended(record_over_sip(SipFigures(trunk="t", keys={"rtp": 3, "inband": 1})))
    assert rig.metrics.counters["dtmf"] == {"rtp": 3, "info": 0, "inband": 1}


def test_the_end_of_a_call_over_sip_is_told_with_its_way_and_trunk(rig):
    """And of any other without."""
    sip = SipFigures(trunk="office", direction="outbound", status=200)
    rig.watch.ended(record_over_sip(sip))
    rig.watch.ended(record())
    assert [(event.direction, event.trunk) for event in rig.published] == [
        ("outbound", "office"),
        ("", ""),
    ]
