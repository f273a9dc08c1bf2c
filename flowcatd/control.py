"""What supervisor, workers, switchboard and operators say to each other: versioned structs in JSON.

    operator (DEALER) ──Ask──► switchboard (ROUTER) ──Order──► worker (DEALER)
                      ◄─Answer─                     ◄─Report──
    supervisor ◄──Ask── switchboard ──► supervisor: Fleet, Answer     (a socket pair, same encoding)
    worker (PUB) ──topic, JSON──► switchboard (XSUB → XPUB) ──► whoever subscribes

Every message is one JSON object in one ZeroMQ frame, with `type` (which struct) and `v` (VERSION).
`decode` refuses what it does not know with ControlError, whose `code` says why: `garbage` (not JSON,
not one of ours, a field of the wrong kind), `version` (another `v`), `size` (over MESSAGE_MAX). The
switchboard answers those with Refused and goes on; nobody is disconnected for it.

A message is for one direction only; the unions below say which. `id` is the asker's own, opaque, at
most 64 characters; every Answer to an Ask carries it, and the last one has `done`.

Published messages have two frames, topic and JSON. Topics: `metrics.<slot>` (metrics.Snapshot, once a
second per worker), `call.<event>` (CallEvent), `fleet` (Fleet, when something changed). Nothing that
is published, or answered, holds what a caller said, pressed or is called.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from flowcatd.errors import ControlError
from flowcatd.sip_figures import SipFigures

VERSION = 1
"""Of every message here; raised when a reader of the old ones would misread the new."""

MESSAGE_MAX = 1024 * 1024
"""Bytes of one message: a list of 3000 calls."""

Id = Annotated[str, msgspec.Meta(max_length=64)]
Level = Literal["debug", "info", "warning", "error"]


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    v: Literal[1] = 1


# --- what operators ask --------------------------------------------------------------------------


class AskStatus(_Message, frozen=True, kw_only=True, tag="status"):
    """How the daemon is. Answered by Status."""

    id: Id


class AskCalls(_Message, frozen=True, kw_only=True, tag="calls"):
    """Which calls are up. Answered by Calls."""

    id: Id


class AskHangUp(_Message, frozen=True, kw_only=True, tag="hangup"):
    """End one call, by its call id or run id. Answered by Answer."""

    id: Id
    call: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class AskDrain(_Message, frozen=True, kw_only=True, tag="drain"):
    """No new calls, live ones finish, then the daemon ends. Answered at once by Answer."""

    id: Id


class AskReload(_Message, frozen=True, kw_only=True, tag="reload"):
    """Read the configuration again and replace the workers one by one. Answers until `done`."""

    id: Id


class AskUpgrade(_Message, frozen=True, kw_only=True, tag="upgrade"):
    """Become the flowcatd that is installed now, then as reload. Answers until `done`."""

    id: Id


class AskScale(_Message, frozen=True, kw_only=True, tag="scale"):
    """Have this many workers. Answers until `done`."""

    id: Id
    count: Annotated[int, msgspec.Meta(ge=1, le=256)]


class AskLogLevel(_Message, frozen=True, kw_only=True, tag="log_level"):
    """Write lines from this level up, everywhere, until the next reload. Answered by Answer."""

    id: Id
    level: Level


class AskLadder(_Message, frozen=True, kw_only=True, tag="ladder"):
    """How one live call over SIP goes, by its call id or run id. Answered by LadderIs."""

    id: Id
    call: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class AskTrunks(_Message, frozen=True, kw_only=True, tag="trunks"):
    """How the SIP trunks are. Answered by TrunksAre."""

    id: Id


Ask = (
    AskStatus
    | AskCalls
    | AskHangUp
    | AskDrain
    | AskReload
    | AskUpgrade
    | AskScale
    | AskLogLevel
    | AskLadder
    | AskTrunks
)
"""From an operator; the switchboard passes Drain, Reload, Upgrade, Scale and LogLevel on."""


# --- what the daemon is made of ------------------------------------------------------------------


class WorkerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One worker process, as the supervisor and its row in the load table know it."""

    seat: int
    slot: int
    pid: int
    state: str
    """starting, ready, retiring, draining, stopping, hung …: the fleet's word in lower case."""
    generation: int
    """Which configuration it runs: 1 is the one the daemon started with."""
    seconds: float
    """Since it was forked."""
    calls: int = 0
    capacity: int = 0
    lag_ms: float = 0.0
    shedding: bool = False


