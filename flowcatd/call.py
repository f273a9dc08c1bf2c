"""The life of one call, from the opened media socket to the written record.

    state     what it means                                         ends by
    WAITING   the socket is open, the carrier's start has not come  start, or calls.start_seconds
    LIVE      frames flow through the chain                         any Outcome
    ENDING    the chain is being given back, under a deadline       calls.end_seconds
    ENDED     nothing of the call is left

The call is the *scope* of everything that happens for it: its wakes hang on the worker's one timer,
its tasks stand in its ledger. Whatever raises in them, or in the chain that the transport feeds,
arrives at `fail` and ends this call and no other; that is one of the four places that may catch
everything. The first outcome wins: what happens afterwards changes nothing.

A call may go on in another process than the one it began in: `take_up`, while the chain is made,
gives it the ledger of the call that it continues, and thereby that call's name.

Why an own ledger of tasks and no TaskGroup: a group waits without limit for a task that will not
end, and its deadline cannot name it. Teardown here is one deadline, and what overruns it stands in
the record as a leftover.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from functools import partial
from typing import Any, Final, Protocol

from flowcatd.carriers.events import Started
from flowcatd.errors import CarrierError
from flowcatd.frames import Cancel, End, Failure, Frame, Start
from flowcatd.log import get_logger
from flowcatd.options import Calls as CallsOptions
from flowcatd.pipeline.chain import Chain
from flowcatd.pipeline.processor import Processor
from flowcatd.pipeline.scope import Cancellable
from flowcatd.record import Ledger, Outcome, Reason
from flowcatd.wake import Wake

log = get_logger()


class State(Enum):
    """Where a call is in its life."""

    WAITING = auto()
    """Open, not started."""
    LIVE = auto()
    """Frames flow."""
    ENDING = auto()
    """Being given back."""
    ENDED = auto()
    """Gone."""


NEXT: Final[dict[State, frozenset[State]]] = {
    State.WAITING: frozenset({State.LIVE, State.ENDING}),
    State.LIVE: frozenset({State.ENDING}),
    State.ENDING: frozenset({State.ENDED}),
    State.ENDED: frozenset(),
}
"""A call only ever moves on; every state but the last has a way out under time alone."""

AGENT_REASONS: Final[dict[str, Reason]] = {
    "agent_failed": Reason.AGENT_FAILED,
    "never_spoke": Reason.NEVER_SPOKE,
    "dialog_error": Reason.AGENT_FAILED,
    "dialog_loop": Reason.AGENT_FAILED,
    "transfer_failed": Reason.AGENT_FAILED,
}
"""What an agent may give as its reason to hang up, beyond having completed its work."""


WAKES_KEPT = 12
"""Wakes in the call's ledger before those that have fired are dropped from it; a call has about ten."""


class Clock(Protocol):
    """The worker's one clock and wake list."""

    def now(self) -> float:
        """Monotonic seconds."""

    def wake(self, due: float, callback: Callable[[], None]) -> Wake:
        """Call back at `due`."""


class Transport(Protocol):
    """The wire a call came in on."""

    async def read(self, call: Call) -> Outcome:
        """Feed the call until the far end is done; the outcome is why."""

    async def close(self, outcome: Outcome) -> int | None:
        """Close the wire within a bounded time; returns the close code that went over it, if any."""


