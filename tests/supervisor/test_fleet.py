"""Facts about the fleet's decisions, in virtual time: a day of crashes takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1, SIGUSR2

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.options import Options, Workers
from supervisor.fleet import FIRST_ATTEMPTS, Fleet
from supervisor.lives import DOOR_SECONDS, DUMP_SECONDS, FILLING, TABLE, LifeLine, State, Turn
from supervisor.orders import (
    Action,
    Asked,
    CloseDoor,
    Event,
    Exited,
    Finished,
    Fork,
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
    Signal,
    Started,
    Stopped,
)
from workers.plan import ExitCode

OPTIONS = Options()
CAP = OPTIONS.workers.restart_cap_seconds
FAREWELL = OPTIONS.calls.goodbye_seconds + OPTIONS.calls.end_seconds + OPTIONS.workers.stop_seconds


class World:
    """A fleet, a clock, and processes that exist only as numbers; it holds the fleet to its laws."""

    def __init__(self, slots: int = 1, options: Options = OPTIONS) -> None:
        self.now = 1000.0
        self.fleet = Fleet(slots, options, self.now)
        self.alive: dict[int, int] = {}
        """Pid to slot, oldest first."""
        self.told: dict[int, int] = {}
        """Pid to the last order it was sent."""
        self.trunks = 0
        """How often they were changed."""
        self.known: dict[int, int] = {}
        """Pid to the trunks it was forked with, or read."""
        self.pending: set[int] = set()
        """Slots whose Fork is not answered."""
        self.seen: list[tuple[float, Action]] = []
        self.heard: list[Event] = []
        self.can_fork = True
        self.is_slow = False
        """Whether forks wait for `answer_forks`."""
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
                elif isinstance(action, Signal):
                    self._send(action)
        lines = self.fleet.lines()
        behind = [line for line in lines if self.known.get(line.pid, self.trunks) < self.trunks]
        assert State.READY not in {line.state for line in behind}, "it serves old trunks"
        ready = [line.slot for line in lines if line.state is State.READY]
        assert len(ready) == len(set(ready)), "two lives serve one slot"
        filled = {line.slot for line in lines if line.state in FILLING}
        assert self.fleet._ending or filled >= set(range(self.fleet.wanted)), "a slot is forgotten"
        assert len(lines) == len({line.pid or -line.slot - 1 for line in lines}), "a life too many"

    def _send(self, action: Signal) -> None:
        slot = self.alive[action.pid]  # nobody is signalled after being reaped
        if action.number == SIGHUP:
            (line,) = [line for line in self.fleet.lines() if line.pid == action.pid]
            assert line.served is not None, "who does not listen yet dies of it"
            self.known[action.pid] = self.trunks
            return
        self.told[action.pid] = action.number
        if action.number == SIGUSR1:
            assert slot >= self.fleet.wanted or any(
                line.slot == slot and line.state is State.READY and line.pid != action.pid
                for line in self.fleet.lines()
            ), "a slot was left to nobody"

    def _fork(self, slot: int) -> None:
        assert slot not in self.pending, "two forks for one slot"
        self.pending.add(slot)
        if not self.is_slow:
            self.answer_forks()

    def answer_forks(self) -> None:
        """Every Fork is done, or is not possible."""
        while self.pending:
            slot = self.pending.pop()
            if not self.can_fork:
                self.fleet.receive(ForkFailed(slot), self.now)
                continue
            pid, self._next = self._next, self._next + 1
            self.alive[pid] = slot
            self.known[pid] = self.trunks
            self.fleet.receive(Forked(slot, pid), self.now)
            self.on_fork(pid)

    def tell(self, event) -> list[Action]:
        """One event; the actions it led to."""
        if isinstance(event, Exited):
            del self.alive[event.pid]
        self.trunks += isinstance(event, ReadTrunks)
        self.heard.append(event)
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
        """The oldest process of a slot."""
        return next(pid for pid, at in self.alive.items() if at == slot)

    def heir(self, slot: int = 0) -> int:
        """The youngest process of a slot."""
        return next(pid for pid, at in reversed(self.alive.items()) if at == slot)

    def serve(self) -> World:
        """Everybody is ready."""
        for pid in list(self.alive):
            self.tell(Ready(pid))
        return self

    def crash(self, slot: int = 0, code: int = 1) -> list[Action]:
        """The slot's oldest process ends by itself."""
        return self.tell(Exited(self.pid(slot), code))

    def told_of(self, kind: type) -> list[Action]:
        """All actions of a kind, ever."""
        return [action for _, action in self.seen if isinstance(action, kind)]

    @property
    def state(self) -> State:
        """The state of the first life of slot 0."""
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
    assert lost.again_seconds == 0


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


