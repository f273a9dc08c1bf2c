"""The fleet's decisions: who is forked, told to end, killed, replaced, or given up on.

Pure: events and the time come in (`receive`, `wake`), actions come out (`actions`), `wake_at` says
when it wants to be woken; `orders.py` has their values, `lives.py` the way of one worker. Here is what
takes more than one life to decide.

*Lost workers.* A process that is lost as the first in a row after having served for a second is followed
at once; else the pause doubles from 0.1 s to workers.restart_cap_seconds. Only a process that served for
the cap or longer begins a new row, so whatever dies again and again ends up at one fork per cap.

*Giving up* is stopping everything, or draining it when somebody has ever served. It happens when nobody
has served yet and a worker says that trying is pointless (an exit code of `POINTLESS`) or one slot
failed three times; later only when every slot ended pointlessly. Until then such a slot is tried at
the cap.

*A reload* goes from slot to slot: an heir is forked beside the slot's life, and when it serves, the other
retires. An empty slot's own life is the heir. If the other is lost meanwhile, the heir just fills the
slot. The first heir has one attempt, later ones three; then the reload is aborted: what was replaced
stays so, also when it is forked again; all else stays, and is forked, as it was before.

*A resize* adds slots at the end, or closes the doors of the last ones and lets their lives leave. It is
over when all else retires, and all that is wanted serves or one slot failed three times to.

Only one of the two is done at a time, and neither while the daemon ends. New trunks alone replace nobody:
who has calls, or takes them, is told to read them again, and the fleet stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from flowcatd.errors import LocalError
from flowcatd.options import Options
from supervisor.lives import (
    FILLING,
    LISTENING,
    TABLE,
    Life,
    LifeLine,
    Reach,
    State,
    Turn,
    read_trunks,
)
from supervisor.orders import (
    Action,
    Asked,
    CloseDoor,
    Event,
    Exited,
    Finished,
    Forked,
    ForkFailed,
    GiveUp,
    Gone,
    Hung,
    Lost,
    OpenDoor,
    Progress,
    ReadTrunks,
    Ready,
    Reload,
    Reloaded,
    Resize,
    Resized,
    Serving,
    Started,
)
from workers.plan import POINTLESS, ExitCode

FIRST_PAUSE_SECONDS = 0.1
"""A crash at the start costs a slot this long, less than a carrier's connect timeout."""
STEADY_SECONDS = 1.0
"""Who served this long was not broken from the start: its first loss is no reason to wait."""
FIRST_ATTEMPTS = 3
"""Failures of one slot before we say so: enough for a hiccup, quick for a mistake."""

_ENDING = "the daemon is ending"


@dataclass(slots=True)
class _Reloading:
    """A reload under way."""

    asked: Reload
    generation: int
    """To come back to."""
    options: Options
    """To come back to."""
    slot: int = 0
    """Whose turn it is."""
    heir: Life | None = None
    """None while the slot's life waits for the answer to a Fork."""
    heir_before: int = 0
    """What the slot was forked as."""
    attempts: int = 0
    """Failures of the heir."""

    name = "reload"

    def over(self, problem: str) -> Reloaded:
        """What is told at the end."""
        return Reloaded(self.asked.generation, problem)


@dataclass(slots=True)
class _Resizing:
    """A resize under way."""

    slots: int
    problem: str = ""
    """A worker that does not start; told when those who leave have left."""

    name = "resize"

    def over(self, problem: str) -> Resized:
        """What is told at the end."""
        return Resized(self.slots, problem)


