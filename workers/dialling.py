"""Calls of ours, and transfers: where they may go, where that is, and what becomes of them.

`place` is what REST and agents ask: a number, an agent, perhaps a trunk. Policy says whether and how,
the resolver where, and then it is a call like any other, whose agent begins to speak when somebody
answers. It rings for calls.ring_seconds at most.

A REFER from the other side is such a call too, over the same trunk and under the same rules; when it is
answered the conversation goes on over it, and the one who asked is told and hung up (RFC 3515). A
redirection (3xx) is followed where the number in it may be called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from flowcatd.errors import FlowcatdError, LinkError, LocalError
from flowcatd.log import get_logger
from flowcatd.sip.agent_event import (
    CallEnded,
    CallNumber,
    Invitation,
    Redirected,
    Referred,
)
from flowcatd.sip.event import Hop
from flowcatd.sip.policy import Dial
from flowcatd.sip.resolve import Target
from flowcatd.sip.route import Refused
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri
from flowcatd.transports.sip_leg import Facts
from workers.calls import NoPlaceError
from workers.held import Counted, Held, MediaPorts
from workers.steer import refusal

if TYPE_CHECKING:
    from flowcatd.links.dns import Resolver
    from workers.telephony import Telephony

log = get_logger()

HOPS_MAX: Final = 8
"""Addresses of one destination that are tried for one call."""


class DialError(FlowcatdError):
    """A call that may not be placed, or that leads nowhere; `status` is SIP's word for it."""

    def __init__(self, status: int, problem: str) -> None:
        """`problem` is safe to show; the number is not in it."""
        self.status = status
        self.problem = problem
        super().__init__(problem)


@dataclass(frozen=True, slots=True)
class Wish:
    """A call that somebody wants placed."""

    to: str
    """A number, or on a trunk without a country any user name."""
    agent: str = ""
    trunk: str = ""
    """Empty takes the first one that may call the number."""
    caller_id: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


