"""Turns: the table, row by row and whole, and what the caller and the agent get to notice."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.frames import (
    BotStartedSpeaking,
    BotStoppedSpeaking,
    Interruption,
    UserStartedSpeaking,
    UserStoppedSpeaking,
    VadUserStartedSpeaking,
    VadUserStoppedSpeaking,
)
from flowcatd.options import Turns as TurnsOptions
from flowcatd.pipeline.processor import Processor, down
from flowcatd.processors.turns import TABLE, Event, State, Turns
from tests.builders import Rig, VirtualScope, names

OPTIONS = TurnsOptions(barge_in_ms=240, longest_seconds=30)
NO_BARGE_IN = TurnsOptions(barge_in=False, longest_seconds=30)


class Tracing(Turns):
    """Notes which rows it used."""

    def __init__(self, options: TurnsOptions) -> None:
        super().__init__(options)
        self.used: list[tuple[State, Event]] = []

    def _on(self, event: Event) -> None:
        if (self.state, event) in TABLE:
            self.used.append((self.state, event))
        super()._on(event)


class Agent(Processor):
    """Speaks when told to, and stops when interrupted, as playout does."""

    def __init__(self) -> None:
        super().__init__()
        self.speaking = False

    def start(self, *, interruptible: bool) -> None:
        """A line begins."""
        self.speaking = True
        self.push_up(BotStartedSpeaking(interruptible))

    def stop(self, *, interrupted: bool = False) -> None:
        """Nothing more is heard."""
        if self.speaking:
            self.speaking = False
            self.push_up(BotStoppedSpeaking(interrupted))

    @down(Interruption)
    def interruption(self, frame: Interruption) -> None:
        """Stop."""
        self.stop(interrupted=True)
        self.push(frame)


class Floor:
    """A caller and an agent who take turns."""

    def __init__(self, options: TurnsOptions = OPTIONS) -> None:
        self.scope = VirtualScope()
        self.turns = Tracing(options)
        self.agent = Agent()
        self.rig = Rig([self.turns, self.agent], self.scope)
        self.stimuli = {
            "vad start": lambda: self.rig.feed(VadUserStartedSpeaking(60)),
            "vad stop": lambda: self.rig.feed(VadUserStoppedSpeaking(450)),
            "agent": lambda: self.agent.start(interruptible=True),
            "agent held": lambda: self.agent.start(interruptible=False),
            "agent stop": self.agent.stop,
            "a moment": lambda: self.scope.pass_for(0.1),
            "barge-in": lambda: self.scope.pass_for(OPTIONS.barge_in_ms / 1000),
            "too long": lambda: self.scope.pass_for(OPTIONS.longest_seconds),
        }

    def do(self, *steps: str) -> State:
        """Let these happen; where the turn stands then."""
        for step in steps:
            self.stimuli[step]()
        return self.turns.state

    def told(self) -> list[str]:
        """What was told of the caller's turns, in order."""
        return names(self.rig.out(UserStartedSpeaking, UserStoppedSpeaking, Interruption))


STIMULI = tuple(Floor().stimuli)


# --- the table -----------------------------------------------------------------------------------


def test_every_row_is_exercised_and_every_state_reached() -> None:
    """By what a caller and an agent can do, in three steps and from there in two."""
    used: set[tuple[State, Event]] = set()
    reached: set[State] = set()
    for steps in itertools.product(STIMULI, repeat=4):
        floor = Floor()
        reached.add(floor.do(*steps))
        used.update(floor.turns.used)
    assert used == set(TABLE)
    assert reached == set(State)


@pytest.mark.parametrize("state", [state for state in State if state is not State.QUIET])
def test_every_state_but_quiet_has_a_way_back_to_quiet(state: State) -> None:
    """Along rows that time, the agent's or the caller's silence bring about."""
    ways_out = {Event.VAD_STOP, Event.BOT_STOP, Event.CONFIRMED, Event.TOO_LONG}
    reached, frontier = {state}, {state}
    while frontier:
        frontier = {
            target
            for (source, event), (target, _) in TABLE.items()
            if source in frontier and event in ways_out
        } - reached
        reached |= frontier
    assert State.QUIET in reached


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        (("vad start",), State.SPEAKING),
        (("agent", "vad start"), State.DOUBT),
        (("agent held", "vad start"), State.HELD),
    ],
)
def test_every_state_is_left_when_the_caller_falls_silent(
    steps: tuple[str, ...], state: State
) -> None:
    """Without help from anybody else."""
    floor = Floor()
    assert floor.do(*steps) is state
    assert floor.do("vad stop") is State.QUIET
    assert len(floor.scope.wakes) == 0


def test_time_alone_ends_a_doubt_and_a_turn() -> None:
    """A caller whose silence is never noticed does not hold the floor for ever."""
    floor = Floor()
    assert floor.do("agent", "vad start", "barge-in") is State.SPEAKING
    assert floor.do("too long") is State.QUIET
    assert floor.told() == ["Interruption", "UserStartedSpeaking", "UserStoppedSpeaking"]


# --- turns ---------------------------------------------------------------------------------------


def test_a_turn_begins_when_speech_set_in_and_ends_with_the_last_word() -> None:
    """Both are told with how long ago that was."""
    floor = Floor()
    floor.do("vad start", "vad stop")
    assert floor.rig.out(UserStartedSpeaking, UserStoppedSpeaking) == [
        UserStartedSpeaking(60),
        UserStoppedSpeaking(450),
    ]


