"""The fleet's figures as text for Prometheus: many processes added up, and no way back for a total.

Counters and histograms grow by differences: what a process has counted beyond its snapshot before is
added to its slot's row. So a process that dies needs no farewell, one that begins again at 0 adds
from there, a snapshot that comes late or twice adds nothing, and whatever comes in, no total falls. A
process is its seat, its pid and when it was forked; the later forked one of a seat is the living.

Gauges are what each worker said last, labelled `worker` (its slot) and `stage`: `current` is the
slot's newest process, `retiring` all others together. They go away with their process: when the
supervisor no longer lists it, or after SILENT_SECONDS. A counter is there, at zero, from the start; a
gauge once somebody told it, because zero would be a claim.

OpenMetrics 1.0 (https://prometheus.io/docs/specs/om/open_metrics_spec/) and Prometheus text 0.0.4
(https://prometheus.io/docs/instrumenting/exposition_formats/) have the same samples, other comments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate
from math import fsum

from flowcatd.control import Fleet
from flowcatd.metrics import BY_NAME, FAMILIES, Buckets, Family, Kind, Metrics, Snapshot
from workers.load import ROWS_PER_SLOT

SILENT_SECONDS = 10.0
"""Ten snapshots missed: whoever is silent for longer is not known to live."""
MOST_SLOTS = 256
"""As many as workers.most may be."""
_MOST = 2.0**53
"""A larger count is not exact as a float, and not a count."""

STATES = (
    *("backing_off", "starting", "ready", "retiring", "draining", "stopping", "hung", "overdue"),
    *("killed", "other"),
)
"""What a worker may be; a word that is not here is `other`."""
DAEMON_STATES = ("starting", "serving", "reloading", "draining", "stopping")
MESSAGES = ("snapshot", "fleet", "late", "garbage", "other")
"""What the bridge heard: `late` came after a newer one, `other` is not for it."""
SCRAPES = ("served", "busy", "broken")
"""How a scrape went: `busy` was refused, `broken` did not read its answer in time."""
STAGES = ("current", "retiring")

_ENDING = frozenset({"retiring", "draining", "stopping", "killed"})
_WORST = frozenset({"shedding_level"})
"""Gauges of which several processes have the highest, not the sum."""

_BY_WORKER = tuple(
    replace(BY_NAME[name], name=f"worker_{name}", help=f"{BY_NAME[name].help} By worker.")
    for name in ("loop_lag_seconds", "cpu_seconds")
)
"""Totals that are told per worker too, so that one that is ill is seen."""


def _own(name: str, kind: Kind, help_: str, unit: str = "", label: str = "") -> Family:
    return Family(name, kind, unit, help_, label)


_TOLD = (
    _own("build_info", Kind.INFO, "Which flowcatd it is.", label="version"),
    _own("uptime_seconds", Kind.GAUGE, "How long the daemon runs.", "seconds"),
    _own("daemon_state", Kind.GAUGE, "What the daemon does: 1 at that word.", label="state"),
    _own("workers_wanted", Kind.GAUGE, "Workers there should be."),
    _own("workers", Kind.GAUGE, "Worker processes there are, by state.", label="state"),
    _own("config_generation", Kind.GAUGE, "Which configuration is in force: 1 is the first."),
    _own("last_reload_ok", Kind.GAUGE, "Whether the last reload was done; 1 before the first."),
)
"""Gauges out of `control.Fleet`."""
_WATCHED = (
    _own("worker_up", Kind.GAUGE, "Whether the worker tells its figures.", label="worker"),
    _own(
        "worker_snapshot_age_seconds",
        Kind.GAUGE,
        "Since the worker's figures came, or since it was wanted.",
        "seconds",
        "worker",
    ),
    _own("bridge_connected", Kind.GAUGE, "Whether the bridge hears the daemon."),
)
_COUNTED = (
    _own("worker_restarts", Kind.COUNTER, "Workers lost unasked and replaced."),
    Family("bridge_messages", Kind.COUNTER, "", "What the bridge heard.", "kind", MESSAGES),
    Family("bridge_scrapes", Kind.COUNTER, "", "How scrapes went.", "outcome", SCRAPES),
    _own("bridge_render_seconds", Kind.COUNTER, "Time spent on writing figures down.", "seconds"),
)


class Format(Enum):
    """What a scrape may ask for; the value is its Content-Type."""

    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    TEXT = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Block:
    """Where a family's figures lie in a row."""

    family: Family
    low: int
    high: int


def _blocks(*kinds: Kind) -> tuple[_Block, ...]:
    """A row: one figure per label value; a histogram's buckets, and then its sum."""
    blocks: list[_Block] = []
    for family in FAMILIES:
        if family.kind in kinds:
            low = blocks[-1].high if blocks else 0
            width = len(family.bounds) + 2 if family.bounds else len(family.values) or 1
            blocks.append(_Block(family, low, low + width))
    return tuple(blocks)


