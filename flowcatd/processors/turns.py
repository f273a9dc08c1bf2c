"""Turns: whose turn it is, as one table of states and events.

    state      what it means
    QUIET      the caller is silent
    DOUBT      the caller makes a sound while the agent speaks; it may become a barge-in
    HELD       the caller makes a sound over a line that may not be interrupted; it is ignored
    SPEAKING   the caller has the turn

Voice activity (VAD_START…, VAD_STOP), the agent's playout (BOT_START…, BOT_STOP) and two deadlines
(CONFIRMED: the doubt lasted long enough; TOO_LONG: the turn lasted too long) drive it. An event
without a row changes nothing: voice activity and playout are observations, not requests.

Later work replaces the table (words, backchannel, reversible barge-in), not the shape.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from flowcatd.frames import (
    BotStartedSpeaking,
    BotStoppedSpeaking,
    InputDtmf,
    UserStartedSpeaking,
    UserStoppedSpeaking,
    VadUserStartedSpeaking,
    VadUserStoppedSpeaking,
)
from flowcatd.options import Turns as TurnsOptions
from flowcatd.pipeline.chain import interrupt
from flowcatd.pipeline.processor import Processor, down, up
from flowcatd.pipeline.scope import Cancellable


class State(Enum):
    """Where the turn stands."""

    QUIET = auto()
    """The caller is silent."""
    DOUBT = auto()
    """Sound over the agent's line, not yet long enough to take the turn."""
    HELD = auto()
    """Sound over a line that may not be interrupted."""
    SPEAKING = auto()
    """The caller has the turn."""


class Event(Enum):
    """What can happen."""

    VAD_START = auto()
    """Speech set in while the agent was silent."""
    VAD_START_OVER_BOT = auto()
    """Speech set in over an interruptible line."""
    VAD_START_HELD = auto()
    """Speech set in over a line that may not be interrupted."""
    VAD_STOP = auto()
    BOT_START = auto()
    """The agent began an interruptible line."""
    BOT_START_HELD = auto()
    """The agent began a line that may not be interrupted."""
    BOT_STOP = auto()
    CONFIRMED = auto()
    TOO_LONG = auto()


TABLE: Final[dict[tuple[State, Event], tuple[State, str]]] = {
    (State.QUIET, Event.VAD_START): (State.SPEAKING, "begin"),
    (State.QUIET, Event.VAD_START_OVER_BOT): (State.DOUBT, "doubt"),
    (State.QUIET, Event.VAD_START_HELD): (State.HELD, "nothing"),
    (State.DOUBT, Event.VAD_STOP): (State.QUIET, "forget"),
    (State.DOUBT, Event.CONFIRMED): (State.SPEAKING, "take"),
    (State.DOUBT, Event.BOT_STOP): (State.SPEAKING, "begin"),
    (State.DOUBT, Event.BOT_START_HELD): (State.HELD, "forget"),
    (State.HELD, Event.VAD_STOP): (State.QUIET, "nothing"),
    (State.HELD, Event.BOT_STOP): (State.SPEAKING, "begin"),
    (State.HELD, Event.BOT_START): (State.DOUBT, "doubt"),
    (State.SPEAKING, Event.VAD_STOP): (State.QUIET, "end"),
    (State.SPEAKING, Event.BOT_START): (State.SPEAKING, "yield_to_caller"),
    (State.SPEAKING, Event.TOO_LONG): (State.QUIET, "end"),
}


class Turns(Processor):
    """Decides when the caller's turn begins and ends, and whether the agent must stop."""

    def __init__(self, options: TurnsOptions) -> None:
        super().__init__()
        self._options = options
        self.state = State.QUIET
        self._bot_speaking = False
        self._bot_interruptible = True
        self._line_interruptible = True
        self._since = 0.0
        self._stop_ms = 0
        self._deadline: Cancellable | None = None

    @down(VadUserStartedSpeaking)
    def vad_started(self, frame: VadUserStartedSpeaking) -> None:
        """Speech set in."""
        self._since = self.scope.now() - frame.start_ms / 1000
        if not self._bot_speaking:
            event = Event.VAD_START
        elif self._bot_interruptible:
            event = Event.VAD_START_OVER_BOT
        else:
            event = Event.VAD_START_HELD
        self._on(event)
        self.push(frame)

    @down(VadUserStoppedSpeaking)
    def vad_stopped(self, frame: VadUserStoppedSpeaking) -> None:
        """Speech ended."""
        self._stop_ms = frame.stop_ms
        self._on(Event.VAD_STOP)
        self.push(frame)

    @down(InputDtmf)
    def key(self, frame: InputDtmf) -> None:
        """A key is an answer: an interruptible line stops for it, whatever `barge_in` says of voices."""
        if self._bot_speaking and self._line_interruptible:
            interrupt(self)
        self.push(frame)

    @up(BotStartedSpeaking)
    def bot_started(self, frame: BotStartedSpeaking) -> None:
        """The agent's line began."""
        self._bot_speaking = True
        self._line_interruptible = frame.interruptible
        self._bot_interruptible = frame.interruptible and self._options.barge_in
        self.push_up(frame)  # first: an interruption makes BotStoppedSpeaking follow it
        self._on(Event.BOT_START if self._bot_interruptible else Event.BOT_START_HELD)

    @up(BotStoppedSpeaking)
    def bot_stopped(self, frame: BotStoppedSpeaking) -> None:
        """The agent's turn is over."""
        self._bot_speaking = False
        self._on(Event.BOT_STOP)
        self.push_up(frame)

    # --- the table at work ------------------------------------------------------------------------

    def _on(self, event: Event) -> None:
        row = TABLE.get((self.state, event))
        if row is None:
            return
        self.state, action = row
        getattr(self, f"_{action}")()

    def _nothing(self) -> None:
        """Only the state changes."""

    def _begin(self) -> None:
        self._stop_ms = 0
        self._arm(self._options.longest_seconds, Event.TOO_LONG)
        self.push(UserStartedSpeaking(round((self.scope.now() - self._since) * 1000)))

    def _end(self) -> None:
        self._disarm()
        self.push(UserStoppedSpeaking(self._stop_ms))

    def _doubt(self) -> None:
        elapsed = self.scope.now() - self._since
        self._arm(max(0.0, self._options.barge_in_ms / 1000 - elapsed), Event.CONFIRMED)

    def _forget(self) -> None:
        self._disarm()

    def _take(self) -> None:
        interrupt(self)
        self._begin()

    def _yield_to_caller(self) -> None:
        interrupt(self)

    def _arm(self, seconds: float, event: Event) -> None:
        self._disarm()
        self._deadline = self.scope.wake(self.scope.now() + seconds, lambda: self._on(event))

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
