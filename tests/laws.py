"""The laws that every core keeps, as checks that a room's tests run on their own cores.

  garbage    any input gives events or the room's one PeerError, never anything else
  quiet      with no input, draining twice gives nothing the second time
  bounded    what waits to be drained never exceeds its limit, however much comes in
  chunking   one piece, byte by byte, or any split give the same result

They are functions, not fixtures: a law says nothing about how a core is made or fed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol, TypeVar

from flowcatd.errors import LocalError, PeerError

Result = TypeVar("Result")
Bytes = TypeVar("Bytes", bytes, str)


class Drained(Protocol):
    """What a core must have to be held to a law."""

    def events(self) -> list[object]:
        """Drain what the application should know."""


def keeps_garbage_law(
    core: Drained, feed: Callable[[], None], error: type[PeerError]
) -> list[object]:
    """Feed once; what came of it. Any exception but `error` passes through and fails the test."""
    with contextlib.suppress(error):
        feed()
    told = core.events()
    assert isinstance(told, list)
    keeps_quiet_law(core)
    return told


def keeps_quiet_law(core: Drained) -> None:
    """After a drain there is nothing more to drain."""
    core.events()
    assert core.events() == []


def keeps_bounded_law(core: Drained, feed: Callable[[], None], *, limit: int) -> None:
    """Undrained, the core takes no more than `limit` events and then says whose fault that is."""
    core.events()
    refused = False
    for _ in range(2 * limit):
        try:
            feed()
        except LocalError:
            refused = True
    assert refused, "nobody was told that the events are not drained"
    assert len(core.events()) <= limit


def keeps_chunking_law(
    run: Callable[[Sequence[Bytes]], Result], data: Bytes, cuts: Sequence[int]
) -> Result:
    """`run` gives the same for the whole, for single units and for the pieces between `cuts`."""
    whole = run([data])
    assert run([data[i : i + 1] for i in range(len(data))]) == whole
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    assert run([data[a:b] for a, b in pairwise(edges)]) == whole
    return whole