_TOTALS = _blocks(Kind.COUNTER, Kind.HISTOGRAM)
_GAUGES = _blocks(Kind.GAUGE)
_PLACES = {block.family.name: block for block in _TOTALS}


@dataclass(slots=True)
class _Process:
    """What is known of whoever sits in a seat."""

    snapshot: Snapshot
    epoch: int
    seen: float
    totals: list[float]
    """As it counted them, never lower than before."""
    gauges: list[float]

    @property
    def age(self) -> tuple[int, float, float]:
        """Of two processes, the later forked one is greater; by the clock when none tells."""
        return (self.epoch, self.snapshot.begun, self.snapshot.at_utc)


class Exposition:
    """What was heard of the fleet; tell it, then `render`. `now` is monotonic seconds throughout."""

    def __init__(self, now: float) -> None:
        """Nothing was heard yet."""
        self.own = Metrics(_COUNTED)
        """The bridge counts its scrapes here."""
        self._heard = now - 2 * SILENT_SECONDS
        self._seats: dict[int, _Process] = {}
        self._slots: dict[int, list[float]] = {}
        self._wanted: dict[int, float] = {}
        self._fleet: Fleet | None = None
        self._fleet_at = self._heard
        self._states: dict[int, str] = {}
        self._epoch = 0
        self._heads: dict[tuple[str, ...], tuple[str, ...]] = {}

    # --- told

    def receive_snapshot(self, snapshot: Snapshot, now: float) -> bool:
        """A worker's figures; false, and nothing else, when they came too late or cannot be."""
        if not (
            0 <= snapshot.slot < MOST_SLOTS and 0 <= snapshot.seat < MOST_SLOTS * ROWS_PER_SLOT
        ):
            return self.receive_garbage()
        process = self._process(snapshot, now)
        if process is None:
            self.own.add("bridge_messages", label="late")
            return False
        self._heard = process.seen = now
        process.snapshot = snapshot
        process.gauges = _gauges_of(snapshot)
        before, process.totals = process.totals, _totals_of(snapshot, process.totals)
        base = self._slots.setdefault(snapshot.slot, _zeros())
        for place, (new, old) in enumerate(zip(process.totals, before, strict=True)):
            base[place] += new - old
        self.own.add("bridge_messages", label="snapshot")
        return True

    def receive_fleet(self, fleet: Fleet, now: float) -> None:
        """The supervisor's word on itself and all workers."""
        last = self._fleet or fleet
        if fleet.pid != last.pid or fleet.uptime_seconds < last.uptime_seconds:
            # Another daemon, perhaps on a machine that was started anew: when its workers were forked
            # cannot be compared with what is known of its predecessor's.
            self._epoch += 1
        goes_on = self._fleet is not None and fleet.pid == last.pid
        before = last.restarts if goes_on and fleet.restarts >= last.restarts else 0
        self.own.add("worker_restarts", max(0, fleet.restarts - before))
        self.own.add("bridge_messages", label="fleet")
        self._fleet = fleet
        self._heard = self._fleet_at = now
        self._states = {line.pid: line.state for line in fleet.workers}
        slots = range(max(0, min(fleet.slots, MOST_SLOTS)))
        self._wanted = {slot: self._wanted.get(slot, now) for slot in slots}
        for slot in slots:
            self._slots.setdefault(slot, _zeros())

    def receive_garbage(self) -> bool:
        """Something that is no message of ours: counted. Always false."""
        self.own.add("bridge_messages", label="garbage")
        return False

    # --- to collect

    def is_connected(self, now: float) -> bool:
        """Whether anything was heard of late."""
        return now - self._heard <= SILENT_SECONDS

    def render(self, form: Format, now: float) -> str:
        """Everything, as one text."""
        lines: list[str] = []
        for family, samples in self._everything(now):
            lines.append(_preamble(family, form))
            lines += samples
        if form is Format.OPENMETRICS:
            lines.append("# EOF\n")
        return "".join(lines)

    # --- what was heard

    def _process(self, snapshot: Snapshot, now: float) -> _Process | None:
        """Whose figures these are; None when they are history."""
        known = self._seats.get(snapshot.seat)
        if known is not None:
            told = known.snapshot
            if (told.pid, told.begun) == (snapshot.pid, snapshot.begun):
                return known if snapshot.uptime_seconds > told.uptime_seconds else None
            if (self._epoch, snapshot.begun, snapshot.at_utc) <= known.age:
                return None
        known = self._seats[snapshot.seat] = _Process(snapshot, self._epoch, now, _zeros(), [])
        return known

    def _is_there(self, process: _Process, now: float) -> bool:
        """Whether it is fresh, and not gone by a later word of the supervisor."""
        fresh = now - process.seen <= SILENT_SECONDS
        return fresh and (self._fleet_at <= process.seen or process.snapshot.pid in self._states)

    def _newest(self) -> dict[int, _Process]:
        newest: dict[int, _Process] = {}
        for process in self._seats.values():
            slot = process.snapshot.slot
            if slot not in newest or newest[slot].age < process.age:
                newest[slot] = process
        return newest

    def _groups(
        self, newest: dict[int, _Process], now: float
    ) -> list[tuple[str, str, list[float]]]:
        """Slot, stage and gauges of everybody who is there."""
        groups: dict[tuple[int, str], list[list[float]]] = {}
        for process in self._seats.values():
            if self._is_there(process, now):
                slot = process.snapshot.slot
                ending = self._states.get(process.snapshot.pid) in _ENDING
                stage = STAGES[ending or newest[slot] is not process]
                groups.setdefault((slot, stage), []).append(process.gauges)
        return [
            (str(slot), stage, _together(groups[slot, stage])) for slot, stage in sorted(groups)
        ]

    # --- what is written, family by family

    def _everything(self, now: float) -> Iterator[tuple[Family, Iterable[str]]]:
        newest = self._newest()
        yield from self._fleet_told(now)
        yield from self._workers_watched(newest, now)
        yield _WATCHED[-1], self._values(_WATCHED[-1], (), (float(self.is_connected(now)),))
        groups = self._groups(newest, now)
        for block in _GAUGES:
            yield block.family, self._worker_gauge(block, groups)
        rows = list(self._slots.values()) or [_zeros()]
        totals = [fsum(column) for column in zip(*rows, strict=True)]
        for block in _TOTALS:
            yield block.family, self._total(block.family, (), totals[block.low : block.high])
        for family in _BY_WORKER:
            yield family, self._worker_total(family)
        for family in _COUNTED:
            values = tuple(self.own.counters[family.name].values())
            yield family, self._values(family, (), values)

    def _fleet_told(self, now: float) -> Iterator[tuple[Family, Iterable[str]]]:
        fleet = self._fleet if now - self._fleet_at <= SILENT_SECONDS else None
        if fleet is None:
            yield from ((family, ()) for family in _TOLD)
            return
        states = [line.state if line.state in STATES else "other" for line in fleet.workers]
        told: dict[str, dict[str, float]] = {
            "build_info": {fleet.version: 1},
            "uptime_seconds": {"": fleet.uptime_seconds},
            "daemon_state": {word: fleet.state == word for word in DAEMON_STATES},
            "workers_wanted": {"": fleet.slots},
            "workers": {word: states.count(word) for word in STATES},
            "config_generation": {"": fleet.generation},
            "last_reload_ok": {"": fleet.last_reload in {"", "done"}},
        }
        for family in _TOLD:
            yield (
                family,
                [_sample(family, label, told[family.name][label]) for label in told[family.name]],
            )

    def _workers_watched(
        self, newest: dict[int, _Process], now: float
    ) -> Iterator[tuple[Family, Iterable[str]]]:
        up, age = _WATCHED[:2]
        ups, ages = [], []
        for slot, since in self._wanted.items():
            process = newest.get(slot)
            seen = since if process is None else max(since, process.seen)
            there = process is not None and self._is_there(process, now)
            ups.append(_sample(up, str(slot), there))
            ages.append(_sample(age, str(slot), round(now - seen, 3)))
        yield up, ups
        yield age, ages

    def _worker_gauge(
        self, block: _Block, groups: list[tuple[str, str, list[float]]]
    ) -> Iterator[str]:
        for slot, stage, gauges in groups:
            labels = (("worker", slot), ("stage", stage))
            yield from self._values(block.family, labels, gauges[block.low : block.high])

    def _worker_total(self, family: Family) -> Iterator[str]:
        block = _PLACES[family.name.removeprefix("worker_")]
        for slot in sorted(self._slots):
            figures = self._slots[slot][block.low : block.high]
            yield from self._total(family, (("worker", str(slot)),), figures)

    def _total(
        self, family: Family, labels: tuple[tuple[str, str], ...], figures: list[float]
    ) -> Iterable[str]:
        if family.kind is not Kind.HISTOGRAM:
            return self._values(family, labels, figures)
        counts = list(accumulate(figures[:-1]))
        return self._values(family, labels, [*counts, counts[-1], figures[-1]])

    def _values(
        self, family: Family, labels: tuple[tuple[str, str], ...], values: Iterable[float]
    ) -> Iterator[str]:
        """One line per value, in the order of the family's names."""
        key = (family.name, *(value for _, value in labels))
        heads = self._heads.get(key)
        if heads is None:
            heads = self._heads[key] = tuple(_names(family, labels))
        for head, value in zip(heads, values, strict=True):
            yield f"{head} {_number(value)}\n"