def test_a_pointless_restart_is_tried_again_while_others_serve():
    """Calls on other workers are not cut off because one cannot come back."""
    world = World(2).serve()
    world.crash(0)
    world.sleep(1)
    assert world.crash(0, ExitCode.CONFIG) == [Lost(0, 102, "exit code 78", CAP)]
    assert world.sleep(CAP) == [Fork(0)]


def test_a_fleet_whose_every_slot_ends_pointlessly_gives_up():
    """When nobody serves and no attempt can help, the daemon says so and ends."""
    world = World(2).serve()
    world.crash(0)
    world.sleep(1)
    world.crash(0, ExitCode.CONFIG)
    world.crash(1)
    world.sleep(1)
    lost, given_up, *rest = world.crash(1, ExitCode.BIND)
    assert lost == Lost(1, 103, "exit code 71", CAP)
    assert given_up == GiveUp("worker 1 ended with exit code 71", ExitCode.BIND)
    assert rest == [Finished(ExitCode.BIND)]


def test_one_that_may_still_come_keeps_the_fleet_from_giving_up():
    """A crash is no pointless end."""
    world = World(2).serve()
    world.crash(1)
    world.crash(0)
    world.sleep(0.1)
    world.crash(0, ExitCode.CONFIG)
    assert world.told_of(GiveUp) == []


def test_an_attempt_under_way_keeps_the_fleet_from_giving_up():
    """What was pointless before may have been repaired."""
    world = World(2).serve()
    world.crash(0, ExitCode.CONFIG)
    world.sleep(CAP)
    assert world.crash(1, ExitCode.CONFIG) == [Lost(1, 101, "exit code 78", CAP)]


def test_a_line_tells_since_when():
    """Since the fork, or since the loss: how long an operator has been waiting."""
    world = World()
    world.sleep(5)
    world.serve()
    assert [line.since for line in world.fleet.lines()] == [1000.0]
    world.crash()
    assert [line.since for line in world.fleet.lines()] == [1005.0]


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
        (80.0, Signal(100, SIGINT)),
        (90.0, Signal(100, SIGKILL)),
        (95.0, Stopped(0, 100, "it could not be killed")),
        (95.0, Finished(0)),
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
    assert world.fleet.states() == [State.DRAINING]
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


# --- refilled at once --------------------------------------------------------------------------


def test_a_worker_that_served_well_is_followed_at_once():
    """The slot serves again without a pause when its worker was not broken from the start."""
    world = World(2).serve()
    world.sleep(1)
    assert world.crash(1) == [Lost(1, 101, "exit code 1", 0.0)]
    assert world.sleep(0) == [Fork(1)]
    assert world.fleet.restarts == 1


def test_a_worker_that_serves_a_moment_and_dies_for_ever_ends_up_at_the_cap():
    """Only the first of a row is free."""
    world = World().serve()
    pauses = []
    for _ in range(12):
        world.sleep(1.1)
        (lost,) = world.crash()
        pauses.append(lost.again_seconds)
        world.sleep(lost.again_seconds)
        world.serve()
    assert pauses[:4] == [0, 0.2, 0.4, 0.8]
    assert pauses[-3:] == [CAP] * 3


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.9, 1.0, 1.1, 5.0, 29.0, 30.0, 31.0]), max_size=60))
def test_no_history_of_crashes_forks_a_slot_more_than_twenty_times_a_minute(lives):
    """However long each process serves before it dies, the row's pauses bound the rate."""
    world = World().serve()
    for seconds in lives:
        world.sleep(seconds)
        (lost,) = world.crash()
        world.sleep(lost.again_seconds)
        world.serve()
    forks = [at for at, action in world.seen if isinstance(action, Fork)]
    assert max(sum(at <= each <= at + 60 for each in forks) for at in forks) <= 20


# --- hung --------------------------------------------------------------------------------------


def test_a_hung_worker_writes_its_traceback_is_killed_and_followed_at_once():
    """SIGUSR2, a quarter of a second, SIGKILL, and the slot is filled again."""
    world = World(2).serve()
    world.sleep(10)
    assert world.tell(Hung(100)) == [Signal(100, SIGUSR2)]
    assert world.tell(Hung(100)) == []
    assert world.sleep(DUMP_SECONDS) == [Signal(100, SIGKILL)]
    how = "hung: no media tick for 5 s"
    assert world.tell(Exited(100, 0, SIGKILL)) == [Lost(0, 100, how, 0.0)]
    assert world.sleep(0) == [Fork(0)]


