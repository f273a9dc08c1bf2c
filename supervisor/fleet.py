"""The fleet's decisions: who is forked, told to end, killed, replaced, or given up on.

Pure: events and the time come in (`receive`, `wake`), actions come out (`actions`), `wake_at` says
when it wants to be woken. `process.py` does exactly what stands in the actions; `main.py` carries
the two into each other. A slot is a place in the fleet; a life is what fills it, process after
process. They are kept apart so that a slot can have two lives for a while (an old one draining, a
new one starting), which is what replacement without a lost call needs.

    BACKING_OFF ─due─► FORKING ─► STARTING ─ready─► READY ─drain─► DRAINING ──────────► ENDED
      ▲  ▲  ▲            │         │  │due           │   └─stop─┐    │due, stop           ▲
      │  │  └─not forked─┘         │  ▼              │          └─►STOPPING ──────────────┤
      │  └─────── lost ────────────┴──┼──────────────┘               │due, stop           │
      └────────── reaped ── OVERDUE ◄─┘                            KILLED ── reaped, due ─┘

The pause before a lost process's successor doubles from 0.1 s to workers.restart_cap_seconds; one
that served for longer than that begins anew. Trying again ends when a worker says that it is
pointless (an exit code of `POINTLESS`), or when nobody has ever served and one slot failed three
times. Then everything is stopped, or drained when somebody has served. An event that a state does
not know is late news of a process: it is ignored and counted in `ignored`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from signal import SIGINT, SIGKILL, SIGTERM

from flowcatd.errors import LocalError
from flowcatd.options import Options
from workers.plan import POINTLESS, ExitCode

FIRST_PAUSE_SECONDS = 0.1
"""A single crash costs a slot this long, less than a carrier's connect timeout."""
FIRST_ATTEMPTS = 3
"""Failures of one slot before anybody ever served: enough for a hiccup, quick for a mistake."""


# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forked:
    """A Fork was done."""

    slot: int
    pid: int


@dataclass(frozen=True, slots=True)
class ForkFailed:
    """A Fork was not possible: no memory, no process left."""

    slot: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker serves."""

    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A process is gone: by `code`, or by `signal` when that is not 0."""

    pid: int
    code: int
    signal: int = 0


class Asked(Enum):
    """What the operator, or systemd, wants."""

    DRAIN = auto()
    """No new calls; live ones finish."""
    STOP = auto()
    """End now; asked again, at once."""


Event = Forked | ForkFailed | Ready | Exited | Asked


# --- actions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fork:
    """Start a worker for this slot; `Forked` or `ForkFailed` must follow."""

    slot: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Send this signal."""

    pid: int
    number: int


@dataclass(frozen=True, slots=True)
class Started:
    """To tell: a worker serves, `seconds` after its fork."""

    slot: int
    pid: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Serving:
    """To tell, once: every worker serves."""


@dataclass(frozen=True, slots=True)
class Lost:
    """To tell: a worker is gone unasked; its successor comes in `again_seconds`."""

    slot: int
    pid: int
    how: str
    again_seconds: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """To tell: a worker is gone, as asked."""

    slot: int
    pid: int
    how: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """To tell: no more attempts; Finished with `code` follows when all are gone."""

    reason: str
    code: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Nobody is left: end with this code."""

    code: int


Action = Fork | Signal | Started | Serving | Lost | Stopped | GiveUp | Finished


# --- one life ----------------------------------------------------------------------------------


class State(Enum):
    """Where a life stands."""

    BACKING_OFF = auto()
    """No process; one is forked when the pause is over."""
    FORKING = auto()
    """A process was asked for."""
    STARTING = auto()
    """Alive, not serving yet."""
    READY = auto()
    """Serving."""
    OVERDUE = auto()
    """Killed because it did not serve in time; to be replaced."""
    DRAINING = auto()
    """Told to take no new calls and to end."""
    STOPPING = auto()
    """Told to end now."""
    KILLED = auto()
    """Killed, not to be replaced."""
    ENDED = auto()
    """Gone for good."""


class Turn(Enum):
    """What can happen to a life."""

    FORKED = auto()
    FORK_FAILED = auto()
    SERVED = auto()
    GONE = auto()
    """The process was reaped."""
    DUE = auto()
    """The state's own time is up."""
    DRAIN = auto()
    STOP = auto()


