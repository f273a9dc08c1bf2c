"""One trunk's registration: we say where we are, and keep saying it (RFC 3261 §10.2).

  IDLE ── start ──► ASKING ── 2xx ──► REGISTERED ── time ──► ASKING …
                      │ 401/407, 423, 3xx: asks again at once, a few times
                      └ else ──► WAITING ── back-off ──► ASKING
  any ── stop ──► LEAVING (REGISTER with 0) ──► LEFT, whatever the answer

A binding holds until it runs out, whatever becomes of its refresh: `is_registered` looks at the clock,
not at the state. Refreshing begins at 5/6 of the granted time, earlier when that would not leave two
timeouts of a transaction (64 s) for it, at half of it at the earliest, and up to a tenth before, so that
a thousand trunks do not come at once. Failures back off as RFC 5626 §4.5 has it: twice as long each time
up to a cap, from half of which to all is drawn.

Transactions, targets and DNS are the caller's: `outgoing` has requests to send (to their Route, or else
to their Request-URI), and the caller says what came of each by `receive_response` or
`receive_failure`. Only one is under way at a time. Where it goes out from is known when its target is:
`send_from` writes that into it, with the next branch, for the first target and for each further one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from flowcatd.errors import LocalError
from flowcatd.sip.digest import Answerer
from flowcatd.sip.header import Address, Via, parse_number
from flowcatd.sip.message import Request, Response, build_request
from flowcatd.sip.register_terms import (
    Failed,
    Left,
    Lost,
    Registered,
    RegistrationEvent,
    Terms,
    back_off,
    refresh_after,
    retry_after,
)
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri, is_same_uri

ROUNDS_MAX = 6
"""Requests of one attempt: challenges of two realms, stale nonces, 423, 3xx. More is a loop."""
REDIRECTS_MAX = 3
SECONDS_MAX = 86_400
"""A registrar that wants longer than a day (423) does not know what it wants."""
ROUTES_MAX = 16
EVENTS_MAX = 100
YOUNG = 60.0
"""Seconds; a connection that lived longer has proved that it can."""


class State(Enum):
    """Where a registration stands."""

    IDLE = "not begun"
    ASKING = "a request is under way"
    REGISTERED = "bound; the next request has its time"
    WAITING = "an attempt failed; the next one has its time"
    LEAVING = "the binding is being taken back"
    LEFT = "over"


@dataclass(frozen=True, slots=True)
class Status:
    """For `flowcatd status` and metrics; times are seconds from now."""

    state: State
    is_registered: bool
    expires_in: float
    next_in: float | None
    failures: int
    """Attempts in a row that failed."""
    last_status: int
    problem: str


@dataclass(slots=True)
class _Attempt:
    """From a first request to what ends it: success, failure, or the last round."""

    registrar: Uri
    contact: Uri
    rounds: int = 0
    redirects: int = 0
    leaves: bool = False
    request: Request | None = None
    """The one under way."""


@dataclass(slots=True)
class _Binding:
    """What the registrar has, as far as we know."""

    contact: Uri
    since: float
    """When it began; a refresh is no beginning."""
    until: float
    service_route: tuple[Address, ...] = ()
    flow_seconds: int = 0


@dataclass(slots=True)
class _Trouble:
    """What went wrong last."""

    failures: int = 0
    status: int = 0
    problem: str = ""


@dataclass(slots=True)
class _Names:
    """What must stay the same, or never come twice, over all requests (§10.2)."""

    call_id: str
    tag: str
    cseq: int = 0
    asked: int = 0
    """The lifetime to ask for; raised by 423."""


class Registration:
    """One binding at one registrar; feed it, then drain `outgoing` and `events`, then ask `wake_at`.

    `token` gives fresh unguessable text, `random` numbers from 0 up to 1.
    """

    def __init__(
        self,
        terms: Terms,
        answerer: Answerer | None,
        token: Callable[[], str],
        random: Callable[[], float],
    ) -> None:
        self.terms = terms
        self.state = State.IDLE
        self.ignored = 0
        """Answers that belong to nothing."""
        self._answerer = answerer
        self._token = token
        self._random = random
        self._names = _Names(token(), token(), asked=terms.seconds)
        self._attempt: _Attempt | None = None
        self._binding: _Binding | None = None
        self._trouble = _Trouble()
        self._due: float | None = None
        self._leaving = False
        self._events: list[RegistrationEvent] = []
        self._outgoing: list[Request] = []

    # --- told

    def receive_response(self, response: Response, now: float) -> None:
        """An answer to the request under way; any other is counted and ignored."""
        attempt = self._attempt
        if attempt is None or not _answers(attempt.request, response):
            self.ignored += 1
        elif response.is_final:
            self._settle(attempt, response, now)

    def receive_failure(self, request: Request, now: float, problem: str = "no answer") -> None:
        """No target took the request, or none answered in time: as if by 408 or 503 (§8.1.3.1)."""
        attempt = self._attempt
        if attempt is None or attempt.request is not request:
            self.ignored += 1
        else:
            self._fail(attempt, 0, problem, now)

    def receive_flow_closed(self, now: float) -> None:
        """The connection we registered over is gone (RFC 5626 §4.4): the binding leads nowhere.

        The next request comes within a second, or after a pause when the connection was a young one,
        as some registrars accept and hang up. One under way fails by itself, a pause goes on.
        """
        if self.state not in {State.REGISTERED, State.WAITING}:
            return
        if self.state is State.REGISTERED and self._binding is not None:
            is_young = now - self._binding.since < YOUNG
            pause = back_off(self.terms, 1, self._random()) if is_young else self._random()
            self._wait(State.WAITING, now + pause)
        self._lose("the connection was closed")

    def wake(self, now: float) -> None:
        """The time is `now`."""
        if self._binding is not None and now >= self._binding.until and not self._leaving:
            self._lose("it ran out")
        if self._due is None or now < self._due:
            return
        if self.state is State.LEAVING:
            self._end(confirmed=False)
        else:
            self._begin()

    # --- wanted

    def start(self) -> None:
        """Registers, and stays registered until `stop`."""
        if self.state is not State.IDLE:
            raise LocalError("a registration is started once")
        self._begin()

    def stop(self, now: float) -> None:
        """Takes the binding back; `Left` follows within `leave_seconds`. May be called again.

        A request under way is waited for first (§10.2: one at a time), or its answer would bind again.
        """
        if self._leaving or self.state is State.LEFT:
            return
        self._leaving = True
        if self._attempt is None and self._binding is None:
            self._end(confirmed=self.state is State.IDLE)
            return
        self._wait(State.LEAVING, now + self.terms.leave_seconds)
        if self._attempt is None:
            self._begin_leaving()

    def refresh(self) -> None:
        """Registers now instead of later, unless it is doing so."""
        if self.state in {State.REGISTERED, State.WAITING}:
            self._begin()

    def move(self, contact: Uri, via: Via) -> None:
        """We are elsewhere now; that is registered next, and the old place runs out."""
        self.terms = replace(self.terms, contact=contact, via=via)
        self.refresh()

    def send_from(self, request: Request, contact: Uri, via: Via) -> None:
        """Writes where the request under way goes out from, with a fresh branch, and remembers it.

        A binding that is taken back keeps the Contact that it has.
        """
        attempt = self._attempt
        if attempt is None or attempt.request is not request:
            raise LocalError("a request that is not under way")
        request.top = via.with_parameters(branch=f"z9hG4bK{self._token()}")
        request.put("via", request.top)
        if not attempt.leaves:
            self.terms = replace(self.terms, contact=contact, via=via)
            attempt.contact = contact
            request.put("contact", self._contact(attempt))

    # --- to collect

    def events(self) -> list[RegistrationEvent]:
        """Drains what the application should know."""
        told, self._events = self._events, []
        return told

    def outgoing(self) -> list[Request]:
        """Drains the request to send; one at most."""
        sent, self._outgoing = self._outgoing, []
        return sent

    def wake_at(self) -> float | None:
        """When to be woken, or None."""
        ends = None if self._binding is None or self._leaving else self._binding.until
        times = [each for each in (self._due, ends) if each is not None]
        return min(times, default=None)

    def is_registered(self, now: float) -> bool:
        """Whether the registrar leads calls to us."""
        return self._binding is not None and now < self._binding.until

    @property
    def service_route(self) -> tuple[Address, ...]:
        """What our requests over this trunk have as Route (RFC 3608 §6.1); empty without."""
        return self._binding.service_route if self._binding else ()

    @property
    def flow_seconds(self) -> int:
        """How often the registrar wants to see a keep-alive (RFC 5626 §10); 0 leaves it to us."""
        return self._binding.flow_seconds if self._binding else 0

    def status(self, now: float) -> Status:
        """How it stands."""
        ends = self._binding.until if self._binding else now
        return Status(
            self.state,
            self.is_registered(now),
            max(0.0, ends - now),
            None if self._due is None else max(0.0, self._due - now),
            self._trouble.failures,
            self._trouble.status,
            self._trouble.problem,
        )

    # --- asking

    def _begin(self) -> None:
        self.state = State.ASKING
        self._due = None
        self._attempt = _Attempt(self.terms.registrar, self.terms.contact)
        self._ask(self._attempt)

    def _begin_leaving(self) -> None:
        contact = self._binding.contact if self._binding else self.terms.contact
        self._attempt = _Attempt(self.terms.registrar, contact, leaves=True)
        self._ask(self._attempt)

    def _ask(self, attempt: _Attempt) -> None:
        terms, names = self.terms, self._names
        attempt.rounds += 1
        names.cseq += 1
        request = build_request(
            "REGISTER",
            attempt.registrar,
            via=terms.via.with_parameters(branch=f"z9hG4bK{self._token()}"),
            from_=terms.identity.with_tag(names.tag),
            to=terms.identity,
            call_id=names.call_id,
            cseq=names.cseq,
        )
        if terms.proxies:
            proxy = terms.proxies[self._trouble.failures % len(terms.proxies)]
            request.put("route", f"<{proxy.with_parameters(lr=None)}>")
        request.put("contact", self._contact(attempt))
        request.put("expires", 0 if attempt.leaves else names.asked)
        request.put("supported", "path, outbound" if terms.instance else "path")
        if self._answerer is not None:
            self._answerer.authorize(request, "REGISTER", str(attempt.registrar))
        attempt.request = request
        self._outgoing = [request]

    def _contact(self, attempt: _Attempt) -> str:
        text = f"<{attempt.contact}>"
        if self.terms.instance:
            text += f';+sip.instance="<{self.terms.instance}>";reg-id=1'
        return f"{text};expires=0" if attempt.leaves else text

    # --- answers

    def _settle(self, attempt: _Attempt, response: Response, now: float) -> None:
        assert attempt.request is not None
        try:
            again = self._wants_another(attempt, attempt.request, response)
            if not again and 200 <= response.status < 300:
                self._succeed(attempt, response, now)
                return
        except SipError as error:
            # An answer that cannot be read is one that did not come.
            self._fail(attempt, response.status, error.problem, now)
            return
        if again and attempt.rounds < ROUNDS_MAX and (attempt.leaves or not self._leaving):
            self._ask(attempt)
        else:
            refused = response.status in {401, 407, 403}
            self._fail(
                attempt,
                response.status,
                "the credentials were refused" if refused else f"answered {response.status}",
                now,
                pause=retry_after(response) or (self.terms.refused_pause if refused else 0.0),
            )

    def _wants_another(self, attempt: _Attempt, request: Request, response: Response) -> bool:
        """Whether the answer asks for the same again, in another way; and makes it so."""
        status = response.status
        if status in {401, 407}:
            return self._answerer is not None and self._answerer.accept(request, response)
        if status == 423:
            least = response.number("min-expires") or 0
            if attempt.leaves or not self._names.asked < least <= SECONDS_MAX:
                return False
            self._names.asked = least
            return True
        if 300 <= status < 400:
            return self._follow(attempt, response)
        return False

    def _follow(self, attempt: _Attempt, response: Response) -> bool:
        """A 3xx (§8.1.3.4): the first contact that is no step down in safety."""
        attempt.redirects += 1
        needs = self.terms.registrar.scheme
        for address in response.addresses("contact"):
            safe = address.uri.is_sip and (needs == "sip" or address.uri.scheme == "sips")
            if safe and not is_same_uri(address.uri, attempt.registrar):
                # §10.2: no user in it; headers of a Contact would go into the request (§19.1.5).
                attempt.registrar = Uri(
                    address.uri.scheme,
                    host=address.uri.host,
                    port=address.uri.port,
                    parameters=address.uri.parameters,
                )
                return attempt.redirects <= REDIRECTS_MAX
        return False

    def _succeed(self, attempt: _Attempt, response: Response, now: float) -> None:
        if self._answerer is not None:
            self._answerer.learn(response)
        if attempt.leaves:
            self._end(confirmed=True)
            return
        seconds = self._granted(attempt, response)
        was = self.is_registered(now)
        if seconds <= 0:
            self._lose("the registrar does not have it")
            self._fail(attempt, response.status, "the registrar did not keep the binding", now)
            return
        self._attempt = None
        self._trouble = _Trouble(status=response.status)
        route = tuple(response.addresses("service-route")[:ROUTES_MAX])
        since = now if self._binding is None else self._binding.since
        self._binding = _Binding(
            attempt.contact, since, now + seconds, route, _flow_seconds(response)
        )
        if self._leaving:
            self._begin_leaving()
            return
        self._wait(State.REGISTERED, now + refresh_after(seconds, self._random()))
        self._tell(Registered(seconds, is_refresh=was))
        if attempt.contact != self.terms.contact:
            self._begin()

    def _granted(self, attempt: _Attempt, response: Response) -> int:
        """Our binding's seconds, of all those in the answer (§10.2.4); 0 when it is not there.

        A registrar behind a NAT's other side writes the address it sees: a single contact with our
        user is ours. One that lists none breaks §10.3, but several do: its Expires counts then.
        """
        shared = response.number("expires")
        usual = self._names.asked if shared is None else shared
        found = response.addresses("contact")
        mine = [each for each in found if self._is_mine(each, attempt.contact)]
        if not mine and len(found) == 1 and found[0].uri.user == attempt.contact.user:
            mine = found
        if not found:
            return min(usual, SECONDS_MAX)
        if not mine:
            return 0
        text = mine[0].parameters.get("expires")
        return min(usual if text is None else parse_number(text), SECONDS_MAX)

    def _is_mine(self, address: Address, contact: Uri) -> bool:
        instance = address.parameters.get("+sip.instance")
        if self.terms.instance and instance:
            return instance.strip("<>") == self.terms.instance
        return is_same_uri(address.uri, contact)

    # --- endings

    def _fail(
        self, attempt: _Attempt, status: int, problem: str, now: float, pause: float = 0.0
    ) -> None:
        self._attempt = None
        if self._leaving:
            # The binding may hold still: once more for the registration that was under way.
            if attempt.leaves or self._binding is None:
                self._end(confirmed=False)
            else:
                self._begin_leaving()
            return
        self._trouble.failures += 1
        self._trouble.status, self._trouble.problem = status, problem
        pause = max(pause, back_off(self.terms, self._trouble.failures, self._random()))
        self._wait(State.WAITING, now + pause)
        self._tell(Failed(status, problem, pause))

    def _lose(self, problem: str) -> None:
        if self._binding is not None:
            self._binding = None
            self._tell(Lost(problem))

    def _end(self, *, confirmed: bool) -> None:
        self.state = State.LEFT
        self._attempt = self._binding = self._due = None
        self._outgoing = []
        self._tell(Left(confirmed))

    def _wait(self, state: State, due: float) -> None:
        self.state = state
        self._due = due

    def _tell(self, event: RegistrationEvent) -> None:
        if len(self._events) >= EVENTS_MAX:
            raise LocalError("the events of a registration are not drained")
        self._events.append(event)


def _answers(request: Request | None, response: Response) -> bool:
    return (
        request is not None
        and response.call_id == request.call_id
        and response.cseq == request.cseq
    )


def _flow_seconds(response: Response) -> int:
    try:
        return min(response.number("flow-timer") or 0, SECONDS_MAX)
    except SipError:
        return 0
