"""The real daemon in real processes, and a bystander: a call that must never notice anything.

Waits are for conditions, with a limit; nothing here sleeps for a time and hopes.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parents[2]
FLOWCATD = Path(sys.executable).with_name("flowcatd")
READY_SECONDS = 30.0
LIMIT_SECONDS = 20.0


@dataclass
class Daemon:
    """A running daemon: where it is, what it logged, what it kept."""

    process: asyncio.subprocess.Process
    ready: dict[str, Any]
    log_path: Path
    records: Path
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"ws://127.0.0.1:{self.ready['port']}"

    def media(self, carrier: str, run_id: str = "x", **query: object) -> str:
        """A media socket's address."""
        asked = "&".join(f"{key}={value}" for key, value in query.items())
        return f"{self.url}/telephony/ws/{carrier}/{run_id}?{asked}"

    def log(self, event: str = "") -> list[dict[str, Any]]:
        """The log lines so far, of one event or all."""
        lines = [json.loads(line) for line in self.log_path.read_text().splitlines() if line]
        return [line for line in lines if not event or line["event"] == event]

    async def record_of(self, run_id: str) -> dict[str, Any]:
        """The record of the call with this run id, once it is written."""
        found: list[dict[str, Any]] = []

        def written() -> bool:
            found[:] = [
                record
                for path in self.records.glob("*.json")
                if not path.name.endswith(".transcript.json")
                and (record := json.loads(path.read_text()))["run_id"] == run_id
            ]
            return bool(found)

        await until(written, f"the record of {run_id}")
        return found[0]

    def tell(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def end(self, number: int = signal.SIGINT) -> int:
        """Tell it to end, and wait until it has."""
        self.tell(number)
        return await asyncio.wait_for(self.process.wait(), LIMIT_SECONDS)


async def until(condition: Callable[[], bool], what: str, within: float = LIMIT_SECONDS) -> None:
    """Wait for a condition; the test fails with its name when it does not come."""
    deadline = asyncio.get_running_loop().time() + within
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"did not come: {what}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    tmp_path: Path, *settings: str, config: str = "conf/bench.toml"
) -> AsyncIterator[Daemon]:
    """A daemon on a free port; ended, by its own pid, however the test ends."""
    records = tmp_path / "records"
    log_path = tmp_path / "daemon.log"
    command = [str(FLOWCATD), "serve", "--config", str(ROOT / config), "--json"]
    # Socket addresses are short, pytest's directories are not.
    runtime = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    defaults = (
        "server.port=0",
        "metrics.port=0",
        "sip.port=0",
        f"control.directory={runtime}",
        "log.level=info",
        "log.format=json",
        f"records.directory={records}",
    )
    for setting in (*defaults, *settings):
        command += ["--set", setting]
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=log, cwd=tmp_path, env=dict(os.environ)
        )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), READY_SECONDS)
        assert line, f"it did not start: {log_path.read_text()}"
        yield Daemon(process, json.loads(line), log_path, records)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), LIMIT_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
        shutil.rmtree(runtime, ignore_errors=True)


@dataclass
class Bystander:
    """Somebody else's call, all the time: every frame must come back, in order, once."""

    sent: int = 0
    wrong: int = 0
    heard: list[bytes] = field(default_factory=list)


def stamp(number: int) -> bytes:
    """A µ-law frame that says which one it is; 0x7F and 0xFF are the same sample, so neither is used."""
    digits = bytes(((number >> shift) & 0x3F) | 0x80 for shift in (18, 12, 6, 0))
    return digits * 40


@asynccontextmanager
async def bystander(daemon: Daemon) -> AsyncIterator[Bystander]:
    """Runs beside the body; afterwards every frame it sent must have come back."""
    seen = Bystander()
    stop = asyncio.Event()
    address = daemon.media("raw", "bystander", encoding="mulaw", rate=8000, agent="echo")
    async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
        sender = asyncio.create_task(_send(socket, seen, stop))
        receiver = asyncio.create_task(_receive(socket, seen))
        try:
            await until(lambda: len(seen.heard) > 5, "the bystander's first echoes")
            yield seen
            before = len(seen.heard)
            await until(lambda: len(seen.heard) > before + 10, "the bystander's echoes afterwards")
        finally:
            stop.set()
            await sender
        await until(lambda: len(seen.heard) >= seen.sent, "the bystander's last echoes")
        await socket.close()
        await receiver
    assert b"".join(seen.heard) == b"".join(stamp(number) for number in range(seen.sent))


async def _send(
    socket: aiohttp.ClientWebSocketResponse, seen: Bystander, stop: asyncio.Event
) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not stop.is_set():
        await socket.send_bytes(stamp(seen.sent))
        seen.sent += 1
        pause = begun + seen.sent * 0.02 - loop.time()
        if pause > 0:
            await asyncio.sleep(pause)


async def _receive(socket: aiohttp.ClientWebSocketResponse, seen: Bystander) -> None:
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            seen.heard.append(message.data)


def free_block(ports: int) -> int:
    """So many ports in a row, free for UDP and TCP, the first even, below the kernel's own."""
    for _ in range(200):
        first = 21_000 + 2 * secrets.randbelow(5_500)
        with ExitStack() as taken:
            try:
                for port in range(first, first + ports):
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        probe = taken.enter_context(socket.socket(socket.AF_INET, kind))
                        probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")
