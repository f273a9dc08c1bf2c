"""A dialog as values: what `dialog_file.py` reads, `survey.py` judges and `dialog.py` plays.

Everything here is frozen and shared by all calls of a worker. A state already carries what its
play needs: the transitions by event (its own, then those that hold anywhere), the matcher of all
its phrases and what a recogniser is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from flowcatd.agent.keypad import Keys
from flowcatd.agent.matcher import Matcher
from flowcatd.agent.phrase import Node, Vocabulary
from flowcatd.agent.template import Template
from flowcatd.services import Hearing


class Event(StrEnum):
    """What a transition waits for."""

    SPEECH = "speech"
    """Something was said."""
    DTMF = "dtmf"
    """Keys were pressed."""
    TIMEOUT = "timeout"
    """Silence, and nobody's patience left."""
    HOOK_RESULT = "hook_result"
    """A hook answered."""
    HOOK_ERROR = "hook_error"
    """A hook did not."""
    TTS_COMPLETE = "tts_complete"
    """Everything said has been heard."""
    ENTER = "enter"
    """The state is about to be entered: a condition may lead past it."""
    NO_INPUT = "no_input"
    """Silence, before any reprompt."""
    NO_MATCH = "no_match"
    """Speech or keys that no transition waits for, before any reprompt."""


class Kind(StrEnum):
    """What an action does."""

    PLAY_TTS = "play_tts"
    SET_VARIABLE = "set_variable"
    CALL_HOOK = "call_hook"
    HANGUP = "hangup"
    TRANSFER = "transfer"
    PLAY_AUDIO = "play_audio"


NEEDED = {Kind.PLAY_TTS: ("text",), Kind.TRANSFER: ("target",)}
"""The parameters without which an action means nothing."""
STAY = "."
"""The target that stays in the state and says its prompt again."""


@dataclass(frozen=True, slots=True)
class Step:
    """One action."""

    kind: Kind
    params: Mapping[str, Template]
    line: int


@dataclass(frozen=True, slots=True)
class Transition:
    """One way out of a state, or back to its prompt."""

    event: Event
    target: str
    """A state, or STAY."""
    line: int
    key: str
    """Where it stands in the file, for messages."""
    condition: Template | None = None
    hears: tuple[Node, ...] = ()
    keys: Keys | None = None
    menu: tuple[str, Mapping[str, str]] | None = None
    """A slot, and the value that each key puts into it."""
    sets: tuple[tuple[str, Template], ...] = ()
    """Variables to set before the actions."""
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Reprompt:
    """What to say when nothing comes, or nothing that fits: each text once, then `give_up`."""

    no_input: tuple[Template, ...] = ()
    no_match: tuple[Template, ...] = ()
    give_up: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """One state with everything its play needs."""

    name: str
    line: int
    on_enter: tuple[Step, ...] = ()
    moves: Mapping[Event, tuple[Transition, ...]] = field(default_factory=dict)
    """Its own transitions, then those that hold anywhere, by event."""
    timeout: float | None = None
    """Seconds of silence."""
    timeout_next: str = ""
    terminal: bool = False
    reprompt: Reprompt = Reprompt()
    barge_in: bool = True
    matcher: Matcher | None = None
    """All phrases; an owner is the number of the transition among those for speech."""
    hearing: Hearing = field(default_factory=Hearing)
    own: int = 0
    """How many transitions are its own."""

    def transitions(self) -> Iterator[Transition]:
        """Give every transition, whatever its event."""
        for moves in self.moves.values():
            yield from moves

    def steps(self) -> Iterator[Step]:
        """Give every action that can run in or on the way out of this state."""
        yield from self.on_enter
        for transition in self.transitions():
            yield from transition.steps


@dataclass(frozen=True, slots=True)
class Dialog:
    """One dialog file."""

    name: str
    initial_state: str
    states: Mapping[str, State]
    version: str = ""
    description: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    vocabulary: Vocabulary = field(default_factory=dict)
    language: str = "en-US"
    """BCP 47."""
    voice: str = ""
