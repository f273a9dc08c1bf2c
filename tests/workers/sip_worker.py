"""A worker reduced to its SIP side: real sockets, real wiring with the echo agent, mute and deaf.

What `workers/main.py` does around `SipSide` is done here by `sip_worker`, which also says at its end
whether everything was given back. Telephones are those of tests/scenarios/sip_phone.py.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flowcatd.call import Call
from flowcatd.links.disk import Disk
from flowcatd.links.dns import Resolver, Sources
from flowcatd.options import Agents, Calls, Log, Options, Records, Rtp, Sip, Speech, Workers
from flowcatd.record import Identity
from flowcatd.sip.trunk import Trunk
from flowcatd.sip.trunk_file import load_trunk
from tests.scenarios.sip_phone import SipPhone
from tests.workers.on_loop import until
from workers import speech
from workers.agents import load_agents
from workers.calls import CallTable
from workers.clock import WorkerClock
from workers.leftovers import Remain
from workers.load import WORDS, LoadTable, Standing
from workers.orphans import Orphans
from workers.plan import WorkerPlan
from workers.sip_side import Around, SipSide
from workers.wiring import Unwatched, Wiring, open_store

ROOT = Path(__file__).parents[2]
AGENTS = ROOT / "tests" / "corpus" / "agents"
MUTE = Speech(hearing="none", voice="none")
ROUTE = '[[route]]\nagent = "echo"\n'

_ranges = itertools.cycle(range(24_000, 31_900, 80))


def trunk(text: str = "", *, peers: Sequence[int] = (), routes: str = ROUTE, name="house") -> Trunk:
    """A trunk of this machine; `peers` are ports of telephones it leads to, in order."""
    proxies = ", ".join(f'"sip:127.0.0.1:{port};transport=udp"' for port in peers)
    head = f'[trunk]\nname = "{name}"\nproxies = [{proxies}]\n'
    tail = '[outbound]\nenabled = true\nprefixes = ["+"]\ncalls_per_second = 1000\ncountry = "49"\n'
    source = '[inbound]\nsources = ["127.0.0.0/8", "::1"]\ncalls_per_second = 1000\n'
    text = text or f"{head}{source}{tail if peers else ''}{routes}"
    return load_trunk(text, f"{name}.toml")


@dataclass(frozen=True)
class Setting:
    """What a test wants to be otherwise."""

    trunks: Sequence[Trunk] = ()
    most_calls: int = 8
    calls: Calls = field(default_factory=Calls)
    slot: int = 0
    rtp_low: int = 0
    """0 takes ports nobody had before."""
    pairs: int = 16
    host6: str = ""
    journal: bool = False
    port: int = 0
    """Of SIP; 0 takes a free one."""
    agents: Sequence[str] = ("echo", "digits", "quick")


class Told(Unwatched):
    """Who was told of calls."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.over: list[str] = []
        self.raises = False

    def started(self, identity: Identity) -> None:
        """Its call id; a bug of ours, if it is to be one."""
        if self.raises:
            raise RuntimeError("a bug")
        self.begun.append(identity.call_id)

    def ended(self, record: Any) -> None:
        """Its call id."""
        self.over.append(record.call_id)


