"""Messages out of streams: however the bytes are cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.sip.framing import PENDING_MAX, PING, PONG, Alive, Stream, Whole, unwrap_websocket
from flowcatd.sip.message import MESSAGE_BYTES, parse_message
from flowcatd.sip.trouble import SipError
from tests.flowcatd.sip.torture import plain
from tests.laws import keeps_bounded_law, keeps_chunking_law, keeps_garbage_law

ONE = plain(body=b"v=0\r\n\r\n")
TWO = plain("BYE").replace(b"content-length: 0", b"l :\r\n 0")


def run(pieces: Sequence[bytes], *, opened: bool = False) -> tuple[list[object], bytes, str]:
    """What a connection gives for these reads: events, what is sent, the error."""
    stream = Stream(opened=opened)
    problem = ""
    try:
        for piece in pieces:
            stream.receive_bytes(piece, 0.0)
    except SipError as error:
        problem = f"{error.status} {error.problem}"
    assert stream.closed == bool(problem)
    return stream.events(), b"".join(stream.outgoing()), problem


cuts = st.lists(st.integers(0, 1 << 16), max_size=6)
pieces = st.lists(
    st.sampled_from(
        [
            ONE,
            TWO,
            PING,
            PONG,
            b"\n",
            b"\r",
            plain("INFO", body=b"x" * 900),
            b"junk\r\n\r\n",
            b"INV",
        ]
    ),
    max_size=6,
).map(b"".join)


@given(pieces | st.binary(max_size=200), cuts, st.booleans())
def test_a_stream_gives_the_same_however_it_is_cut(data: bytes, edges: list[int], opened: bool):  # noqa: FBT001 hypothesis gives it
    """The chunking law, for messages, keep-alives and rubbish."""
    keeps_chunking_law(lambda read: run(read, opened=opened), data, edges)


def test_two_messages_in_one_read_are_two():
    """Each is what the parser wants, its body included."""
    told, sent, problem = run([ONE + TWO])
    assert told == [Whole(ONE), Whole(TWO)]
    assert (sent, problem) == (b"", "")
    assert parse_message(ONE).body == b"v=0\r\n\r\n"


def test_a_ping_is_answered_and_a_pong_is_told():
    """RFC 5626 §3.5.1: two line ends from whoever connected, one back."""
    assert run([PING + ONE]) == ([Alive.PING, Whole(ONE)], PONG, "")
    assert run([PONG + ONE], opened=True) == ([Alive.PONG, Whole(ONE)], b"", "")


def test_a_line_end_before_a_message_is_skipped():
    """RFC 3261 §7.5."""
    assert run([b"\r\n" + ONE]) == ([Whole(ONE)], b"", "")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (plain().replace(b"content-length: 0\r\n", b""), 400),
        (plain(content_length="-1"), 400),
        (plain(content_length=""), 400),
        (plain("INVITE", "l: 3"), 400),
        (plain(content_length="9999999999"), 400),
        (plain(content_length=str(MESSAGE_BYTES)), 513),
        (b"a" * (MESSAGE_BYTES + 1), 513),
        (b"a: " + b"b" * MESSAGE_BYTES + b"\r\nl: 0\r\n\r\n", 513),
        (b"x" + PING * 2 * PENDING_MAX, 400),
        (PING * (PENDING_MAX + 1), 0),
    ],
)
def test_what_cannot_be_cut_ends_the_stream(data: bytes, status: int):
    """Nobody could say where the next message begins."""
    stream = Stream(opened=False)
    with pytest.raises(SipError) as caught:
        stream.receive_bytes(data, 0.0)
    assert caught.value.status == status
    assert stream.closed
    assert len(stream.rest) <= MESSAGE_BYTES
    stream.receive_bytes(ONE, 0.0)
    assert Whole(ONE) not in stream.events()


def test_two_equal_content_lengths_still_cut():
    """The parser refuses the message (RFC 4475 §3.3.9); the stream goes on."""
    twice = plain("INVITE", "l: 0")
    assert run([twice + TWO])[0] == [Whole(twice), Whole(TWO)]


def test_a_closed_stream_forgets_half_a_message():
    """What is incomplete is nothing."""
    stream = Stream(opened=True)
    stream.receive_bytes(ONE[:20], 0.0)
    stream.receive_closed(0.0)
    stream.receive_bytes(ONE[20:], 0.0)
    assert (stream.events(), stream.closed, stream.wake_at()) == ([], True, None)


@given(st.binary(max_size=400))
def test_rubbish_gives_events_or_the_rooms_error(data: bytes):
    """The garbage law."""
    stream = Stream(opened=False)
    keeps_garbage_law(stream, lambda: stream.receive_bytes(data, 0.0), SipError)


def test_events_that_nobody_drains_are_limited():
    """The bounded law."""
    stream = Stream(opened=False)
    keeps_bounded_law(stream, lambda: stream.receive_bytes(TWO, 0.0), limit=PENDING_MAX)


def test_pongs_that_nobody_sends_are_limited():
    """Draining only the events is not enough."""
    stream = Stream(opened=False)
    for _ in range(PENDING_MAX):
        stream.receive_bytes(PING, 0.0)
        stream.events()
    with pytest.raises(LocalError):
        stream.receive_bytes(PING, 0.0)


@pytest.mark.parametrize(
    ("data", "message"), [(ONE.decode(), ONE), (TWO, TWO), ("\r\n\r\n", None), (b"\r\n", None)]
)
def test_a_websocket_message_is_one_sip_message_or_a_keep_alive(
    data: bytes | str, message: bytes | None
):
    """RFC 7118 §5; text and binary alike."""
    assert unwrap_websocket(data) == message


def test_a_websocket_message_has_a_limit():
    """As every message."""
    with pytest.raises(SipError):
        unwrap_websocket("x" * (MESSAGE_BYTES + 1))
