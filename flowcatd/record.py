"""The call record: one JSON document that says what became of a call.

`Ledger` is what a call writes into while it lives; `finish` turns it into the frozen `CallRecord`.
The record holds figures and outcome, and what the agent was there to collect. It never holds what
was said (that is the transcript's), which keys were pressed, or a number or secret: `error` and
`problems` are texts that were made safe where they were raised.

Times: the ledger is told the wall time once, at the start; all later times are that plus monotonic
time passed, so a clock that is set during a call cannot make one negative. All text from outside is
cut at TEXT_MAX, and every list has a limit, since a call may last for days.

Who ended a call follows from why it ended: one table, ENDED_BY.

A ledger's `snapshot` is what a call's journal keeps of it, and `restored` goes on from there in
another process: one call, one record, however many workers carried it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import msgspec

from flowcatd.errors import LocalError
from flowcatd.services import Usage
from flowcatd.sip_figures import SipFigures

VERSION = 1
"""Of the JSON document; raised when a reader of the old one would misread the new."""

TEXT_MAX = 500
"""Characters of any one text in a record."""

LIST_MAX = 1000
"""Latencies, moves and variables kept; the figures go on counting beyond it."""

PROBLEMS_MAX = 100
"""Different problems kept; the same one again is counted, not repeated."""

_TOKEN = frozenset("0123456789abcdefghijklmnopqrstuvwxyz")


class EndedBy(StrEnum):
    """Whose doing the end was."""

    CALLER = "caller"
    AGENT = "agent"
    CARRIER = "carrier"
    DAEMON = "daemon"


class Reason(StrEnum):
    """Why a call ended: the closed set."""

    COMPLETED = "completed"
    """The agent was done and hung up."""
    AGENT_FAILED = "agent_failed"
    """The agent could not go on: its own error, or a provider it cannot do without."""
    CALLER_HUNG_UP = "caller_hung_up"
    """The caller closed the media connection in good order."""
    NEVER_SPOKE = "never_spoke"
    """The caller was silent for as long as the agent's patience lasted."""
    CARRIER_STOPPED = "carrier_stopped"
    """The carrier ended the stream; mostly because the caller hung up, but it does not say."""
    SOCKET_LOST = "socket_lost"
    """The media connection broke off."""
    NEVER_STARTED = "never_started"
    """The media connection was opened, and no stream ever began on it."""
    PROTOCOL_ERROR = "protocol_error"
    """The far end broke its protocol; `close_code` is what it was told."""
    TRANSFERRED = "transferred"
    """The agent handed the call over, and the other side took it."""
    NOT_ANSWERED = "not_answered"
    """A call of ours that rang and that nobody answered."""
    REFUSED = "refused"
    """A call of ours that the other side refused, or that reached nobody."""
    CANCELLED = "cancelled"
    """An operator ended it."""
    MAX_DURATION = "max_duration"
    """It reached the longest duration allowed."""
    DRAINED = "drained"
    """The daemon stopped, and its patience with calls had run out."""
    WORKER_LOST = "worker_lost"
    """The worker that carried it died, and the far end did not come back in time."""
    INTERNAL_ERROR = "internal_error"
    """A fault of ours."""


ENDED_BY: dict[Reason, EndedBy] = {
    Reason.COMPLETED: EndedBy.AGENT,
    Reason.AGENT_FAILED: EndedBy.AGENT,
    Reason.CALLER_HUNG_UP: EndedBy.CALLER,
    Reason.NEVER_SPOKE: EndedBy.AGENT,
    Reason.CARRIER_STOPPED: EndedBy.CARRIER,
    Reason.SOCKET_LOST: EndedBy.CARRIER,
    Reason.NEVER_STARTED: EndedBy.CARRIER,
    Reason.PROTOCOL_ERROR: EndedBy.CARRIER,
    Reason.TRANSFERRED: EndedBy.AGENT,
    Reason.NOT_ANSWERED: EndedBy.CARRIER,
    Reason.REFUSED: EndedBy.CARRIER,
    Reason.CANCELLED: EndedBy.DAEMON,
    Reason.MAX_DURATION: EndedBy.DAEMON,
    Reason.DRAINED: EndedBy.DAEMON,
    Reason.WORKER_LOST: EndedBy.DAEMON,
    Reason.INTERNAL_ERROR: EndedBy.DAEMON,
}


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which call this is, as known when it begins."""

    call_id: str
    run_id: str = ""
    """The session it was resolved from, where there is one."""
    carrier: str
    """The name of the carrier's row."""
    agent: str
    worker_slot: int


