"""Who is let in, and what one port means for several listeners."""

from __future__ import annotations

import socket

import pytest

from workers.listeners import listen, may_enter


@pytest.mark.parametrize(
    ("remote", "given", "token", "enters"),
    [
        ("127.0.0.1", "", "", True),
        ("::1", "", "secret", True),
        ("192.0.2.1", "", "", False),
        ("192.0.2.1", "secret", "", False),
        ("192.0.2.1", "wrong", "secret", False),
        ("192.0.2.1", "secret", "secret", True),
        ("192.0.2.1", "sécret", "secret", False),
        ("", "secret", "secret", True),
        ("", "", "secret", False),
    ],
)
def test_loopback_enters_and_everybody_else_needs_the_token(remote, given, token, enters):
    """An address that is not known is not loopback; an unset token opens nothing."""
    assert may_enter(remote, given, token) is enters


def test_two_workers_share_one_port_and_another_program_does_not():
    """SO_REUSEPORT on both; a plain bind of the same port is refused by the kernel."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        listen("127.0.0.1", port),
        listen("127.0.0.1", port),
        socket.socket() as other,
        pytest.raises(OSError, match="in use"),
    ):
        other.bind(("127.0.0.1", port))


def test_an_address_that_is_not_ours_cannot_be_listened_on():
    """The error comes from the bind, before anything was said to be ready."""
    with pytest.raises(OSError):
        listen("192.0.2.1", 0)
