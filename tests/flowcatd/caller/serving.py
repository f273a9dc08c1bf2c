"""A daemon to call: `PlayedAgent` behind a real WebSocket server on loopback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import WSMsgType, web

from flowcatd.carriers.catalogue import open_carrier
from tests.flowcatd.caller.played import PlayedAgent

MakeAgent = Callable[..., PlayedAgent]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Daemon:
    """What was seen of the calls."""

    def __init__(self, make: MakeAgent) -> None:
        self._make = make
        self.port = 0
        self.paths: list[str] = []
        self.agents: list[PlayedAgent] = []
        self.close_codes: list[int | None] = []
        self.call_up = asyncio.Event()
        self.call_over = asyncio.Event()

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"ws://127.0.0.1:{self.port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One call."""
        self.paths.append(str(request.rel_url))
        core = open_carrier(request.match_info["carrier"], request.query)
        agent = self._make(core)
        self.agents.append(agent)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        agent.take_events(time.monotonic())
        await self._flush(socket, agent)
        async for message in socket:
            if message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
                agent.receive(message.data, time.monotonic())
                self.call_up.set()
            await self._flush(socket, agent)
            if agent.finished or agent.stopped:
                await socket.close(code=1000, message=b"completed" if agent.finished else b"")
        self.close_codes.append(socket.close_code)
        self.call_over.set()
        return socket

    @staticmethod
    async def _flush(socket: web.WebSocketResponse, agent: PlayedAgent) -> None:
        sent, agent.outgoing = agent.outgoing, []
        for message in sent:
            if isinstance(message, str):
                await socket.send_str(message)
            else:
                await socket.send_bytes(message)


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[int]:
    """A server whose every path is answered so; its port."""
    application = web.Application()
    application.router.add_get("/telephony/ws/{carrier}/{run_id}", answer)
    runner = web.AppRunner(application, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def daemon(make: MakeAgent) -> AsyncIterator[Daemon]:
    """A daemon that answers each call with a fresh agent."""
    playing = Daemon(make)
    async with serving(playing.answer) as port:
        playing.port = port
        yield playing