class Call:
    """One conversation; `run` lives it."""

    def __init__(
        self,
        ledger: Ledger,
        options: CallsOptions,
        clock: Clock,
        wire_up: Callable[[Call, Started], Chain],
    ) -> None:
        """`wire_up` makes the chain once the carrier has said what it sends."""
        self.ledger = ledger
        self.state = State.WAITING
        self.chain: Chain | None = None
        self.variables: Callable[[], dict[str, str]] = dict
        self.part: Callable[[str, str], None] | None = None
        """Has the agent say a last line and then End with a reason; None where nobody can."""
        self._options = options
        self._clock = clock
        self.now: Callable[[], float] = clock.now
        """Monotonic seconds; the clock's own, since it is asked several times per frame."""
        self.start_seconds = options.start_seconds
        """How long the media may take to begin; whoever opened the call may know better."""
        self._wire_up: Callable[[Call, Started], Chain] | None = wire_up
        self._outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wakes: list[Wake] = []
        self._media_at = 0.0
        self._parting = False
        self.leftovers: list[str] = []
        """What was still there when the deadline for teardown had passed."""
        self.unfinished: dict[str, asyncio.Future[Any]] = {}
        """The same by name, for whoever asks again later."""

    @property
    def id(self) -> str:
        """Our own name for it, unique for good."""
        return self.ledger.identity.call_id

    # --- what its processors may ask (pipeline.scope.Scope) ---------------------------------------

    def wake(self, due: float, callback: Callable[[], None]) -> Cancellable:
        """Call back at `due`, unless the call is ending by then: nothing new begins in a teardown."""

        def guarded() -> None:
            if self.state not in (State.WAITING, State.LIVE):
                return
            try:
                callback()
            except Exception as error:  # noqa: BLE001 the call's boundary
                self.fail(error)

        wake = self._clock.wake(due, guarded)
        self._wakes.append(wake)
        if len(self._wakes) > WAKES_KEPT:
            self._wakes = [each for each in self._wakes if each.pending]
        return wake

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Cancellable:
        """Run a task that ends with the call."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    # --- what the transport tells -----------------------------------------------------------------

    def started(self, started: Started) -> Callable[[Frame], None]:
        """The stream is up: build the chain, send Start through it, and say where frames go."""
        now = self.now()
        self._move(State.LIVE)
        self._media_at = now
        assert self._wire_up is not None, "a call that is over is not started"
        self.chain = self._wire_up(self, started)
        self.ledger.answered(now, carrier_call_id=started.call_id, stream_id=started.stream_id)
        log.info("call.answered", call=self.id, encoding=started.encoding, rate_hz=started.rate_hz)
        since = self.ledger.answered_at or now
        self.wake(since + self._options.max_seconds, self._max_reached)
        self._watch_media()
        self.chain.feed(Start(started.rate_hz))
        return self.chain.feed

    def take_up(self, ledger: Ledger) -> None:
        """Be the call that this ledger is about, before anything is written into our own."""
        was, self.ledger = self.id, ledger
        log.info("call.resumed", call=self.id, was=was, times=ledger.resumed)

    def media_came(self, now: float) -> None:
        """Audio arrived: the far end is alive."""
        self._media_at = now

    def end(self, outcome: Outcome) -> None:
        """This is how the call ends, unless it has an end already."""
        if not self._outcome.done():
            self._outcome.set_result(outcome)

    def say_goodbye(self, text: str) -> None:
        """End as `drained` once this line has been heard; at once where nobody can say it."""
        if self._parting:
            return
        self._parting = True
        if self.state is not State.LIVE or self.part is None or not text:
            self.end(Outcome(reason=Reason.DRAINED))
        else:  # from a wake, so that what raises is this call's
            self.wake(self.now(), partial(self.part, text, Reason.DRAINED))

    def fail(self, error: BaseException) -> None:
        """Something raised: the peer's fault is answered in its protocol, ours is logged whole."""
        if isinstance(error, CarrierError):
            self.end(
                Outcome(
                    reason=Reason.PROTOCOL_ERROR, error=error.problem, close_code=error.close_code
                )
            )
            return
        log.error("call.failed", call=self.id, exc_info=error)
        self.end(Outcome(reason=Reason.INTERNAL_ERROR, error=type(error).__name__, close_code=1011))

    def at_tail(self, frame: Frame) -> None:
        """What leaves the chain downstream: End is the agent's goodbye, heard to its last sample."""
        if isinstance(frame, End):
            reason = AGENT_REASONS.get(frame.reason, Reason.COMPLETED)
            if self._parting and frame.reason == Reason.DRAINED:
                reason = Reason.DRAINED
            turns = self.ledger.turns
            if reason is Reason.COMPLETED and turns.no_input and not turns.user + turns.digits:
                reason = Reason.NEVER_SPOKE
            self.end(Outcome(reason=reason))

    def at_head(self, frame: Frame) -> None:
        """What leaves the chain upstream: failures that the call survives."""
        if isinstance(frame, Failure):
            self.ledger.problem(frame.where, frame.reason)
            log.warning("call.troubled", call=self.id, where=frame.where, reason=frame.reason)

    def release(self) -> None:
        """Its record is written: let go of what refers back to us, so that all of it can go at once."""
        if self.chain is not None:
            self.chain.unlink()
        self.chain = None
        self._wire_up = None
        self.part = None
        self.variables = dict

    # --- its life ---------------------------------------------------------------------------------

    async def run(self, transport: Transport) -> Outcome:
        """Live the call; returns when nothing of it is left but its record."""
        self.wake(self.now() + self.start_seconds, self._start_overdue)
        self.spawn(self._read(transport), "transport.read")
        try:
            outcome = await asyncio.shield(self._outcome)
        except asyncio.CancelledError:
            outcome = Outcome(reason=Reason.DRAINED, close_code=1001)
            self.end(outcome)
        return await self._give_back(transport, self._outcome.result())

    async def _read(self, transport: Transport) -> None:
        self.end(await transport.read(self))

    async def _give_back(self, transport: Transport, outcome: Outcome) -> Outcome:
        """One deadline for everything that has to be given back."""
        self._move(State.ENDING)
        deadline = time.monotonic() + self._options.end_seconds
        if self.chain is not None and outcome.reason is not Reason.COMPLETED:
            self._feed_cancel(self.chain, outcome)
        closing = asyncio.ensure_future(transport.close(outcome))
        waiting: dict[asyncio.Future[Any], str] = {closing: "transport.close"}
        for processor in self._processors():
            waiting[asyncio.ensure_future(processor.close())] = f"{processor.name}.close"
        for task in self._tasks:
            task.cancel()
            waiting[task] = task.get_name()
        _, left = await asyncio.wait(waiting, timeout=max(0.1, deadline - time.monotonic()))
        for future in left:
            future.cancel()
        self.unfinished = {waiting[future]: future for future in left}
        self.leftovers = sorted(waiting[future] for future in left)
        for future, name in waiting.items():
            self._note(future, name)
        self._move(State.ENDED)
        for wake in self._wakes:  # else an hour's limit would keep the call for an hour
            wake.cancel()
        self._wakes.clear()
        code = None
        if closing.done() and not closing.cancelled() and closing.exception() is None:
            code = closing.result()
        return Outcome(reason=outcome.reason, error=outcome.error, close_code=code)

    def _feed_cancel(self, chain: Chain, outcome: Outcome) -> None:
        try:
            chain.feed(Cancel(outcome.reason))
        except Exception as error:  # the call's boundary: it is ending anyway
            log.error("call.failed", call=self.id, exc_info=error)
            self.ledger.problem("cancel", type(error).__name__)

    def _note(self, future: asyncio.Future[Any], name: str) -> None:
        """A close that raised is a problem of the record, not the end of the others' closing."""
        if not future.done() or future.cancelled():
            return
        error = future.exception()
        if error is not None and name.endswith(".close"):
            log.error("call.failed", call=self.id, exc_info=error)
            self.ledger.problem(name, type(error).__name__)

    def _processors(self) -> list[Processor]:
        return self.chain.processors() if self.chain is not None else []

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.fail(error)

    def _max_reached(self) -> None:
        self.end(Outcome(reason=Reason.MAX_DURATION))

    def _start_overdue(self) -> None:
        if self.state is State.WAITING:
            self.end(
                Outcome(
                    reason=Reason.NEVER_STARTED,
                    error="its media did not begin in time",
                    close_code=1008,
                )
            )

    def _watch_media(self) -> None:
        due = self._media_at + self._options.silence_seconds
        if self.now() >= due:
            self.end(Outcome(reason=Reason.SOCKET_LOST, error="no media for too long"))
        else:
            self.wake(due, self._watch_media)

    def _move(self, state: State) -> None:
        assert state in NEXT[self.state], f"{self.state} → {state}"
        self.state = state