class Fleet(_Message, frozen=True, kw_only=True, tag="fleet"):
    """Supervisor to switchboard, whenever something changed and once a second; published too."""

    version: str
    pid: int
    uptime_seconds: float
    state: str
    """starting, serving, reloading, draining, stopping."""
    slots: int
    """How many workers are wanted."""
    generation: int
    restarts: int
    """Workers lost unasked, since the start."""
    config: str
    address: str
    """host:port of HTTP and WebSocket."""
    metrics_address: str = ""
    last_reload: str = ""
    """How the last reload ended: empty, `done`, or what was wrong."""
    workers: list[WorkerLine] = []


class CallLine(msgspec.Struct, frozen=True, kw_only=True):
    """One live call."""

    call_id: str
    run_id: str
    carrier: str
    agent: str
    slot: int
    state: str
    seconds: float
    turns: int
    resumed: int = 0
    direction: str = ""
    """Of a call over SIP: inbound or outbound."""
    trunk: str = ""
    """Of a call over SIP: its trunk's name."""


class TrunkLine(msgspec.Struct, frozen=True, kw_only=True):
    """One SIP trunk, as one worker knows it, or as all of them together do (`merge_trunks`)."""

    name: str
    registration: str = ""
    """`off` where the trunk registers nowhere, else `registered`, `registering`, `failed`, `leaving` or
    `left`; empty by a worker that does not tend the trunk, which only one of the fleet does."""
    expires_seconds: float = 0.0
    """Until the registrar forgets us; 0 when it knows nothing of us."""
    failures: int = 0
    """Attempts to register in a row that failed."""
    alive: bool | None = None
    """Whether it answers our OPTIONS; None where nobody asks, or by another worker than the one that
    asks."""
    inbound: int = 0
    """Live calls in the whole fleet."""
    outbound: int = 0


# --- what is answered ----------------------------------------------------------------------------


class Status(_Message, frozen=True, kw_only=True, tag="status_is"):
    """Answers AskStatus."""

    id: Id
    fleet: Fleet | None = None
    """None while the supervisor has not reported yet."""


class Calls(_Message, frozen=True, kw_only=True, tag="calls_are"):
    """Answers AskCalls; `missing` are slots that did not answer in time."""

    id: Id
    calls: list[CallLine]
    missing: list[int] = []
    left_off: int = 0
    """Calls that did not fit into one message."""


class Answer(_Message, frozen=True, kw_only=True, tag="answer"):
    """How an Ask goes: zero or more that are not `done`, then one that is."""

    id: Id
    text: str
    done: bool = True
    ok: bool = True


class Refused(_Message, frozen=True, kw_only=True, tag="refused"):
    """The message was not understood; `code` is garbage, version, size or busy."""

    id: str = ""
    code: str
    text: str
    speaks: int = VERSION


class LadderIs(_Message, frozen=True, kw_only=True, tag="ladder_is"):
    """Answers AskLadder; `sip` is None when no worker that answered has such a call over SIP."""

    id: Id
    sip: SipFigures | None = None
    missing: list[int] = []


class TrunksAre(_Message, frozen=True, kw_only=True, tag="trunks_are"):
    """Answers AskTrunks, sorted by name; `missing` are slots that did not answer in time."""

    id: Id
    trunks: list[TrunkLine]
    missing: list[int] = []


Reply = Status | Calls | Answer | LadderIs | TrunksAre | Refused
"""To an operator."""


# --- switchboard and workers ---------------------------------------------------------------------


class OrderCalls(_Message, frozen=True, kw_only=True, tag="order_calls"):
    """List your calls. Answered by ReportCalls."""

    id: Id


class OrderHangUp(_Message, frozen=True, kw_only=True, tag="order_hangup"):
    """End this call if it is yours. Answered by ReportDone."""

    id: Id
    call: str


class OrderLogLevel(_Message, frozen=True, kw_only=True, tag="order_log_level"):
    """Write lines from this level up. Answered by ReportDone."""

    id: Id
    level: Level


class OrderLadder(_Message, frozen=True, kw_only=True, tag="order_ladder"):
    """Tell how this call goes, if it is yours. Answered by ReportLadder."""

    id: Id
    call: str


class OrderTrunks(_Message, frozen=True, kw_only=True, tag="order_trunks"):
    """Tell what you know of the trunks. Answered by ReportTrunks."""

    id: Id


Order = OrderCalls | OrderHangUp | OrderLogLevel | OrderLadder | OrderTrunks
"""To a worker."""


class Hello(_Message, frozen=True, kw_only=True, tag="hello"):
    """A worker's first message, and again whenever the switchboard may have forgotten it."""

    seat: int
    slot: int
    pid: int


class Beat(_Message, frozen=True, kw_only=True, tag="beat"):
    """Once a second: a worker is there and reads its orders. (Its life hangs on the load table.)"""

    seat: int
    slot: int
    pid: int
    calls: int


