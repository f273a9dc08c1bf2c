"""What the parts of one user agent share: its calls, transactions, wakes, and how messages are made.

`agent.py` is the door; `incoming`, `outgoing`, `change` and `transfer` are what happens behind it, each
a handful of functions over a `Desk` and a `Call`. Here is what all of them need: `turn` (the only place
that changes a call's state), requests within a dialog with credentials and one way to end (`send`,
whose `done` is called once with the final answer or None), responses (`reply`), and the limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from flowcatd.errors import CapacityError, LocalError
from flowcatd.sip.agent_event import (
    AgentEvent,
    Busy,
    CallEnded,
    CallNumber,
    CallTerms,
    Cause,
    Media,
    Mint,
    Terms,
)
from flowcatd.sip.body import SDP
from flowcatd.sip.dialog import Dialog, DialogKey
from flowcatd.sip.event import Hop, Limits, TransactionId
from flowcatd.sip.header import Via, parse_number, parse_valued
from flowcatd.sip.invite import TABLE, Call, Do, State, Turn
from flowcatd.sip.message import Message, Request, Response, build_response, stateless_tag
from flowcatd.sip.session import Session
from flowcatd.sip.timers import Timers
from flowcatd.sip.transaction import Transactions
from flowcatd.sip.trouble import DROP, SipError
from flowcatd.sip.vet import Abilities
from flowcatd.wake import WakeList

ABLE: Final = Abilities(
    (
        *("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "PRACK", "UPDATE", "INFO"),
        *("REFER", "NOTIFY", "MESSAGE"),
    ),
    ("100rel", "timer", "replaces", "norefersub"),
    (
        *("application/sdp", "application/dtmf-relay", "application/dtmf", "message/sipfrag"),
        "text/plain",
    ),
)
_NO_DIALOG: Final = frozenset({408, 481})
"""An answer that ends the dialog's INVITE usage, whatever the request was (RFC 5057 §5.1)."""
_WITH_CONTACT: Final = frozenset({"INVITE", "UPDATE", "REFER"})
RETRY_AFTER_MAX = 86_400

Done = Callable[[Request, Response | None], None]


@dataclass(slots=True)
class Sent:
    """A request of ours that is under way."""

    call: Call | None
    dialog: Dialog | None
    request: Request
    done: Done
    rounds: int = 0
    hop: Hop | None = None
    """Where it went."""


