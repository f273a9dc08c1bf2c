"""Who is let in."""

from __future__ import annotations

import pytest

from workers.listeners import may_enter


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
