"""Ten thousand short calls: nothing of them may be left, and memory must lie flat.

Run: `python -m bench.fleet.soak [--calls 10000] [--sip] [--kept] [--json]`; `make soak` runs all kinds.

A real daemon with two workers; calls of the echo agent over loopback, some at a time, each of which
says stamped frames, hears them again and hangs up. `--kept` writes recordings, records and journals, as
a daemon does that is not being measured. With `--sip` the calls come by SIP and RTP instead of
WebSockets (`sip_calls.py`). At each fifth of the calls the daemon gets REST_SECONDS to itself, so that
what is garbage is gone, and is looked at: memory and descriptors of each worker from outside, tasks and
leftovers as it tells them.

The exit status is 1 when anything is left: see `faults`. By the first look a worker has met all that
calls need, its fellow's socket included, so descriptors are compared with it. Its heap goes on
growing in steps, to what the worst moment of many calls at a time took; so memory is judged by the
second half.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count, pairwise

import aiohttp
import msgspec

from bench.fleet import sip_calls
from bench.fleet.daemon import Daemon, daemon, descriptors_of, free_udp_port, memory_of, until

STEPS = 5
AT_ONCE = 24
FRAMES = 10
"""Fewer than playout's lead holds, so that all come back at once."""
REST_SECONDS = 9.0
"""Leftovers are asked for five seconds after a call's end, collections run two seconds apart."""
SIP_REST_SECONDS = 42.0
"""Over UDP a transaction is remembered for 64*T1, 32 seconds, after its end (RFC 3261 §17.2.2)."""
WHYS = 5
"""Wrong calls of each fifth whose faults are told."""
TOLD_SECONDS = 15.0
"""Tasks are counted every ten seconds, and told a second later."""
CALL_SECONDS = 20.0
TRIES = 40
PAUSE_SECONDS = 0.5
MEANINGFUL = 5000
"""Calls without which a slope is made of a few pages."""
SLOPE_KIB = 250.0
"""Per worker and thousand calls: an object of 256 bytes left by every call. Python takes memory a MiB at a
time, and one such step within five thousand calls makes a slope of 200."""


