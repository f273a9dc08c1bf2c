"""SRTP: what one side protects only the other side reads, once; and a call taken up goes on."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pylibsrtp import Policy, Session

from flowcatd.errors import LocalError
from flowcatd.rtp.packet import datagram
from flowcatd.rtp.trouble import RtpError
from flowcatd.sip.session import SUITES, Key, Sdes
from flowcatd.transports.srtp import (
    MOST_INDEX,
    MOST_SOURCES,
    WINDOW,
    Refused,
    Srtp,
    SrtpState,
    keys_from_dtls,
)

NAMES = tuple(SUITES)
RECEIVER_REPORT = bytes.fromhex("80c90001") + (1).to_bytes(4, "big")


def material(name: str, seed: int) -> bytes:
    """A key and salt."""
    return random.Random(seed).randbytes(SUITES[name].key_bytes)


def ends(name: str = NAMES[0], mki_bytes: int = 0) -> tuple[Sdes, Sdes]:
    """The keys of one end and of the other."""
    suite = SUITES[name]
    one, two = Key(suite, material(name, 1)), Key(suite, material(name, 2), mki_bytes)
    return Sdes(one, two), Sdes(Key(suite, two.material), one)


def pair(name: str = NAMES[0]) -> tuple[Srtp, Srtp]:
    """Both ends."""
    ours, theirs = ends(name)
    return Srtp(ours), Srtp(theirs)


def packet(index: int, ssrc: int = 1) -> bytes:
    """An RTP packet of 20 ms of G.711."""
    payload = bytes([index & 0xFF]) * 160
    return datagram(0, index & 0xFFFF, index * 160 & 0xFFFFFFFF, ssrc, payload)


@pytest.mark.parametrize("name", NAMES)
def test_what_one_end_protects_the_other_reads(name):
    """Every suite, both ways, RTP and RTCP; and no payload is seen on the way."""
    one, two = pair(name)
    for here, there in ((one, two), (two, one)):
        secret = here.guard.protect(packet(300))
        assert packet(300)[12:28] not in secret
        assert there.guard.unprotect(secret) == packet(300)
        assert there.guard.unprotect_rtcp(here.guard.protect_rtcp(RECEIVER_REPORT)) == (
            RECEIVER_REPORT
        )


@pytest.mark.parametrize(
    ("name", "rtp", "rtcp"), [(NAMES[0], 10, 14), (NAMES[1], 4, 14), (NAMES[2], 16, 20)]
)
def test_tags_are_as_long_as_the_suite_says(name, rtp, rtcp):
    """RTCP's is of 80 bits with the short suite too (RFC 4568 §6.2.2), and has an index of 4 bytes."""
    one, _ = pair(name)
    assert len(one.protect(packet(1))) == len(packet(1)) + rtp
    assert len(one.protect_rtcp(RECEIVER_REPORT)) == len(RECEIVER_REPORT) + rtcp


def test_a_packet_changed_on_its_way_is_refused_and_counted():
    """Any bit of it, the header's too."""
    one, two = pair()
    secret = bytearray(one.protect(packet(1)))
    for at in (2, 20, len(secret) - 1):
        secret[at] ^= 1
        with pytest.raises(RtpError):
            two.unprotect(bytes(secret))
        secret[at] ^= 1
    assert two.refused == Refused(forged=3)
    assert two.unprotect(bytes(secret)) == packet(1)


def test_another_key_is_refused_and_counted():
    """Who does not know the key is not heard."""
    one, _ = pair()
    suite = SUITES[NAMES[0]]
    stranger = Srtp(Sdes(Key(suite, material(NAMES[0], 8)), Key(suite, material(NAMES[0], 9))))
    with pytest.raises(RtpError):
        stranger.unprotect(one.protect(packet(1)))
    assert stranger.refused == Refused(forged=1)


