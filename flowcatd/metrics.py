"""Figures of a process: counters, gauges and histograms out of one closed table of families.

`FAMILIES` is the schema: every name there is, with its kind, unit, help text and the values its one
label may have. Nothing else can be counted, so a scrape has a known size and no call id can ever
become a label. A worker counts into its `Metrics`; `snapshot` gives a small struct that travels over
ZeroMQ as JSON once a second, and `supervisor/exposition.py` adds the processes up and turns the
result into Prometheus text.

    metrics.add("calls_ended", label="completed")     # a counter; the label must be in the table
    metrics.set("calls_live", 12)                     # a gauge
    metrics.observe("loop_lag_seconds", 0.0031)       # a histogram

Names follow Prometheus's conventions (https://prometheus.io/docs/practices/naming/): base units, the
unit as suffix; `flowcatd_` in front and `_total` behind counters are added at exposition. Pure, and
cheap: adding is one dictionary look-up and one addition; nothing here belongs on the 20 ms path all
the same, where processors count for themselves and the second's tick collects.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import msgspec

from flowcatd.errors import LocalError
from flowcatd.record import Reason


class Kind(StrEnum):
    """What a figure is."""

    COUNTER = "counter"
    """Only ever grows, for as long as its process lives; the bridge adds up dead processes."""
    GAUGE = "gauge"
    """As it is now; a dead process has none."""
    HISTOGRAM = "histogram"
    """How often which size was seen: cumulative buckets, a sum and a count."""
    INFO = "info"
    """Always 1; what it tells stands in its label. The supervisor's only."""


