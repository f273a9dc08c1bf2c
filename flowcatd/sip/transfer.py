"""Transfers within a call, both ways (RFC 3515, RFC 3891, RFC 4488).

Whoever gets a REFER calls the target and reports what comes of it by NOTIFY, status line by status
line, until a final one. Here both roles stand beside each other: `refer` and `receive_notify` are the
one who asks, `receive_refer`, `answer` and `report` the one who is asked. To call is the user's. The
call in which it happens may end before the transfer is decided; it then takes NOTIFYs a while longer.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from flowcatd.errors import LocalError
from flowcatd.sip.agent_event import ReferProgress, Referred
from flowcatd.sip.body import FRAGMENT, status_of, write_fragment
from flowcatd.sip.desk import Desk
from flowcatd.sip.event import Asked
from flowcatd.sip.invite import Call, State, Transfer
from flowcatd.sip.message import Request, Response
from flowcatd.sip.refer import (
    REFERENCES_MAX,
    SUBSCRIPTION_SECONDS,
    Replaces,
    parse_reference,
    refer_to,
)
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri

_UNSUBSCRIBES: Final = frozenset({404, 405, 410, 416, *range(480, 486), 489, 501, 604})

# --- we ask ---------------------------------------------------------------------------------------


def refer(desk: Desk, call: Call, target: Uri, other: Call | None) -> None:
    """Asks the peer to call `target`, in place of our call `other` if there is one."""
    if call.state is not State.UP or call.dialog is None:
        raise LocalError("only a call that is up can be transferred")
    if len(call.transfers) >= REFERENCES_MAX:
        raise LocalError("too many transfers of one call")
    replaces = None
    if other is not None:
        if other.dialog is None:
            raise LocalError("the other call is not up")
        key = other.dialog.key
        # Seen from the one who is to be replaced, who is the peer of `other`.
        replaces = Replaces(key.call_id, key.remote_tag, key.local_tag)
    request, hop = desk.compose(call, call.dialog, "REFER")
    request.put("refer-to", refer_to(target, replaces))
    request.put("referred-by", f"<{call.dialog.local.uri}>")
    number = request.cseq.number
    call.transfers[number] = Transfer(is_ours=True)
    _await(desk, call, number)
    desk.ask(call, call.dialog, request, hop, partial(_receive_answer, desk, call, number))


def _await(desk: Desk, call: Call, number: int) -> None:
    due = desk.now + SUBSCRIPTION_SECONDS
    desk.arm(call, f"refer {number}", due, lambda: _decide(desk, call, number, 408))


def _receive_answer(
    desk: Desk, call: Call, number: int, request: Request, response: Response | None
) -> None:
    status = 408 if response is None else response.status
    if status >= 300:
        _decide(desk, call, number, status)
    elif number != request.cseq.number and number in call.transfers:
        # It was challenged: notifications name the number that was accepted.
        call.transfers[request.cseq.number] = call.transfers.pop(number)
        desk.disarm(call, f"refer {number}")
        _await(desk, call, request.cseq.number)


def _decide(desk: Desk, call: Call, number: int, status: int) -> None:
    if call.transfers.pop(number, None) is not None:
        desk.disarm(call, f"refer {number}")
        desk.tell(call, ReferProgress(call.number, status))


def receive_notify(desk: Desk, call: Call, event: Asked) -> None:
    """A NOTIFY: what has become of our REFER."""
    request = event.request
    try:
        number = _find_ours(call, request)
        state = request.valued("subscription-state")
        is_last = state is not None and state.value.lower() == "terminated"
        # Who ends the subscription early may have nothing to say (RFC 6665 §4.2.2).
        status = 100 if is_last and not request.body else status_of(request)
    except SipError as error:
        desk.refuse(event.id, request, error, call)
        return
    desk.reply(event.id, request, 200, call)
    if status >= 200 or is_last:
        # A last word that is none: nobody will say any more how it went.
        _decide(desk, call, number, status if status >= 200 else 408)
    else:
        desk.tell(call, ReferProgress(call.number, status))


def _find_ours(call: Call, request: Request) -> int:
    package = request.valued("event")
    if package is None or package.value.lower() != "refer":
        raise SipError("another event than refer", 489)
    ours = [number for number, each in call.transfers.items() if each.is_ours]
    wanted = package.parameters.get("id")
    for number in ours:
        # The only one is meant, whatever its number: a challenge may have raised it meanwhile.
        if wanted is None or wanted == str(number) or len(ours) == 1:
            return number
    raise SipError("no such subscription", 481)


# --- we are asked ---------------------------------------------------------------------------------


def receive_refer(desk: Desk, call: Call, event: Asked) -> None:
    """A REFER: the user decides."""
    request = event.request
    if call.state is not State.UP or len(call.transfers) >= REFERENCES_MAX:
        desk.reply(event.id, request, 481 if call.state is State.LEAVING else 486, call)
        return
    try:
        reference = parse_reference(request)
    except SipError as error:
        desk.refuse(event.id, request, error, call)
        return
    number = request.cseq.number
    call.transfers[number] = Transfer(False, event.id, request, reference)
    desk.arm(
        call,
        f"referred {number}",
        desk.now + SUBSCRIPTION_SECONDS,
        partial(_expire, desk, call, number),
    )
    desk.tell(
        call,
        Referred(call.number, number, reference.target, reference.replaces, reference.referred_by),
    )


def answer(desk: Desk, call: Call, number: int, status: int) -> None:
    """Accepts (202) or refuses (603 …) a transfer."""
    if call.is_told:
        return  # the call's end has answered it
    transfer = call.transfers.get(number)
    if transfer is None or transfer.is_ours or transfer.request is None or transfer.asked is None:
        raise LocalError("no such transfer to be answered")
    response = desk.response(transfer.request, status, call)
    assert transfer.reference is not None
    if status < 300 and not transfer.reference.wants_reports:
        response.put("refer-sub", "false")
    desk.respond(transfer.asked, response, call)
    transfer.asked = None
    if status >= 300 or not transfer.reference.wants_reports:
        _drop(desk, call, number)
    else:
        report(desk, call, number, 100)


def report(desk: Desk, call: Call, number: int, status: int) -> None:
    """Tells the peer how its transfer goes; nothing once it is decided, or nobody wants to know."""
    transfer = call.transfers.get(number)
    if transfer is None or transfer.is_ours or transfer.asked is not None or call.dialog is None:
        return
    request, hop = desk.compose(call, call.dialog, "NOTIFY")
    request.put("event", f"refer;id={number}")
    request.put("contact", f"<{call.dialog.contact}>")
    state = (
        "terminated;reason=noresource"
        if status >= 200
        else f"active;expires={SUBSCRIPTION_SECONDS}"
    )
    request.put("subscription-state", state)
    request.put_body(write_fragment(status), f"{FRAGMENT};version=2.0")
    desk.ask(call, call.dialog, request, hop, partial(_receive_told, desk, call, number))
    if status >= 200:
        _drop(desk, call, number)


def _receive_told(
    desk: Desk, call: Call, number: int, _request: Request, response: Response | None
) -> None:
    """RFC 6665 §4.2.2: whoever knows nothing of the subscription, or is not there, wants no more."""
    if response is None or response.status in _UNSUBSCRIBES:
        _drop(desk, call, number)


def _expire(desk: Desk, call: Call, number: int) -> None:
    report(desk, call, number, 408)
    _drop(desk, call, number)


def _drop(desk: Desk, call: Call, number: int) -> None:
    call.transfers.pop(number, None)
    desk.disarm(call, f"referred {number}")
