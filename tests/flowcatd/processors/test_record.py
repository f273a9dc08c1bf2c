"""Recorder: frames in, blocks of the recording out, in virtual time."""

from __future__ import annotations

import array
from collections.abc import Callable, Coroutine
from typing import Any

from flowcatd.frames import (
    Cancel,
    Failure,
    Frame,
    InputAudio,
    LineHeard,
    PlayoutCleared,
    SentAudio,
    Start,
)
from flowcatd.pipeline.chain import Chain
from flowcatd.pipeline.scope import Cancellable
from flowcatd.processors.record import AHEAD_MS, HOLD_MS, Recorder
from flowcatd.wake import WakeList

RATE = 8000


class VirtualScope:
    """A call whose time passes when it is told to."""

    def __init__(self) -> None:
        self.time = 500.0
        self.wakes = WakeList()

    def now(self) -> float:
        """Virtual seconds."""
        return self.time

    def wake(self, due: float, callback: Callable[[], None]) -> Cancellable:
        """A wake in virtual time."""
        return self.wakes.add(due, callback)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Cancellable:
        """Nobody here has work to do."""
        raise NotImplementedError(name, work)

    def pass_until(self, time: float) -> None:
        """Let time pass, with the wakes that fall into it."""
        while (due := self.wakes.wake_at()) is not None and due <= time:
            self.time = due
            self.wakes.wake(due)
        self.time = time


class ListSink:
    """Keeps the blocks, and what it was opened for."""

    def __init__(self) -> None:
        self.rate_hz = 0
        self.opened = 0
        self.blocks: list[bytes] = []
        self.closed = 0

    def open(self, rate_hz: int) -> ListSink:
        """Be opened at a rate."""
        self.rate_hz = rate_hz
        self.opened += 1
        return self

    def append(self, block: bytes) -> None:
        """One more block."""
        self.blocks.append(block)

    async def close(self) -> object:
        """No more."""
        self.closed += 1
        return None

    def leg(self, side: int) -> list[int]:
        """All samples of the caller (0) or the agent (1)."""
        return array.array("h", b"".join(self.blocks)).tolist()[side::2]


class Call:
    """A chain of one recorder, with what left it at both ends."""

    def __init__(self) -> None:
        self.scope = VirtualScope()
        self.sink = ListSink()
        self.overloaded = False
        self.recorder = Recorder(self.sink.open, lambda: self.overloaded)
        self.out: list[Frame] = []
        self.back: list[Frame] = []
        self.chain = Chain(
            [self.recorder], self.scope, at_tail=self.out.append, at_head=self.back.append
        )
        self.chain.feed(Start(RATE))
        self.origin = self.scope.time

    def talk(
        self, from_ms: int, to_ms: int, caller: int, agent: int = 0, ahead_ms: int = 0
    ) -> None:
        """Frames of constant samples; the agent's leave `ahead_ms` before they are heard."""
        for at in range(from_ms, to_ms, 20):
            self.scope.pass_until(self.origin + at / 1000)
            self.chain.feed(InputAudio(frame_of(caller), RATE, at))
            if agent:
                self.chain.feed(SentAudio(frame_of(agent), RATE, at + ahead_ms))
        self.scope.pass_until(self.origin + to_ms / 1000)


def frame_of(value: int) -> bytes:
    """20 ms of one sample value."""
    return value.to_bytes(2, "little") * 160


async def test_both_legs_stand_side_by_side() -> None:
    """The caller is left, the agent right, each sample at its media time."""
    call = Call()
    call.talk(0, 3000, caller=1)
    call.talk(3000, 5000, caller=1, agent=2)
    await call.recorder.close()
    assert (call.sink.rate_hz, call.sink.opened, call.sink.closed) == (RATE, 1, 1)
    assert call.sink.leg(0) == [1] * 5 * RATE
    assert call.sink.leg(1) == [0] * 3 * RATE + [2] * 2 * RATE


async def test_every_frame_travels_on() -> None:
    """A tap takes nothing out of the chain."""
    call = Call()
    frames = [
        InputAudio(frame_of(1), RATE, 0),
        SentAudio(frame_of(2), RATE, 0),
        PlayoutCleared(10),
        Cancel("drained"),
    ]
    for frame in frames:
        call.chain.feed(frame)
    assert call.out == [Start(RATE), *frames]


