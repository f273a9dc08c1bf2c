"""Whose packets are believed."""

from __future__ import annotations

from flowcatd.rtp.packet import Packet
from flowcatd.rtp.source import (
    ABANDONED,
    CONSISTENT,
    MOST_CANDIDATES,
    REBIND,
    Addr,
    Source,
)

SAID = ("192.0.2.7", 4000)
NAT = ("198.51.100.1", 61_000)
OTHER = ("203.0.113.5", 5000)


def packet(sequence: int, ssrc: int = 7) -> Packet:
    """One of a stream."""
    return Packet(0, False, sequence & 0xFFFF, 160 * sequence, ssrc, b"x")


def accepted(source: Source, addr: Addr, numbers: range, now: float, ssrc: int = 7) -> list[bool]:
    """Which packets of a run are believed."""
    return [source.accept(packet(number, ssrc), addr, now) for number in numbers]


def locked_to_nat() -> Source:
    """Signalled a private address, locked to a NAT's at sequence number 9, time 0."""
    source = Source(SAID)
    accepted(source, NAT, range(10), 0.0)
    assert source.locked == NAT
    return source


def test_the_signalled_address_is_believed_at_once() -> None:
    """And our packets go there before any came."""
    source = Source(SAID)
    assert source.destination == SAID
    assert accepted(source, SAID, range(3), 0.0) == [True] * 3


def test_a_stranger_is_believed_when_consistent() -> None:
    """Three packets in a row; then ours go there too."""
    source = Source(SAID)
    assert accepted(source, NAT, range(65_534, 65_539), 0.0) == [False, False, True, True, True]
    assert source.destination == NAT
    assert source.foreign == CONSISTENT - 1


def test_packets_out_of_order_or_of_many_sources_prove_nothing() -> None:
    """Guesses do not add up."""
    source = Source(None)
    assert not any(accepted(source, NAT, range(0, 40, 2), 0.0))
    for number in range(40):
        assert not source.accept(packet(number, ssrc=number), NAT, 0.0)
    assert source.destination is None
    assert source.rtcp_destination is None


def test_nobody_takes_a_live_stream_over() -> None:
    """Neither with an SSRC of its own nor with the right one, however consistent."""
    source = locked_to_nat()
    for number in range(10, 500):
        assert source.accept(packet(number), NAT, number * 0.02)
        assert not source.accept(packet(number, ssrc=99), OTHER, number * 0.02)
        assert not source.accept(packet(number + 1), SAID, number * 0.02)
    assert source.locked == NAT
    assert source.moves == 0


def test_a_nat_that_changes_its_port_is_followed() -> None:
    """The same stream going on, once the old port is silent."""
    source = locked_to_nat()
    moved = (NAT[0], 61_500)
    assert not any(accepted(source, moved, range(10, 14), REBIND / 2))
    assert accepted(source, moved, range(14, 17), 2 * REBIND)[-1]
    assert (source.destination, source.moves) == (moved, 1)


def test_another_stream_waits_until_the_old_is_given_up() -> None:
    """A new SSRC without signalling: only after ABANDONED."""
    source = locked_to_nat()
    assert not any(accepted(source, OTHER, range(5), ABANDONED - 0.1, ssrc=8))
    assert accepted(source, OTHER, range(5, 8), ABANDONED, ssrc=8)[-1]


def test_signalling_lets_the_lock_move_while_the_old_still_sends() -> None:
    """re-INVITE to another address: the announced is believed at once, another when consistent."""
    for addr, believed in ((OTHER, [True, True, True]), (("203.0.113.5", 9), [False, False, True])):
        source = locked_to_nat()
        source.signal(OTHER)
        assert source.accept(packet(10), NAT, 0.1)
        assert accepted(source, addr, range(3), 0.1, ssrc=8) == believed
        assert not source.accept(packet(11), NAT, 0.1)


def test_candidates_are_bounded() -> None:
    """A flood from everywhere keeps a handful."""
    source = Source(None)
    for port in range(1000):
        source.accept(packet(1), ("192.0.2.9", port), 0.0)
    assert len(source._candidates) == MOST_CANDIDATES


def test_rtcp_is_believed_by_its_host() -> None:
    """From whatever port; ours then goes there."""
    source = Source(SAID)
    assert source.accept_rtcp((SAID[0], 9))
    assert source.rtcp_destination == (SAID[0], SAID[1] + 1)
    source = locked_to_nat()
    assert source.rtcp_destination == (NAT[0], NAT[1] + 1)
    assert not source.accept_rtcp(OTHER)
    assert source.accept_rtcp((NAT[0], 61_007))
    assert source.rtcp_destination == (NAT[0], 61_007)


def test_rtcp_goes_where_signalling_says() -> None:
    """An a=rtcp line, or the same port; nobody known, nobody believed."""
    elsewhere = ("192.0.2.8", 9999)
    source = Source(SAID, rtcp=elsewhere)
    assert source.rtcp_destination == elsewhere
    assert source.accept_rtcp(elsewhere)
    assert Source(SAID, mux=True).rtcp_destination == SAID
    assert not Source(None).accept_rtcp(SAID)


def test_a_lock_is_taken_up() -> None:
    """Another process goes on believing whom this one believed."""
    source = Source(SAID)
    source.restore(NAT, 7, 9, 100.0)
    assert source.heard == (7, 9)
    assert source.accept(packet(200), NAT, 100.1)
    assert not any(accepted(source, SAID, range(3), 100.1, ssrc=8))
