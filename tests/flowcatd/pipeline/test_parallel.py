"""Parallel branches: fan-out, a join without duplicates, and a lifecycle in step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.frames import (
    Cancel,
    End,
    Expect,
    Frame,
    InputAudio,
    InputDtmf,
    Interruption,
    Start,
    TtsSpeak,
)
from flowcatd.pipeline.chain import interrupt
from flowcatd.pipeline.parallel import OPEN_LIMIT, Parallel
from flowcatd.pipeline.processor import Processor, down, up
from tests.builders import Recording, Rig, VirtualScope, names

START = Start(8000)
ORDERED = (TtsSpeak, Expect, End)


class Passing(Processor):
    """Hands everything on."""

    @down(Start, Cancel, End, InputAudio, TtsSpeak, Expect)
    def see(self, frame: Frame) -> None:
        """As it came."""
        self.push(frame)

    @up(InputDtmf)
    def see_up(self, frame: Frame) -> None:
        """As it came."""
        self.push_up(frame)


class Dropping(Processor):
    """Keeps lines and audio to itself."""

    @down(TtsSpeak, InputAudio)
    def drop(self, frame: Frame) -> None:
        """Gone."""


class Doubling(Processor):
    """Says every line again, as a line of its own."""

    @down(TtsSpeak)
    def double(self, frame: TtsSpeak) -> None:
        """The line and another."""
        self.push(frame)
        self.push(TtsSpeak(frame.epoch, f"{frame.text} again"))


class Holding(Processor):
    """Holds what is ordered back until `release`, as one with a task does."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Frame] = []

    @down(*ORDERED)
    def hold(self, frame: Frame) -> None:
        """Wait."""
        self.held.append(frame)

    def release(self, count: int | None = None) -> None:
        """Hand on the oldest, or all."""
        while self.held and count != 0:
            self.push(self.held.pop(0))
            count = None if count is None else count - 1


class HoldingStart(Processor):
    """A branch that is slow to start."""

    def __init__(self) -> None:
        super().__init__()
        self.start: Start | None = None

    @down(Start)
    def hold(self, frame: Start) -> None:
        """Wait."""
        self.start = frame

    def release(self) -> None:
        """Ready."""
        assert self.start is not None
        self.push(self.start)


class Greeting(Processor):
    """Says something as soon as it starts."""

    @down(Start)
    def start(self, frame: Start) -> None:
        """Hand on, then greet."""
        self.push(frame)
        self.push(TtsSpeak(self.epoch.value, "hello"))


def line(text: str, epoch: int = 0) -> TtsSpeak:
    """A data frame."""
    return TtsSpeak(epoch, text)


# --- fan-out and join ----------------------------------------------------------------------------


def test_every_branch_is_given_the_frame_and_one_leaves() -> None:
    """In the order of the branches; it goes on with the first."""
    one, two = Recording(), Recording()
    rig = Rig([Parallel([one], [two], [])], VirtualScope())
    frame = line("a")
    rig.feed(frame)
    assert one.seen == two.seen == [frame]
    assert rig.tail == [frame]
    assert rig.tail[0] is frame


def test_equal_frames_are_not_the_same_frame() -> None:
    """The join goes by identity, so saying a thing twice is said twice."""
    rig = Rig([Parallel([Recording()], [Recording()])], VirtualScope())
    rig.feed(line("a"))
    rig.feed(line("a"))
    assert rig.tail == [line("a"), line("a")]


def test_what_every_branch_drops_is_gone_and_what_one_hands_on_is_not() -> None:
    """A branch decides for itself."""
    rig = Rig([Parallel([Dropping()], [Dropping(), Passing()])], VirtualScope())
    rig.feed(line("a"))
    assert rig.tail == []
    rig = Rig([Parallel([Dropping()], [Passing()])], VirtualScope())
    rig.feed(line("a"))
    assert rig.tail == [line("a")]


def test_what_branches_make_anew_goes_on_as_it_comes() -> None:
    """From each of them."""
    rig = Rig([Parallel([Doubling()], [Doubling()])], VirtualScope())
    rig.feed(line("a"))
    assert rig.tail == [line("a"), line("a again"), line("a again")]


def test_a_type_that_no_branch_handles_passes_by_at_no_cost() -> None:
    """The route leads past the Parallel to who wants it next."""
    behind = Recording()
    rig = Rig([Parallel([Dropping()], [Greeting()]), behind], VirtualScope())
    assert rig.chain._row.entry_down[InputDtmf] == behind.see


