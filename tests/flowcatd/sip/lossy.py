"""Two transaction layers and the link between them, in virtual time, from a seed.

The link loses, repeats, delays and reorders. Each side has the smallest transaction user there can be:
the caller acknowledges every 2xx and may cancel; the callee rings, answers, repeats a 2xx until its ACK
comes (RFC 3261 §13.3.1.4) and answers a CANCEL.
"""

from __future__ import annotations

import heapq
import itertools
from random import Random

from flowcatd.sip.event import Acked, Answered, Asked, Cancelled, Ended, Hop, TimedOut
from flowcatd.sip.header import Address, Via
from flowcatd.sip.message import Request, build_request, build_response, parse_message
from flowcatd.sip.transaction import Transactions
from flowcatd.sip.uri import parse_uri

T1 = 0.5
RING_MAX = 6.0
DELAY_MAX = 2.0
CALLER = Hop("UDP", "192.0.2.1", 5060)
CALLEE = Hop("UDP", "192.0.2.2", 5060)


class World:
    """Both sides, the link, and what is to happen when."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.loss = self.random.choice([0.0, 0.1, 0.3, 0.6, 1.0])
        self.now = 0.0
        self.caller, self.callee = Transactions(), Transactions()
        self.queue: list[tuple[float, int, object]] = []
        self.order = itertools.count()
        self.conclusions: list[str] = []
        self.ended: list[int] = []
        self.acked = False
        self.cancelled = False
        self.pending: int | None = None
        self.final = self.random.choice([200, 200, 486, 302])
        self.method = self.random.choice(["INVITE", "INVITE", "OPTIONS"])
        self.cancels = self.method == "INVITE" and self.random.random() < 0.4

    def at(self, due: float, do: object) -> None:
        """Does it at that time."""
        heapq.heappush(self.queue, (due, next(self.order), do))

    def flush(self) -> None:
        """What both sides have to say and send."""
        for layer, other, source, told in (
            (self.caller, self.callee, CALLER, self.caller_hears),
            (self.callee, self.caller, CALLEE, self.callee_hears),
        ):
            for event in layer.events():
                told(event)
            for sent in layer.outgoing():
                for _ in range(1 + (self.random.random() < 0.1)):
                    if self.random.random() >= self.loss:
                        due = self.now + self.random.random() ** 3 * DELAY_MAX
                        self.at(due, (other, sent.data, source))

    def caller_hears(self, event: object) -> None:
        """Acknowledges, notes what came of it."""
        match event:
            case Answered(_, response, _) if response.cseq.method == "CANCEL":
                pass
            case Answered(_, response, hop) if response.status >= 200:
                self.conclusions.append(str(response.status))
                if response.status < 300 and response.cseq.method == "INVITE":
                    self.caller.send_once(ack_of(self.request, response.to), hop)
            case TimedOut(number) if number == self.number:
                self.conclusions.append("timeout")
            case Ended(number):
                self.ended.append(number)

    def callee_hears(self, event: object) -> None:
        """Rings, answers, gives way to a CANCEL."""
        match event:
            case Asked(number, request, _) if request.method == "INVITE":
                self.pending = number
                self.callee.respond(number, build_response(request, 180, tag="b"), self.now)
                due = self.now + self.random.random() * RING_MAX
                self.at(due, lambda: self.answer(number, request))
            case Asked(number, request, _):
                self.callee.respond(number, build_response(request, self.final, tag="b"), self.now)
            case Cancelled(number, request, _, target):
                status = 481 if target is None else 200
                self.callee.respond(number, build_response(request, status, tag="b"), self.now)
                if target is not None and self.pending == target:
                    invite = self.callee._all[target].request
                    self.pending = None
                    self.callee.respond(target, build_response(invite, 487, tag="b"), self.now)
            case Acked():
                self.acked = True

    def answer(self, number: int, request: Request) -> None:
        """The final answer, unless a CANCEL came first."""
        if self.pending != number:
            return
        self.pending = None
        self.callee.respond(number, build_response(request, self.final, tag="b"), self.now)
        if self.final == 200:
            self.repeat(number, request, T1, self.now + 64 * T1)

    def repeat(self, number: int, request: Request, pause: float, until: float) -> None:
        """The 2xx again, until it is acknowledged."""

        def again() -> None:
            if not self.acked and self.now < until:
                self.callee.respond(number, build_response(request, 200, tag="b"), self.now)
                self.repeat(number, request, min(2 * pause, 4.0), until)

        self.at(self.now + pause, again)

    def step(self) -> bool:
        """The next thing that happens; false when nothing more will."""
        dues = [
            self.caller.wake_at(),
            self.callee.wake_at(),
            self.queue[0][0] if self.queue else None,
        ]
        due = min((due for due in dues if due is not None), default=None)
        if due is None:
            return False
        self.now = max(self.now, due)
        self.caller.wake(self.now)
        self.callee.wake(self.now)
        while self.queue and self.queue[0][0] <= self.now:
            what = heapq.heappop(self.queue)[2]
            if callable(what):
                what()
            else:
                layer, data, source = what
                layer.receive(parse_message(data), source, self.now)
        self.flush()
        return True

    def run(self) -> None:
        """From the request to the last timer."""
        uri = parse_uri("sip:b@192.0.2.2")
        self.request = build_request(
            self.method,
            uri,
            via=Via("UDP", "192.0.2.1", None, {"branch": "z9hG4bKpair", "rport": None}),
            from_=Address(uri, parameters={"tag": "a"}),
            to=Address(uri),
            call_id="pair",
            cseq=1,
        )
        self.number = self.caller.send(self.request, CALLEE, 0.0)
        if self.cancels:
            due = self.random.random() * RING_MAX
            self.at(due, lambda: self.caller.cancel(self.number, self.now))
        self.flush()
        steps = 0
        while self.step():
            steps += 1
            assert steps < 2000


def ack_of(request: Request, to: Address) -> Request:
    """The ACK of a 2xx, with a branch of its own (§13.2.2.4)."""
    return build_request(
        "ACK",
        request.uri,
        via=Via("UDP", "192.0.2.1", None, {"branch": "z9hG4bKack"}),
        from_=request.from_,
        to=to,
        call_id=request.call_id,
        cseq=1,
    )


def settle(seed: int) -> World:
    """One conversation to its end; asserts the pair law."""
    world = World(seed)
    world.run()
    assert len(world.caller) == len(world.callee) == 0, seed
    assert world.ended.count(world.number) == 1, seed
    # A 2xx is told as often as it comes; everything else once; and never two different ends.
    assert len(set(world.conclusions)) == 1, (seed, world.conclusions)
    assert world.conclusions[0] == "200" or len(world.conclusions) == 1, (seed, world.conclusions)
    if world.loss == 0.0 and not world.cancels:
        assert world.conclusions[0] == str(world.final), seed
    if world.loss == 1.0:
        assert world.conclusions == ["timeout"], seed
    # Request 64*T1, ringing, final answer 64*T1, waiting for repetitions 64*T1; a lost 487 is awaited
    # from the last sign of life, which the ringing timer allows to be late.
    rings = 190.0 if world.loss else 0.0
    assert world.now <= 3 * 64 * T1 + RING_MAX + 4 * DELAY_MAX + rings, (seed, world.now)
    return world
