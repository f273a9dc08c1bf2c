"""Whether a trunk lives: what came of the OPTIONS that it is asked with (RFC 3261 §11, RFC 3263 §4.3).

Any answer is a sign of life: 404, 405 and 481 come from peers that do not know OPTIONS, 401 from those who
ask everybody for a password. Not so 408, from a proxy that reached nobody behind it, and 503. One of
those, or silence, may be chance; DEAD_AFTER in a row are a dead trunk, and one answer brings it back.
Pure. A trunk that is not asked is alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEAD_AFTER: Final = 2
_NO_LIFE: Final = frozenset({0, 408, 503})


@dataclass(frozen=True, slots=True)
class Pulse:
    """A trunk was found dead, or alive again."""

    is_alive: bool
    status: int
    """Of the last answer; 0 is none."""


@dataclass(slots=True)
class Health:
    """Of one trunk."""

    failures: int = 0
    """In a row."""
    status: int = 0
    """Of the last answer; 0 is none, or none yet."""

    @property
    def is_alive(self) -> bool:
        """Whether calls are worth trying."""
        return self.failures < DEAD_AFTER

    def note(self, status: int) -> Pulse | None:
        """A request was answered, or not (0); whether that makes a difference."""
        was = self.is_alive
        self.status = status
        self.failures = self.failures + 1 if status in _NO_LIFE else 0
        return None if self.is_alive is was else Pulse(self.is_alive, status)
