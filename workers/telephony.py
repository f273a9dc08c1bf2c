"""A worker's calls over SIP: one user agent, its policy, and a leg for every call.

    SipWire ─ bytes, hop ─► receive ─┬─► Registrations   (answers to REGISTER and OPTIONS of ours)
                                     └─► UserAgent ─ events ─► here ─► SipLeg ─► Call
    after anything: `settle` hands events on, sends what is to be sent, and arms one wake

Here meet what the user agent wants to know (may this one in, who answers, is there room, which port)
and those who know it: Policy, the call table, `Premises`, Wiring. Everything from an INVITE to its 200
happens in one turn of the loop. What raises while an event is handed on ends that call and no other.

Who has no room although it was chosen passes the INVITE on to a fellow who has; only when nobody has
is it a 503. Calls of ours and transfers are in `dialling.py`, the calls of a dead worker in
`adoption.py`; both use `hold`, `open_leg`, `begin` and `settle` from here.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from flowcatd.errors import CapacityError, FlowcatdError
from flowcatd.journal import NOTHING
from flowcatd.links.journal import Found
from flowcatd.log import get_logger
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import (
    AgentEvent,
    Busy,
    CallEnded,
    CallNumber,
    Connected,
    Invited,
    Media,
    Mint,
    Pressed,
    Redirected,
    ReferProgress,
    Referred,
    Terms,
)
from flowcatd.sip.event import Hop
from flowcatd.sip.message import Request, Response, parse_message
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.policy import Arrived, Policy
from flowcatd.sip.route import Refused
from flowcatd.sip.session import Capabilities
from flowcatd.sip.trouble import SipError
from flowcatd.sip_figures import SipFigures
from flowcatd.transports.sip_leg import Facts, SipLeg
from flowcatd.wake import Wake
from workers.adoption import kept_of
from workers.calls import NoPlaceError
from workers.held import Counted, Held, MediaPorts
from workers.parts import Parts
from workers.premises import Premises
from workers.sip_line import HeldLine
from workers.steer import refusal, room
from workers.wiring import Wiring, identity_of

if TYPE_CHECKING:
    from workers.dialling import Dialling
    from workers.registrations import Registrations
    from workers.sip_wire import SipWire

log = get_logger()

ROUNDS: Final = 1000
"""Of handing events on in one turn; each brings the calls it is about further."""
PART_SECONDS: Final = 1.0
"""What the last answer of a call gets to stand in its record, too."""
CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx", "6xx")
ACK_SECONDS: Final = 45.0
"""RFC 3261 §13.3.1.4: after 64*T1 the user agent itself gives up on an ACK."""


class Telephony:
    """One worker's SIP side; `wire`, `wiring` and the rest are set before anything is received."""

    wire: SipWire
    wiring: Wiring
    dialling: Dialling
    registrations: Registrations

    def __init__(self, premises: Premises, policy: Policy) -> None:
        """Nothing is sent or taken before the wire is started."""
        self.premises = premises
        self.policy = policy
        options = premises.options
        terms = Terms(calls=2 * options.calls.per_worker + 100)
        mint = Mint(premises.token, premises.here, secrets.SystemRandom().random, premises.locate)
        self.agent = UserAgent(mint, terms, admit=policy.admit)
        self._held: dict[CallNumber, Held] = {}
        self._parting: set[CallNumber] = set()
        self._events: deque[AgentEvent] = deque()
        self._settling = False
        self._wake: Wake | None = None
        self._wake_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self.retry_after = options.calls.retry_after_seconds
        self._received_at = 0.0
        self.answered = dict.fromkeys(CLASSES, 0)
        """Responses sent, by class."""

    def __len__(self) -> int:
        """Calls that the user agent has not forgotten."""
        return len(self._held)

    # --- what the wire tells ----------------------------------------------------------------------

    def receive(self, data: bytes, hop: Hop) -> None:
        """A message that is this worker's."""
        premises = self.premises
        now = self._received_at = premises.clock.now()
        try:
            message: Request | Response | None = parse_message(data)
        except SipError:
            message = None  # the user agent answers it, or drops it
        if isinstance(message, Response) and self.registrations.receive(message, hop, now):
            return
        if isinstance(message, Request) and self._is_for_another(message, data, hop):
            return
        self.agent.set_busy(self._busy())
        self.agent.receive(data if message is None else message, hop, now)
        self.settle()

    def failed(self, hop: Hop) -> None:
        """Nothing can be sent to this hop any more."""
        now = self.premises.clock.now()
        self.premises.lost(hop)
        # A trunk's connection carries both.
        self.registrations.receive_failure(hop, now)
        self.agent.receive_failure(hop, now)
        self.settle()

    def _busy(self) -> Busy | None:
        table = self.premises.table
        return Busy(self.retry_after) if table.draining or table.shedding else None

    def _is_for_another(self, request: Request, data: bytes, hop: Hop) -> bool:
        """Whether a fellow with room got a call that we would have to refuse."""
        if request.method != "INVITE" or request.to.tag:
            return False
        premises = self.premises
        if room(premises.seat, premises.loads) > 0 or self.agent.knows(request):
            return False
        return self.wire.pass_on(data, hop)

    # --- the pump ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """Hand on what happened, send what is to be sent, and be woken in time."""
        if self._settling:
            return  # whoever is at it comes to ours as well
        self._settling = True
        try:
            for _ in range(ROUNDS):
                self._events.extend(self.agent.events())
                sent = self.agent.outgoing()
                for each in sent:
                    self._count(each.data)
                    self.wire.send(each.data, each.hop)
                if self._events:
                    self._hand_on(self._events.popleft())
                elif not sent:
                    break
        finally:
            self._settling = False
        self._forget()
        self._arm()

    def _count(self, data: bytes) -> None:
        if data.startswith(b"SIP/2.0 "):
            self.answered[CLASSES[data[8] - 49]] += 1

    def _arm(self) -> None:
        due = self.premises.clock.now() if self._events else self.agent.wake_at()
        if self._wake is not None:
            if due == self._wake_at:
                return
            self._wake.cancel()
            self._wake = None
        if due is not None:
            self._wake_at = due
            self._wake = self.premises.clock.wake(due, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self.agent.wake(self.premises.clock.now())
        self.settle()

    def _forget(self) -> None:
        """Let go of the calls that the user agent has let go of."""
        for number in [each for each in self._parting if not self.agent.has(each)]:
            self._parting.discard(number)
            held = self._held.pop(number)
            if held.leg is not None:
                held.leg.note_ladder(held.ladder)  # with the last answer
            held.over.set()

    # --- events -----------------------------------------------------------------------------------

    def _hand_on(self, event: AgentEvent) -> None:
        if isinstance(event, Invited):
            self._invited(event)
            return
        held = self._held.get(event.call)
        if held is None:
            return
        try:
            self._tell(held, event)
        except FlowcatdError as error:
            self._fail(held, error)
        except Exception as error:  # the call's boundary, as in Call
            log.exception("call.failed", call=held.parts.call.id if held.parts else "")
            self._fail(held, error)

    def _fail(self, held: Held, error: Exception) -> None:
        if held.parts is not None and held.leg is not None:
            held.parts.call.fail(error)
        else:
            self.agent.hang_up(held.number, self.premises.clock.now())

    def _tell(self, held: Held, event: AgentEvent) -> None:
        tell = _TOLD.get(type(event))
        if tell is None:
            return  # Progress, ChangeRefused, Texted: the ladder has them
        tell(self, held, event)
        if held.parts is not None:
            held.parts.changed()

    def _media(self, held: Held, event: Media) -> None:
        held.session = event.session
        if held.leg is not None:
            now = self.premises.clock.now()
            held.leg.agreed(event.session, now, is_early=event.is_early)

    def _connected(self, held: Held, event: Connected) -> None:
        self.dialling.connected(held)
        if held.leg is not None:
            if isinstance(event.message, Response):
                held.leg.learn(takes_info="info" in event.message.words("allow"))
            held.leg.connected(self.premises.clock.now())

    def _pressed(self, held: Held, event: Pressed) -> None:
        if held.leg is not None:
            held.leg.pressed(event.digit)

    def _redirected(self, held: Held, event: Redirected) -> None:
        self.dialling.redirected(held, event)

    def _referred(self, held: Held, event: Referred) -> None:
        self.dialling.referred(held, event)

    def _refer_told(self, held: Held, event: ReferProgress) -> None:
        if held.leg is not None:
            held.leg.refer_told(event.status)

    def _ended(self, held: Held, event: CallEnded) -> None:
        held.end()
        self._parting.add(held.number)
        self.dialling.ended(held, event)
        if held.leg is not None:
            held.leg.ended(event, held.ladder)

    # --- a call comes in --------------------------------------------------------------------------

    def _invited(self, event: Invited) -> None:
        now = self.premises.clock.now()
        arrived = self.policy.arrive(event.request, event.hop, now)
        if isinstance(arrived, Refused):
            self._turn_away(event.call, arrived.status, "not_allowed", arrived.reason)
            return
        counted = Counted(arrived.trunk.name, inbound=True)
        try:
            held = self._let_in(event, arrived, counted)
        except NoPlaceError as error:
            self._uncount(counted)
            self._turn_away(event.call, 503, error.cause, str(error))
        except CapacityError as error:
            self._uncount(counted)
            self._turn_away(event.call, 503, "full", str(error))
        except SipError as error:
            self._uncount(counted)
            self._turn_away(event.call, error.status or 400, "not_understood", error.problem)
        except FlowcatdError as error:
            self._uncount(counted)
            self._turn_away(event.call, 503, "not_allowed", str(error))
        except Exception:  # the call's boundary, as in Call
            log.exception("call.failed", call="")
            self.premises.table.release(("sip", event.call))
            if event.call not in self._held:
                self._uncount(counted)
            self.agent.hang_up(event.call, now)
        else:
            self.premises.answered_after(self.premises.clock.now() - self._received_at)
            log.debug("call.invited", trunk=counted.trunk, transport=held.hop.transport)

    def _let_in(self, event: Invited, arrived: Arrived, counted: Counted) -> Held:
        """Take, or take over, the call; raises FlowcatdError with everything given back."""
        older = None if event.replaces is None else self._held.get(event.replaces)
        if older is not None and older.leg is None:
            raise SipError("a Replaces of a call without a conversation", 481)
        if older is not None and older.counted.trunk != counted.trunk:
            raise SipError("a Replaces of another trunk's call", 403)  # RFC 3891 §3
        self.premises.agent(arrived.agent)
        key = ("sip", event.call)
        if older is None and not self.premises.table.promise(key):
            raise NoPlaceError(refusal(self.premises.loads), self.retry_after)
        media: MediaPorts | None = None
        try:
            media = self.premises.take_ports(event.hop)
            negotiation = self.negotiation(arrived.capabilities, event.hop, media)
            now = self.premises.clock.now()
            held = self.hold(event.call, event.hop, counted, media)
            self.agent.answer(event.call, negotiation, now, arrived.terms)
        except FlowcatdError:
            self._held.pop(event.call, None)
            self.premises.table.release(key)
            if media is not None:
                media.give_back()
            raise
        if older is not None:
            self.take_over(older, held)
            return held
        facts = Facts(
            sip_call_id=event.request.call_id,
            trunk=counted.trunk,
            is_outbound=False,
            called=arrived.called,
            caller=arrived.caller,
            caller_name=arrived.caller_name,
            transport=event.hop.transport,
            variables=dict(arrived.variables),
            takes_info="info" in event.request.words("allow"),
        )
        self.open_leg(held, facts)
        self.begin(held, facts, arrived.agent, key)
        return held

    def _turn_away(self, number: CallNumber, status: int, cause: str, why: str) -> None:
        fields: tuple[tuple[str, str], ...] = ()
        if status == 503:
            fields = (("Retry-After", str(self.retry_after)),)
        self.agent.reject(number, status, self.premises.clock.now(), fields)
        self.premises.refused(cause)
        log.info("call.refused", why=why, status=status)

    def _uncount(self, counted: Counted) -> None:
        self.policy.depart(counted.trunk, inbound=counted.inbound)

    # --- what calls of every kind are made with ---------------------------------------------------

    def negotiation(self, capabilities: Capabilities, hop: Hop, media: MediaPorts) -> Negotiation:
        """Descriptions of a new call whose media are at these ports."""
        local = self.premises.local(hop, media, capabilities.secrecy)
        return Negotiation(capabilities, local, str(secrets.randbits(53)), secrets.token_bytes)

    def hold(self, number: CallNumber, hop: Hop, counted: Counted, media: MediaPorts) -> Held:
        """Keep a call of the user agent's."""
        ladder = self.agent.ladder(number)
        held = Held(number, hop, ladder, counted, media, self._uncount)
        self._held[number] = held
        return held

    def find(self, number: CallNumber) -> Held | None:
        """The call of this number."""
        return self._held.get(number)

    def open_leg(self, held: Held, facts: Facts) -> SipLeg:
        """Give it a leg of its own."""
        ends = self.premises.ends(held.media)
        held.leg = SipLeg(facts, HeldLine(self, held), ends)
        return held.leg

    def take_over(self, older: Held, newer: Held, *, is_up: bool = True) -> None:
        """The leg, and the conversation on it, goes on over another dialog, once that is answered."""
        leg, older.leg = older.leg, None
        if leg is None:
            return
        newer.leg, newer.parts = leg, older.parts
        older.parts = None
        older.remain.media.append(newer.media)
        newer.remain = older.remain
        leg.replaced(HeldLine(self, newer), self.premises.ends(newer.media), is_up=is_up)
        if newer.session is not None:
            leg.agreed(newer.session, self.premises.clock.now(), is_early=not is_up)
        if newer.parts is not None:
            newer.parts.leg = partial(self._keep, newer)
            newer.parts.changed()

    def begin(
        self,
        held: Held,
        facts: Facts,
        agent: str,
        key: object,
        *,
        start_seconds: float = ACK_SECONDS,
        found: Sequence[Found] = (),
    ) -> Parts:
        """The call's own life starts; the place promised to `key` is its."""
        premises, leg = self.premises, held.leg
        assert leg is not None
        who = premises.agent(agent)
        identity = identity_of(
            run_id=facts.sip_call_id[:128],
            carrier="sip",
            agent=who.name,
            slot=premises.slot,
            token=secrets.token_hex(4),
        )
        parts = self.wiring.open(leg, who, identity, found)
        held.parts = parts
        parts.leg = partial(self._keep, held)
        parts.call.start_seconds = start_seconds
        log.info("call.started", call=identity.call_id, carrier="sip", agent=who.name)
        self.spawn(self.live(parts, leg, held, key))
        return parts

    def _keep(self, held: Held, now: float) -> msgspec.Raw:
        """What of this call another process needs beside its words; null while there is nothing."""
        kept = kept_of(self.agent, held, now)
        return NOTHING if kept is None else msgspec.Raw(msgspec.json.encode(kept))

    def spawn(self, work: Any) -> asyncio.Task[None]:
        """A task of a call's; as many as there are calls."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name="sip.call")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def live(self, parts: Parts, leg: SipLeg, held: Held, key: object) -> None:
        """One call, from its first media to its record."""
        table, call = self.premises.table, parts.call
        try:
            with table.place(key):
                parts.listing = table
                table.add(call)
                try:
                    outcome = await call.run(leg)
                    await self._part(leg)
                    await self.wiring.keep(parts, outcome)
                finally:
                    table.remove(call)
        except NoPlaceError:  # the loop stood still for longer than a promise holds
            self.agent.hang_up(held.number, self.premises.clock.now())
            self.settle()
        finally:
            leg.drop()
            held.media.give_back()
            self.premises.ended(call, held.remain)

    async def _part(self, leg: SipLeg) -> None:
        """Wait a moment for the last answer, so that the record has it."""
        mine = [held for held in self._held.values() if held.leg is leg]
        for held in mine:
            try:
                async with asyncio.timeout(PART_SECONDS):
                    await held.over.wait()
            except TimeoutError:
                pass
            leg.note_ladder(held.ladder)

    def figures(self, call_id: str) -> SipFigures | None:
        """How a live call goes, with its ladder; None when it is none of ours."""
        for held in self._held.values():
            if held.parts is not None and held.leg is not None and held.parts.call.id == call_id:
                held.leg.note_ladder(held.ladder)
                return held.leg.figures()
        return None

    async def close(self) -> None:
        """Every call has had its end: what is left of tasks goes."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for held in self._held.values():  # of no task: taken up only, or asked for by REFER
            if held.leg is not None:
                held.leg.drop()
            held.answered()
            held.media.give_back()
        if self._wake is not None:
            self._wake.cancel()


_TOLD: Final[dict[type, Callable[[Telephony, Held, Any], None]]] = {
    Media: Telephony._media,  # noqa: SLF001 the table's own methods
    Connected: Telephony._connected,  # noqa: SLF001
    Pressed: Telephony._pressed,  # noqa: SLF001
    Redirected: Telephony._redirected,  # noqa: SLF001
    Referred: Telephony._referred,  # noqa: SLF001
    ReferProgress: Telephony._refer_told,  # noqa: SLF001
    CallEnded: Telephony._ended,  # noqa: SLF001
}