def test_a_slot_does_not_wait_for_a_worker_that_cannot_be_killed():
    """One that is stuck in the kernel is late news when it ends at last."""
    world = World().serve()
    world.sleep(10)
    world.tell(Hung(100))
    how = "hung: no media tick for 5 s; it could not be killed"
    later = world.sleep(DUMP_SECONDS + OPTIONS.workers.stop_seconds)
    assert later == [Signal(100, SIGKILL), Lost(0, 100, how, 0.0), Fork(0)]
    assert world.tell(Exited(100, 0, SIGKILL)) == []


@pytest.mark.parametrize("asked", [Asked.DRAIN, Resize(1)])
def test_a_worker_that_hangs_on_its_way_out_is_killed_and_not_followed(asked):
    """Its calls are lost, which is told, but nobody needs it."""
    world = World(2).serve()
    world.tell(asked)
    world.sleep(2)
    assert world.tell(Hung(101)) == [Signal(101, SIGUSR2)]
    assert world.sleep(DUMP_SECONDS) == [Signal(101, SIGKILL)]
    gone = Gone(1, 101, "hung: no media tick for 5 s")
    assert world.tell(Exited(101, 0, SIGKILL)) == [gone]


# --- reload ------------------------------------------------------------------------------------


def test_a_reload_replaces_one_worker_after_the_other():
    """An heir serves before its predecessor is told to retire, and before the next heir is forked."""
    world = World(2).serve()
    assert world.tell(Reload(2, OPTIONS)) == [Fork(0, 2)]
    assert (world.fleet.busy, world.fleet.generation) == (True, 2)
    assert world.tell(Ready(102)) == [
        Started(0, 102, 0.0),
        Signal(100, SIGUSR1),
        Progress("worker 0 replaced, 1 of 2"),
        Fork(1, 2),
    ]
    assert world.tell(Ready(103)) == [
        Started(1, 103, 0.0),
        Signal(101, SIGUSR1),
        Progress("worker 1 replaced, 2 of 2"),
        Reloaded(2, ""),
    ]
    assert not world.fleet.busy
    assert world.tell(Exited(100, 0)) == [Stopped(0, 100, "exit code 0")]
    assert [(line.slot, line.state, line.generation) for line in world.fleet.lines()] == [
        (0, "ready", 2),
        (1, "retiring", 1),
        (1, "ready", 2),
    ]


def test_a_retiree_has_its_time_and_not_more():
    """Live calls finish where they are, up to workers.retire_seconds and what ending takes."""
    world = World().serve()
    world.tell(Reload(2, OPTIONS))
    world.tell(Ready(101))
    assert world.sleep(OPTIONS.workers.retire_seconds + FAREWELL - 1) == []
    assert world.sleep(1) == [Signal(100, SIGINT)]


def test_a_retiree_that_is_killed_is_told_and_not_followed():
    """Its calls are lost; its slot is filled."""
    world = World().serve()
    world.tell(Reload(2, OPTIONS))
    world.tell(Ready(101))
    assert world.tell(Exited(100, 0, 9)) == [Gone(0, 100, "signal 9")]
    assert world.sleep(60) == []
    assert world.fleet.restarts == 1


def test_the_canary_has_one_attempt():
    """A configuration no worker starts with costs one process, and everything stays as it was."""
    world = World(2).serve()
    world.tell(Reload(2, OPTIONS))
    problem = "worker 0 does not start with the new configuration: exit code 3"
    assert world.tell(Exited(102, 3)) == [Gone(0, 102, "exit code 3"), Reloaded(2, problem)]
    assert world.fleet.states() == [State.READY, State.READY]
    assert world.fleet.generation == 1
    assert world.sleep(60) == []
    assert world.crash(0) == [Lost(0, 100, "exit code 1", 0.0)]
    assert world.sleep(0) == [Fork(0, 1)]


def test_an_overdue_canary_is_killed_and_aborts():
    """Never being ready is failing."""
    world = World().serve()
    world.tell(Reload(2, Options(workers=Workers(ready_seconds=3))))
    assert world.sleep(3) == [Signal(101, SIGKILL)]
    gone, reloaded = world.tell(Exited(101, 0, 9))
    assert gone == Gone(0, 101, "it was not ready within 3 s")
    assert isinstance(reloaded, Reloaded)
    assert reloaded.problem


def test_the_old_options_come_back_with_an_abort():
    """Who is forked after it is judged by what it was forked with."""
    world = World().serve()
    world.tell(Reload(2, Options(workers=Workers(ready_seconds=3))))
    world.tell(Exited(101, 1))
    world.crash()
    world.sleep(1)
    assert world.sleep(OPTIONS.workers.ready_seconds - 2) == []


