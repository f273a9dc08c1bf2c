"""What changes while a call is up: hold, codec, addresses, and the session timer (RFC 3261 §14, RFC 3311).

One re-INVITE or UPDATE of ours is under way at a time, and what is wanted meanwhile is said in the next
one. Two that cross get 491, and the side that made the call waits longer (§14.1). What theirs brings is
answered at once: our negotiation knows what is acceptable, and a refusal leaves everything as it was.

Session timers (RFC 4028) are refreshed by an UPDATE without a description where the peer takes it, else
by a re-INVITE with what was agreed, word for word. A refresh that fails is repeated in half the time
that is left, a handful of times: then the timer ends the call, and the call's end says so.
"""

from __future__ import annotations

from copy import deepcopy

from flowcatd.sip.agent_event import ChangeRefused
from flowcatd.sip.body import sdp_of
from flowcatd.sip.desk import Desk, put_sdp
from flowcatd.sip.dialog import DialogKey
from flowcatd.sip.event import Asked, TransactionId
from flowcatd.sip.invite import TALKING, Call, Change, Early, State, Turn, Unacked
from flowcatd.sip.message import Request, Response
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.offer import State as Exchange
from flowcatd.sip.refresh import Refresh, ask, grant, learn, least_of
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri

ACKS_MAX = 4
"""Acknowledgements that are kept for 2xx which come again."""
LAST_SECONDS = 4.0
"""So shortly before its end a session is not refreshed again."""
RETRY_SECONDS = 2.0
"""A refresh that finds the call busy comes that much later."""


# --- the session timer ----------------------------------------------------------------------------


def set_refresh(desk: Desk, call: Call, refresh: Refresh) -> None:
    """What a 2xx has agreed: replaces what held before."""
    call.refresh = refresh
    call.refresh_due, call.ends_due = refresh.refresh_at(desk.now), refresh.ends_at(desk.now)
    arm_refresh(desk, call)


def arm_refresh(desk: Desk, call: Call) -> None:
    """Starts the timers of a call's dues."""
    desk.arm(call, "refresh", call.refresh_due, lambda: _refresh(desk, call))
    desk.arm(call, "expire", call.ends_due, lambda: _expire(desk, call))


def _expire(desk: Desk, call: Call) -> None:
    desk.end(call, Turn.HANG_UP, 408, "the session was not refreshed")


def _refresh(desk: Desk, call: Call) -> None:
    if not _is_free(call):
        call.refresh_due = desk.now + RETRY_SECONDS
        desk.arm(call, "refresh", call.refresh_due, lambda: _refresh(desk, call))
        return
    _start(desk, call, is_refresh=True)


# --- ours -----------------------------------------------------------------------------------------


def want_offer(desk: Desk, call: Call) -> None:
    """What our negotiation wants now goes to the peer as soon as the call allows it."""
    call.wants_change = True
    call.glares = 0
    go_on(desk, call)


def go_on(desk: Desk, call: Call) -> None:
    """Starts what was wanted, if nothing is in its way any more."""
    if call.wants_change and _is_free(call) and "glare" not in call.wakes:
        _start(desk, call, is_refresh=False)


def _is_free(call: Call) -> bool:
    negotiation = call.negotiation
    return (
        call.state is State.UP
        and call.change is None
        and not call.unacked
        and negotiation is not None
        and negotiation.state is Exchange.SETTLED
        and negotiation.session is not None
    )


def _start(desk: Desk, call: Call, *, is_refresh: bool) -> None:
    assert call.dialog is not None
    assert call.negotiation is not None
    method = "UPDATE" if is_refresh and call.has_update else "INVITE"
    request, hop = desk.compose(call, call.dialog, method)
    ask(request, call.terms, call.least, call.refresh)
    if method == "INVITE":
        text = call.negotiation.refresh() if is_refresh else call.negotiation.offer()
        put_sdp(request, text)
    if not is_refresh:
        call.wants_change = False
    change = call.change = Change(method, is_refresh, has_offer=method == "INVITE")
    desk.ask(
        call,
        call.dialog,
        request,
        hop,
        lambda asked, response: _receive_answer(desk, call, change, asked, response),
    )


def _receive_answer(
    desk: Desk, call: Call, change: Change, request: Request, response: Response | None
) -> None:
    call.change = None
    if response is not None and response.status < 300:
        _settle(desk, call, change, request, response)
    else:
        if change.has_offer and call.negotiation is not None:
            call.negotiation.withdraw()
            # RFC 6141 §3.4: what a reliable 183 had settled is as if it had never been.
            desk.agree(call, call.negotiation.session)
        _try_again(desk, call, change, response)
    go_on(desk, call)


