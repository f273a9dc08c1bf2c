"""The life of a call: every way it can end, what is given back, and that only it ends."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from flowcatd import log as logging
from flowcatd.call import NEXT, Call, State
from flowcatd.carriers.events import Encoding, Started
from flowcatd.errors import CarrierError
from flowcatd.frames import Cancel, End, Failure, Frame, InputAudio, Start
from flowcatd.options import Calls, Log
from flowcatd.pipeline.chain import Chain
from flowcatd.pipeline.processor import Processor, down
from flowcatd.record import Identity, Ledger, Outcome, Reason
from workers.clock import WorkerClock

STARTED = Started("carrier-1", "stream-1", Encoding.PCM, 8000)
QUICK = Calls(start_seconds=0.1, silence_seconds=0.1, max_seconds=0.2, end_seconds=0.3)
PATIENT = Calls(start_seconds=5, silence_seconds=5, max_seconds=10, end_seconds=0.3)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.configure(Log(level="error", format="json"), slot=0)


class Wire:
    """A far end that starts, or not, sends what it is told, and stays until it is closed."""

    def __init__(self, *frames: Frame, starts: bool = True, then: Outcome | None = None) -> None:
        self._frames = frames
        self._starts = starts
        self._then = then
        self.closed_with: Outcome | None = None

    async def read(self, call: Call) -> Outcome:
        """Play the far end's part."""
        if self._starts:
            feed = call.started(STARTED)
            for frame in self._frames:
                feed(frame)
        if self._then is not None:
            return self._then
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def close(self, outcome: Outcome) -> int:
        """Remember why."""
        self.closed_with = outcome
        return outcome.close_code or 1000


class Probe(Processor):
    """Sees frames; does what its test says."""

    def __init__(self, act: Callable[[Processor, Frame], None] = lambda _p, _f: None) -> None:
        super().__init__()
        self._act = act
        self.seen: list[Frame] = []
        self.closed = 0

    @down(Start, InputAudio, Cancel)
    def see(self, frame: Start | InputAudio | Cancel) -> None:
        """Keep it, act, hand it on."""
        self.seen.append(frame)
        self._act(self, frame)
        self.push(frame)

    async def close(self) -> None:
        """Count."""
        self.closed += 1


def make(probe: Processor, options: Calls = PATIENT, clock: WorkerClock | None = None) -> Call:
    """A call with one processor."""
    identity = Identity(call_id="c1", carrier="raw", agent="a", worker_slot=0)
    clock = clock or WorkerClock(asyncio.get_running_loop())
    ledger = Ledger(identity, datetime.now(UTC), clock.now())

    def wire_up(call: Call, _started: Started) -> Chain:
        return Chain([probe], call, at_tail=call.at_tail, at_head=call.at_head)

    return Call(ledger, options, clock, wire_up)


async def test_a_goodbye_completes_the_call_and_gives_everything_back() -> None:
    """End at the tail is `completed`; the processor is closed once, and no Cancel was needed."""
    probe = Probe(lambda processor, _frame: processor.push(End("bye")))
    call = make(probe)
    outcome = await call.run(Wire())
    assert outcome == Outcome(reason=Reason.COMPLETED, close_code=1000)
    assert probe.closed == 1
    assert not [frame for frame in probe.seen if isinstance(frame, Cancel)]
    assert call.state is State.ENDED
    assert call.leftovers == []


@pytest.mark.parametrize(
    ("options", "wire", "reason"),
    [
        (QUICK, Wire(starts=False), Reason.NEVER_STARTED),
        (QUICK, Wire(), Reason.SOCKET_LOST),
        (PATIENT, Wire(then=Outcome(reason=Reason.CARRIER_STOPPED)), Reason.CARRIER_STOPPED),
    ],
    ids=["no start", "no media", "carrier stop"],
)
async def test_time_and_the_carrier_end_a_call(options: Calls, wire: Wire, reason: Reason) -> None:
    """A start that never comes, media that never comes, and a stop each have their reason."""
    assert (await make(Probe(), options).run(wire)).reason is reason


async def test_the_longest_duration_ends_a_call_that_still_talks() -> None:
    """Media keeps the silence watchdog away; max_seconds ends the call all the same."""
    options = Calls(start_seconds=5, silence_seconds=5, max_seconds=0.1, end_seconds=0.3)
    assert (await make(Probe(), options).run(Wire())).reason is Reason.MAX_DURATION


def _raise(_processor: Processor, frame: Frame) -> None:
    if isinstance(frame, InputAudio):
        raise RuntimeError("the caller's words must not stand here")  # noqa: TRY004 any error will do