class Desk:
    """The state of one user agent."""

    def __init__(self, mint: Mint, terms: Terms, timers: Timers, limits: Limits) -> None:
        self.mint = mint
        self.terms = terms
        self.timers = timers
        self.transactions = Transactions(timers, limits)
        self.wakes = WakeList()
        self.now = 0.0
        self.busy: Busy | None = None
        self.calls: dict[CallNumber, Call] = {}
        self.call_ids: Counter[str] = Counter()
        """How many calls have which Call-ID: two where one of ours came back to us."""
        self.found: dict[DialogKey, Call] = {}
        self.asked: dict[TransactionId, Call] = {}
        """Calls by the INVITE that is not answered yet."""
        self.sent: dict[TransactionId, Sent] = {}
        self.invites: dict[TransactionId, Sent] = {}
        """Calls of ours by their INVITE, as long as its 2xx may come again."""
        self.events: list[AgentEvent] = []
        self._number = 0

    # --- calls

    def call(self, number: CallNumber) -> Call:
        """The call; LocalError when there is none (any more)."""
        call = self.calls.get(number)
        if call is None:
            raise LocalError("no such SIP call")
        return call

    def has_room(self) -> bool:
        """Whether one more call may begin."""
        return len(self.calls) < self.terms.calls

    def new_number(self) -> CallNumber:
        """The next number."""
        self._number += 1
        return CallNumber(self._number)

    def keep(self, call: Call) -> None:
        """A call begins."""
        self.calls[call.number] = call
        self.call_ids[call.request.call_id] += 1

    def tell(self, call: Call, event: AgentEvent) -> None:
        """An event, unless the user knows that the call is over."""
        if not call.is_told:
            self.events.append(event)

    def agree(self, call: Call, session: Session | None, *, is_early: bool = False) -> None:
        """Tells what holds for the media, when that is new."""
        if session is not None and (session != call.session or call.is_early != is_early):
            call.session, call.is_early = session, is_early
            self.tell(call, Media(call.number, session, is_early))

    def turn(self, call: Call, turn: Turn, ending: CallEnded | None = None) -> bool:
        """The only place that changes a call's state; false when the table has no row."""
        row = TABLE.get((call.state, turn))
        if row is None:
            return False
        call.state, doings = row
        if ending is not None and call.ending is None:
            call.ending = ending
        for do in doings:
            _DOINGS[do](self, call)
        if call.state in {State.LEAVING, State.OVER}:
            self._part(call)
        if call.state is State.OVER:
            self.forget(call)
        return True

    def end(self, call: Call, turn: Turn, status: int, problem: str = "") -> bool:
        """The same, for an end that is our own doing."""
        return self.turn(call, turn, CallEnded(call.number, False, status, problem))

    def forget(self, call: Call) -> None:
        """Drops an ended call; one whose transfer is not decided is found for NOTIFYs a while longer."""
        if self.calls.pop(call.number, None) is not None:
            self.call_ids[call.request.call_id] -= 1
            if not self.call_ids[call.request.call_id]:
                del self.call_ids[call.request.call_id]
        early = call.asking.early.values() if call.asking else ()
        keys = [each.dialog.key for each in early]
        if call.dialog is not None:
            keys.append(call.dialog.key)
        if any(each.is_ours for each in call.transfers.values()) and keys:
            self.wakes.add(self.now + self.timers.timeout, lambda: self._drop(call, keys))
        else:
            self._drop(call, keys)

    def _drop(self, call: Call, keys: list[DialogKey]) -> None:
        for key in keys:
            if self.found.get(key) is call:
                del self.found[key]

    def _part(self, call: Call) -> None:
        for name in list(call.wakes):
            self.disarm(call, name)
        for unacked in call.unacked.values():
            if unacked.wake:
                unacked.wake.cancel()
        call.unacked.clear()
        if call.promises and call.promises.wake:
            call.promises.wake.cancel()
        if call.invite is not None:
            self.asked.pop(call.invite, None)
        for transfer in call.transfers.values():
            # §15.1.2: what they still waited for is answered.
            if transfer.asked is not None and transfer.request is not None:
                self.reply(transfer.asked, transfer.request, 487, call)
                transfer.asked = None
        if not call.is_told:
            self.events.append(call.ending or CallEnded(call.number, False, 0))
            call.is_told = True

    # --- wakes of a call

    def arm(self, call: Call, name: str, due: float | None, do: Callable[[], None]) -> None:
        """Wakes a call at `due`; each name has one wake."""
        self.disarm(call, name)
        if due is not None:
            call.wakes[name] = self.wakes.add(due, do)

    def disarm(self, call: Call, name: str) -> None:
        """Takes a wake back."""
        wake = call.wakes.pop(name, None)
        if wake is not None:
            wake.cancel()

    # --- requests

    def via(self, hop: Hop) -> Via:
        """A Via of ours with a new branch."""
        here = self.mint.here(hop)
        branch = f"z9hG4bK{self.mint.token()}"
        return Via(hop.transport, here.host, here.port, {"branch": branch, "rport": None})

    def compose(self, call: Call, dialog: Dialog, method: str) -> tuple[Request, Hop]:
        """A request within a dialog, and where it goes."""
        hop = self.mint.locate(dialog.next_uri, dialog.hop)
        request = dialog.build(method, self.via(hop))
        self.adorn(request, call.terms)
        if method in _WITH_CONTACT:
            request.put("contact", f"<{dialog.contact}>")
        if method == "BYE" and call.cause is not None:
            request.put("reason", call.cause)
        return request, hop

    def adorn(self, request: Request, terms: CallTerms) -> None:
        """What every request of ours says about us."""
        if request.method in {"INVITE", "UPDATE", "OPTIONS"}:
            request.put("allow", ", ".join(ABLE.methods))
        # RFC 4028 §7.1: `timer` in every request.
        request.put("supported", ", ".join(able_of(terms).extensions))
        if self.terms.product:
            request.put("user-agent", self.terms.product)

    def send(
        self,
        sent: Sent,
        hop: Hop,
    ) -> TransactionId | None:
        """Sends a request with credentials; `done` is told its end, at once when there is no room."""
        call, request = sent.call, sent.request
        if call is not None and call.answerer is not None:
            call.answerer.authorize(request, request.method, str(request.uri))
        if call is not None:
            call.ladder.note(request, self.now, is_ours=True)
        try:
            number = self.transactions.send(request, hop, self.now)
        except CapacityError:
            self.wakes.add(self.now, lambda: sent.done(request, None))
            return None
        sent.hop = hop
        self.sent[number] = sent
        return number

    def ask(
        self, call: Call, dialog: Dialog, request: Request, hop: Hop, done: Done
    ) -> TransactionId | None:
        """Sends a request within a dialog."""
        return self.send(Sent(call, dialog, request, done), hop)

    def receive_answer(self, number: TransactionId, response: Response | None) -> None:
        """The final answer to a request within a dialog, or None when there is none."""
        sent = self.sent.pop(number, None)
        if sent is None:
            return
        if response is not None and self._answer_challenge(sent, response):
            return
        sent.done(sent.request, response)
        call = sent.call
        gone = response is None or response.status in _NO_DIALOG
        if call is not None and gone and sent.request.method in {"INVITE", "UPDATE"}:
            self.end(call, Turn.HANG_UP, 481 if response else 408, "the peer lost the call")

    def _answer_challenge(self, sent: Sent, response: Response) -> bool:
        call, dialog = sent.call, sent.dialog
        if response.status not in {401, 407} or call is None or dialog is None:
            return False
        if call.answerer is None or sent.rounds >= self.terms.rounds:
            return False
        if not accepts_challenge(call, sent.request, response):
            return False
        self._send_again(sent, dialog, self.mint.locate(dialog.next_uri, dialog.hop))
        return True

    def receive_failure(self, number: TransactionId) -> None:
        """A request within a dialog could not be sent: by a new connection, or it is a 503 (§8.1.3.1).

        It does not end the call (RFC 5057 §5.1); that of a connection says nothing of who was on it.
        """
        sent = self.sent.get(number)
        if sent is None:
            return
        if sent.dialog is not None and sent.rounds < self.terms.rounds:
            hop = self.mint.locate(sent.dialog.next_uri, sent.dialog.hop)
            if hop != sent.hop:
                del self.sent[number]
                self._send_again(sent, sent.dialog, hop)
                return
        self.receive_answer(number, build_response(sent.request, 503))

    def _send_again(self, sent: Sent, dialog: Dialog, hop: Hop) -> None:
        """The same request with the next number."""
        again = sent.request
        request = dialog.build(again.method, self.via(hop))
        for name, values in again.fields.items():
            if name not in request.fields and name != "route":
                request.fields[name] = values
        request.body = again.body
        self.send(Sent(sent.call, dialog, request, sent.done, sent.rounds + 1), hop)

    def acknowledge_early(self, call: Call, dialog: Dialog, response: Response, rseq: int) -> None:
        """Sends the PRACK of a reliable provisional answer (RFC 3262 §4)."""
        prack, hop = self.compose(call, dialog, "PRACK")
        prack.put("rack", f"{rseq} {response.cseq}")
        self.ask(call, dialog, prack, hop, ignore)

    def acknowledge(
        self, call: Call, dialog: Dialog, cseq: int, fields: Mapping[str, list[str]]
    ) -> Request:
        """Sends the ACK of a 2xx, and gives it back for the next time (§13.2.2.4, §22.1).

        `cseq` and the credentials among `fields` are the INVITE's.
        """
        hop = self.mint.locate(dialog.next_uri, dialog.hop)
        ack = dialog.build("ACK", self.via(hop), cseq=cseq)
        for name in ("authorization", "proxy-authorization"):
            if name in fields:
                ack.fields[name] = list(fields[name])
        self.send_ack(call, dialog, ack)
        return ack

    def send_ack(self, call: Call, dialog: Dialog, ack: Request) -> None:
        """The same ACK, once more or for the first time."""
        call.ladder.note(ack, self.now, is_ours=True)
        self.transactions.send_once(ack, self.mint.locate(dialog.next_uri, dialog.hop))

    def hang_up_branch(self, call: Call, dialog: Dialog) -> None:
        """Ends a dialog that nobody wants: another branch of a fork that answered too."""
        request, hop = self.compose(call, dialog, "BYE")
        self.ask(call, dialog, request, hop, ignore)

    # --- responses

    def response(self, request: Request, status: int, call: Call | None = None) -> Response:
        """A response with what every response of ours says; in a call, with its tag and Contact."""
        tag = call.tag if call is not None and call.tag else stateless_tag(request)
        response = build_response(request, status, tag=tag)
        if self.terms.product:
            response.put("server", self.terms.product)
        is_new_target = request.method in _WITH_CONTACT and 100 < status < 300
        if call is not None and call.dialog is not None and is_new_target:
            response.put("contact", f"<{call.dialog.contact}>")
        if request.method in {"INVITE", "OPTIONS", "UPDATE"} and 200 <= status < 300:
            able = ABLE if call is None else able_of(call.terms)
            response.put("allow", ", ".join(able.methods))
            response.put("supported", ", ".join(able.extensions))
        return response

    def respond(self, number: TransactionId, response: Response, call: Call | None = None) -> None:
        """Sends a response."""
        if call is not None:
            call.ladder.note(response, self.now, is_ours=True)
        self.transactions.respond(number, response, self.now)

    def reply(
        self, number: TransactionId, request: Request, status: int, call: Call | None = None
    ) -> None:
        """Sends a response that says no more than its status."""
        self.respond(number, self.response(request, status, call), call)

    def refuse(
        self, number: TransactionId, request: Request, error: SipError, call: Call | None = None
    ) -> None:
        """Sends the answer that an error names."""
        response = self.response(request, 400 if error.status == DROP else error.status, call)
        if error.status == 488:
            response.put("warning", f'399 {self.terms.product or "sip"} "{error.problem}"')
        elif error.status == 422:
            response.put("min-se", (call.terms if call else self.terms).session_least)
        elif error.status == 500:
            # §14.2, RFC 3311 §5.2: from 0 to 10 seconds, by chance.
            response.put("retry-after", int(self.mint.random() * 10))
        self.respond(number, response, call)

    def refuse_busy(self, number: TransactionId, request: Request, retry_after: int) -> None:
        """503 with Retry-After."""
        response = self.response(request, 503)
        response.put("retry-after", retry_after)
        self.respond(number, response)

    # --- what rows do

    def _refuse_invite(self, call: Call) -> None:
        assert call.invite is not None
        response = self.response(call.request, call.ending.status if call.ending else 480, call)
        match response.status:
            case 420:
                wanted = {each.lower() for each in call.request.values("require")}
                response.put("unsupported", ", ".join(sorted(wanted & call.terms.unwanted)))
            case 421:
                response.put("require", "100rel")
            case 422:
                response.put("min-se", call.terms.session_least)
        for name, value in call.fields:
            response.put(name, value)
        if call.cause is not None:
            response.put("reason", call.cause)
        self.respond(call.invite, response, call)

    def _send_bye(self, call: Call) -> None:
        assert call.dialog is not None
        request, hop = self.compose(call, call.dialog, "BYE")

        def done(_request: Request, _response: Response | None) -> None:
            self.turn(call, Turn.BYE_DONE)

        self.ask(call, call.dialog, request, hop, done)

    def _cancel(self, call: Call) -> None:
        assert call.invite is not None
        reason = "" if call.cause is None else str(call.cause)
        self.transactions.cancel(call.invite, self.now, reason)


