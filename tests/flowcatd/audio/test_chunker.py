"""The chunker: any sizes in, exact frames out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.audio.chunker import Chunker
from flowcatd.errors import LocalError


@given(st.lists(st.binary(max_size=50)), st.integers(1, 17))
def test_any_split_gives_the_same_frames(pieces, size):
    """Frames have the exact size, less than one is held, and no byte is lost, doubled or moved."""
    chunker = Chunker(size)
    frames = []
    for piece in pieces:
        frames += chunker.push(piece)
        assert chunker.pending < size
    whole = b"".join(pieces)
    assert frames == [whole[at : at + size] for at in range(0, len(whole) - size + 1, size)]
    assert chunker.pending == len(whole) % size


@given(st.binary(max_size=40), st.integers(1, 17), st.binary(min_size=1, max_size=3))
def test_the_last_frame_is_filled_up(data, size, pad):
    """What was held comes first in the last frame, then the padding over and over."""
    chunker = Chunker(size)
    held = data[len(b"".join(chunker.push(data))) :]
    last = chunker.flush(pad)
    assert last == ((held + pad * size)[:size] if held else None)
    assert chunker.pending == 0


def test_a_whole_frame_passes_uncopied():
    """One exact frame into an empty chunker comes out as the same object."""
    frame = bytes(320)
    assert Chunker(320).push(frame)[0] is frame


def test_a_whole_frame_waits_its_turn_behind_a_part():
    """What is held goes first, also when exactly one frame comes in."""
    chunker = Chunker(4)
    chunker.push(b"ab")
    assert chunker.push(b"cdef") == [b"abcd"]
    assert chunker.flush(b"-") == b"ef--"


def test_clearing_forgets_the_part():
    """After an interruption the next frame begins with what comes next."""
    chunker = Chunker(4)
    chunker.push(b"abc")
    chunker.clear()
    assert chunker.pending == 0
    assert chunker.push(b"wxyz") == [b"wxyz"]


def test_an_empty_pad_is_refused():
    """A frame cannot be filled up with nothing, and nothing is lost by trying."""
    chunker = Chunker(4)
    chunker.push(b"abc")
    with pytest.raises(LocalError, match="fill up"):
        chunker.flush(b"")
    assert chunker.pending == 3


@pytest.mark.parametrize("size", [0, -160])
def test_a_frame_has_at_least_one_byte(size):
    """Frames of no bytes would never end."""
    with pytest.raises(LocalError, match="cannot be cut"):
        Chunker(size)
