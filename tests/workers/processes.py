"""Real worker processes for tests, and callers with a keypad; a worker is killed by its own pid."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parents[2]
AGENTS = ROOT / "tests" / "corpus" / "agents"
LIMIT_SECONDS = 20.0
FRAME = bytes([0xFF]) * 160
"""20 ms of µ-law silence."""


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition, with a limit; gives what it gave."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not (found := condition()):  # noqa: ASYNC110 it is another process's doing
            await asyncio.sleep(0.01)
    assert found, what
    return found


class Process:
    """One worker."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    def log(self, event: str) -> list[dict[str, Any]]:
        """The log lines of this event so far."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line[:1] == "{"]
        return [line for line in lines if line["event"] == event]

    async def kill(self) -> None:
        """SIGKILL, and wait until the kernel has taken everything back."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def worker(records: Path, slot: int, resume_seconds: float = 20.0) -> AsyncIterator[Process]:
    """A worker that serves."""
    log = records.parent / f"worker-{slot}.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.workers.one_worker"),
            *(str(records), str(slot), str(resume_seconds), str(AGENTS)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), LIMIT_SECONDS)
        assert line, log.read_text()
        yield Process(process, int(line), log)
    finally:
        if process.returncode is None:
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), LIMIT_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()


class Caller:
    """A plain media socket with a keypad."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def press(self, digit: str) -> None:
        """A key, and a little sound."""
        await self._socket.send_str(json.dumps({"event": "dtmf", "digit": digit}))
        await self._socket.send_bytes(FRAME)

    async def echo(self) -> bytes:
        """One frame there and back."""
        await self._socket.send_bytes(FRAME)
        return (await self._socket.receive(timeout=LIMIT_SECONDS)).data

    async def ended(self) -> int | None:
        """Wait until we are hung up on; the close code."""
        async with asyncio.timeout(LIMIT_SECONDS):
            async for _message in self._socket:
                pass
        return self._socket.close_code


@asynccontextmanager
async def call(process: Process, run_id: str, agent: str) -> AsyncIterator[Caller]:
    """A call; the caller hangs up with the block."""
    address = f"ws://127.0.0.1:{process.port}/telephony/ws/raw/{run_id}?agent={agent}"
    async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
        yield Caller(socket)


def journals(records: Path) -> list[Path]:
    """Every journal there is; directories may vanish meanwhile, which os.walk does not mind."""
    return [
        Path(folder) / name
        for folder, _, names in os.walk(records / "journal" / "calls")
        for name in names
        if name[0] != "."
    ]


def written(records: Path) -> list[dict[str, Any]]:
    """Every record there is."""
    return [
        json.loads(path.read_text())
        for path in records.glob("*.json")
        if not path.name.endswith(".transcript.json")
    ]


def knows(records: Path, *words: str) -> Callable[[], bool]:
    """Whether some journal holds all of these words."""

    def condition() -> bool:
        found = []
        for path in journals(records):
            try:
                found.append(path.read_text())
            except FileNotFoundError:
                continue
        return any(all(word in text for word in words) for text in found)

    return condition