_DOINGS: Final[dict[Do, Callable[[Desk, Call], None]]] = {
    Do.REFUSE: Desk._refuse_invite,  # noqa: SLF001 the table's own methods
    Do.BYE: Desk._send_bye,  # noqa: SLF001
    Do.CANCEL: Desk._cancel,  # noqa: SLF001
    Do.UP: lambda _desk, _call: None,
}


def able_of(terms: CallTerms) -> Abilities:
    """What we can do in a call with these terms."""
    unwanted = terms.unwanted
    if not unwanted:
        return ABLE
    return replace(ABLE, extensions=tuple(each for each in ABLE.extensions if each not in unwanted))


def ignore(_request: Request, _response: Response | None) -> None:
    """For requests whose answer changes nothing."""


def put_sdp(message: Message, text: str) -> None:
    """Sets a description as the body."""
    message.put_body(text.encode("utf-8", "surrogateescape"), SDP)


def accepts_challenge(call: Call, request: Request, response: Response) -> bool:
    """Whether asking again makes sense; a challenge that cannot be read is refused like a wrong one."""
    if call.answerer is None:
        return False
    try:
        return call.answerer.accept(request, response)
    except SipError:
        return False


def cause_of(message: Message) -> Cause | None:
    """The Reason of a message, the first that is well-formed."""
    try:
        for text in message.values("reason")[:4]:
            said = parse_valued(text)
            code = said.parameters.get("cause")
            if code is not None:
                return Cause(said.value[:16], parse_number(code), said.parameters.get("text") or "")
    except SipError:
        return None
    return None


def retry_after_of(response: Response) -> int | None:
    """The seconds of a Retry-After, without its comment."""
    text = (response.first("retry-after") or "").split(";")[0].split("(")[0].strip()
    return (
        min(int(text), RETRY_AFTER_MAX)
        if text.isascii() and text.isdigit() and len(text) < 9
        else None
    )
