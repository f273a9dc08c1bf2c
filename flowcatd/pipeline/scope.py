"""What a processor may ask of the call it lives in: the time, a wake, a task, an end.

The call (`flowcatd/call.py`) is the real scope: its wakes share the worker's one timer, its tasks
stand in the call's ledger and end with it, and an exception in either ends this call and no other.
Tests and demos bring their own.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol


class Cancellable(Protocol):
    """A wake or a task that may be called off."""

    def cancel(self) -> object:
        """Call it off; idempotent."""


class Scope(Protocol):
    """The call, as a processor sees it."""

    def now(self) -> float:
        """Monotonic seconds."""

    def wake(self, due: float, callback: Callable[[], None]) -> Cancellable:
        """Call back at `due`; dropped without a word when the call ends first."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Cancellable:
        """Run a task that ends with the call."""
