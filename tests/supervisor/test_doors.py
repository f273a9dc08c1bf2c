"""Facts about listening sockets: who gets connections, and that none is lost when a slot goes."""

from __future__ import annotations

import random
import socket
from collections import Counter

import pytest

from flowcatd.errors import LinkRefused
from supervisor.doors import Doors, hold
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


def test_a_metrics_port_that_is_taken_is_refused_with_a_way_out():
    """Two daemons cannot both serve 9464."""
    with hold(HOST, 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(LinkRefused, match=r"metrics\.port"):
            hold(HOST, port)