class SipWorker:
    """One; made on the loop, opened by `open`."""

    def __init__(self, directory: Path, setting: Setting) -> None:
        self.directory, self.setting = directory, setting
        self.records = directory / "records"
        loop = asyncio.get_running_loop()
        low = setting.rtp_low or next(_ranges)
        options = Options(
            workers=Workers(most=2),
            agents=Agents(default="echo"),
            calls=replace(setting.calls, per_worker=setting.most_calls),
            speech=MUTE,
            records=Records(recording=False, transcript=False, journal=setting.journal),
            sip=Sip(host6=setting.host6),
            rtp=Rtp(low=low, high=low + 4 * setting.pairs - 1),
            log=Log(level="info", format="json"),
        )
        self.options = options
        self.low = low
        self.loads = LoadTable([0] * (2 * WORDS))
        self.row = self.loads.row(0)
        self.row.sit(slot=setting.slot, capacity=setting.most_calls, now=time.monotonic())
        self.doors = _doors(setting.port)
        if setting.host6:
            self.doors["udp6"] = _bound(socket.SOCK_DGRAM, setting.host6)
        self.port = self.doors["udp"].getsockname()[1]
        known = load_agents(AGENTS, "echo")
        self.plan = WorkerPlan(
            slot=setting.slot,
            seat=0,
            generation=1,
            load=self.loads,
            cpu=None,
            options=options,
            port=1,
            door_fd=-1,
            sip_doors={name: each.dup().detach() for name, each in self.doors.items()},
            ready_fd=-1,
            alive_fd=-1,
            runtime_directory=directory,
            agents={name: known[name] for name in setting.agents},
            records_directory=self.records,
            providers_directory=directory,
            trunks={each.name: each for each in setting.trunks or (trunk(),)},
            trunks_directory=directory / "trunks.d",
        )
        self.clock = WorkerClock(loop)
        self.table = CallTable(options.calls, self.row, self.loads)
        self.disk = Disk()
        self.store = open_store(options.records, self.disk, self.records, setting.slot)
        self.told = Told()
        self.ended: list[tuple[Call, Remain | None]] = []
        self.refused: list[str] = []
        self.given: list[Any] = []
        """What fellows got."""
        self.sip = SipSide(
            Around(
                plan=self.plan,
                clock=self.clock,
                table=self.table,
                agents=self.plan.agents,
                ended=lambda *what: self.ended.append(what),
                answered_after=lambda _seconds: None,
            )
        )
        self.telephony = self.sip.telephony
        self._resolver: Resolver | None = None
        self.orphans = Orphans(options, self.clock, self.store)
        self.orphans.part = self.sip.part

    async def open(self) -> None:
        """Take up what a dead one left, then serve."""
        await self.sip.adopt(self.store.journals)
        self.serve()

    def serve(self) -> None:
        """From now on."""
        ears = speech.Speech(MUTE, self.directory, ())
        wiring = Wiring(self.options, self.clock, ears, self.store, self.told)
        self.table.shedding = False
        self.row.ticked(time.monotonic(), 0.0)
        self.sip.open(wiring, self._give, self.refused.append)

    def _give(self, _seat: int, message: Any) -> bool:
        self.given.append(message)
        return True

    def fellow(self) -> None:
        """Another worker begins to serve, with room."""
        row = self.loads.row(1)
        row.sit(slot=self.setting.slot + 1, capacity=100, now=time.monotonic())
        row.standing(Standing.SERVING)

    def ask(self, nameserver: int) -> None:
        """Names are asked for at this port of this machine."""
        sources = Sources(nameservers=(("127.0.0.1", nameserver),))
        self._resolver = Resolver(self.sip.wire.able, sources=sources)
        self.sip.dialling._resolver = self._resolver

    @property
    def ports(self) -> int:
        """Pairs of media ports that are taken."""
        return sum(len(each) for each in self.sip.premises.ports.values())

    def live(self, name: str = "house") -> tuple[int, int]:
        """Calls of a trunk, in and out."""
        policy = self.sip.policy
        return policy.live(name, inbound=True), policy.live(name, inbound=False)

    def left(self) -> dict[str, object]:
        """What is not as in a worker that never had a call; empty is good."""
        telephony = self.telephony
        found = {
            "ports": self.ports,
            "places": len(self.table),
            "lines": len(self.table.lines(0.0)),
            "held": len(telephony),
            "calls of the user agent": len(telephony.agent),
            "events": len(telephony._events),
            "parting": len(telephony._parting),
            "targets": len(self.sip.dialling._targets),
            "tasks": len(telephony._tasks),
            "beats": len(self.sip.premises.pacer),
            "live": [name for name in self.plan.trunks if self.live(name) != (0, 0)],
        }
        return {name: what for name, what in found.items() if what}

    async def empty(self, within: float = 10.0) -> None:
        """Wait until nothing of any call is left."""
        try:
            await until(lambda: not self.left(), within)
        except TimeoutError:
            raise AssertionError(f"left: {self.left()}") from None

    def journals(self) -> list[Path]:
        """Of calls whose line can be taken up."""
        found = (self.records / "journal" / "calls").glob("*/*")
        return [each for each in found if b'"leg":{' in each.read_bytes()]

    def record(self, nth: int = 0) -> dict[str, Any]:
        """The nth record that was written."""
        found = sorted(self.records.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return json.loads(found[nth].read_text())  # type: ignore[no-any-return]

    async def close(self) -> None:
        """As main does it."""
        self.orphans.close()
        self.sip.stop()
        await self.sip.close()
        if self._resolver is not None:
            await self._resolver.close()
        await self.disk.close(5)
        self.store.close()
        for each in self.doors.values():
            each.close()
        self.row.standing(Standing.EMPTY)

    async def die(self) -> None:
        """Without a word to anybody: what is sent from now on is not; the lock of its life is gone.

        As much of SIGKILL as one process can show; the scenarios have the rest.
        """
        self.sip.wire.close()
        await self.disk.close(5)  # nothing is written, or taken away, from now on
        await self.sip.close()
        assert self.store.journals is not None
        self.store.journals.close()
        for each in self.doors.values():
            each.close()


@asynccontextmanager
async def killed(directory: Path, setting: Setting) -> AsyncIterator[SipWorker]:
    """A worker that dies at the end of the block, once the journals of its calls are written."""
    worker = SipWorker(directory, setting)
    await worker.open()
    try:
        yield worker
        await until(lambda: len(worker.journals()) == len(worker.table.lines(0.0)))
    finally:
        await worker.die()


@asynccontextmanager
async def sip_worker(directory: Path, setting: Setting | None = None) -> AsyncIterator[SipWorker]:
    """A worker that serves; closed however the test ends."""
    worker = SipWorker(directory, setting or Setting())
    try:
        await worker.open()
        yield worker
    finally:
        await worker.close()


async def record_of(worker: SipWorker) -> dict[str, Any]:
    """The only record, once it is written."""
    await until(lambda: any(worker.records.glob("*.json")))
    return worker.record()


async def up(worker: SipWorker, phone: SipPhone, user: str = "anyone", **fields: str) -> Any:
    """A call of the phone's that is up at both ends."""
    talk = await phone.call(f"sip:{user}@127.0.0.1:{worker.port}", **fields)
    assert talk.ended is None, talk.ended
    await until(lambda: talk.heard_at, 5.0)
    return talk


def count_of(phone: SipPhone, begins: bytes) -> int:
    """How many messages that begin so the phone has received."""
    return sum(each.startswith(begins) for each in phone.received)


def _doors(port: int) -> dict[str, socket.socket]:
    """One port for UDP and TCP, this one or a free one."""
    for _ in range(20):
        udp = _bound(socket.SOCK_DGRAM, port=port)
        try:
            return {"udp": udp, "tcp": _bound(socket.SOCK_STREAM, port=udp.getsockname()[1])}
        except OSError:
            udp.close()
    raise AssertionError("no port is free for both")


def _bound(kind: int, host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    made.setblocking(False)
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    if kind == socket.SOCK_STREAM:
        made.listen(64)
    return made