def _settle(desk: Desk, call: Call, change: Change, request: Request, response: Response) -> None:
    assert call.dialog is not None
    assert call.negotiation is not None
    problem = ""
    try:
        call.dialog.target = call.dialog.target_of(response)
        refresh = learn(response, call.terms)
    except SipError:
        refresh = call.refresh
    if change.method == "INVITE":
        ack = desk.acknowledge(call, call.dialog, request.cseq.number, request.fields)
        _keep_ack(call, request.cseq.number, ack)
    if change.settled is not None:
        call.negotiation = change.settled
    elif change.has_offer:
        problem = _take_answer(call.negotiation, response)
    call.glares = 0
    if call.state is not State.UP:
        return
    set_refresh(desk, call, refresh)
    desk.agree(call, call.negotiation.session)
    if problem and not change.is_refresh:
        desk.tell(call, ChangeRefused(call.number, 488))


def receive_progress(desk: Desk, call: Call, request: Request, response: Response) -> None:
    """A provisional answer to our re-INVITE: a reliable one is acknowledged, and may answer the offer.

    What it cannot say well the final answer may (RFC 6141 §3.3); until that comes, nothing is settled.
    """
    change = call.change
    reliable = response.status > 100 and "100rel" in response.words("require")
    if change is None or request.method != "INVITE" or not reliable or call.dialog is None:
        return
    try:
        rseq = response.number("rseq")
        if rseq is None or (change.rseq and rseq != change.rseq + 1):
            return
        change.rseq = rseq
        desk.acknowledge_early(call, call.dialog, response, rseq)
        body = sdp_of(response)
        if body is None or change.settled is not None or call.state is not State.UP:
            return
        settled = deepcopy(call.negotiation)
        assert settled is not None
        session = settled.receive_answer(body)
    except SipError:
        return
    change.settled = settled
    desk.agree(call, session)


def _keep_ack(call: Call, number: int, ack: Request) -> None:
    call.acks[number] = ack
    while len(call.acks) > ACKS_MAX:
        del call.acks[next(iter(call.acks))]


def _take_answer(negotiation: Negotiation, response: Response) -> str:
    """What is wrong with their answer, if something is; what was agreed before holds on then."""
    try:
        body = sdp_of(response)
        if body is not None:
            negotiation.receive_answer(body)
            return ""
    except SipError as error:
        negotiation.withdraw()
        return error.problem
    negotiation.withdraw()
    return "no answer in the 2xx"


def _try_again(desk: Desk, call: Call, change: Change, response: Response | None) -> None:
    status = 408 if response is None else response.status
    call.glares += 1
    if call.glares <= desk.terms.rounds and response is not None:
        if status == 491:
            _wait(desk, call, change)
            return
        if status == 422 and _learn_least(call, response):
            _resume(desk, call, change)
            return
        if change.method == "UPDATE" and status in {405, 501}:
            call.has_update = False
            _resume(desk, call, change)
            return
    call.glares = 0
    if change.is_refresh:
        _refresh_later(desk, call, change)
    else:
        desk.tell(call, ChangeRefused(call.number, status))


def _refresh_later(desk: Desk, call: Call, change: Change) -> None:
    """A refresh that was refused for now is tried again in half the time that is left, by INVITE."""
    if change.method == "UPDATE":
        call.has_update = False
    left = 0.0 if call.ends_due is None else call.ends_due - desk.now
    if call.state is State.UP and left > LAST_SECONDS:
        call.refresh_due = desk.now + left / 2
        desk.arm(call, "refresh", call.refresh_due, lambda: _refresh(desk, call))


def _learn_least(call: Call, response: Response) -> bool:
    try:
        call.least = max(call.least, least_of(response))
    except SipError:
        return False
    return True


def _wait(desk: Desk, call: Call, change: Change) -> None:
    """§14.1: who made the call waits 2.1 to 4 s, the other 0 to 2 s, in steps of 10 ms."""
    assert call.dialog is not None
    least, steps = (2.1, 191) if call.dialog.is_caller else (0.0, 201)
    due = desk.now + least + int(desk.mint.random() * steps) / 100
    desk.arm(call, "glare", due, lambda: _resume(desk, call, change))


def _resume(desk: Desk, call: Call, change: Change) -> None:
    desk.disarm(call, "glare")
    if change.is_refresh:
        _refresh(desk, call)
    else:
        call.wants_change = True
        go_on(desk, call)


def receive_again(desk: Desk, response: Response) -> None:
    """A 2xx to a re-INVITE comes again: our ACK was lost."""
    call = desk.found.get(DialogKey(response.call_id, response.from_.tag, response.to.tag))
    ack = call.acks.get(response.cseq.number) if call else None
    if call is not None and call.dialog is not None and ack is not None:
        desk.send_ack(call, call.dialog, ack)


