"""What tests of the pipeline are built from: time that is told to pass, and far ends that behave.

Nothing here is a mock: every piece is a small implementation of a port of the house (`Scope`,
`MediaPort`, `SpeechToText`, `Voice`, `Brain`) that does its job in virtual time.

`VirtualScope` is for processors without tasks; `LoopScope` has a loop whose clock jumps to the next
thing that is due, and never waits.
"""

# ruff: noqa: ARG002 a scripted provider has the shape of its port, and less to do

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple, Self, TypeVar

from flowcatd.agent.brain import Action
from flowcatd.frames import Frame, MarkPlayed
from flowcatd.media import PTIME_MS, frame_bytes
from flowcatd.pipeline.chain import KNOWN_TYPES, Chain, Stage
from flowcatd.pipeline.processor import Processor, down, up
from flowcatd.pipeline.scope import Cancellable, Scope
from flowcatd.services import Hearing, SttEvent
from flowcatd.wake import WakeList

RATE = 8000
FRAME = frame_bytes(RATE)
ORIGIN = 1000.0
"""Where virtual time begins."""

STANDSTILL = 10_000
"""So many wakes without time passing are a loop that never ends."""

_Wanted = TypeVar("_Wanted", bound=Frame)


# --- time ----------------------------------------------------------------------------------------


class VirtualScope:
    """A call whose time passes when it is told to."""

    def __init__(self) -> None:
        self.time = ORIGIN
        self.wakes = WakeList()

    def now(self) -> float:
        """Virtual seconds."""
        return self.time

    def wake(self, due: float, callback: Callable[[], None]) -> Cancellable:
        """A wake in virtual time."""
        return self.wakes.add(due, callback)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Cancellable:
        """Nobody here has work to do."""
        work.close()
        raise NotImplementedError(name)

    def pass_for(self, seconds: float) -> None:
        """Let time pass, with the wakes that fall into it."""
        end = self.time + seconds
        rounds = 0
        while (due := self.wakes.wake_at()) is not None and due <= end:
            rounds = 0 if due > self.time else rounds + 1
            assert rounds < STANDSTILL, "time stands still: a wake re-arms itself for ever"
            self.time = max(self.time, due)
            self.wakes.wake(self.time)
        self.time = end


class _Jumping(selectors.SelectSelector):
    """Waits for nothing: the time it was to wait has passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.time = ORIGIN

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and nobody will ever come"
        self.time += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jumping.time


class LoopScope:
    """A call with tasks, in virtual time; what a task or wake raises, `pass_for` raises."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.tasks: set[asyncio.Task[None]] = set()
        self._wakes = WakeList()
        self._errors: list[BaseException] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        self._settle()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def now(self) -> float:
        """Virtual seconds."""
        return self.loop.time()

    def wake(self, due: float, callback: Callable[[], None]) -> Cancellable:
        """A wake in virtual time."""
        self.loop.call_at(due, self._ring, due)
        return self._wakes.add(due, callback)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Cancellable:
        """A task on the virtual loop."""
        task = self.loop.create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def pass_for(self, seconds: float) -> None:
        """Let time pass, with the wakes and tasks that fall into it."""
        self.loop.call_at(self.loop.time() + seconds, self.loop.stop)
        self.loop.run_forever()
        self._settle()
        if self._errors:
            raise self._errors.pop(0)

    def _settle(self) -> None:
        for _ in range(20):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def _ring(self, due: float) -> None:
        try:
            self._wakes.wake(max(due, self.loop.time()))
        except Exception as error:  # noqa: BLE001 the test is told
            self._errors.append(error)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)


# --- chains --------------------------------------------------------------------------------------