class Fleet:
    """All lives, and what was decided about them; feed it, then carry out `actions()` in order."""

    def __init__(self, slots: int, options: Options, now: float) -> None:
        self.ignored = 0
        """Late news."""
        self.restarts = 0
        """Workers lost unasked."""
        self.wanted = slots
        """How many slots there are, but for those being left."""
        self.generation = 1
        """The configuration in force; during a reload, the new one."""
        self._options = options
        self._lives = [Life(slot, 1, due=now) for slot in range(slots)]
        self._actions: list[Action] = []
        self._job: _Reloading | _Resizing | None = None
        self._ending: Turn | None = None
        self._reach = Reach.NOBODY
        self._code = 0
        self._finished = False

    @classmethod
    def restore(
        cls, lives: Sequence[LifeLine], generation: int, options: Options, now: float
    ) -> Self:
        """The fleet that `save` told of. Whatever is forked from now on is of this generation."""
        fleet = cls(0, options, now)
        fleet.generation = generation
        fleet.wanted = 1 + max(line.slot for line in lives if line.wanted)
        fleet._lives = [line.life(generation) for line in lives]
        fleet._reach = lives[0].reach
        return fleet

    # --- told

    def receive(self, event: Event, now: float) -> None:
        """Something happened; drain `actions` next."""
        match event:
            case Forked(slot, pid):
                self._forked(slot, pid, now)
            case ForkFailed(slot):
                self._turn(self._forking(slot), Turn.FORK_FAILED, now)
            case Ready(pid):
                self._turn(self._of(pid), Turn.SERVED, now)
            case Hung(pid):
                self._turn(self._of(pid), Turn.HUNG, now)
            case Exited(pid, code, signal):
                self._exited(pid, code, signal, now)
            case Reload():
                self._reload(event)
            case Resize(slots):
                self._resize(slots, now)
            case ReadTrunks():
                self._read_trunks()
            case _:
                self._end(Turn.STOP if event is Asked.STOP else Turn.DRAIN, now)
        self._settle(now)

    def wake(self, now: float) -> None:
        """The time is `now`; drain `actions` next."""
        for life in self._lives:
            if life.due is not None and life.due <= now:
                self._turn(life, Turn.DUE, now)
        self._settle(now)

    # --- to collect

    def actions(self) -> list[Action]:
        """Drain what is to be done, in order."""
        actions, self._actions = self._actions, []
        return actions

    def wake_at(self) -> float | None:
        """The earliest time it wants to be woken, or None."""
        return min((life.due for life in self._lives if life.due is not None), default=None)

    def states(self) -> list[State]:
        """Every life's state, in the order of `lines`."""
        return [line.state for line in self.lines()]

    def lines(self) -> list[LifeLine]:
        """Every life, by slot, then by age; those without a process too."""
        wanted = self.wanted
        return [life.line(self._reach, wanted=life.slot < wanted) for life in self._lives]

    def save(self) -> list[LifeLine]:
        """What another program image goes on with; LocalError while something is under way."""
        if self.busy or self._ending or any(life.state is State.FORKING for life in self._lives):
            raise LocalError("a fleet is handed on only when nothing is under way")
        return self.lines()

    @property
    def busy(self) -> bool:
        """Whether a reload or a resize is under way."""
        return self._job is not None

    @property
    def generations(self) -> set[int]:
        """The configurations that somebody may yet be forked with, and the one in force."""
        return {self.generation, *(life.fork_as for life in self._lives)}

    @property
    def serves(self) -> bool:
        """Whether the start is over: all have served."""
        return self._reach is Reach.EVERYBODY

    # --- events

    def _forked(self, slot: int, pid: int, now: float) -> None:
        life = self._forking(slot)
        life.pid = pid
        self._turn(life, Turn.FORKED, now)
        if self._ending:
            self._turn(life, self._ending, now)

    def _exited(self, pid: int, code: int, signal: int, now: float) -> None:
        life = self._of(pid)
        if life is not None:
            life.ended(code, signal)
        self._turn(life, Turn.GONE, now)

    def _end(self, turn: Turn, now: float) -> None:
        self._ending = Turn.STOP if Turn.STOP in {turn, self._ending} else turn
        self._job_is_over(_ENDING)
        for life in self._lives:
            self._turn(life, turn, now)

    def _read_trunks(self) -> None:
        """Before it serves a process may not listen yet, and one that ends has no use for trunks."""
        for life in self._lives:
            if life.state in LISTENING and life.served is not None:
                self._actions.append(read_trunks(life))
            elif life.state is State.STARTING:
                life.is_behind = True

    def _of(self, pid: int) -> Life | None:
        return next((life for life in self._lives if life.pid == pid), None)

    def _forking(self, slot: int) -> Life:
        for life in self._lives:
            if life.slot == slot and life.state is State.FORKING:
                return life
        raise LocalError(f"slot {slot} has no life in {State.FORKING.name}")

    def _turn(self, life: Life | None, turn: Turn, now: float) -> None:
        """The only place that changes a state."""
        row = TABLE.get((life.state, turn)) if life else None
        if life is None or row is None:
            self.ignored += 1
            return
        life.state, doings = row
        life.due = None
        for do in doings:
            if action := do(life, self._options, now):
                self._actions.append(action)
                self.restarts += isinstance(action, Gone)
        if life.state is State.READY:
            self._served(life, now)
        elif life.state is State.BACKING_OFF:
            self._lost(life, now)

    def _settle(self, now: float) -> None:
        """What is true of the whole fleet after a change."""
        if not self.serves and self._all_serve():
            self._reach = Reach.EVERYBODY
            self._actions.append(Serving())
        if isinstance(self._job, _Reloading):
            self._continue_reload(self._job, now)
        elif self._job and not self._is_leaving() and (self._job.problem or self._all_serve()):
            self._job_is_over("" if self._all_serve() else self._job.problem)
        left = (life for life in self._lives if life.state is not State.ENDED)
        self._lives = sorted(left, key=lambda life: life.slot)
        if not self._lives and not self._finished:
            self._finished = True
            self._actions.append(Finished(self._code))

    def _fillers(self, slot: int) -> list[Life]:
        return [life for life in self._lives if life.slot == slot and life.state in FILLING]

    def _all_serve(self) -> bool:
        serving = {life.slot for life in self._lives if life.state is State.READY}
        return not self._ending and serving >= set(range(self.wanted))

    def _is_leaving(self) -> bool:
        leaving = FILLING | {State.LEAVING}
        return any(life.slot >= self.wanted and life.state in leaving for life in self._lives)

    # --- arrivals

    def _served(self, life: Life, now: float) -> None:
        if self._reach is Reach.NOBODY:
            self._reach = Reach.SOMEBODY
        self._actions.append(Started(life.slot, life.pid, now - life.since))
        if life.slot >= self.wanted:
            self._turn(life, Turn.LEAVE, now)

    def _lost(self, life: Life, now: float) -> None:
        """It has no process any more: say so, and decide whether and when it gets another."""
        pause = self._pause(life, now)
        pid, life.pid = life.pid, 0
        life.due, life.since = now + pause, now
        self.restarts += pid != 0
        others = [each for each in self._fillers(life.slot) if each is not life]
        problem = self._heir_failed(life)
        if self._ending or life.slot >= self.wanted or (others and problem):
            self._actions.append(Gone(life.slot, pid, life.how))
            self._turn(life, self._ending or Turn.RETIRE, now)
        elif others and not self._is_heir(life):
            dues = (each.due for each in others if each.state is State.BACKING_OFF)
            again = max((due - now for due in dues if due is not None), default=0.0)
            self._actions.append(Lost(life.slot, pid, life.how, max(0.0, again)))
            self._turn(life, Turn.RETIRE, now)
        else:
            self._actions.append(Lost(life.slot, pid, life.how, pause))
        if problem:
            self._job_is_over(problem)
        if life.state is State.BACKING_OFF:
            self._judge(life, now)

    def _pause(self, life: Life, now: float) -> float:
        cap = self._options.workers.restart_cap_seconds
        served = 0.0 if life.served is None else now - life.served
        if served >= cap:
            life.failures = 0
        life.failures += 1
        if life.code in POINTLESS and self._reach is not Reach.NOBODY:
            return cap
        if life.failures == 1 and served >= STEADY_SECONDS:
            return 0.0
        # The exponent is bounded because 2.0 ** 1024 is not a float.
        return min(cap, FIRST_PAUSE_SECONDS * 2.0 ** min(life.failures - 1, 64))

    def _judge(self, life: Life, now: float) -> None:
        """Whether trying again makes sense, and whether a resize has to wait for it."""
        pointless, failures = life.code in POINTLESS, life.failures
        if self._reach is not Reach.NOBODY:
            rest = [each for each in self._lives if each.state in FILLING]
            hopeless = all(
                each.state is State.BACKING_OFF and each.code in POINTLESS for each in rest
            )
            reason = f"worker {life.slot} ended with {life.how}" if hopeless else ""
        elif pointless:
            reason = f"worker {life.slot} ended with {life.how}"
        elif failures >= FIRST_ATTEMPTS:
            reason = f"worker {life.slot} failed {failures} times to start: {life.how}"
        else:
            reason = ""
        if reason:
            self._give_up(reason, life.code if pointless else ExitCode.CRASHED, now)
        elif isinstance(self._job, _Resizing) and (pointless or failures >= FIRST_ATTEMPTS):
            self._job.problem = f"worker {life.slot} does not start: {life.how}"

    def _give_up(self, reason: str, code: int, now: float) -> None:
        self._code = code
        self._actions.append(GiveUp(reason, code))
        self._end(Turn.STOP if self._reach is Reach.NOBODY else Turn.DRAIN, now)

    # --- reload and resize

    def _obstacle(self) -> str:
        if self._ending:
            return _ENDING
        return f"a {self._job.name} is running" if self._job else ""

    def _job_is_over(self, problem: str) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        if isinstance(job, _Reloading) and problem:
            self.generation, self._options = job.generation, job.options
            if job.heir is not None:
                job.heir.fork_as = job.heir_before
        self._actions.append(job.over(problem))

    def _reload(self, asked: Reload) -> None:
        if problem := self._obstacle():
            self._actions.append(Reloaded(asked.generation, problem))
            return
        self._job = _Reloading(asked, self.generation, self._options)
        self.generation, self._options = asked.generation, asked.options

    def _continue_reload(self, job: _Reloading, now: float) -> None:
        if job.heir is not None and job.heir.state is State.READY:
            for life in self._fillers(job.slot):
                if life is not job.heir:
                    self._turn(life, Turn.RETIRE, now)
            self._actions.append(
                Progress(f"worker {job.slot} replaced, {job.slot + 1} of {self.wanted}")
            )
            job.slot, job.heir, job.attempts = job.slot + 1, None, 0
        if job.slot == self.wanted:
            self._job_is_over("")
        elif job.heir is None:
            self._name_heir(job, now)

    def _name_heir(self, job: _Reloading, now: float) -> None:
        (life,) = self._fillers(job.slot)
        if life.state is State.FORKING:
            return
        job.heir_before = life.fork_as
        if life.state is not State.BACKING_OFF:
            life = Life(job.slot, 0, due=None)
            self._lives.append(life)
        life.fork_as = job.asked.generation
        job.heir = life
        self._turn(life, Turn.DUE, now)

    def _is_heir(self, life: Life) -> bool:
        return isinstance(self._job, _Reloading) and self._job.heir is life

    def _heir_failed(self, life: Life) -> str:
        """Why the reload must be aborted now, or nothing."""
        job = self._job
        if not isinstance(job, _Reloading) or job.heir is not life:
            return ""
        job.attempts += 1
        attempts = FIRST_ATTEMPTS if job.slot else 1
        if life.code not in POINTLESS and job.attempts < attempts:
            return ""
        return f"worker {life.slot} does not start with the new configuration: {life.how}"

    def _resize(self, slots: int, now: float) -> None:
        problem = self._obstacle() or ("" if slots > 0 else "one worker is the least")
        if problem:
            self._actions.append(Resized(slots, problem))
            return
        before, self.wanted = self.wanted, slots
        self._job = _Resizing(slots)
        for slot in range(before, slots):
            self._actions.append(OpenDoor(slot))
            life = Life(slot, self.generation, due=None)
            self._lives.append(life)
            self._turn(life, Turn.DUE, now)
        for slot in reversed(range(slots, before)):
            self._actions.append(CloseDoor(slot))
            for life in self._fillers(slot):
                # One that starts takes what waits at its door, and leaves when it has served.
                if life.state not in {State.FORKING, State.STARTING}:
                    self._turn(life, Turn.LEAVE, now)
