"""Facts about telling systemd: datagrams to a path or an abstract name, and never a failure."""

from __future__ import annotations

import os
import socket

import pytest

from supervisor.systemd import notify


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_lines_arrive_in_one_datagram(tmp_path, kind):
    """sd_notify(3): `@` stands for the abstract namespace's zero byte."""
    name = f"flowcatd-test-{os.getpid()}"
    bound, said = (f"\0{name}", f"@{name}") if kind == "abstract" else (str(tmp_path / name),) * 2
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(bound)
        systemd.settimeout(5)
        notify(said, "READY=1", "STATUS=2 workers serve")
        assert systemd.recv(4096) == b"READY=1\nSTATUS=2 workers serve"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@flowcatd-nobody-listens"])
def test_nobody_listening_is_no_failure(address):
    """The daemon does not depend on being watched."""
    assert notify(address, "READY=1") is None


def test_a_full_queue_drops_the_message(tmp_path):
    """A service manager that does not read must not block the supervisor."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        for number in range(2000):
            notify(str(tmp_path / "notify"), f"STATUS={number}")
        assert systemd.recv(4096) == b"STATUS=0"
