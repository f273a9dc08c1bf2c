"""The SIP user agent without I/O: messages, wishes and the time in, messages and events out.

All calls of one worker: who begins one (`Invited`, `originate`), what happens to it (`Media`,
`Connected`, `Pressed`, `Referred` …) and its one end (`CallEnded`). The files behind it: `invite` (the
life of a call as a table), `incoming`, `outgoing`, `change`, `transfer`, `adopt`, over what all share
(`desk`). Descriptions are handled here too: the user gives each call its `Negotiation`, and is told what
holds.

A request within a dialog is taken from wherever it comes, as proxies have several addresses: what
protects a call is that both its tags are unguessable (§19.3), the order of CSeq, and TLS. With wrong
tags it is a 481, which says nothing. Whose a new request is, and how many of them may come, is judged
by `admit` before anything is made; it may challenge. Unknown numbers in verbs are a LocalError, but for
`hang_up`: the other side may have been quicker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flowcatd.errors import LocalError
from flowcatd.sip import adopt, change, incoming, outgoing, transfer
from flowcatd.sip.adopt import CallSnapshot
from flowcatd.sip.agent_event import (
    AgentEvent,
    Busy,
    CallEnded,
    CallNumber,
    CallTerms,
    Cause,
    Invitation,
    Mint,
    Pressed,
    Terms,
    Texted,
)
from flowcatd.sip.body import DTMF, RELAY, Digit, digit_of, type_of, write_digit
from flowcatd.sip.desk import ABLE, Desk, able_of, cause_of, ignore
from flowcatd.sip.dialog import Dialog, DialogKey
from flowcatd.sip.digest import Answerer
from flowcatd.sip.event import (
    Acked,
    Answered,
    Asked,
    Cancelled,
    Ended,
    Hop,
    Limits,
    Outgoing,
    Stray,
    TimedOut,
    TransactionEvent,
    TransactionId,
    Undelivered,
)
from flowcatd.sip.invite import Call, State, Turn
from flowcatd.sip.ladder import Ladder
from flowcatd.sip.message import Request, Response, note_source, parse_message, refuse
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.session import Capabilities, Local
from flowcatd.sip.timers import Timers
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri
from flowcatd.sip.vet import find_objection

Admit = Callable[[Request, Hop, float], Response | None]
"""Judges a request that belongs to no call: the answer to give instead, or None to let it in."""

_OUTSIDE: Final = {"REFER": 603, "MESSAGE": 405, "NOTIFY": 481}
"""What requests get that make sense only within a call; all others 481."""


class UserAgent:
    """All calls of one worker; feed it, then drain `events` and `outgoing`, then ask `wake_at`."""

    def __init__(
        self,
        mint: Mint,
        terms: Terms | None = None,
        timers: Timers | None = None,
        limits: Limits | None = None,
        admit: Admit | None = None,
    ) -> None:
        self.ignored = 0
        """Messages that were dropped: no SIP, or nobody's."""
        self._desk = Desk(mint, terms or Terms(), timers or Timers(), limits or Limits())
        self._admit = admit
        self._refusals: list[Outgoing] = []

    def __len__(self) -> int:
        """How many calls there are."""
        return len(self._desk.calls)

    # --- told

    def receive(self, data: bytes | Request | Response, source: Hop, now: float) -> None:
        """A message arrived; drain `events` and `outgoing` next."""
        self._begin(now)
        message = self._read(data, source) if isinstance(data, bytes) else data
        if message is None:
            self.ignored += 1
            return
        if isinstance(message, Request):
            note_source(message, source.host.strip("[]"), source.port)
        self._desk.transactions.receive(message, source, now)
        self._drain()

    def receive_failure(self, hop: Hop, now: float) -> None:
        """Nothing can be sent to `hop` any more."""
        self._begin(now)
        self._desk.transactions.receive_failure(hop, now)
        self._drain()

    def wake(self, now: float) -> None:
        """The time is `now`; drain `events` and `outgoing` next."""
        self._begin(now)
        self._desk.wakes.wake(now)
        self._desk.transactions.wake(now)
        self._drain()

    # --- wanted: a call's beginning and end

    def set_busy(self, busy: Busy | None) -> None:
        """New calls are refused from now on, or taken again; OPTIONS says so."""
        self._desk.busy = busy

    def originate(self, invitation: Invitation, negotiation: Negotiation, now: float) -> CallNumber:
        """Calls somebody; CapacityError when there is no room."""
        self._begin(now)
        return outgoing.begin(self._desk, invitation, negotiation).number

    def follow(self, call: CallNumber, target: Uri, hops: tuple[Hop, ...], now: float) -> None:
        """Calls where a `Redirected` has sent us."""
        outgoing.follow(self._desk, self._call(call, now), target, hops)

    def ring(
        self,
        call: CallNumber,
        now: float,
        status: int = 180,
        negotiation: Negotiation | None = None,
        terms: CallTerms | None = None,
    ) -> None:
        """Answers provisionally, with a negotiation also with early media; SipError as `answer`."""
        rung = self._call(call, now)
        incoming.take_terms(rung, terms)
        incoming.ring(self._desk, rung, status, negotiation)

    def answer(
        self,
        call: CallNumber,
        negotiation: Negotiation,
        now: float,
        terms: CallTerms | None = None,
    ) -> None:
        """Takes a call; `terms` are its own from now on.

        SipError 488 when their offer leaves nothing, 420, 421 or 422 when the terms do not fit what
        they require: nothing is sent, `reject` it with that.
        """
        answered = self._call(call, now)
        incoming.take_terms(answered, terms)
        incoming.answer(self._desk, answered, negotiation)

    def reject(
        self, call: CallNumber, status: int, now: float, fields: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """Refuses a call with 300 to 699; `fields` go with it (Contact, Retry-After, Reason …)."""
        refused = self._call(call, now)
        if refused.state is not State.ASKED or not 300 <= status < 700:
            raise LocalError("only a call that is not answered is rejected, by a failure")
        refused.fields = fields
        self._desk.end(refused, Turn.REFUSE, status)

    def hang_up(self, call: CallNumber, now: float, cause: Cause | None = None) -> None:
        """Ends a call, wherever it stands; `cause` goes with our BYE."""
        self._begin(now)
        ended = self._desk.calls.get(call)
        if ended is None:
            return
        ended.cause = cause
        if ended.state is State.CALLING and ended.invite is None:
            self._desk.end(ended, Turn.FAILURE, 487)
        else:
            status = {State.ASKED: 480, State.CALLING: 487}.get(ended.state, 200)
            self._desk.end(ended, Turn.HANG_UP, status)

    # --- wanted: during a call

    def hold(self, call: CallNumber, now: float, *, held: bool = True) -> None:
        """Holds the peer, or takes it back; `Media` or `ChangeRefused` follows."""
        changed = self._call(call, now)
        self._negotiation(changed).is_held = held
        change.want_offer(self._desk, changed)

    def re_offer(self, call: CallNumber, now: float) -> None:
        """Offers what the call's negotiation wants now (another port or address)."""
        changed = self._call(call, now)
        self._negotiation(changed)
        change.want_offer(self._desk, changed)

    def send_digit(self, call: CallNumber, digit: Digit, now: float, kind: str = RELAY) -> None:
        """Sends a digit by INFO, as `application/dtmf-relay` or `application/dtmf`."""
        told = self._call(call, now)
        if told.state is not State.UP or told.dialog is None or kind not in {RELAY, DTMF}:
            raise LocalError("digits are sent in a call that is up")
        request, hop = self._desk.compose(told, told.dialog, "INFO")
        request.put_body(write_digit(digit, kind), kind)
        self._desk.ask(told, told.dialog, request, hop, ignore)

    def refer(
        self, call: CallNumber, target: Uri, now: float, replaces: CallNumber | None = None
    ) -> None:
        """Transfers the peer, blind or to the peer of `replaces`; `ReferProgress` follows."""
        other = None if replaces is None else self._desk.call(replaces)
        transfer.refer(self._desk, self._call(call, now), target, other)

    def answer_refer(self, call: CallNumber, reference: int, status: int, now: float) -> None:
        """Accepts a `Referred` with 202, or refuses it."""
        transfer.answer(self._desk, self._call(call, now), reference, status)

    def report_refer(self, call: CallNumber, reference: int, status: int, now: float) -> None:
        """Tells how an accepted transfer goes; a final status ends it."""
        transfer.report(self._desk, self._call(call, now), reference, status)

    def snapshot(self, call: CallNumber) -> CallSnapshot | None:
        """What another process needs to take the call up, or None while it is not answered."""
        return adopt.snapshot(self._desk.call(call))

    def restore(
        self,
        snapshot: CallSnapshot,
        capabilities: Capabilities,
        local: Local,
        now: float,
        answerer: Answerer | None = None,
    ) -> CallNumber:
        """Takes a call up; its number here is another one."""
        self._begin(now)
        return adopt.restore(self._desk, snapshot, capabilities, local, answerer).number

    # --- to collect

    def negotiation(self, call: CallNumber) -> Negotiation | None:
        """The call's descriptions, once there are some."""
        return self._desk.call(call).negotiation

    def ladder(self, call: CallNumber) -> Ladder:
        """What went to and fro; take it when the call ends, it is kept no longer than the call."""
        return self._desk.call(call).ladder

    def has(self, call: CallNumber) -> bool:
        """Whether there still is such a call; it outlives its CallEnded by the answer to our BYE."""
        return call in self._desk.calls

    def knows(self, request: Request) -> bool:
        """Whether this INVITE belongs to a call that is here: it comes again, or with credentials."""
        return request.call_id in self._desk.call_ids or self._desk.transactions.knows(request)

    def call_id(self, call: CallNumber) -> str:
        """Its Call-ID, for records."""
        return self._desk.call(call).request.call_id

    def events(self) -> list[AgentEvent]:
        """Drain what the user should know, in order."""
        events, self._desk.events = self._desk.events, []
        return events

    def outgoing(self) -> list[Outgoing]:
        """Drain what must be sent, in order."""
        refusals, self._refusals = self._refusals, []
        return refusals + self._desk.transactions.outgoing()

    def wake_at(self) -> float | None:
        """The earliest time it wants to be woken, or None."""
        dues = (self._desk.wakes.wake_at(), self._desk.transactions.wake_at())
        return min((due for due in dues if due is not None), default=None)

    # --- private

    def _begin(self, now: float) -> None:
        desk = self._desk
        desk.now = now
        if max(len(desk.events), len(self._refusals)) >= desk.terms.undrained:
            raise LocalError("events of the SIP user agent are not drained")

    def _call(self, number: CallNumber, now: float) -> Call:
        self._begin(now)
        return self._desk.call(number)

    def _negotiation(self, call: Call) -> Negotiation:
        if call.state not in {State.UP, State.ANSWERED} or call.negotiation is None:
            raise LocalError("only a call that is answered can change")
        return call.negotiation

    def _read(self, data: bytes, source: Hop) -> Request | Response | None:
        try:
            return parse_message(data)
        except SipError as error:
            answer = refuse(data, error)
            if answer is not None:
                self._refusals.append(Outgoing(answer, source))
            return None

    def _drain(self) -> None:
        events = self._desk.transactions.events()
        while events:
            for event in events:
                self._take(event)
            events = self._desk.transactions.events()

    def _take(self, event: TransactionEvent) -> None:
        match event:
            case Asked():
                self._asked(event)
            case Answered():
                self._answered(event)
            case Acked():
                self._acked(event)
            case Cancelled():
                self._cancelled(event)
            case Stray():
                change.receive_stray(self._desk, event.response)
            case TimedOut():
                self._unanswered(event.id, 408)
            case Undelivered():
                self._unanswered(event.id, 503)
            case Ended():
                self._desk.invites.pop(event.id, None)
                self._desk.asked.pop(event.id, None)
                self._desk.receive_answer(event.id, None)

    def _unanswered(self, number: TransactionId, status: int) -> None:
        """§8.1.3.1: silence is as good as a 408, and what could not be sent as a 503."""
        desk = self._desk
        if number in desk.invites:
            outgoing.receive(desk, desk.invites[number], None, status)
        elif status == 503:
            desk.receive_failure(number)
        else:
            desk.receive_answer(number, None)

    def _answered(self, event: Answered) -> None:
        desk, response = self._desk, event.response
        sent = desk.invites.get(event.id)
        under_way = desk.sent.get(event.id)
        known = sent or under_way
        call = known.call if known is not None else None
        if call is not None:
            call.ladder.note(response, desk.now, is_ours=False)
        if sent is not None:
            outgoing.receive(desk, sent, response)
        elif under_way is not None:
            if response.is_final:
                desk.receive_answer(event.id, response)
            elif call is not None:
                change.receive_progress(desk, call, under_way.request, response)
        elif response.cseq.method == "INVITE" and response.status < 300:
            change.receive_again(desk, response)

    def _acked(self, event: Acked) -> None:
        call = self._desk.found.get(_key(event.request))
        if call is None:
            self.ignored += 1
            return
        incoming.receive_ack(self._desk, call, event.request, event.hop)
        change.go_on(self._desk, call)

    def _cancelled(self, event: Cancelled) -> None:
        desk, request = self._desk, event.request
        call = desk.asked.get(event.target) if event.target is not None else None
        desk.reply(event.id, request, 481 if event.target is None else 200, call)
        if call is not None:
            call.ladder.note(request, desk.now, is_ours=False)
            ending = CallEnded(call.number, True, 487, cause=cause_of(request))
            desk.turn(call, Turn.CANCELLED, ending)

    def _asked(self, event: Asked) -> None:
        desk, request = self._desk, event.request
        call = desk.found.get(_key(request)) if request.to.tag else None
        # Strangers are told that they are, and nothing of what we can do or whom we talk to.
        if call is None and self._admit is not None:
            answer = self._admit(request, event.hop, desk.now)
            if answer is not None:
                desk.respond(event.id, answer)
                return
        # A call that has ended is only there for what its transfer has to tell.
        is_over = call is not None and call.state is State.OVER and request.method != "NOTIFY"
        if request.to.tag and (call is None or is_over):
            desk.reply(event.id, request, 481)
            return
        try:
            objection = find_objection(request, able_of(call.terms) if call else ABLE)
        except SipError as error:
            desk.refuse(event.id, request, error, call)
            return
        if objection is not None:
            tag = call.tag if call else desk.mint.token()
            desk.respond(event.id, objection.answer(request, tag), call)
        elif call is not None:
            self._within(call, event)
        else:
            self._outside(event)

    # --- requests outside of calls

    def _outside(self, event: Asked) -> None:
        desk, request = self._desk, event.request
        match request.method:
            case "INVITE":
                incoming.begin(desk, event)
            case "OPTIONS":
                self._tell_abilities(event, None)
            case method:
                response = desk.response(request, _OUTSIDE.get(method, 481))
                if response.status == 405:
                    response.put(
                        "allow", ", ".join(each for each in ABLE.methods if each != method)
                    )
                desk.respond(event.id, response)

    def _tell_abilities(self, event: Asked, call: Call | None) -> None:
        """§11.2: as an INVITE would be answered."""
        desk = self._desk
        if desk.busy is not None and call is None:
            desk.refuse_busy(event.id, event.request, desk.busy.retry_after)
            return
        response = desk.response(event.request, 200, call)
        response.put("accept", ", ".join(ABLE.media_types))
        desk.respond(event.id, response, call)

    # --- requests within a call

    def _within(self, call: Call, event: Asked) -> None:
        desk, request = self._desk, event.request
        call.ladder.note(request, desk.now, is_ours=False)
        early = call.asking.early.get(request.from_.tag) if call.asking else None
        dialog = early.dialog if early is not None else call.dialog
        assert dialog is not None
        try:
            dialog.take(request, event.hop)
        except SipError as error:
            desk.refuse(event.id, request, error, call)
            return
        match request.method:
            case "INVITE":
                change.receive_invite(desk, call, event)
            case "UPDATE":
                change.receive_update(desk, call, event, early)
            case "PRACK":
                incoming.receive_prack(desk, call, event)
            case "REFER":
                transfer.receive_refer(desk, call, event)
            case "NOTIFY":
                transfer.receive_notify(desk, call, event)
            case _:
                self._within_simple(call, event, dialog)
        change.go_on(desk, call)

    def _within_simple(self, call: Call, event: Asked, dialog: Dialog) -> None:
        desk, request = self._desk, event.request
        match request.method:
            case "BYE":
                desk.reply(event.id, request, 200, call)
                status = 487 if call.state is State.ASKED else 200
                if call.dialog is None:
                    call.dialog = dialog
                ending = CallEnded(call.number, True, status, cause=cause_of(request))
                desk.turn(call, Turn.BYE, ending)
            case "INFO":
                self._take_info(call, event)
            case "MESSAGE":
                desk.reply(event.id, request, 200, call)
                desk.tell(call, Texted(call.number, request.body))
            case "OPTIONS":
                self._tell_abilities(event, call)
            case _:
                desk.reply(event.id, request, 481, call)

    def _take_info(self, call: Call, event: Asked) -> None:
        desk, request = self._desk, event.request
        try:
            digit = digit_of(request)
        except SipError as error:
            desk.refuse(event.id, request, error, call)
            return
        if digit is None and type_of(request):
            response = desk.response(request, 415, call)
            response.put("accept", f"{RELAY}, {DTMF}")
            desk.respond(event.id, response, call)
            return
        desk.reply(event.id, request, 200, call)
        if digit is not None:
            desk.tell(call, Pressed(call.number, digit))


def _key(request: Request) -> DialogKey:
    return DialogKey(request.call_id, request.to.tag, request.from_.tag)