def test_a_canary_that_cannot_be_forked_aborts():
    """No memory for a second worker is no reason to lose the first."""
    world = World().serve()
    world.can_fork = False
    problem = "worker 0 does not start with the new configuration: it could not be forked"
    assert world.tell(Reload(2, OPTIONS))[1:] == [
        Gone(0, 0, "it could not be forked"),
        Reloaded(2, problem),
    ]


def test_later_heirs_have_three_attempts():
    """After the canary a failure may be a hiccup, until it is a habit; what is replaced stays."""
    world = World(2).serve()
    world.tell(Reload(2, OPTIONS))
    world.tell(Ready(world.heir(0)))
    for pause in (0.1, 0.2):
        assert world.tell(Exited(world.heir(1), 1))[0].again_seconds == pause
        assert world.sleep(pause) == [Fork(1, 2)]
    gone, reloaded = world.tell(Exited(world.heir(1), 1))
    assert isinstance(gone, Gone)
    assert reloaded.problem == "worker 1 does not start with the new configuration: exit code 1"
    world.crash(1)
    world.tell(Exited(world.heir(0), 1))
    assert set(world.sleep(1)) == {Fork(1, 1), Fork(0, 2)}


def test_every_later_slot_has_its_own_three_attempts():
    """A machine with many workers is not judged by all their hiccups together."""
    world = World(3).serve()
    world.tell(Reload(2, OPTIONS))
    world.tell(Ready(world.heir(0)))
    for slot in (1, 2):
        for _ in range(FIRST_ATTEMPTS - 1):
            world.tell(Exited(world.heir(slot), 1))
            world.sleep(1)
        world.tell(Ready(world.heir(slot)))
    assert world.told_of(Reloaded) == [Reloaded(2, "")]


def test_a_pointless_end_of_a_later_heir_aborts_at_once():
    """It would end the same way again."""
    world = World(2).serve()
    world.tell(Reload(2, OPTIONS))
    world.tell(Ready(world.heir(0)))
    gone, reloaded = world.tell(Exited(world.heir(1), ExitCode.CONFIG))
    assert (type(gone), type(reloaded)) == (Gone, Reloaded)
    assert world.told_of(GiveUp) == []


def test_an_heir_fills_the_slot_of_a_predecessor_that_crashed():
    """Nobody else is forked for it, and its being lost is told."""
    world = World().serve()
    world.tell(Reload(2, OPTIONS))
    assert world.tell(Exited(100, 1)) == [Lost(0, 100, "exit code 1", 0.0)]
    assert world.sleep(1) == []
    assert world.tell(Ready(101))[1:] == [
        Progress("worker 0 replaced, 1 of 1"),
        Reloaded(2, ""),
    ]


def test_a_slot_whose_predecessor_and_heir_both_died_is_filled_as_before():
    """An abort leaves no slot empty."""
    world = World().serve()
    world.tell(Reload(2, OPTIONS))
    world.tell(Exited(100, 1))
    lost, reloaded = world.tell(Exited(101, 1))
    assert (lost, reloaded.generation) == (Lost(0, 101, "exit code 1", 0.1), 2)
    assert world.sleep(0.1) == [Fork(0, 1)]


def test_an_empty_slot_is_filled_with_the_new_configuration_at_its_turn():
    """A reload is how an operator repairs a fleet that does not start."""
    world = World(2).serve()
    world.crash(0)
    world.sleep(0.1)
    world.crash(0, ExitCode.CONFIG)
    assert world.tell(Reload(2, OPTIONS)) == [Fork(0, 2)]
    assert Fork(1, 2) in world.tell(Ready(world.pid(0)))


def test_a_reload_during_the_start_replaces_who_has_not_served_yet():
    """It has no calls, so it is not asked."""
    world = World()
    world.tell(Reload(2, OPTIONS))
    assert Signal(100, SIGKILL) in world.tell(Ready(101))
    assert world.tell(Exited(100, 0, 9)) == [Stopped(0, 100, "signal 9")]


def test_a_hung_predecessor_is_not_followed_once_its_heir_serves():
    """It is killed all the same."""
    world = World().serve()
    world.tell(Reload(2, OPTIONS))
    world.tell(Hung(100))
    world.tell(Ready(101))
    assert world.sleep(DUMP_SECONDS) == [Signal(100, SIGKILL)]
    assert [type(action) for action in world.tell(Exited(100, 0, 9))] == [Gone]


def test_a_slot_whose_fork_is_not_answered_is_not_forked_twice():
    """Its turn comes with the answer; an end that comes first is told."""
    world = World()
    world.tell(Exited(100, 1))
    world.is_slow = True
    world.sleep(0.1)
    assert world.tell(Reload(2, OPTIONS)) == []
    world.answer_forks()
    assert world.fleet.actions() == [Fork(0, 2)]
    other = World()
    other.tell(Exited(100, 1))
    other.is_slow = True
    other.sleep(0.1)
    other.tell(Reload(2, OPTIONS))
    assert other.tell(Asked.STOP) == [Reloaded(2, "the daemon is ending")]


