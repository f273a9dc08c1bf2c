"""The chain: routes, directions, ends, re-entrancy, and the epoch that ends data."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.frames import (
    BotStoppedSpeaking,
    ControlFrame,
    DataFrame,
    End,
    Expect,
    Frame,
    InputAudio,
    InputDtmf,
    Interruption,
    SystemFrame,
    Transcription,
    TtsSpeak,
)
from flowcatd.pipeline.chain import KNOWN_TYPES, Chain, interrupt
from flowcatd.pipeline.processor import Processor, down, up
from flowcatd.pipeline.queue import FrameQueue
from tests.builders import Recording, Rig, VirtualScope, names


class OwnSystem(SystemFrame, frozen=True, gc=False):
    """An embedder's."""


class OwnData(DataFrame, frozen=True, gc=False):
    """An embedder's."""


class OwnControl(ControlFrame, frozen=True, gc=False):
    """An embedder's."""


class Keys(Processor):
    """Handles keys only."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []

    @down(InputDtmf)
    def key(self, frame: InputDtmf) -> None:
        """Note it and hand on."""
        self.keys.append(frame.digit)
        self.push(frame)


# --- routes --------------------------------------------------------------------------------------


def test_a_frame_visits_who_wants_it_in_order_and_leaves_at_the_end() -> None:
    """Down from the head, up from the tail."""
    order: list[str] = []

    class Named(Processor):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.word = name

        @down(InputDtmf)
        def key(self, frame: InputDtmf) -> None:
            """Say who."""
            order.append(self.word)
            self.push(frame)

        @up(InputDtmf)
        def key_up(self, frame: InputDtmf) -> None:
            """Say who, going up."""
            order.append(self.word.upper())
            self.push_up(frame)

    rig = Rig([Named("a"), Named("b"), Named("c")], VirtualScope())
    rig.feed(InputDtmf("1"))
    rig.feed_up(InputDtmf("2"))
    assert order == ["a", "b", "c", "C", "B", "A"]
    assert (rig.tail, rig.head) == ([InputDtmf("1")], [InputDtmf("2")])


@pytest.mark.parametrize("frame_type", KNOWN_TYPES)
def test_a_type_that_nobody_wants_goes_straight_to_the_end(frame_type: type[Frame]) -> None:
    """From the head, and from a processor in the middle, by a route that is resolved beforehand."""
    keys = Keys()
    rig = Rig([keys, Keys()], VirtualScope())
    if frame_type is InputDtmf:
        assert rig.chain._row.entry_down[frame_type] == keys.key
        return
    assert rig.chain._row.entry_down[frame_type] == rig.tail.append
    assert dict.__getitem__(keys._down, frame_type) == rig.tail.append
    assert dict.__getitem__(keys._up, frame_type) == rig.head.append


def test_the_closed_set_is_all_of_ours_and_none_of_the_classes() -> None:
    """The three classes and the root are never sent themselves."""
    assert {InputAudio, TtsSpeak, End, Interruption} <= set(KNOWN_TYPES)
    assert not {Frame, SystemFrame, DataFrame, ControlFrame} & set(KNOWN_TYPES)
    assert len(KNOWN_TYPES) == len(set(KNOWN_TYPES))


def test_an_embedders_own_frames_are_routed_like_ours() -> None:
    """System, data with its gate, and control; wanted or not."""

    class Own(Processor):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        @down(OwnSystem, OwnData, OwnControl)
        def see(self, frame: Frame) -> None:
            """Note it and hand on."""
            self.seen.append(type(frame).__name__)
            self.push(frame)

    own = Own()
    rig = Rig([Keys(), own], VirtualScope())
    rig.feed(OwnData(0))
    own.epoch.value = 1
    for frame in (OwnSystem(), OwnData(0), OwnControl(), OwnData(1)):
        rig.feed(frame)
    assert own.seen == ["OwnData", "OwnSystem", "OwnControl", "OwnData"]
    assert names(rig.tail) == own.seen
    assert rig.chain.stale == 1


def test_an_empty_chain_and_default_ends_forget() -> None:
    """Nothing to do is no error."""
    chain = Chain([], VirtualScope())
    chain.feed(InputDtmf("1"))
    chain.feed_up(InputDtmf("1"))
    assert (chain.processors(), chain.epoch) == ([], 0)


def test_a_handler_that_raises_is_heard_where_the_frame_came_in_and_the_chain_stays_whole() -> None:
    """What the call does about it is the call's."""

    class Brittle(Processor):
        @down(InputDtmf)
        def key(self, frame: InputDtmf) -> None:
            """No stars."""
            if frame.digit == "*":
                raise ValueError("brittle")
            self.push(frame)

    rig = Rig([Keys(), Brittle()], VirtualScope())
    with pytest.raises(ValueError, match="brittle"):
        rig.feed(InputDtmf("*"))
    rig.feed(InputDtmf("1"))
    assert rig.tail == [InputDtmf("1")]


