"""The switchboard's decisions: who asked what, which workers still owe an answer, and until when.

Pure. A message of an operator is answered at once (status), by the workers together (calls, hangup,
ladder, trunks, log-level) or by the supervisor (drain, reload, upgrade, scale, log-level):

    Ask ─► Pending ──Order──► every worker in `owing` ──Report──┐
              │  └───Ask, under an id of ours──► supervisor ─Answer, until done─┤
              └─ due: who still owes is `missing` ─────────────────────────────┴─► one last reply

Workers are known by what they say (Hello, Beat) and by the supervisor's Fleet. One that Fleet counts
as serving and that has not been heard yet is owed by too: it gets the order when it says Hello. One
that Fleet no longer has and that is silent is forgotten. Identities: see `control.worker_identity`;
the shell sees to it that nobody on another machine can have such a one.

What is not understood is answered by Refused, and costs nothing else. Everything has a bound: asks
pending altogether and per operator, workers, calls listed. An operator is remembered only as long as
an ask of its own is pending, so one that went away is forgotten by its deadline at the latest.

Use: `receive`, `receive_supervisor`, `receive_gone` or `wake`, then drain `outgoing`, `to_supervisor`
and `events`, in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from flowcatd.control import (
    MESSAGE_MAX,
    Answer,
    Ask,
    AskCalls,
    AskDrain,
    AskHangUp,
    AskLadder,
    AskLogLevel,
    AskReload,
    AskScale,
    AskStatus,
    AskTrunks,
    AskUpgrade,
    Beat,
    CallLine,
    Calls,
    Fleet,
    FromSupervisor,
    Hello,
    LadderIs,
    Level,
    Order,
    OrderCalls,
    OrderHangUp,
    OrderLadder,
    OrderLogLevel,
    OrderTrunks,
    Reader,
    Refused,
    Report,
    ReportCalls,
    ReportDone,
    ReportLadder,
    ReportTrunks,
    Status,
    TrunkLine,
    TrunksAre,
    WorkerLine,
    encode,
    id_of,
    merge_trunks,
    worker_identity,
)
from flowcatd.errors import ControlError, LocalError
from flowcatd.sip_figures import SipFigures

PENDING_MAX = 64
"""Asks that may wait for an answer; nobody types this fast, and each holds a fan-out."""
PENDING_PER_OPERATOR = 16
"""Of one operator: a script that runs wild leaves places for the person who wants to stop it."""
WORKERS_MAX = 1024
"""Workers remembered: 256 slots, four seats each."""
ASK_BYTES = 16 * 1024
"""The longest message of an operator; the longest meaningful one has 300 bytes."""
CALLS_MAX = 8192
"""Calls gathered for one reply: more than a message holds."""
TRUNKS_MAX = 4096
"""Trunks gathered for one reply; as many just fit into a message."""
OUTGOING_MAX = 16 * WORKERS_MAX
"""Undrained messages, before it is a mistake of ours."""

WORKERS_SECONDS = 2.0
"""How long workers have to answer: a hundred times what a busy loop takes."""
SUPERVISOR_SECONDS = 4.0
"""How long the supervisor has for its first answer."""
PROGRESS_SECONDS = 600.0
"""And from one answer to the next: longer than one slot takes to be replaced."""
SILENT_SECONDS = 3.0
"""A worker that Fleet does not have and that said nothing for this long is gone."""

SERVES = frozenset({"ready", "retiring", "draining"})
"""The states of a worker (control.WorkerLine) in which it has something to say about calls."""

_FOR_SUPERVISOR = (AskDrain, AskReload, AskUpgrade, AskScale, AskLogLevel)
_ORDERS: dict[type, Callable[..., Order]] = {
    AskCalls: lambda ask, own: OrderCalls(id=own),  # noqa: ARG005 every row is called alike
    AskHangUp: lambda ask, own: OrderHangUp(id=own, call=ask.call),
    AskLogLevel: lambda ask, own: OrderLogLevel(id=own, level=ask.level),
    AskLadder: lambda ask, own: OrderLadder(id=own, call=ask.call),
    AskTrunks: lambda ask, own: OrderTrunks(id=own),  # noqa: ARG005 as above
}
"""What workers are told about an ask."""


@dataclass(frozen=True, slots=True)
class Send:
    """One message for the peer of this identity."""

    identity: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class FleetTold:
    """The supervisor said how the daemon is: publish it."""

    data: bytes
    is_reloaded: bool
    """Another configuration is in force since the last one."""


@dataclass(frozen=True, slots=True)
class LevelAsked:
    """Log lines from this level up, here too."""

    level: Level


Event = FleetTold | LevelAsked


@dataclass(slots=True)
class _Worker:
    slot: int
    calls: int
    heard: float


@dataclass(slots=True)
class _Pending:
    asker: bytes
    ask: Ask
    due: float
    owing: dict[bytes, int]
    """Workers that have not answered, with their slots."""
    supervisor_owes: bool
    answered: int = 0
    missing: set[int] = field(default_factory=set)
    calls: list[CallLine] = field(default_factory=list)
    left_off: int = 0
    sip: SipFigures | None = None
    trunks: list[TrunkLine] = field(default_factory=list)


class Routing:
    """All asks of all operators; the shell carries what it says."""

    def __init__(self, mark: str) -> None:
        """`mark` is this life's own (its pid), so that no late answer is taken for another's."""
        self._mark = mark
        self._count = 0
        self._asks = Reader(Ask)
        self._reports = Reader(Report)
        self._supervisor = Reader(FromSupervisor)
        self._workers: dict[bytes, _Worker] = {}
        self._pending: dict[str, _Pending] = {}
        self._fleet: Fleet | None = None
        self._outgoing: list[Send] = []
        self._to_supervisor: list[bytes] = []
        self._events: list[Event] = []
        self.refused = 0
        """Messages not understood so far, from anywhere."""

    def __len__(self) -> int:
        """How many asks are pending."""
        return len(self._pending)

    @property
    def workers(self) -> int:
        """How many workers are known by their own word."""
        return len(self._workers)

    # --- what is said to us

    def receive(self, identity: bytes, data: bytes, now: float) -> None:
        """A message at the ROUTER; whatever it is, it is answered or taken."""
        self._check_drained()
        try:
            if identity.startswith(b"worker."):
                self._hear(identity, self._reports.decode(data), now)
            else:
                _check_size(data)
                self._take(identity, self._asks.decode(data), now)
        except ControlError as error:
            self.refused += 1
            refusal = Refused(id=id_of(data), code=error.code, text=error.problem)
            self._say(identity, refusal)

    def receive_supervisor(self, data: bytes, now: float) -> None:
        """A message of the supervisor; garbage is counted."""
        self._check_drained()
        try:
            message = self._supervisor.decode(data)
        except ControlError:
            self.refused += 1
            return
        if isinstance(message, Fleet):
            self._learn(message, data, now)
        elif isinstance(message, Answer):
            self._pass_on(message, now)

    def receive_gone(self, identity: bytes, now: float) -> None:
        """Nobody has this identity any more: what was sent there did not arrive."""
        self._check_drained()
        self._workers.pop(identity, None)
        for own, pending in list(self._pending.items()):
            if pending.asker == identity:
                del self._pending[own]
            elif identity in pending.owing:
                slot = pending.owing.pop(identity)
                # A worker that ended has no calls; one that should be there is missed.
                if identity in self._serving():
                    pending.missing.add(slot)
                self._settle(own, now)

    def receive_lost(self, data: bytes, now: float) -> None:
        """What we gave for the supervisor could not be sent."""
        own = id_of(data)
        if own in self._pending:
            self._pass_on(Answer(id=own, ok=False, text="the supervisor does not read"), now)

    def wake_at(self) -> float | None:
        """The earliest deadline of a pending ask."""
        return min((pending.due for pending in self._pending.values()), default=None)

    def wake(self, now: float) -> None:
        """Asks that are due are answered with what there is."""
        self._check_drained()
        for own, pending in list(self._pending.items()):
            if pending.due <= now:
                self._finish(own)

    # --- what we say

    def outgoing(self) -> list[Send]:
        """Drain what goes to operators and workers."""
        drained, self._outgoing = self._outgoing, []
        return drained

    def to_supervisor(self) -> list[bytes]:
        """Drain what goes to the supervisor."""
        drained, self._to_supervisor = self._to_supervisor, []
        return drained

    def events(self) -> list[Event]:
        """Drain what the switchboard itself should do."""
        drained, self._events = self._events, []
        return drained

    # --- asks

    def _take(self, identity: bytes, ask: msgspec.Struct, now: float) -> None:
        assert isinstance(ask, Ask)
        if isinstance(ask, AskStatus):
            self._say(identity, Status(id=ask.id, fleet=self._fleet_now()))
            return
        mine = sum(1 for pending in self._pending.values() if pending.asker == identity)
        if len(self._pending) >= PENDING_MAX or mine >= PENDING_PER_OPERATOR:
            raise ControlError("busy", "too many asks are waiting for their answers; try again")
        self._count += 1
        own = f"{self._mark}-{self._count}"
        for_workers = type(ask) in _ORDERS
        pending = _Pending(
            asker=identity,
            ask=ask,
            due=now + (WORKERS_SECONDS if for_workers else SUPERVISOR_SECONDS),
            owing=self._expected() if for_workers else {},
            supervisor_owes=isinstance(ask, _FOR_SUPERVISOR),
        )
        self._pending[own] = pending
        if pending.supervisor_owes:
            self._to_supervisor.append(encode(msgspec.structs.replace(ask, id=own)))
        if isinstance(ask, AskLogLevel):
            self._events.append(LevelAsked(ask.level))
        for worker in pending.owing.keys() & self._workers.keys():
            self._say(worker, _ORDERS[type(ask)](ask, own))
        self._settle(own, now)

    def _expected(self) -> dict[bytes, int]:
        """Who has to answer: who was heard, and who should be."""
        heard = {identity: worker.slot for identity, worker in self._workers.items()}
        return heard | self._serving()

    def _serving(self) -> dict[bytes, int]:
        lines = self._fleet.workers if self._fleet else []
        return {_identity(line): line.slot for line in lines if line.state in SERVES}

    def _fleet_now(self) -> Fleet | None:
        if self._fleet is None:
            return None
        lines = [self._with_beat(line) for line in self._fleet.workers]
        return msgspec.structs.replace(self._fleet, workers=lines)

    def _with_beat(self, line: WorkerLine) -> WorkerLine:
        """Calls by the worker's own word, where the supervisor has no figures at all."""
        worker = self._workers.get(_identity(line))
        if worker is None or line.calls or line.capacity:
            return line
        return msgspec.structs.replace(line, calls=worker.calls)

    # --- workers

    def _hear(self, identity: bytes, report: msgspec.Struct, now: float) -> None:
        match report:
            case Hello() | Beat():
                if worker_identity(report.seat, report.pid) != identity:
                    raise ControlError("garbage", "seat and pid are not this sender's")
                calls = report.calls if isinstance(report, Beat) else 0
                self._meet(identity, _Worker(report.slot, calls, now))
            case (
                ReportCalls(id=own)
                | ReportDone(id=own)
                | ReportLadder(id=own)
                | ReportTrunks(id=own)
            ):
                if identity in self._workers:
                    self._workers[identity].heard = now
                pending = self._pending.get(own)
                if pending is not None and pending.owing.pop(identity, None) is not None:
                    self._count_in(pending, report)
                    self._settle(own, now)

    def _meet(self, identity: bytes, worker: _Worker) -> None:
        is_new = identity not in self._workers
        if is_new and len(self._workers) >= WORKERS_MAX:
            quietest = min(self._workers, key=lambda known: self._workers[known].heard)
            del self._workers[quietest]
        self._workers[identity] = worker
        if is_new:
            for own, pending in self._pending.items():
                if identity in pending.owing:
                    self._say(identity, _ORDERS[type(pending.ask)](pending.ask, own))

    def _count_in(self, pending: _Pending, report: msgspec.Struct) -> None:
        match report:
            case ReportCalls():
                room = CALLS_MAX - len(pending.calls)
                pending.calls += report.calls[:room]
                pending.left_off += max(0, len(report.calls) - room)
            case ReportDone():
                pending.answered += report.found
            case ReportLadder() if report.sip is not None:
                pending.answered += 1
                pending.sip = report.sip
            case ReportTrunks():
                pending.trunks = merge_trunks([*pending.trunks, *report.trunks])[:TRUNKS_MAX]

    # --- the supervisor

    def _learn(self, fleet: Fleet, data: bytes, now: float) -> None:
        before = self._fleet.generation if self._fleet else fleet.generation
        self._fleet = fleet
        there = {_identity(line) for line in fleet.workers}
        for identity, worker in list(self._workers.items()):
            if identity not in there and now - worker.heard > SILENT_SECONDS:
                del self._workers[identity]
        self._events.append(FleetTold(data, is_reloaded=fleet.generation != before))

    def _pass_on(self, answer: Answer, now: float) -> None:
        pending = self._pending.get(answer.id)
        if pending is None or not pending.supervisor_owes:
            return  # its asker went away, or it is late
        if isinstance(pending.ask, AskLogLevel):
            pending.supervisor_owes = not answer.done
            self._settle(answer.id, now)
            return
        if answer.done:
            del self._pending[answer.id]
        else:
            pending.due = now + PROGRESS_SECONDS
        self._say(pending.asker, msgspec.structs.replace(answer, id=pending.ask.id))

    # --- the last reply

    def _settle(self, own: str, now: float) -> None:
        """Finish what nobody owes anything to any more, or where nothing more can change."""
        pending = self._pending.get(own)
        if pending is None:
            return
        is_found = isinstance(pending.ask, AskHangUp | AskLadder) and pending.answered > 0
        if is_found or not (pending.owing or pending.supervisor_owes) or pending.due <= now:
            self._finish(own)

    def _finish(self, own: str) -> None:
        pending = self._pending.pop(own)
        missing = sorted({*pending.missing, *pending.owing.values()})
        if isinstance(pending.ask, AskCalls):
            self._list(pending, pending.ask.id, missing)
        else:
            self._say(pending.asker, _last_reply(pending, missing))

    def _list(self, pending: _Pending, id_: str, missing: list[int]) -> None:
        """The calls, as many as one message holds."""
        calls, left_off = pending.calls, pending.left_off
        data = encode(Calls(id=id_, calls=calls, missing=missing, left_off=left_off))
        while len(data) > MESSAGE_MAX:
            keep = len(calls) * MESSAGE_MAX // len(data) * 9 // 10
            left_off += len(calls) - keep
            calls = calls[:keep]
            data = encode(Calls(id=id_, calls=calls, missing=missing, left_off=left_off))
        self._outgoing.append(Send(pending.asker, data))

    def _say(self, identity: bytes, message: msgspec.Struct) -> None:
        self._outgoing.append(Send(identity, encode(message)))

    def _check_drained(self) -> None:
        if len(self._outgoing) + len(self._to_supervisor) + len(self._events) >= OUTGOING_MAX:
            raise LocalError("what routing says is not drained")


