"""Facts about what the supervisor holds: taken whole or not at all, and let go of whole."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from flowcatd.errors import LinkRefused
from flowcatd.settings import load_options
from supervisor.holdings import StillHeldError, take

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


def options_of(runtime, port):
    """Settings of a daemon there."""
    overrides = [f"server.port={port}", "metrics.enabled=false", f"control.directory={runtime}"]
    return load_options("", "test", overrides)


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
