"""Callers for fleet scenarios: long calls that miss nothing, and a stream of short new ones.

Every frame is stamped with its call and number, so that a lost, doubled, late or foreign one is seen.
Callers measure their own lateness: a gap counts only for what the daemon has to do with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from tests.scenarios.daemon import Daemon, until

PTIME = 0.02
SHORT_FRAMES = 25


def stamp(call: int, number: int) -> bytes:
    """A µ-law frame that says whose it is and which one; every byte is 0x80 to 0xBF."""
    value = (call & 0xFFF) << 18 | number & 0x3FFFF
    return bytes(((value >> shift) & 0x3F) | 0x80 for shift in (24, 18, 12, 6, 0)) * 32


@dataclass
class LongCall:
    """One call that stays up."""

    number: int
    slot: int = -1
    sent: int = 0
    heard: int = 0
    wrong: int = 0
    closed_by_daemon: bool = False
    worst_gap_ms: float = 0.0
    """Between two arrivals, less how late this program itself was."""


@dataclass
class Traffic:
    """What callers went through."""

    long: list[LongCall] = field(default_factory=list)
    short_done: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    wrong: int = 0
    lateness: float = 0.0
    """How late this program was at its last look, in seconds."""
    started: int = 0

    @property
    def total(self) -> int:
        """Frames that long calls sent."""
        return sum(call.sent for call in self.long)


@asynccontextmanager
async def traffic(
    daemon: Daemon, *, long: int, new_per_second: float = 0.0
) -> AsyncIterator[Traffic]:
    """Runs beside the body; afterwards the long calls have ended well and the short ones are over."""
    seen = Traffic([LongCall(number) for number in range(long)])
    stop = asyncio.Event()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        tasks = [asyncio.create_task(_watch_own(seen, stop))]
        tasks += [
            asyncio.create_task(_long(session, daemon, seen, call, stop)) for call in seen.long
        ]
        if new_per_second:
            tasks.append(
                asyncio.create_task(_stream(session, daemon, seen, stop, 1 / new_per_second))
            )
        try:
            await until(lambda: all(call.heard > 10 for call in seen.long), "the long calls")
            yield seen
        finally:
            stop.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 30)


async def _watch_own(seen: Traffic, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        due = loop.time() + 0.005
        await asyncio.sleep(0.005)
        # Fades slowly, because frames that waited for us are read after the stall.
        seen.lateness = max(loop.time() - due, seen.lateness * 0.9)


async def _long(
    session: aiohttp.ClientSession,
    daemon: Daemon,
    seen: Traffic,
    call: LongCall,
    stop: asyncio.Event,
) -> None:
    loop = asyncio.get_running_loop()
    address = daemon.media("raw", f"long-{call.number}", encoding="mulaw", rate=8000, agent="echo")
    async with session.ws_connect(address) as socket:
        reader = asyncio.create_task(_read_long(socket, seen, call))
        begun = loop.time()
        with contextlib.suppress(aiohttp.ClientConnectionError):
            while not stop.is_set() and not socket.closed:
                await socket.send_bytes(stamp(call.number, call.sent))
                call.sent += 1
                await asyncio.sleep(max(0.0, begun + call.sent * PTIME - loop.time()))
        call.closed_by_daemon = not stop.is_set()
        with contextlib.suppress(AssertionError):
            await until(lambda: call.heard >= call.sent or reader.done(), "the last echoes", 5)
        await socket.close()
        await reader


async def _read_long(
    socket: aiohttp.ClientWebSocketResponse, seen: Traffic, call: LongCall
) -> None:
    loop = asyncio.get_running_loop()
    last = loop.time()
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY:
            continue
        now = loop.time()
        if call.heard > 10:
            gap_ms = (now - last - seen.lateness) * 1000
            call.worst_gap_ms = max(call.worst_gap_ms, gap_ms)
        last = now
        call.wrong += message.data != stamp(call.number, call.heard)
        call.heard += 1


async def _stream(
    session: aiohttp.ClientSession,
    daemon: Daemon,
    seen: Traffic,
    stop: asyncio.Event,
    pause: float,
) -> None:
    calls: set[asyncio.Task[None]] = set()
    while not stop.is_set():
        seen.started += 1
        task = asyncio.create_task(_short(session, daemon, seen, 1000 + seen.started % 3000))
        calls.add(task)
        task.add_done_callback(calls.discard)
        await asyncio.sleep(pause)
    await asyncio.gather(*calls)


async def _short(
    session: aiohttp.ClientSession, daemon: Daemon, seen: Traffic, number: int
) -> None:
    address = daemon.media("raw", f"short-{number}", encoding="mulaw", rate=8000, agent="echo")
    heard = 0
    try:
        async with session.ws_connect(
            address, timeout=aiohttp.ClientWSTimeout(ws_close=5)
        ) as socket:
            for at in range(SHORT_FRAMES):
                await socket.send_bytes(stamp(number, at))
                await asyncio.sleep(PTIME)
            while heard < SHORT_FRAMES:
                message = await socket.receive(timeout=5)
                if message.type is not aiohttp.WSMsgType.BINARY:
                    break
                seen.wrong += message.data != stamp(number, heard)
                heard += 1
    except aiohttp.WSServerHandshakeError as error:
        seen.refused[str(error.status)] += 1
        return
    except (aiohttp.ClientError, OSError) as error:
        seen.refused[type(error).__name__] += 1
        return
    except TimeoutError:
        pass
    if heard < SHORT_FRAMES:
        seen.cut += 1
    else:
        seen.short_done += 1
