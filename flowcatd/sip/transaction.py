"""The transaction layer: retransmission, matching and timeouts of SIP (RFC 3261 §17, §9, RFC 6026).

`machine.py` has the four machines; here are all transactions of one worker, and what takes more than
one of them to know: which one a message belongs to (§17.1.3, §17.2.3, peers of RFC 2543 too), whether
a request came by two ways (482, §8.2.2.2), what a CANCEL is about (§9.2), how many there may be.

The transaction user sends requests and answers them by number. It is told `Asked`, `Cancelled`,
`Acked`, `Answered`, `Stray`, `TimedOut`, `Undelivered` and, for every number once, `Ended`. The ACK of a failure
is made here; that of a 2xx is the user's, as is the repetition of the 2xx (§13.3.1.4).

Over a limit, of number or of bytes, the transaction goes first that has been finished longest; when
none is finished, a new request gets a 503 that costs no state. Branches come from the user, so that they can say whose they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from typing import Final

from flowcatd.errors import CapacityError, LocalError
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
from flowcatd.sip.machine import BEGIN, FINISHED, KEPT, TABLES, Do, Kind, State, Turn
from flowcatd.sip.matching import follow, has_second, server_key, size_of
from flowcatd.sip.message import (
    Message,
    Request,
    Response,
    answer_port,
    build_response,
    stateless_tag,
)
from flowcatd.sip.timers import Timers
from flowcatd.wake import Wake, WakeList

DEFAULT_PORTS: Final = {"TCP": 5060, "TLS": 5061}
"""Of the transports over which we can connect to whoever asked."""
RETRY_AFTER = 5
"""Seconds after which a request refused for want of room may come again."""


class _Transaction:
    """One of them."""

    __slots__ = (
        *("cancelled", "hop", "id", "keys", "kept", "kind", "pause", "port", "reason"),
        *("request", "size", "state", "timers", "wants_cancel"),
    )

    def __init__(
        self, number: int, kind: Kind, request: Request, hop: Hop, keys: tuple[Hashable, ...]
    ) -> None:
        self.id = TransactionId(number)
        self.kind = kind
        self.request: Request | None = request
        """Let go when a server has answered: a flood's leftovers are small then."""
        self.hop = hop
        self.port = request.top.port or DEFAULT_PORTS.get(hop.transport, 0)
        """Where the sent-by says that its sender takes connections."""
        self.keys = keys
        """Under which it is found; the first is the matching rule's."""
        self.state = State.TERMINATED
        self.kept = b""
        """What is repeated."""
        self.pause = 0.0
        """Of the retransmission that is armed."""
        self.timers: dict[Turn, Wake] = {}
        self.cancelled = False
        self.wants_cancel = False
        self.reason = ""
        """Of the CANCEL."""
        self.size = 0
        """What it keeps, in bytes."""


