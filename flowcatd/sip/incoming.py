"""Calls that come in: ringing, reliable provisional answers, the answer, and its ACK.

RFC 3261 §13.3 and §14.2, RFC 3262 §3, RFC 3891 §3, RFC 6337 §3. What the user wants (`ring`, `answer`,
`reject`) and what the peer does (PRACK, ACK, CANCEL, silence) meet here. A description goes out once: a
183 that carries our answer fixes it, and the 200 repeats it unless the peer has acknowledged the 183.
"""

from __future__ import annotations

from flowcatd.errors import LocalError
from flowcatd.sip.agent_event import CallEnded, CallTerms, Connected, Invited
from flowcatd.sip.body import sdp_of
from flowcatd.sip.change import accept, grant_refresh, set_refresh
from flowcatd.sip.desk import Desk, put_sdp
from flowcatd.sip.dialog import Dialog, DialogKey, secured, secured_way
from flowcatd.sip.event import Asked, Hop, TransactionId
from flowcatd.sip.invite import Call, Promises, State, Turn
from flowcatd.sip.message import Request
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.offer import State as Exchange
from flowcatd.sip.refer import parse_replaces
from flowcatd.sip.refresh import asked, least_of
from flowcatd.sip.trouble import SipError

PROMISES_MAX = 8
RING_AGAIN = 60.0
"""Seconds."""
RSEQ_MAX = 1 << 30
"""RFC 3262 §3: a first RSeq is below 2^31; by half of it, it never wraps."""


def begin(desk: Desk, event: Asked) -> None:
    """A new INVITE: the call, or the refusal that it gets without asking anybody."""
    request = event.request
    if desk.busy is not None:
        desk.refuse_busy(event.id, request, desk.busy.retry_after)
        return
    if not desk.has_room():
        desk.refuse_busy(event.id, request, 5)
        return
    try:
        replaced = _find_replaced(desk, request)
        _check_interval(desk, request)
        has_offer = sdp_of(request) is not None
        tag = desk.mint.token()
        contact = secured(desk.mint.here(event.hop).contact, event.hop, secured_way(request))
        dialog = Dialog.of_request(request, tag, contact, event.hop)
        can = {*request.words("supported"), *request.words("require")}
        has_update = "update" in request.words("allow")
        least = least_of(request)
        expires = request.number("expires")
    except SipError as error:
        desk.refuse(event.id, request, error)
        return
    terms = desk.terms.call_terms
    call = Call(desk.new_number(), State.ASKED, request, event.hop, tag, terms, dialog, event.id)
    call.has_update, call.least = has_update, least
    call.replaced = replaced.number if replaced else None
    call.promises = Promises(
        1 + int(desk.mint.random() * RSEQ_MAX),
        "100rel" in request.words("require"),
        "100rel" in can,
    )
    desk.keep(call)
    desk.found[dialog.key] = call
    desk.asked[event.id] = call
    call.ladder.note(request, desk.now, is_ours=False)
    _arm_ring(desk, call, expires)
    desk.tell(call, Invited(call.number, request, event.hop, has_offer, call.replaced))


def _find_replaced(desk: Desk, request: Request) -> Call | None:
    text = request.first("replaces")
    if text is None:
        return None
    if "join" in request.fields:
        raise SipError("a Replaces beside a Join")  # §3: they contradict each other
    wanted = parse_replaces(text)
    call = desk.found.get(DialogKey(wanted.call_id, wanted.to_tag, wanted.from_tag))
    if call is None or call.state is State.ASKED:
        # §3: an early dialog that the other side began cannot be replaced.
        raise SipError("a Replaces of a call that is not ours", 481)
    if call.state in {State.LEAVING, State.OVER, State.PARTING}:
        raise SipError("a Replaces of a call that has ended", 603)
    if wanted.early_only and call.state in {State.UP, State.ANSWERED}:
        raise SipError("a Replaces of a call that is up", 486)
    return call


def _check_interval(desk: Desk, request: Request) -> None:
    seconds, _ = asked(request)
    if seconds and seconds < desk.terms.session_least and "timer" in request.words("supported"):
        raise SipError("a session interval that is too small", 422)