# --- re-entrancy ---------------------------------------------------------------------------------


def test_a_push_may_come_back_before_it_returns() -> None:
    """The answer reaches who asked while it is still asking, and all of it happens in one call."""
    log: list[str] = []

    class Asking(Processor):
        @down(InputDtmf)
        def key(self, frame: InputDtmf) -> None:
            """Ask."""
            log.append("asks")
            self.push(frame)
            log.append("asked")

        @up(BotStoppedSpeaking)
        def answered(self, _frame: BotStoppedSpeaking) -> None:
            """The answer."""
            log.append("is answered")

    class Answering(Processor):
        @down(InputDtmf)
        def key(self, frame: InputDtmf) -> None:
            """Answer before handing on."""
            self.push_up(BotStoppedSpeaking(interrupted=False))
            self.push(frame)

    rig = Rig([Asking(), Answering()], VirtualScope())
    rig.feed(InputDtmf("1"))
    assert log == ["asks", "is answered", "asked"]
    assert rig.tail == [InputDtmf("1")]


def test_an_interruption_from_within_a_push_ends_what_its_sender_pushes_next() -> None:
    """The first line brings the interruption; the second is of the epoch before."""

    class Saying(Processor):
        @down(InputDtmf)
        def key(self, _frame: InputDtmf) -> None:
            """Two lines of one epoch."""
            epoch = self.epoch.value
            self.push(TtsSpeak(epoch, "one"))
            self.push(TtsSpeak(epoch, "two"))

    class Refusing(Processor):
        @down(TtsSpeak)
        def line(self, frame: TtsSpeak) -> None:
            """Interrupt, once."""
            interrupt(self)
            self.push(frame)

    behind = Recording()
    rig = Rig([Saying(), Refusing(), behind], VirtualScope())
    rig.feed(InputDtmf("1"))
    assert names(behind.seen) == ["Interruption"]
    assert rig.back(Interruption) == [Interruption(1)]
    assert rig.chain.stale == 2


# --- interruption --------------------------------------------------------------------------------


def test_an_interruption_goes_both_ways_from_who_asked() -> None:
    """With the new epoch, once to everybody."""
    before, middle, behind = Recording(), Keys(), Recording()
    rig = Rig([before, middle, behind], VirtualScope())
    interrupt(middle)
    assert rig.chain.epoch == 1
    assert before.seen_up == [Interruption(1)]
    assert behind.seen == [Interruption(1)]
    assert (before.seen, behind.seen_up) == ([], [])


def test_data_of_an_old_epoch_is_dropped_upstream_too_and_counted() -> None:
    """Control and system survive, and so does data from the future of a slow reader."""
    recording = Recording()
    rig = Rig([recording], VirtualScope())
    recording.epoch.value = 2
    for frame in (Transcription(1, "old", 1.0, 0, 1), End("x"), InputDtmf("1"), TtsSpeak(2, "new")):
        rig.feed(frame)
        rig.feed_up(frame)
    assert names(recording.seen) == ["End", "InputDtmf", "TtsSpeak"]
    assert names(recording.seen_up) == ["End", "InputDtmf", "TtsSpeak"]
    assert rig.chain.stale == 2


# --- properties ----------------------------------------------------------------------------------


