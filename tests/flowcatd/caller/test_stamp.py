"""Frames that can be told apart: every fault is seen as what it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.audio.g711 import mulaw_to_pcm, pcm_to_mulaw
from flowcatd.caller.stamp import FRAMES_LIMIT, StampCheck, Verdict, read_stamp, stamp
from flowcatd.errors import LocalError

NUMBER = st.integers(0, FRAMES_LIMIT - 1)
SIZE = st.sampled_from([160, 320, 640, 1920])


@given(NUMBER, SIZE)
def test_a_frame_says_its_number(number, size):
    """And has the size asked for."""
    frame = stamp(number, size)
    assert len(frame) == size
    assert read_stamp(frame) == number


@given(NUMBER)
def test_a_frame_survives_an_echo_through_samples(number):
    """µ-law to PCM and back changes none of its bytes."""
    frame = stamp(number, 160)
    assert pcm_to_mulaw(mulaw_to_pcm(frame)) == frame


@given(NUMBER, st.integers(0, 159), st.integers(0, 255))
def test_any_changed_byte_is_noticed(number, at, byte):
    """A frame is whole, or it is corrupt."""
    frame = bytearray(stamp(number, 160))
    changed = frame[at] != byte
    frame[at] = byte
    assert (read_stamp(bytes(frame)) is None) is changed


@given(st.binary(max_size=400))
def test_rubbish_never_passes_nor_raises(data):
    """Whatever it is, unless it is a frame."""
    number = read_stamp(data)
    assert number is None or stamp(number, len(data)) == data


def check(order: list[int], sent: int = 4, *, spoil: int | None = None) -> StampCheck:
    """`sent` frames, of which these come back in this order 10 ms later; one of them spoiled."""
    judged = StampCheck(160)
    frames = [judged.next_frame(number * 0.02) for number in range(sent)]
    for number in order:
        frame = frames[number]
        judged.receive(frame[:-1] + b"\xff" if number == spoil else frame, number * 0.02 + 0.01)
    return judged


@pytest.mark.parametrize(
    ("order", "verdict"),
    [
        ([0, 1, 2, 3], Verdict(4, right=4)),
        ([0, 1, 3], Verdict(4, right=3, lost=1)),
        ([0, 1, 1, 2, 3], Verdict(4, right=4, duplicate=1)),
        ([0, 2, 1, 3], Verdict(4, right=3, reordered=1)),
        ([], Verdict(4, lost=4)),
    ],
)
def test_every_fault_is_counted_as_what_it_is(order, verdict):
    """And only a stream without any is all right."""
    judged = check(order)
    assert judged.verdict() == verdict
    assert judged.verdict().all_right is (order == [0, 1, 2, 3])


def test_a_changed_frame_is_corrupt_and_its_number_lost():
    """Nobody can know which one it was."""
    verdict = check([0, 1, 2, 3], spoil=2).verdict()
    assert verdict == Verdict(4, right=3, lost=1, corrupt=1)
    assert not verdict.all_right


def test_round_trips_are_timed_per_frame():
    """From the sending of that very frame."""
    assert check([0, 1, 2, 3]).trips == pytest.approx([0.01] * 4)


def test_a_frame_that_was_never_sent_is_corrupt():
    """A number from the future is no echo."""
    judged = StampCheck(160)
    judged.next_frame(0.0)
    judged.receive(stamp(7, 160), 0.1)
    assert judged.verdict().corrupt == 1
    assert not judged.complete


@given(st.lists(st.integers(1, 500), max_size=20))
def test_what_comes_back_may_be_cut_anywhere(cuts):
    """Frames are read from the stream, not from its messages."""
    judged = StampCheck(160)
    stream = b"".join(judged.next_frame(0.0) for _ in range(10))
    for cut in cuts:
        piece, stream = stream[:cut], stream[cut:]
        judged.receive(piece, 1.0)
    judged.receive(stream, 1.0)
    assert judged.verdict().all_right
    assert judged.complete


def test_nothing_sent_proves_nothing():
    """An empty run is not all right."""
    assert not StampCheck(160).verdict().all_right


@pytest.mark.parametrize(("number", "size"), [(-1, 160), (FRAMES_LIMIT, 160), (0, 3)])
def test_what_cannot_be_stamped_is_refused(number, size):
    """A number out of range, or no room for it."""
    with pytest.raises(LocalError):
        stamp(number, size)
