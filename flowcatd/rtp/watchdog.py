"""Nothing comes any more: says so once, and knows when nothing is to be expected.

Before the answer nobody need send, so it begins with the answer, and its first patience is its own: some
far ends let a second pass, or need our first packet to open their NAT. On hold (a=sendonly of ours,
a=inactive, RFC 3264 §8.4) silence is right, and the clock begins anew when the hold ends. RTCP counts
as life: a far end that suppresses silence still reports.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How long silence on the wire is borne, in seconds."""

    first: float = 30.0
    """From the answer to the first packet."""
    after: float = 20.0
    """From one packet to the next."""


class Watchdog:
    """The silence of one stream."""

    __slots__ = ("_barked", "_limits", "_since", "_watching", "heard_at")

    def __init__(self, limits: Patience) -> None:
        self._limits = limits
        self._watching = False
        self._since = 0.0
        self._barked = False
        self.heard_at: float | None = None
        """When something last came; written by whoever received it."""

    def watch(self, now: float, *, expected: bool) -> None:
        """The call was answered or taken off hold (media is expected), or put on hold (none is)."""
        self._watching = expected
        self._since = now
        self._barked = False

    def wake_at(self) -> float | None:
        """When silence will have lasted too long, if nothing comes."""
        return self._due() if self._watching and not self._barked else None

    def wake(self, now: float) -> float | None:
        """Seconds of silence, once, when it has lasted too long; None otherwise."""
        if not self._watching or self._barked or now < self._due():
            return None
        self._barked = True
        return now - self._begun()

    def _begun(self) -> float:
        return max(self._since, self.heard_at or 0.0) if self.heard_at is not None else self._since

    def _due(self) -> float:
        limits = self._limits
        return self._begun() + (limits.first if self.heard_at is None else limits.after)
