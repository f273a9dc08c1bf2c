"""Facts about the supervisor's end of the switchboard's line: real forks, toy switchboards."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket

import pytest

from flowcatd.control import Answer, Fleet
from supervisor.exchange import DEAF_SECONDS, PARTING_SECONDS, Exchange
from supervisor.orders import Exited
from supervisor.process import HEARD, Children, now

LIMIT_SECONDS = 10.0


@pytest.fixture
def children():
    """Signals are the program's: what Children changed is put back."""
    before = {number: signal.getsignal(number) for number in HEARD}
    made = Children()
    yield made
    made.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def deaf(_line, _ready, _alive):
    """Neither reads nor ends."""
    select.select([], [], [], 60)
    return 0


def good(line, _ready, _alive):
    """Ends when the line does."""
    with socket.socket(fileno=line) as ours:
        while ours.recv(1 << 20):
            pass
    return 0


def silent(line, _ready, _alive):
    """Closes the line and does not end."""
    os.close(line)
    return deaf(line, 0, 0)


def reap(children, exchange):
    """Wait for the switchboard's end, as the daemon's loop does."""
    deadline = now() + LIMIT_SECONDS
    while now() < deadline:
        for news in children.wait(0.1):
            if isinstance(news, Exited) and news.pid == exchange.pid:
                exchange.reaped("", now())
                return news
            exchange.read()
    raise AssertionError("it does not end")


STATE = Fleet(
    version="1",
    pid=1,
    uptime_seconds=1.0,
    state="serving",
    slots=1,
    generation=1,
    restarts=0,
    config="x" * 10_000,
    address="",
)


def test_one_that_does_not_read_is_replaced(children):
    """The line fills up; after a while it is killed, and another comes."""
    exchange = Exchange(children, deaf, ())
    assert exchange.wake(now())
    for _ in range(100):
        exchange.tell(STATE)
    due = exchange.wake_at()
    assert due is not None
    assert due <= now() + DEAF_SECONDS
    exchange.wake(due)
    assert reap(children, exchange).signal == signal.SIGKILL
    assert exchange.wake(now() + 60)
    os.kill(exchange.pid, signal.SIGKILL)
    reap(children, exchange)
    exchange.end()


def test_one_that_reads_again_is_not_killed(children):
    """A full line that empties is forgiven."""
    exchange = Exchange(children, good, ())
    exchange.wake(now())
    os.kill(exchange.pid, signal.SIGSTOP)
    for _ in range(100):
        exchange.tell(STATE)
    assert exchange.wake_at() is not None
    os.kill(exchange.pid, signal.SIGCONT)
    deadline = now() + LIMIT_SECONDS
    while exchange.wake_at() is not None:
        assert now() < deadline
        exchange.tell(STATE)
    exchange.end()


@pytest.mark.parametrize("live", [deaf, silent])
def test_one_that_does_not_end_when_the_line_does_is_killed(children, live):
    """Whoever closed it: a stuck process must not keep its successor away for ever."""
    exchange = Exchange(children, live, ())
    exchange.wake(now())
    if live is deaf:
        exchange.renew(now())
    else:
        deadline = now() + LIMIT_SECONDS
        while exchange.line() >= 0:
            assert now() < deadline
            children.wait(0.1)
            exchange.read()
    due = exchange.wake_at()
    assert due is not None
    assert due <= now() + PARTING_SECONDS
    exchange.wake(due)
    assert reap(children, exchange).signal == signal.SIGKILL
    assert exchange.wake_at() is not None


def test_the_end_waits_for_it(children):
    """It holds the socket of /metrics: when the supervisor is gone, so is it."""
    exchange = Exchange(children, good, ())
    exchange.wake(now())
    pid = exchange.pid
    exchange.end()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_without_descriptors_it_is_tried_again_later(children):
    """The daemon lives on, and answers wait for the next switchboard."""
    exchange = Exchange(children, good, ())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208 numbers, not paths
    spare = [os.dup(0) for _ in range(held)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held, hard))
    try:
        assert not exchange.wake(now())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in spare:
            os.close(each)
    exchange.answer(Answer(id="a", text="waits"))
    due = exchange.wake_at()
    assert due is not None
    assert due > now()
    assert exchange.wake(due)
    exchange.end()