_TABLE: dict[tuple[State, Turn], tuple[State, tuple[str, ...]]] = {
    (State.BACKING_OFF, Turn.DUE): (State.FORKING, ("fork",)),
    (State.BACKING_OFF, Turn.DRAIN): (State.ENDED, ()),
    (State.BACKING_OFF, Turn.STOP): (State.ENDED, ()),
    (State.FORKING, Turn.FORKED): (State.STARTING, ("expect_ready",)),
    (State.FORKING, Turn.FORK_FAILED): (State.BACKING_OFF, ("back_off",)),
    (State.STARTING, Turn.SERVED): (State.READY, ("serve",)),
    (State.STARTING, Turn.GONE): (State.BACKING_OFF, ("back_off",)),
    (State.STARTING, Turn.DUE): (State.OVERDUE, ("kill",)),
    (State.STARTING, Turn.DRAIN): (State.DRAINING, ("drain",)),
    (State.STARTING, Turn.STOP): (State.STOPPING, ("stop",)),
    (State.READY, Turn.GONE): (State.BACKING_OFF, ("back_off",)),
    (State.READY, Turn.DRAIN): (State.DRAINING, ("drain",)),
    (State.READY, Turn.STOP): (State.STOPPING, ("stop",)),
    (State.OVERDUE, Turn.GONE): (State.BACKING_OFF, ("back_off",)),
    (State.OVERDUE, Turn.DRAIN): (State.KILLED, ("expect_reaped",)),
    (State.OVERDUE, Turn.STOP): (State.KILLED, ("expect_reaped",)),
    (State.DRAINING, Turn.GONE): (State.ENDED, ("say_stopped",)),
    (State.DRAINING, Turn.DUE): (State.STOPPING, ("stop",)),
    (State.DRAINING, Turn.STOP): (State.STOPPING, ("stop",)),
    (State.STOPPING, Turn.GONE): (State.ENDED, ("say_stopped",)),
    (State.STOPPING, Turn.DUE): (State.KILLED, ("kill", "expect_reaped")),
    (State.STOPPING, Turn.STOP): (State.KILLED, ("kill", "expect_reaped")),
    (State.KILLED, Turn.GONE): (State.ENDED, ("say_stopped",)),
    # Stuck in the kernel: nothing more can be done, and waiting for it would be for ever.
    (State.KILLED, Turn.DUE): (State.ENDED, ("say_stopped",)),
}


@dataclass(slots=True)
class _Life:
    """What fills a slot."""

    slot: int
    due: float | None
    """When the state's own time is up."""
    state: State = State.BACKING_OFF
    pid: int = 0
    since: float = 0.0
    """When it was forked, and from READY on, when it began to serve."""
    failures: int = 0
    """Lost processes in a row."""
    how: str = ""
    """How its last process ended."""
    code: int = 0