def test_one_reload_at_a_time():
    """The second is refused, the first goes on."""
    world = World().serve()
    world.tell(Reload(2, OPTIONS))
    assert world.tell(Reload(3, OPTIONS)) == [Reloaded(3, "a reload is running")]
    assert Reloaded(2, "") in world.tell(Ready(101))


@pytest.mark.parametrize(("asked", "number"), [(Asked.DRAIN, SIGTERM), (Asked.STOP, SIGINT)])
def test_an_end_during_a_reload_ends_all_lives(asked, number):
    """Old, new and retiring alike."""
    world = World(2).serve()
    world.tell(Reload(2, OPTIONS))
    world.tell(Ready(world.heir(0)))
    actions = world.tell(asked)
    assert actions[0] == Reloaded(2, "the daemon is ending")
    assert sorted(action.pid for action in actions[1:]) == [100, 101, 102, 103]
    assert {action.number for action in actions[1:]} == {number}
    assert world.tell(Reload(3, OPTIONS)) == [Reloaded(3, "the daemon is ending")]
    assert world.tell(Resize(3)) == [Resized(3, "the daemon is ending")]


def test_a_thousand_reloads_leave_nothing_behind():
    """Lives that ended are forgotten."""
    world = World(2).serve()
    for generation in range(2, 1002):
        world.tell(Reload(generation, OPTIONS))
        for slot in (0, 1):
            old = world.pid(slot)
            world.tell(Ready(world.heir(slot)))
            world.tell(Exited(old, 0))
        assert len(world.fleet.lines()) == 2
    assert Reloaded(1001, "") in world.told_of(Reloaded)
    assert world.fleet.ignored == 0


# --- resize ------------------------------------------------------------------------------------


def test_a_fleet_grows_at_its_end():
    """Doors first, then workers; told when all serve."""
    world = World().serve()
    actions = [OpenDoor(1), Fork(1), OpenDoor(2), Fork(2)]
    assert sorted(world.tell(Resize(3)), key=repr) == sorted(actions, key=repr)
    assert world.fleet.wanted == 3
    world.tell(Ready(101))
    assert world.tell(Ready(102))[1:] == [Resized(3, "")]


def test_a_fleet_shrinks_from_its_end():
    """The door is closed, its queue is taken, and only then its worker retires."""
    world = World(3).serve()
    assert world.tell(Resize(1)) == [CloseDoor(2), CloseDoor(1)]
    assert world.fleet.states() == [State.READY, State.LEAVING, State.LEAVING]
    assert world.sleep(DOOR_SECONDS) == [
        Signal(101, SIGUSR1),
        Signal(102, SIGUSR1),
        Resized(1, ""),
    ]
    assert world.tell(Exited(101, 0)) == [Stopped(1, 101, "exit code 0")]
    assert world.sleep(60) == []


def test_a_slot_that_a_retiree_still_uses_can_be_wanted_again():
    """Two lives in one slot, and only one of them serves."""
    world = World(2).serve()
    world.tell(Resize(1))
    world.sleep(DOOR_SECONDS)
    assert world.tell(Resize(2)) == [OpenDoor(1), Fork(1)]
    assert Resized(2, "") in world.tell(Ready(102))
    assert world.fleet.states() == [State.READY, State.RETIRING, State.READY]


def test_a_new_slot_that_does_not_start_is_told_and_tried_on():
    """The operator hears of it after three attempts; the slot backs off like others."""
    world = World().serve()
    world.tell(Resize(2))
    for _ in range(FIRST_ATTEMPTS):
        assert world.told_of(Resized) == []
        world.crash(1)
        world.sleep(1)
    assert world.told_of(Resized) == [Resized(2, "worker 1 does not start: exit code 1")]
    assert world.fleet.states() == [State.READY, State.STARTING]
    assert not world.fleet.busy


def test_a_worker_that_starts_in_a_slot_no_longer_wanted_takes_what_waits_at_its_door():
    """It leaves as soon as it serves, and is not followed when it does not."""
    world = World(3).serve()
    for slot in (1, 2):
        world.crash(slot)
    world.sleep(0.1)
    world.tell(Resize(1))
    assert world.crash(2) == [Gone(2, 104, "exit code 1")]
    world.tell(Ready(103))
    assert world.sleep(DOOR_SECONDS) == [Signal(103, SIGUSR1), Resized(1, "")]
    assert world.fleet.ignored == 0