async def test_a_processor_that_raises_ends_its_call_with_1011_and_no_details() -> None:
    """The outcome names the kind of error only: its text may hold what was said."""
    probe = Probe(_raise)
    outcome = await make(probe).run(Wire(InputAudio(bytes(320), 8000, 0)))
    assert outcome == Outcome(reason=Reason.INTERNAL_ERROR, error="RuntimeError", close_code=1011)
    assert probe.closed == 1


async def test_a_wake_that_raises_ends_its_call() -> None:
    """What a processor asked the clock for is inside the call's boundary."""

    def act(processor: Processor, frame: Frame) -> None:
        if isinstance(frame, Start):
            processor.scope.wake(processor.scope.now(), lambda: _raise(processor, AUDIO))

    assert (await make(Probe(act)).run(Wire())).reason is Reason.INTERNAL_ERROR


AUDIO = InputAudio(bytes(320), 8000, 0)


async def test_a_task_that_raises_a_protocol_error_closes_with_its_code() -> None:
    """A CarrierError anywhere in the call is the far end's fault, and answered as it says."""

    async def broken() -> None:
        raise CarrierError("what it sent", 1007)

    def act(processor: Processor, frame: Frame) -> None:
        if isinstance(frame, Start):
            processor.scope.spawn(broken(), "broken")

    outcome = await make(Probe(act)).run(Wire())
    assert outcome == Outcome(reason=Reason.PROTOCOL_ERROR, error="what it sent", close_code=1007)


async def test_the_first_outcome_wins() -> None:
    """What happens while a call is ending changes nothing."""
    call = make(Probe())
    call.end(Outcome(reason=Reason.DRAINED))
    call.end(Outcome(reason=Reason.COMPLETED))
    assert (await call.run(Wire())).reason is Reason.DRAINED


class Stubborn(Probe):
    """Does not want to be closed."""

    async def close(self) -> None:
        """Wait for longer than anyone has patience."""
        await asyncio.sleep(30)


async def test_a_processor_that_will_not_close_is_named_as_a_leftover() -> None:
    """Teardown has one deadline, and what overruns it is named."""
    call = make(Stubborn())
    outcome = await call.run(Wire(then=Outcome(reason=Reason.CARRIER_STOPPED)))
    assert outcome.reason is Reason.CARRIER_STOPPED
    assert call.leftovers == ["stubborn.close"]


class Failing(Probe):
    """Cannot close."""

    async def close(self) -> None:
        """Raise."""
        raise OSError("no")


async def test_a_close_that_raises_is_a_problem_of_the_record() -> None:
    """The others are closed all the same."""
    call = make(Failing())
    outcome = await call.run(Wire(then=Outcome(reason=Reason.CARRIER_STOPPED)))
    record = call.ledger.finish(call.now(), outcome)
    assert [(problem.where, problem.reason) for problem in record.problems] == [
        ("failing.close", "OSError")
    ]


async def test_a_failure_that_the_call_survives_stands_in_its_record() -> None:
    """Failure frames that reach the head are problems, not ends."""

    def act(processor: Processor, frame: Frame) -> None:
        if isinstance(frame, Start):
            processor.push_up(Failure("hear", "no answer"))
            processor.push(End("done"))

    call = make(Probe(act))
    outcome = await call.run(Wire())
    record = call.ledger.finish(call.now(), outcome)
    assert outcome.reason is Reason.COMPLETED
    assert [(problem.where, problem.reason) for problem in record.problems] == [
        ("hear", "no answer")
    ]


async def test_a_cancelled_run_still_closes_its_wire() -> None:
    """A server that goes away drains its calls: 1001, and everything given back."""
    live = asyncio.Event()
    wire, probe = Wire(), Probe(lambda _processor, _frame: live.set())
    task = asyncio.create_task(make(probe).run(wire))
    await live.wait()
    task.cancel()
    outcome = await task
    assert outcome == Outcome(reason=Reason.DRAINED, close_code=1001)
    assert wire.closed_with is not None
    assert probe.closed == 1


def test_every_state_but_the_last_moves_on_and_none_comes_back() -> None:
    """The table is a line: from each state the end is reached, and never left."""
    for state in State:
        seen, front = set(), {state}
        while front:
            seen |= front
            front = {after for before in front for after in NEXT[before]} - seen
        assert State.ENDED in seen
        assert state is State.ENDED or state not in {s for n in NEXT[state] for s in NEXT[n]}


async def test_nothing_of_an_ended_call_waits_on_the_workers_clock() -> None:
    """Limits, watchdogs and processors' wakes are called off: a dead call keeps no memory."""

    def act(processor: Processor, frame: Frame) -> None:
        if isinstance(frame, Start):
            for seconds in range(300):
                processor.scope.wake(processor.scope.now() + 60 + seconds, lambda: None)
            processor.push(End("bye"))

    clock = WorkerClock(asyncio.get_running_loop())
    probe = Probe(act)
    call = make(probe, clock=clock)
    await call.run(Wire())
    assert len(clock) == 0
    gone = weakref.ref(call)
    del call, probe, act
    gc.collect()
    assert gone() is None


