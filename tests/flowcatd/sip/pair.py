"""Two user agents and the link between them, in virtual time, from a seed.

The link loses, repeats, delays and reorders as it is told, and may be asked to drop what a test names.
Each side has a small user: what it does with an event is a table that a test may change.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Callable
from random import Random

from flowcatd.errors import LocalError
from flowcatd.sip.agent import Admit, UserAgent
from flowcatd.sip.agent_event import (
    CallEnded,
    CallNumber,
    Here,
    Invitation,
    Invited,
    Media,
    Mint,
    Referred,
    Terms,
)
from flowcatd.sip.dialog import nearest
from flowcatd.sip.event import Hop
from flowcatd.sip.header import Address
from flowcatd.sip.message import Message, Request, parse_message
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.session import Capabilities, Local, Session
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri, parse_uri

STEPS_MAX = 5000


class Side:
    """One user agent and its user."""

    def __init__(
        self, name: str, host: str, world: World, terms: Terms | None, admit: Admit | None = None
    ) -> None:
        self.name = name
        self.hop = Hop("UDP", host, 5060)
        self.world = world
        self.tokens = itertools.count(1)
        self.ports = itertools.count(10_000, 2)
        here = Here(host, 5060, Uri("sip", host, name, 5060))
        self.mint = Mint(
            lambda: f"{name}{next(self.tokens):04d}", lambda _: here, world.random.random, nearest
        )
        self.agent = UserAgent(self.mint, terms, admit=admit)
        self.told: list[object] = []
        self.sent: list[Message] = []
        self.answers = True
        self.calls: list[CallNumber] = []

    def negotiation(self) -> Negotiation:
        """A new call's descriptions."""
        local = Local(self.hop.host, next(self.ports))
        return Negotiation(Capabilities(), local, str(local.port), bytes)

    def call(self, target: str = "sip:bob@192.0.2.2", **more: object) -> CallNumber:
        """Calls the other side."""
        other = self.world.other(self)
        caller = Address(Uri("sip", self.hop.host, self.name))
        more.setdefault("hops", (other.hop,))
        invitation = Invitation(parse_uri(target), caller, **more)
        number = self.agent.originate(invitation, self.negotiation(), self.world.now)
        self.calls.append(number)
        self.world.flush()
        return number

    def do(self, verb: str, *arguments: object, **more: object) -> None:
        """One wish, now."""
        getattr(self.agent, verb)(*arguments, self.world.now, **more)
        self.world.flush()

    def hears(self, event: object) -> None:
        """Keeps it, and does what a simple user does."""
        self.told.append(event)
        now = self.world.now
        match event:
            case Invited(call=number, request=request, has_offer=has_offer):
                self.calls.append(number)
                if self.answers:
                    # A provisional answer that must be reliable would have to hold an offer.
                    if has_offer or "100rel" not in request.words("require"):
                        self.agent.ring(number, now)
                    try:
                        self.agent.answer(number, self.negotiation(), now)
                    except SipError as error:
                        self.agent.reject(number, error.status, now)
            case Referred(call=number, reference=reference):
                self.agent.answer_refer(number, reference, 202, now)

    def last(self, kind: type) -> object:
        """The last event of a kind; fails when there is none."""
        return [each for each in self.told if isinstance(each, kind)][-1]

    def all(self, kind: type) -> list:
        """Every event of a kind."""
        return [each for each in self.told if isinstance(each, kind)]

    def words(self) -> list[str]:
        """What was sent, in a word each."""
        return [
            each.method if isinstance(each, Request) else f"{each.status} {each.cseq.method}"
            for each in self.sent
        ]

    @property
    def session(self) -> Session:
        """What holds for its media."""
        return self.last(Media).session


class World:
    """Both sides and the link."""

    def __init__(
        self,
        seed: int = 0,
        *,
        terms: Terms | None = None,
        their_terms: Terms | None = None,
        admit: Admit | None = None,
    ) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.loss = self.repeats = self.delay = 0.0
        self.alice = Side("alice", "192.0.2.1", self, terms)
        self.bob = Side("bob", "192.0.2.2", self, their_terms or terms, admit)
        self.queue: list[tuple[float, int, object]] = []
        self.order = itertools.count()
        self.drops: Callable[[Side, Message], bool] = lambda _side, _message: False
        self.third: dict[str, list[Message]] = {}

    def other(self, side: Side) -> Side:
        """Who is not this one."""
        return self.bob if side is self.alice else self.alice

    def at(self, due: float, do: Callable[[], object]) -> None:
        """Does it then; what is not possible any more is not done."""

        def maybe() -> None:
            with contextlib.suppress(LocalError):
                do()

        heapq.heappush(self.queue, (due, next(self.order), maybe))

    def flush(self) -> None:
        """What both sides have to say and send."""
        for side in (self.alice, self.bob):
            for event in side.agent.events():
                side.hears(event)
            for sent in side.agent.outgoing():
                try:
                    message = parse_message(sent.data)
                except SipError:
                    # A refusal copies what was wrong with the request.
                    assert sent.data.startswith(b"SIP/2.0 ")
                    continue
                side.sent.append(message)
                receiver = {each.hop.host: each for each in (self.alice, self.bob)}.get(
                    sent.hop.host
                )
                if receiver is None:
                    self.third.setdefault(sent.hop.host, []).append(message)
                    continue
                if self.drops(side, message):
                    continue
                for _ in range(1 + (self.random.random() < self.repeats)):
                    if self.random.random() >= self.loss:
                        due = self.now + self.random.random() ** 3 * self.delay
                        heapq.heappush(
                            self.queue, (due, next(self.order), (side.hop, receiver, sent.data))
                        )
        if any(side.agent._desk.events for side in (self.alice, self.bob)):
            self.flush()

    def next_due(self) -> float | None:
        """When something happens next."""
        dues = [side.agent.wake_at() for side in (self.alice, self.bob)]
        dues.append(self.queue[0][0] if self.queue else None)
        return min((due for due in dues if due is not None), default=None)

    def step(self) -> None:
        """What happens next."""
        due = self.next_due()
        assert due is not None
        self.now = max(self.now, due)
        while self.queue and self.queue[0][0] <= self.now:
            what = heapq.heappop(self.queue)[2]
            if callable(what):
                what()
            else:
                source, receiver, data = what
                receiver.agent.receive(data, source, self.now)
            self.flush()
        for side in (self.alice, self.bob):
            side.agent.wake(self.now)
        self.flush()

    def run(self, seconds: float | None = None) -> None:
        """Until that much later, or until nothing more will happen."""
        until = None if seconds is None else self.now + seconds
        for _ in range(STEPS_MAX):
            due = self.next_due()
            if due is None or (until is not None and due > until):
                self.now = self.now if until is None else until
                return
            self.step()
        raise AssertionError("it does not come to an end")

    def up(self) -> tuple[CallNumber, CallNumber]:
        """A call from alice to bob, up; both its numbers."""
        self.alice.call()
        self.run(1.0)
        return self.alice.calls[-1], self.bob.calls[-1]

    def ends(self) -> list[tuple[str, int]]:
        """Who was told which end."""
        return [
            (side.name, event.status)
            for side in (self.alice, self.bob)
            for event in side.all(CallEnded)
        ]
