"""Heads of SIP messages: what is read is right in every spelling, and garbage is nothing."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.sip_head import HEAD_LINES, VALUE_CHARACTERS, call_key, parse_head, stamped

INVITE = (
    b"INVITE sip:fc-0.1.2.abcd-x@127.0.0.1:5060;transport=udp SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP phone.example:5070;branch=z9hG4bK1;rport\r\n"
    b"Via: SIP/2.0/UDP far.example;branch=z9hG4bK0\r\n"
    b"Max-Forwards: 70\r\n"
    b'From: "Alice \\" <x>;tag=no" <sip:alice@example.com;tag=neither>;x=1;TAG=from1\r\n'
    b"To: <sip:bob@example.com>\r\n"
    b"Call-ID: abc@phone\r\n"
    b"CSeq: 7 INVITE\r\n"
    b"Contact: <sip:alice@phone.example>\r\n"
    b"Content-Length: 0\r\n"
    b"\r\n"
)
COMPACT = (
    b"\r\n\r\nINVITE sip:fc-0.1.2.abcd-x@127.0.0.1:5060;transport=udp SIP/2.0\n"
    b"v : SIP / 2.0 / UDP phone.example : 5070\n"
    b" ;branch=z9hG4bK1\n"
    b"\t;rport , SIP/2.0/UDP far.example;branch=z9hG4bK0\n"
    b'f: "Alice \\" <x>;tag=no"\n  <sip:alice@example.com;tag=neither>;x=1;TAG=from1\n'
    b"t:<sip:bob@example.com>\n"
    b"i: abc@phone\n"
    b"cseq:7 INVITE\n"
    b"\n"
)
OK = (
    b"SIP/2.0 200 OK\r\n"
    b"Via: SIP/2.0/UDP [::1]:5060;branch=z9hG4bKours\r\n"
    b"From: sip:us@example.com;tag=ourtag\r\n"
    b"To: <sip:them@example.com>;tag=theirs\r\n"
    b"Call-ID: 1\r\nCSeq: 1 OPTIONS\r\n\r\n"
)


def changed(old: bytes, new: bytes, message: bytes = INVITE) -> bytes:
    """The message with one thing other than it was."""
    assert old in message
    return message.replace(old, new, 1)


@pytest.mark.parametrize("message", [INVITE, COMPACT], ids=["long", "compact"])
def test_a_request_is_read_in_every_spelling(message):
    """Long and compact names, folded lines, spaces, bare line feeds, tags behind quoted ones."""
    head = parse_head(message)
    assert (head.method, head.status, head.call_id) == ("INVITE", 0, "abc@phone")
    assert (head.from_tag, head.to_tag, head.branch) == ("from1", "", "z9hG4bK1")
    assert head.uri_user == "fc-0.1.2.abcd-x"
    assert stamped(head) == ("", "fc-0.1.2.abcd-x")


def test_a_response_is_known_by_our_branch_and_our_from_tag():
    """What the far end made up does not matter; an address without brackets has a tag too."""
    head = parse_head(OK)
    assert (head.method, head.status) == ("", 200)
    assert stamped(head) == ("z9hG4bKours", "ourtag")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\r\n\r\n",
        b"\0" * 100,
        INVITE[:-2],
        changed(b"SIP/2.0\r\nVia", b"HTTP/1.1\r\nVia"),
        changed(b"Call-ID: abc@phone\r\n", b""),
        changed(b"Call-ID: abc@phone", b"Call-ID:"),
        changed(b"Call-ID: abc@phone", b"Call-ID: a\r\ni: b"),
        changed(b"CSeq: 7 INVITE", b"CSeq: 7 BYE"),
        changed(b"CSeq: 7 INVITE", b"CSeq: x INVITE"),
        changed(b"Max-Forwards: 70", b"Max-Forwards"),
        changed(b"phone.example:5070", b"phone.example:0"),
        changed(b"phone.example:5070", b"phone.example:99999"),
        changed(b"SIP/2.0/UDP phone", b"UDP phone"),
        changed(b"abc@phone", b"a\0b"),
        changed(b"abc@phone", b"a\rb"),
        changed(b"abc@phone", b"x" * (VALUE_CHARACTERS + 1)),
        changed(b"Max-Forwards: 70\r\n", b"X: y\r\n" * HEAD_LINES),
        changed(b"200 OK", b"700 OK", OK),
        changed(b"200 OK", b"20 OK", OK),
    ],
)
def test_what_is_no_message_is_nothing(message):
    """None, whatever is missing, doubled, too long or not in its place."""
    assert parse_head(message) is None


@given(st.binary(max_size=400), st.integers(0, len(INVITE)), st.integers(0, len(INVITE)))
def test_garbage_is_nothing_or_a_head_that_can_be_routed(noise, start, end):
    """Any bytes, alone or in the middle of a message: no error, and nothing of two lines."""
    for message in (noise, INVITE[:start] + noise + INVITE[end:], COMPACT[:start] + noise):
        head = parse_head(message)
        if head is not None:
            assert bool(head.method) is not bool(head.status)
            assert head.call_id
            for each in (head.method, head.call_id, head.branch, *stamped(head)):
                assert not {"\r", "\n", "\0"} & set(each)


@pytest.mark.parametrize("letter", [b" ", b"\t", b"\x0b", b'"', b'"\\', b";", b",", b"<", b"a"])
def test_the_longest_datagram_of_the_worst_bytes_takes_a_moment(letter):
    """No step is more than linear: nobody can stop the loop with one datagram."""
    noise = letter * (60_000 // len(letter))
    began = time.process_time()
    for old in (b"phone.example:5070", b"z9hG4bK1", b"abc@phone", b"<sip:bob", b"Max-", b"INVITE"):
        parse_head(changed(old, noise + old))
        part = noise[: VALUE_CHARACTERS - 300]
        parse_head(changed(old, part + old))
    assert time.process_time() - began < 0.5


def test_a_request_in_a_dialog_is_known_by_our_tag():
    """It stands in the To; where a call begins there is none."""
    head = parse_head(changed(b"<sip:bob@example.com>", b"<sip:bob@example.com>;tag=mine"))
    assert head.to_tag == "mine"
    assert stamped(head)[0] == "mine"


def test_a_call_id_is_a_key_of_its_own_kind():
    """No run id of a media socket can be taken for it."""
    assert call_key("é") == b"sip\0\xe9"
