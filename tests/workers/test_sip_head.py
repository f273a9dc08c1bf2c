"""Heads of SIP messages: what is read is right in every spelling, and garbage is nothing."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.sip_head import HEAD_LINES, VALUE_CHARACTERS, call_key, parse_head, respond, stamped

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
    assert head.sent_by == ("phone.example", 5070)
    assert head.rport
    assert stamped(head) == ("", "fc-0.1.2.abcd-x")


def test_a_response_is_known_by_our_branch_and_our_from_tag():
    """What the far end made up does not matter; an address without brackets has a tag too."""
    head = parse_head(OK)
    assert (head.method, head.status) == ("", 200)
    assert stamped(head) == ("z9hG4bKours", "ourtag")
    assert head.sent_by == ("[::1]", 5060)


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
def test_garbage_is_nothing_or_a_head_that_can_be_answered(noise, start, end):
    """Any bytes, alone or in the middle of a message: no error, and an answer of whole lines."""
    for message in (noise, INVITE[:start] + noise + INVITE[end:], COMPACT[:start] + noise):
        head = parse_head(message)
        if head is not None and head.method:
            answer, port = respond(head, "503 Service Unavailable", ("127.0.0.1", 9))
            assert 0 < port < 65_536
            assert answer.endswith(b"\r\nContent-Length: 0\r\n\r\n")
            assert answer.count(b"\r\n\r\n") == 1
            assert b"\n" not in answer.replace(b"\r\n", b"")


@pytest.mark.parametrize("letter", [b" ", b"\t", b"\x0b", b'"', b'"\\', b";", b",", b"<", b"a"])
def test_the_longest_datagram_of_the_worst_bytes_takes_a_moment(letter):
    """No step is more than linear: nobody can stop the loop with one datagram."""
    noise = letter * (60_000 // len(letter))
    began = time.process_time()
    for old in (b"phone.example:5070", b"z9hG4bK1", b"abc@phone", b"<sip:bob", b"Max-", b"INVITE"):
        parse_head(changed(old, noise + old))
        part = noise[: VALUE_CHARACTERS - 300]
        head = parse_head(changed(old, part + old))
        if head is not None:
            respond(head, "503 Service Unavailable", ("127.0.0.1", 9))
    assert time.process_time() - began < 0.5


def test_an_answer_copies_what_it_must():
    """RFC 3261 §8.2.6.2: every Via in order, From, To with a tag, Call-ID, CSeq."""
    answer, port = respond(
        parse_head(INVITE), "503 Service Unavailable", ("192.0.2.7", 4711), ["Retry-After: 5"]
    )
    lines = answer.decode().split("\r\n")
    assert lines[0] == "SIP/2.0 503 Service Unavailable"
    assert lines[1] == (
        "Via: SIP/2.0/UDP phone.example:5070;branch=z9hG4bK1;received=192.0.2.7;rport=4711"
    )
    assert lines[2] == "Via: SIP/2.0/UDP far.example;branch=z9hG4bK0"
    assert lines[3].endswith("<sip:alice@example.com;tag=neither>;x=1;TAG=from1")
    assert lines[4].startswith("To: <sip:bob@example.com>;tag=")
    assert lines[5:] == [
        "Call-ID: abc@phone",
        "CSeq: 7 INVITE",
        "Retry-After: 5",
        "Content-Length: 0",
        "",
        "",
    ]
    assert port == 4711


def test_an_answer_to_a_compact_request_keeps_both_vias():
    """One field with two values stays one field; only its first is ours to mark."""
    answer, _ = respond(parse_head(COMPACT), "503 No", ("192.0.2.7", 4711))
    via = answer.decode().split("\r\n")[1]
    top, _, other = via.partition(",")
    assert top.split(";")[1:] == [
        "branch=z9hG4bK1 ",
        "received=192.0.2.7",
        "rport=4711 ",
    ] or ";received=192.0.2.7;rport=4711" in top.replace(" ", "")
    assert other.strip() == "SIP/2.0/UDP far.example;branch=z9hG4bK0"


@pytest.mark.parametrize(
    ("via", "port"),
    [(b"phone.example:5070;rport", 4711), (b"phone.example:5070", 5070), (b"phone.example", 5060)],
)
def test_the_answer_goes_where_the_via_says(via, port):
    """To the source's port if rport asks for it (RFC 3581), else to the named or the default one."""
    head = parse_head(changed(b"phone.example:5070", via, changed(b";rport", b"")))
    assert respond(head, "503 No", ("192.0.2.7", 4711))[1] == port


def test_a_forged_received_is_replaced():
    """The address the datagram came from, and no other; on IPv6 without its scope."""
    head = parse_head(changed(b";rport", b";received=9.9.9.9;rport=1;Received = 8.8.8.8"))
    answer, _ = respond(head, "503 No", ("fe80::1%eth0", 4711))
    assert b"9.9.9.9" not in answer
    assert b"8.8.8.8" not in answer
    assert b";received=fe80::1;rport=4711\r\n" in answer


def test_the_same_request_gets_the_same_tag():
    """RFC 3261 §8.2.7: without a state, a retransmission must look the same; another call does not."""
    first, again, other = (
        respond(parse_head(message), "503 No", ("192.0.2.7", 4711))[0]
        for message in (INVITE, INVITE, changed(b"abc@phone", b"abd@phone"))
    )
    assert first == again
    tags = [line for each in (first, other) for line in each.split(b"\r\n") if line[:3] == b"To:"]
    assert tags[0] != tags[1]


def test_a_tag_that_is_there_stays():
    """In a dialog the To is copied as it is."""
    head = parse_head(changed(b"<sip:bob@example.com>", b"<sip:bob@example.com>;tag=mine"))
    assert head.to_tag == "mine"
    answer, _ = respond(head, "503 No", ("192.0.2.7", 4711))
    assert b"To: <sip:bob@example.com>;tag=mine\r\n" in answer


def test_a_call_id_is_a_key_of_its_own_kind():
    """No run id of a media socket can be taken for it."""
    assert call_key("é") == b"sip\0\xe9"
