"""A SIP call's audio on its way: queue, marks and rates, tick by tick."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.frames import InputAudio
from flowcatd.transports.sip_sound import MOST_FRAMES, MOST_TONES, Ear, Mouth, quiet


class Told:
    """Marks, with the tick at which they were told."""

    def __init__(self) -> None:
        self.tick = 0
        self.marks: list[tuple[int, str]] = []
        self.mouth = Mouth(lambda name: self.marks.append((self.tick, name)))

    def next(self) -> bytes | None:
        """One tick."""
        pcm = self.mouth.next()
        self.tick += 1
        return pcm


def frame(value: int, rate_hz: int = 8000) -> bytes:
    """20 ms that can be known again."""
    return value.to_bytes(2, "little") * (rate_hz // 50)


@given(st.lists(st.one_of(st.integers(1, 9), st.just("mark")), max_size=60))
def test_a_mark_is_told_one_tick_after_the_frame_before_it(items: list[int | str]) -> None:
    """Frames leave in order, one a tick; a mark when the last of what stands before it is over."""
    told = Told()
    sent = [item for item in items if isinstance(item, int)]
    before, due = 0, []
    for item in items:
        if isinstance(item, int):
            before += 1
            told.mouth.put(frame(item))
        else:
            told.mouth.mark(f"m{len(due)}")
            due.append(before)
    out = [told.next() for _ in range(len(items) + 1)]
    assert [pcm for pcm in out if pcm is not None] == [frame(item) for item in sent]
    assert [tick for tick, _ in told.marks] == due
    assert [name for _, name in told.marks] == [f"m{number}" for number in range(len(due))]


def test_clearing_forgets_marks_too() -> None:
    """A cleared mark was not played."""
    told = Told()
    told.mouth.put(frame(1))
    told.mouth.mark("a")
    told.mouth.clear()
    assert told.next() is None
    assert not told.marks
    assert len(told.mouth) == 0


def test_what_is_said_when_a_mark_is_told_leaves_in_the_same_tick() -> None:
    """The next line follows without a hole."""
    mouth = Mouth(lambda _name: mouth.put(frame(2)))
    mouth.put(frame(1))
    mouth.mark("a")
    assert [mouth.next(), mouth.next(), mouth.next()] == [frame(1), frame(2), None]


def test_the_queue_is_bounded() -> None:
    """Two seconds of audio, twenty of tones."""
    mouth = Mouth(lambda _name: None)
    for _ in range(MOST_FRAMES + 5):
        mouth.put(frame(1))
    assert (len(mouth), mouth.dropped) == (MOST_FRAMES, 5)
    mouth.press(frame(1) * MOST_TONES, 8000)
    mouth.press(frame(1), 8000)
    assert mouth.dropped == 6


def test_tones_go_before_what_waits_and_lose_nothing_of_it() -> None:
    """The line goes on after the keys."""
    mouth = Mouth(lambda _name: None)
    mouth.put(frame(1))
    mouth.press(frame(7) + frame(8), 8000)
    assert [mouth.next() for _ in range(4)] == [frame(7), frame(8), frame(1), None]


@pytest.mark.parametrize(("chain_hz", "codec_hz"), [(8000, 16000), (16000, 8000)])
def test_another_rate_takes_whole_frames_both_ways(chain_hz: int, codec_hz: int) -> None:
    """Every frame in gives one of the right size, and the end of a line is not cut."""
    mouth = Mouth(lambda _name: None)
    mouth.bridge(chain_hz, codec_hz)
    for _ in range(5):
        mouth.put(frame(4000, chain_hz))
    out = [mouth.next() for _ in range(7)]
    sizes = [0 if pcm is None else len(pcm) for pcm in out]
    assert sizes == [codec_hz // 25] * 6 + [0]
    said = sum(
        int.from_bytes(pcm[at : at + 2], "little", signed=True)
        for pcm in out
        if pcm
        for at in range(0, len(pcm), 2)
    )
    assert said == pytest.approx(4000 * 5 * codec_hz // 50, rel=0.01)
    ear = Ear(chain_hz, 0.0)
    ear.bridge(codec_hz)
    heard = [each for _ in range(5) for each in ear.hear_bridged(frame(4000, codec_hz))]
    assert [len(each.pcm) for each in heard] == [chain_hz // 25] * 5
    assert [each.media_ms for each in heard] == [0, 20, 40, 60, 80]


def test_silence_is_one_object() -> None:
    """For every call of the worker."""
    one, two = Ear(8000, 0.0), Ear(8000, 0.0)
    heard: list[InputAudio] = [one.hear(bytes(320)), two.hear(bytes(320)), one.silence()]
    assert len({id(each.pcm) for each in heard}) == 1
    assert heard[0].pcm is quiet(8000)


def test_ticks_that_never_came_are_a_gap() -> None:
    """Media time follows the clock by whole frames; a late tick is none."""
    ear = Ear(8000, 100.0)
    ear.hear(bytes(320))
    ear.keep_up(100.15)
    assert ear.media_ms == 20
    ear.keep_up(101.03)
    assert ear.media_ms == 1020
