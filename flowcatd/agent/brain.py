"""The brain seam: what happened in the call comes in, what to do next comes out.

A brain is pure in the sense of the house (no I/O, no clock): it is told events with the time, and
asked for its actions and for the time at which it wants to be woken. `processors/think.py` drives
it: it turns frames into these calls and these actions into frames. The dialog state machine
(`agent/dialog.py`) is one brain; a prompt, a graph, a remote service and a Python class are others.

The driver's contract: after every call of an input method it drains `actions()` in order and looks
at `wake_at()`; when that time has come it calls `wake(now)`. `now` is monotonic seconds.

A call may outlive the process that carries it: `snapshot` is kept at every turn, and a brain that was
made from one elsewhere is told `resumed` where another is told `started`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from flowcatd.services import Hearing


@dataclass(frozen=True, slots=True)
class Say:
    """Speak a line; `interruptible` says whether the caller may talk over it."""

    text: str
    voice: str = ""
    interruptible: bool = True


@dataclass(frozen=True, slots=True)
class Listen:
    """From now on this is what the caller may sensibly say."""

    hearing: Hearing


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the call once everything said so far has been heard."""

    reason: str = "completed"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Hand the caller to someone else; the transport may refuse."""

    target: str


@dataclass(frozen=True, slots=True)
class CallHook:
    """Ask the customer's backend; `hook_result` or `hook_error` comes back under the same id."""

    hook_id: int
    params: dict[str, str] = field(default_factory=dict)
    state: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """The brain went from one of its states to another: for the record, nothing to carry out."""

    source: str
    target: str
    event: str


Action = Say | Listen | HangUp | Transfer | CallHook | Moved


class Brain(Protocol):
    """One call's conversation."""

    def started(self, now: float) -> None:
        """The call is up."""

    def resumed(self, now: float) -> None:
        """The call is up again after a break: say so, and ask again what was asked."""

    def snapshot(self, now: float) -> msgspec.Struct:
        """Where the conversation stands, for its own kind of brain only; no actions may be waiting."""

    def heard(self, text: str, now: float, *, confidence: float = 1.0) -> None:
        """The caller said this; empty text is speech that nothing expected could explain."""

    def digit(self, digit: str, now: float) -> None:
        """The caller pressed a key."""

    def speaking(self, now: float) -> None:
        """The caller began to speak: waiting for them to say something is over."""

    def spoken(self, now: float) -> None:
        """Everything the brain asked to say has been heard, or was cut off."""

    def hook_result(self, hook_id: int, data: dict[str, object], now: float) -> None:
        """A hook answered; `data` is the whole answer as it came."""

    def hook_failed(self, hook_id: int, reason: str, now: float) -> None:
        """A hook did not."""

    def wake_at(self) -> float | None:
        """The earliest time it wants to be woken, or None."""

    def wake(self, now: float) -> None:
        """That time has come."""

    def actions(self) -> list[Action]:
        """Drain what is to be done, in order."""

    @property
    def finished(self) -> bool:
        """Whether the conversation has reached its end."""

    def variables(self) -> dict[str, str]:
        """What has been collected so far; also when the caller hangs up first."""
