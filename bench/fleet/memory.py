"""What a worker owns at its start, and what one more idle call adds to it.

Run: `python -m bench.fleet.memory [--case NAME …] [--calls 200,400] [--json]`; `make memory` runs all.

A case is an agent, a carrier, what is on the line (silence, or white noise at -55 dBFS) and whether
calls are recorded. Each case gets a daemon with one worker; calls are opened, the agent has its say,
and when figures have settled the worker's own memory is read. The first calls also pay for what a
worker warms up once, so the honest cost of a call is the difference between the two numbers of calls.

With `--check` the exit status is 1 when a worker owns more than FORK_KIB at its start, or an idle call of the
dialog agent (prompt said, caller silent, recording on) costs more than CALL_KIB.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.fleet.daemon import Daemon, Memory, daemon, memory_of
from bench.fleet.idle import far_ends, noise

FORK_KIB = 15 * 1024
CALL_KIB = 60
"""What issue 3 promises."""
SETTLE_SECONDS = {"echo": 14.0, "at_rest": 24.0}
"""Longer than the period in which memory is given back, and for the dialog agent than its prompt and a
recording's hold after it on top."""
NOISE_DBFS = -55.0
"""Below what voice activity listens to (-51): louder noise is taken for a turn now and then."""
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
    )
}


async def settle(here: Daemon, pid: int, case: Case, calls: Sequence[int]) -> Found:
    """The worker's memory before any call, and with each of these numbers of calls up."""
    found: list[Memory] = [memory_of(pid)]
    async with far_ends(here.port, case.carrier, noise(case.dbfs)) as callers:
        for count in calls:
            while len(callers.all) < count:
                run_id = f"run{len(callers.all)}"
                await callers.open(here.media(case.carrier, run_id, agent=case.agent))
            await asyncio.sleep(SETTLE_SECONDS[case.agent])
            found.append(memory_of(pid))
        lost = callers.lost()
    start, first, last = found[0], found[-2], found[-1]
    each = (last.own - first.own) / (calls[-1] - calls[-2])
    return Found(case.name, start.own, first.own, last.own, last.rss, round(each, 1), lost)


def measure(case: Case, calls: Sequence[int]) -> Found:
    """One case with a daemon of its own."""
    settings = {
        "workers.count": 1,
        "agents.directory": AGENTS,
        "agents.default": "at_rest",
        "calls.per_worker": calls[-1],
        "calls.lag_limit_ms": 1000,  # a busy machine makes it lag, not its calls
        "records.recording": str(case.recording).lower(),
    }
    with daemon("conf/flowcatd.toml", settings) as here:
        return asyncio.run(settle(here, here.worker(), case, calls))


def is_kept(case: Case, found: Found) -> bool:
    """Whether what was promised holds."""
    return found.start <= FORK_KIB and (not case.promised or found.each <= CALL_KIB)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet.memory", description=__doc__)
    parser.add_argument("--case", nargs="*", choices=tuple(CASES), default=tuple(CASES))
    parser.add_argument("--calls", default="200,400")
    parser.add_argument("--json", action="store_true", help="one line of JSON per case")
    parser.add_argument("--check", action="store_true", help="fail when a promise is not kept")
    arguments = parser.parse_args()
    calls = sorted(int(number) for number in arguments.calls.split(","))
    kept = True
    if not arguments.json:
        print(f"Python {sys.version.split()[0]}; KiB that one worker owns; calls: {calls}")
        print(f"{'case':42} {'start':>7} {calls[-2]:>7} {calls[-1]:>7}  one more call")
    for name in arguments.case:
        found = measure(CASES[name], calls)
        kept &= is_kept(CASES[name], found)
        if arguments.json:
            print(msgspec.json.encode(found).decode(), flush=True)
            continue
        lost = f"  {found.lost} calls ended" if found.lost else ""
        row = f"{name:42} {found.start:7} {found.first:7} {found.last:7}  {found.each:13}"
        promise = "" if is_kept(CASES[name], found) else f"  NOT KEPT: {CALL_KIB} promised"
        print(row + lost + promise, flush=True)
    return 0 if kept or not arguments.check else 1


if __name__ == "__main__":
    sys.exit(main())