# --- figures out of a snapshot, whatever stands in it ---------------------------------------------


def _zeros() -> list[float]:
    return [0.0] * _TOTALS[-1].high


def _totals_of(snapshot: Snapshot, before: list[float]) -> list[float]:
    """The row of a snapshot; a figure that is missing, fell, or cannot be, is as it was before."""
    row: list[float] = []
    for block in _TOTALS:
        family = block.family
        if family.kind is Kind.COUNTER:
            series = snapshot.counters.get(family.name, {})
            row += [series.get(value, 0.0) for value in family.values or ("",)]
        else:
            row += _histogram(snapshot.histograms.get(family.name), block.high - block.low)
    return [new if old < new <= _MOST else old for new, old in zip(row, before, strict=True)]


def _histogram(buckets: Buckets | None, width: int) -> list[float]:
    if buckets is None or len(buckets.counts) != width - 1:
        return [0.0] * width
    return [*buckets.counts, buckets.sum]


def _gauges_of(snapshot: Snapshot) -> list[float]:
    row: list[float] = []
    for block in _GAUGES:
        series = snapshot.gauges.get(block.family.name, {})
        row += [series.get(value, 0.0) for value in block.family.values or ("",)]
    return [value if abs(value) <= _MOST else 0.0 for value in row]


def _together(rows: list[list[float]]) -> list[float]:
    """Several processes as one."""
    if len(rows) == 1:
        return rows[0]
    row: list[float] = []
    for block in _GAUGES:
        add = max if block.family.name in _WORST else sum
        row += [
            add(column) for column in zip(*(r[block.low : block.high] for r in rows), strict=True)
        ]
    return row


