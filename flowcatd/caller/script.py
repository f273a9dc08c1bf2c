"""What the caller says, and when: turns, given what was heard of the agent. Pure, in virtual time.

A caller waits for the agent to finish, speaks, and waits for an answer. What makes this harder than
a list is to know an answer when one hears it; every rule below decides by what was audible:

* a stretch of the agent that a `clear` cut short is a line we interrupted, not an answer;
* one that set in after we began to speak and outlasts us is an answer (an echo overlaps with us);
* one that was under way when we began, and is not cut, is an answer only if it goes on for
  OUTLASTED seconds after our last word: the agent did not let itself be interrupted.

A turn with `interrupt_after_ms` is said that long after the agent began the line it interrupts, or,
if that line was shorter, in its place like any other. When nobody speaks for `patience` seconds the
next turn is said anyway: an agent may be waiting for us, and a test must not hang.

All times are seconds on the call's own clock, which begins with 0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from flowcatd.errors import LocalError

TURNS_LIMIT = 256
"""Turns that may wait; nobody scripts or types ahead more."""

OUTLASTED = 1.0
"""Seconds; a line that was cut off dies within this, even over a slow network."""

TAIL = 0.1
"""Seconds; by so much an echo of a voice that dies away may seem to end before the voice did."""

DEMO = (
    "I would like tuesday please",
    "at ten thirty",
    "no, thursday",
    "yes please",
)
"""What is said to the shipped agent (`conf/agents/appointment.yaml`) when nothing else is asked for:
a day, a time, a correction, a confirmation."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing the caller says, or a row of keys."""

    text: str
    """What a person reads: the words, or a file's name."""
    pcm: bytes = b""
    """s16le mono at the call's rate, trimmed."""
    voice_seconds: float = 0.0
    """From its first sample to the last audible one."""
    digits: str = ""
    """Keys, when it is not speech."""
    interrupt_after_ms: int | None = None
    """Say it this long after the agent began to speak, instead of waiting for the end."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the caller is, in seconds."""

    greeting: float = 4.0
    """Silence at the beginning, after which the first turn is said to an agent that waits for it."""
    patience: float = 8.0
    """Silence on both sides after which the next turn is said anyway."""
    end_patience: float = 20.0
    """Silence after the last turn, after which the caller hangs up."""


class Floor(Enum):
    """Whose turn the caller thinks it is."""

    THEIRS = auto()
    """The agent owes a greeting or an answer."""
    OURS = auto()
    """The agent has finished."""
    SPEAKING = auto()
    """We are saying a turn."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """The caller wants to end the call."""

    reason: str
    asked: bool
    """Whether whoever wrote the script wanted it so; else something is missing."""


class Script:
    """The turns still to say."""

    def __init__(
        self,
        turns: Iterable[Turn] = (),
        pace: Pace | None = None,
        *,
        eager: bool = False,
        hang_up: bool = False,
    ) -> None:
        """`eager` says a turn as soon as there is one (somebody is typing) until `close()`; `hang_up`
        ends the call once the last turn was answered.
        """
        self._turns = deque(turns)
        self._pace = pace if pace is not None else Pace()
        self._eager = eager
        self._open = eager
        self._hang_up = hang_up
        self.floor = Floor.THEIRS
        self._began = float("-inf")
        self._ended = float("-inf")
        self._agent_since: float | None = None
        self._silent_since = 0.0

    @property
    def remaining(self) -> int:
        """How many turns are still to be said."""
        return len(self._turns)

    # --- what happened ----------------------------------------------------------------------------

    def add(self, turn: Turn) -> None:
        """One more turn, behind the others."""
        if len(self._turns) >= TURNS_LIMIT:
            raise LocalError(f"{TURNS_LIMIT} turns wait to be said already")
        self._turns.append(turn)

    def close(self) -> None:
        """No turn will be added: hang up once those that wait have been said."""
        self._open = False

    def agent_started(self, at: float) -> None:
        """The agent became audible."""
        self._agent_since = at

    def agent_stopped(self, start: float, end: float, *, cut: bool) -> None:
        """The agent has been silent since `end`; `cut` if a clear ended it."""
        self._agent_since = None
        self._silent_since = max(self._silent_since, end)
        if cut or self.floor is not Floor.THEIRS or end <= self._ended - TAIL:
            return
        if start >= self._began or end - self._ended >= OUTLASTED:
            self.floor = Floor.OURS

    def said(self, began: float, ended: float) -> None:
        """The turn given last has been said; it lasted from `began` to its last audible sample."""
        self.floor = Floor.THEIRS
        self._began = began
        self._ended = ended
        self._silent_since = max(self._silent_since, ended)

    # --- what we want -----------------------------------------------------------------------------

    def next_turn(self, now: float) -> Turn | None:
        """The turn to begin now, if any; `said` must follow when it is over."""
        if not self._turns or self.floor is Floor.SPEAKING:
            return None
        if not (self._eager or self._may_interrupt(now) or self._may_speak(now)):
            return None
        self.floor = Floor.SPEAKING
        return self._turns.popleft()

    def hang_up(self, now: float) -> HangUp | None:
        """Why to end the call now, or None to stay."""
        if self._turns or self._open or self.floor is Floor.SPEAKING:
            return None
        if self._eager or (self._hang_up and self.floor is Floor.OURS):
            return HangUp("hung up as asked", asked=True)
        if self._silence(now) >= self._pace.end_patience:
            seconds = f"{self._pace.end_patience:g} s"
            return HangUp(f"the agent neither spoke nor ended the call for {seconds}", asked=False)
        return None

    # --- private ----------------------------------------------------------------------------------

    def _may_speak(self, now: float) -> bool:
        nobody_spoke = self._silent_since == 0.0
        patience = self._pace.greeting if nobody_spoke else self._pace.patience
        return self.floor is Floor.OURS or self._silence(now) >= patience

    def _may_interrupt(self, now: float) -> bool:
        after_ms = self._turns[0].interrupt_after_ms
        since = self._agent_since
        if after_ms is None or since is None or since < self._began:
            return False
        return now - since >= after_ms / 1000

    def _silence(self, now: float) -> float:
        return 0.0 if self._agent_since is not None else now - self._silent_since
