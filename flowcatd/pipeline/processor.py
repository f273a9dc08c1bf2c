"""A processor: one job of the conversation, told frames by plain method calls.

A processor names the frames it wants, per direction, by decorating methods:

    class Gain(Processor):
        @down(InputAudio)
        def louder(self, frame: InputAudio) -> None:
            self.push(InputAudio(amplify(frame.pcm), frame.rate_hz, frame.media_ms))

Frames that it does not name never visit it: the chain resolves, when it is linked, which processor
comes next for each frame type, so a processor that ignores audio costs an audio frame nothing.

Pushing is synchronous: `push` returns when everything downstream has dealt with the frame. Two
rules follow, and they are the whole discipline:

1. Bring your own state up to date before you push. What you push may come back to you, by a frame
   from the other direction, before `push` returns.
2. Never wait. A processor that talks to a provider owns a task and a bounded queue, started with
   `scope.spawn`, and re-enters the chain with `push` from there.

A handler that raises ends its call, cleanly, and no other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from flowcatd.errors import LocalError
from flowcatd.frames import Frame
from flowcatd.pipeline.scope import Scope

Route = Callable[[Any], None]
_Method = TypeVar("_Method", bound=Callable[..., None])


def down(*types: type[Frame]) -> Callable[[_Method], _Method]:
    """Mark a method as the handler of these frames when they travel towards the far end."""
    return _mark("_handles_down", types)


def up(*types: type[Frame]) -> Callable[[_Method], _Method]:
    """Mark a method as the handler of these frames when they travel back towards the caller's end."""
    return _mark("_handles_up", types)


def _mark(attribute: str, types: tuple[type[Frame], ...]) -> Callable[[_Method], _Method]:
    def mark(method: _Method) -> _Method:
        setattr(method, attribute, (*getattr(method, attribute, ()), *types))
        return method

    return mark


class Epoch:
    """The call's epoch: an integer that an interruption raises by one."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class _Unlinked(dict[type[Frame], Route]):
    """Routes before the chain is linked: pushing is a bug."""

    def __missing__(self, frame_type: type[Frame]) -> Route:
        raise LocalError(f"{frame_type.__name__} was pushed before the chain was linked")


class Processor:
    """One job; subclass it, decorate handlers, give it to a Chain."""

    down_handlers: ClassVar[dict[type[Frame], str]] = {}
    up_handlers: ClassVar[dict[type[Frame], str]] = {}

    scope: Scope
    epoch: Epoch

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.down_handlers = _collect(cls, "_handles_down")
        cls.up_handlers = _collect(cls, "_handles_up")

    def __init__(self) -> None:
        self._down: dict[type[Frame], Route] = _Unlinked()
        self._up: dict[type[Frame], Route] = _Unlinked()

    @property
    def name(self) -> str:
        """What logs, observers and the call's record call it."""
        return type(self).__name__.lower()

    def linked(self) -> None:
        """The chain is linked: `scope` and `epoch` are there and frames may be pushed."""

    def push(self, frame: Frame) -> None:
        """Send a frame on towards the far end."""
        self._down[frame.__class__](frame)

    def push_up(self, frame: Frame) -> None:
        """Send a frame back towards the caller's end."""
        self._up[frame.__class__](frame)

    async def close(self) -> None:
        """Give back what is held outside the call's tasks and wakes; called once, under a deadline."""

    def join(
        self,
        scope: Scope,
        epoch: Epoch,
        down_routes: dict[type[Frame], Route],
        up_routes: dict[type[Frame], Route],
    ) -> None:
        """Take the place the chain has found for this processor; for the chain only."""
        self.scope = scope
        self.epoch = epoch
        self._down = down_routes
        self._up = up_routes


def _collect(cls: type[Processor], attribute: str) -> dict[type[Frame], str]:
    handlers: dict[type[Frame], str] = {}
    for name in dir(cls):
        for frame_type in getattr(getattr(cls, name, None), attribute, ()):
            if frame_type in handlers:
                raise LocalError(
                    f"{cls.__name__} handles {frame_type.__name__} twice: "
                    f"{handlers[frame_type]} and {name}"
                )
            handlers[frame_type] = name
    return handlers
