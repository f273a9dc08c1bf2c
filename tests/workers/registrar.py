"""Registrars in virtual time, the network to them, and workers of one fleet that register there.

A `Registrar` is a peer that reads and writes real messages: it keeps bindings as RFC 3261 §10.3 has it, asks
for digest when it has a password, and can be silent or be told what to answer. `World` is time, network
and load table; `World.worker` adds a worker to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from random import Random

from flowcatd.errors import LinkError, LinkTimeout
from flowcatd.links.dns import Found
from flowcatd.sip.digest import Answerer, Gate, Judgement, Secret, Terms
from flowcatd.sip.event import Hop
from flowcatd.sip.message import (
    Request,
    Response,
    build_response,
    note_source,
    parse_message,
)
from flowcatd.sip.resolve import Abilities, Shunned, Target, locate
from flowcatd.sip.trunk import Account, Peer, Register, Trunk
from flowcatd.sip.uri import Uri
from flowcatd.wake import Wake, WakeList
from workers.load import WORDS, LoadTable, Standing
from workers.registrations import Registrations
from workers.steer import mint_stamp
from workers.trunk_errands import Road
from workers.trunk_tending import Means, TrunkEvent

PASSWORD = "secret"
Key = tuple[str, str, int]
Reply = Callable[[Request], "Response | None"]


class Clock:
    """Time that a test moves; the shape of the worker's clock."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.wakes = WakeList()

    def now(self) -> float:
        """Monotonic seconds."""
        return self.time

    def wake(self, due: float, callback: Callable[[], None]) -> Wake:
        """Call back then."""
        return self.wakes.add(max(due, self.time), callback)


class Registrar:
    """One server."""

    def __init__(self, clock: Clock, *, password: str = "") -> None:
        self.clock = clock
        self.silent = False
        self.reply: Reply | None = None
        """Answers in its place, unless it gives None."""
        self.most_seconds = 600
        self.requests: list[Request] = []
        self.bindings: dict[str, float] = {}
        """Contact to when it ends."""
        self.nonce_seconds = 300.0
        self._password = password
        self._number = count(1)
        self._gate = self._make_gate()

    def _make_gate(self) -> Gate:
        return Gate(
            Terms("r.example", nonce_seconds=self.nonce_seconds),
            str(id(self)).encode(),
            lambda: next(self._number).to_bytes(8, "big"),
            {"ann": self._password, "bob": self._password}.get,
        )

    def forget_nonces(self) -> None:
        """As after a restart."""
        self._gate = self._make_gate()

    def count(self, method: str = "REGISTER") -> int:
        """Different requests of this kind."""
        return len({each.top.branch for each in self.requests if each.method == method})

    @property
    def bound(self) -> list[str]:
        """The Contacts that hold."""
        return sorted(each for each, until in self.bindings.items() if until > self.clock.now())

    def receive(self, data: bytes, source: tuple[str, int]) -> bytes | None:
        """A request; the answer."""
        request = parse_message(data)
        assert isinstance(request, Request)
        note_source(request, *source)
        self.requests.append(request)
        if self.silent:
            return None
        told = self.reply(request) if self.reply is not None else None
        response = told or self._answer(request)
        return bytes(response)

    def _answer(self, request: Request) -> Response:
        now = self.clock.now()
        if request.method != "REGISTER":
            return build_response(request, 200, tag="r")
        if self._password:
            verdict = self._gate.judge(request, now)
            if verdict.judgement is not Judgement.PASSED:
                response = build_response(request, 401, tag="r")
                stale = verdict.judgement is Judgement.STALE
                self._gate.challenge(response, now, stale=stale)
                return response
        response = build_response(request, 200, tag="r")
        for contact in request.addresses("contact"):
            wanted = request.number("expires") or 0
            self.bindings[str(contact.uri)] = now + min(wanted, self.most_seconds)
        said = [f"<{each}>;expires={int(self.bindings[each] - now)}" for each in self.bound]
        if said:
            response.put("contact", *said)
        return response


