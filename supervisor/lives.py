"""One life: the way of a worker process from its fork to its end, as one table.

A life fills a slot, process after process, until it is replaced, no longer wanted or told to end; then
it leaves the slot with its last process. So one slot may have several lives: one that fills it, one
that is about to, and others that finish their calls.

    filling  BACKING_OFF ─due─► FORKING ─► STARTING ─served─► READY ─hung─► HUNG
               ▲  ▲  ▲             │         │  │due            │             │due
               │  │  └─ not forked ┘         │  ▼               │             ▼
               │  └── gone ──────────────────┴──│───────────────┘          OVERDUE
               └───── gone, due ───────── OVERDUE
    leaving  READY ─leave─► LEAVING ─due─► RETIRING ─due─► STOPPING ─due─► KILLED ─gone, due─► ENDED
             READY ─retire─► RETIRING          READY ─drain─► DRAINING ─due─► STOPPING
             LEAVING, RETIRING, DRAINING ─hung─► STALLED ─due─► KILLED     any of them ─gone─► ENDED

What the table's actions need is here: the life, the options and the time. What it takes the whole
fleet to decide (a pause, giving up, who is next) is done by `fleet.py` when a life arrives in READY or
BACKING_OFF. A pair that is absent is late news of a process and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1, SIGUSR2

import msgspec

from flowcatd.options import Options
from supervisor.orders import Action, Fork, Gone, Signal, Stopped
from workers.plan import ExitCode

DOOR_SECONDS = 1.0
"""From the closing of a slot's door to its worker's retirement: it takes what waits in the queue."""
DUMP_SECONDS = 0.25
"""What a hung worker gets to write its traceback; signal handlers of C code need far less."""


class State(StrEnum):
    """Where a life stands; the value is the word that operators read."""

    BACKING_OFF = auto()
    """No process; one is forked when the pause is over."""
    FORKING = auto()
    """A process was asked for."""
    STARTING = auto()
    """Alive, not serving yet."""
    READY = auto()
    """Serving."""
    HUNG = auto()
    """It served and no longer ticks; it is writing down where it is stuck."""
    OVERDUE = auto()
    """Killed because it did not serve in time or no longer ticked; to be replaced."""
    LEAVING = auto()
    """Serving in a slot that is not wanted any more, until its queue is empty."""
    RETIRING = auto()
    """Replaced, or not wanted: told to take no new calls and to end in its own time."""
    DRAINING = auto()
    """Told to take no new calls and to end soon."""
    STALLED = auto()
    """It no longer ticks, as HUNG, but was on its way out: not to be replaced."""
    STOPPING = auto()
    """Told to end now."""
    KILLED = auto()
    """Killed, not to be replaced."""
    ENDED = auto()
    """Gone for good, and about to be forgotten."""


FILLING = frozenset(
    {State.BACKING_OFF, State.FORKING, State.STARTING, State.READY, State.HUNG, State.OVERDUE}
)
"""The states of a life that has its slot; every other is on its way out."""


LISTENING = frozenset({State.READY, State.LEAVING, State.RETIRING, State.DRAINING})
"""The states of a life that has calls, or takes them, and does what it is told."""


class Turn(Enum):
    """What can happen to a life."""

    FORKED = auto()
    FORK_FAILED = auto()
    SERVED = auto()
    HUNG = auto()
    """The process no longer ticks."""
    GONE = auto()
    """The process was reaped."""
    DUE = auto()
    """The state's own time is up."""
    RETIRE = auto()
    """Another one has the slot."""
    LEAVE = auto()
    """Nobody wants the slot; its door is closed."""
    DRAIN = auto()
    STOP = auto()


@dataclass(slots=True)
class Life:
    """What fills a slot, or filled it."""

    slot: int
    fork_as: int
    """The generation of its next process."""
    due: float | None
    """When the state's own time is up."""
    state: State = State.BACKING_OFF
    pid: int = 0
    """0 while there is no process."""
    generation: int = 0
    """Of its process, or of the last one; 0 before the first."""
    since: float = 0.0
    """When its process was forked, or when it lost it."""
    served: float | None = None
    """When its process began to serve."""
    failures: int = 0
    """Lost processes in a row."""
    verdict: str = ""
    """What its process will be killed for; it says more than `signal 9`."""
    how: str = ""
    """How its last process ended."""
    code: int = 0
    is_behind: bool = False
    """Whether trunks were changed since its process, which does not serve yet, was forked."""

    def ended(self, code: int, signal: int) -> None:
        """Its process was reaped."""
        self.how = self.verdict or (f"signal {signal}" if signal else f"exit code {code}")
        self.code = code

    def line(self, reach: Reach, *, wanted: bool) -> LifeLine:
        """It, as it is told and handed on."""
        fields = {name: getattr(self, name) for name in _KEPT}
        return LifeLine(**fields, wanted=wanted, reach=reach)