def test_an_empty_slot_that_is_not_wanted_is_just_forgotten():
    """Nothing is forked for it again."""
    world = World(2).serve()
    world.crash(1)
    assert world.tell(Resize(1)) == [CloseDoor(1), Resized(1, "")]
    assert world.sleep(60) == []


def test_a_resize_to_what_is_there_is_done_at_once():
    """Nothing happens to anybody."""
    assert World(2).serve().tell(Resize(2)) == [Resized(2, "")]


def test_there_is_always_a_worker():
    """Having none is what drain is for."""
    assert World().serve().tell(Resize(0)) == [Resized(0, "one worker is the least")]


def test_reload_and_resize_exclude_each_other():
    """Either is refused while the other runs."""
    world = World().serve()
    world.tell(Resize(2))
    assert world.tell(Reload(2, OPTIONS)) == [Reloaded(2, "a resize is running")]
    world.tell(Ready(101))
    world.tell(Reload(3, OPTIONS))
    assert world.tell(Resize(3)) == [Resized(3, "a reload is running")]


# --- the table ---------------------------------------------------------------------------------

_LATE = {
    # A process says things once, and may say them when somebody else has decided meanwhile.
    State.BACKING_OFF: {Turn.SERVED, Turn.HUNG, Turn.GONE},
    # A Fork is answered, the answer is acted upon, and it has no limit of its own.
    State.FORKING: set(Turn) - {Turn.FORKED, Turn.FORK_FAILED},
    # Hanging before it serves is what ready_seconds is for.
    State.STARTING: {Turn.HUNG, Turn.LEAVE},
    State.READY: {Turn.SERVED, Turn.DUE},
    State.HUNG: {Turn.SERVED, Turn.HUNG},
    State.OVERDUE: {Turn.SERVED, Turn.HUNG},
    # Who is on its way out hears of nothing that is less urgent.
    State.LEAVING: {Turn.SERVED, Turn.RETIRE, Turn.LEAVE},
    State.RETIRING: {Turn.SERVED, Turn.RETIRE, Turn.LEAVE},
    State.DRAINING: {Turn.SERVED, Turn.RETIRE, Turn.LEAVE, Turn.DRAIN},
    State.STALLED: {Turn.SERVED, Turn.HUNG, Turn.RETIRE, Turn.LEAVE, Turn.DRAIN},
    State.STOPPING: {Turn.SERVED, Turn.HUNG, Turn.RETIRE, Turn.LEAVE, Turn.DRAIN},
    State.KILLED: {Turn.SERVED, Turn.HUNG, Turn.RETIRE, Turn.LEAVE, Turn.DRAIN, Turn.STOP},
    State.ENDED: set(Turn),
}
"""What a state may hear and ignores."""


def test_every_pair_has_a_row_or_is_late_news():
    """Nothing that can happen was forgotten, and nothing is both."""
    answers = {Turn.FORKED, Turn.FORK_FAILED}  # only a life that forks is ever told
    for state in State:
        rows = {turn for at, turn in TABLE if at is state}
        late = _LATE[state] - answers
        assert not rows & late
        assert rows | late | answers == set(Turn), state


def test_every_state_is_reachable():
    """Nothing in the table is dead."""
    assert {state for state, _ in TABLE.values()} | {State.BACKING_OFF} == set(State)


def test_every_state_but_the_last_has_a_way_out_under_time_or_reaping():
    """No state waits for something that need not come."""
    ways = {state: {turn for at, turn in TABLE if at is state} for state in State}
    assert ways.pop(State.ENDED) == set()
    assert [state for state, turns in ways.items() if not turns & _SURE] == []


# READY has no time of its own: it lasts until its process is gone. A fork succeeds or fails at once.
_SURE = {Turn.DUE, Turn.GONE, Turn.FORKED}


@pytest.mark.parametrize(("state", "turn"), TABLE, ids=lambda word: word.name.lower())
def test_every_row_leads_where_it_says(state, turn):
    """Each line of the table is exercised in a fleet."""
    world = World(2).serve()
    _bring_to(world, state)
    life = world.fleet._lives[1]
    assert life.state is state
    if turn is Turn.GONE:
        life.ended(1, 0)
    elif turn is Turn.FORKED:
        life.pid = 1
    world.fleet._turn(life, turn, world.now)
    assert life.state is TABLE[state, turn][0]


