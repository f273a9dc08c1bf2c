"""What a worker owns at its start, and what an idle call adds to it; and how soon a lost worker is back.

Run: `python -m bench.fleet.memory [--agent NAME] [--carrier raw|twilio] [--calls 200,400]`

It starts `flowcatd serve` with one worker on a port of its own, and looks at the worker from outside:
*own* memory (USS) is the Private_* of /proc/PID/smaps_rollup, what one more such worker would cost;
shared pages are the supervisor's. Then it opens calls that send one frame of digital silence a
second, waits until figures have settled, and divides. The first calls also pay for what a worker warms
up once, so the honest cost of a call is the last line: the difference between the two numbers of calls.
At the end the worker is killed, and the time until its successor answers is taken.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
SETTLE_SECONDS = 15.0
"""Longer than a recording holds audio back, and than the collector's period."""
PARTS = ("Rss", "Pss", "Private_Clean", "Private_Dirty")


@dataclass(frozen=True, slots=True)
class Memory:
    """KiB of one process."""

    rss: int
    pss: int
    own: int


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running flowcatd."""

    port: int
    log: Path

    def worker(self) -> int:
        """The pid of the worker that said last that it serves; 0 when none did."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        started = [msgspec.json.decode(line) for line in lines if '"worker.started"' in line]
        return int(started[-1]["pid"]) if started else 0


def memory_of(pid: int) -> Memory:
    """As the kernel counts it (proc_pid_smaps(5))."""
    figures = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, value = line.split(":")
        figures[name] = int(value.split()[0])
    rss, pss, clean, dirty = (figures[part] for part in PARTS)
    return Memory(rss, pss, clean + dirty)


@contextmanager
def daemon(most_calls: int) -> Iterator[Daemon]:
    """One worker on a free port; everything it writes goes away with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="fc-", dir="/tmp") as place:
        log = Path(place) / "log"
        settings = {
            "server.port": str(port),
            "workers.count": "1",
            "calls.per_worker": str(most_calls),
            "records.directory": f"{place}/records",
            "control.directory": f"{place}/run",
            "metrics.port": "0",
            "log.format": "json",
        }
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        program = "import sys; from supervisor.cli import main; sys.exit(main())"
        config = str(ROOT / "conf" / "flowcatd.toml")
        with log.open("wb") as err:
            running = subprocess.Popen(
                [sys.executable, "-c", program, "serve", "--config", config, *words],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=err,
            )
        try:
            here = Daemon(port, log)
            until(lambda: here.worker() != 0 or running.poll() is not None)
            if running.poll() is not None:
                raise SystemExit(log.read_text(encoding="utf-8"))
            yield here
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(START_SECONDS)


def until(condition: Callable[[], bool]) -> float:
    """Seconds until the condition holds; SystemExit when it never does."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > START_SECONDS:
            raise SystemExit("the daemon did not get there in time")
        time.sleep(0.005)
    return time.monotonic() - began


def hello(carrier: str, number: int) -> list[str]:
    """What the carrier says first."""
    if carrier != "twilio":
        return []
    start = {
        "streamSid": f"MZ{number}",
        "callSid": f"CA{number}",
        "accountSid": "AC",
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {},
    }
    messages: list[dict[str, object]] = [
        {"event": "connected", "protocol": "Call", "version": "1.0.0"},
        {"event": "start", "sequenceNumber": "1", "streamSid": f"MZ{number}", "start": start},
    ]
    return [msgspec.json.encode(message).decode() for message in messages]


async def silence(carrier: str, line: aiohttp.ClientWebSocketResponse, elapsed_ms: int) -> None:
    """One frame of it, on the call's media time."""
    if carrier != "twilio":
        await line.send_bytes(b"\xff" * 160)  # mu-law, which is what raw means without a query
        return
    payload = base64.b64encode(b"\xff" * 160).decode()
    media = {"track": "inbound", "timestamp": str(elapsed_ms), "payload": payload}
    message = {"event": "media", "streamSid": "MZ", "media": media}
    await line.send_str(msgspec.json.encode(message).decode())


@asynccontextmanager
async def idle_call(
    session: aiohttp.ClientSession, url: str, carrier: str, number: int
) -> AsyncIterator[None]:
    """A call that reads what it is told and sends silence, until the block ends."""

    async def live(line: aiohttp.ClientWebSocketResponse) -> None:
        began = time.monotonic()
        for message in hello(carrier, number):
            await line.send_str(message)
        while not line.closed:
            await silence(carrier, line, int((time.monotonic() - began) * 1000))
            await asyncio.sleep(1)

    async def read(line: aiohttp.ClientWebSocketResponse) -> None:
        async for _ in line:
            pass

    async with session.ws_connect(url, max_msg_size=0) as line:
        tasks = [asyncio.create_task(live(line)), asyncio.create_task(read(line))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def settle(pid: int, calls: list[int], url: str, carrier: str) -> list[Memory]:
    """The worker's memory before any call, and with each of these numbers of calls up."""
    found = [memory_of(pid)]
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        contextlib.AsyncExitStack() as up,
    ):
        opened = 0
        for count in calls:
            while opened < count:
                call_url = url.replace("RUN", f"run{opened}")
                await up.enter_async_context(idle_call(session, call_url, carrier, opened))
                opened += 1
            await asyncio.sleep(SETTLE_SECONDS)
            found.append(memory_of(pid))
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet.memory", description=__doc__)
    parser.add_argument("--agent", default="echo")
    parser.add_argument("--carrier", default="twilio", choices=("raw", "twilio"))
    parser.add_argument("--calls", default="200,400")
    arguments = parser.parse_args()
    calls = sorted(int(number) for number in arguments.calls.split(","))
    with daemon(calls[-1]) as here:
        pid = here.worker()
        url = f"ws://127.0.0.1:{here.port}/telephony/ws/{arguments.carrier}/RUN"
        url += f"?agent={arguments.agent}"
        found = asyncio.run(settle(pid, calls, url, arguments.carrier))
        os.kill(pid, signal.SIGKILL)
        back = until(lambda: here.worker() != pid)
    print(f"Python {sys.version.split()[0]}, agent {arguments.agent}, {arguments.carrier}, KiB")
    for count, memory in zip([0, *calls], found, strict=True):
        each = f"  {(memory.own - found[0].own) / count:6.1f} a call" if count else ""
        print(
            f"  {count:4d} calls: own {memory.own:7d}  pss {memory.pss:7d}  rss {memory.rss:7d}{each}"
        )
    if len(calls) > 1:
        more = (found[-1].own - found[-2].own) / (calls[-1] - calls[-2])
        print(f"  one more call: {more:.1f}")
    print(f"  killed worker replaced after {back:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
