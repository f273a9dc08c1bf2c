"""The bounded queue: two lanes, who overtakes, who makes room, who is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.frames import (
    ControlFrame,
    DataFrame,
    End,
    Frame,
    InputAudio,
    InputDtmf,
    SystemFrame,
    TtsSpeak,
)
from flowcatd.pipeline.queue import FrameQueue

LIMIT = 6


def line(text: str, epoch: int = 0) -> TtsSpeak:
    """A data frame."""
    return TtsSpeak(epoch, text)


def drain(queue: FrameQueue) -> list[Frame]:
    """Everything, as it is taken."""
    taken: list[Frame] = []
    while (frame := queue.take()) is not None:
        taken.append(frame)
    return taken


def test_system_frames_overtake_and_each_lane_keeps_its_order() -> None:
    """Data and control share a lane."""
    queue = FrameQueue(LIMIT)
    frames: list[Frame] = [line("a"), End("x"), InputDtmf("1"), line("b"), InputDtmf("2")]
    for frame in frames:
        assert queue.put(frame) is None
    assert drain(queue) == [InputDtmf("1"), InputDtmf("2"), line("a"), End("x"), line("b")]
    assert queue.take() is None


def test_the_oldest_data_makes_room_and_control_stays() -> None:
    """It is handed back and counted."""
    queue = FrameQueue(3)
    for frame in (End("x"), line("a"), line("b")):
        queue.put(frame)
    assert queue.put(End("y")) == line("a")
    assert queue.put(line("c")) == line("b")
    assert drain(queue) == [End("x"), End("y"), line("c")]
    assert queue.dropped == 2


def test_a_lane_full_of_control_refuses_and_keeps_what_it_has() -> None:
    """Only a bug can fill it."""
    queue = FrameQueue(2)
    queue.put(End("x"))
    queue.put(End("y"))
    with pytest.raises(LocalError, match="full of what may not be dropped"):
        queue.put(line("a"))
    assert drain(queue) == [End("x"), End("y")]


def test_system_frames_make_room_for_their_own_type_only() -> None:
    """Audio goes for audio; a key is never lost to it."""
    queue = FrameQueue(2)
    queue.put(InputDtmf("1"))
    queue.put(InputAudio(b"a", 8000, 0))
    assert queue.put(InputAudio(b"b", 8000, 20)) == InputAudio(b"a", 8000, 0)
    assert queue.put(InputDtmf("2")) == InputDtmf("1")
    queue = FrameQueue(1)
    queue.put(InputDtmf("1"))
    with pytest.raises(LocalError):
        queue.put(InputAudio(b"c", 8000, 40))


def test_an_interruption_takes_old_data_and_leaves_the_rest_where_it_stands() -> None:
    """End still comes after what was to come before it."""
    queue = FrameQueue(LIMIT)
    for frame in (line("old"), End("x"), line("new", 1), InputDtmf("1"), line("older")):
        queue.put(frame)
    assert queue.interrupt(1) == 2
    assert drain(queue) == [InputDtmf("1"), End("x"), line("new", 1)]


def test_each_put_notifies_once_the_frame_is_there() -> None:
    """Whoever sleeps on it finds it."""
    sizes: list[int] = []
    queue = FrameQueue(2, lambda: sizes.append(len(queue)))
    for text in "abc":
        queue.put(line(text))
    assert sizes == [1, 2, 2]


FRAMES = st.one_of(
    st.builds(line, st.text("ab", max_size=2), st.integers(0, 3)),
    st.builds(End, st.text("xy", max_size=2)),
    st.builds(InputDtmf, st.sampled_from("12")),
    st.builds(lambda n: InputAudio(b"", 8000, n), st.integers(0, 5)),
)
OPERATIONS = st.lists(st.one_of(FRAMES, st.just("take"), st.integers(0, 4)), max_size=80)


@given(OPERATIONS, st.integers(1, LIMIT))
def test_bounds_order_and_priority_hold_under_any_use(
    operations: list[Frame | str | int], limit: int
) -> None:
    """Each lane within its limit, order kept in it, system first, control never lost."""
    queue = FrameQueue(limit)
    model: list[Frame] = []
    for operation in operations:
        if operation == "take":
            first = next((f for f in model if isinstance(f, SystemFrame)), None)
            expected = first if first is not None else (model[0] if model else None)
            assert queue.take() is expected
            if expected is not None:
                _remove(model, expected)
        elif isinstance(operation, int):
            queue.interrupt(operation)
            model = [f for f in model if not isinstance(f, DataFrame) or f.epoch >= operation]
        elif isinstance(operation, Frame):
            try:
                victim = queue.put(operation)
            except LocalError:
                continue
            if victim is not None:
                assert not isinstance(victim, ControlFrame)
                _remove(model, victim)
            model.append(operation)
        assert len(queue) == len(model)
        assert sum(isinstance(f, SystemFrame) for f in model) <= limit
        assert sum(not isinstance(f, SystemFrame) for f in model) <= limit


def _remove(model: list[Frame], gone: Frame) -> None:
    del model[next(index for index, frame in enumerate(model) if frame is gone)]
