"""What the user agent is given and what it tells: values, no behaviour.

A call has a number of our own (`CallNumber`), the same in every event and verb. For each call exactly
one `CallEnded` comes, and it comes last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NewType

from flowcatd.sip.body import Digit
from flowcatd.sip.digest import Answerer
from flowcatd.sip.event import Hop
from flowcatd.sip.header import Address
from flowcatd.sip.message import Request, Response
from flowcatd.sip.refer import Replaces
from flowcatd.sip.session import Session
from flowcatd.sip.uri import Uri

CallNumber = NewType("CallNumber", int)

# --- given ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Here:
    """What we call ourselves towards one peer."""

    host: str
    """Of our Via; an IPv6 address has its brackets."""
    port: int | None
    contact: Uri
    """Where requests of our dialogs shall come to; its user says whose they are."""


@dataclass(frozen=True, slots=True)
class Mint:
    """What a pure room cannot make by itself."""

    token: Callable[[], str]
    """Unguessable text, never twice the same, with this process's stamp: tags, branches, Call-IDs."""
    here: Callable[[Hop], Here]
    random: Callable[[], float]
    """From 0 up to 1."""
    locate: Callable[[Uri, Hop], Hop]
    """Where a URI is, for requests within a dialog whose peer was last heard at that hop."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How the user agent behaves, and how much there may be of what."""

    product: str = "flowcatd"
    """For Server and User-Agent; empty says nothing."""
    session_seconds: int = 1800
    """The session timer we ask for (RFC 4028); 0 asks for none and takes what the peer wants."""
    session_least: int = 90
    ring_seconds: float = 180.0
    """How long an incoming call may wait for our decision."""
    is_reliable: bool = True
    """Whether a 183 with a description is sent reliably to those who can (RFC 3262)."""
    calls: int = 2000
    forks: int = 8
    """Early dialogs of one call of ours; answers of further ones are not looked at."""
    rounds: int = 6
    """Requests for one purpose: challenges, 422, 491, further addresses."""
    redirects: int = 3
    undrained: int = 10_000

    @property
    def call_terms(self) -> CallTerms:
        """What holds for a call that comes with none of its own."""
        return CallTerms(
            session_seconds=self.session_seconds,
            session_least=self.session_least,
            reliable="supported" if self.is_reliable else "off",
            timer="ask" if self.session_seconds else "accept",
        )


@dataclass(frozen=True, slots=True)
class CallTerms:
    """How one call behaves, where that is not as the user agent's Terms."""

    session_seconds: int = 1800
    """The session timer that we ask for (RFC 4028) where `timer` says ask; 0 asks for none."""
    session_least: int = 90
    """Min-SE: less than that is answered 422."""
    refresher: str = "auto"
    """Who refreshes, where the choice is ours (§9): auto, us, them."""
    reliable: str = "supported"
    """100rel (RFC 3262): off, supported, or required: who cannot do it gets 421."""
    timer: str = "accept"
    """Session timers: off, accept (when the other side wants them), ask."""

    @property
    def asked_seconds(self) -> int:
        """The timer that we bring up ourselves; 0 is none."""
        return self.session_seconds if self.timer == "ask" else 0

    @property
    def unwanted(self) -> frozenset[str]:
        """Extensions that we could do and do not."""
        wanted = {"100rel": self.reliable, "timer": self.timer}
        return frozenset(name for name, value in wanted.items() if value == "off")


@dataclass(frozen=True, slots=True)
class Busy:
    """New calls are refused, and OPTIONS says so: we are full or draining."""

    retry_after: int
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """A call of ours."""

    target: Uri
    caller: Address
    """From, without a tag."""
    hops: tuple[Hop, ...]
    """Where to try, in this order, until somebody answers (RFC 3263 §4.3)."""
    routes: tuple[Address, ...] = ()
    """Outbound proxies, as a route set."""
    fields: tuple[tuple[str, str], ...] = ()
    """Further fields of the INVITE: P-Asserted-Identity, Privacy, Replaces, Referred-By …"""
    answerer: Answerer | None = None
    """What answers challenges."""
    terms: CallTerms | None = None
    """None for what the user agent's own terms say."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a call ends, as a Reason field says it (RFC 3326)."""

    protocol: str
    """SIP or Q.850."""
    code: int
    text: str = ""

    def __str__(self) -> str:
        text = self.text.replace("\\", "").replace('"', "")
        return f"{self.protocol};cause={self.code}" + (f';text="{text}"' if text else "")


# --- told -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Invited:
    """A call comes in: `ring`, `answer` or `reject` it."""

    call: CallNumber
    request: Request
    hop: Hop
    has_offer: bool
    replaces: CallNumber | None = None
    """The call it takes the place of (RFC 3891); that one is hung up when this is answered."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A call of ours got a provisional answer other than 100."""

    call: CallNumber
    status: int
    response: Response


@dataclass(frozen=True, slots=True)
class Media:
    """What holds for the media from now on; also after hold, resume and change of codec."""

    call: CallNumber
    session: Session
    is_early: bool = False


@dataclass(frozen=True, slots=True)
class Connected:
    """The call is up: our 2xx was acknowledged, or theirs came."""

    call: CallNumber
    message: Request | Response


@dataclass(frozen=True, slots=True)
class Redirected:
    """The peer is elsewhere: `follow` one of these (best first) or hang up."""

    call: CallNumber
    contacts: tuple[Uri, ...]
    status: int


@dataclass(frozen=True, slots=True)
class ChangeRefused:
    """Our hold, resume or new offer came to nothing; what was agreed holds on."""

    call: CallNumber
    status: int


@dataclass(frozen=True, slots=True)
class Pressed:
    """A digit came in an INFO."""

    call: CallNumber
    digit: Digit


@dataclass(frozen=True, slots=True)
class Texted:
    """A MESSAGE came within the call; it was answered with 200."""

    call: CallNumber
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Referred:
    """The peer wants us to call somebody: `answer_refer`, then `report` what comes of it."""

    call: CallNumber
    reference: int
    target: Uri = field(repr=False)
    replaces: Replaces | None
    referred_by: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReferProgress:
    """What the peer says of the transfer that we asked it for; 1xx are not the last word."""

    call: CallNumber
    status: int


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The last that is heard of a call."""

    call: CallNumber
    by_peer: bool
    status: int
    """The failure's, 200 after a BYE, 487 after a CANCEL, 408 where nobody answered."""
    problem: str = ""
    """What went wrong, in our words."""
    cause: Cause | None = None
    """The peer's Reason."""
    retry_after: int | None = None


AgentEvent = (
    Invited
    | Progress
    | Media
    | Connected
    | Redirected
    | ChangeRefused
    | Pressed
    | Texted
    | Referred
    | ReferProgress
    | CallEnded
)
