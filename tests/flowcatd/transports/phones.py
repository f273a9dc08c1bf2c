"""Telephones for tests of the SIP leg: a user agent, legs, real RTP sockets and a real pacer each.

SIP messages go from one to the other in memory, in the loop's next turn, and may be held up or dropped by
a test; media go over loopback. Each call is a real `Call` whose chain writes down what it is given.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from flowcatd.audio.g711 import mulaw_to_pcm
from flowcatd.call import Call
from flowcatd.frames import (
    Frame,
    InputAudio,
    Start,
    TtsAudio,
    TtsStarted,
    TtsStopped,
)
from flowcatd.options import Calls as CallsOptions
from flowcatd.options import Playout as PlayoutOptions
from flowcatd.pipeline.chain import Chain
from flowcatd.pipeline.processor import Processor
from flowcatd.processors.playout import Playout
from flowcatd.record import Identity, Ledger, Outcome
from flowcatd.rtp.watchdog import Patience
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import (
    AgentEvent,
    CallEnded,
    CallNumber,
    Cause,
    Connected,
    Here,
    Invitation,
    Invited,
    Media,
    Mint,
    Pressed,
    ReferProgress,
    Referred,
)
from flowcatd.sip.attribute import Fingerprint
from flowcatd.sip.body import Digit
from flowcatd.sip.dialog import nearest
from flowcatd.sip.event import Hop
from flowcatd.sip.header import Address
from flowcatd.sip.ladder import Ladder
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.session import Capabilities, Local
from flowcatd.sip.uri import Uri, parse_uri
from flowcatd.transports.pacer import Pacer
from flowcatd.transports.secrecy import Shake
from flowcatd.transports.sip_leg import Ends, Facts, SipLeg
from tests.builders import Recording
from tests.workers.on_loop import until
from workers.clock import WorkerClock
from workers.ports import PortPair, Ports, PortShare

LOW, HIGH = 23_000, 23_998
HOST = "127.0.0.1"
OPTIONS = CallsOptions(end_seconds=2.0)


def sound(ms: int, seed: int = 1) -> bytes:
    """Noise at 8 kHz that µ-law carries without a change: each sample is one of its values."""
    chance = random.Random(seed)
    return mulaw_to_pcm(bytes(chance.choice(range(0x90, 0xA0)) for _ in range(8 * ms)))


@dataclass
class Conversation:
    """One call of a phone: its leg, and what its chain heard."""

    number: CallNumber
    leg: SipLeg
    pair: PortPair
    call: Call
    ears: Recording = field(default_factory=Recording)
    tail: Recording = field(default_factory=Recording)
    outcome: asyncio.Task[Outcome] | None = None
    events: list[AgentEvent] = field(default_factory=list)

    @property
    def heard(self) -> bytes:
        """All of it."""
        return b"".join(each.pcm for each in self.seen(InputAudio))

    def seen(self, kind: type[Frame]) -> list:
        """Frames of a kind that came in."""
        return [each for each in self.ears.seen if isinstance(each, kind)]

    def told(self, kind: type[Frame]) -> list:
        """Frames of a kind that playout handed on."""
        return [each for each in self.tail.seen if isinstance(each, kind)]

    def feed(self, frame: Frame) -> None:
        """What an agent would push."""
        assert self.call.chain is not None
        self.call.chain.feed(frame)

    def say(self, text: str, pcm: bytes) -> None:
        """A whole line."""
        rate_hz = next(each.rate_hz for each in self.ears.seen if isinstance(each, Start))
        epoch = self.call.chain.epoch if self.call.chain is not None else 0
        self.feed(TtsStarted(text, interruptible=True))
        self.feed(TtsAudio(epoch, pcm, rate_hz))
        self.feed(TtsStopped())


class PhoneLine:
    """The dialog, for a leg."""

    def __init__(self, phone: Phone, number: CallNumber) -> None:
        self.phone, self.number = phone, number
        self.changes = 0
        self.causes: list[Cause | None] = []

    def hang_up(self, cause: Cause | None) -> None:
        """BYE, CANCEL or a refusal."""
        self.causes.append(cause)
        self.phone.do("hang_up", self.number, cause=cause)

    def press(self, digit: str) -> None:
        """INFO."""
        phone = self.phone
        phone.agent.send_digit(self.number, Digit(digit, 160), phone.house.clock.now())
        phone.settle()

    def refer(self, target: str) -> None:
        """REFER."""
        self.phone.do("refer", self.number, parse_uri(target))

    def changed(self) -> None:
        """Counted."""
        self.changes += 1


class Phone:
    """One end."""

    def __init__(self, house: House, name: str, host: str, capabilities: Capabilities) -> None:
        self.house, self.name = house, name
        self.hop = Hop("UDP", host, 5060)
        self.capabilities = capabilities
        tokens = itertools.count(1)
        here = Here(host, 5060, Uri("sip", host, name, 5060))
        mint = Mint(lambda: f"{name}{next(tokens):04d}", lambda _: here, random.random, nearest)
        self.agent = UserAgent(mint)
        self.calls: dict[CallNumber, Conversation] = {}
        self.referred = 202
        self.told: list[AgentEvent] = []
        self.ladders: dict[CallNumber, Ladder] = {}
        self._settling = False

    def do(self, verb: str, number: CallNumber, *rest: object, **more: object) -> None:
        """One wish of the user's."""
        getattr(self.agent, verb)(number, *rest, self.house.clock.now(), **more)
        self.settle()

    def dial(self, other: Phone) -> Conversation:
        """Call another phone."""
        negotiation, pair = self._media()
        caller = Address(Uri("sip", self.hop.host, self.name))
        target = Uri("sip", other.hop.host, other.name)
        invitation = Invitation(target, caller, (other.hop,))
        now = self.house.clock.now()
        number = self.agent.originate(invitation, negotiation, now)
        conversation = self._open(number, pair, is_outbound=True)
        self.settle()
        return conversation

    def receive(self, data: bytes, hop: Hop) -> None:
        """A message came."""
        self.agent.receive(data, hop, self.house.clock.now())
        self.settle()

    def settle(self) -> None:
        """Hand on events, send what is to be sent."""
        if self._settling:
            return
        self._settling = True
        try:
            while True:
                events, sent = self.agent.events(), self.agent.outgoing()
                for each in sent:
                    self.house.carry(self, each.data, each.hop)
                for event in events:
                    self._tell(event)
                if not events and not sent:
                    break
        finally:
            self._settling = False
        due = self.agent.wake_at()
        if due is not None:
            self.house.wakes.append(self.house.clock.wake(due, self._woken))

    def _woken(self) -> None:
        if not self.house.is_over:
            self.agent.wake(self.house.clock.now())
            self.settle()

    def _tell(self, event: AgentEvent) -> None:
        self.told.append(event)
        now = self.house.clock.now()
        if isinstance(event, Invited):
            negotiation, pair = self._media()
            self._open(event.call, pair, is_outbound=False)
            self.agent.answer(event.call, negotiation, now)
            return
        conversation = self.calls[event.call]
        conversation.events.append(event)
        leg = conversation.leg
        match event:
            case Media(_, session, is_early):
                leg.agreed(session, now, is_early=is_early)
            case Connected():
                leg.connected(now)
            case Pressed(_, digit):
                leg.pressed(digit)
            case Referred(number, reference):
                self.agent.answer_refer(number, reference, self.referred, now)
            case ReferProgress(_, status):
                leg.refer_told(status)
            case CallEnded():
                leg.ended(event, self.ladders[event.call])

    def _media(self) -> tuple[Negotiation, PortPair]:
        pair = self.house.ports.take()
        local = Local(HOST, pair.port, fingerprint=self.house.fingerprint)
        made = Negotiation(self.capabilities, local, str(pair.port), secrets.token_bytes)
        return made, pair

    def ends(self, pair: PortPair) -> Ends:
        """What a leg of this phone has."""
        house = self.house
        return Ends(
            ports=pair,
            give_back=lambda: house.ports.give_back(pair),
            pacer=house.pacer,
            bits=secrets.randbits,
            patience=house.patience,
            wall_offset=0.0,
            cname=self.name.encode(),
            shake=self.house.shake,
        )

    def _open(self, number: CallNumber, pair: PortPair, *, is_outbound: bool) -> Conversation:
        facts = Facts(
            sip_call_id=self.agent.call_id(number),
            trunk="test",
            is_outbound=is_outbound,
            called="200",
            caller="100",
            caller_name="",
            transport="UDP",
            variables={"colour": "blue"},
            takes_info=self.house.takes_info,
        )
        leg = SipLeg(facts, PhoneLine(self, number), self.ends(pair))
        conversation = self.converse(number, leg, pair)
        conversation.call.start_seconds = self.house.start_seconds
        return conversation

    def converse(self, number: CallNumber, leg: SipLeg, pair: PortPair) -> Conversation:
        """A call on this leg, and its life."""
        house = self.house
        self.ladders[number] = self.agent.ladder(number)
        identity = Identity(
            call_id=f"{self.name}-{number}", carrier="sip", agent="t", worker_slot=0
        )
        ledger = Ledger(identity, datetime.now(UTC), house.clock.now())

        def wire_up(call: Call, _started: object) -> Chain:
            stages = [made.ears, *house.stages(self), Playout(leg, PlayoutOptions()), made.tail]
            return Chain(stages, call, at_tail=call.at_tail, at_head=call.at_head)

        made = Conversation(number, leg, pair, Call(ledger, OPTIONS, house.clock, wire_up))
        self.calls[number] = made
        made.outcome = asyncio.get_running_loop().create_task(made.call.run(leg))
        return made


