"""What a worker owns at its start, and what one more idle call adds to it.

Run: `python -m bench.fleet.memory [--case NAME …] [--calls 200,400] [--sip-calls 40,80] [--json]`;
`make memory` runs all.

A case is an agent, a carrier, what is on the line (silence, or white noise at -55 dBFS) and whether
calls are recorded. Each case gets a daemon with one worker; calls are opened, the agent has its say,
and when figures have settled the worker's own memory is read. The first calls also pay for what a
worker warms up once, so the honest cost of a call is the difference between the two numbers of calls.
Calls over SIP are fewer: their sound comes in packets of 20 ms, and one core has no time for 400 of them.

With `--check` the exit status is 1 when a worker owns more than FORK_KIB at its start, or an idle call of the
dialog agent (prompt said, caller silent, recording on) costs more than CALL_KIB.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from bench.fleet.daemon import Daemon, Memory, daemon, free_udp_port, memory_of
from bench.fleet.idle import far_ends, noise
from bench.fleet.sip_far_ends import sip_far_ends
from bench.peers.rtp_load import FRAME

FORK_KIB = 15 * 1024
CALL_KIB = 60
"""What issue 3 promises."""
SETTLE_SECONDS = {"echo": 14.0, "at_rest": 24.0}
"""Longer than the period in which memory is given back, and for the dialog agent than its prompt and a
recording's hold after it on top."""
NOISE_DBFS = -55.0
"""Below what voice activity listens to (-51): louder noise is taken for a turn now and then."""
SIP = "sip"
SIP_SETTLE_SECONDS = 45.0
"""An idle call's INVITE is over when its transaction is, 32 seconds after its answer (RFC 6026 §7.1)."""
TRUNK = """\
[trunk]
name = "bench"
[inbound]
sources = ["127.0.0.0/8"]
calls_per_second = 1000
[media]
codecs = ["pcmu"]
[[route]]
agent = "{agent}"
"""
AGENTS = Path(__file__).with_name("agents")


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured."""

    agent: str
    carrier: str
    dbfs: float
    recording: bool

    @property
    def name(self) -> str:
        """For the table and the command line."""
        line = "noise" if self.dbfs else "silence"
        kept = "recorded" if self.recording else "unrecorded"
        return f"{self.agent}-{self.carrier}-{line}-{kept}"

    @property
    def settle_seconds(self) -> float:
        """From the last call's beginning until it is idle."""
        return SIP_SETTLE_SECONDS if self.carrier == SIP else SETTLE_SECONDS[self.agent]

    @property
    def promised(self) -> bool:
        """Whether CALL_KIB holds for it: an agent that echoes noise is not idle."""
        return self.agent != "echo" or not self.dbfs


@dataclass(frozen=True, slots=True)
class Found:
    """What came out, in KiB; `each` is one more call, `lost` calls that ended by themselves."""

    case: str
    start: int
    first: int
    last: int
    rss: int
    each: float
    lost: int


CASES = {
    case.name: case
    for case in (
        Case("echo", "twilio", 0, recording=True),
        Case("echo", "twilio", 0, recording=False),
        Case("echo", "twilio", NOISE_DBFS, recording=True),
        Case("echo", "twilio", NOISE_DBFS, recording=False),
        Case("echo", "raw", NOISE_DBFS, recording=True),
        Case("at_rest", "twilio", 0, recording=True),
        Case("at_rest", "twilio", NOISE_DBFS, recording=True),
        Case("at_rest", "twilio", NOISE_DBFS, recording=False),
        Case("at_rest", "raw", 0, recording=True),
        Case("at_rest", "raw", NOISE_DBFS, recording=True),
        Case("echo", SIP, 0, recording=True),
        Case("at_rest", SIP, 0, recording=True),
        Case("at_rest", SIP, NOISE_DBFS, recording=True),
    )
}


class _Callers(Protocol):
    """Those of a WebSocket, or of SIP."""

    def lost(self) -> int:
        """How many the daemon has hung up on."""