def _arm_ring(desk: Desk, call: Call, expires: int | None) -> None:
    """How long the call may ring: as long as we let it, or as the caller does (§13.3.1: 487)."""
    seconds, status, problem = desk.terms.ring_seconds, 480, "nobody decided"
    if expires is not None and expires < seconds:
        seconds, status, problem = float(expires), 487, "the invitation expired"
    ending = CallEnded(call.number, by_peer=False, status=status, problem=problem)

    def stop() -> None:
        desk.turn(call, Turn.REFUSE, ending)

    desk.arm(call, "ring", desk.now + seconds, stop)


# --- before the answer ----------------------------------------------------------------------------


def take_terms(call: Call, terms: CallTerms | None) -> None:
    """The call's own terms; SipError 420, 421 or 422 when they do not fit what its INVITE requires."""
    if terms is None or call.state is not State.ASKED:
        return
    call.terms = terms
    request = call.request
    required = {each.lower() for each in request.values("require")}
    if required & terms.unwanted:
        raise SipError("an extension that this call shall not use", 420)
    can = required.union(request.words("supported"))
    if terms.reliable == "required" and "100rel" not in can:
        raise SipError("no reliable provisional answers", 421)
    seconds, _ = asked(request)
    if terms.timer != "off" and 0 < seconds < terms.session_least and "timer" in can:
        raise SipError("a session interval that is too small", 422)


def ring(desk: Desk, call: Call, status: int, negotiation: Negotiation | None) -> None:
    """A provisional answer; with a negotiation it has our description (early media).

    LocalError when the call is answered; SipError 488 when their offer leaves nothing, and nothing is
    sent.
    """
    promises = call.promises
    if call.state is not State.ASKED or promises is None:
        raise LocalError("a call rings before it is answered")
    response = desk.response(call.request, status, call)
    wants = promises.is_possible and call.terms.reliable != "off"
    must = promises.is_required or call.terms.reliable == "required"
    # A description that went out reliably is not repeated: it would be a new offer.
    is_said = call.is_settled or promises.holds_answer
    if must and negotiation is None and not call.body and sdp_of(call.request) is None:
        raise LocalError(
            "a first reliable answer to a call without an offer makes one"
        )  # RFC 3262 §5
    if negotiation is not None and not is_said and (wants or sdp_of(call.request) is not None):
        put_sdp(response, _describe(desk, call, negotiation, is_early=True))
    desk.arm(call, "minute", desk.now + RING_AGAIN, lambda: _ring_again(desk, call, status))
    if not must and not (wants and response.body):
        desk.respond(_invite(call), response, call)
        return
    if len(promises.waiting) >= PROMISES_MAX:
        raise LocalError("too many provisional answers that nobody acknowledged")
    promises.rseq += 1
    response.put("require", "100rel")
    response.put("rseq", promises.rseq)
    promises.waiting.append(response)
    if len(promises.waiting) == 1:
        _promise(desk, call, promises)


def _ring_again(desk: Desk, call: Call, status: int) -> None:
    """§13.3.1.1: once a minute, or a proxy believes that nobody is there."""
    if call.promises is not None and not call.promises.waiting and not call.postponed:
        ring(desk, call, status, call.negotiation if call.body and not call.is_settled else None)


def _describe(desk: Desk, call: Call, negotiation: Negotiation, *, is_early: bool) -> str:
    """Our description: the answer to their offer, or an offer where they made none."""
    if call.body:
        return call.body
    offer = sdp_of(call.request)
    call.body = negotiation.offer() if offer is None else negotiation.receive_offer(offer)
    call.negotiation = negotiation
    if offer is not None:
        desk.agree(call, negotiation.session, is_early=is_early)
    return call.body


def _promise(desk: Desk, call: Call, promises: Promises) -> None:
    promises.until = desk.now + desk.timers.timeout
    promises.pause = desk.timers.t1
    _promise_again(desk, call, promises)


def _promise_again(desk: Desk, call: Call, promises: Promises) -> None:
    if desk.now >= promises.until:
        # §3: whoever never acknowledges is refused.
        desk.end(call, Turn.REFUSE, 504, "no PRACK")
        return
    desk.respond(_invite(call), promises.waiting[0], call)
    due = min(desk.now + promises.pause, promises.until)
    promises.pause *= 2
    promises.wake = desk.wakes.add(due, lambda: _promise_again(desk, call, promises))