async def test_a_transfer_that_failed_is_no_completed_call() -> None:
    """The caller was not handed on: the record says that the agent failed."""
    call = make(Probe(lambda processor, _frame: processor.push(End("transfer_failed"))))
    assert (await call.run(Wire())).reason is Reason.AGENT_FAILED


class Slow(Probe):
    """Takes its time to close, while its wake comes due."""

    def __init__(self) -> None:
        super().__init__(self._ask)
        self.woken = 0

    def _ask(self, processor: Processor, frame: Frame) -> None:
        if isinstance(frame, Start):
            processor.scope.wake(processor.scope.now() + 0.05, self._wake_up)
            processor.push(End("bye"))

    def _wake_up(self) -> None:
        self.woken += 1

    async def close(self) -> None:
        """Longer than until the wake."""
        await asyncio.sleep(0.15)


async def test_nothing_new_begins_while_a_call_is_being_given_back() -> None:
    """A wake that comes due during the teardown is not told: it might start what nobody would end."""
    probe = Slow()
    call = make(probe)
    await call.run(Wire())
    assert probe.woken == 0
    assert call.leftovers == []


async def test_a_call_that_cannot_speak_or_has_not_begun_ends_at_once() -> None:
    """No voice, no line, no start: `drained` without a word."""
    for wire, text in ((Wire(), "bye"), (Wire(starts=False), "bye"), (Wire(), "")):
        call = make(Probe())
        if not text:
            call.part = lambda _text, _reason: None
        running = asyncio.create_task(call.run(wire))
        await asyncio.sleep(0.01)
        call.say_goodbye(text)
        assert (await running).reason is Reason.DRAINED


async def test_a_goodbye_is_said_before_the_end() -> None:
    """Once, however often it is asked for; the call is `drained` when End has passed."""
    said: list[str] = []
    probe = Probe()
    call = make(probe)

    def part(text: str, reason: str) -> None:
        said.append(text)
        probe.push(End(reason))

    call.part = part
    running = asyncio.create_task(call.run(Wire()))
    await asyncio.sleep(0.01)
    call.say_goodbye("bye")
    call.say_goodbye("bye")
    assert (await running).reason is Reason.DRAINED
    assert said == ["bye"]


async def test_an_agent_cannot_claim_that_the_daemon_ended_the_call() -> None:
    """Its reason may read like ours: it completed its work."""
    call = make(Probe(lambda processor, _frame: processor.push(End("drained"))))
    assert (await call.run(Wire())).reason is Reason.COMPLETED


async def test_a_goodbye_that_raises_ends_its_call() -> None:
    """As anything else of the call does."""
    call = make(Probe())

    def part(_text: str, _reason: str) -> None:
        raise RuntimeError("no")

    call.part = part
    running = asyncio.create_task(call.run(Wire()))
    await asyncio.sleep(0.01)
    call.say_goodbye("bye")
    assert (await running).reason is Reason.INTERNAL_ERROR


async def test_a_call_taken_up_is_the_older_one_with_what_is_left_of_its_time() -> None:
    """Its name, its ledger; the longest duration counts from the first answer."""
    options = Calls(start_seconds=5, silence_seconds=5, max_seconds=60, end_seconds=0.3)
    clock = WorkerClock(asyncio.get_running_loop())
    identity = Identity(call_id="older", carrier="raw", agent="a", worker_slot=0)
    older = Ledger(identity, datetime.now(UTC), clock.now() - 100)
    older.answered(clock.now() - 59.9)
    fresh = Identity(call_id="c1", carrier="raw", agent="a", worker_slot=0)

    def wire_up(call: Call, _started: Started) -> Chain:
        call.take_up(older)
        return Chain([Probe()], call)

    ledger = Ledger(fresh, datetime.now(UTC), clock.now())
    call = Call(ledger, options, clock, wire_up)
    assert call.id == "c1"
    outcome = await asyncio.wait_for(call.run(Wire()), 5)
    assert outcome.reason is Reason.MAX_DURATION
    assert call.id == "older"
    assert call.ledger.finish(call.now(), outcome).talk_seconds >= 59.9


async def test_a_released_call_is_gone() -> None:
    """What refers back to it is let go; only the chain's own circles wait for the collector."""
    probe = Probe(lambda processor, _frame: processor.push(End("bye")))
    call = make(probe)
    await call.run(Wire())
    call.release()
    gone = weakref.ref(call)
    del call, probe
    gc.collect()
    assert gone() is None