class Reach(StrEnum):
    """How far the fleet has come, ever."""

    NOBODY = auto()
    """No worker has served yet."""
    SOMEBODY = auto()
    """A worker has."""
    EVERYBODY = auto()
    """All have, at the same time."""


class LifeLine(msgspec.Struct, frozen=True, kw_only=True):
    """A life as an operator sees it, and as one program image leaves it to the next; see Life."""

    slot: int
    pid: int
    state: State
    generation: int
    since: float
    served: float | None
    due: float | None
    failures: int
    verdict: str
    how: str
    code: int
    is_behind: bool = False
    wanted: bool
    """Whether the fleet has a place for its slot."""
    reach: Reach
    """The fleet's, the same in every line."""

    def life(self, fork_as: int) -> Life:
        """The life it tells of, whose next process will be of this generation."""
        return Life(fork_as=fork_as, **{name: getattr(self, name) for name in _KEPT})


_KEPT = tuple(name for name in LifeLine.__struct_fields__ if name not in {"wanted", "reach"})


# --- what the table's rows do ------------------------------------------------------------------


def _fork(life: Life, _options: Options, _now: float) -> Action:
    life.generation = life.fork_as
    return Fork(life.slot, life.generation)


def _expect_ready(life: Life, options: Options, now: float) -> None:
    life.since, life.served, life.verdict, life.is_behind = now, None, "", False
    life.due = now + options.workers.ready_seconds


def _serve(life: Life, _options: Options, now: float) -> None:
    life.served = now


def _catch_up(life: Life, _options: Options, _now: float) -> Action | None:
    return read_trunks(life) if life.is_behind else None


def read_trunks(life: Life) -> Action:
    """Tell its process to read the trunks again."""
    life.is_behind = False
    return Signal(life.pid, SIGHUP)


def _not_forked(life: Life, _options: Options, _now: float) -> None:
    life.how, life.code, life.served = "it could not be forked", ExitCode.CRASHED, None


def _too_late(life: Life, options: Options, _now: float) -> None:
    life.verdict = f"it was not ready within {options.workers.ready_seconds:g} s"


def _kill(life: Life, options: Options, now: float) -> Action:
    life.how = f"{life.verdict}; it could not be killed".removeprefix("; ")
    life.code = ExitCode.CRASHED
    life.due = now + options.workers.stop_seconds
    return Signal(life.pid, SIGKILL)


def _await_reaping(life: Life, options: Options, now: float) -> None:
    """It was killed before."""
    life.due = now + options.workers.stop_seconds


def _dump(life: Life, options: Options, now: float) -> Action:
    life.verdict = f"hung: no media tick for {options.workers.hung_seconds:g} s"
    life.due = now + DUMP_SECONDS
    return Signal(life.pid, SIGUSR2)


def _await_dump(life: Life, _options: Options, now: float) -> None:
    """It was told to write before."""
    life.due = now + DUMP_SECONDS


def _close_in(life: Life, _options: Options, now: float) -> None:
    life.due = now + DOOR_SECONDS


def _retire(life: Life, options: Options, now: float) -> Action:
    life.due = now + options.workers.retire_seconds + _farewell(options)
    return Signal(life.pid, SIGUSR1)


def _drain(life: Life, options: Options, now: float) -> Action:
    life.due = now + options.calls.drain_seconds + _farewell(options)
    return Signal(life.pid, SIGTERM)


def _stop(life: Life, options: Options, now: float) -> Action:
    life.due = now + options.calls.end_seconds + options.workers.stop_seconds
    return Signal(life.pid, SIGINT)


def _say_stopped(life: Life, _options: Options, _now: float) -> Action:
    return (Gone if life.verdict else Stopped)(life.slot, life.pid, life.how)


def _say_retired(life: Life, _options: Options, _now: float) -> Action:
    """A retiree has all the time it needs, so any other end than a good one is news."""
    return (Stopped if life.how == "exit code 0" else Gone)(life.slot, life.pid, life.how)


def _farewell(options: Options) -> float:
    """From the last call's time being up to its worker being gone."""
    return options.calls.goodbye_seconds + options.calls.end_seconds + options.workers.stop_seconds


Do = Callable[[Life, Options, float], Action | None]

# --- the table ---------------------------------------------------------------------------------

