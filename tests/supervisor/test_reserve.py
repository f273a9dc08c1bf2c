"""Facts about taking the listening address: exclusive against others, shared among our own."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from flowcatd.errors import LinkRefused
from supervisor.reserve import reserve


def door(port, *, host="127.0.0.1"):
    """A listening socket as workers open it."""
    taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    taken.bind((host, port))
    taken.listen()
    return taken


def test_port_0_becomes_a_free_one():
    """And it is said which."""
    with closing(reserve("127.0.0.1", 0)) as ours:
        assert ours.port == ours.socket.getsockname()[1] > 0


def test_workers_share_what_was_reserved():
    """All of them listen on the one port, also a successor after they are gone."""
    with closing(reserve("127.0.0.1", 0)) as ours:
        with closing(door(ours.port)), closing(door(ours.port)):
            pass
        with closing(door(ours.port)) as successor:
            assert successor.getsockname()[1] == ours.port


def test_the_reservation_takes_no_connection():
    """Every connection reaches a worker: the reserving socket does not listen."""
    with closing(reserve("127.0.0.1", 0)) as ours, closing(door(ours.port)) as worker:
        worker.settimeout(5)
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", ours.port), timeout=5):
                worker.accept()[0].close()


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_port_somebody_listens_on_is_taken(is_shared):
    """Also when they would share it: another flowcatd's workers do."""
    with socket.socket() as other:
        if is_shared:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            LinkRefused, match=rf"^127\.0\.0\.1:{port} is taken .*--set server\.port="
        ):
            reserve("127.0.0.1", port)


def test_another_reservation_is_noticed_before_its_workers_listen():
    """Two daemons started in the same moment do not both get the port."""
    with closing(reserve("127.0.0.1", 0)) as other, pytest.raises(LinkRefused, match="is taken"):
        reserve("127.0.0.1", other.port)


def test_lingering_connections_of_a_former_run_do_not_count():
    """A restart right after an end that we closed ourselves (TIME_WAIT is on our side)."""
    with closing(reserve("127.0.0.1", 0)) as ours, closing(door(ours.port)) as worker:
        port = ours.port
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            worker.settimeout(5)
            accepted, _ = worker.accept()
            accepted.shutdown(socket.SHUT_RDWR)
            assert client.recv(1) == b""
            client.shutdown(socket.SHUT_RDWR)
            assert accepted.recv(1) == b""
            accepted.close()
    with closing(reserve("127.0.0.1", port)) as again, closing(door(port)):
        assert again.port == port


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("192.0.2.1", "192.0.2.1:6210 is no address of this machine"),
        ("no-such-host.invalid", "server.host 'no-such-host.invalid' is not known"),
    ],
)
def test_an_address_that_is_not_ours_is_told(host, said):
    """With the setting to change."""
    with pytest.raises(LinkRefused) as caught:
        reserve(host, 6210)
    assert str(caught.value).startswith(said)


def test_ipv6_is_reserved_alike():
    """An address with colons is IPv6, for us as for the workers."""
    try:
        ours = reserve("::1", 0)
    except LinkRefused as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    refused = pytest.raises(LinkRefused, match=rf"^\[::1\]:{ours.port} is taken")
    with closing(ours), closing(door(ours.port, host="::1")), refused:
        reserve("::1", ours.port)
