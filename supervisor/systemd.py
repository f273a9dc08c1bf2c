"""Telling systemd how we are: READY, STOPPING, STATUS, WATCHDOG, in datagrams of `KEY=value` lines.

Nothing happens where nobody listens, and a message that cannot be sent is dropped: the service
manager's attention is no reason to fail. sd_notify(3): an address that begins with `@` is in the
abstract namespace, where the first byte is zero.
"""

from __future__ import annotations

import contextlib
import socket


def notify(address: str, *lines: str) -> None:
    """Send these `KEY=value` lines to `address` ($NOTIFY_SOCKET); nowhere when it is empty."""
    if not address:
        return
    path = f"\0{address[1:]}" if address.startswith("@") else address
    flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, flags) as sender:
        sender.sendto("\n".join(lines).encode(), path)
