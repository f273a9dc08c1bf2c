"""Facts about the fleet's decisions, in virtual time: a day of crashes takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from signal import SIGINT, SIGKILL, SIGTERM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.options import Options, Workers
from supervisor.fleet import (
    _TABLE,
    Action,
    Asked,
    Exited,
    Finished,
    Fleet,
    Fork,
    Forked,
    ForkFailed,
    GiveUp,
    Lost,
    Ready,
    Serving,
    Signal,
    Started,
    State,
    Stopped,
    Turn,
)
from workers.plan import ExitCode

OPTIONS = Options()
CAP = OPTIONS.workers.restart_cap_seconds


class World:
    """A fleet, a clock, and processes that exist only as numbers."""

    def __init__(self, slots: int = 1, options: Options = OPTIONS) -> None:
        self.now = 1000.0
        self.fleet = Fleet(slots, options, self.now)
        self.alive: dict[int, int] = {}
        """Pid to slot."""
        self.seen: list[tuple[float, Action]] = []
        self.can_fork = True
        self.on_fork: Callable[[int], None] = lambda _pid: None
        self._next = 100
        self.fleet.wake(self.now)
        self.settle()

    def settle(self) -> None:
        """Carry out what was decided, as the supervisor would."""
        while actions := self.fleet.actions():
            for action in actions:
                self.seen.append((self.now, action))
                if isinstance(action, Fork):
                    self._fork(action.slot)

    def _fork(self, slot: int) -> None:
        if not self.can_fork:
            self.fleet.receive(ForkFailed(slot), self.now)
            return
        pid, self._next = self._next, self._next + 1
        self.alive[pid] = slot
        self.fleet.receive(Forked(slot, pid), self.now)
        self.on_fork(pid)

    def tell(self, event) -> list[Action]:
        """One event; the actions it led to."""
        if isinstance(event, Exited):
            del self.alive[event.pid]
        before = len(self.seen)
        self.fleet.receive(event, self.now)
        self.settle()
        return [action for _, action in self.seen[before:]]

    def sleep(self, seconds: float) -> list[Action]:
        """Time passes, with every wake on its way; the actions it led to."""
        before = len(self.seen)
        until = self.now + seconds
        while (due := self.fleet.wake_at()) is not None and due <= until:
            assert due >= self.now
            self.now = due
            self.fleet.wake(self.now)
            self.settle()
        self.now = until
        return [action for _, action in self.seen[before:]]

    def pid(self, slot: int = 0) -> int:
        """The process that fills a slot."""
        return next(pid for pid, at in self.alive.items() if at == slot)

    def serve(self) -> World:
        """Everybody is ready."""
        for pid in list(self.alive):
            self.tell(Ready(pid))
        return self

    def crash(self, slot: int = 0, code: int = 1) -> list[Action]:
        """The slot's process ends by itself."""
        return self.tell(Exited(self.pid(slot), code))

    @property
    def state(self) -> State:
        """The state of slot 0."""
        return self.fleet.states()[0]


def test_every_slot_is_forked_at_once():
    """A start does not wait for one worker after the other."""
    world = World(3)
    assert [action for _, action in world.seen] == [Fork(0), Fork(1), Fork(2)]
    assert world.fleet.states() == [State.STARTING] * 3


def test_serving_is_told_once_when_the_last_is_ready():
    """The banner is printed once, and not again after a crash."""
    world = World(2)
    world.now += 0.5
    assert world.tell(Ready(world.pid(0))) == [Started(0, 100, 0.5)]
    assert world.tell(Ready(world.pid(1))) == [Started(1, 101, 0.5), Serving()]
    world.crash()
    world.sleep(1)
    assert Serving() not in world.tell(Ready(world.pid(0)))


def test_a_crash_is_replaced_in_its_own_slot_after_a_pause():
    """A worker respawned in slot 1 is slot 1 again."""
    world = World(2).serve()
    assert world.crash(1, code=3) == [Lost(1, 101, "exit code 3", 0.1)]
    assert world.sleep(0.09) == []
    assert world.sleep(0.02) == [Fork(1)]
    assert world.fleet.states() == [State.READY, State.STARTING]


