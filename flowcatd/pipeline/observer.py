"""Observers: read-only taps on every hop, which cost nothing when there are none.

The chain wraps its routes only while an observer is attached; without one a hop is the bare call.
An observer sees a frame just before its handler does. It must not push, and one that raises ends
the call like any processor would.
"""

from __future__ import annotations

from typing import Protocol

from flowcatd.frames import Frame


class Observer(Protocol):
    """Sees every frame on every hop."""

    def saw(self, frame: Frame, source: str, target: str, *, downstream: bool) -> None:
        """`frame` goes from the processor named `source` to the one named `target`."""


class Tally:
    """The simplest observer: how many frames of each type each processor was given."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}

    def saw(self, frame: Frame, source: str, target: str, *, downstream: bool) -> None:  # noqa: ARG002 the protocol's shape
        """Count it."""
        key = (target, type(frame).__name__)
        self.counts[key] = self.counts.get(key, 0) + 1
