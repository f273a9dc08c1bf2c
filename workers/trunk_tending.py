"""What one worker does for one trunk on behalf of the daemon: registering, and asking whether it lives.

`Registering` is the shell of `sip/register.py`: each request of the registration is an errand, whose
outcome goes back into it. Where the request goes out from is known when its target is, so Via and Contact
are written then. Further requests of one attempt (with credentials, say) go where the answer came from,
as only that server knows its nonce; over RFC 5626 all do, as long as the connection holds.

`Pinging` sends OPTIONS to the trunk's proxies and keeps what comes of it in a `Health`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from flowcatd.log import get_logger
from flowcatd.sip.digest import Answerer
from flowcatd.sip.event import Hop
from flowcatd.sip.header import Address, Via
from flowcatd.sip.message import Request, Response, build_request
from flowcatd.sip.register import Registration, State, Status
from flowcatd.sip.register_terms import (
    Failed,
    Left,
    Lost,
    Registered,
    RegistrationEvent,
    terms_of,
)
from flowcatd.sip.trunk import Trunk
from flowcatd.sip.uri import Uri
from flowcatd.wake import Wake
from workers.load import Load
from workers.trunk_errands import Errand, Errands, Outcome, Road
from workers.trunk_health import Health, Pulse

log = get_logger()

_NOWHERE: Final = "unknown.invalid"
"""Our host until a target is known; never sent."""
_INSTANCES: Final = uuid.UUID("5f1c2a52-6d1b-4a8e-9a9a-0c8f5f1d7b11")
"""The name space of our instance ids (RFC 5626 §4.1)."""

TrunkEvent = RegistrationEvent | Pulse


@dataclass(frozen=True, slots=True)
class Means:
    """What the worker around gives."""

    road: Road
    here: Callable[[Hop], tuple[str, int]]
    """What we call ourselves towards a hop: host (IPv6 in brackets) and port."""
    token: Callable[[], str]
    """Unguessable text with this process's stamp, never twice the same."""
    random: Callable[[], float]
    """Numbers from 0 up to 1."""
    loads: Iterable[Load]
    seat: int
    answerer: Callable[[str], Answerer | None]
    """By a trunk's name: what answers challenges with its password, if it has one."""
    told: Callable[[str, TrunkEvent], None]
    """What happened to a trunk."""
    learn: Callable[[str, tuple[str, ...]], None]
    """The addresses of a trunk whose peers are its sources."""
    keep: Callable[[Hop, float], None] = lambda _hop, _seconds: None
    """The other side of a connection of ours wants pings that often."""
    machine: str = "flowcatd"
    """What tells this daemon from others with the same account, and stays over restarts."""