def test_a_signal_is_told_as_one():
    """What killed a worker is worth knowing."""
    world = World().serve()
    assert world.tell(Exited(100, 0, 9)) == [Lost(0, 100, "signal 9", 0.1)]


def test_a_worker_that_ends_well_unasked_is_lost_too():
    """Exit code 0 is not an excuse for leaving."""
    assert World().serve().crash(code=0) == [Lost(0, 100, "exit code 0", 0.1)]


def test_the_pause_doubles_up_to_the_cap():
    """A crash loop is tried ever more rarely."""
    world = World().serve()
    pauses = []
    for _ in range(12):
        (lost,) = world.crash()
        pauses.append(lost.again_seconds)
        world.sleep(lost.again_seconds)
    assert pauses[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
    assert pauses[-3:] == [CAP] * 3


def test_a_long_life_forgives():
    """A worker that served longer than the cap begins anew."""
    world = World().serve()
    for _ in range(9):
        world.crash()
        world.sleep(CAP)
    world.serve()
    world.sleep(CAP)
    (lost,) = world.crash()
    assert lost.again_seconds == 0.1


def test_a_short_life_does_not_forgive():
    """Being ready for a moment is not yet being well."""
    world = World().serve()
    for _ in range(9):
        world.crash()
        world.sleep(CAP)
    world.serve()
    world.sleep(CAP - 1)
    (lost,) = world.crash()
    assert lost.again_seconds > 20


def test_a_day_of_crashes_is_bounded_and_ends_well():
    """A worker that dies a second after it serves is tried for a day, at most twice a minute."""
    world = World(2).serve()
    world.on_fork = lambda pid: world.alive[pid] == 0 and world.fleet.receive(Ready(pid), world.now)
    since, forks = world.now, 0
    while world.now - since < 86_400:
        world.sleep(1)
        world.crash()
        forks += world.sleep(CAP).count(Fork(0))
    assert 2000 < forks < 3000
    assert world.fleet.states() == [State.READY, State.READY]
    assert world.fleet.ignored == 0


def test_an_overdue_worker_is_killed_and_replaced():
    """One that never says it is ready must not hold its slot for ever."""
    world = World(2)
    world.tell(Ready(world.pid(1)))
    assert world.sleep(OPTIONS.workers.ready_seconds) == [Signal(100, SIGKILL)]
    assert world.state is State.OVERDUE
    (lost,) = world.tell(Exited(100, 0, SIGKILL))
    assert lost.how == "it was not ready within 20 s"
    assert world.sleep(1) == [Fork(0)]


def test_a_fork_that_fails_is_tried_again():
    """No process left is a moment's trouble."""
    world = World(2).serve()
    world.can_fork = False
    world.crash()
    forked = world.sleep(0.3)
    assert Lost(0, 0, "it could not be forked", 0.2) in forked
    world.can_fork = True
    world.sleep(0.5)
    assert world.state is State.STARTING


@pytest.mark.parametrize("code", [ExitCode.CONFIG, ExitCode.BIND])
def test_a_pointless_start_gives_up_at_once_and_stops_the_others(code):
    """Nobody serves yet, so there is nobody to wait for."""
    world = World(2)
    lost, given_up, stopping = world.crash(0, code)
    assert isinstance(lost, Lost)
    assert given_up == GiveUp(f"worker 0 ended with exit code {code}", code)
    assert stopping == Signal(101, SIGINT)
    assert world.crash(1, code) == [Stopped(1, 101, f"exit code {code}"), Finished(code)]


def test_a_pointless_restart_drains_the_others():
    """Calls on other workers are not cut off because one cannot come back."""
    world = World(2).serve()
    world.crash(0)
    world.sleep(1)
    assert Signal(101, SIGTERM) in world.crash(0, ExitCode.CONFIG)
    assert world.crash(1, 0)[-1] == Finished(ExitCode.CONFIG)


def test_a_fleet_that_never_served_gives_up_after_three_attempts():
    """An error of installation is a clear end, not a loop."""
    world = World()
    for _ in range(2):
        world.crash()
        world.sleep(1)
    actions = world.crash()
    reason = "worker 0 failed 3 times to start: exit code 1"
    assert actions[-2:] == [GiveUp(reason, ExitCode.CRASHED), Finished(ExitCode.CRASHED)]


def test_a_drain_lets_calls_finish_then_ends():
    """SIGTERM, patience, and exit code 0."""
    world = World(2).serve()
    assert world.tell(Asked.DRAIN) == [Signal(100, SIGTERM), Signal(101, SIGTERM)]
    assert world.sleep(OPTIONS.calls.drain_seconds) == []
    assert world.crash(0, 0) == [Stopped(0, 100, "exit code 0")]
    assert world.crash(1, 0) == [Stopped(1, 101, "exit code 0"), Finished(0)]


def test_a_drain_that_takes_too_long_is_stopped_then_killed():
    """Every wait has its end: drain, stop, kill, and at last going without the corpse."""
    world = World().serve()
    world.tell(Asked.DRAIN)
    since = world.now
    world.sleep(3600)
    ends = [(at - since, action) for at, action in world.seen if at > since]
    assert ends == [
        (70.0, Signal(100, SIGINT)),
        (80.0, Signal(100, SIGKILL)),
        (85.0, Stopped(0, 100, "it could not be killed")),
        (85.0, Finished(0)),
    ]


def test_a_second_stop_kills():
    """Whoever presses Ctrl-C twice does not want to wait."""
    world = World(2).serve()
    assert world.tell(Asked.STOP) == [Signal(100, SIGINT), Signal(101, SIGINT)]
    world.crash(0, 0)
    assert world.tell(Asked.STOP) == [Signal(101, SIGKILL)]
    assert world.tell(Exited(101, 0, 9))[-1] == Finished(0)


def test_a_stop_while_draining_ends_the_patience():
    """SIGTERM, then Ctrl-C."""
    world = World().serve()
    world.tell(Asked.DRAIN)
    assert world.tell(Asked.STOP) == [Signal(100, SIGINT)]


def test_a_drain_after_a_stop_changes_nothing():
    """The harder wish stands."""
    world = World().serve()
    world.tell(Asked.STOP)
    assert world.tell(Asked.DRAIN) == []
    assert world.state is State.STOPPING


def test_nobody_is_forked_while_ending():
    """A crash during the drain is an end; a pause is cut short."""
    world = World(2).serve()
    world.crash(0)
    world.tell(Asked.DRAIN)
    assert world.fleet.states() == [State.ENDED, State.DRAINING]
    assert world.crash(1) == [Stopped(1, 101, "exit code 1"), Finished(0)]
    assert world.sleep(3600) == []


@pytest.mark.parametrize(("asked", "number"), [(Asked.DRAIN, SIGTERM), (Asked.STOP, SIGINT)])
def test_a_worker_forked_while_the_order_came_is_told_too(asked, number):
    """Between deciding to fork and having forked, somebody may ask for the end."""
    fleet = Fleet(1, OPTIONS, 0.0)
    fleet.wake(0.0)
    fleet.receive(asked, 0.0)
    fleet.receive(Forked(0, 7), 0.0)
    assert fleet.actions() == [Fork(0), Signal(7, number)]


def test_a_fork_that_fails_while_the_order_came_ends():
    """There is nobody to wait for."""
    fleet = Fleet(1, OPTIONS, 0.0)
    fleet.wake(0.0)
    fleet.receive(Asked.DRAIN, 0.0)
    fleet.receive(ForkFailed(0), 0.0)
    assert fleet.actions()[-1] == Finished(0)


def test_late_news_is_counted_and_changes_nothing():
    """Ready after drain, and orphans that process 1 inherits."""
    world = World().serve()
    world.tell(Asked.DRAIN)
    due = world.fleet.wake_at()
    world.fleet.receive(Ready(100), world.now)
    world.fleet.receive(Exited(4711, 0), world.now)
    world.settle()
    assert world.fleet.ignored == 2
    assert (world.state, world.fleet.wake_at()) == (State.DRAINING, due)


def test_news_of_a_fork_nobody_asked_for_is_our_own_mistake():
    """LocalError: the shell and the fleet disagree."""
    with pytest.raises(LocalError):
        World().fleet.receive(Forked(5, 1), 0.0)


def test_draining_twice_yields_nothing():
    """The quiet law."""
    world = World().serve()
    assert world.fleet.actions() == []
    world.fleet.wake(world.now)
    assert world.fleet.actions() == []


# --- the table ---------------------------------------------------------------------------------


def test_every_state_is_reachable():
    """Nothing in the table is dead."""
    assert {state for state, _ in _TABLE.values()} | {State.BACKING_OFF} == set(State)


def test_every_state_but_the_last_has_a_way_out_under_time_or_reaping():
    """No state waits for something that need not come."""
    ways = {state: {turn for at, turn in _TABLE if at is state} for state in State}
    assert ways.pop(State.ENDED) == set()
    assert [state for state, turns in ways.items() if not turns & _SURE] == []


# READY has no time of its own: it lasts until its process is gone. A fork succeeds or fails at once.
_SURE = {Turn.DUE, Turn.GONE, Turn.FORKED}


def _walk(steps):
    """Follow (turn, how it is brought about) from a fresh fleet; the rows that were used."""
    world = World()
    used = {(State.BACKING_OFF, Turn.DUE), (State.FORKING, Turn.FORKED)}
    for turn in steps:
        before = world.state
        _bring_about(world, turn)
        used.add((before, turn))
    return used


def _bring_about(world, turn):
    match turn:
        case Turn.SERVED:
            world.tell(Ready(world.pid()))
        case Turn.GONE:
            world.tell(Exited(world.pid(), 1))
        case Turn.DRAIN:
            world.tell(Asked.DRAIN)
        case Turn.STOP:
            world.tell(Asked.STOP)
        case Turn.DUE:
            world.sleep(world.fleet.wake_at() - world.now)
        case Turn.FORK_FAILED:
            world.can_fork = False


_S, _G, _D, _T, _U = Turn.SERVED, Turn.GONE, Turn.DRAIN, Turn.STOP, Turn.DUE
_WALKS = [
    (_S, _G, _U, _G),
    (_S, _D, _U, _U, _G),
    (_S, _D, _T, _T, _U),
    (_S, _D, _G),
    (_S, _T, _G),
    (_D, _G),
    (_T, _U, _G),
    (_G, _D),
    (_G, _T),
    (_U, _G),
    (_U, _D, _G),
    (_U, _T, _U),
]


def test_every_row_is_walked():
    """Each line of the table is exercised by some scenario, and each scenario follows the table."""
    used = set().union(*(_walk(steps) for steps in _WALKS))
    fork_fails = {(State.FORKING, Turn.FORK_FAILED)}  # test_a_fork_that_fails_is_tried_again
    assert used | fork_fails == set(_TABLE)


# --- any history -------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ready", "crash", "pointless", "kill", "sleep"]), st.integers(0, 2)
        ),
        max_size=40,
    ),
    st.sampled_from([Asked.DRAIN, Asked.STOP]),
)
def test_any_history_can_be_ended(history, asked):
    """Whatever happened, an order leads to Finished, with nobody left alive or to be killed."""
    world = World(3, Options(workers=Workers(ready_seconds=2.0)))
    for what, slot in history:
        pids = [pid for pid, at in world.alive.items() if at == slot]
        if what == "sleep":
            world.sleep(slot + 0.5)
        elif pids and what == "ready":
            world.tell(Ready(pids[0]))
        elif pids:
            code = ExitCode.CONFIG if what == "pointless" else 1
            world.tell(Exited(pids[0], code, 9 if what == "kill" else 0))
        assert len(world.alive) <= 3
    world.tell(asked)
    for pid in list(world.alive):
        world.tell(Exited(pid, 0))
    finished = [action for _, action in world.seen if isinstance(action, Finished)]
    assert len(finished) == 1
    assert world.seen[-1][1] == finished[0]
    assert world.fleet.wake_at() is None