def receive_stray(desk: Desk, response: Response) -> None:
    """A 2xx to an INVITE of the process that had this call before: acknowledged, or they hang up.

    What it had offered is not known any more, so the same question is asked again.
    """
    key = DialogKey(response.call_id, response.from_.tag, response.to.tag)
    call = desk.found.get(key)
    number = response.cseq.number
    if call is None or call.dialog is None or not call.is_restored or number in call.acks:
        return
    if call.state not in {State.UP, State.LEAVING} or number > call.dialog.local_cseq:
        return
    _keep_ack(call, number, desk.acknowledge(call, call.dialog, number, {}))
    if call.state is State.UP:
        want_offer(desk, call)


# --- theirs ---------------------------------------------------------------------------------------


def receive_invite(desk: Desk, call: Call, event: Asked) -> None:
    """A re-INVITE: answered at once."""
    request, negotiation = event.request, call.negotiation
    if call.state not in TALKING or negotiation is None:
        # Before the first answer a second INVITE is too early (§14.2); after the end there is no call.
        early = call.state in {State.ASKED, State.CALLING}
        desk.refuse(event.id, request, SipError("no re-INVITE now", 500 if early else 481), call)
        return
    is_glare = call.change is not None and call.change.method == "INVITE"
    if is_glare or negotiation.state is Exchange.OFFERED:
        desk.refuse(event.id, request, SipError("ours is under way", 491), call)
        return
    response = desk.response(request, 200, call)
    try:
        target = _target(call, request)
        refresh = grant_refresh(call, request, response)
        offer = sdp_of(request)
        # Last, as a refusal leaves everything as it was (§12.2.2).
        text = negotiation.offer() if offer is None else negotiation.receive_offer(offer)
    except SipError as error:
        desk.refuse(event.id, request, error, call)
        return
    put_sdp(response, text)
    _move(call, target)
    accept(desk, call, event.id, response, owes_answer=offer is None)
    set_refresh(desk, call, refresh)
    if offer is not None:
        desk.agree(call, negotiation.session)


def receive_update(desk: Desk, call: Call, event: Asked, early: Early | None) -> None:
    """An UPDATE: a session refresh, or a change before or after the answer (RFC 3311 §5.2)."""
    request = event.request
    response = desk.response(request, 200, call)
    try:
        offer = sdp_of(request)
        negotiation = _open_for_update(call, early, has_offer=offer is not None)
        target = _target(call, request)
        refresh = grant_refresh(call, request, response)
        if negotiation is not None and offer is not None:
            put_sdp(response, negotiation.receive_offer(offer))
    except SipError as error:
        desk.refuse(event.id, request, error, call)
        return
    _move(call, target)
    desk.respond(event.id, response, call)
    if call.state in TALKING:
        set_refresh(desk, call, refresh)
    if negotiation is not None:
        desk.agree(call, negotiation.session, is_early=call.state not in TALKING)


def _open_for_update(call: Call, early: Early | None, *, has_offer: bool) -> Negotiation | None:
    """The descriptions that an UPDATE is about, None when it brings none; SipError when it may not."""
    negotiation = early.negotiation if early is not None else call.negotiation
    if call.state in {State.LEAVING, State.PARTING, State.OVER}:
        raise SipError("the call has ended", 481)
    if not has_offer:
        return None
    if negotiation is not None and negotiation.state is Exchange.OFFERED:
        raise SipError("an offer of ours is open", 491)
    if negotiation is None or (call.state is State.ASKED and not call.is_settled):
        raise SipError("an offer of theirs is not answered yet", 500)
    return negotiation


def _target(call: Call, request: Request) -> Uri | None:
    return None if call.dialog is None else call.dialog.target_of(request)


def _move(call: Call, target: Uri | None) -> None:
    if call.dialog is not None and target is not None:
        call.dialog.target = target


# --- 2xx to an INVITE -----------------------------------------------------------------------------


def grant_refresh(call: Call, request: Request, response: Response) -> Refresh:
    """The session timer of a 2xx of ours; a Min-SE of theirs holds for our refreshes (§7.4)."""
    refresh = grant(request, response, call.terms, call.least)
    call.least = max(call.least, least_of(request))
    return refresh


def accept(
    desk: Desk, call: Call, number: TransactionId, response: Response, *, owes_answer: bool
) -> None:
    """Sends a 2xx to an INVITE and repeats it until its ACK comes, 64*T1 long (§13.3.1.4)."""
    pause = desk.timers.t1
    unacked = Unacked(response, desk.now + desk.timers.timeout, pause, owes_answer)
    call.unacked[response.cseq.number] = unacked
    _repeat(desk, call, number, unacked)


def _repeat(desk: Desk, call: Call, number: TransactionId, unacked: Unacked) -> None:
    if desk.now >= unacked.until:
        call.unacked.pop(unacked.response.cseq.number, None)
        desk.end(call, Turn.UNACKED, 408, "no ACK")
        return
    desk.respond(number, unacked.response, call)
    due = min(desk.now + unacked.pause, unacked.until)
    unacked.pause = desk.timers.next_pause(unacked.pause)
    unacked.wake = desk.wakes.add(due, lambda: _repeat(desk, call, number, unacked))
