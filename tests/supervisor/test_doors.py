"""Facts about listening sockets: who gets connections, and that none is lost when a slot goes."""

from __future__ import annotations

import random
import socket
from collections import Counter
from pathlib import Path

import pytest

from flowcatd.errors import LinkRefused
from supervisor.doors import RECEIVE_BYTES, Doors, hold
from supervisor.reserve import reserve

HOST = "127.0.0.1"


@pytest.fixture
def port():
    """A reserved port."""
    reservation = reserve(HOST, 0)
    yield reservation.port
    reservation.close()


@pytest.fixture
def doors(port):
    """Doors of TCP on it."""
    made = Doors(HOST, port, socket.SOCK_STREAM)
    yield made
    made.close_all()


def knock(port, count):
    """That many connections."""
    return [socket.create_connection((HOST, port), timeout=5) for _ in range(count)]


def taken(doors):
    """How many connections wait at each slot's door; takes them."""
    found = Counter()
    for slot, descriptor in doors.descriptors().items():
        listener = socket.socket(fileno=descriptor)
        try:
            while True:
                try:
                    listener.accept()[0].close()
                except BlockingIOError:
                    break
                found[slot] += 1
        finally:
            listener.detach()
    return found


def test_the_kernel_spreads_connections_over_the_slots(doors, port):
    """Every slot gets about its share, and no connection is lost."""
    for slot in range(4):
        doors.open(slot)
    callers = knock(port, 400)
    found = taken(doors)
    assert sum(found.values()) == 400
    assert min(found[slot] for slot in range(4)) > 50
    for caller in callers:
        caller.close()


def test_an_unlisted_slot_gets_nothing_new_and_keeps_what_waits(doors, port):
    """What was in its queue can still be taken; all that comes later goes to the others."""
    for slot in range(3):
        doors.open(slot)
    callers = knock(port, 90)
    doors.unlist(2)
    before = taken(doors)
    assert before[2] > 0
    callers += knock(port, 90)
    after = taken(doors)
    assert after[2] == 0
    assert sum(after.values()) == 90
    for caller in callers:
        caller.close()


def test_slots_come_and_go_in_any_order_and_only_listed_ones_get_connections(doors, port):
    """The kernel reorders its group when a socket is closed; the program follows (random walk)."""
    chance = random.Random(7)
    listed = set()
    for _ in range(60):
        slot = chance.randrange(6)
        if slot not in listed:
            doors.open(slot)
            listed.add(slot)
        elif len(listed) > 1:
            doors.unlist(slot)
            listed.discard(slot)
            if chance.random() < 0.7:
                doors.close(slot)
        callers = knock(port, 20)
        found = taken(doors)
        assert sum(found.values()) == 20
        assert set(found) <= listed
        for caller in callers:
            caller.close()


def test_the_last_listed_slot_stays_listed(doors, port):
    """There is always somebody to take a connection."""
    doors.open(0)
    doors.unlist(0)
    callers = knock(port, 3)
    assert taken(doors)[0] == 3
    for caller in callers:
        caller.close()


def test_an_unlisted_slot_that_opens_again_keeps_its_socket(doors):
    """Closing is for slots that nobody wants any more."""
    doors.open(0)
    descriptor = doors.open(1)
    doors.unlist(1)
    assert doors.open(1) == descriptor
    doors.close(1)
    assert doors.open(1) == descriptor


def test_datagram_doors_share_a_port_too(port):
    """A datagram arrives at one of them."""
    doors = Doors(HOST, port, socket.SOCK_DGRAM)
    held = [socket.socket(fileno=doors.open(slot)) for slot in range(3)]
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    doors.unlist(1)
    for _ in range(50):
        sender.sendto(b"x", (HOST, port))
    got = Counter()
    for slot, each in enumerate(held):
        while True:
            try:
                each.recv(10)
            except BlockingIOError:
                break
            got[slot] += 1
        each.detach()
    assert sum(got.values()) == 50
    assert got[1] == 0
    sender.close()
    doors.close_all()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_ipv6_doors_take_ipv6_alone_and_are_marked(kind):
    """IPv4 has doors of its own on the same port; what leaves both is marked as signalling."""
    with socket.socket(socket.AF_INET6, kind) as probe:
        probe.bind(("::1", 0))
        port = probe.getsockname()[1]
    six, four = Doors("::", port, kind, 160), Doors(HOST, port, kind, 160)
    with socket.socket(fileno=six.open(0)) as held:
        assert held.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 160
        held.detach()
    with socket.socket(fileno=four.open(0)) as held:
        assert held.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 160
        held.detach()
    six.close_all()
    four.close_all()


def test_a_storm_of_datagrams_waits_in_a_large_buffer(port):
    """As large as the kernel allows, up to what was asked; it says twice what it gives (socket(7))."""
    doors = Doors(HOST, port, socket.SOCK_DGRAM)
    allowed = int(Path("/proc/sys/net/core/rmem_max").read_text())
    with socket.socket(fileno=doors.open(0)) as held:
        size = held.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        held.detach()
    assert size == 2 * min(allowed, RECEIVE_BYTES)
    doors.close_all()


def test_a_metrics_port_that_is_taken_is_refused_with_a_way_out():
    """Two daemons cannot both serve 9464."""
    with hold(HOST, 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(LinkRefused, match=r"metrics\.port"):
            hold(HOST, port)