def test_a_replayed_packet_is_refused_and_counted():
    """RTP and RTCP; so is one that is older than the window."""
    one, two = pair()
    old = one.protect(packet(1))
    for index in range(2, WINDOW + 3):
        secret = one.protect(packet(index))
        two.unprotect(secret)
    report = one.protect_rtcp(RECEIVER_REPORT)
    two.unprotect_rtcp(report)
    for refused in (secret, old):
        with pytest.raises(RtpError):
            two.unprotect(refused)
    with pytest.raises(RtpError):
        two.unprotect_rtcp(report)
    assert two.refused == Refused(replayed=3)


def test_packets_out_of_order_within_the_window_are_read():
    """A jitter buffer puts them right afterwards."""
    one, two = pair()
    secrets = [one.protect(packet(index)) for index in range(100)]
    for index in reversed(range(100)):
        assert two.unprotect(secrets[index]) == packet(index)


def test_the_sequence_number_rolls_over():
    """Three cycles with every hundredth packet arriving."""
    one, two = pair()
    for index in range(65_000, 65_000 + 3 * 65_536, 50):
        secret = one.protect(packet(index))
        if index % 100 == 0:
            assert two.unprotect(secret) == packet(index)
    assert two.snapshot().heard_index == 65_000 + 3 * 65_536 - 8


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=1700))
def test_garbage_is_refused_with_the_one_error_and_counted(name, data):
    """And what is right is read afterwards."""
    one, two = pair(name)
    for open_ in (two.unprotect, two.unprotect_rtcp):
        with pytest.raises(RtpError):
            open_(data)
    refused = two.refused
    assert refused.forged + refused.broken + refused.replayed == 2
    assert two.unprotect(one.protect(packet(5))) == packet(5)


def test_a_packet_of_ours_that_is_too_long_is_our_mistake():
    """It is not sent in plain, and nothing is counted against the far end."""
    one, _ = pair()
    with pytest.raises(LocalError):
        one.protect(packet(1) + bytes(1500))
    with pytest.raises(LocalError):
        one.protect_rtcp(b"")


def test_the_same_number_is_never_sent_twice():
    """Two packets under one number would give each other away."""
    one, _ = pair()
    one.protect(packet(7))
    with pytest.raises(LocalError):
        one.protect(packet(7))


@pytest.mark.parametrize("name", NAMES)
def test_the_far_ends_mki_is_cut_out(name):
    """Before the tag (RFC 3711 §3.1); with GCM at the end (RFC 7714 §8.2, §9.2)."""
    ours, theirs = ends(name, mki_bytes=4)
    one, two = Srtp(ours), Srtp(theirs)
    tag = SUITES[name].tag_bytes
    secret = two.protect(packet(1))
    at = len(secret) - tag
    assert one.unprotect(secret[:at] + b"MKI!" + secret[at:]) == packet(1)
    report = two.protect_rtcp(RECEIVER_REPORT)
    at = len(report) - (10 if tag else 0)
    assert one.unprotect_rtcp(report[:at] + b"MKI!" + report[at:]) == RECEIVER_REPORT
    for length in range(40):
        with pytest.raises(RtpError):
            one.unprotect(bytes(length))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sent", [3, 20_000, 70_000, 1_000_000])
def test_a_call_taken_up_goes_on_in_both_directions(name, sent):
    """Beyond any number of cycles: the far end reads us, we read it, and old packets stay out."""
    ours, theirs = ends(name)
    one, two = Srtp(ours), Srtp(theirs)
    for index in range(0, sent, 1000):
        two.unprotect(one.protect(packet(index, 1)))
        old = two.protect(packet(index, 2))
        one.unprotect(old)
    two.unprotect_rtcp(one.protect_rtcp(RECEIVER_REPORT))
    successor = Srtp(ours, one.snapshot())
    assert two.unprotect(successor.protect(packet(sent + 50, 1))) == packet(sent + 50, 1)
    assert successor.unprotect(two.protect(packet(sent + 60, 2))) == packet(sent + 60, 2)
    assert two.unprotect_rtcp(successor.protect_rtcp(RECEIVER_REPORT)) == RECEIVER_REPORT
    with pytest.raises(RtpError):
        successor.unprotect(old)
    again = successor.snapshot()
    assert (again.sent_index, again.heard_index) == (sent + 50, sent + 60)


