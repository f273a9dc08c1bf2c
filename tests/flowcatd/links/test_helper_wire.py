"""The wire between a worker and its helpers: any cut gives the same messages, rubbish is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError, PeerError
from flowcatd.links import helper_wire as wire

JOB = st.integers(min_value=1, max_value=2**40)
TEXT = st.text(max_size=200)
PCM = st.binary(max_size=2_000)
MESSAGES = st.one_of(
    st.builds(wire.Prepare, TEXT),
    st.builds(wire.Begin, JOB, TEXT, TEXT),
    st.builds(wire.Audio, JOB, PCM),
    st.builds(wire.Finish, JOB),
    st.builds(wire.Speak, JOB, TEXT, TEXT),
    st.builds(wire.Stop, JOB),
    st.builds(wire.Ready, TEXT, JOB),
    st.builds(wire.Guessed, JOB),
    st.builds(wire.Hint, JOB, TEXT),
    st.builds(wire.Heard, JOB, TEXT, st.floats(0, 1), st.floats(0, 100), TEXT),
    st.builds(wire.Piece, JOB, PCM),
    st.builds(wire.Said, JOB),
    st.builds(wire.Trouble, JOB, TEXT, st.booleans()),
)


@given(st.lists(MESSAGES, max_size=8), st.integers(1, 50))
def test_any_cut_gives_the_same_messages(messages, step):
    """Messages come out as they went in, however the bytes are cut."""
    data = b"".join(wire.pack(message) for message in messages)
    unpacker = wire.Unpacker()
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    assert [each for piece in pieces for each in unpacker.feed(piece)] == messages


@given(st.binary(min_size=1, max_size=200))
def test_rubbish_is_refused_or_awaited(data):
    """Whatever comes is messages, a wait for more, or PeerError."""
    try:
        for message in wire.Unpacker().feed(data):
            assert wire.pack(message)
    except PeerError:
        pass


def test_a_length_beyond_the_bound_is_refused_at_once():
    """The announced length is judged before a byte of the body is stored."""
    head = (wire.MOST_BYTES + 1).to_bytes(4, "big")
    with pytest.raises(PeerError, match="at most"):
        list(wire.Unpacker().feed(head))


def test_a_message_beyond_the_bound_is_not_sent():
    """A message that the far end would refuse is our own mistake."""
    with pytest.raises(LocalError, match="at most"):
        wire.pack(wire.Audio(1, bytes(wire.MOST_BYTES)))
