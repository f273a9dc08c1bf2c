"""A call as text, and back: how another process takes it up (same tags, same numbers, same session).

Times are monotonic seconds, which all processes of a machine share; after a restart of the machine no
call is left to take up. What is under way at the moment of a snapshot is not in it: a change of ours is
asked for again, theirs comes again, an ACK that was awaited is not missed, and a 2xx that nobody
acknowledged is (`change.receive_stray`).
"""

from __future__ import annotations

import msgspec

from flowcatd.sip.agent_event import CallTerms
from flowcatd.sip.change import arm_refresh
from flowcatd.sip.desk import Desk
from flowcatd.sip.dialog import Dialog, DialogSnapshot
from flowcatd.sip.digest import Answerer
from flowcatd.sip.invite import TALKING, Call, State
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.offer import Snapshot as NegotiationSnapshot
from flowcatd.sip.refresh import Refresh
from flowcatd.sip.session import Capabilities, Local


class CallSnapshot(msgspec.Struct, frozen=True):
    """A call that is up; it holds keys and addresses: never log it."""

    dialog: DialogSnapshot
    negotiation: NegotiationSnapshot
    refresh_seconds: int
    refresh_is_ours: bool
    refresh_due: float | None
    ends_due: float | None
    least: int
    has_update: bool
    terms: CallTerms = CallTerms()


def snapshot(call: Call) -> CallSnapshot | None:
    """Everything that another process needs, or None while the call is not answered."""
    negotiation = call.negotiation
    if call.state not in TALKING or call.dialog is None or negotiation is None:
        return None
    if negotiation.session is None:
        return None
    return CallSnapshot(
        call.dialog.snapshot(),
        negotiation.snapshot(),
        call.refresh.seconds,
        call.refresh.is_ours,
        call.refresh_due,
        call.ends_due,
        call.least,
        call.has_update,
        call.terms,
    )


def restore(
    desk: Desk,
    text: CallSnapshot,
    capabilities: Capabilities,
    local: Local,
    answerer: Answerer | None,
) -> Call:
    """The call where it was left; SipError 488 when the capabilities do not allow its session."""
    dialog = Dialog.restore(text.dialog)
    negotiation = Negotiation.restore(text.negotiation, capabilities, local)
    request = dialog.build("INVITE", desk.via(dialog.hop), cseq=dialog.local_cseq)
    tag = dialog.local.tag
    call = Call(desk.new_number(), State.UP, request, dialog.hop, tag, text.terms, dialog)
    call.negotiation, call.session = negotiation, negotiation.session
    call.answerer, call.is_restored = answerer, True
    call.least, call.has_update = text.least, text.has_update
    call.refresh = Refresh(text.refresh_seconds, text.refresh_is_ours)
    call.refresh_due, call.ends_due = text.refresh_due, text.ends_due
    desk.keep(call)
    desk.found[dialog.key] = call
    arm_refresh(desk, call)
    return call
