"""Ten minutes of a bad network, in real time: `make impair`, or `python -m tests.impair [--minutes 2]`.

The real daemon with one worker and the echo agent; two telephones, one of whose clocks is 200 ppm fast and
the other's as much slow, with half of the calls each; for every call a network of its own that loses 5 %, delays
by up to 40 ms and reorders, each way, from a seed. Every few seconds keys are pressed. What is measured of
each call, and what must hold, stands in verdict.py; the exit status is 1 when anything does not.

Delays are measured in the telephone's own samples, so a busy machine does not falsify them; but packets
that it delivers late are late, and are told so.

It proves keys only towards the daemon: no agent has an action by which it presses keys.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

from flowcatd.control import AskLadder, LadderIs
from flowcatd.sip.agent_event import Connected
from supervisor.client import Operator, Where
from tests.impair.chirps import growth_ms
from tests.impair.drifting import DriftingPhone, Line
from tests.impair.verdict import Figures, faults, table
from tests.interop.place import Answerer, answerer
from tests.interop.relay import Weather, relay
from tests.scenarios.daemon import until

WEATHER = Weather(loss=0.05, jitter_seconds=0.04, swapped=0.02)
PPM = 200.0
KEYS = "0123456789*#"
KEY_SECONDS = 4.0
"""From one key to the next of the same call."""
LOOK_SECONDS = 10.0
"""From one look at the daemon's own figures to the next."""
SETTLED_SECONDS = 15.0
"""A jitter buffer measures for ten seconds."""
LAST_SECONDS = 3.0
"""Without keys, so that the last one arrives."""


@dataclass(frozen=True, slots=True)
class Run:
    """How long, how many, and from which seed."""

    seconds: float
    calls: int
    seed: int


async def impaired(run: Run, place: Path) -> list[Figures]:
    """All calls at once; their figures, of the slow clock first."""
    settings = (f"control.directory={place / 'run'}",)
    async with AsyncExitStack() as stack:
        far = await stack.enter_async_context(answerer(place, *settings))
        phones = [DriftingPhone(-PPM), DriftingPhone(PPM)]
        for phone in phones:
            stack.callback(phone.close)
        lines: list[Line] = []
        for number in range(run.calls):
            network = await stack.enter_async_context(relay(WEATHER, run.seed + number))
            phone = phones[number * len(phones) // run.calls]
            lines.append(phone.place(far.uri(), network))
        await until(lambda: all(_is_up(line) for line in lines), "all calls up")
        endpoint = Where(f"ipc://{place / 'run' / 'control.sock'}")
        async with asyncio.TaskGroup() as group:
            for number, line in enumerate(lines):
                group.create_task(_press(line, run, number))
            group.create_task(_watch(lines, endpoint, run.seconds))
        for line in lines:
            _phone_of(line, phones).hang_up(_talk(line))
        return [await _figures(far, line, number) for number, line in enumerate(lines)]


def _talk(line: Line):
    assert line.talk is not None
    return line.talk


def _phone_of(line: Line, phones: Sequence[DriftingPhone]) -> DriftingPhone:
    return next(phone for phone in phones if phone.ppm == line.ppm)


def _is_up(line: Line) -> bool:
    talk = _talk(line)
    assert talk.ended is None, talk.ended
    return talk.has(Connected)


async def _press(line: Line, run: Run, number: int) -> None:
    """Keys at uneven times, and uneven places in the second; none at the very end."""
    chance = random.Random(f"{run.seed} {number}")
    loop = asyncio.get_running_loop()
    end = loop.time() + run.seconds
    while (pause := KEY_SECONDS * (0.5 + chance.random())) < end - LAST_SECONDS - loop.time():
        await asyncio.sleep(pause)
        line.press(chance.choice(KEYS))
    await asyncio.sleep(end - loop.time())


async def _watch(lines: Sequence[Line], where: Where, seconds: float) -> None:
    """Look at the jitter buffers: at the telephones' every second, at the daemon's less often."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    asked = loop.time()
    while loop.time() + 1 < end:
        await asyncio.sleep(1)
        for line in lines:
            line.look()
        if loop.time() - asked >= LOOK_SECONDS:
            asked = loop.time()
            await asyncio.to_thread(_ask, lines, where)
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{end - loop.time():5.0f} s to go\r")


def _ask(lines: Sequence[Line], where: Where) -> None:
    """Not on the loop: the operator's client waits for each answer."""
    with Operator(where) as operator:
        for line in lines:
            told = operator.ask(AskLadder(id=operator.next_id(), call=line.call_id[:128]))
            media = told.sip.media if isinstance(told, LadderIs) and told.sip else None
            if media is not None:
                line.looks += 1
                line.worst_far_delay_ms = max(line.worst_far_delay_ms, media.delay_ms)


async def _figures(far: Answerer, line: Line, number: int) -> Figures:
    """What became of a call that has been hung up."""
    record = await far.record(line.call_id)
    media = record["sip"]["media"]
    found = line.ear.found
    delays = np.array([delay for at, delay in found if at >= SETTLED_SECONDS] or [np.inf])
    is_enough = len(delays) > 2
    return Figures(
        name=f"{number + 1} {line.ppm:+.0f} ppm",
        seconds=record["duration_seconds"],
        chirps=len(found) + line.ear.missed,
        found=len(found),
        median=float(np.median(delays)),
        worst=float(delays.max()),
        growth=growth_ms(found, SETTLED_SECONDS) if is_enough else float("inf"),
        buffer=line.worst_delay_ms,
        far_buffer=line.worst_far_delay_ms,
        looks=line.looks,
        pressed=line.pressed,
        digits=far.keys(record),
        network_lost=line.network.there.lost,
        lost=media["lost"],
        late=media["late"] + media["discarded"],
        concealed=media["concealed_ms"],
        stretched=media["shortened_ms"] + media["lengthened_ms"],
        mos=media["mos"],
        ended_by=record["ended_by"],
    )


def main() -> int:
    """Run it, tell, and judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.impair", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--calls", type=int, default=8, help="half of them of either clock")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    run = Run(given.minutes * 60, given.calls, given.seed)
    with tempfile.TemporaryDirectory(prefix="fc-", dir="/tmp") as name:
        calls = uvloop.run(impaired(run, Path(name)))
    head = f"{given.minutes:g} minutes, {given.calls} calls, seed {given.seed}; ms"
    sys.stdout.write(f"{head}\n{table(calls)}\n")
    return 1 if any(faults(call) for call in calls) else 0


if __name__ == "__main__":
    sys.exit(main())