@asynccontextmanager
async def _callers(
    here: Daemon, case: Case
) -> AsyncIterator[tuple[_Callers, Callable[[], Awaitable[object]]]]:
    """Those who call, and what brings one more."""
    if case.carrier == SIP:
        sound = b"".join(noise(case.dbfs))
        frames = [sound[at : at + FRAME] for at in range(0, len(sound), FRAME)]
        async with sip_far_ends(here.sip_port, frames) as phones:
            yield phones, phones.ring
        return
    async with far_ends(here.port, case.carrier, noise(case.dbfs)) as callers:

        async def one_more() -> None:
            path = here.media(case.carrier, f"run{len(callers.all)}", agent=case.agent)
            await callers.open(path)

        yield callers, one_more


async def settle(here: Daemon, pid: int, case: Case, calls: Sequence[int]) -> Found:
    """The worker's memory before any call, and with each of these numbers of calls up."""
    found: list[Memory] = [memory_of(pid)]
    up = 0
    async with _callers(here, case) as (callers, one_more):
        for most in calls:
            for _ in range(most - up):
                await one_more()
            up = most
            await asyncio.sleep(case.settle_seconds)
            found.append(memory_of(pid))
        lost = callers.lost()
    start, first, last = found[0], found[-2], found[-1]
    each = (last.own - first.own) / (calls[-1] - calls[-2])
    return Found(case.name, start.own, first.own, last.own, last.rss, round(each, 1), lost)


def measure(case: Case, calls: Sequence[int]) -> Found:
    """One case with a daemon of its own, which answers SIP in every case."""
    with tempfile.TemporaryDirectory(prefix="fc-", dir="/tmp") as trunks:
        Path(trunks, "bench.toml").write_text(TRUNK.format(agent=case.agent), encoding="utf-8")
        settings = {
            "workers.count": 1,
            "agents.directory": AGENTS,
            "agents.default": "at_rest",
            "calls.per_worker": calls[-1],
            "calls.lag_limit_ms": 1000,  # a busy machine makes it lag, not its calls
            "records.recording": str(case.recording).lower(),
            "sip.port": free_udp_port(),
            "sip.trunks": trunks,
        }
        with daemon("conf/flowcatd.toml", settings) as here:
            return asyncio.run(settle(here, here.worker(), case, calls))


def broken(case: Case, found: Found) -> list[str]:
    """What was promised and does not hold."""
    promises = []
    if found.start > FORK_KIB:
        promises += [f"{FORK_KIB} at the start"]
    if case.promised and found.each > CALL_KIB:
        promises += [f"{CALL_KIB} a call"]
    return promises


def _numbers(text: str) -> list[int]:
    return sorted(int(number) for number in text.split(","))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet.memory", description=__doc__)
    parser.add_argument("--case", nargs="*", choices=tuple(CASES), default=tuple(CASES))
    parser.add_argument("--calls", default="200,400")
    parser.add_argument("--sip-calls", default="40,80", help="of the cases over SIP")
    parser.add_argument("--json", action="store_true", help="one line of JSON per case")
    parser.add_argument("--check", action="store_true", help="fail when a promise is not kept")
    arguments = parser.parse_args()
    calls = _numbers(arguments.calls)
    sip_calls = _numbers(arguments.sip_calls)
    kept = True
    if not arguments.json:
        print(
            f"Python {sys.version.split()[0]}; KiB that one worker owns; calls: {calls}, SIP: {sip_calls}"
        )
        print(f"{'case':42} {'start':>7} {'fewer':>7} {'more':>7}  one more call")
    for name in arguments.case:
        found = measure(CASES[name], sip_calls if CASES[name].carrier == SIP else calls)
        promises = broken(CASES[name], found)
        kept &= not promises
        if arguments.json:
            print(msgspec.json.encode(found).decode(), flush=True)
            continue
        lost = f"  {found.lost} calls ended" if found.lost else ""
        row = f"{name:42} {found.start:7} {found.first:7} {found.last:7}  {found.each:13}"
        promise = f"  NOT KEPT: {' and '.join(promises)}" if promises else ""
        print(row + lost + promise, flush=True)
    return 0 if kept or not arguments.check else 1


if __name__ == "__main__":
    sys.exit(main())