TABLE: dict[tuple[State, Turn], tuple[State, tuple[Do, ...]]] = {
    (State.BACKING_OFF, Turn.DUE): (State.FORKING, (_fork,)),
    (State.BACKING_OFF, Turn.RETIRE): (State.ENDED, ()),
    (State.BACKING_OFF, Turn.LEAVE): (State.ENDED, ()),
    (State.BACKING_OFF, Turn.DRAIN): (State.ENDED, ()),
    (State.BACKING_OFF, Turn.STOP): (State.ENDED, ()),
    (State.FORKING, Turn.FORKED): (State.STARTING, (_expect_ready,)),
    (State.FORKING, Turn.FORK_FAILED): (State.BACKING_OFF, (_not_forked,)),
    (State.STARTING, Turn.SERVED): (State.READY, (_serve, _catch_up)),
    (State.STARTING, Turn.GONE): (State.BACKING_OFF, ()),
    (State.STARTING, Turn.DUE): (State.OVERDUE, (_too_late, _kill)),
    # It has no calls yet, and whether it hears anything but SIGKILL is not sure.
    (State.STARTING, Turn.RETIRE): (State.KILLED, (_kill,)),
    (State.STARTING, Turn.DRAIN): (State.DRAINING, (_drain,)),
    (State.STARTING, Turn.STOP): (State.STOPPING, (_stop,)),
    (State.READY, Turn.HUNG): (State.HUNG, (_dump,)),
    (State.READY, Turn.GONE): (State.BACKING_OFF, ()),
    (State.READY, Turn.RETIRE): (State.RETIRING, (_retire,)),
    (State.READY, Turn.LEAVE): (State.LEAVING, (_close_in,)),
    (State.READY, Turn.DRAIN): (State.DRAINING, (_drain,)),
    (State.READY, Turn.STOP): (State.STOPPING, (_stop,)),
    (State.HUNG, Turn.GONE): (State.BACKING_OFF, ()),
    (State.HUNG, Turn.DUE): (State.OVERDUE, (_kill,)),
    (State.HUNG, Turn.RETIRE): (State.STALLED, (_await_dump,)),
    (State.HUNG, Turn.LEAVE): (State.STALLED, (_await_dump,)),
    (State.HUNG, Turn.DRAIN): (State.STALLED, (_await_dump,)),
    (State.HUNG, Turn.STOP): (State.KILLED, (_kill,)),
    (State.OVERDUE, Turn.GONE): (State.BACKING_OFF, ()),
    # Stuck in the kernel: it may be gone some day, and its slot does not wait for it.
    (State.OVERDUE, Turn.DUE): (State.BACKING_OFF, ()),
    (State.OVERDUE, Turn.RETIRE): (State.KILLED, (_await_reaping,)),
    (State.OVERDUE, Turn.LEAVE): (State.KILLED, (_await_reaping,)),
    (State.OVERDUE, Turn.DRAIN): (State.KILLED, (_await_reaping,)),
    (State.OVERDUE, Turn.STOP): (State.KILLED, (_await_reaping,)),
    (State.LEAVING, Turn.HUNG): (State.STALLED, (_dump,)),
    (State.LEAVING, Turn.GONE): (State.ENDED, (_say_retired,)),
    (State.LEAVING, Turn.DUE): (State.RETIRING, (_retire,)),
    (State.LEAVING, Turn.DRAIN): (State.DRAINING, (_drain,)),
    (State.LEAVING, Turn.STOP): (State.STOPPING, (_stop,)),
    (State.RETIRING, Turn.HUNG): (State.STALLED, (_dump,)),
    (State.RETIRING, Turn.GONE): (State.ENDED, (_say_retired,)),
    (State.RETIRING, Turn.DUE): (State.STOPPING, (_stop,)),
    (State.RETIRING, Turn.DRAIN): (State.DRAINING, (_drain,)),
    (State.RETIRING, Turn.STOP): (State.STOPPING, (_stop,)),
    (State.DRAINING, Turn.HUNG): (State.STALLED, (_dump,)),
    (State.DRAINING, Turn.GONE): (State.ENDED, (_say_stopped,)),
    (State.DRAINING, Turn.DUE): (State.STOPPING, (_stop,)),
    (State.DRAINING, Turn.STOP): (State.STOPPING, (_stop,)),
    (State.STALLED, Turn.GONE): (State.ENDED, (_say_stopped,)),
    (State.STALLED, Turn.DUE): (State.KILLED, (_kill,)),
    (State.STALLED, Turn.STOP): (State.KILLED, (_kill,)),
    (State.STOPPING, Turn.GONE): (State.ENDED, (_say_stopped,)),
    (State.STOPPING, Turn.DUE): (State.KILLED, (_kill,)),
    (State.STOPPING, Turn.STOP): (State.KILLED, (_kill,)),
    (State.KILLED, Turn.GONE): (State.ENDED, (_say_stopped,)),
    # Stuck in the kernel: nothing more can be done, and waiting for it would be for ever.
    (State.KILLED, Turn.DUE): (State.ENDED, (_say_stopped,)),
}