class Holding(Processor):
    """Works as one with a task does: data and control wait here until `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FrameQueue(1000)
        self.handled: list[tuple[int, int]] = []

    @down(TtsSpeak, Expect)
    def hold(self, frame: TtsSpeak | Expect) -> None:
        """Wait."""
        if isinstance(frame, TtsSpeak):
            self.handled.append((frame.epoch, self.epoch.value))
        self.queue.put(frame)

    def release(self, count: int) -> None:
        """Hand on the oldest."""
        for _ in range(count):
            frame = self.queue.take()
            if frame is None:
                return
            self.push(frame)


class Forgetful(Holding):
    """Forgets what is old as soon as it is told."""

    @down(Interruption)
    def interruption(self, frame: Interruption) -> None:
        """Empty the queue."""
        self.queue.interrupt(frame.epoch)
        self.push(frame)


class Passing(Processor):
    """Hands on, and notes the epoch of the frame and of the call."""

    def __init__(self) -> None:
        super().__init__()
        self.handled: list[tuple[int, int]] = []

    @down(TtsSpeak)
    def line(self, frame: TtsSpeak) -> None:
        """Note and hand on."""
        self.handled.append((frame.epoch, self.epoch.value))
        self.push(frame)


STAGES = st.lists(st.sampled_from([Holding, Forgetful, Passing]), min_size=1, max_size=5)
STEPS = st.lists(
    st.one_of(
        st.just("line"),
        st.just("old line"),
        st.just("control"),
        st.tuples(st.just("release"), st.integers(0, 4), st.integers(1, 5)),
        st.tuples(st.just("interrupt"), st.integers(0, 4)),
    ),
    max_size=60,
)


@given(STAGES, STEPS)
def test_order_survival_and_epochs_hold_for_any_chain(
    kinds: list[type[Holding | Passing]], steps: list[str | tuple[str, int]]
) -> None:
    """Ordered frames stay in order, control is never lost, and no old data is ever handled."""
    stages = [kind() for kind in kinds]
    rig = Rig(stages, VirtualScope())
    fed: list[Frame] = []
    for step in steps:
        epoch = rig.chain.epoch
        if step == "line":
            fed.append(TtsSpeak(epoch, f"line {len(fed)}"))
            rig.feed(fed[-1])
        elif step == "old line":
            rig.feed(TtsSpeak(epoch - 1, "old"))
        elif step == "control":
            fed.append(Expect(f"grammar {len(fed)}", "", ""))
            rig.feed(fed[-1])
        elif step[0] == "interrupt":
            interrupt(stages[int(step[1]) % len(stages)])
        else:
            stage = stages[int(step[1]) % len(stages)]
            if isinstance(stage, Holding):
                stage.release(int(step[2]))
    for stage in stages:
        if isinstance(stage, Holding):
            stage.release(1000)
    for stage in stages:
        assert all(epoch >= current for epoch, current in stage.handled)
    left = rig.out(TtsSpeak, Expect)
    where = [fed.index(frame) for frame in left]
    assert where == sorted(where), "ordered frames overtook each other"
    assert rig.out(Expect) == [frame for frame in fed if isinstance(frame, Expect)]
    last = [f for f in fed if isinstance(f, TtsSpeak) and f.epoch == rig.chain.epoch]
    assert [f for f in left if f in last] == last, "data of the living epoch was lost"


@given(st.lists(st.sampled_from(["system", "data", "control"]), max_size=40), st.integers(1, 6))
def test_without_queues_every_frame_arrives_before_the_next_is_fed(
    kinds: list[str], length: int
) -> None:
    """A hop is a call: nothing is left behind between processors."""
    recordings = [Recording() for _ in range(length)]
    rig = Rig(recordings, VirtualScope())
    for index, kind in enumerate(kinds):
        frame: Frame = {
            "system": InputDtmf(str(index % 10)),
            "data": TtsSpeak(0, str(index)),
            "control": End(str(index)),
        }[kind]
        rig.feed(frame)
        assert rig.tail[-1] is frame
        assert all(recording.seen[-1] is frame for recording in recordings)
    assert len(rig.tail) == len(kinds)


# --- the end -------------------------------------------------------------------------------------


def test_an_unlinked_chain_is_gone_without_a_collection() -> None:
    """Its parts refer to each other while it lives, and no longer."""
    gc.disable()
    try:
        chain = Chain([Keys(), Keys()], VirtualScope())
        chain.feed(InputDtmf("1"))
        chain.feed_up(InputDtmf("2"))
        gone = [weakref.ref(each) for each in (chain, *chain.processors())]
        chain.unlink()
        del chain
        assert [each() for each in gone] == [None, None, None]
    finally:
        gc.enable()


def test_what_is_pushed_after_the_end_is_forgotten() -> None:
    """A provider's late word raises nothing and reaches nobody."""
    first, last = Keys(), Keys()
    chain = Chain([first, last], VirtualScope())
    chain.unlink()
    first.push(InputDtmf("1"))
    last.push_up(InputDtmf("2"))
    chain.feed(InputDtmf("3"))
    chain.feed_up(InputDtmf("4"))
    assert (first.keys, last.keys, chain.processors()) == ([], [], [])
