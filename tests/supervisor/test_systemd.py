"""Facts about telling systemd: datagrams to a path or an abstract name, and never a failure."""

from __future__ import annotations

import os
import socket
import time

import pytest

from supervisor.systemd import alive, notify, ready, reloading, status, stopping


@pytest.fixture
def manager(tmp_path):
    """What systemd listens on, and where."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        yield systemd, str(tmp_path / "notify")


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


def test_each_state_is_said_in_the_words_of_sd_notify(manager):
    """sd_notify(3) names the keys; times are whole microseconds."""
    systemd, address = manager
    ready(address, "2 workers serve", pid=7)
    reloading(address, 12.345678)
    stopping(address, "drain since SIGTERM", 85.5)
    status(address, "3 workers serve")
    alive(address)
    assert [systemd.recv(4096).decode().split("\n") for _ in range(5)] == [
        ["READY=1", "MAINPID=7", "STATUS=2 workers serve"],
        ["RELOADING=1", "MONOTONIC_USEC=12345678", "STATUS=reloading"],
        ["STOPPING=1", "EXTEND_TIMEOUT_USEC=85500000", "STATUS=drain since SIGTERM"],
        ["STATUS=3 workers serve"],
        ["WATCHDOG=1"],
    ]


def test_the_reload_s_time_is_the_clock_systemd_compares_it_with(manager):
    """MONOTONIC_USEC is CLOCK_MONOTONIC, so it lies between two looks at that clock."""
    systemd, address = manager
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    reloading(address, time.monotonic())
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    said = dict(line.split("=", 1) for line in systemd.recv(4096).decode().split("\n"))
    assert before - 1 <= int(said["MONOTONIC_USEC"]) <= after


def test_a_status_cannot_smuggle_in_another_key(manager):
    """Whatever a reason holds, it stays one line."""
    systemd, address = manager
    status(address, "bad setting\nREADY=1\r\nMAINPID=1")
    assert systemd.recv(4096) == b"STATUS=bad setting READY=1 MAINPID=1"