# --- text -----------------------------------------------------------------------------------------


def negotiate(accept: str) -> Format:
    """What an Accept header (RFC 9110 §12.5.1) gets: OpenMetrics only when it is asked for by name."""
    wished = {Format.OPENMETRICS: 0.0, Format.TEXT: 0.0}
    for choice in accept.split(","):
        media, *parameters = (part.strip().lower() for part in choice.split(";"))
        given = dict(part.partition("=")[::2] for part in parameters)
        form = _MEDIA.get((media, given.get("version", "")))
        if form is not None:
            wished[form] = max(wished[form], _quality(given.get("q", "1")))
    openmetrics = wished[Format.OPENMETRICS]
    return Format.OPENMETRICS if openmetrics and openmetrics >= wished[Format.TEXT] else Format.TEXT


_MEDIA = {
    ("application/openmetrics-text", "1.0.0"): Format.OPENMETRICS,
    ("application/openmetrics-text", ""): Format.OPENMETRICS,
    ("text/plain", "0.0.4"): Format.TEXT,
    ("text/plain", ""): Format.TEXT,
}


def _quality(text: str) -> float:
    """A qvalue; one that is none counts as not wished for."""
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0.0 <= quality <= 1.0 else 0.0


def _preamble(family: Family, form: Format) -> str:
    """HELP, TYPE and UNIT: OpenMetrics names the family, the older format its samples."""
    name, kind, help_ = f"flowcatd_{family.name}", str(family.kind), _escape(family.help)
    unit = ""
    if form is Format.OPENMETRICS:
        name = name.removesuffix("_info") if family.kind is Kind.INFO else name
        unit = f"# UNIT {name} {family.unit}\n" if family.unit else ""
    else:
        name = f"{name}_total" if family.kind is Kind.COUNTER else name
        kind = "gauge" if family.kind is Kind.INFO else kind
        help_ = help_.replace('\\"', '"')
    return f"# HELP {name} {help_}\n# TYPE {name} {kind}\n{unit}"


def _names(family: Family, labels: tuple[tuple[str, str], ...]) -> Iterator[str]:
    """What stands before the values of a family, one per figure, labels included."""
    name = f"flowcatd_{family.name}"
    if family.kind is Kind.HISTOGRAM:
        for bound in (*map(repr, family.bounds), "+Inf"):
            yield f"{name}_bucket{_braces((*labels, ('le', bound)))}"
        yield f"{name}_count{_braces(labels)}"
        yield f"{name}_sum{_braces(labels)}"
        return
    name = f"{name}_total" if family.kind is Kind.COUNTER else name
    for value in family.values or ("",):
        own = ((family.label, value),) if family.label else ()
        yield f"{name}{_braces((*labels, *own))}"


def _sample(family: Family, label: str, value: float) -> str:
    """A line whose label's value is not in the table."""
    own = ((family.label, label),) if family.label else ()
    return f"flowcatd_{family.name}{_braces(own)} {_number(value)}\n"


def _braces(labels: tuple[tuple[str, str], ...]) -> str:
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in labels)
    return f"{{{pairs}}}" if pairs else ""


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
