"""Facts about handing over to another program image; that it works is shown in scenario 8."""

from __future__ import annotations

import os
import signal
import threading

import msgspec
import pytest

from flowcatd.errors import ConfigError
from supervisor.holdings import Kept
from supervisor.orders import Exited
from supervisor.process import HEARD, Children, Told, now
from supervisor.upgrade import Handed, become, read_state

KEPT = Kept(
    host="127.0.0.1",
    port=1,
    reservation=-1,
    doors={},
    seats=-1,
    alive=(-1, -1),
    ready={},
    metrics=-1,
    runtime="/tmp",
    lock=-1,
)
HANDED = Handed(
    kept=KEPT,
    lives=[],
    generation=1,
    restarts=0,
    begun=0.0,
    ask="",
    switchboard=(0, -1),
    fixed={},
    count=1,
)


def shown(data):
    """Bytes behind a descriptor."""
    descriptor = os.memfd_create("state")
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def test_a_state_is_read_as_it_was_written():
    """Through JSON."""
    assert read_state(shown(msgspec.json.encode(HANDED))) == HANDED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        msgspec.json.encode(msgspec.structs.replace(HANDED, version=99)),
        msgspec.json.encode({"version": 1, "kept": 3}),
    ],
)
def test_a_state_of_another_version_is_refused(data):
    """By one error with a reason, which the running program then tells."""
    with pytest.raises(ConfigError, match="the former program's state"):
        read_state(shown(data))


def test_a_state_of_the_version_before_is_read():
    """It had one SIP port under another name, which nobody takes over."""
    state = msgspec.to_builtins(HANDED) | {"version": 1}
    state["kept"]["sip_doors"] = {"0": 7}
    del state["kept"]["sip"], state["kept"]["trunk_counts"]
    handed = read_state(shown(msgspec.json.encode(state)))
    assert (handed.kept.sip, handed.kept.trunk_counts) == ({}, -1)


def test_no_descriptor_is_refused_too():
    """Somebody set the variable by hand."""
    with pytest.raises(ConfigError):
        read_state(987)


@pytest.fixture
def children():
    """Signals are the program's: what Children changed is put back."""
    before = {number: signal.getsignal(number) for number in HEARD}
    made = Children()
    yield made
    made.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def news_of(children, wanted):
    """The next news of this kind."""
    deadline = now() + 10
    while now() < deadline:
        for news in children.wait(0.1):
            if isinstance(news, wanted):
                return news
    raise AssertionError(f"no {wanted.__name__}")


def test_a_refused_exec_leaves_signals_and_descriptors_as_they_were(children):
    """What was told meanwhile is heard afterwards, and nothing stays inheritable."""
    read, write = os.pipe()
    handed = msgspec.structs.replace(
        HANDED, kept=msgspec.structs.replace(KEPT, alive=(read, write))
    )
    children.hush()
    os.kill(os.getpid(), signal.SIGUSR2)
    with pytest.raises(OSError, match="too long"):  # E2BIG: no argument may have 4 MB (execve(2))
        become(handed, ["x" * 4_000_000])
    children.listen()
    assert news_of(children, Told).number == signal.SIGUSR2
    assert not os.get_inheritable(read)
    assert not os.get_inheritable(write)
    os.close(read)
    os.close(write)


def test_what_came_before_the_exec_is_told_and_what_comes_after_waits(children):
    """Nothing is lost between one program's last look and the next one's first."""
    me = threading.get_ident()  # the supervisor has one thread; a whole test run may have others
    signal.pthread_kill(me, signal.SIGUSR1)
    assert [each.number for each in children.hush() if isinstance(each, Told)] == [signal.SIGUSR1]
    signal.pthread_kill(me, signal.SIGHUP)
    assert children.hush() == []
    children.listen()
    assert news_of(children, Told).number == signal.SIGHUP


def test_a_child_that_ended_during_the_exec_is_reaped_at_the_first_look(children):
    """Its SIGCHLD went to the former program image."""
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    children.close()
    again = Children()
    try:
        assert news_of(again, Exited) == Exited(pid, 3)
    finally:
        again.close()
        children.__init__()  # type: ignore[misc] so that the fixture can close it
