"""RTP ports: every slot has its own, pairs are even and odd, what is in use is skipped."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import CapacityError, LocalError
from tests.workers.on_loop import highest_descriptor, open_descriptors
from workers.ports import PortPair, Ports, PortShare, ephemeral_overlap

HOST = "127.0.0.1"


def free_range(pairs: int) -> int:
    """The first of so many free pairs of ports, outside the kernel's own range."""
    for low in range(20_000, 32_000, 2 * pairs):
        held = []
        try:
            for port in range(low, low + 2 * pairs):
                wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                held.append(wire)
                wire.bind((HOST, port))
        except OSError:
            continue
        else:
            return low
        finally:
            for wire in held:
                wire.close()
    raise AssertionError("no free ports")


@pytest.fixture
def low() -> int:
    """Five pairs that are free."""
    return free_range(5)


@pytest.fixture
def ports(low: int) -> Iterator[Ports]:
    """A share of five pairs, given back in the end."""
    made = Ports(PortShare(low, low + 9, 1, 0), HOST, 5)
    pairs: list[PortPair] = []
    take = made.take
    made.take = lambda: pairs.append(take()) or pairs[-1]
    yield made
    for pair in pairs:
        made.give_back(pair)


ranges = st.tuples(st.integers(1024, 65_535), st.integers(1024, 65_535)).map(sorted)


@given(ranges, st.integers(1, 256))
def test_shares_are_disjoint_and_lie_within_the_range(ends, most):
    """Every even port whose next is in the range too belongs to exactly one slot."""
    low, high = ends
    shares = [PortShare(low, high, most, slot).ports for slot in range(most)]
    owned = [port for share in shares for port in share]
    assert sorted(owned) == [port for port in range(low, high) if port % 2 == 0]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_slot_has_the_ports_it_has_whatever_the_count_of_workers():
    """Only the largest count there may ever be decides; slots lie between each other."""
    assert list(PortShare(10_001, 10_020, 3, 1).ports) == [10_004, 10_010, 10_016]
    assert list(PortShare(10_000, 10_001, 1, 0).ports) == [10_000]
    assert list(PortShare(10_001, 10_002, 1, 0).ports) == []


@pytest.mark.parametrize("slot", [-1, 4, 100])
def test_a_slot_beyond_the_most_has_no_share(slot):
    """It would be somebody else's."""
    with pytest.raises(LocalError):
        PortShare(10_000, 20_000, 4, slot)


def test_a_pair_is_two_bound_sockets(ports, low):
    """RTP on the even port, RTCP on the next, neither blocks."""
    rtp, rtcp, port = ports.take()
    assert (rtp.getsockname(), rtcp.getsockname()) == ((HOST, low), (HOST, low + 1))
    assert port == low
    assert not rtp.getblocking()
    assert not rtcp.getblocking()
    assert len(ports) == 1


def test_a_port_is_not_used_again_at_once(ports, low):
    """All others come first, in turn."""
    taken = []
    for _ in range(7):
        pair = ports.take()
        taken.append(pair.port - low)
        ports.give_back(pair)
        ports.give_back(pair)
    assert taken == [0, 2, 4, 6, 8, 0, 2]
    assert len(ports) == 0


def test_what_somebody_else_has_is_skipped(ports, low):
    """Either of the two is enough: a predecessor in this slot may still have calls."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rtp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rtcp,
    ):
        rtp.bind((HOST, low))
        rtcp.bind((HOST, low + 5))
        assert [ports.take().port - low for _ in range(3)] == [2, 6, 8]
        with pytest.raises(CapacityError):
            ports.take()
    assert ports.take().port == low


def test_without_a_free_pair_the_call_is_refused(ports):
    """With what the caller is told; a pair given back is a pair again."""
    pairs = [ports.take() for _ in range(5)]
    before = open_descriptors()
    with pytest.raises(CapacityError) as refused:
        ports.take()
    assert refused.value.retry_after == 5
    assert open_descriptors() == before
    ports.give_back(pairs[3])
    assert ports.take().port == pairs[3].port


def test_without_descriptors_the_call_is_refused_at_once(ports):
    """The first half of a pair is given back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hoard = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest_descriptor() + 3, hard))
        with contextlib.suppress(OSError):
            while True:
                hoard.append(os.dup(0))
        os.close(hoard.pop())
        with pytest.raises(CapacityError, match="open files"):
            ports.take()
        assert len(ports) == 0
        os.close(os.dup(0))  # the one descriptor is free again
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in hoard:
            os.close(each)


def test_a_call_gets_its_ports_again(low):
    """The very pair, once nobody has it; as long as somebody does, nobody gets it."""
    ports = Ports(PortShare(low, low + 9, 1, 0), HOST, 5)
    pair = ports.take()
    with pytest.raises(CapacityError, match=str(pair.port)):
        ports.take_again(pair.port)
    ports.give_back(pair)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind((HOST, pair.port + 1))
        with pytest.raises(CapacityError):
            ports.take_again(pair.port)
    again = ports.take_again(pair.port)
    assert again.rtp.getsockname() == (HOST, pair.port)
    other = ports.take()
    assert other.port != pair.port
    assert len(ports) == 2
    for each in (again, other):
        ports.give_back(each)


@pytest.mark.parametrize(
    ("host", "level", "option"),
    [
        ("127.0.0.1", socket.IPPROTO_IP, socket.IP_TOS),
        ("::1", socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    ],
)
def test_media_is_marked_as_telephony(low, host, level, option):
    """DSCP EF stands in the upper six bits of the octet, on both ports and both versions of IP."""
    pair = Ports(PortShare(low, low + 9, 1, 0), host, 5).take()
    assert {wire.getsockopt(level, option) for wire in (pair.rtp, pair.rtcp)} == {46 << 2}
    pair.rtp.close()
    pair.rtcp.close()


def test_an_empty_share_refuses():
    """A range narrower than the fleet leaves some slots without ports."""
    with pytest.raises(CapacityError):
        Ports(PortShare(10_000, 10_003, 4, 3), HOST, 5).take()


@pytest.mark.parametrize(
    ("low", "high", "text", "meets"),
    [
        (10_000, 20_000, "32768\t60999\n", ""),
        (10_000, 20_000, "1024\t9999\n", ""),
        (10_000, 20_000, "20000\t60999\n", "20000-20000"),
        (30_000, 40_000, "32768\t60999\n", "32768-40000"),
        (40_000, 50_000, "32768 60999", "40000-50000"),
        (10_000, 20_000, "", ""),
        (10_000, 20_000, "what ever", ""),
    ],
)
def test_a_range_that_the_kernel_also_uses_is_told(low, high, text, meets):
    """Which ports, and whose; nothing for a range of our own, or a file that is not understood."""
    said = ephemeral_overlap(low, high, text)
    assert (meets in said) if meets else said == ""
