"""Shedding: what a worker that is late gives up, and in which order. Pure.

    level     from a recent lag of        what is given up, on top of what stands above
    NOTHING   0                           nothing
    DEFER     half calls.lag_limit_ms     what can wait: HOUSEKEEPING
    REFUSE    calls.lag_limit_ms          who is not here yet: NEW_CALLS
    TRIM      twice calls.lag_limit_ms    what only looks on: TAPS
    (never)                               the audio of live calls, their ends, their records

Rising is immediate, and may skip levels: each late frame is heard. Falling goes level by level, each
after DWELL_SECONDS during which the lag stayed below STAY of what led there. So a rise and the fall
after it, and any two falls, are at least that far apart: what flaps is the lag, not the daemon. More
lag at any moment never means a lower level than less would (a property test).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from typing import Final


class Level(IntEnum):
    """How much is given up; the number is the metric `shedding_level`."""

    NOTHING = 0
    """All is well."""
    DEFER = 1
    """What can wait, waits."""
    REFUSE = 2
    """Calls that are not here yet go elsewhere."""
    TRIM = 3
    """What only looks on is cut."""


class Thing(Enum):
    """What can be given up."""

    HOUSEKEEPING = auto()
    """Full garbage collections in slack (overdue ones run), live call events and all but every fifth
    metrics snapshot, journal writes between the ends of turns."""
    NEW_CALLS = auto()
    """The row stands SHEDDING, so other workers pass it over; who comes all the same is told
    `overloaded`."""
    TAPS = auto()
    """The recording gets holes, which its call's record names; notices to the client stop."""


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the order."""

    level: Level
    share: float
    """Of calls.lag_limit_ms, from which on the level is reached."""
    gives_up: Thing


ORDER: Final = (
    Step(Level.DEFER, 0.5, Thing.HOUSEKEEPING),
    Step(Level.REFUSE, 1.0, Thing.NEW_CALLS),
    Step(Level.TRIM, 2.0, Thing.TAPS),
)
"""The first is given up first."""

NEVER: Final = ("the audio of live calls", "the end of a call", "the record of a call")
"""What no level touches, for whoever adds a step."""

STAY: Final = 0.7
"""The part of a level's threshold below which the lag must stay to leave it."""

DWELL_SECONDS: Final = 3.0
"""Longer than a storm's pause for breath, shorter than calls.retry_after_seconds."""

_SHARES: Final = {step.level: step.share for step in ORDER}
_GIVEN_UP_FROM: Final = {step.gives_up: step.level for step in ORDER}


@dataclass(frozen=True, slots=True)
class Changed:
    """The level is another."""

    source: Level
    target: Level
    lag_seconds: float


class Shedding:
    """One worker's level."""

    def __init__(self, lag_limit_ms: float) -> None:
        """`lag_limit_ms` is calls.lag_limit_ms."""
        self._limit = lag_limit_ms / 1000
        self.level = Level.NOTHING
        self._late_at = float("-inf")  # when the lag last called for the level, or made it

    def lagged(self, lag_seconds: float, now: float) -> Changed | None:
        """The recent lag, at every beat; the change it makes, if any."""
        wanted = self._wanted(lag_seconds)
        source = self.level
        if wanted > source:
            self.level = wanted
        elif source is Level.NOTHING:
            return None
        elif lag_seconds < STAY * _SHARES[source] * self._limit:
            if now - self._late_at < DWELL_SECONDS:
                return None
            self.level = Level(source - 1)
        self._late_at = now
        return Changed(source, self.level, lag_seconds) if self.level is not source else None

    def gives_up(self, thing: Thing) -> bool:
        """Whether this is given up now."""
        return self.level >= _GIVEN_UP_FROM[thing]

    def trimmed(self) -> bool:
        """Whether taps are cut: the hook of recorder and notices."""
        return self.level is Level.TRIM

    def _wanted(self, lag_seconds: float) -> Level:
        reached = [step.level for step in ORDER if lag_seconds >= step.share * self._limit]
        return max(reached, default=Level.NOTHING)
