"""The jitter buffer by itself: what comes out in which order, and why something does not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.rtp.jitter import (
    MAX_PACKETS,
    PATIENCE_MS,
    Gap,
    Hole,
    Jitter,
    JitterOptions,
    Piece,
)

TICK = 0.02
T0 = 500.0


def buffer(initial_ms: int = 40, ceiling_ms: int = 200) -> Jitter:
    """For a clock of 8 kHz."""
    return Jitter(8000, JitterOptions(initial_ms, ceiling_ms))


def piece(number: int, *, timestamp: int | None = None, ticks: int = 160) -> Piece:
    """The packet of this number in a run of 20 ms packets; its payload is its number."""
    at = 160 * number if timestamp is None else timestamp
    return Piece(1000 + number, at & 0xFFFFFFFF, ticks, 0, b"%d" % number)


def told(got: Piece | Hole) -> str:
    """A number for a packet, a word for a hole."""
    return got.kind.value if isinstance(got, Hole) else got.payload.decode()


def play(made: Jitter, ticks: int, now: float) -> list[str]:
    """What so many ticks give."""
    return [told(made.get(now + turn * TICK)) for turn in range(ticks)]


def fed(*numbers: int) -> Jitter:
    """A buffer in which these came, on time, the last 60 ms after T0."""
    made = buffer()
    for number in numbers:
        made.push(piece(number), T0 + number * TICK)
    return made


def test_packets_come_out_in_order_after_the_target() -> None:
    """Nothing before 40 ms, then one per tick."""
    made = fed(0, 2, 1, 3)
    assert play(made, 6, T0) == ["idle", "idle", "0", "1", "2", "3"]


def test_what_comes_twice_is_played_once() -> None:
    """And counted."""
    made = fed(0, 1, 2)
    assert not made.push(piece(1), T0 + 0.03)
    assert play(made, 5, T0)[2:] == ["0", "1", "2"]
    assert made.duplicates == 1


def test_a_hole_with_packets_behind_it_is_loss() -> None:
    """As long as the packets that are missing."""
    made = fed(0, 1, 4, 5)
    assert play(made, 8, T0)[2:] == ["0", "1", "lost", "lost", "4", "5"]


def test_a_hole_that_the_sender_left_is_silence() -> None:
    """Sequence numbers go on, timestamps jump with the time: it is played when it is due."""
    made = buffer()
    made.push(piece(0), T0)
    made.push(piece(1, timestamp=160 * 5), T0 + 5 * TICK)
    heard = play(made, 9, T0)
    assert heard[2] == "0"
    assert heard[-2:] == ["1", "empty"]
    assert set(heard[3:-2]) <= {"empty", "silence"}


def test_packets_that_are_not_audio_make_no_loss() -> None:
    """Digits: their numbers were there, and audio is not waited for."""
    made = buffer()
    made.push(piece(0), T0)
    for number in (1, 2, 3):
        made.note(1000 + number)
    made.push(piece(4), T0 + 4 * TICK)
    assert play(made, 8, T0)[2:] == ["0", "silence", "silence", "silence", "4", "empty"]


def test_nothing_at_hand_is_empty_until_patience_ends() -> None:
    """Then talk is over."""
    made = fed(0)
    heard = play(made, 12, T0)
    assert heard[2:] == ["0"] + ["empty"] * (PATIENCE_MS // 20) + ["idle"] * 4


def test_time_spent_empty_is_taken_off_the_hole() -> None:
    """Lost at the end of what was at hand: the hole is as long as the loss, not longer."""
    made = fed(0)
    assert play(made, 4, T0)[2:] == ["0", "empty"]
    made.push(piece(3), T0 + 4 * TICK)
    assert play(made, 3, T0 + 4 * TICK) == ["lost", "3", "empty"]


def test_what_was_only_late_is_played_all_the_same() -> None:
    """An empty buffer waits for it; the delay grows by the wait."""
    made = fed(0)
    play(made, 4, T0)
    before = made.delay
    assert made.push(piece(1), T0 + 4 * TICK)
    assert play(made, 1, T0 + 4 * TICK) == ["1"]
    assert made.delay == pytest.approx(before + 160, abs=1)


def test_what_comes_after_its_time_is_late() -> None:
    """Its hole was played."""
    made = fed(0, 2, 3)
    assert play(made, 4, T0)[2:] == ["0", "lost"]
    assert not made.push(piece(1), T0 + 4 * TICK)
    assert made.late == 1
    assert play(made, 2, T0 + 4 * TICK) == ["2", "3"]


def test_noise_described_ends_the_talk() -> None:
    """RFC 3389: nothing is missing after it."""
    made = fed(0)
    made.push(piece(1, ticks=0), T0 + TICK)
    assert play(made, 6, T0)[2:] == ["0", "1", "silence", "silence"]


def test_above_the_ceiling_the_oldest_goes() -> None:
    """A backlog is dropped down to the target, never played through."""
    made = fed(0)
    assert play(made, 3, T0)[-1] == "0"
    for number in range(1, 40):
        made.push(piece(number), T0 + 0.8)
    heard = made.get(T0 + 0.8)
    assert isinstance(heard, Piece)
    assert made.discarded > 10
    assert made.delay <= 200 * 8


def test_no_more_is_kept_than_may_be() -> None:
    """A stream that nobody plays drops its oldest."""
    made = fed(*range(1000))
    assert made.waiting == MAX_PACKETS
    assert made.discarded == 1000 - MAX_PACKETS


@given(st.randoms(use_true_random=False), st.integers(0, 0xFFFFFFFF), st.integers(0, 30))
def test_any_order_within_the_delay_is_put_right(
    dice: random.Random, base: int, first: int
) -> None:
    """Across wraps of the timestamp; each comes once, in order, with no hole."""
    made = buffer(initial_ms=60)
    arrivals = []
    for number in range(40):
        late = dice.random() * 0.05 if number else 0.0
        moved = Piece(first + number, (base + 160 * number) & 0xFFFFFFFF, 160, 0, b"%d" % number)
        arrivals.append((T0 + number * TICK + late, number, moved))
    arrivals.sort()
    heard, now = [], T0
    while len(heard) < 45:
        while arrivals and arrivals[0][0] <= now:
            made.push(arrivals[0][2], arrivals.pop(0)[0])
        heard.append(told(made.get(now)))
        now += TICK
    start = heard.index("0")
    assert start <= 4
    assert heard[start : start + 40] == [str(number) for number in range(40)]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 400),
            st.integers(0, 0xFFFFFFFF),
            st.sampled_from([0, 80, 160, 960]),
            st.floats(0, 0.3),
            st.booleans(),
        ),
        max_size=150,
    )
)
def test_whatever_comes_the_buffer_stays_sound(packets) -> None:
    """Bounded, in order, holes of a positive length, never more than a tick."""
    made = buffer()
    now = T0
    for number, timestamp, ticks, later, ask in packets:
        made.push(Piece(number, timestamp, ticks, 0, b"x"), now)
        now += later
        if ask:
            got = made.get(now)
            assert not isinstance(got, Hole) or 0 < got.ticks <= 160
        stamps = [kept.timestamp for kept in made._queue]
        assert stamps == sorted(stamps)
        assert made.waiting <= MAX_PACKETS
        assert 0 < made.target <= 200 * 8


def test_the_target_follows_the_jitter_up_and_down() -> None:
    """Up with the second packet that is so late, down when the window has forgotten it."""
    made = buffer(initial_ms=20)
    now = T0
    for number in range(600):
        made.push(piece(number), now + (0.06 if number in {200, 210} else 0.0))
        made.get(now)
        now += TICK
        if number == 205:
            assert made.target == pytest.approx(10 * 8)
        if number == 220:
            assert made.target == pytest.approx(70 * 8)
    for number in range(600, 1200):
        made.push(piece(number), now)
        made.get(now)
        now += TICK
    assert made.target == pytest.approx(10 * 8)


def test_a_new_source_finds_an_empty_buffer() -> None:
    """Of the old one nothing is played any more, and its numbers mean nothing."""
    made = fed(0, 1, 2)
    play(made, 3, T0)
    made.reset()
    assert made.get(T0 + 0.06) == Hole(Gap.IDLE, 160)
    made.push(Piece(5, 77, 160, 0, b"new"), T0 + 0.08)
    assert play(made, 4, T0 + 0.08)[-2:] == ["new", "empty"]


@pytest.mark.parametrize(("initial_ms", "ceiling_ms"), [(10, 200), (100, 80)])
def test_limits_that_contradict_are_refused(initial_ms, ceiling_ms) -> None:
    """The least is a tick, the ceiling is above the start."""
    with pytest.raises(LocalError):
        buffer(initial_ms, ceiling_ms)