def receive_prack(desk: Desk, call: Call, event: Asked) -> None:
    """A PRACK: 200 and the next one's turn, 481 for what we never promised."""
    promises, request = call.promises, event.request
    if promises is None or not promises.waiting or not _fits(promises, call, request):
        desk.reply(event.id, request, 481, call)
        return
    response = desk.response(request, 200, call)
    try:
        body = sdp_of(request)
        if body is not None and call.negotiation is not None:
            if call.negotiation.state is Exchange.OFFERED:
                call.negotiation.receive_answer(body)
            else:
                put_sdp(response, call.negotiation.receive_offer(body))
    except SipError as error:
        desk.refuse(event.id, request, error, call)
        return
    acknowledged = promises.waiting.pop(0)
    if promises.wake is not None:
        promises.wake.cancel()
        promises.wake = None
    call.is_settled = call.is_settled or bool(acknowledged.body)
    desk.respond(event.id, response, call)
    if call.negotiation is not None:
        is_early = call.state is State.ASKED
        desk.agree(call, call.negotiation.session, is_early=is_early)
    if promises.waiting and call.state is State.ASKED:
        _promise(desk, call, promises)
    if call.postponed and not promises.holds_answer:
        call.postponed = False
        _send_answer(desk, call)


def _fits(promises: Promises, call: Call, request: Request) -> bool:
    words = (request.first("rack") or "").split()
    wanted = [promises.waiting[0].first("rseq"), str(call.request.cseq.number), "INVITE"]
    return words == wanted


# --- the answer -----------------------------------------------------------------------------------


def answer(desk: Desk, call: Call, negotiation: Negotiation) -> None:
    """Accepts the call; SipError 488 when their offer leaves nothing: `reject` it then.

    While a reliable 183 with a description is under way, the 200 waits for its PRACK (RFC 3262 §5).
    """
    if call.state is not State.ASKED or call.postponed:
        raise LocalError("a call is answered once")
    if not call.body:
        _describe(desk, call, negotiation, is_early=False)
    if call.promises is not None and call.promises.holds_answer:
        call.postponed = True
        return
    _send_answer(desk, call)


def _send_answer(desk: Desk, call: Call) -> None:
    assert call.negotiation is not None
    if call.negotiation.state is Exchange.OFFERED and call.is_settled:
        # Our offer in a 183 was acknowledged by a PRACK without an answer (RFC 3262 §5).
        desk.end(call, Turn.REFUSE, 488, "no answer in the PRACK")
        return
    response = desk.response(call.request, 200, call)
    if not call.is_settled:
        put_sdp(response, call.body)
    refresh = grant_refresh(call, call.request, response)
    desk.disarm(call, "ring")
    desk.disarm(call, "minute")
    if call.promises is not None and call.promises.wake is not None:
        # §3: no more repetitions, but a PRACK may still come.
        call.promises.wake.cancel()
    assert call.dialog is not None
    call.dialog.is_confirmed = True
    desk.asked.pop(_invite(call), None)
    owes = call.negotiation.state is Exchange.OFFERED
    desk.turn(call, Turn.ANSWER)
    accept(desk, call, _invite(call), response, owes_answer=owes)
    set_refresh(desk, call, refresh)
    desk.agree(call, call.negotiation.session)
    replaced = desk.calls.get(call.replaced) if call.replaced is not None else None
    if replaced is not None:
        desk.end(replaced, Turn.HANG_UP, 200, "replaced by another call")


def receive_ack(desk: Desk, call: Call, request: Request, hop: Hop) -> None:
    """The ACK of a 2xx of ours; a repeated one, and one of anything else, changes nothing."""
    unacked = call.unacked.pop(request.cseq.number, None)
    if unacked is None:
        return
    call.ladder.note(request, desk.now, is_ours=False)
    if unacked.wake is not None:
        unacked.wake.cancel()
    if call.dialog is not None and hop.is_reliable:
        call.dialog.hop = hop
    problem = _take_late_answer(desk, call, request) if unacked.owes_answer else ""
    was = call.state
    desk.turn(call, Turn.ACKED)
    if was is State.ANSWERED:
        desk.tell(call, Connected(call.number, request))
        if problem:
            desk.end(call, Turn.HANG_UP, 488, problem)


def _take_late_answer(desk: Desk, call: Call, request: Request) -> str:
    negotiation = call.negotiation
    assert negotiation is not None
    try:
        body = sdp_of(request)
        if body is None:
            negotiation.withdraw()
            return "no answer in the ACK"
        desk.agree(call, negotiation.receive_answer(body))
    except SipError as error:
        negotiation.withdraw()
        return error.problem
    return ""


def _invite(call: Call) -> TransactionId:
    assert call.invite is not None
    return call.invite