def test_a_turn_that_is_too_long_ends_while_the_caller_speaks() -> None:
    """So there was no silence before its end, whatever was noticed earlier in the call."""
    floor = Floor()
    floor.do("agent held", "vad start", "vad stop", "agent stop")
    floor.do("vad start", "too long")
    assert floor.rig.out(UserStoppedSpeaking) == [UserStoppedSpeaking(0)]


def test_sound_over_the_agent_takes_the_turn_after_barge_in_ms() -> None:
    """Counted from where the sound set in, and not a moment earlier."""
    floor = Floor()
    floor.do("agent", "vad start")
    floor.scope.pass_for(0.179)
    assert floor.told() == []
    floor.scope.pass_for(0.002)
    assert floor.told() == ["Interruption", "UserStartedSpeaking"]
    assert not floor.agent.speaking
    (began,) = floor.rig.out(UserStartedSpeaking)
    assert 239 <= began.start_ms <= 241


def test_a_cough_over_the_agent_changes_nothing() -> None:
    """Sound that ends before it is believed."""
    floor = Floor()
    floor.do("agent", "vad start", "a moment", "vad stop", "barge-in", "too long")
    assert floor.told() == []
    assert floor.agent.speaking


def test_a_caller_who_speaks_as_the_agent_ends_has_the_turn() -> None:
    """Nobody is interrupted by that."""
    floor = Floor()
    assert floor.do("agent", "vad start", "agent stop") is State.SPEAKING
    assert floor.told() == ["UserStartedSpeaking"]


def test_an_agent_who_begins_while_the_caller_speaks_yields() -> None:
    """The caller's turn goes on as one."""
    floor = Floor()
    assert floor.do("vad start", "agent") is State.SPEAKING
    assert not floor.agent.speaking
    floor.do("vad stop")
    assert floor.told() == ["UserStartedSpeaking", "Interruption", "UserStoppedSpeaking"]


def test_above_turns_the_agent_is_seen_to_start_before_it_is_seen_to_stop() -> None:
    """Though the interruption comes back while the start is still being told."""
    floor = Floor()
    floor.do("vad start", "agent")
    assert names(floor.rig.back(BotStartedSpeaking, BotStoppedSpeaking)) == [
        "BotStartedSpeaking",
        "BotStoppedSpeaking",
    ]


# --- lines that may not be interrupted ------------------------------------------------------------


def test_nothing_interrupts_a_line_that_may_not_be_interrupted() -> None:
    """Not even a long speech; who still speaks at its end has the turn."""
    floor = Floor()
    assert floor.do("agent held", "vad start", "too long") is State.HELD
    assert floor.told() == []
    assert floor.do("agent stop") is State.SPEAKING
    assert floor.told() == ["UserStartedSpeaking"]


def test_a_doubt_is_dropped_when_such_a_line_begins() -> None:
    """The caller spoke over the line before it, and not for long enough."""
    floor = Floor()
    floor.do("agent", "vad start", "a moment")
    assert floor.do("agent held") is State.HELD
    floor.do("barge-in")
    assert floor.told() == []
    assert floor.agent.speaking


def test_who_speaks_on_into_a_line_that_may_be_interrupted_takes_the_turn() -> None:
    """What was ignored counts from then on, all of it."""
    floor = Floor()
    floor.do("agent held", "vad start", "barge-in")
    assert floor.do("agent") is State.DOUBT
    floor.scope.pass_for(0)
    assert floor.told() == ["Interruption", "UserStartedSpeaking"]


def test_the_caller_keeps_the_turn_when_such_a_line_begins_in_it() -> None:
    """Both are heard."""
    floor = Floor()
    assert floor.do("vad start", "agent held") is State.SPEAKING
    assert floor.agent.speaking
    floor.do("vad stop")
    assert floor.told() == ["UserStartedSpeaking", "UserStoppedSpeaking"]


def test_with_barge_in_off_every_line_is_one_that_may_not_be_interrupted() -> None:
    """Before, after or while the caller speaks."""
    floor = Floor(NO_BARGE_IN)
    assert floor.do("agent", "vad start", "too long") is State.HELD
    assert floor.do("agent stop") is State.SPEAKING
    assert floor.do("agent") is State.SPEAKING
    assert floor.agent.speaking
    floor.do("vad stop")
    assert floor.told() == ["UserStartedSpeaking", "UserStoppedSpeaking"]


# --- properties ----------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(STIMULI), max_size=40), st.booleans())
def test_turns_alternate_and_only_what_may_be_is_interrupted(
    steps: list[str],
    barge_in: bool,  # noqa: FBT001 hypothesis gives it
) -> None:
    """Whatever happens in whatever order; one deadline at most is pending."""
    floor = Floor(OPTIONS if barge_in else NO_BARGE_IN)
    held = False
    for step in steps:
        interruptions = len(floor.rig.out(Interruption))
        if step.startswith("agent"):
            held = step == "agent held"
        floor.do(step)
        if len(floor.rig.out(Interruption)) > interruptions:
            assert barge_in
            assert not held
        assert len(floor.scope.wakes) <= 1
        expected = floor.turns.state in {State.DOUBT, State.SPEAKING}
        assert len(floor.scope.wakes) == expected, "a deadline outlived its state, or is missing"
    floor.do("vad stop")
    assert floor.turns.state is State.QUIET
    told = names(floor.rig.out(UserStartedSpeaking, UserStoppedSpeaking))
    assert told == ["UserStartedSpeaking", "UserStoppedSpeaking"] * (len(told) // 2)
