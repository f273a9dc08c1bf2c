"""One RTP packet: RFC 3550 §5.1 both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.rtp.packet import (
    MAX_DATAGRAM,
    Extension,
    Packet,
    build_packet,
    datagram,
    is_rtcp,
    parse_packet,
)
from flowcatd.rtp.trouble import RtpError

WORD = st.integers(0, 0xFFFFFFFF)
EXTENSION = st.builds(
    lambda profile, words: Extension(profile, b"".join(words)),
    st.integers(0, 0xFFFF),
    st.lists(st.binary(min_size=4, max_size=4), max_size=5),
)
PACKETS = st.builds(
    Packet,
    st.integers(0, 127),
    st.booleans(),
    st.integers(0, 0xFFFF),
    WORD,
    WORD,
    st.binary(max_size=200),
    st.lists(WORD, max_size=15).map(tuple),
    st.none() | EXTENSION,
    st.integers(0, 255),
)


@given(PACKETS)
def test_a_packet_comes_back_as_it_went(packet: Packet) -> None:
    """Marker, contributing sources, extension and padding included."""
    assert parse_packet(build_packet(packet)) == packet


@given(st.integers(0, 127), st.integers(0, 0xFFFF), WORD, WORD, st.binary(max_size=200))
def test_the_short_way_builds_the_same(kind, sequence, timestamp, ssrc, payload) -> None:
    """A packet without options, with and without the marker."""
    for marker in (False, True):
        packet = Packet(kind, marker, sequence, timestamp, ssrc, payload)
        assert datagram(kind | marker << 7, sequence, timestamp, ssrc, payload) == build_packet(
            packet
        )


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: b"\xbf" + tail))
def test_any_octets_are_a_packet_or_an_rtp_error(data: bytes) -> None:
    """The garbage law, for a function."""
    try:
        packet = parse_packet(data)
    except RtpError:
        return
    assert len(packet.payload) <= len(data) - 12


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80" + bytes(10),
        b"\x40" + bytes(11),
        b"\xc0" + bytes(11),
        b"\x81" + bytes(14),
        b"\x90" + bytes(14),
        b"\x90" + bytes(13) + b"\x00\x01",
        b"\xa0" + bytes(11),
        b"\xa0" + bytes(10) + b"\x0d",
        b"\xa0" + bytes(11) + b"\x02",
        bytes(MAX_DATAGRAM + 1),
    ],
    ids=range(11),
)
def test_lengths_that_do_not_add_up_are_refused(data: bytes) -> None:
    """Short headers, versions 1 and 3, missing sources and extensions, wrong padding, giants."""
    with pytest.raises(RtpError):
        parse_packet(data)


def test_rtcp_is_told_by_its_second_octet() -> None:
    """RFC 5761 §4: 192 to 223."""
    told = [octet for octet in range(256) if is_rtcp(bytes((0x80, octet)))]
    assert told == list(range(192, 224))
    assert not is_rtcp(b"\x80")