@dataclass(frozen=True, slots=True)
class Look:
    """The daemon at rest, after so many calls; lists have one figure per worker."""

    calls: int
    own: list[int]
    rss: list[int]
    descriptors: list[int]
    tasks: int
    wakes: int
    """Timers that are waited for."""
    leftovers: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a soak found."""

    kind: str
    seconds: float
    wrong: int
    """Calls that did not hear what they had said."""
    slopes: list[float]
    """KiB a thousand calls, per worker, in the second half."""
    looks: list[Look]
    leaked: int
    """Lines of the log that tell of something left."""
    errors: int
    """Other lines of the log at error."""
    journals: int
    """Calls that still stand in the journal."""
    records: int
    counted: int = 0
    """Calls that a trunk still counts."""
    busy: int = 0
    """How often there was no room, and the caller called again; nothing wrong with it."""
    calls_per_second: float = 0.0
    """While there were calls."""
    why: list[str] = field(default_factory=list)
    """Of some calls by SIP that went wrong."""


def faults(report: Report) -> list[str]:
    """What is not as it must be; nothing is right."""
    first, warm, last = report.looks[0], report.looks[1], report.looks[-1]
    checks = {
        "calls did not hear what they said": report.wrong,
        "things were left, by the metric": last.leftovers,
        "things were left, by the log": report.leaked,
        "errors are in the log": report.errors,
        "journals of calls that are over": report.journals,
        "calls that a trunk still counts": report.counted,
        "descriptors more than when warm": sum(last.descriptors) - sum(warm.descriptors),
        "tasks more than before": last.tasks - first.tasks,
        "timers more than before": last.wakes - first.wakes,
        "calls left no record": (last.calls - report.records) if report.records >= 0 else 0,
    }
    found = [f"{number} {what}" for what, number in checks.items() if number > 0]
    steep = [slope for slope in report.slopes if slope > SLOPE_KIB]
    return found + [f"{slope:.0f} KiB a thousand calls" for slope in steep]


def stamp(call: int, frame: int) -> bytes:
    """160 bytes of mu-law that say whose they are; 0x7F and 0xFF, both zero, do not occur."""
    value = call << 6 | frame
    return bytes(((value >> shift) & 0x3F) | 0x80 for shift in (24, 18, 12, 6, 0)) * 32


async def one_call(session: aiohttp.ClientSession, url: str, number: int) -> bool:
    """Say it, hear it, hang up; whether all came back."""
    said = b"".join(stamp(number, frame) for frame in range(FRAMES))
    heard = bytearray()
    async with asyncio.timeout(CALL_SECONDS), session.ws_connect(url) as socket:
        for frame in range(FRAMES):
            await socket.send_bytes(said[frame * 160 : frame * 160 + 160])
        while len(heard) < len(said):
            message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            heard += message.data
    return bytes(heard) == said


async def unless_busy(call: Callable[[], Awaitable[bool]]) -> bool:
    """A caller who is refused because there is no time just now calls again, TRIES times."""
    for _ in range(TRIES - 1):
        try:
            return await call()
        except aiohttp.WSServerHandshakeError as error:
            if error.status != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            await asyncio.sleep(PAUSE_SECONDS)
    return await call()


async def many_calls(here: Daemon, first: int, most: int, told: Callable[[int], None]) -> int:
    """Calls from number `first` to before `most`, AT_ONCE of them at a time; how many went wrong."""
    numbers = iter(range(first, most))
    wrong = 0

    async def caller(session: aiohttp.ClientSession) -> None:
        nonlocal wrong
        for number in numbers:
            path = here.media("raw", f"run{number}", encoding="mulaw", rate=8000, agent="echo")
            try:
                url = f"ws://127.0.0.1:{here.port}{path}"
                wrong += not await unless_busy(lambda: one_call(session, url, number))  # noqa: B023 awaited here
            except (aiohttp.ClientError, OSError, TimeoutError):
                wrong += 1
            told(number)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(caller(session) for _ in range(AT_ONCE)))
    return wrong


def total(here: Daemon, name: str) -> int:
    """A figure of /metrics, over all workers and labels."""
    return int(sum(value for key, value in here.metrics().items() if key.split("{")[0] == name))


def look(here: Daemon, workers: Sequence[int], calls: int) -> Look:
    """As it is now."""
    memories = [memory_of(pid) for pid in workers]
    return Look(
        calls=calls,
        own=[memory.own for memory in memories],
        rss=[memory.rss for memory in memories],
        descriptors=[descriptors_of(pid) for pid in workers],
        tasks=total(here, "flowcatd_tasks"),
        wakes=total(here, "flowcatd_wakes"),
        leftovers=total(here, "flowcatd_calls_leftovers_total"),
    )


def slope(looks: Sequence[Look], worker: int) -> float:
    """KiB of own memory a thousand calls, by least squares over the second half."""
    half = looks[-1].calls / 2
    points = [(each.calls / 1000, each.own[worker]) for each in looks if each.calls >= half]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return round(sum((x - mean_x) * (y - mean_y) for x, y in points) / spread, 1)


@dataclass(slots=True)
class Tally:
    """What the callers met."""

    wrong: int = 0
    busy: int = 0
    seconds: float = 0.0
    why: list[str] = field(default_factory=list)


def soak(
    calls: int, *, kept: bool, sip: bool = False, rest: float = 0.0, show: bool = False
) -> Report:
    """Run it; a shorter `rest` between its parts makes memory less true, and nothing else."""
    last_rest = SIP_REST_SECONDS if sip else REST_SECONDS
    rest = rest or last_rest
    settings: dict[str, object] = {"workers.count": 2, "calls.per_worker": 2 * AT_ONCE}
    if sip:
        settings["sip.port"] = free_udp_port()
    if kept:
        for name in ("recording", "transcript", "record", "journal"):
            settings[f"records.{name}"] = "true"
    began = time.monotonic()
    with daemon("conf/bench.toml", settings) as here:
        until(lambda: len(here.log("worker.started")) == 2)
        workers = [int(str(line["pid"])) for line in here.log("worker.started")]
        until(lambda: total(here, "flowcatd_tasks") > 0)
        time.sleep(rest / 4)
        looks, tally = [look(here, workers, 0)], Tally()
        bounds = [calls * step // STEPS for step in range(STEPS + 1)]
        for first, most in pairwise(bounds):
            _some(here, (first, most), tally, _progress(calls, show=show))
            time.sleep(rest if most < calls else last_rest)
            looks.append(look(here, workers, most))
        before = looks[0]
        until(lambda: total(here, "flowcatd_calls_live") == 0)
        _settle(lambda: total(here, "flowcatd_tasks") <= before.tasks)
        looks[-1] = look(here, workers, calls)
        records, journals = _kept(here)
        counted = sum(here.trunk_calls().values()) if sip else 0
        lines = here.log()
    leaked = [line for line in lines if line["event"] == "call.leaked"]
    errors = [line for line in lines if line["level"] == "error" and line not in leaked]
    slopes = [slope(looks, worker) for worker in range(len(workers)) if calls >= MEANINGFUL]
    return Report(
        kind=("kept" if kept else "bare") + (" sip" if sip else ""),
        seconds=round(time.monotonic() - began, 1),
        wrong=tally.wrong,
        slopes=slopes,
        looks=looks,
        leaked=len(leaked),
        errors=len(errors),
        journals=journals,
        records=records if kept else -1,
        counted=counted,
        busy=tally.busy,
        why=tally.why,
        calls_per_second=round(calls / tally.seconds, 1),
    )


def _some(here: Daemon, bounds: tuple[int, int], tally: Tally, told: Callable[[int], None]) -> None:
    """The calls from the first number to before the last."""
    began = time.monotonic()
    if here.sip_port:
        said = [[stamp(number, frame) for frame in range(FRAMES)] for number in range(*bounds)]
        met = sip_calls.run(here.sip_port, said, AT_ONCE, told)
        tally.busy += met.busy
        tally.wrong += len(met.wrong)
        tally.why += met.wrong[:WHYS]
    else:
        tally.wrong += asyncio.run(many_calls(here, *bounds, told))
    tally.seconds += time.monotonic() - began


def _kept(here: Daemon) -> tuple[int, int]:
    """Records, and journals of calls, on the disk."""
    records = [
        path for path in here.records.glob("*.json") if not path.name.endswith(".transcript.json")
    ]
    journals = [path for path in here.records.rglob("journal/**/*") if path.suffix == ".json"]
    return len(records), len(journals)


def _settle(condition: Callable[[], bool]) -> None:
    """Wait for it as long as figures may be old; what never comes is for `faults` to tell."""
    deadline = time.monotonic() + TOLD_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)


def _progress(calls: int, *, show: bool) -> Callable[[int], None]:
    done = count(1)

    def told(number: int) -> None:
        if show and next(done) % 50 == 0:
            print(f"\r{number + 1:6} of {calls}", end="", file=sys.stderr, flush=True)

    return told


def page(report: Report) -> str:
    """For people."""
    pace = f"{report.calls_per_second} calls a second, {report.busy} times no room"
    lines = [f"Python {sys.version.split()[0]}, {report.kind}, {report.seconds:.0f} s, {pace}; KiB"]
    lines += [
        f"{each.calls:6} calls: own {each.own}, rss {each.rss}, descriptors {each.descriptors}, "
        f"tasks {each.tasks}, timers {each.wakes}, leftovers {each.leftovers}"
        for each in report.looks
    ]
    lines += [f"slope of the second half: {report.slopes} KiB a thousand calls"]
    lines += [f"a call {why}" for why in report.why]
    lines += [f"FAULT: {fault}" for fault in faults(report)]
    return "\n".join(lines)


def main() -> int:
    """Soak, tell, and judge."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet.soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--kept", action="store_true", help="write recordings, records, journals")
    parser.add_argument("--sip", action="store_true", help="call by SIP and RTP")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    kinds = {"kept": arguments.kept, "sip": arguments.sip}
    report = soak(arguments.calls, **kinds, show=sys.stderr.isatty())
    print(msgspec.json.encode(report).decode() if arguments.json else page(report))
    return 1 if faults(report) else 0


if __name__ == "__main__":
    sys.exit(main())