def _bring_to(world, state):
    """The second slot's life stands there."""
    steps = {
        State.BACKING_OFF: [Exited(101, 1)],
        State.FORKING: [Exited(101, 1), 0.1],
        State.STARTING: [Exited(101, 1), 0.1],
        State.HUNG: [Hung(101)],
        State.OVERDUE: [Hung(101), DUMP_SECONDS],
        State.LEAVING: [Resize(1)],
        State.RETIRING: [Resize(1), DOOR_SECONDS],
        State.STALLED: [Hung(101), Asked.DRAIN],
        State.DRAINING: [Asked.DRAIN],
        State.STOPPING: [Asked.STOP],
        State.KILLED: [Asked.STOP, Asked.STOP],
    }.get(state, [])
    world.is_slow = state is State.FORKING
    for step in steps:
        if isinstance(step, float):
            world.sleep(step)
        else:
            world.tell(step)


# --- handed on ---------------------------------------------------------------------------------


def test_a_fleet_is_not_handed_on_in_the_middle_of_something():
    """LocalError: the shell asks `busy`, and knows whether the daemon ends."""
    world = World().serve()
    world.tell(Reload(2, OPTIONS))
    with pytest.raises(LocalError):
        world.fleet.save()
    world.tell(Asked.DRAIN)
    with pytest.raises(LocalError):
        world.fleet.save()


def test_after_a_hand_over_whoever_is_forked_has_the_generation_that_is_known():
    """A fleet that an aborted reload left mixed is one again, as its slots are filled anew."""
    world = World(2).serve()
    world.tell(Reload(2, OPTIONS))
    world.tell(Ready(world.heir(0)))
    world.tell(Exited(world.heir(1), ExitCode.CONFIG))
    world.tell(Exited(100, 0))
    world.fleet = Fleet.restore(world.fleet.save(), 1, OPTIONS, world.now)
    assert [line.generation for line in world.fleet.lines()] == [2, 1]
    world.crash(0)
    assert world.sleep(1) == [Fork(0, 1)]


# --- trunks ------------------------------------------------------------------------------------


def test_whoever_serves_or_finishes_calls_reads_new_trunks():
    """Nobody is replaced, and nothing else happens."""
    world = World(3).serve()
    world.tell(Resize(2))
    world.sleep(DOOR_SECONDS)
    assert world.tell(ReadTrunks()) == [Signal(pid, SIGHUP) for pid in (100, 101, 102)]
    assert world.fleet.states() == [State.READY, State.READY, State.RETIRING]
    assert not world.told_of(Started)[3:]


def test_a_worker_that_starts_reads_new_trunks_when_it_serves():
    """Once, however often they were changed; its successor is forked with them."""
    world = World()
    assert world.tell(ReadTrunks()) == world.tell(ReadTrunks()) == []
    assert Signal(100, SIGHUP) in world.tell(Ready(100))
    world.crash()
    world.sleep(1)
    assert world.tell(Ready(101)) == [Started(0, 101, pytest.approx(0.9))]


@pytest.mark.parametrize("state", ["hung", "stopping"])
def test_a_worker_that_ends_or_does_not_answer_is_not_told_of_trunks(state):
    """It has no use for them."""
    world = World().serve()
    world.tell(Hung(100) if state == "hung" else Asked.STOP)
    assert world.tell(ReadTrunks()) == []


# --- any history -------------------------------------------------------------------------------

_HASTY = Options(workers=Workers(ready_seconds=2.0, retire_seconds=20.0))


def _exit(world, pid, code=1, signal=0):
    if pid in world.alive:
        world.tell(Exited(pid, code, signal))


def _tell(world, event):
    if event.pid in world.alive:
        world.tell(event)


def _slow(world, number):
    world.is_slow = not number
    world.answer_forks()
    world.settle()


def _no_fork(world, number):
    world.can_fork = bool(number)


def _any_of(world, slot, *, young=False):
    pids = [pid for pid, at in world.alive.items() if at == slot]
    return pids[-1 if young else 0] if pids else 0


_HAPPENS = {
    "ready": lambda world, slot: _tell(world, Ready(_any_of(world, slot, young=True))),
    "ready all": lambda world, _: world.serve(),
    "crash": lambda world, slot: _exit(world, _any_of(world, slot)),
    "young crash": lambda world, slot: _exit(world, _any_of(world, slot, young=True)),
    "pointless": lambda world, slot: _exit(
        world, _any_of(world, slot, young=True), ExitCode.CONFIG
    ),
    "killed": lambda world, slot: _exit(world, _any_of(world, slot), 0, 9),
    "left": lambda world, slot: _exit(world, _any_of(world, slot), 0),
    "hung": lambda world, slot: _tell(world, Hung(_any_of(world, slot))),
    "young hung": lambda world, slot: _tell(world, Hung(_any_of(world, slot, young=True))),
    "sleep": lambda world, number: world.sleep((0.05, 0.6, 1.3, 35.0)[number]),
    "reload": lambda world, _: world.tell(Reload(len(world.heard) + 2, _HASTY)),
    "resize": lambda world, number: world.tell(Resize(number)),
    "trunks": lambda world, _: world.tell(ReadTrunks()),
    "no fork": _no_fork,
    "slow": _slow,
    "obey": lambda world, _: _obey(world),
}
_STEPS = st.lists(st.tuples(st.sampled_from(sorted(_HAPPENS)), st.integers(0, 3)), max_size=40)
_LATER = st.booleans().flatmap(
    lambda served: _STEPS.map(lambda steps: [("ready all", 0)] * served + steps)
)
"""Histories from the start, and those of a fleet that has served."""