class Registering:
    """One trunk's registration, from here."""

    def __init__(self, trunk: Trunk, means: Means, errands: Errands) -> None:
        self.trunk = trunk
        self.seen = ""
        """Where the registrar saw us (RFC 3581), when that is not where we say that we are."""
        self._means = means
        self._errands = errands
        self._registration = Registration(
            terms_of(
                trunk, Uri("sip", host=_NOWHERE), Via("UDP", _NOWHERE), _instance(trunk, means)
            ),
            means.answerer(trunk.name),
            means.token,
            means.random,
        )
        self._errand: Errand | None = None
        self._wake: Wake | None = None
        self._stay: tuple[Uri, Hop] | None = None
        """Where the last answer of this attempt came from, and what it was an answer to."""
        self._flow: Hop | None = None
        """The connection over which calls are to come (RFC 5626)."""
        self._told_status = -1
        self._has_told_seen = False

    @property
    def is_over(self) -> bool:
        """Whether it was taken back."""
        return self._registration.state is State.LEFT

    @property
    def flow(self) -> Hop | None:
        """The connection over which calls are to come, and over which everything else goes."""
        return self._flow

    def start(self, due: float) -> None:
        """Register then."""
        clock = self._means.road.clock
        if due <= clock.now():
            self._start()
        else:
            self._wake = clock.wake(due, self._start)

    def stop(self) -> None:
        """Take it back; `is_over` soon."""
        self._registration.stop(self._means.road.clock.now())
        self._settle()

    def drop(self) -> None:
        """Do nothing more about it; the binding stays, for whoever renews it."""
        self._call_off()
        if self._wake is not None:
            self._wake.cancel()

    def refresh(self) -> None:
        """Register now instead of later."""
        self._registration.refresh()
        self._settle()

    def receive_failure(self, hop: Hop, now: float) -> bool:
        """A connection is gone; whether it was this one's."""
        if self._flow is None or self._flow != hop:
            return False
        self._flow = None
        self._registration.receive_flow_closed(now)
        self._settle()
        return True

    def status(self) -> Status:
        """How it stands."""
        return self._registration.status(self._means.road.clock.now())

    # --- the pump

    def _start(self) -> None:
        self._wake = None
        self._registration.start()
        self._settle()

    def _settle(self) -> None:
        for event in self._registration.events():
            self._tell(event)
        for request in self._registration.outgoing():
            self._send(request)
        self._arm()

    def _arm(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
        due = self._registration.wake_at()
        clock = self._means.road.clock
        self._wake = None if due is None else clock.wake(due, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._registration.wake(self._means.road.clock.now())
        self._settle()

    # --- one request

    def _send(self, request: Request) -> None:
        routes = request.addresses("route")
        where = routes[0].uri if routes else request.uri
        first = self._flow
        if self._stay is not None and self._stay[0] == where:
            first = self._stay[1]
        self._errand = Errand(
            where=(where,),
            addressed=partial(self._addressed, request),
            done=partial(self._done, request, where),
            first=first,
        )
        self._errands.begin(self._errand)

    def _addressed(self, request: Request, hop: Hop) -> Request:
        registrar = self._registration.terms.registrar
        contact = contact_towards(hop, self._means, self.trunk.account.user, registrar.scheme)
        self._registration.send_from(request, contact, via_towards(hop, self._means))
        return request

    def _done(self, request: Request, where: Uri, outcome: Outcome) -> None:
        self._errand = None
        now = self._means.road.clock.now()
        if outcome.response is None:
            self._registration.receive_failure(request, now, outcome.problem)
        else:
            self._note(outcome.response)
            if outcome.hop is not None:
                self._stay = (where, outcome.hop)
            self._registration.receive_response(outcome.response, now)
        self._settle()

    def _note(self, response: Response) -> None:
        via = response.top
        # A connection of ours leaves from a port that nobody calls.
        port = (via.parameters.get("rport") if via.transport == "UDP" else "") or ""
        differs = via.received not in {"", via.host.strip("[]")} or port not in {"", str(via.port)}
        self.seen = f"{via.received or via.host}:{port or via.port}" if differs else ""
        if self.seen and not self._has_told_seen:
            self._has_told_seen = True
            why = f"the registrar sees us at {self.seen}, and we say {via.host}:{via.port}"
            log.warning("trunk.limited", trunk=self.trunk.name, key="sip.public_host", why=why)

    def _call_off(self) -> None:
        if self._errand is not None:
            self._errands.call_off(self._errand)
            self._errand = None

    # --- what happened

    def _tell(self, event: RegistrationEvent) -> None:
        name, stay = self.trunk.name, self._stay
        match event:
            case Registered(seconds, is_refresh):
                self._told_status = -1
                if self.trunk.register.outbound and stay is not None and stay[1].connection:
                    self._flow = stay[1]
                    if self._registration.flow_seconds:
                        self._means.keep(stay[1], self._registration.flow_seconds)
                if is_refresh:
                    log.debug("trunk.registered", trunk=name, seconds=seconds)
                else:
                    log.info("trunk.registered", trunk=name, seconds=seconds)
            case Failed(status, problem, retry_in):
                if status != self._told_status:  # an hour of silence is one line
                    log.warning(
                        "trunk.refused",
                        trunk=name,
                        status=status,
                        why=problem,
                        retry_seconds=round(retry_in),
                    )
                self._told_status = status
            case Lost(problem):
                log.warning("trunk.lost", trunk=name, why=problem)
            case Left(confirmed):
                self._call_off()
                log.info("trunk.unregistered", trunk=name, confirmed=confirmed)
        if not isinstance(event, Lost):
            self._stay = None
        self._means.told(name, event)


class Pinging:
    """One trunk's OPTIONS, from here."""

    def __init__(
        self, trunk: Trunk, means: Means, errands: Errands, flow: Callable[[], Hop | None]
    ) -> None:
        """`flow` is the connection that a registration goes over, if any."""
        self.trunk = trunk
        self.health = Health()
        self._means = means
        self._errands = errands
        self._flow = flow
        self._errand: Errand | None = None
        self._wake: Wake | None = None

    def start(self, due: float) -> None:
        """Ask then, and again and again."""
        self._wake = self._means.road.clock.wake(due, self._ask)

    def drop(self) -> None:
        """Ask nothing more."""
        if self._wake is not None:
            self._wake.cancel()
        if self._errand is not None:
            self._errands.call_off(self._errand)

    def _ask(self) -> None:
        self._wake = None
        trunk = self.trunk
        self._errand = Errand(
            where=trunk.next_hops or (trunk.registrar,),
            addressed=partial(self._addressed, self._means.token(), self._means.token()),
            done=self._done,
            first=self._flow(),
            in_hurry=True,
        )
        self._errands.begin(self._errand)

    def _addressed(self, call_id: str, tag: str, hop: Hop) -> Request:
        trunk, means = self.trunk, self._means
        # §11.1: nobody's user agent is asked, but the server itself.
        registrar = trunk.registrar
        uri = Uri(registrar.scheme, host=registrar.host, port=registrar.port)
        us = Uri("sip", host=trunk.domain or uri.host, user=trunk.account.user)
        via = via_towards(hop, means)
        request = build_request(
            "OPTIONS",
            uri,
            via=via.with_parameters(branch=f"z9hG4bK{means.token()}"),
            from_=Address(us).with_tag(tag),
            to=Address(uri),
            call_id=call_id,
            cseq=1,
        )
        contact = contact_towards(hop, means, trunk.account.user, uri.scheme)
        request.put("contact", f"<{contact}>")
        request.put("accept", "application/sdp")
        return request

    def _done(self, outcome: Outcome) -> None:
        self._errand = None
        pulse = self.health.note(0 if outcome.response is None else outcome.response.status)
        if pulse is not None:
            name = self.trunk.name
            if pulse.is_alive:
                log.info("trunk.found", trunk=name, alive=True)
            else:
                log.warning("trunk.found", trunk=name, alive=False, why=self._why(outcome))
            self._means.told(name, pulse)
        clock = self._means.road.clock
        # A tenth to and fro, so that trunks which began together do not stay together.
        pause = self.trunk.peer.options_seconds * (0.9 + self._means.random() / 5)
        self._wake = clock.wake(clock.now() + pause, self._ask)

    def _why(self, outcome: Outcome) -> str:
        return f"answered {self.health.status}" if outcome.response else outcome.problem


def via_towards(hop: Hop, means: Means) -> Via:
    """Our Via, without a branch; it asks where we are seen (RFC 3581)."""
    host, port = means.here(hop)
    return Via(hop.transport, host, port, {"rport": None})


def contact_towards(hop: Hop, means: Means, user: str, scheme: str) -> Uri:
    """Our Contact: the same from every worker, so that another's registration takes the place of ours."""
    host, port = means.here(hop)
    parameters = {} if hop.transport == "UDP" else {"transport": hop.transport.lower()}
    if scheme == "sips":
        parameters = {}  # RFC 5630 §5.1.1.1: sips says TLS already
    return Uri(scheme, host=host, user=user, port=port, parameters=parameters)


def _instance(trunk: Trunk, means: Means) -> str:
    words = f"{means.machine}/{trunk.name}/{trunk.account.user}@{trunk.domain}"
    return f"urn:uuid:{uuid.uuid5(_INSTANCES, words)}"