class Fleet:
    """All lives, and what was decided about them; feed it, then carry out `actions()` in order."""

    def __init__(self, slots: int, options: Options, now: float) -> None:
        self.ignored = 0
        """Late news."""
        self._options = options
        self._lives = [_Life(slot, due=now) for slot in range(slots)]
        self._actions: list[Action] = []
        self._ending: Turn | None = None
        self._has_served = False
        self._is_serving = False
        self._code = 0
        self._finished = False

    # --- told

    def receive(self, event: Event, now: float) -> None:
        """Something happened; drain `actions` next."""
        match event:
            case Forked(slot, pid):
                self._forked(slot, pid, now)
            case ForkFailed(slot):
                life = self._find(State.FORKING, slot)
                life.how, life.code = "it could not be forked", ExitCode.CRASHED
                self._turn(life, Turn.FORK_FAILED, now)
            case Ready(pid):
                self._turn_of(pid, Turn.SERVED, now)
            case Exited(pid, code, signal):
                self._exited(pid, code, signal, now)
            case _:
                self._end(Turn.STOP if event is Asked.STOP else Turn.DRAIN, now)
        self._settle()

    def wake(self, now: float) -> None:
        """The time is `now`; drain `actions` next."""
        for life in self._lives:
            if life.due is not None and life.due <= now:
                self._turn(life, Turn.DUE, now)
        self._settle()

    # --- to collect

    def actions(self) -> list[Action]:
        """Drain what is to be done, in order."""
        actions, self._actions = self._actions, []
        return actions

    def wake_at(self) -> float | None:
        """The earliest time it wants to be woken, or None."""
        return min((life.due for life in self._lives if life.due is not None), default=None)

    def states(self) -> list[State]:
        """Every life's state, by slot: for status lines and tests."""
        return [life.state for life in self._lives]

    # --- events

    def _forked(self, slot: int, pid: int, now: float) -> None:
        life = self._find(State.FORKING, slot)
        life.pid, life.since = pid, now
        self._turn(life, Turn.FORKED, now)
        if self._ending:
            self._turn(life, self._ending, now)

    def _exited(self, pid: int, code: int, signal: int, now: float) -> None:
        life = next((life for life in self._lives if life.pid == pid), None)
        if life is None:
            self.ignored += 1
            return
        life.how, life.code = (f"signal {signal}" if signal else f"exit code {code}"), code
        self._turn(life, Turn.GONE, now)

    def _end(self, turn: Turn, now: float) -> None:
        self._ending = Turn.STOP if Turn.STOP in {turn, self._ending} else turn
        for life in self._lives:
            self._turn(life, turn, now)

    def _turn_of(self, pid: int, turn: Turn, now: float) -> None:
        for life in self._lives:
            if life.pid == pid:
                self._turn(life, turn, now)

    def _find(self, state: State, slot: int) -> _Life:
        for life in self._lives:
            if life.slot == slot and life.state is state:
                return life
        raise LocalError(f"slot {slot} has no life in {state.name}")

    def _turn(self, life: _Life, turn: Turn, now: float) -> None:
        """The only place that changes a state."""
        row = _TABLE.get((life.state, turn))
        if row is None:
            self.ignored += 1
            return
        before = life.state
        life.state, actions = row
        life.due = None
        for action in actions:
            getattr(self, f"_do_{action}")(life, before, now)

    def _settle(self) -> None:
        """What is true of the whole fleet after a change."""
        states = {life.state for life in self._lives}
        if states == {State.READY} and not self._is_serving:
            self._is_serving = True
            self._actions.append(Serving())
        if states == {State.ENDED} and not self._finished:
            self._finished = True
            self._actions.append(Finished(self._code))

    # --- actions of the table

    def _do_fork(self, life: _Life, _before: State, _now: float) -> None:
        self._actions.append(Fork(life.slot))

    def _do_expect_ready(self, life: _Life, _before: State, now: float) -> None:
        life.due = now + self._options.workers.ready_seconds

    def _do_serve(self, life: _Life, _before: State, now: float) -> None:
        self._has_served = True
        self._actions.append(Started(life.slot, life.pid, now - life.since))
        life.since = now

    def _do_back_off(self, life: _Life, before: State, now: float) -> None:
        cap = self._options.workers.restart_cap_seconds
        if before is State.OVERDUE:
            life.how = f"it was not ready within {self._options.workers.ready_seconds:g} s"
        if before is State.READY and now - life.since >= cap:
            life.failures = 0
        life.failures += 1
        # The exponent is bounded because 2.0 ** 1024 is not a float.
        pause = min(cap, FIRST_PAUSE_SECONDS * 2.0 ** min(life.failures - 1, 64))
        life.due = now + pause
        self._actions.append(Lost(life.slot, life.pid, life.how, pause))
        life.pid = 0
        if self._ending:
            self._turn(life, self._ending, now)
        elif life.code in POINTLESS:
            self._give_up(f"worker {life.slot} ended with {life.how}", life.code, now)
        elif not self._has_served and life.failures >= FIRST_ATTEMPTS:
            reason = f"worker {life.slot} failed {life.failures} times to start: {life.how}"
            self._give_up(reason, ExitCode.CRASHED, now)

    def _do_drain(self, life: _Life, _before: State, now: float) -> None:
        calls, workers = self._options.calls, self._options.workers
        self._actions.append(Signal(life.pid, SIGTERM))
        life.due = now + calls.drain_seconds + calls.end_seconds + workers.stop_seconds

    def _do_stop(self, life: _Life, _before: State, now: float) -> None:
        self._actions.append(Signal(life.pid, SIGINT))
        life.due = now + self._options.calls.end_seconds + self._options.workers.stop_seconds

    def _do_kill(self, life: _Life, _before: State, _now: float) -> None:
        self._actions.append(Signal(life.pid, SIGKILL))

    def _do_expect_reaped(self, life: _Life, _before: State, now: float) -> None:
        life.how = "it could not be killed"
        life.due = now + self._options.workers.stop_seconds

    def _do_say_stopped(self, life: _Life, _before: State, _now: float) -> None:
        self._actions.append(Stopped(life.slot, life.pid, life.how))

    def _give_up(self, reason: str, code: int, now: float) -> None:
        self._code = code
        self._actions.append(GiveUp(reason, code))
        self._end(Turn.DRAIN if self._has_served else Turn.STOP, now)
