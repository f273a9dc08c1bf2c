"""Parallel branches: one frame to every branch, one frame out of the join.

Fan-out: a frame whose type any branch handles is given to every branch, in order; a type that no
branch handles passes the Parallel by, at no cost. Join: the frame that was fanned out goes on when
the first branch hands it on, and the copies that the other branches hand on are swallowed: the
same object never leaves twice. What a branch makes anew goes on as it comes.

Lifecycle frames (Start, End, Cancel) keep the branches in step: they go on when the *last* branch
has handed them on, so that nothing a slow branch still has to say comes after the end. While Start
is still being fanned out, what a fast branch already makes waits behind it.

Identity is remembered only while branches may still hand a frame on. A branch that drops a frame
leaves an entry behind, so the memory is bounded: beyond OPEN_LIMIT the oldest entry goes, lifecycle
frames last, and is counted. A branch must therefore not hold back more than that many frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flowcatd.errors import LocalError
from flowcatd.frames import Cancel, End, Frame, Start
from flowcatd.pipeline.processor import Route

if TYPE_CHECKING:
    from flowcatd.pipeline.chain import Exit, Routes, Row, Stage

    MakeRow = Callable[[Sequence[Stage], tuple[Exit, Exit]], Row]

OPEN_LIMIT = 256
"""Fanned-out frames remembered per direction; several times the largest queue of any processor."""

LIFECYCLE = (Start, End, Cancel)


class Join:
    """The far side of one fan-out direction."""

    def __init__(self, branches: int) -> None:
        self._branches = branches
        self._open: dict[int, tuple[Frame, set[int]]] = {}
        self._starting = False
        self._held: deque[Frame] = deque()
        self.routes: Routes | None = None
        self.evicted = 0

    def open(self, frame: Frame) -> None:
        """This frame is about to be given to every branch."""
        if len(self._open) >= OPEN_LIMIT:
            del self._open[self._oldest()]
            self.evicted += 1
        self._open[id(frame)] = (frame, set())
        if isinstance(frame, Start):
            self._starting = True

    def arrived(self, branch: int, frame: Frame) -> None:
        """A branch handed this frame on."""
        entry = self._open.get(id(frame))
        if entry is None:
            self._forward(frame)
            return
        arrivals = entry[1]
        first = not arrivals
        arrivals.add(branch)
        complete = len(arrivals) == self._branches
        if complete:
            del self._open[id(frame)]
        if isinstance(frame, LIFECYCLE):
            if complete:
                self._complete(frame)
        elif first:
            self._forward(frame)

    def _complete(self, frame: Frame) -> None:
        if not isinstance(frame, Start):
            self._send(frame)
            return
        self._send(frame)
        while self._held:  # what this brings back at once waits behind what waited before it
            self._send(self._held.popleft())
        self._starting = False

    def _forward(self, frame: Frame) -> None:
        if self._starting:
            if len(self._held) >= OPEN_LIMIT:
                raise LocalError("a branch makes frames and never hands Start on")
            self._held.append(frame)
        else:
            self._send(frame)

    def _oldest(self) -> int:
        for key, (frame, _) in self._open.items():
            if not isinstance(frame, LIFECYCLE):
                return key
        return next(iter(self._open))

    def _send(self, frame: Frame) -> None:
        assert self.routes is not None, "linked before any frame"
        self.routes[frame.__class__](frame)


class Parallel:
    """Branches side by side, in the place of one processor."""

    def __init__(self, *branches: Sequence[Stage], name: str = "parallel") -> None:
        """Each branch is a row of stages; an empty branch hands everything on."""
        if len(branches) < 2:
            raise LocalError("a Parallel needs at least two branches")
        self.name = name
        self._branches = branches
        self._joins = {True: Join(len(branches)), False: Join(len(branches))}
        self.rows: list[Row] = []

    @property
    def evicted(self) -> int:
        """How many fanned-out frames were forgotten before every branch had handed them on."""
        return self._joins[True].evicted + self._joins[False].evicted

    def link(self, make_row: MakeRow, down_routes: Routes, up_routes: Routes) -> None:
        """Link the branches between the two joins; for the chain only."""
        self._joins[True].routes = down_routes
        self._joins[False].routes = up_routes
        self.rows = [
            make_row(
                stages, (self._exit(index, downstream=True), self._exit(index, downstream=False))
            )
            for index, stages in enumerate(self._branches)
        ]

    def handler(self, frame_type: type[Frame], *, downstream: bool) -> Route | None:
        """The fan-out for this type, or None when no branch handles it."""
        if not any(row.wants(frame_type, downstream=downstream) for row in self.rows):
            return None
        join = self._joins[downstream]
        entries = [row.entry_down if downstream else row.entry_up for row in self.rows]

        def fan_out(frame: Frame) -> None:
            join.open(frame)
            for entry in entries:
                entry[frame.__class__](frame)

        return fan_out

    def _exit(self, branch: int, *, downstream: bool) -> Exit:
        join = self._joins[downstream]

        def leave(_frame_type: type[Frame]) -> Route:
            def arrive(frame: Frame) -> None:
                join.arrived(branch, frame)

            return arrive

        return leave
