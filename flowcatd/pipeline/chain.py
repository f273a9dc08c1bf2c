"""The chain: processors in a row, linked so that every frame type knows its next stop.

Linking gives each processor two tables, frame type → the bound handler of the next processor that
wants that type, one per direction. A table fills itself when a type is first seen: a call meets a
third of the types there are, and two hundred calls need not hold the rest. So a hop is a dictionary
look-up and a call, and what is decided once is not decided per frame:

* a type nobody further on wants goes to the chain's end and is forgotten there;
* data frames get a gate in front of their handler, which drops them when their epoch is over;
* with an observer attached, handlers get a tap in front of them (`observer.py`).

What leaves the chain at the far end is given to `at_tail`, what leaves it upstream to `at_head`;
both default to forgetting. The call listens there for End and Cancel.

Interruption is an epoch: `interrupt()` raises it and sends Interruption both ways from the
processor that asked. Queues and provider tasks forget what is older; the gates drop the rest.

A stage is a Processor or a Parallel (`parallel.py`), whose branches are rows like this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from flowcatd import frames
from flowcatd.frames import DataFrame, Frame, Interruption
from flowcatd.pipeline.observer import Observer
from flowcatd.pipeline.parallel import Parallel
from flowcatd.pipeline.processor import Epoch, Processor, Route
from flowcatd.pipeline.scope import Scope

Stage = Processor | Parallel
Exit = Callable[[type[Frame]], Route]
"""Given a frame type, where frames of that type go when they leave a row."""


def forget(_frame: Frame) -> None:
    """Where frames go that nobody wants."""


def _to_nobody(_type: type[Frame]) -> Route:
    return forget


class Nowhere(dict[type[Frame], Route]):
    """Where every frame is forgotten: the entries of a row that was unlinked."""

    def __missing__(self, frame_type: type[Frame]) -> Route:
        return forget


class Routes(dict[type[Frame], Route]):
    """One processor's next stops in one direction; resolves a type when it is first asked for."""

    __slots__ = ("_downstream", "_index", "_row")

    def __init__(self, row: Row, index: int, *, downstream: bool) -> None:
        super().__init__()
        self._row = row
        self._index = index
        self._downstream = downstream

    def __missing__(self, frame_type: type[Frame]) -> Route:
        find = self._row.next_down if self._downstream else self._row.next_up
        route = self[frame_type] = find(self._index, frame_type)
        return route


KNOWN_TYPES: tuple[type[Frame], ...] = tuple(
    value
    for value in vars(frames).values()
    if isinstance(value, type)
    and issubclass(value, Frame)
    and value not in (Frame, frames.SystemFrame, DataFrame, frames.ControlFrame)
)
"""The closed set."""


@dataclass(slots=True)
class Linking:
    """What is common to all rows of one chain while, and after, they are linked."""

    scope: Scope
    epoch: Epoch = field(default_factory=Epoch)
    observers: tuple[Observer, ...] = ()
    stale: int = 0
    """Data frames dropped because their epoch was over."""

    def route(self, handler: Route, frame_type: type[Frame], hop: tuple[str, str, bool]) -> Route:
        """The handler, with a tap and a gate in front of it where they are needed."""
        if self.observers:
            handler = self._tapped(handler, hop)
        if issubclass(frame_type, DataFrame):
            handler = self._gated(handler)
        return handler

    def _tapped(self, handler: Route, hop: tuple[str, str, bool]) -> Route:
        observers = self.observers
        source, target, downstream = hop

        def tapped(frame: Frame) -> None:
            for observer in observers:
                observer.saw(frame, source, target, downstream=downstream)
            handler(frame)

        return tapped

    def _gated(self, handler: Route) -> Route:
        epoch = self.epoch

        def gated(frame: DataFrame) -> None:
            if frame.epoch >= epoch.value:
                handler(frame)
            else:
                self.stale += 1

        return gated