def test_upstream_is_joined_just_the_same() -> None:
    """One copy leaves, whoever handled it."""
    rig = Rig([Parallel([Passing()], [Passing(), Passing()], [])], VirtualScope())
    rig.feed_up(InputDtmf("1"))
    assert rig.head == [InputDtmf("1")]
    assert rig.tail == []


def test_branches_of_branches_join_twice() -> None:
    """And every processor is found, from head to tail."""
    inner = Parallel([Doubling()], [Passing()], name="inner")
    rig = Rig([Parallel([inner, Passing()], [Dropping()], [])], VirtualScope())
    rig.feed(START)
    rig.feed(line("a"))
    rig.feed(End("x"))
    assert rig.tail == [START, line("a"), line("a again"), End("x")]
    assert [processor.name for processor in rig.chain.processors()] == [
        "doubling",
        "passing",
        "passing",
        "dropping",
    ]


def test_one_branch_is_no_parallel() -> None:
    """It would be a row."""
    with pytest.raises(LocalError, match="at least two branches"):
        Parallel([Passing()])


def test_an_interruption_in_a_branch_ends_the_data_that_the_others_were_to_be_given() -> None:
    """The second branch is not told a line of an epoch that the first has ended."""

    class Interrupting(Processor):
        @down(TtsSpeak)
        def line(self, frame: TtsSpeak) -> None:
            """End its epoch."""
            interrupt(self)
            self.push(frame)

    second, behind = Recording(), Recording()
    rig = Rig([Parallel([Interrupting()], [second]), behind], VirtualScope())
    rig.feed(line("a"))
    assert second.seen == []
    assert behind.seen == [Interruption(1)]
    assert rig.head == [Interruption(1)]


# --- lifecycle -----------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [End("x"), Cancel("y")])
def test_the_end_waits_for_the_slowest_branch(last: Frame) -> None:
    """What that branch still has to say comes before it."""

    class Slow(Holding):
        @down(Cancel)
        def cancel(self, frame: Cancel) -> None:
            """Wait, too."""
            self.held.append(frame)

    slow = Slow()
    rig = Rig([Parallel([Passing()], [Dropping(), slow], [])], VirtualScope())
    slow.held.append(line("last words"))
    rig.feed(last)
    assert rig.tail == []
    slow.release()
    assert rig.tail == [line("last words"), last]


def test_what_a_fast_branch_makes_waits_behind_start() -> None:
    """Nobody hears a greeting before they were told the rate."""
    slow = HoldingStart()
    rig = Rig([Parallel([Greeting()], [slow])], VirtualScope())
    rig.feed(START)
    assert rig.tail == []
    slow.release()
    assert rig.tail == [START, line("hello")]


def test_what_start_brings_back_waits_behind_what_waited_before_it() -> None:
    """The greeting was first; the answer to Start comes after it."""

    class Answering(Processor):
        @down(Start)
        def start(self, frame: Start) -> None:
            """Answer at once."""
            self.push_up(InputDtmf("1"))
            self.push(frame)

    class OnKey(Passing):
        @up(InputDtmf)
        def see_up(self, frame: Frame) -> None:
            """Say a line."""
            self.push(line("the answer"))
            self.push_up(frame)

    rig = Rig([Parallel([Greeting(), OnKey()], [Passing()]), Answering()], VirtualScope())
    rig.feed(START)
    assert rig.tail == [START, line("hello"), line("the answer")]


def test_a_branch_that_never_starts_is_a_bug_and_not_a_leak() -> None:
    """What the others make waits up to a limit."""
    rig = Rig([Parallel([Passing()], [HoldingStart()])], VirtualScope())
    rig.feed(START)
    for _ in range(OPEN_LIMIT):
        rig.feed(line("a"))
    with pytest.raises(LocalError, match="never hands Start on"):
        rig.feed(line("a"))
    assert rig.tail == []


def test_cancel_does_not_wait_behind_a_start_that_hangs() -> None:
    """A call that cannot start can be ended."""
    rig = Rig([Parallel([Passing()], [HoldingStart()])], VirtualScope())
    rig.feed(START)
    rig.feed(Cancel("x"))
    assert rig.tail == [Cancel("x")]