class Turns(msgspec.Struct, kw_only=True):
    """How the conversation went, in counts."""

    user: int = 0
    bot: int = 0
    interruptions: int = 0
    digits: int = 0
    """Keys pressed; which ones is nobody's business."""
    no_match: int = 0
    """Speech that nothing expected could explain."""
    no_input: int = 0
    """Waits that ended in silence."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """From the caller's last word to the agent's first sample, turn by turn."""

    count: int = 0
    p50_ms: int | None = None
    """The median of `turns_ms`; null when there was none."""
    max_ms: int | None = None
    """Of all turns, also those beyond the list's limit."""
    turns_ms: list[int] = []


class AudioSeconds(msgspec.Struct, kw_only=True):
    """How much audio came and went."""

    caller: float = 0.0
    agent: float = 0.0


class Files(msgspec.Struct, kw_only=True):
    """What else was kept, as names beside the record; empty where there is none."""

    recording: str = ""
    transcript: str = ""
    later_recordings: list[str] = []
    """One for each time that the call was taken up again after its worker had died, in order."""


class Move(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The agent went from one state to another."""

    source: str
    target: str
    event: str
    at_seconds: float
    """Since the call started."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something the call survived."""

    where: str
    reason: str
    times: int = 1


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended."""

    reason: Reason
    error: str = ""
    """A sentence that is safe to show; empty when nothing went wrong."""
    close_code: int | None = None
    """The WebSocket close code that went over the wire, ours or theirs (RFC 6455 §7.4)."""


class CallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The document; times are RFC 3339 in UTC with milliseconds."""

    record: int = VERSION
    call_id: str
    run_id: str
    carrier: str
    carrier_call_id: str
    stream_id: str
    agent: str
    worker_slot: int
    started_at_utc: str
    answered_at_utc: str | None
    """When the stream began; null when it never did."""
    ended_at_utc: str
    duration_seconds: float
    """From start to end."""
    talk_seconds: float
    """From answer to end."""
    ended_by: EndedBy
    reason: Reason
    error: str
    close_code: int | None
    turns: Turns
    latency: Latency
    audio_seconds: AudioSeconds
    usage: Usage
    variables: dict[str, str]
    states: list[Move]
    files: Files
    problems: list[Problem]
    leftovers: list[str]
    """Names of tasks, sockets and timers still there five seconds after the end: a bug of ours."""
    resumed: int = 0
    """How often the call went on after the worker that carried it had died."""
    sip: SipFigures | None = None
    """Of a call over SIP."""


class LedgerState(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger as it was at one moment; times are seconds since the call started."""

    started_at_utc: datetime
    elapsed: float
    """The moment this was taken."""
    answered: float | None = None
    carrier_call_id: str = ""
    stream_id: str = ""
    turns: Turns
    audio_seconds: AudioSeconds
    usage: Usage
    files: Files
    latencies: list[int] = []
    latency_count: int = 0
    latency_max: int = 0
    moves: list[Move] = []
    problems: list[Problem] = []
    resumed: int = 0
    sip: SipFigures | None = None


class Ledger:
    """What a living call writes down; times are the `now` of its scope."""

    def __init__(self, identity: Identity, at_utc: datetime, now: float) -> None:
        """The call starts: `at_utc` is the one reading of the wall clock, `now` the same moment."""
        self.identity = identity
        self.turns = Turns()
        self.audio_seconds = AudioSeconds()
        self.usage = Usage()
        self.files = Files()
        self._at_utc = at_utc
        self._started = now
        self._answered: float | None = None
        self._carrier_ids = ("", "")
        self._latencies: list[int] = []
        self._latency_count = 0
        self._latency_max = 0
        self._moves: list[Move] = []
        self._problems: dict[tuple[str, str], int] = {}
        self.resumed = 0
        """How often the call went on in another worker."""
        self.sip: SipFigures | None = None
        """Written by the leg of a call over SIP."""

    @classmethod
    def restored(cls, identity: Identity, state: LedgerState, now: float, gap: float) -> Ledger:
        """Go on with a ledger: `gap` is how many seconds ago `state` was taken."""
        ledger = cls(identity, state.started_at_utc, now - state.elapsed - max(0.0, gap))
        ledger.turns = state.turns
        ledger.audio_seconds = state.audio_seconds
        ledger.usage = state.usage
        ledger.files = state.files
        if state.answered is not None:
            ledger._answered = ledger._started + state.answered
        ledger._carrier_ids = (state.carrier_call_id, state.stream_id)
        ledger._latencies = list(state.latencies)
        ledger._latency_count = state.latency_count
        ledger._latency_max = state.latency_max
        ledger._moves = list(state.moves)
        ledger._problems = {(each.where, each.reason): each.times for each in state.problems}
        ledger.resumed = state.resumed
        ledger.sip = state.sip
        return ledger

    def snapshot(self, now: float) -> LedgerState:
        """What there is so far; what it holds is the ledger's own, so encode it before going on."""
        answered = self._answered
        return LedgerState(
            started_at_utc=self._at_utc,
            elapsed=round(now - self._started, 3),
            answered=None if answered is None else round(answered - self._started, 3),
            carrier_call_id=self._carrier_ids[0],
            stream_id=self._carrier_ids[1],
            turns=self.turns,
            audio_seconds=self.audio_seconds,
            usage=self.usage,
            files=self.files,
            latencies=self._latencies,
            latency_count=self._latency_count,
            latency_max=self._latency_max,
            moves=self._moves,
            problems=self._problem_list(),
            resumed=self.resumed,
            sip=self.sip,
        )

    @property
    def answered_at(self) -> float | None:
        """When the stream began, in this process's monotonic seconds; also before this process."""
        return self._answered

    def answered(self, now: float, *, carrier_call_id: str = "", stream_id: str = "") -> None:
        """The stream began, under the carrier's own names for it; only the first time counts."""
        if self._answered is None:
            self._answered = now
            self._carrier_ids = (_cut(carrier_call_id), _cut(stream_id))

    def responded(self, latency_ms: int) -> None:
        """The agent's first sample left this long after the caller's last word."""
        self._latency_count += 1
        self._latency_max = max(self._latency_max, latency_ms)
        if len(self._latencies) < LIST_MAX:
            self._latencies.append(latency_ms)

    def moved(self, now: float, source: str, target: str, event: str) -> None:
        """The agent changed its state."""
        if len(self._moves) < LIST_MAX:
            at_seconds = round(now - self._started, 3)
            self._moves.append(
                Move(
                    source=_cut(source),
                    target=_cut(target),
                    event=_cut(event),
                    at_seconds=at_seconds,
                )
            )

    def problem(self, where: str, reason: str) -> None:
        """Something went wrong that the call survives; both texts are safe to show."""
        key = (_cut(where), _cut(reason))
        if key in self._problems or len(self._problems) < PROBLEMS_MAX:
            self._problems[key] = self._problems.get(key, 0) + 1

    def finish(
        self,
        now: float,
        outcome: Outcome,
        *,
        variables: Mapping[str, str] | None = None,
        leftovers: Iterable[str] = (),
    ) -> CallRecord:
        """The record of a call that ended at `now`, with what the agent had collected by then."""
        identity = self.identity
        answered = self._answered
        return CallRecord(
            call_id=identity.call_id,
            run_id=_cut(identity.run_id),
            carrier=identity.carrier,
            carrier_call_id=self._carrier_ids[0],
            stream_id=self._carrier_ids[1],
            agent=identity.agent,
            worker_slot=identity.worker_slot,
            started_at_utc=rfc3339(self._at_utc),
            answered_at_utc=None if answered is None else self._wall(answered),
            ended_at_utc=self._wall(now),
            duration_seconds=round(now - self._started, 3),
            talk_seconds=0.0 if answered is None else round(now - answered, 3),
            ended_by=ENDED_BY[outcome.reason],
            reason=outcome.reason,
            error=_cut(outcome.error),
            close_code=outcome.close_code,
            turns=self.turns,
            latency=self._latency(),
            audio_seconds=self.audio_seconds,
            usage=self.usage,
            variables={
                _cut(name): _cut(value)
                for name, value in list((variables or {}).items())[:LIST_MAX]
            },
            states=list(self._moves),
            files=self.files,
            problems=self._problem_list(),
            leftovers=[_cut(name) for name in leftovers][:PROBLEMS_MAX],
            resumed=self.resumed,
            sip=self.sip,
        )

    def _problem_list(self) -> list[Problem]:
        return [
            Problem(where=where, reason=reason, times=times)
            for (where, reason), times in self._problems.items()
        ]

    def _latency(self) -> Latency:
        if not self._latencies:
            return Latency()
        ordered = sorted(self._latencies)
        return Latency(
            count=self._latency_count,
            p50_ms=ordered[(len(ordered) - 1) // 2],
            max_ms=self._latency_max,
            turns_ms=list(self._latencies),
        )

    def _wall(self, now: float) -> str:
        return rfc3339(self._at_utc + timedelta(seconds=now - self._started))


def render(record: CallRecord) -> bytes:
    """The record as an indented JSON document, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def rfc3339(at_utc: datetime) -> str:
    """`2026-11-20T21:05:02.345Z`."""
    return _in_utc(at_utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_call_id(at_utc: datetime, token: str) -> str:
    """`20261120T210502Z-3f9c2a1b`: sorts by time, fits a file name, and is unique as `token` is.

    `token` is 8 to 32 lower-case letters and digits that nobody can guess.
    """
    if not (8 <= len(token) <= 32 and _TOKEN.issuperset(token)):
        raise LocalError(f"a call id's token of {len(token)} characters is not 8 to 32 of 0-9 a-z")
    return f"{_in_utc(at_utc):%Y%m%dT%H%M%SZ}-{token}"


def _in_utc(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise LocalError("a wall time without its zone is no wall time")
    return at.astimezone(UTC)


def _cut(text: str) -> str:
    return text[:TEXT_MAX]