class House:
    """Two phones and all between them; everything is given back when it is left."""

    def __init__(
        self,
        near: Capabilities | None = None,
        far: Capabilities | None = None,
        *,
        patience: Patience | None = None,
        start_seconds: float = 10.0,
        takes_info: bool = False,
    ) -> None:
        self.patience = patience or Patience()
        self.stages: Callable[[Phone], list[Processor]] = lambda _phone: []
        """What stands in a chain besides."""
        self.shake: Shake | None = None
        self.fingerprint: Fingerprint | None = None
        self.start_seconds, self.takes_info = start_seconds, takes_info
        self.drops: Callable[[Phone, bytes], bool] = lambda _phone, _data: False
        self.wakes: list = []
        self.is_over = False
        self._capabilities = near or Capabilities(), far or Capabilities()

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self.clock = WorkerClock(self.loop)
        self.pacer = Pacer(self.clock)
        self.ports = Ports(PortShare(LOW, HIGH, 1, 0), HOST, 1)
        self.near = Phone(self, "near", "192.0.2.1", self._capabilities[0])
        self.far = Phone(self, "far", "192.0.2.2", self._capabilities[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = []
        for phone in (self.near, self.far):
            for conversation in phone.calls.values():
                if conversation.outcome is not None and not conversation.outcome.done():
                    conversation.outcome.cancel()
                    tasks.append(conversation.outcome)
        await asyncio.gather(*tasks, return_exceptions=True)
        self.is_over = True
        for wake in self.wakes:
            wake.cancel()
        assert len(self.pacer) == 0, "a stream is still paced"
        assert len(self.ports) == 0, "a port was not given back"
        await asyncio.sleep(0)

    def carry(self, sender: Phone, data: bytes, hop: Hop) -> None:
        """A message goes to the other phone, in the next turn."""
        other = self.far if sender is self.near else self.near
        assert hop.host == other.hop.host
        if not self.drops(sender, data):
            self.loop.call_soon(other.receive, data, sender.hop)

    async def connect(self) -> tuple[Conversation, Conversation]:
        """A call that is up at both ends."""
        near = self.near.dial(self.far)
        await until(lambda: self.far.calls and self.hears(near))
        far = next(iter(self.far.calls.values()))
        await until(lambda: self.hears(far))
        return near, far

    @staticmethod
    def hears(conversation: Conversation) -> bool:
        """Whether its chain gets audio."""
        return bool(conversation.seen(InputAudio))
