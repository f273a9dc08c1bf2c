"""Calls of ours: the INVITE and whatever may be the answer to it (RFC 3261 §8.1.3, §13.2).

Before anybody answers there may be challenges (401, 407), a longer session interval (422), another
place (3xx: the user decides where, and how far), and further addresses of the same place (503, silence:
RFC 3263 §4.3); all of that together has a limit. While it rings there may be several early dialogs, as
many as a proxy on the way forked; each answers our offer for itself, so each that has done so reliably
(RFC 3262) has its own copy of the negotiation. The first 2xx makes the call. Every other one is
acknowledged and hung up, as is one that crosses our CANCEL.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from flowcatd.errors import CapacityError, LocalError
from flowcatd.sip.agent_event import (
    CallEnded,
    CallTerms,
    Connected,
    Invitation,
    Progress,
    Redirected,
)
from flowcatd.sip.body import sdp_of
from flowcatd.sip.change import set_refresh
from flowcatd.sip.desk import (
    Desk,
    Sent,
    accepts_challenge,
    cause_of,
    put_sdp,
    retry_after_of,
)
from flowcatd.sip.dialog import FIRST_CSEQ, Dialog, secured
from flowcatd.sip.event import Hop
from flowcatd.sip.header import Address
from flowcatd.sip.invite import Asking, Call, Early, State, Turn
from flowcatd.sip.message import Request, Response, build_request
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.refresh import ask, learn, least_of
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri

STRAYS_MAX = 8
CONTACTS_MAX = 8
RETRY_AFTER = 5


def begin(desk: Desk, invitation: Invitation, negotiation: Negotiation) -> Call:
    """Calls somebody; CapacityError when we have as many calls as may be."""
    if not invitation.hops:
        raise LocalError("a call needs somewhere to go")
    if not desk.has_room():
        raise CapacityError("too many SIP calls", RETRY_AFTER)
    tag, call_id = desk.mint.token(), desk.mint.token()
    asking = Asking(
        invitation, invitation.target, negotiation.offer(), call_id, list(invitation.hops)
    )
    terms = invitation.terms or desk.terms.call_terms
    asking.tried.add(str(replace(invitation.target, headers=())))
    request = _build(desk, asking, tag, terms, FIRST_CSEQ)
    call = Call(desk.new_number(), State.CALLING, request, asking.hops[0], tag, terms)
    call.negotiation, call.answerer, call.asking = negotiation, invitation.answerer, asking
    desk.keep(call)
    _send(desk, call, request)
    return call


def _build(desk: Desk, asking: Asking, tag: str, terms: CallTerms, cseq: int) -> Request:
    hop, invitation = asking.hops[0], asking.invitation
    request = build_request(
        "INVITE",
        replace(asking.target, headers=()),
        via=desk.via(hop),
        from_=invitation.caller.with_tag(tag),
        to=Address(replace(invitation.target, headers=())),
        call_id=asking.call_id,
        cseq=cseq,
    )
    if invitation.routes:
        request.put("route", *invitation.routes)
    request.put("contact", f"<{_contact(desk, asking, hop)}>")
    desk.adorn(request, terms)
    if terms.reliable == "required":
        request.put("require", "100rel")
    for name, value in invitation.fields:
        request.put(name, value)
    put_sdp(request, asking.offer)
    return request


def _contact(desk: Desk, asking: Asking, hop: Hop) -> Uri:
    way = [asking.target, *(each.uri for each in asking.invitation.routes[:1])]
    return secured(desk.mint.here(hop).contact, hop, way)


def _send(desk: Desk, call: Call, request: Request) -> None:
    assert call.asking is not None
    call.request, call.hop = request, call.asking.hops[0]
    call.asking.early.clear()
    ask(request, call.terms, call.least)
    sent = Sent(call, None, request, lambda _, __: _fail(desk, call, None))
    call.invite = desk.send(sent, call.hop)
    if call.invite is not None:
        desk.invites[call.invite] = desk.sent.pop(call.invite)


def _send_again(desk: Desk, call: Call) -> None:
    assert call.asking is not None
    cseq = call.request.cseq.number + 1
    _send(desk, call, _build(desk, call.asking, call.tag, call.terms, cseq))


def receive(desk: Desk, sent: Sent, response: Response | None, status: int = 408) -> None:
    """An answer to an INVITE of ours, or None for `status`: 408 when none came, 503 when it was not sent."""
    call = sent.call
    assert call is not None
    if response is None:
        _fail(desk, call, None, status)
    elif response.status < 200:
        _progress(desk, call, sent.request, response)
    elif response.status < 300:
        _succeed(desk, call, sent.request, response)
    else:
        _fail(desk, call, response)


# --- while it rings -------------------------------------------------------------------------------


def _progress(desk: Desk, call: Call, request: Request, response: Response) -> None:
    if call.state not in {State.CALLING, State.CANCELLING} or response.status == 100:
        return
    early = _early(desk, call, request, response) if response.to.tag else None
    if early is not None:
        try:
            _take_early(desk, call, early, response)
        except SipError:
            # What a provisional answer says badly, the final one may say well.
            return
    if call.state is State.CALLING:
        desk.tell(call, Progress(call.number, response.status, response))


def _early(desk: Desk, call: Call, request: Request, response: Response) -> Early | None:
    asking = call.asking
    assert asking is not None
    tag = response.to.tag
    if tag not in asking.early and len(asking.early) < desk.terms.forks:
        try:
            contact = _contact(desk, asking, call.hop)
            dialog = Dialog.of_response(request, response, contact, call.hop)
        except SipError:
            return None
        asking.early[tag] = Early(dialog)
        desk.found[dialog.key] = call
    return asking.early.get(tag)


def _take_early(desk: Desk, call: Call, early: Early, response: Response) -> None:
    """Acknowledges a reliable answer (RFC 3262 §4), takes its description."""
    assert call.negotiation is not None
    rseq = response.number("rseq") if "100rel" in response.words("require") else None
    body = sdp_of(response)
    if rseq is not None:
        if early.rseq and rseq != early.rseq + 1:
            raise SipError("a reliable answer that is repeated, or out of order")
        early.rseq = rseq
        desk.acknowledge_early(call, early.dialog, response, rseq)
    if body is None or early.negotiation is not None or call.state is not State.CALLING:
        return
    if rseq is None:
        session = call.negotiation.receive_answer(body, final=False)
    else:
        copy = deepcopy(call.negotiation)
        session = copy.receive_answer(body)
        early.negotiation = copy
    desk.agree(call, session, is_early=True)


# --- the answer -----------------------------------------------------------------------------------


def _succeed(desk: Desk, call: Call, request: Request, response: Response) -> None:
    number, tag = request.cseq.number, response.to.tag
    assert call.asking is not None
    if call.dialog is not None and call.dialog.remote.tag == tag:
        ack = call.acks.get(number)
        if ack is not None:
            desk.send_ack(call, call.dialog, ack)
    elif call.dialog is None and call.state in {State.CALLING, State.CANCELLING}:
        _confirm(desk, call, request, response)
    else:
        _dismiss(desk, call, request, response)


def _confirm(desk: Desk, call: Call, request: Request, response: Response) -> None:
    asking = call.asking
    assert asking is not None
    early = asking.early.get(response.to.tag)
    dialog, problem = _dialog(desk, call, request, response)
    if early is not None:
        dialog.local_cseq = max(dialog.local_cseq, early.dialog.local_cseq)
        dialog.remote_cseq = early.dialog.remote_cseq
    for each in asking.early.values():
        desk.found.pop(each.dialog.key, None)
    asking.early.clear()
    dialog.is_confirmed = True
    call.dialog = dialog
    desk.found[dialog.key] = call
    number = request.cseq.number
    call.acks[number] = desk.acknowledge(call, dialog, number, request.fields)
    if call.state is State.CANCELLING:
        desk.end(call, Turn.SUCCESS, 487, "the answer crossed our CANCEL")
        return
    problem = problem or _take_answer(call, early, response)
    if problem:
        desk.end(call, Turn.USELESS, 488, problem)
        return
    desk.turn(call, Turn.SUCCESS)
    assert call.negotiation is not None
    desk.agree(call, call.negotiation.session)
    try:
        set_refresh(desk, call, learn(response, call.terms))
        call.has_update = "update" in response.words("allow")
        if call.answerer is not None:
            call.answerer.learn(response)
    except SipError:
        # What cannot be read is as good as not said.
        call.has_update = False
    desk.tell(call, Connected(call.number, response))


def _take_answer(call: Call, early: Early | None, response: Response) -> str:
    """Their answer, of this response or of the reliable one before; the problem, if there is one."""
    assert call.negotiation is not None
    if early is not None and early.negotiation is not None:
        call.negotiation = early.negotiation
        return ""
    try:
        body = sdp_of(response)
        if body is None:
            return "no answer in the 2xx"
        call.negotiation.receive_answer(body)
    except SipError as error:
        return error.problem
    return ""


def _dialog(desk: Desk, call: Call, request: Request, response: Response) -> tuple[Dialog, str]:
    """The dialog of a 2xx, and what is wrong with it: even a bad one must be acknowledged and ended."""
    assert call.asking is not None
    contact = _contact(desk, call.asking, call.hop)
    try:
        return Dialog.of_response(request, response, contact, call.hop), ""
    except SipError as error:
        number = request.cseq.number
        ends = (request.from_, response.to)
        routes = call.asking.invitation.routes
        return Dialog(
            request.call_id,
            *ends,
            routes,
            request.uri,
            contact,
            call.hop,
            number,
            -1,
            is_caller=True,
        ), error.problem


def _dismiss(desk: Desk, call: Call, request: Request, response: Response) -> None:
    """Another branch answered, or this one after we gave up: ACK, then BYE, once."""
    asking, tag = call.asking, response.to.tag
    assert asking is not None
    known = asking.strays.get(tag)
    if known is None and len(asking.strays) >= STRAYS_MAX:
        return
    dialog, _ = _dialog(desk, call, request, response)
    if known is not None:
        desk.send_ack(call, dialog, known)
        return
    asking.strays[tag] = desk.acknowledge(call, dialog, request.cseq.number, request.fields)
    desk.hang_up_branch(call, dialog)


# --- no answer, or not yet ------------------------------------------------------------------------


def _fail(desk: Desk, call: Call, response: Response | None, status: int = 408) -> None:
    asking = call.asking
    assert asking is not None
    for each in asking.early.values():
        desk.found.pop(each.dialog.key, None)
    if call.state is State.CALLING:
        asking.rounds += 1
        if asking.rounds < desk.terms.rounds and _try_again(desk, call, asking, response):
            return
    status = status if response is None else response.status
    silence = "nobody answered" if status == 408 else "it could not be sent"
    desk.turn(
        call,
        Turn.FAILURE,
        CallEnded(
            call.number,
            by_peer=response is not None and call.state is State.CALLING,
            status=status,
            problem=silence if response is None else "",
            cause=None if response is None else cause_of(response),
            retry_after=None if response is None else retry_after_of(response),
        ),
    )


def _try_again(desk: Desk, call: Call, asking: Asking, response: Response | None) -> bool:
    status = 503 if response is None else response.status
    if status == 503 and len(asking.hops) > 1:
        del asking.hops[0]
    elif response is None:
        return False
    elif status in {401, 407}:
        if not accepts_challenge(call, call.request, response):
            return False
    elif status == 422:
        try:
            least = least_of(response)
        except SipError:
            return False
        if least <= call.least:
            return False
        call.least = least
    elif 300 <= status < 400:
        return _redirect(desk, call, asking, response)
    else:
        return False
    _send_again(desk, call)
    return True


def _redirect(desk: Desk, call: Call, asking: Asking, response: Response) -> bool:
    try:
        found = response.addresses("contact")[:CONTACTS_MAX]
    except SipError:
        return False
    # §8.1.3.4: where we have been already leads round in circles.
    found = [each for each in found if str(replace(each.uri, headers=())) not in asking.tried]
    if not found or asking.redirects >= desk.terms.redirects:
        return False
    asking.redirects += 1
    call.invite = None
    found.sort(key=lambda each: each.parameters.get("q") or "1", reverse=True)
    due = desk.now + desk.timers.timeout
    status = response.status
    desk.arm(call, "redirect", due, lambda: _not_followed(desk, call, status))
    contacts = tuple(replace(each.uri, headers=()) for each in found)
    desk.tell(call, Redirected(call.number, contacts, status))
    return True


def _not_followed(desk: Desk, call: Call, status: int) -> None:
    desk.turn(call, Turn.FAILURE, CallEnded(call.number, True, status, "nobody followed"))


def follow(desk: Desk, call: Call, uri: Uri, hops: tuple[Hop, ...]) -> None:
    """Calls where a 3xx has sent us."""
    if call.state is not State.CALLING or call.invite is not None or call.asking is None:
        raise LocalError("this call was not redirected")
    if not hops:
        raise LocalError("a call needs somewhere to go")
    desk.disarm(call, "redirect")
    call.asking.target, call.asking.hops = uri, list(hops)
    call.asking.tried.add(str(replace(uri, headers=())))
    _send_again(desk, call)
