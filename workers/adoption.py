"""A call over SIP survives its worker: whoever follows in the slot takes up its dialogs and its media.

A journal's `leg` holds the dialog and the descriptions (`sip/adopt.py`) and where the RTP stream stands
(`transports/sip_leg.LegState`). The tags carry the slot, so what the other side sends within the dialog
comes to us; the ports are the slot's own, so its RTP comes to us, too. In two steps, because speech
takes its time to start and the line must not be silent for so long:

    1. `Adoption.media`  ports bound, streams going on with the same SSRC, dialogs known: at once
    2. `Adoption.calls`  conversations go on from their state: when the worker can speak

A journal is claimed only in the second step, by its rename, like that of any call that comes back.
What cannot be taken up, because its port or its trunk is gone, is hung up: nobody shall sit in a call
that no agent is in. The same becomes of calls whose slot does not come back (`part`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from flowcatd.errors import FlowcatdError
from flowcatd.journal import NOTHING, Journal, may_resume
from flowcatd.links.journal import Found
from flowcatd.log import get_logger
from flowcatd.sip.adopt import CallSnapshot
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import Cause
from flowcatd.sip.event import Hop
from flowcatd.sip.session import Capabilities, Local
from flowcatd.transports.sip_leg import LegState, SipLeg
from workers.held import Counted, Held, MediaPorts
from workers.sip_line import HeldLine

if TYPE_CHECKING:
    from workers.telephony import Telephony

log = get_logger()

NOWHERE = Local("127.0.0.1", 9)
"""Where no media is wanted any more (the discard port)."""
NO_AGENT = Cause("Q.850", 41, "temporary failure")
"""Why a call ends that cannot be taken up."""


class Kept(msgspec.Struct, frozen=True):
    """What a journal knows of a call's SIP side; it holds keys and addresses: never log it."""

    call: CallSnapshot
    leg: LegState
    trunk: str
    inbound: bool
    port: int


def kept_of(agent: UserAgent, held: Held, now: float) -> Kept | None:
    """The call as it is, or None while it is not answered, or has ended."""
    if held.leg is None or held.is_ended:
        return None
    call = agent.snapshot(held.number)
    leg = held.leg.snapshot(now)
    if call is None or leg is None:
        return None
    counted = held.counted
    return Kept(call, leg, counted.trunk, counted.inbound, held.media.pair.port)


def read_kept(journal: Journal) -> Kept | None:
    """What `kept_of` gave, or None for another kind of call, or another version's."""
    if bytes(journal.leg) == bytes(NOTHING):
        return None
    try:
        return msgspec.json.decode(journal.leg, type=Kept)
    except msgspec.MsgspecError:
        return None


class Adoption:
    """One worker's taking up, at its start."""

    def __init__(self, telephony: Telephony) -> None:
        self._telephony = telephony
        self._waiting: list[tuple[Held, Found]] = []

    def __len__(self) -> int:
        """Calls whose media goes on and whose conversation does not yet."""
        return len(self._waiting)

    def media(self, found: list[Found]) -> None:
        """Go on with the lines of these calls; each is silent for now."""
        patience = self._telephony.premises.options.calls.resume_seconds
        for each in found:
            kept, identity = read_kept(each.journal), each.journal.identity
            # Of what is older than that nobody knows who has its address by now.
            if kept is None or not may_resume(each.journal, identity, datetime.now(UTC), patience):
                continue
            try:
                self._telephony.premises.agent(identity.agent)
                self._waiting.append((self._take_up(kept), each))
            except FlowcatdError as error:
                log.warning("call.unadopted", call=identity.call_id, why=str(error))
                self.part(each.journal)
            except Exception:  # the call's boundary: one journal shall not stop the slot
                log.exception("call.failed", call=identity.call_id)
                self.part(each.journal)
        self._telephony.settle()

    def calls(self) -> None:
        """Go on with the conversations."""
        telephony = self._telephony
        waiting, self._waiting = self._waiting, []
        for held, found in waiting:
            leg = held.leg
            if leg is None or held.is_ended:
                continue  # they hung up meanwhile; orphans closes the record
            identity = found.journal.identity
            key = ("sip", held.number)
            # It had its place before we were there: room or none, it is let in.
            telephony.premises.table.promise_again(key)
            telephony.begin(held, leg.facts, identity.agent, key, found=(found,))
            leg.connected(telephony.premises.clock.now())
        telephony.settle()

    def part(self, journal: Journal) -> None:
        """Hang up a call that nobody will take up: a BYE in its dialog is all that is left of it."""
        kept = read_kept(journal)
        if kept is None:
            return
        telephony = self._telephony
        now = telephony.premises.clock.now()
        try:
            number = telephony.agent.restore(
                kept.call,
                self._capabilities(kept.trunk),
                NOWHERE,
                now,
            )
        except FlowcatdError:
            return
        except Exception:  # as above: who cares for orphans goes on
            log.exception("call.failed", call=journal.identity.call_id)
            return
        telephony.agent.hang_up(number, now, NO_AGENT)
        telephony.settle()

    def _take_up(self, kept: Kept) -> Held:
        telephony = self._telephony
        premises, agent, policy = telephony.premises, telephony.agent, telephony.policy
        now = premises.clock.now()
        dialog = kept.call.dialog
        hop = Hop(dialog.transport, dialog.host, dialog.port)
        capabilities = self._capabilities(kept.trunk)
        media: MediaPorts = premises.take_ports_again(hop, kept.port)
        try:
            local = premises.local(hop, media, capabilities.secrecy)
            number = agent.restore(kept.call, capabilities, local, now, policy.answerer(kept.trunk))
        except Exception:
            media.give_back()
            raise
        # From here on its end gives everything back.
        held = telephony.hold(number, hop, Counted(kept.trunk, kept.inbound), media)
        policy.take_up(kept.trunk, inbound=kept.inbound)
        negotiation = agent.negotiation(number)
        session = negotiation.session if negotiation is not None else None
        assert session is not None, "only what is agreed is kept"
        held.session = session
        try:
            held.leg = SipLeg.taken_up(
                kept.leg, HeldLine(telephony, held), premises.ends(media), session, now
            )
        except Exception:  # what made it impossible is told; the line ends, and nobody is in it
            log.exception("call.failed", call="")
            agent.hang_up(number, now, NO_AGENT)
        return held

    def _capabilities(self, trunk: str) -> Capabilities:
        """As the trunk has them now; of one that was removed, all there are."""
        policy = self._telephony.policy
        known = policy.trunks.get(trunk)
        return Capabilities() if known is None else policy.capabilities(known)