class Names:
    """Where names lead, by a table; `broken` is a DNS that fails."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._shunned = Shunned()

    async def find(self, uri: Uri) -> tuple[Target, ...]:
        """Every target."""
        return (await self.look(uri)).targets

    async def look(self, uri: Uri) -> Found:
        """Every target, and until when."""
        world = self._world
        if world.broken:
            raise LinkTimeout("the DNS does not answer")
        now = world.clock.now()
        if uri.host in world.names:
            found = tuple(
                Target(transport, host, port, uri.host)
                for transport, host, port in world.names[uri.host]
            )
            return Found(self._shunned.order(found, now), now + world.ttl)
        plan = locate(uri, lambda _: (), Abilities(), lambda: 0.5)
        if not plan.targets:
            raise LinkError(plan.problem)
        return Found(self._shunned.order(plan.targets, now), float("inf"))

    def shun(self, target: Target, retry_after: float | None = None) -> None:
        """It failed."""
        self._world.shunned.append(target.host)
        self._shunned.fail(target, self._world.clock.now(), retry_after)

    def praise(self, target: Target) -> None:
        """It answered."""
        self._shunned.succeed(target)


class World:
    """Time, names, servers, and the workers of one fleet."""

    def __init__(self, trunks: Iterable[Trunk] = (), slots: int = 4) -> None:
        self.clock = Clock()
        self.loads = LoadTable([0] * (4 * slots * WORDS))
        self.trunks: dict[str, Trunk] = {each.name: each for each in trunks}
        self.names: dict[str, list[Key]] = {}
        self.ttl = 30.0
        self.broken = False
        self.servers: dict[tuple[str, int], Registrar] = {}
        self.workers: dict[int, Registrations] = {}
        self.told: list[tuple[float, int, str, TrunkEvent]] = []
        self.learned: dict[tuple[int, str], tuple[str, ...]] = {}
        self.kept: list[tuple[Hop, float]] = []
        self.sent: list[tuple[float, int, Hop]] = []
        self.shunned: list[str] = []
        self.connections = count(1)
        self.dead: set[int] = set()
        self.password = PASSWORD

    def server(self, host: str = "192.0.2.1", port: int = 5060, *, password: str = "") -> Registrar:
        """A server there."""
        made = Registrar(self.clock, password=password)
        self.servers[host, port] = made
        return made

    def worker(self, seat: int, slot: int | None = None) -> Registrations:
        """A worker that serves, and does its share from now on."""
        row = self.loads.row(seat)
        row.sit(slot=seat if slot is None else slot, capacity=10, now=self.clock.now())
        row.standing(Standing.SERVING)
        row.ticked(self.clock.now(), 0.0)
        stamp = mint_stamp(self.loads.read(seat))
        tokens = count()

        def token() -> str:
            return f"{stamp}{next(tokens)}"

        means = Means(
            road=Road(partial(self._send, seat), self.clock, Names(self)),
            here=lambda _hop: ("198.51.100.9", 5060),
            token=token,
            random=Random(seat).random,
            loads=self.loads,
            seat=seat,
            answerer=lambda _name: Answerer(Secret("ann", self.password), token),
            told=lambda name, event: self.told.append((self.clock.now(), seat, name, event)),
            learn=lambda name, found: self.learned.update({(seat, name): found}),
            keep=lambda hop, seconds: self.kept.append((hop, seconds)),
        )
        made = Registrations(means, self.trunks)
        self.workers[seat] = made
        made.start()
        return made

    def kill(self, seat: int) -> None:
        """The process is gone, and the supervisor has seen it."""
        self.hang(seat)
        self.loads.row(seat).leave()

    def hang(self, seat: int) -> None:
        """The process does nothing any more, and nobody has seen it yet."""
        self.workers.pop(seat).close()
        self.dead.add(seat)

    async def run(self, seconds: float) -> None:
        """Let so much time pass; whoever lives ticks."""
        until = self.clock.time + seconds
        while True:
            await settled()
            due = self.clock.wakes.wake_at()
            if due is None or due > until:
                break
            self.clock.time = max(self.clock.time, due)
            self._tick()
            self.clock.wakes.wake(self.clock.time)
        self.clock.time = until
        self._tick()
        await settled()

    def _tick(self) -> None:
        for seat in self.workers:
            self.loads.row(seat).ticked(self.clock.time, 0.0)

    def _send(self, seat: int, data: bytes, hop: Hop) -> None:
        self.sent.append((self.clock.now(), seat, hop))
        server = self.servers.get((hop.host, hop.port))
        if server is None:
            return
        answer = server.receive(data, ("198.51.100.9", 5060))
        if answer is None:
            return
        back = hop
        if hop.is_reliable and not hop.connection:
            back = replace(hop, connection=seat << 32 | next(self.connections))
        self.clock.wake(self.clock.now() + 0.01, partial(self._deliver, seat, answer, back))

    def _deliver(self, seat: int, data: bytes, hop: Hop) -> None:
        response = parse_message(data)
        assert isinstance(response, Response)
        if seat in self.workers:
            assert self.workers[seat].receive(response, hop, self.clock.now())

    def tenders(self, name: str) -> list[int]:
        """The seats that do this trunk's work."""
        return [
            seat
            for seat, each in self.workers.items()
            if name in [line.trunk for line in each.lines()]
        ]

    def events(self, kind: type) -> list[TrunkEvent]:
        """What was told of this kind."""
        return [event for _, _, _, event in self.told if isinstance(event, kind)]

    def change(self, trunks: Mapping[str, Trunk]) -> None:
        """A reload."""
        self.trunks = dict(trunks)
        for each in self.workers.values():
            each.change(self.trunks)

    def close(self) -> None:
        """Every worker ends."""
        for each in self.workers.values():
            each.close()


async def settled() -> None:
    """Let every task that can go on do so."""
    for _ in range(8):
        await asyncio.sleep(0)


def trunk(name: str = "t", *, proxy: str = "sip:192.0.2.1", seconds: int = 600) -> Trunk:
    """One that registers."""
    return Trunk(
        peer=Peer(name=name, proxies=(proxy,)),
        account=Account(user="ann"),
        register=Register(enabled=True, seconds=seconds),
    )


def asked(name: str = "t", *proxies: str, seconds: float = 30.0) -> Trunk:
    """One that is asked by OPTIONS and does not register."""
    return Trunk(
        peer=Peer(name=name, proxies=proxies or ("sip:192.0.2.1",), options_seconds=seconds)
    )