LAG_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Seconds: one frame is 0.02, a carrier's buffer has run dry at 0.06."""
PAUSE_BOUNDS = (0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
"""Seconds a garbage collection may take."""
ANSWER_BOUNDS = (0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Seconds from the caller's last word to the agent's first sound."""
MOS_BOUNDS = (1.0, 2.0, 2.5, 3.0, 3.3, 3.6, 3.8, 4.0, 4.1, 4.2, 4.3, 4.4, 4.5)
"""Opinion scores: below 3.6 many are dissatisfied (ITU-T G.107 annex B); nothing lost is 4.41."""
JITTER_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2)
"""Seconds by which packets come unevenly (RFC 3550 A.8); a frame is 0.02."""
PICK_UP_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds from an INVITE to our final answer; the caller's telephone repeats itself at 0.5."""
CALL_BOUNDS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Seconds a call lasts."""


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the schema."""

    name: str
    kind: Kind
    unit: str
    """`seconds`, `bytes`, or empty for plain counts."""
    help: str
    label: str = ""
    """The name of its one label; empty for none."""
    values: tuple[str, ...] = ()
    """Every value that label may have: all of them exist, at zero, from the start."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, less the last, which is infinite."""


def _counter(name: str, help_: str, label: str = "", values: Iterable[str] = ()) -> Family:
    return Family(name, Kind.COUNTER, "", help_, label, tuple(values))


def _gauge(name: str, unit: str, help_: str, label: str = "", values: Iterable[str] = ()) -> Family:
    return Family(name, Kind.GAUGE, unit, help_, label, tuple(values))


def _histogram(name: str, help_: str, bounds: tuple[float, ...], unit: str = "seconds") -> Family:
    return Family(name, Kind.HISTOGRAM, unit, help_, bounds=bounds)


REFUSALS = ("full", "draining", "overloaded", "not_allowed", "not_understood")
"""Why a connection did not become a call."""
HAND_OVERS = ("given", "taken", "failed")
GENERATIONS = ("young", "full")
SIP_TRANSPORTS = ("udp", "tcp", "tls", "ws")
"""Of a SIP message; a secure WebSocket is one as well."""
SIP_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "6xx")
SIP_DIRECTIONS = ("inbound", "outbound")
"""Whose call it was."""
REGISTRATIONS = ("wanted", "bound")
DTMF_KINDS = ("rtp", "info", "inband")
"""How a key came: RFC 4733, SIP INFO, or as tones."""

FAMILIES: tuple[Family, ...] = (
    _gauge("calls_live", "", "Calls that are up."),
    _gauge("calls_capacity", "", "Calls that may be up at most."),
    _counter("calls_started", "Media connections that became a call."),
    _counter("calls_answered", "Calls whose media began to flow."),
    _counter("calls_ended", "Calls that are over, by reason.", "reason", tuple(Reason)),
    _counter(
        "calls_refused", "Connections that did not become a call, by cause.", "cause", REFUSALS
    ),
    _counter("calls_resumed", "Calls taken up again after their worker had died."),
    _counter("calls_leftovers", "Things of a call still there five seconds after its end."),
    _histogram("call_duration_seconds", "How long calls last.", CALL_BOUNDS),
    _histogram(
        "answer_latency_seconds",
        "From the caller's last word to the agent's first sound.",
        ANSWER_BOUNDS,
    ),
    _counter("turns", "Turns taken, by side.", "side", ("caller", "agent")),
    _counter("interruptions", "Times a caller took the floor from the agent."),
    _counter("audio_frames", "20 ms frames of audio, by direction.", "direction", ("in", "out")),
    _counter("hand_overs", "Connections passed between workers.", "way", HAND_OVERS),
    _histogram("loop_lag_seconds", "How late the worker's media timer rang.", LAG_BOUNDS),
    _histogram("gc_pause_seconds", "How long garbage collections held the worker.", PAUSE_BOUNDS),
    _counter("gc_collections", "Garbage collections, by generation.", "generation", GENERATIONS),
    _histogram(
        "heap_trim_seconds", "How long giving free memory back held the worker.", PAUSE_BOUNDS
    ),
    _gauge("shedding_level", "", "What is given up for lack of time: 0 is nothing, 3 the most."),
    _counter("records_lost", "Recordings, transcripts and records that could not be written."),
    _counter("events_dropped", "Metrics and events that nobody read in time."),
    _counter("helpers_lost", "Speech processes that went away and were replaced."),
    _counter("sip_received", "SIP messages that came.", "transport", SIP_TRANSPORTS),
    _counter("sip_sent", "SIP messages sent.", "transport", SIP_TRANSPORTS),
    _counter("sip_garbage", "What came to a SIP port and was none, or nobody's."),
    _counter("sip_screened", "SIP messages turned away before any work: floods, scanners."),
    _counter("sip_answers", "SIP responses sent, by class.", "class", SIP_CLASSES),
    _counter("sip_calls", "Calls over SIP, by whose they were.", "direction", SIP_DIRECTIONS),
    _counter("sip_failed_outbound", "Calls of ours over SIP that were not answered."),
    _gauge("sip_registrations", "", "Registrations of trunks.", "state", REGISTRATIONS),
    _gauge("trunks_dead", "", "Trunks that do not answer our OPTIONS."),
    _histogram("answer_delay_seconds", "From an INVITE to our final answer to it.", PICK_UP_BOUNDS),
    _counter("rtp_packets", "RTP packets of calls that ended.", "direction", ("in", "out")),
    _counter("rtp_lost", "RTP packets that never came."),
    _counter("rtp_late", "RTP packets that came too late to be heard."),
    Family(
        "rtp_concealed_seconds", Kind.COUNTER, "seconds", "Audio made up in place of what was lost."
    ),
    _counter("rtp_foreign", "RTP packets from elsewhere than the call's far end."),
    _counter("rtp_bad", "Datagrams at an RTP port that were none of the call's."),
    _histogram("call_mos", "Estimated opinion score of what we heard.", MOS_BOUNDS, ""),
    _histogram("call_jitter_seconds", "How unevenly a call's packets came.", JITTER_BOUNDS),
    _counter("dtmf", "Keys that callers pressed, by how they came.", "kind", DTMF_KINDS),
    _counter("pacer_late_ticks", "20 ms ticks of RTP streams that came late or never."),
    _counter("calls_adopted", "Calls over SIP taken up after their worker had died."),
    Family("cpu_seconds", Kind.COUNTER, "seconds", "CPU time the worker has used."),
    _gauge("memory_bytes", "bytes", "Memory of the worker.", "part", ("rss", "own")),
    _gauge("descriptors", "", "File descriptors the worker has open."),
    _gauge("tasks", "", "Tasks in the worker's loop."),
    _gauge("wakes", "", "Timers that calls and the worker wait for."),
)
"""The schema of a worker's figures; the supervisor's own few are in `supervisor/exposition.py`."""

BY_NAME = {family.name: family for family in FAMILIES}


class Buckets(msgspec.Struct):
    """A histogram: `counts[i]` were above bounds[i-1] and at most bounds[i]; the last is infinite."""

    counts: list[int]
    sum: float = 0.0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of one process at one moment; a label's value is the key, `""` for no label."""

    v: Literal[1] = 1
    seat: int
    slot: int
    pid: int
    at_utc: float
    """Seconds since 1970, when it was taken."""
    uptime_seconds: float
    begun: float = 0.0
    """When its process was forked, in monotonic seconds of its machine (since_us of its row in the
    load table): with the pid, what tells it from its predecessors in the seat. 0 is not told."""
    counters: dict[str, dict[str, float]]
    gauges: dict[str, dict[str, float]]
    histograms: dict[str, Buckets]


class Metrics:
    """One process's figures; everything in the table exists from the start, at zero."""

    def __init__(self, families: Iterable[Family] = FAMILIES) -> None:
        self.counters: dict[str, dict[str, float]] = {}
        self.gauges: dict[str, dict[str, float]] = {}
        self.histograms: dict[str, Buckets] = {}
        self._bounds: dict[str, tuple[float, ...]] = {}
        for family in families:
            values = family.values or ("",)
            match family.kind:
                case Kind.COUNTER:
                    self.counters[family.name] = dict.fromkeys(values, 0)
                case Kind.GAUGE:
                    self.gauges[family.name] = dict.fromkeys(values, 0.0)
                case Kind.HISTOGRAM:
                    self._bounds[family.name] = family.bounds
                    self.histograms[family.name] = Buckets([0] * (len(family.bounds) + 1))

    def add(self, name: str, count: float = 1, *, label: str = "") -> None:
        """Count; LocalError for a name or label that is not in the table."""
        series = self.counters.get(name)
        if series is None or label not in series:
            raise LocalError(f"there is no counter {name}{{{label}}}")
        series[label] += count

    def total(self, name: str, value: float, *, label: str = "") -> None:
        """A counter that somebody else keeps stands at `value` now; it never goes back."""
        series = self.counters.get(name)
        if series is None or label not in series:
            raise LocalError(f"there is no counter {name}{{{label}}}")
        series[label] = max(series[label], value)

    def set(self, name: str, value: float, *, label: str = "") -> None:
        """Set a gauge; LocalError for a name or label that is not in the table."""
        series = self.gauges.get(name)
        if series is None or label not in series:
            raise LocalError(f"there is no gauge {name}{{{label}}}")
        series[label] = value

    def observe(self, name: str, value: float) -> None:
        """One more value of a histogram."""
        buckets = self.histograms.get(name)
        if buckets is None:
            raise LocalError(f"there is no histogram {name}")
        buckets.counts[bisect_left(self._bounds[name], value)] += 1
        buckets.sum += value

    def snapshot(
        self,
        *,
        seat: int,
        slot: int,
        pid: int,
        at_utc: float,
        uptime_seconds: float,
        begun: float = 0.0,
    ) -> Snapshot:
        """A view to be encoded at once: it shares the living dictionaries."""
        return Snapshot(
            seat=seat,
            slot=slot,
            pid=pid,
            at_utc=at_utc,
            uptime_seconds=uptime_seconds,
            begun=begun,
            counters=self.counters,
            gauges=self.gauges,
            histograms=self.histograms,
        )