class ReportCalls(_Message, frozen=True, kw_only=True, tag="report_calls"):
    """Answers OrderCalls."""

    id: Id
    seat: int
    calls: list[CallLine]


class ReportDone(_Message, frozen=True, kw_only=True, tag="report_done"):
    """Answers the other orders; `found` tells whether there was something to do."""

    id: Id
    seat: int
    found: bool


class ReportLadder(_Message, frozen=True, kw_only=True, tag="report_ladder"):
    """Answers OrderLadder; None for a call that is not here, or not over SIP."""

    id: Id
    seat: int
    sip: SipFigures | None = None


class ReportTrunks(_Message, frozen=True, kw_only=True, tag="report_trunks"):
    """Answers OrderTrunks."""

    id: Id
    seat: int
    trunks: list[TrunkLine]


Report = Hello | Beat | ReportCalls | ReportDone | ReportLadder | ReportTrunks
"""From a worker."""


# --- what is published ---------------------------------------------------------------------------


class CallEvent(_Message, frozen=True, kw_only=True, tag="call_event"):
    """Topic `call.<event>`: started, answered, resumed, ended, refused."""

    event: Literal["started", "answered", "resumed", "ended", "refused"]
    at_utc: float
    slot: int
    call_id: str = ""
    run_id: str = ""
    carrier: str = ""
    agent: str = ""
    reason: str = ""
    ended_by: str = ""
    seconds: float = 0.0
    turns: int = 0
    direction: str = ""
    """Of a call over SIP that ended, as `trunk`; see CallLine."""
    trunk: str = ""


FromSupervisor = Fleet | Answer
"""What the supervisor tells the switchboard."""

CONTROL_SOCKET = "control.sock"
"""The switchboard's ROUTER, in the runtime directory: `ipc://<runtime>/control.sock`."""
PUBLISH_SOCKET = "publish.sock"
"""Its XSUB, where workers' PUBs connect."""
METRICS_SOCKET = "metrics.sock"
"""Its XPUB, for subscribers."""

_encoder = msgspec.json.Encoder()
_version = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Identified(msgspec.Struct):
    id: Id = ""


_identified = msgspec.json.Decoder(_Identified)


def encode(message: msgspec.Struct) -> bytes:
    """One JSON object."""
    return _encoder.encode(message)


class Reader:
    """Decodes one direction: `Reader(Ask | Report).decode(data)`."""

    def __init__(self, union: object) -> None:
        self._decoder: msgspec.json.Decoder[msgspec.Struct] = msgspec.json.Decoder(union)

    def decode(self, data: bytes) -> msgspec.Struct:
        """The message; raises ControlError, and nothing else, for any bytes at all."""
        if len(data) > MESSAGE_MAX:
            raise ControlError("size", f"a message of {len(data)} bytes is over {MESSAGE_MAX}")
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise _refusal(data, error) from error


def worker_identity(seat: int, pid: int) -> bytes:
    """The ZeroMQ identity of a worker's DEALER; operators have any other."""
    return f"worker.{seat}.{pid}".encode()


def id_of(data: bytes) -> str:
    """The `id` of a message that is not understood, so that its refusal finds the asker; or empty."""
    if len(data) > MESSAGE_MAX:
        return ""
    try:
        found = _identified.decode(data).id
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return ""
    return found


def merge_trunks(lines: Iterable[TrunkLine]) -> list[TrunkLine]:
    """What several workers know, as one line per trunk, sorted by name.

    Its tender's word counts for what only the tender knows. While a trunk goes from one worker to
    another two may claim it: then the better news is the newer.
    """
    found: dict[str, TrunkLine] = {}
    for line in lines:
        known = found.get(line.name)
        found[line.name] = line if known is None else _merged(known, line)
    return [found[name] for name in sorted(found)]


def _merged(one: TrunkLine, other: TrunkLine) -> TrunkLine:
    tender = max(one, other, key=lambda line: (bool(line.registration), line.expires_seconds))
    known = [line.alive for line in (one, other) if line.alive is not None]
    return msgspec.structs.replace(
        tender,
        alive=any(known) if known else None,
        inbound=max(one.inbound, other.inbound),
        outbound=max(one.outbound, other.outbound),
    )


def _refusal(data: bytes, error: Exception) -> ControlError:
    """Why: another version's message must be told apart from garbage."""
    try:
        spoken = _version.decode(data).get("v")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return ControlError("garbage", "this is not a message of flowcatd's control protocol")
    if spoken is not None and bytes(spoken) != str(VERSION).encode():
        return ControlError("version", f"this side speaks version {VERSION} only")
    text = str(error) if isinstance(error, msgspec.ValidationError) else "malformed"
    return ControlError("garbage", text[:200])
