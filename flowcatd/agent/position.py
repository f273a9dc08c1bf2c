"""Where a call stands in its dialog: what changes beside the state and the variables.

A `Position` holds times as monotonic seconds while it is played, and as seconds from now when it
lies in a `Snapshot`: monotonic time means nothing to another machine, or after a restart. A
snapshot is JSON by msgspec. It holds what the caller said: whoever stores it keeps it as such.
"""

from __future__ import annotations

from typing import Any

import msgspec

from flowcatd.agent.brain import Say

LINES_KEPT = 32
"""Lines remembered as being said; no more than `processors/speak.py` lets wait."""


class Position(msgspec.Struct):
    """Timers, counts, keys and hooks under way."""

    due: float | None = None
    """When silence counts as such."""
    keys_due: float | None = None
    """When the keys pressed count as all."""
    pressed: str = ""
    is_talking: bool = False
    """Whether something is being said to the caller."""
    is_spoken_to: bool = False
    """Whether the caller began to speak, and nothing has been heard of it yet."""
    silences: int = 0
    misses: int = 0
    hooks: list[int] = []
    """The ids waited for."""
    next_hook: int = 1
    is_finished: bool = False
    saying: list[Say] = []
    """What has been given to the voice and not been heard to its end."""
    reason: str = ""
    """Why it hung up, once it is finished."""

    def say(self, line: Say) -> None:
        """A line is on its way to the caller: silence does not count."""
        self.is_talking = True
        self.due = None
        self.saying = [*self.saying[1 - LINES_KEPT :], line]

    def said(self) -> None:
        """All of it was heard, or cut off."""
        self.is_talking = False
        self.saying = []

    def begin(self) -> None:
        """A state begins: what was counted in the last one is over."""
        self.due = self.keys_due = None
        self.pressed = ""
        self.silences = self.misses = 0

    def finish(self, reason: str = "completed") -> None:
        """The conversation is over: nothing is waited for."""
        self.begin()
        self.reason = reason
        self.hooks = []
        self.is_finished = True

    def shifted(self, seconds: float) -> Position:
        """Give a copy whose times are later by `seconds`."""
        return msgspec.structs.replace(
            self,
            due=None if self.due is None else self.due + seconds,
            keys_due=None if self.keys_due is None else self.keys_due + seconds,
            hooks=list(self.hooks),
            saying=list(self.saying),
        )


class Snapshot(msgspec.Struct, frozen=True):
    """A call in a dialog, to be taken up again."""

    dialog: str
    state: str
    variables: dict[str, str]
    position: Position
    event: str | int = ""
    result: dict[str, Any] = {}
    version: int = 1