# --- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow_branches", [1, 2])
def test_a_long_goodbye_keeps_in_step_whatever_audio_another_branch_drops(
    slow_branches: int,
) -> None:
    """Dropped frames are forgotten and counted; the End that branches still hold is not."""
    slow = [Holding() for _ in range(slow_branches)]
    parallel = Parallel([Dropping()], *([holding] for holding in slow))
    rig = Rig([parallel], VirtualScope())
    rig.feed(End("x"))
    for index in range(3 * OPEN_LIMIT):
        rig.feed(InputAudio(b"", 8000, 20 * index))
    assert parallel.evicted > 0
    for holding in slow:
        assert rig.out(End) == []
        holding.release()
    assert rig.out(End) == [End("x")]
    assert len(rig.out(InputAudio)) == 3 * OPEN_LIMIT


@pytest.mark.parametrize("kinds", ["a", "e", "aae", "eac"])
def test_memory_is_bounded_whatever_is_dropped(kinds: str) -> None:
    """Even where lifecycle frames are all there is."""
    hold = Holding()
    parallel = Parallel([Dropping()], [hold])
    rig = Rig([parallel], VirtualScope())
    kept = parallel._joins[True]._open
    for index in range(2 * OPEN_LIMIT):
        kind = kinds[index % len(kinds)]
        rig.feed({"a": InputAudio(b"", 8000, 0), "e": End("x"), "c": line("y")}[kind])
        hold.held.clear()
        assert len(kept) == min(index + 1, OPEN_LIMIT)
    assert parallel.evicted == OPEN_LIMIT


# --- any branches --------------------------------------------------------------------------------

KINDS = {"pass": Passing, "drop": Dropping, "double": Doubling, "hold": Holding}
BRANCHES = st.lists(st.lists(st.sampled_from(sorted(KINDS)), max_size=3), min_size=2, max_size=4)
STEPS = st.lists(
    st.one_of(
        st.sampled_from(["line", "audio", "control"]),
        st.tuples(st.integers(0, 11), st.integers(1, 4)),
    ),
    max_size=40,
)


@given(BRANCHES, STEPS)
def test_no_duplicates_and_lifecycle_in_step_for_any_branches(
    plan: list[list[str]], steps: list[str | tuple[int, int]]
) -> None:
    """Whatever branches pass on, drop, double or hold back, and whenever they let go."""
    branches = [[KINDS[word]() for word in words] for words in plan]
    holding = [stage for branch in branches for stage in branch if isinstance(stage, Holding)]
    parallel = Parallel(*branches)
    rig = Rig([parallel, Recording()], VirtualScope())
    rig.feed(START)
    fed: list[Frame] = [START]
    for index, step in enumerate(steps):
        if isinstance(step, tuple):
            if holding:
                holding[step[0] % len(holding)].release(step[1])
            continue
        frame: Frame = {
            "line": line(f"line {index}"),
            "audio": InputAudio(b"", 8000, 20 * index),
            "control": Expect(f"grammar {index}", "", ""),
        }[step]
        fed.append(frame)
        rig.feed(frame)
    fed.append(End("x"))
    rig.feed(fed[-1])
    # Several rounds, because what one lets go the next in its branch may hold.
    for _ in range(3):
        assert not any(stage.held for stage in holding) or End("x") not in rig.tail
        for stage in holding:
            stage.release()

    assert rig.tail[0] is START
    assert rig.tail[-1] is fed[-1]
    assert names(rig.tail).count("Start") == names(rig.tail).count("End") == 1
    ours = {id(frame) for frame in fed}
    originals = [id(frame) for frame in rig.tail if id(frame) in ours]
    assert len(originals) == len(set(originals)), "the same frame left twice"
    assert {f.grammar for f in rig.out(Expect)} == {f.grammar for f in fed if isinstance(f, Expect)}


@given(
    st.lists(
        st.lists(st.sampled_from(["pass", "double", "drop"]), max_size=3), min_size=2, max_size=4
    ),
    st.lists(st.sampled_from(["line", "control", "audio"]), max_size=40),
)
def test_order_is_kept_where_nobody_holds_back(plan: list[list[str]], kinds: list[str]) -> None:
    """What was fed leaves in the order in which it was fed, whichever branch hands it on."""
    rig = Rig([Parallel(*[[KINDS[word]() for word in words] for words in plan])], VirtualScope())
    fed: list[Frame] = []
    for index, kind in enumerate(kinds):
        fed.append(
            {
                "line": line(f"line {index}"),
                "audio": InputAudio(b"", 8000, 20 * index),
                "control": Expect(f"grammar {index}", "", ""),
            }[kind]
        )
        rig.feed(fed[-1])
    where = {id(frame): index for index, frame in enumerate(fed)}
    places = [where[id(frame)] for frame in rig.tail if id(frame) in where]
    assert places == sorted(set(places))
