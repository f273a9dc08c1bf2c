"""Programs of others, run for a test: their ports, their logs, their ends.

A program is ended by its own pid, and what it wrote stays in the test's directory, which pytest keeps
when the test fails. Waits are for conditions, with a limit; a program that ends while something is
expected of it fails the test at once, with the end of its log.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PORTS = range(20_500, 32_000)
"""Below the ephemeral range, above the daemon's default media."""
LIMIT_SECONDS = 15.0
END_SECONDS = 5.0
SHOWN = 3000
"""Characters of a log that a failure shows."""

PACKAGES = {
    "sipp": "sip-tester",
    "baresip": "baresip-core",
    "linphonec": "linphone-cli",
    "kamailio": "kamailio",
    "sox": "sox",
}
"""Program to Debian's package."""


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skips, with the package's name, where a program is missing."""
    missing = [PACKAGES[name] for name in programs if find(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"Debian's {' and '.join(missing)} is missing")


def find(program: str) -> str | None:
    """Where a program is; kamailio is among those that only root has on its PATH."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def free_ports(count: int = 1, host: str = "127.0.0.1") -> int:
    """The first of so many ports in a row, an even one, that nobody has, over UDP and over TCP."""
    for _ in range(200):
        first = random.randrange(PORTS.start, PORTS.stop - count, 2)
        if all(_is_free(host, port) for port in range(first, first + count)):
            return first
    raise AssertionError("no free ports")


def has_ipv6() -> bool:
    """Whether ::1 can be bound here."""
    return _is_free("::1", 0)


def made(place: Path) -> Path:
    """The folder, which is there now."""
    place.mkdir(parents=True, exist_ok=True)
    return place


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(family, kind) as one:
            try:
                one.bind((host, port))
            except OSError:
                return False
    return True


@dataclass
class Program:
    """A running program and its log; `write` goes to its standard input."""

    name: str
    process: asyncio.subprocess.Process
    log_path: Path

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def write(self, line: str) -> None:
        """A line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def until(
        self, condition: Callable[[], object], what: str, within: float = LIMIT_SECONDS
    ) -> None:
        """Wait for a condition."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while not condition():
            end = f"\n--- {self.name}:\n{self.log[-SHOWN:]}"
            assert self.process.returncode is None, f"{self.name} ended before {what}{end}"
            assert loop.time() < deadline, f"did not come: {what}{end}"
            await asyncio.sleep(0.01)

    async def says(self, text: str, times: int = 1, within: float = LIMIT_SECONDS) -> None:
        """Wait until its log has a text so many times."""
        await self.until(lambda: self.log.count(text) >= times, f"{text!r} x{times}", within)

    async def ended(self, within: float = LIMIT_SECONDS) -> int:
        """Wait until it ends by itself: its exit status."""
        try:
            return await asyncio.wait_for(self.process.wait(), within)
        except TimeoutError:
            raise AssertionError(f"{self.name} goes on\n{self.log[-SHOWN:]}") from None

    def kill(self) -> None:
        """Kill it and what it has started: its process group is its own."""
        os.killpg(self.process.pid, signal.SIGKILL)

    async def end(self, number: int = signal.SIGTERM) -> None:
        """Tell it to end; kill it when it does not."""
        if self.process.returncode is not None:
            return
        self.process.send_signal(number)
        try:
            await asyncio.wait_for(self.process.wait(), END_SECONDS)
        except TimeoutError:
            self.kill()
            await self.process.wait()


@asynccontextmanager
async def program(
    name: str, *words: str, place: Path, log: str = "log", environ: Mapping[str, str] | None = None
) -> AsyncIterator[Program]:
    """Run it in a directory until the block ends."""
    log_path = made(place) / log
    found = find(name)
    assert found is not None, f"{name} is not here"
    with log_path.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            found,
            *words,
            cwd=place,
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **(environ or {})},
            start_new_session=True,
        )
    one = Program(name, process, log_path)
    try:
        yield one
    finally:
        await one.end()
