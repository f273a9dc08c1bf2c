"""The caller over a real WebSocket in real time."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

import pytest
from aiohttp import web

from flowcatd.caller.address import resolve
from flowcatd.caller.facts import Answered, CallerEvent, Line
from flowcatd.caller.handset import Handset
from flowcatd.caller.phone import Phone
from flowcatd.caller.script import Pace, Script, Turn
from flowcatd.carriers.events import Started
from flowcatd.carriers.far_end import FarEnd
from flowcatd.errors import LinkRefused
from tests.flowcatd.caller.played import PlayedAgent, turn
from tests.flowcatd.caller.serving import daemon, serving

LINES = ("hello", "goodbye")
SHORT = partial(PlayedAgent, lines=LINES, line_ms=100)


class Calling:
    """A phone with a script, ready to call."""

    def __init__(
        self, url: str, *turns: Turn, carrier: str = "twilio", seconds: float = 20
    ) -> None:
        address = resolve(url, carrier=carrier, agent="", run_id="r1")
        started = Started("CA1", "MZ1", address.encoding, address.rate_hz)
        self.events: list[CallerEvent] = []
        self.handset = Handset(
            FarEnd(address.row, started),
            Script(turns, Pace(patience=2.0, end_patience=2.0)),
            quiet_ms=150,
        )
        self.phone = Phone(address, self.handset, seconds=seconds, tell=self.events.append)


@pytest.mark.parametrize("carrier", ["twilio", "plivo", "raw"])
async def test_a_call_is_placed_as_the_carrier_would(carrier):
    """The right path, the wish for notices, and a conversation to its end."""
    async with daemon(SHORT) as there:
        calling = Calling(there.url, turn("one", 200), carrier=carrier)
        await calling.phone.call()
        assert there.paths == [f"/telephony/ws/{carrier}/r1?events=1"]
    assert calling.handset.outcome.reached_end
    assert calling.handset.outcome.close_code == 1000
    lines = [event.text for event in calling.events if isinstance(event, Line)]
    assert lines == ["hello", "heard", "goodbye"]
    (answer,) = [event.ms for event in calling.events if isinstance(event, Answered)]
    assert 200 <= answer < 1000


async def test_frames_go_out_in_real_time():
    """50 a second by the wall clock, from the first moment to the last."""
    async with daemon(partial(PlayedAgent, lines=("hello",), line_ms=100, ends=False)) as there:
        calling = Calling(there.url, seconds=1.0)
        began = asyncio.get_running_loop().time()
        await calling.phone.call()
        took = asyncio.get_running_loop().time() - began
        await there.call_over.wait()
        (agent,) = there.agents
        assert agent.stopped
        assert 51 <= agent.frames <= 1 + took / 0.02
    assert calling.handset.outcome.reason == "the call took longer than 1 s"


async def test_an_interrupted_call_hangs_up_in_good_order():
    """The daemon gets the carrier's stop message."""
    async with daemon(partial(PlayedAgent, lines=LINES, ends=False)) as there:
        calling = Calling(there.url)
        call = asyncio.create_task(calling.phone.call())
        async with asyncio.timeout(5):
            await there.call_up.wait()
            calling.phone.interrupt()
            await call
            await there.call_over.wait()
        assert there.agents[0].stopped
    assert calling.handset.outcome.reason == "interrupted"


async def test_nobody_there_is_told_with_what_to_do():
    """A port where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        calling = Calling(f"ws://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(LinkRefused, match="is the daemon running"):
            await calling.phone.call()


@pytest.mark.parametrize(
    ("status", "words"),
    [(503, "no room"), (404, "no such carrier"), (403, "token"), (500, "HTTP 500")],
)
async def test_a_refusal_is_told_by_its_meaning(status, words):
    """An HTTP answer instead of a WebSocket."""

    async def refuse(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    async with serving(refuse) as port:
        with pytest.raises(LinkRefused, match=words):
            await Calling(f"ws://127.0.0.1:{port}").phone.call()


async def test_a_broken_connection_is_no_end():
    """The daemon's process died in the middle."""

    async def vanish(request: web.Request) -> web.StreamResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        await answer.receive()
        assert request.transport is not None
        request.transport.abort()
        return answer

    async with serving(vanish) as port:
        calling = Calling(f"ws://127.0.0.1:{port}")
        await calling.phone.call()
    assert not calling.handset.outcome.reached_end
    assert calling.handset.outcome.ended_by == "daemon"


async def test_rubbish_from_the_daemon_ends_the_call():
    """As a carrier would end it."""

    async def babble(request: web.Request) -> web.StreamResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        await answer.send_str("{")
        while b"stop" not in (await answer.receive()).data.encode():
            pass
        return answer

    async with serving(babble) as port:
        calling = Calling(f"ws://127.0.0.1:{port}")
        await calling.phone.call()
    assert "a carrier would refuse" in calling.handset.outcome.reason