class Dialling:
    """One worker's calls to others."""

    def __init__(
        self, telephony: Telephony, resolver: Resolver, is_dead: Callable[[str], bool]
    ) -> None:
        """`is_dead` tells whether a trunk does not answer."""
        self._telephony = telephony
        self._resolver = resolver
        self._is_dead = is_dead
        self._targets: dict[CallNumber, tuple[Target, ...]] = {}

    # --- placing a call ---------------------------------------------------------------------------

    async def place(self, wish: Wish) -> str:
        """Call somebody; the call id. DialError, NoPlaceError or CapacityError say why not."""
        telephony = self._telephony
        premises = telephony.premises
        if wish.agent and wish.agent not in premises.agents:
            raise DialError(404, "no such agent")
        dial = self._dial(wish)
        counted = Counted(dial.trunk.name, inbound=False)
        with self._lent(counted):
            targets = await self._find(dial)
            key = ("dial", premises.token())
            if not premises.table.promise(key):
                raise NoPlaceError(refusal(premises.loads), telephony.retry_after)
            try:
                held = self._invite(dial, targets, counted)
            except FlowcatdError:
                premises.table.release(key)
                raise
        facts = Facts(
            sip_call_id=telephony.agent.call_id(held.number),
            trunk=counted.trunk,
            is_outbound=True,
            called=dial.number,
            caller=dial.caller,
            caller_name="",
            transport=held.hop.transport,
            variables=dict(wish.variables),
        )
        ring = premises.options.calls.ring_seconds
        telephony.open_leg(held, facts)
        parts = telephony.begin(held, facts, wish.agent, key, start_seconds=ring)
        telephony.settle()
        return parts.call.id

    def target(self, trunk: str, number: str) -> Uri:
        """Where a number is on a trunk, for a transfer; LocalError where it may not be called."""
        found = self._telephony.policy.may_dial(trunk, number)
        if isinstance(found, Refused):
            raise LocalError(f"no transfer: {found.reason}")
        return found

    @contextmanager
    def _lent(self, counted: Counted) -> Iterator[None]:
        """Give the quota back unless the block comes to its end; it may be cancelled, too."""
        is_taken = False
        try:
            yield
            is_taken = True
        finally:
            if not is_taken:
                self._telephony.policy.depart(counted.trunk, inbound=counted.inbound)

    def _dial(self, wish: Wish) -> Dial:
        telephony = self._telephony
        now = telephony.premises.clock.now()
        dial = telephony.policy.dial(wish.to, trunk=wish.trunk, caller_id=wish.caller_id, now=now)
        if isinstance(dial, Refused):
            raise DialError(dial.status, dial.reason)
        if self._is_dead(dial.trunk.name):
            telephony.policy.depart(dial.trunk.name, inbound=False)
            raise DialError(503, "the trunk does not answer")
        return dial

    async def _find(self, dial: Dial) -> tuple[Target, ...]:
        targets: list[Target] = []
        for uri in dial.next_hops:
            try:
                targets += await self._resolver.find(uri)
            except (SipError, LinkError) as error:
                log.warning("trunk.unresolved", trunk=dial.trunk.name, why=str(error))
        if not targets:
            raise DialError(503, "the trunk's address cannot be found")
        return tuple(targets[:HOPS_MAX])

    def _invite(self, dial: Dial, targets: tuple[Target, ...], counted: Counted) -> Held:
        telephony = self._telephony
        premises, now = telephony.premises, telephony.premises.clock.now()
        hops = tuple(Hop(each.transport, each.host, each.port, 0, each.name) for each in targets)
        media: MediaPorts = premises.take_ports(hops[0])
        try:
            negotiation = telephony.negotiation(dial.capabilities, hops[0], media)
            invitation = Invitation(
                target=dial.target,
                caller=dial.caller_address,
                hops=hops,
                routes=dial.routes,
                fields=dial.fields,
                answerer=dial.answerer,
                terms=dial.terms,
            )
            number = telephony.agent.originate(invitation, negotiation, now)
        except FlowcatdError:
            media.give_back()
            raise
        self._targets[number] = targets
        return telephony.hold(number, hops[0], counted, media)

    # --- what becomes of it -----------------------------------------------------------------------

    def connected(self, held: Held) -> None:
        """Somebody answered; one that was asked for by REFER takes the conversation over."""
        for target in self._targets.pop(held.number, ())[:1]:
            self._resolver.praise(target)
        held.answered()
        if held.referrer is None:
            return
        telephony = self._telephony
        number, reference = held.referrer
        older = telephony.find(number)
        if held.leg is not None:
            return  # who asked for it hung up, and left us the conversation
        if older is None or older.leg is None:
            telephony.agent.hang_up(held.number, telephony.premises.clock.now())
            return
        now = telephony.premises.clock.now()
        telephony.agent.report_refer(number, reference, 200, now)
        telephony.take_over(older, held)
        telephony.agent.hang_up(number, now)

    def ended(self, held: Held, event: CallEnded) -> None:
        """It is over; a transfer that came to nothing is told to who asked for it."""
        targets = self._targets.pop(held.number, ())
        if not event.by_peer and event.status in {408, 503} and targets:
            self._resolver.shun(targets[0])
        agent, now = self._telephony.agent, self._telephony.premises.clock.now()
        ringing = [each for each in held.wanted if each.leg is None and not each.is_ended]
        if event.by_peer and held.leg is not None and ringing:
            # Many telephones hang up as soon as their transfer was accepted.
            self._telephony.take_over(held, ringing.pop(0), is_up=False)
        for newer in ringing:  # nobody is left whom it could be connected with
            agent.hang_up(newer.number, now)
        if held.referrer is None or held.leg is not None:
            return
        number, reference = held.referrer
        older = self._telephony.find(number)
        if older is not None and not older.is_ended:
            older.wanted.remove(held)
            status = event.status if event.status >= 300 else 487
            agent.report_refer(number, reference, status, now)

    def redirected(self, held: Held, event: Redirected) -> None:
        """Follow the first place whose number may be called."""
        telephony = self._telephony
        for contact in event.contacts:
            found = telephony.policy.may_dial(held.counted.trunk, contact.user)
            if not isinstance(found, Refused):
                target = replace(contact, headers=())
                telephony.spawn(self._follow(held, target, event.status))
                return
        log.info("call.refused", why="redirected to where we may not call", status=event.status)
        self._not_followed(held, event.status)

    def _not_followed(self, held: Held, status: int) -> None:
        """The redirection was their last word: the record has it, not that we gave up."""
        telephony = self._telephony
        if held.leg is not None:
            held.leg.ended(CallEnded(held.number, True, status), held.ladder)
        telephony.agent.hang_up(held.number, telephony.premises.clock.now())

    async def _follow(self, held: Held, target: Uri, status: int) -> None:
        telephony = self._telephony
        try:
            targets = await self._resolver.find(target)
        except (SipError, LinkError):
            targets = ()
        now = telephony.premises.clock.now()
        if telephony.find(held.number) is None or held.is_ended:
            return
        hops = tuple(Hop(each.transport, each.host, each.port, 0, each.name) for each in targets)
        try:
            if hops:
                telephony.agent.follow(held.number, target, hops[:HOPS_MAX], now)
            else:
                self._not_followed(held, status)
        except LocalError:
            self._not_followed(held, status)
        telephony.settle()

    # --- transfers that the other side asks for ---------------------------------------------------

    def referred(self, held: Held, event: Referred) -> None:
        """Call whom the other side wants the conversation to go on with, where that may be called."""
        telephony = self._telephony
        telephony.spawn(self._refer(held, event))

    async def _refer(self, held: Held, event: Referred) -> None:
        telephony = self._telephony
        agent = telephony.agent
        now = telephony.premises.clock.now
        trunk = held.counted.trunk
        wish = Wish(to=event.target.user, trunk=trunk)
        counted = Counted(trunk, inbound=False)
        try:
            dial = self._dial(wish)
        except FlowcatdError as error:
            log.info("call.refused", why=f"a transfer: {error}", status=603)
            self._answer_refer(held, event.reference, 603)
            return
        fields = [("Referred-By", event.referred_by)] if event.referred_by else []
        if event.replaces is not None:
            fields.append(("Replaces", str(event.replaces)))
        try:
            with self._lent(counted):
                agent.answer_refer(held.number, event.reference, 202, now())
                telephony.settle()
                targets = await self._find(dial)
                if held.is_ended:
                    raise LocalError("they hung up meanwhile")
                newer = self._invite(
                    replace(dial, fields=(*dial.fields, *fields)), targets, counted
                )
        except FlowcatdError:
            if not held.is_ended:
                agent.report_refer(held.number, event.reference, 503, now())
            telephony.settle()
            return
        newer.referrer = (held.number, event.reference)
        held.wanted.append(newer)
        clock, calls = telephony.premises.clock, telephony.premises.options.calls
        newer.ringing = clock.wake(now() + calls.ring_seconds, partial(self._unanswered, newer))
        telephony.settle()

    def _unanswered(self, held: Held) -> None:
        """It rang for as long as it may."""
        telephony = self._telephony
        telephony.agent.hang_up(held.number, telephony.premises.clock.now())
        telephony.settle()

    def _answer_refer(self, held: Held, reference: int, status: int) -> None:
        telephony = self._telephony
        try:
            telephony.agent.answer_refer(
                held.number, reference, status, telephony.premises.clock.now()
            )
        except LocalError:
            return  # they hung up meanwhile
        telephony.settle()