class Row:
    """Stages in order, with an exit at each end; the chain is one, and so is every branch."""

    def __init__(self, stages: Sequence[Stage], linking: Linking, ends: tuple[Exit, Exit]) -> None:
        """`ends` are where frames go that leave downstream and upstream."""
        self._stages = tuple(stages)
        self._linking = linking
        self._exit_down, self._exit_up = ends
        self._tables: list[Routes] = []
        self.entry_down: dict[type[Frame], Route] = self._table(-1, downstream=True)
        self.entry_up: dict[type[Frame], Route] = self._table(len(self._stages), downstream=False)
        for index, stage in enumerate(self._stages):
            down_routes = self._table(index, downstream=True)
            up_routes = self._table(index, downstream=False)
            if isinstance(stage, Parallel):
                stage.link(self._make_row, down_routes, up_routes)
            else:
                stage.join(linking.scope, linking.epoch, down_routes, up_routes)

    def wants(self, frame_type: type[Frame], *, downstream: bool) -> bool:
        """Whether any stage handles this type in this direction."""
        return any(_handler(stage, frame_type, downstream=downstream) for stage in self._stages)

    def resolve(self) -> None:
        """Forget every route: they are found anew, with the observers there are now."""
        for table in self._tables:
            table.clear()
        for stage in self._stages:
            if isinstance(stage, Parallel):
                for row in stage.rows:
                    row.resolve()

    def unlink(self) -> None:
        """Let go of stages and routes, which lead back to each other; what is pushed is forgotten."""
        for stage in self._stages:
            if isinstance(stage, Parallel):
                for row in stage.rows:
                    row.unlink()
        for table in self._tables:
            table.clear()
        self._tables.clear()
        self._stages = ()
        self.entry_down = self.entry_up = Nowhere()
        self._exit_down = self._exit_up = _to_nobody

    def processors(self) -> Iterator[Processor]:
        """Every processor, branches included, from the head to the tail."""
        for stage in self._stages:
            if isinstance(stage, Parallel):
                for row in stage.rows:
                    yield from row.processors()
            else:
                yield stage

    def _table(self, index: int, *, downstream: bool) -> Routes:
        table = Routes(self, index, downstream=downstream)
        self._tables.append(table)
        return table

    def _make_row(self, stages: Sequence[Stage], ends: tuple[Exit, Exit]) -> Row:
        return Row(stages, self._linking, ends)

    def next_down(self, index: int, frame_type: type[Frame]) -> Route:
        """Where a frame of this type goes that the stage pushes downstream."""
        for stage in self._stages[index + 1 :]:
            handler = _handler(stage, frame_type, downstream=True)
            if handler is not None:
                return self._linking.route(
                    handler, frame_type, (self._name(index), stage.name, True)
                )
        return self._exit_down(frame_type)

    def next_up(self, index: int, frame_type: type[Frame]) -> Route:
        """Where a frame of this type goes that the stage pushes upstream."""
        for stage in reversed(self._stages[:index]):
            handler = _handler(stage, frame_type, downstream=False)
            if handler is not None:
                return self._linking.route(
                    handler, frame_type, (self._name(index), stage.name, False)
                )
        return self._exit_up(frame_type)

    def _name(self, index: int) -> str:
        if index < 0:
            return "head"
        return self._stages[index].name if index < len(self._stages) else "tail"


def _handler(stage: Stage, frame_type: type[Frame], *, downstream: bool) -> Route | None:
    if isinstance(stage, Parallel):
        return stage.handler(frame_type, downstream=downstream)
    names = stage.down_handlers if downstream else stage.up_handlers
    name = names.get(frame_type)
    return getattr(stage, name) if name is not None else None


class Chain:
    """A call's processors, linked."""

    def __init__(
        self,
        stages: Sequence[Stage],
        scope: Scope,
        *,
        at_tail: Route = forget,
        at_head: Route = forget,
    ) -> None:
        """Link the stages; `at_tail` and `at_head` get what leaves the chain at its two ends."""
        self._linking = Linking(scope)
        self._row = Row(stages, self._linking, (lambda _type: at_tail, lambda _type: at_head))
        self._row.resolve()
        for processor in self._row.processors():
            processor.linked()

    @property
    def epoch(self) -> int:
        """The current epoch."""
        return self._linking.epoch.value

    @property
    def stale(self) -> int:
        """How many data frames were dropped because their epoch was over."""
        return self._linking.stale

    def processors(self) -> list[Processor]:
        """Every processor from the head to the tail."""
        return list(self._row.processors())

    def unlink(self) -> None:
        """The call is over and released: its parts go at once, and not at the next full collection."""
        self._row.unlink()
        self._linking.observers = ()

    def feed(self, frame: Frame) -> None:
        """A frame enters at the head."""
        self._row.entry_down[frame.__class__](frame)

    def feed_up(self, frame: Frame) -> None:
        """A frame enters at the tail, going upstream."""
        self._row.entry_up[frame.__class__](frame)

    def observe(self, *observers: Observer) -> None:
        """Attach these observers instead of those attached so far; none detaches all."""
        self._linking.observers = observers
        self._row.resolve()


def interrupt(processor: Processor) -> None:
    """Begin a new epoch: what was data until now is over, in both directions from here."""
    processor.epoch.value += 1
    frame = Interruption(processor.epoch.value)
    processor.push(frame)
    processor.push_up(frame)
