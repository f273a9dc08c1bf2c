"""What is held for a call is given back once, wherever its end comes from."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.sip.agent_event import CallNumber
from flowcatd.sip.event import Hop
from flowcatd.sip.ladder import Ladder
from workers.clock import WorkerClock
from workers.held import Counted, Held, MediaPorts
from workers.ports import Ports, PortShare

HOP = Hop("UDP", "127.0.0.1", 5060)


@pytest.fixture(scope="module")
def ports() -> Iterator[Ports]:
    """A few pairs; all are given back in the end."""
    made = Ports(PortShare(23_200, 23_240, 1, 0), "127.0.0.1", 1)
    yield made
    assert len(made) == 0


def held(ports: Ports, uncounted: list[Counted], number: int = 1) -> Held:
    """A call with ports."""
    media = MediaPorts(ports, ports.take())
    return Held(CallNumber(number), HOP, Ladder(), Counted("house", True), media, uncounted.append)


@given(steps=st.lists(st.sampled_from(["end", "give_back", "answered"]), max_size=8))
def test_everything_is_given_back_once(ports: Ports, steps: list[str]) -> None:
    """In whatever order it is asked for."""
    uncounted: list[Counted] = []
    call = held(ports, uncounted)
    for step in steps:
        if step == "give_back":
            call.media.give_back()
        else:
            getattr(call, step)()
        assert len(uncounted) == ("end" in steps[: steps.index(step) + 1] or call.is_ended)
    call.end()
    call.end()
    assert uncounted == [Counted("house", True)]
    assert len(ports) == 0
    assert call.remain.is_released()


def test_ports_of_one_conversation_are_asked_about_together(ports: Ports) -> None:
    """One of two pairs that is still open is a leftover."""
    first, second = held(ports, []), held(ports, [], 2)
    first.remain.media.append(second.media)
    second.remain = first.remain
    assert not second.remain.is_released()
    first.end()
    assert not second.remain.is_released()
    second.end()
    assert second.remain.is_released()


async def test_who_has_ended_rings_no_more(ports: Ports) -> None:
    """The wake that would have ended its ringing is taken back."""
    clock = WorkerClock(asyncio.get_running_loop())
    fired: list[bool] = []
    call = held(ports, [])
    call.ringing = wake = clock.wake(clock.now() + 0.05, lambda: fired.append(True))
    call.end()
    assert not wake.pending
    assert call.ringing is None
    assert len(clock) == 0
    assert not fired