def test_a_stream_that_has_said_nothing_is_taken_up_as_new():
    """Nor heard anything, though it may have reported that."""
    ours, theirs = ends()
    one, two = Srtp(ours, Srtp(ours).snapshot()), Srtp(theirs)
    assert two.unprotect(one.protect(packet(9))) == packet(9)
    assert one.unprotect(two.protect(packet(9))) == packet(9)
    silent = Srtp(ours)
    far = Srtp(theirs)
    far.unprotect_rtcp(silent.protect_rtcp(RECEIVER_REPORT))
    successor = Srtp(ours, silent.snapshot())
    assert far.unprotect_rtcp(successor.protect_rtcp(RECEIVER_REPORT)) == RECEIVER_REPORT


@pytest.mark.parametrize(
    "state",
    [
        SrtpState(1, -2, 1, -1, 0),
        SrtpState(1, MOST_INDEX + 1, 1, -1, 0),
        SrtpState(1, -1, 1, MOST_INDEX + 1, 0),
        SrtpState(1, -1, 1, -1, -1),
        SrtpState(1, -1, 1, -1, 1 << 40),
    ],
)
def test_a_state_that_is_none_is_refused_before_work_is_done_for_it(state):
    """A walk of a thousand years is not begun."""
    with pytest.raises(LocalError):
        Srtp(ends()[0], state)


def test_only_so_many_sources_are_remembered():
    """A far end that changes its SSRC for ever costs no memory for ever."""
    one, two = pair()
    for ssrc in range(1, 200):
        assert two.unprotect(one.protect(packet(5, ssrc))) == packet(5, ssrc)
    assert len(two._sources) == MOST_SOURCES


def test_other_keys_take_effect_and_keys_that_stay_keep_their_numbers():
    """A re-INVITE may change one direction; the guard that the stream holds stays the same."""
    ours, theirs = ends()
    one, two = Srtp(ours), Srtp(theirs)
    guard = one.guard
    secret = two.protect(packet(1))
    one.unprotect(secret)
    two.unprotect(one.protect(packet(1)))
    fresh = Key(SUITES[NAMES[0]], material(NAMES[0], 5))
    one.rekey(Sdes(fresh, ours.receive))
    two.rekey(Sdes(theirs.send, fresh))
    assert two.unprotect(guard.protect(packet(1))) == packet(1)
    with pytest.raises(RtpError):
        guard.unprotect(secret)
    one.rekey(Sdes(fresh, theirs.receive))
    assert guard.unprotect(Srtp(Sdes(theirs.receive, fresh)).protect(packet(3))) == packet(3)


def test_keys_from_dtls_are_each_others():
    """The client's come first, and the salts after both keys (RFC 5764 §4.2)."""
    for name in NAMES:
        suite = SUITES[name]
        exported = material(name, 4) + material(name, 5)
        client = keys_from_dtls(suite, exported, is_client=True)
        server = keys_from_dtls(suite, exported, is_client=False)
        one, two = Srtp(client), Srtp(server)
        assert two.unprotect(one.protect(packet(1))) == packet(1)
        assert one.unprotect(two.protect(packet(1))) == packet(1)
        key = suite.key_bytes - len(client.send.material[16 if suite.key_bytes < 44 else 32 :])
        assert client.send.material[:key] == exported[:key]
        assert client.receive.material[:key] == exported[key : 2 * key]
    with pytest.raises(LocalError):
        keys_from_dtls(SUITES[NAMES[0]], bytes(59), is_client=True)


def test_a_key_of_the_wrong_length_is_refused():
    """Before libsrtp reads past its end."""
    short = Key(SUITES[NAMES[0]], bytes(29))
    with pytest.raises(LocalError):
        Srtp(Sdes(short, short))


def test_libsrtp_as_others_use_it_reads_us():
    """A session made by hand, as aiortc makes it."""
    ours, _ = ends()
    policy = Policy(ours.send.material, Policy.SSRC_ANY_INBOUND, 0)
    assert Session(policy).unprotect(Srtp(ours).protect(packet(1))) == packet(1)
