"""RTCP on the wire: RFC 3550 §6."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.rtp.rtcp import (
    Application,
    Block,
    Description,
    Goodbye,
    Report,
    build_rtcp,
    parse_rtcp,
)
from flowcatd.rtp.trouble import RtpError

WORD = st.integers(0, 0xFFFFFFFF)
BLOCKS = st.lists(
    st.builds(
        Block, WORD, st.integers(0, 255), st.integers(-0x800000, 0x7FFFFF), WORD, WORD, WORD, WORD
    ),
    max_size=31,
).map(tuple)
PACKETS = st.one_of(
    st.builds(Report, WORD, BLOCKS, st.integers(0, (1 << 64) - 1), WORD, WORD, WORD),
    st.builds(Report, WORD, BLOCKS),
    st.builds(Description, WORD, st.binary(max_size=255)),
    st.builds(Goodbye, st.lists(WORD, max_size=31).map(tuple)),
    st.builds(
        Application,
        WORD,
        st.integers(0, 31),
        st.binary(min_size=4, max_size=4),
        st.binary(max_size=16).map(lambda data: data[: len(data) // 4 * 4]),
    ),
)


@given(st.lists(PACKETS, min_size=1, max_size=4))
def test_a_compound_comes_back_as_it_went(packets: list) -> None:
    """Any packets in any order, reduced size included (RFC 5506)."""
    data = build_rtcp(packets)
    if len(data) <= 4096:
        assert parse_rtcp(data) == packets


@given(st.binary(max_size=120), st.integers(200, 207), st.integers(0, 31))
def test_any_octets_are_packets_or_an_rtp_error(body: bytes, kind: int, count: int) -> None:
    """Also when the first header is good."""
    body = body[: len(body) // 4 * 4]
    head = bytes((0x80 | count, kind)) + (len(body) // 4).to_bytes(2, "big")
    for data in (body, head + body):
        try:
            parse_rtcp(data)
        except RtpError:
            continue


def test_what_is_unknown_is_passed_over() -> None:
    """Extended reports (207) before a report that we know."""
    report = build_rtcp([Report(5)])
    assert parse_rtcp(b"\x80\xcf\x00\x01\x00\x00\x00\x05" + report) == [Report(5)]


def test_only_the_last_packet_may_be_padded() -> None:
    """RFC 3550 §6.4.1."""
    padded = b"\xa0\xc9\x00\x02\x00\x00\x00\x05\x00\x00\x00\x04"
    assert parse_rtcp(padded) == [Report(5)]
    with pytest.raises(RtpError, match="padding"):
        parse_rtcp(padded + build_rtcp([Report(6)]))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\xc9\x00",
        b"\x40\xc9\x00\x01\x00\x00\x00\x05",
        b"\x80\xc9\x00\x02\x00\x00\x00\x05",
        b"\x80\xc8\x00\x01\x00\x00\x00\x05",
        b"\x81\xc9\x00\x01\x00\x00\x00\x05",
        b"\x81\xca\x00\x00",
        b"\x81\xca\x00\x01\x00\x00\x00\x05",
        b"\x81\xca\x00\x02\x00\x00\x00\x05\x01\x09aa",
        b"\x82\xcb\x00\x01\x00\x00\x00\x05",
        b"\x80\xcc\x00\x01\x00\x00\x00\x05",
        b"\xa0\xc9\x00\x01\x00\x00\x00\x00",
        b"\xa0\xc9\x00\x00",
    ],
    ids=range(12),
)
def test_lengths_that_do_not_add_up_are_refused(data: bytes) -> None:
    """Cut, of another version, with fewer blocks, chunks, sources or octets than said."""
    with pytest.raises(RtpError):
        parse_rtcp(data)