async def test_what_was_cleared_is_not_in_the_recording() -> None:
    """Audio sent three seconds ahead and then cleared was never heard."""
    call = Call()
    call.talk(0, 6000, caller=1, agent=2, ahead_ms=3000)
    call.chain.feed(PlayoutCleared(5500))
    call.talk(6000, 10_000, caller=1)
    await call.recorder.close()
    assert call.sink.leg(1) == [0] * 3 * RATE + [2] * (5 * RATE // 2) + [0] * (9 * RATE // 2)
    assert call.recorder.late_clears == 0


async def test_a_clear_as_late_as_the_hold_still_counts() -> None:
    """A far end may tell HOLD_MS later where it stopped."""
    call = Call()
    call.talk(0, 10_000, caller=1, agent=2)
    call.chain.feed(PlayoutCleared(10_000 - HOLD_MS))
    await call.recorder.close()
    assert sum(call.sink.leg(1)) == 2 * 8 * (10_000 - HOLD_MS)
    assert call.recorder.late_clears == 0


async def test_a_clear_later_than_that_is_counted() -> None:
    """What has been handed on stays, and the call knows."""
    call = Call()
    call.talk(0, 10_000, caller=1, agent=2)
    call.chain.feed(PlayoutCleared(1000))
    await call.recorder.close()
    assert call.recorder.late_clears == 1


async def test_a_cancelled_call_ends_where_it_was_cancelled() -> None:
    """What the agent had sent ahead is not recorded, nor what it sends after."""
    call = Call()
    call.talk(0, 2000, caller=1, agent=2, ahead_ms=1000)
    call.chain.feed(Cancel("drained"))
    call.talk(2000, 2500, caller=1, agent=3)
    await call.recorder.close()
    assert call.sink.leg(1) == [0] * RATE + [2] * RATE + [0] * (RATE // 2)


async def test_silence_is_handed_on_as_time_passes() -> None:
    """A caller who sends nothing for a minute makes blocks all along, not one burst at the end."""
    call = Call()
    call.talk(0, 1000, caller=1)
    call.scope.pass_until(call.origin + 60)
    assert 110 <= len(call.sink.blocks) <= 120
    assert 56 * 4 * RATE <= sum(map(len, call.sink.blocks)) <= 57 * 4 * RATE
    assert all(len(block) <= 4 * RATE for block in call.sink.blocks)


async def test_a_caller_who_is_told_nothing_waits_no_longer_than_a_tick() -> None:
    """While the agent is silent an idle call keeps half a second of line noise, not the hold."""
    call = Call()
    call.talk(0, 1000, caller=1, agent=2)
    most = 0
    for at in range(1000, 30_000, 100):
        call.talk(at, at + 100, caller=1)
        if at > 7000:
            most = max(most, call.recorder._recording.caller.size)
    assert 0 < most <= 2 * RATE * 9 // 10
    await call.recorder.close()
    assert call.sink.leg(0) == [1] * 30 * RATE
    assert call.sink.leg(1) == [2] * RATE + [0] * 29 * RATE


async def test_a_line_that_was_heard_is_held_no_longer() -> None:
    """Its end is certain before the hold is over, so what came until then need not wait."""
    call = Call()
    call.talk(0, 3000, caller=1, agent=2)
    call.chain.feed(LineHeard("a line", 0, 3000, complete=True))
    call.talk(3000, 4200, caller=1)
    assert call.recorder.seconds > 3.5
    await call.recorder.close()
    assert call.sink.leg(1)[: 3 * RATE] == [2] * 3 * RATE


async def test_a_line_that_was_cut_is_held_as_long_as_any() -> None:
    """Where it was cut may be told anew; only what was heard to its end is certain."""
    call = Call()
    call.talk(0, 3000, caller=1, agent=2)
    call.chain.feed(LineHeard("a li", 0, 3000, complete=False))
    call.talk(3000, 4200, caller=1)
    assert call.recorder.seconds < 0.5
    await call.recorder.close()


async def test_the_agents_next_word_finds_its_place() -> None:
    """What is said after a long silence stands where it was said, to the sample."""
    call = Call()
    call.talk(0, 10_000, caller=1)
    call.talk(10_000, 11_000, caller=1, agent=2)
    call.talk(11_000, 20_000, caller=1)
    await call.recorder.close()
    assert call.sink.leg(1) == [0] * 10 * RATE + [2] * RATE + [0] * 9 * RATE
    assert call.recorder.refused == call.recorder.late_clears == 0


async def test_memory_does_not_grow_with_the_call() -> None:
    """After ten minutes no more waits than after ten seconds."""
    call = Call()
    waiting = []
    for to_ms in (10_000, 600_000):
        call.talk(to_ms - 10_000, to_ms, caller=1, agent=2, ahead_ms=2000)
        legs = (call.recorder._recording.caller, call.recorder._recording.agent)
        waiting.append(sum(leg.size for leg in legs))
    assert waiting[1] <= waiting[0] <= 2 * 2 * RATE * (HOLD_MS + 2000 + 3000) // 1000


async def test_audio_out_of_place_is_left_out_and_told_once() -> None:
    """Another rate and an absurd media time cost their samples, one Failure, and no call."""
    call = Call()
    call.talk(0, 1000, caller=1)
    call.chain.feed(InputAudio(b"\7\0" * 320, 16_000, 1000))
    call.chain.feed(SentAudio(frame_of(7), RATE, AHEAD_MS * 2))
    call.talk(1000, 4000, caller=1)
    await call.recorder.close()
    assert [type(frame) for frame in call.back] == [Failure]
    assert call.sink.leg(0) == [1] * 4 * RATE
    assert call.sink.leg(1) == [0] * 4 * RATE


async def test_closing_twice_closes_once_and_leaves_no_wake() -> None:
    """Close is idempotent, and the tick goes with it."""
    call = Call()
    call.talk(0, 1000, caller=1)
    await call.recorder.close()
    await call.recorder.close()
    assert call.sink.closed == 1
    assert len(call.scope.wakes) == 0


async def test_a_call_that_never_started_opens_no_sink() -> None:
    """Without Start there is nothing to record and nothing to close."""
    sink = ListSink()
    recorder = Recorder(sink.open)
    Chain([recorder], VirtualScope())
    await recorder.close()
    assert (sink.opened, sink.closed) == (0, 0)


async def test_under_overload_the_recording_has_a_hole_and_the_call_is_told() -> None:
    """A second without time for taps is a second of silence in both legs; the frames travel on."""
    call = Call()
    call.talk(0, 1000, caller=1, agent=2)
    call.overloaded = True
    call.talk(1000, 2000, caller=1, agent=2)
    call.overloaded = False
    call.talk(2000, 3000, caller=1, agent=2)
    await call.recorder.close()
    assert call.sink.leg(0) == [1] * RATE + [0] * RATE + [1] * RATE
    assert call.sink.leg(1) == [2] * RATE + [0] * RATE + [2] * RATE
    assert call.recorder.refused == 100
    assert len([frame for frame in call.out if isinstance(frame, InputAudio)]) == 150
    assert [frame.where for frame in call.back if isinstance(frame, Failure)] == ["recording"]