def _last_reply(pending: _Pending, missing: list[int]) -> Answer | LadderIs | TrunksAre:
    """What became of an ask other than AskCalls, whose reply has to be cut to its size."""
    match pending.ask:
        case AskHangUp(id=id_):
            found = pending.answered > 0
            text = "the call is told to end" if found else f"no such call{_but(missing)}"
            return Answer(id=id_, text=text, ok=found)
        case AskLogLevel(id=id_, level=level):
            good = not missing and not pending.supervisor_owes
            silent = " (the supervisor did not answer)" if pending.supervisor_owes else ""
            return Answer(id=id_, text=f"log level is {level}{_but(missing)}{silent}", ok=good)
        case AskLadder(id=id_):
            return LadderIs(id=id_, sip=pending.sip, missing=missing)
        case AskTrunks(id=id_):
            return TrunksAre(id=id_, trunks=pending.trunks, missing=missing)
    text = "the supervisor has not answered in time; it may still do it"
    return Answer(id=pending.ask.id, text=text, ok=False)


def _check_size(data: bytes) -> None:
    if len(data) > ASK_BYTES:
        raise ControlError("size", f"an ask of {len(data)} bytes is over {ASK_BYTES}")


def _identity(line: WorkerLine) -> bytes:
    return worker_identity(line.seat, line.pid)


def _but(missing: list[int]) -> str:
    """Who could not be asked, as the end of a sentence."""
    slots = ", ".join(map(str, missing))
    return f", but worker {slots} did not answer" if missing else ""
