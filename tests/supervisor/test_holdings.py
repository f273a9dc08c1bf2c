"""Facts about what the supervisor holds: taken whole or not at all, and let go of whole."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from flowcatd.errors import LinkRefused
from flowcatd.settings import load_options
from supervisor.holdings import Kept, StillHeldError, restore, take

HOLD = """
import socket, sys, time
held = socket.socket()
held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
held.bind(("127.0.0.1", int(sys.argv[1])))
held.listen()
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def runtime():
    """A short path of a directory of ours."""
    path = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def quiet():
    """Signals are the program's: what Children changed is put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def options_of(runtime, port, *overrides):
    """Settings of a daemon there, without SIP unless asked for."""
    defaults = [f"server.port={port}", "metrics.enabled=false", f"control.directory={runtime}"]
    return load_options("", "test", [*defaults, "sip.port=0", *overrides])


def free_port():
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def holder(port, seconds):
    """A process that listens there, as the worker of a killed daemon does, for some seconds."""
    command = [sys.executable, "-c", HOLD, str(port), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def leave_socket(runtime):
    """What a killed daemon leaves."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(runtime / "control.sock"))


@pytest.mark.usefixtures("quiet")
def test_a_successor_of_a_killed_daemon_waits_until_its_port_is_let_go_of(runtime):
    """Its processes notice within a moment: no reason to fail."""
    leave_socket(runtime)
    port = free_port()
    with holder(port, 0.5) as former:
        holdings = take(options_of(runtime, port))
        holdings.close()
        assert former.wait(5) == 0
    assert holdings.port == port


def test_a_port_that_a_killed_daemons_process_keeps_is_another_trouble_than_a_strangers(runtime):
    """The service manager may try again: exit 1, where a stranger's port is 71."""
    leave_socket(runtime)
    port = free_port()
    with holder(port, 20) as former:
        with pytest.raises(StillHeldError, match="is taken"):
            take(options_of(runtime, port))
        former.kill()


def test_a_port_of_somebody_else_is_told_at_once(runtime):
    """Where no daemon was killed there is nothing to wait for."""
    port = free_port()
    with holder(port, 10) as other:
        begun = time.monotonic()
        with pytest.raises(LinkRefused, match="is taken"):
            take(options_of(runtime, port))
        assert time.monotonic() - begun < 1.0
        other.kill()


@pytest.mark.usefixtures("quiet")
def test_a_directory_that_somebody_removed_is_no_reason_to_fail_at_the_end(runtime):
    """Cleaners of temporary directories do that."""
    holdings = take(options_of(runtime, 0))
    shutil.rmtree(runtime)
    holdings.close()


@pytest.mark.usefixtures("quiet")
def test_closing_gives_every_descriptor_back(runtime):
    """Also of doors that were opened."""
    before = psutil.Process().num_fds()
    holdings = take(options_of(runtime, 0))
    holdings.open_doors(0)
    holdings.open_doors(1)
    holdings.close()
    del holdings  # the mapping goes with it
    assert psutil.Process().num_fds() == before


def sip_overrides(port, tls_port):
    """All six SIP ports."""
    return (
        *(f"sip.port={port}", f"sip.tls_port={tls_port}", "sip.host6=::1"),
        *("sip.certificate=c", "sip.certificate_key=k"),
    )


@pytest.mark.usefixtures("quiet")
def test_what_is_saved_is_restored_with_every_socket_and_count(runtime):
    """As an upgrade does: the same descriptors, doors that go on, and live calls per trunk."""
    options = options_of(runtime, 0, *sip_overrides(free_port(), free_port()))
    before = psutil.Process().num_fds()
    first = take(options)
    doors = {slot: first.open_doors(slot) for slot in range(2)}
    first.seats.take(0, 10, 0.0)
    first.seats.seated(0, os.getpid())
    first.seats.trunk_counts.enlist(["carrier"])
    first.seats.trunk_counts.of(0).add("carrier", inbound=True, change=3)
    kept = msgspec.json.decode(msgspec.json.encode(first.save()), type=Kept)
    second = restore(kept, options)
    second.seats.adopt()
    assert {slot: second.open_doors(slot) for slot in range(2)} == doors
    assert set(doors[0][1]) == {"udp", "tcp", "tls", "udp6", "tcp6", "tls6"}
    assert second.seats.trunk_counts.of(1).total("carrier", inbound=True) == 3
    assert not any(os.get_inheritable(fd) for fd in doors[0][1].values())
    second.close()
    for held in (first.reservation.socket, *sockets_of(first)):
        held.detach()  # `second` closed them
    for descriptor in (first.children._wake_read, first.children._wake_write):
        os.close(descriptor)
    del first, second
    assert psutil.Process().num_fds() == before


def sockets_of(holdings):
    """The socket objects of its doors and reservations, whose descriptors another owns by now."""
    for doors in (holdings.doors, *holdings.sip.groups()):
        yield from doors._open.values()
    for reservation in holdings.sip._reservations.values():
        yield reservation.socket


@pytest.mark.usefixtures("quiet")
def test_a_former_version_left_no_counts_and_no_sip(runtime):
    """Its state is read; the counts begin anew."""
    options = options_of(runtime, 0)
    first = take(options)
    raw = msgspec.to_builtins(first.save())
    del raw["trunk_counts"], raw["sip"]
    raw["sip_doors"] = {}
    second = restore(msgspec.convert(raw, Kept), options)
    assert second.seats.trunk_counts.enlist(["a"]) == []
    assert second.open_doors(0)[1] == {}
    second.close()
    os.close(first.seats.counts_descriptor)
    for held in (first.reservation.socket, *sockets_of(first)):
        held.detach()


def test_a_taken_sip_port_leaves_nothing_behind(runtime):
    """Neither the HTTP port nor another SIP port stays ours."""
    port, sip_port = free_port(), free_port()
    before = psutil.Process().num_fds()
    with (
        socket.create_server(("::1", sip_port), family=socket.AF_INET6),
        pytest.raises(LinkRefused, match=r"\[::1\]:\d+ is taken .* --set sip\.port=…, or none"),
    ):
        take(options_of(runtime, port, f"sip.port={sip_port}", "sip.host6=::1"))
    assert psutil.Process().num_fds() == before
    socket.create_server(("127.0.0.1", sip_port)).close()
    socket.create_server(("127.0.0.1", port)).close()