class Transactions:
    """All transactions of one worker; feed it, then drain `events` and `outgoing`, then ask `wake_at`."""

    def __init__(self, timers: Timers | None = None, limits: Limits | None = None) -> None:
        self.ignored = 0
        """Messages that fit nothing: late, stray, or spoofed."""
        self._timers = timers or Timers()
        self._limits = limits or Limits()
        self._wakes = WakeList()
        self._number = 0
        self._now = 0.0
        self._all: dict[TransactionId, _Transaction] = {}
        self._found: dict[Hashable, _Transaction] = {}
        self._at: dict[Hop, set[TransactionId]] = {}
        self._finished: OrderedDict[TransactionId, None] = OrderedDict()
        self.kept_bytes = 0
        """What all of them keep: requests that wait for an answer, and what may be repeated."""
        self._events: list[TransactionEvent] = []
        self._outgoing: list[Outgoing] = []

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all)

    # --- told

    def receive(self, message: Request | Response, hop: Hop, now: float) -> None:
        """A message arrived from `hop`; drain `events` and `outgoing` next."""
        self._begin(now)
        if isinstance(message, Response):
            self._receive_response(message, hop)
        else:
            self._receive_request(message, hop)

    def receive_failure(self, hop: Hop, now: float) -> None:
        """Nothing can be sent to `hop` any more: a closed connection, an ICMP error."""
        self._begin(now)
        for number in sorted(self._at.get(hop, ())):
            self._lose(self._all[number])

    def wake(self, now: float) -> None:
        """The time is `now`; drain `events` and `outgoing` next."""
        self._now = now
        self._wakes.wake(now)

    # --- wanted

    def send(self, request: Request, hop: Hop, now: float) -> TransactionId:
        """Sends a request, with its Via in it, until it is answered; CapacityError when there is no room."""
        self._begin(now)
        if request.method == "ACK":
            raise LocalError("an ACK is no transaction: send it as it is")
        key = ("client", request.top.branch, request.method)
        if key in self._found:
            raise LocalError("a branch is used once")
        if not self._make_room(size_of(request)):
            raise CapacityError("too many SIP transactions", RETRY_AFTER)
        kind = Kind.INVITE_CLIENT if request.method == "INVITE" else Kind.CLIENT
        return self._start(kind, request, hop, (key,)).id

    def respond(self, number: TransactionId, response: Response, now: float) -> bool:
        """Sends a response; false when the transaction is over or has its final one."""
        self._begin(now)
        transaction = self._all.get(number)
        if transaction is None:
            return False
        if transaction.kind.is_client:
            raise LocalError("an answer to a request of our own")
        return self._turn(transaction, _turn_of(response), response)

    def cancel(self, number: TransactionId, now: float, reason: str = "") -> bool:
        """Takes an INVITE of ours back; false when it is answered already.

        The CANCEL goes out when something has been heard of the INVITE (§9.1), with a Reason if there
        is one (RFC 3326 §2); a 2xx may still come.
        """
        self._begin(now)
        transaction = self._all.get(number)
        if transaction is None or transaction.kind is not Kind.INVITE_CLIENT:
            return False
        transaction.reason = reason
        if transaction.state is State.CALLING:
            transaction.wants_cancel = True
            return True
        return self._turn(transaction, Turn.CANCEL)

    def send_once(self, message: Message, hop: Hop) -> None:
        """Sends without a transaction: the ACK of a 2xx, an answer that keeps no state."""
        self._outgoing.append(Outgoing(bytes(message), hop))

    # --- to collect

    def knows(self, request: Request) -> bool:
        """Whether it is a retransmission of a request that is here."""
        return server_key(request) in self._found

    def events(self) -> list[TransactionEvent]:
        """Drain what the user should know, in order."""
        events, self._events = self._events, []
        return events

    def outgoing(self) -> list[Outgoing]:
        """Drain what must be sent, in order."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def wake_at(self) -> float | None:
        """The earliest time it wants to be woken, or None."""
        return self._wakes.wake_at()

    # --- matching

    def _receive_response(self, response: Response, hop: Hop) -> None:
        transaction = self._found.get(("client", response.top.branch, response.cseq.method))
        # §8.1.3.3: a second Via says that the answer was not for us.
        is_single = len(response.fields["via"]) == 1 and not has_second(response)
        if transaction is None or not is_single:
            self.ignored += 1
            if is_single and _is_answer(response):
                self._events.append(Stray(response, hop))
            return
        self._turn(transaction, _turn_of(response), response, hop)

    def _receive_request(self, request: Request, hop: Hop) -> None:
        key = server_key(request)
        transaction = self._found.get(key)
        if request.method == "ACK":
            self._receive_ack(request, hop, transaction)
            return
        if transaction is not None:
            self._turn(transaction, Turn.REQUEST)
            return
        if not hop.is_reliable:
            hop = replace(hop, port=answer_port(request.top, hop.port))
        keys: tuple[Hashable, ...] = (key,)
        if request.is_initial and request.method != "CANCEL":
            merged = ("merged", request.call_id, request.from_.tag, request.cseq)
            if merged in self._found:
                self.send_once(build_response(request, 482, tag=stateless_tag(request)), hop)
                return
            keys = (key, merged)
        if not self._make_room(size_of(request)):
            refusal = build_response(request, 503, tag=stateless_tag(request))
            refusal.put("retry-after", RETRY_AFTER)
            self.send_once(refusal, hop)
            return
        kind = Kind.INVITE_SERVER if request.method == "INVITE" else Kind.SERVER
        self._start(kind, request, hop, keys)

    def _receive_ack(self, request: Request, hop: Hop, transaction: _Transaction | None) -> None:
        if transaction is None:
            # §17.2.3: a peer of RFC 2543 repeats the To of our failure, which the INVITE did not have.
            transaction = self._found.get(server_key(request, to_tag=""))
        if transaction is not None:
            self._turn(transaction, Turn.ACK, request, hop)
        else:
            self._events.append(Acked(request, hop))

    # --- one transaction

    def _begin(self, now: float) -> None:
        self._now = now
        if max(len(self._events), len(self._outgoing)) >= self._limits.undrained:
            raise LocalError("events of the SIP transactions are not drained")

    def _start(
        self, kind: Kind, request: Request, hop: Hop, keys: tuple[Hashable, ...]
    ) -> _Transaction:
        self._number += 1
        transaction = _Transaction(self._number, kind, request, hop, keys)
        self._all[transaction.id] = transaction
        self._at.setdefault(hop, set()).add(transaction.id)
        for key in keys:
            self._found[key] = transaction
        self._weigh(transaction)
        transaction.state, doings = BEGIN[kind]
        self._do_all(transaction, doings, request, hop)
        return transaction

    def _turn(
        self,
        transaction: _Transaction,
        turn: Turn,
        message: Message | None = None,
        hop: Hop | None = None,
    ) -> bool:
        """The only place that changes a state; false when the table has no row."""
        row = TABLES[transaction.kind].get((transaction.state, turn))
        if row is None:
            self.ignored += 1
            return False
        before, (after, doings) = transaction.state, row
        transaction.state = after
        if after is not before:
            self._stop_timers(transaction, after)
            if after in FINISHED:
                self._finished[transaction.id] = None
                if not transaction.kind.is_client:
                    transaction.request = None
                    self._weigh(transaction)
        self._do_all(transaction, doings, message, hop)
        if transaction.state is State.TERMINATED:
            self._forget(transaction)
        elif transaction.wants_cancel and transaction.state is State.PROCEEDING:
            transaction.wants_cancel = False
            self._turn(transaction, Turn.CANCEL)
        return True

    def _lose(self, transaction: _Transaction) -> None:
        """Its way is gone; an answer goes by a new connection then, to where the Via says (§18.2.2)."""
        hop = transaction.hop
        if transaction.kind.is_client or not hop.connection or not transaction.port:
            self._turn(transaction, Turn.ERROR)
            return
        self._leave(transaction)
        transaction.hop = replace(hop, port=transaction.port, connection=0)
        self._at.setdefault(transaction.hop, set()).add(transaction.id)
        if transaction.state is State.COMPLETED:
            # Any other answer comes again by itself: a 2xx until its ACK, a 1xx with the next one.
            self._repeat(transaction)

    def _leave(self, transaction: _Transaction) -> None:
        there = self._at[transaction.hop]
        there.discard(transaction.id)
        if not there:
            del self._at[transaction.hop]

    def _do_all(
        self,
        transaction: _Transaction,
        doings: tuple[Do, ...],
        message: Message | None,
        hop: Hop | None,
    ) -> None:
        for do in doings:
            if (arm := _ARMS.get(do)) is not None:
                self._arm(transaction, do, arm)
            elif do is Do.SEND:
                assert message is not None
                transaction.kept = bytes(message)
                self._weigh(transaction)
                self._stop(transaction, Turn.TIMER_TRYING)
                self._repeat(transaction)
            elif do is Do.REPEAT:
                self._repeat(transaction)
            elif do is Do.TELL:
                assert message is not None
                assert hop is not None
                self._events.append(self._news(transaction, message, hop))
            else:
                self._do_rarely(transaction, do, message)

    def _do_rarely(self, transaction: _Transaction, do: Do, message: Message | None) -> None:
        match do:
            case Do.TELL_TIMEOUT:
                self._events.append(TimedOut(transaction.id))
            case Do.TELL_ERROR:
                self._events.append(Undelivered(transaction.id))
            case Do.TRYING:
                assert transaction.request is not None
                transaction.kept = bytes(build_response(transaction.request, 100))
                self._weigh(transaction)
                self._repeat(transaction)
            case Do.ACKNOWLEDGE:
                assert isinstance(message, Response)
                assert transaction.request is not None
                self.send_once(follow(transaction.request, "ACK", message), transaction.hop)
            case _:
                assert do is Do.CANCEL
                self._send_cancel(transaction)

    def _news(self, transaction: _Transaction, message: Message, hop: Hop) -> TransactionEvent:
        if isinstance(message, Response):
            return Answered(transaction.id, message, hop)
        assert isinstance(message, Request)
        if message.method == "ACK":
            return Acked(message, hop)
        if message.method == "CANCEL":
            target = self._found.get(server_key(message, method="INVITE"))
            return Cancelled(transaction.id, message, hop, target.id if target else None)
        return Asked(transaction.id, message, hop)

    def _repeat(self, transaction: _Transaction) -> None:
        if transaction.kept:
            self._outgoing.append(Outgoing(transaction.kept, transaction.hop))

    def _send_cancel(self, transaction: _Transaction) -> None:
        if transaction.cancelled:
            return
        transaction.cancelled = True
        assert transaction.request is not None
        request = follow(transaction.request, "CANCEL", None)
        if transaction.reason:
            request.put("reason", transaction.reason)
        key = ("client", request.top.branch, request.method)
        # Over the limit too: whoever rings must be able to stop it, and each INVITE has one at most.
        self._start(Kind.CLIENT, request, transaction.hop, (key,))

    # --- timers

    def _arm(self, transaction: _Transaction, do: Do, arm: tuple[Turn, str]) -> None:
        turn, which = arm
        timers, reliable = self._timers, transaction.hop.is_reliable
        if which == "repeat":
            if reliable:
                return
            pause = transaction.pause
            # Timer A doubles for ever, E and G up to T2 (§17.1.1.2, §17.1.2.2, §17.2.1).
            if do is Do.ARM_E_T2:
                pause = timers.t2
            elif pause == 0.0:
                pause = timers.t1
            else:
                pause = 2 * pause if do is Do.ARM_A else timers.next_pause(pause)
            transaction.pause = pause
        else:
            pause = 0.0 if reliable and which in _UNRELIABLE else _PAUSES[which](timers)
        if pause == 0.0:
            self._turn(transaction, turn)
            return
        self._stop(transaction, turn)
        due = self._now + pause
        transaction.timers[turn] = self._wakes.add(due, partial(self._fire, transaction, turn))

    def _fire(self, transaction: _Transaction, turn: Turn) -> None:
        transaction.timers.pop(turn, None)
        self._turn(transaction, turn)

    def _stop(self, transaction: _Transaction, turn: Turn) -> None:
        if (wake := transaction.timers.pop(turn, None)) is not None:
            wake.cancel()

    def _stop_timers(self, transaction: _Transaction, after: State) -> None:
        kept = KEPT if after is State.PROCEEDING else frozenset[Turn]()
        for turn in [turn for turn in transaction.timers if turn not in kept]:
            self._stop(transaction, turn)

    # --- room

    def _make_room(self, size: int) -> bool:
        limits = self._limits
        while len(self._all) >= limits.transactions or self.kept_bytes + size > limits.kept_bytes:
            if not self._finished:
                return False
            oldest = self._all[next(iter(self._finished))]
            oldest.state = State.TERMINATED
            self._forget(oldest)
        return True

    def _weigh(self, transaction: _Transaction) -> None:
        size = len(transaction.kept)
        if transaction.request is not None:
            size += size_of(transaction.request)
        self.kept_bytes += size - transaction.size
        transaction.size = size

    def _forget(self, transaction: _Transaction) -> None:
        if self._all.pop(transaction.id, None) is None:
            return
        self.kept_bytes -= transaction.size
        self._leave(transaction)
        self._stop_timers(transaction, State.TERMINATED)
        self._finished.pop(transaction.id, None)
        for key in transaction.keys:
            if self._found.get(key) is transaction:
                del self._found[key]
        self._events.append(Ended(transaction.id))


_ARMS: Final = {
    Do.ARM_A: (Turn.TIMER_A, "repeat"),
    Do.ARM_B: (Turn.TIMER_B, "timeout"),
    Do.ARM_C: (Turn.TIMER_C, "ringing"),
    Do.ARM_D: (Turn.TIMER_D, "unreliable"),
    Do.ARM_E: (Turn.TIMER_E, "repeat"),
    Do.ARM_E_T2: (Turn.TIMER_E, "repeat"),
    Do.ARM_F: (Turn.TIMER_F, "timeout"),
    Do.ARM_G: (Turn.TIMER_G, "repeat"),
    Do.ARM_H: (Turn.TIMER_H, "timeout"),
    Do.ARM_I: (Turn.TIMER_I, "t4"),
    Do.ARM_J: (Turn.TIMER_J, "unreliable"),
    Do.ARM_K: (Turn.TIMER_K, "t4"),
    Do.ARM_L: (Turn.TIMER_L, "timeout"),
    Do.ARM_M: (Turn.TIMER_M, "timeout"),
    Do.ARM_TRYING: (Turn.TIMER_TRYING, "trying"),
    Do.ARM_LATE: (Turn.TIMER_TRYING, "late"),
    Do.ARM_GIVEN_UP: (Turn.TIMER_GIVEN_UP, "timeout"),
}
"""Which timer a doing starts, and how long it runs."""
_PAUSES: Final[dict[str, Callable[[Timers], float]]] = {
    "t4": lambda timers: timers.t4,
    "unreliable": lambda timers: timers.timeout,
    "timeout": lambda timers: timers.timeout,
    "trying": lambda timers: timers.trying,
    "late": lambda timers: timers.late,
    "ringing": lambda timers: timers.ringing,
}
_UNRELIABLE: Final = frozenset({"t4", "unreliable"})
"""Over a reliable transport nothing comes again: these do not run."""


def _is_answer(response: Response) -> bool:
    return 200 <= response.status < 300 and response.cseq.method == "INVITE"


def _turn_of(response: Response) -> Turn:
    if response.status < 200:
        return Turn.PROVISIONAL
    return Turn.SUCCESS if response.status < 300 else Turn.FAILURE