class Recording(Processor):
    """Writes down what it is given, in both directions, and hands it on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Frame] = []
        self.seen_up: list[Frame] = []

    @down(*KNOWN_TYPES)
    def see(self, frame: Frame) -> None:
        """Down."""
        self.seen.append(frame)
        self.push(frame)

    @up(*KNOWN_TYPES)
    def see_up(self, frame: Frame) -> None:
        """Up."""
        self.seen_up.append(frame)
        self.push_up(frame)


class Rig:
    """A chain, with what left it at both ends."""

    def __init__(self, stages: Sequence[Stage], scope: Scope) -> None:
        self.scope = scope
        self.tail: list[Frame] = []
        self.head: list[Frame] = []
        self.chain = Chain(stages, scope, at_tail=self.tail.append, at_head=self.head.append)
        self.feed = self.chain.feed
        self.feed_up = self.chain.feed_up

    def out(self, *types: type[_Wanted]) -> list[_Wanted]:
        """What left at the tail of these types, in order."""
        return [frame for frame in self.tail if isinstance(frame, types)]

    def back(self, *types: type[_Wanted]) -> list[_Wanted]:
        """What left at the head of these types, in order."""
        return [frame for frame in self.head if isinstance(frame, types)]


def names(frames: Iterable[Frame]) -> list[str]:
    """The types of frames, as words."""
    return [type(frame).__name__ for frame in frames]


def tone(ms: int, rate_hz: int = RATE) -> bytes:
    """Sound of this length: a constant that is not silence."""
    return b"\x00\x10" * (rate_hz * ms // 1000)


# --- the far end ---------------------------------------------------------------------------------


class Marks(Enum):
    """What a far end does with marks."""

    NONE = auto()
    """It knows none."""
    TWILIO = auto()
    """Returns them when played, and those that a clear overtook at once."""
    PLIVO = auto()
    """Returns them when played; those that a clear overtook never."""
    LOST = auto()
    """Takes them and never returns one."""


class Piece(NamedTuple):
    """A frame as the far end plays it."""

    start: float
    end: float
    pcm: bytes


class Wire:
    """A media port whose far end plays in virtual time, `latency` seconds away."""

    def __init__(self, scope: Scope, marks: Marks = Marks.NONE, latency: float = 0.0) -> None:
        self.has_marks = marks is not Marks.NONE
        self.sent: list[bytes] = []
        self.marks: list[str] = []
        self.digits: list[str] = []
        self.transfers: list[str] = []
        self.takes_transfers = False
        self.lead_ms = 0
        self.clears = 0
        self.pieces: list[Piece] = []
        self.feed: Callable[[Frame], None] | None = None
        self._scope = scope
        self._kind = marks
        self._latency = latency
        self._free = 0.0
        self._pending: dict[str, Cancellable] = {}

    def send_audio(self, pcm: bytes) -> None:
        """Play it when what came before has been played."""
        start = max(self._free, self._scope.now() + self._latency)
        self._free = start + PTIME_MS / 1000
        self.sent.append(pcm)
        self.pieces.append(Piece(start, self._free, pcm))

    def send_mark(self, name: str) -> None:
        """Say when all that was played."""
        self.marks.append(name)
        if self._kind is not Marks.LOST:
            due = max(self._free, self._scope.now() + self._latency) + self._latency
            self._pending[name] = self._scope.wake(due, lambda: self._return(name))

    def send_clear(self) -> None:
        """Forget what is not played yet."""
        self.clears += 1
        reached = self._scope.now() + self._latency
        self.pieces = [
            Piece(piece.start, min(piece.end, reached), piece.pcm)
            for piece in self.pieces
            if piece.start < reached
        ]
        self._free = reached
        pending, self._pending = self._pending, {}
        for name, wake in pending.items():
            wake.cancel()
            if self._kind is Marks.TWILIO:
                self._scope.wake(reached + self._latency, lambda name=name: self._return(name))

    def send_digits(self, digits: str) -> None:
        """Note them."""
        self.digits.append(digits)

    def transfer(self, target: str) -> bool:
        """Note where to, and do as `takes_transfers` says."""
        self.transfers.append(target)
        return self.takes_transfers

    def _return(self, name: str) -> None:
        self._pending.pop(name, None)
        if self.feed is not None:
            self.feed(MarkPlayed(name))


# --- providers -----------------------------------------------------------------------------------


class ScriptedEar:
    """A recogniser that answers utterance after utterance from a script, `delay` seconds later."""

    def __init__(self, scope: Scope, answers: Iterable[SttEvent], delay: float = 0.1) -> None:
        """An utterance beyond the script is never answered."""
        self.rate_hz = 16_000
        self.tell: Callable[[SttEvent], None] | None = None
        self.heard: list[bytes] = []
        self.dropped = 0
        self.hearings: list[Hearing] = []
        self.closed = False
        self._scope = scope
        self._answers = deque(answers)
        self._delay = delay
        self._open: bytearray | None = None

    @property
    def is_open(self) -> bool:
        """Whether an utterance is open."""
        return self._open is not None

    def expect(self, hearing: Hearing) -> None:
        """From the next utterance on."""
        self.hearings.append(hearing)

    def start_utterance(self) -> None:
        """Open one; one still open is dropped."""
        self.dropped += self._open is not None
        self._open = bytearray()

    def push_audio(self, pcm: bytes) -> None:
        """More of it."""
        if self._open is not None:
            self._open += pcm

    def end_utterance(self) -> None:
        """Answer from the script."""
        if self._open is None:
            return
        self.heard.append(bytes(self._open))
        self._open = None
        if self._answers:
            answer = self._answers.popleft()
            self._scope.wake(self._scope.now() + self._delay, lambda: self.say(answer))

    def say(self, event: SttEvent) -> None:
        """Tell an event now."""
        if self.tell is not None and not self.closed:
            self.tell(event)

    async def close(self) -> None:
        """No more events."""
        self.closed = True


class ScriptedVoice:
    """A voice that says each line as scripted: sound, seconds of waiting, or an error.

    A line that the script does not know is `ms_per_letter` of tone for each letter, made at once.
    """

    def __init__(
        self,
        script: dict[str, list[bytes | float | Exception]] | None = None,
        *,
        ms_per_letter: int = 60,
    ) -> None:
        self.rate_hz = RATE
        self.asked: list[str] = []
        self.stopped = 0
        self.closed = False
        self._script = script or {}
        self._ms_per_letter = ms_per_letter

    async def speak(self, text: str) -> AsyncGenerator[bytes, None]:
        """The line."""
        self.asked.append(text)
        steps = self._script.get(text, [tone(self._ms_per_letter * len(text))])
        done = False
        try:
            for step in steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)  # in virtual time
                else:
                    yield step
            done = True
        finally:
            self.stopped += not done

    async def close(self) -> None:
        """Give it back."""
        self.closed = True


class ScriptedBrain:
    """A brain that has a list of actions ready for what it is told, and writes down what that was."""

    def __init__(self, script: dict[str, list[list[Action]]] | None = None) -> None:
        """Event name → what to do the first time, the second time, …; then nothing."""
        self.told: list[str] = []
        self.due: float | None = None
        self.finished = False
        self._script = {event: deque(rounds) for event, rounds in (script or {}).items()}
        self._actions: list[Action] = []

    def _on(self, event: str, detail: str = "") -> None:
        self.told.append(f"{event} {detail}".strip())
        rounds = self._script.get(event)
        if rounds:
            self._actions.extend(rounds.popleft())

    def started(self, now: float) -> None:
        """The call is up."""
        self._on("started")

    def heard(self, text: str, now: float, *, confidence: float = 1.0) -> None:
        """Words."""
        self._on("heard", text)

    def digit(self, digit: str, now: float) -> None:
        """A key."""
        self._on("digit", digit)

    def speaking(self, now: float) -> None:
        """The caller speaks."""
        self._on("speaking")

    def spoken(self, now: float) -> None:
        """All was said."""
        self._on("spoken")

    def hook_result(self, hook_id: int, data: dict[str, object], now: float) -> None:
        """An answer."""
        self._on("hook_result", str(hook_id))

    def hook_failed(self, hook_id: int, reason: str, now: float) -> None:
        """None."""
        self._on("hook_failed", str(hook_id))

    def wake_at(self) -> float | None:
        """As the test set it."""
        return self.due

    def wake(self, now: float) -> None:
        """It has come."""
        self.due = None
        self._on("wake")

    def actions(self) -> list[Action]:
        """Drain."""
        actions, self._actions = self._actions, []
        return actions

    def variables(self) -> dict[str, str]:
        """None."""
        return {}


def at_once(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise AssertionError("it waits for something")