def _live(world, steps):
    """Let a history happen."""
    for what, number in steps:
        _HAPPENS[what](world, number)


def _obey(world):
    """Whoever was told to end has ended."""
    for pid in list(world.alive):
        if world.told.get(pid) in {SIGTERM, SIGINT, SIGKILL, SIGUSR1}:
            killed = world.told[pid] == SIGKILL
            world.tell(Exited(pid, 0, SIGKILL if killed else 0))


def _calm(world):
    """From now on everything works; long enough for the longest pause, of every slot in turn."""
    world.can_fork, world.is_slow = True, False
    world.answer_forks()
    world.settle()
    for _ in range(20):
        _obey(world)
        world.serve()
        world.sleep(CAP / 4)


@settings(max_examples=400, deadline=None)
@given(_LATER)
def test_after_any_history_every_wanted_slot_has_one_life_that_serves(steps):
    """And nothing else: nobody is left over, nothing is under way, every wish was answered once."""
    world = World(3, _HASTY)
    _live(world, steps)
    _calm(world)
    if not world.told_of(GiveUp):
        lines = world.fleet.lines()
        assert [line.slot for line in lines] == list(range(world.fleet.wanted))
        assert {line.state for line in lines} == {State.READY}
        assert sorted(line.pid for line in lines) == sorted(world.alive)
    else:
        assert len(world.told_of(Finished)) == 1
        assert world.fleet.lines() == []
    assert not world.fleet.busy
    reloads = [wish.generation for wish in world.heard if isinstance(wish, Reload)]
    assert sorted(told.generation for told in world.told_of(Reloaded)) == sorted(reloads)
    resizes = [wish.slots for wish in world.heard if isinstance(wish, Resize)]
    assert sorted(told.slots for told in world.told_of(Resized)) == sorted(resizes)


@settings(max_examples=200, deadline=None)
@given(_LATER, st.sampled_from([Asked.DRAIN, Asked.STOP]), _STEPS)
def test_any_history_can_be_ended_in_bounded_time(steps, asked, more):
    """An order leads to Finished, once and last, even when no worker obeys and wishes go on coming."""
    world = World(3, _HASTY)
    _live(world, steps)
    world.is_slow = False
    world.tell(asked)
    world.answer_forks()
    world.settle()
    since = world.now
    _live(world, [step for step in more if step[0] not in {"sleep", "slow"}])
    assert not world.fleet.busy
    calls, workers = _HASTY.calls, _HASTY.workers
    limit = calls.drain_seconds + FAREWELL + calls.end_seconds + 2 * workers.stop_seconds
    world.sleep(limit)
    assert not [action for at, action in world.seen if at > since and isinstance(action, Fork)]
    assert len(world.told_of(Finished)) == 1
    assert not world.fleet.lines()
    assert world.fleet.wake_at() is None


@settings(max_examples=200, deadline=None)
@given(_LATER, _STEPS)
def test_a_fleet_that_was_handed_on_behaves_as_if_it_had_not_been(before, after):
    """Saved, written as JSON, read and restored, it decides the same about the same."""
    world = World(3, _HASTY)
    _live(world, before)
    world.is_slow = False
    world.answer_forks()
    world.settle()
    if world.fleet.busy or world.fleet._ending or not world.fleet._lives:
        return
    for life in world.fleet._lives:
        life.fork_as = world.fleet.generation
    text = msgspec.json.encode(world.fleet.save())
    lines = msgspec.json.decode(text, type=list[LifeLine])
    other = World(3, _HASTY)
    other.fleet = Fleet.restore(lines, world.fleet.generation, _HASTY, world.now)
    other.now, other.alive, other.told = world.now, dict(world.alive), dict(world.told)
    other.can_fork, other._next = world.can_fork, world._next
    other.seen, other.heard = list(world.seen), list(world.heard)
    other.trunks, other.known = world.trunks, dict(world.known)
    assert other.fleet.lines() == world.fleet.lines()
    for each in (world, other):
        _live(each, after)
        _calm(each)
        each.tell(Asked.STOP)
    assert other.seen == world.seen
