"""The life of one call as its INVITE dialog has it, as one table (RFC 3261 §9, §13, §15).

  incoming   ASKED ── answer ──► ANSWERED ── ACK ──► UP ── BYE ──► OVER
               │ reject, CANCEL      │ hang up ─► PARTING ── ACK, or none ──► LEAVING
  outgoing   CALLING ── 2xx ──► UP ── hang up ──► LEAVING ── answered, or not ──► OVER
               │ hang up ──► CANCELLING ── 2xx ──► LEAVING (ACK, then BYE); else OVER

A row is (state, what happened) → (next state, what to do, in order). What has no row changes nothing.
The rules behind the rows: a callee must not send BYE before its 2xx is acknowledged or nobody can
acknowledge it any more (§15), which is what PARTING waits for; a CANCEL that comes after the answer is
answered and without effect (§9.2); a 2xx that crosses our CANCEL makes a call that must be hung up
(§9.1); two BYEs that cross are both right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from flowcatd.sip.agent_event import CallEnded, CallNumber, CallTerms, Cause, Invitation
from flowcatd.sip.dialog import Dialog
from flowcatd.sip.digest import Answerer
from flowcatd.sip.event import Hop, TransactionId
from flowcatd.sip.ladder import Ladder
from flowcatd.sip.message import Request, Response
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.refer import Reference
from flowcatd.sip.refresh import LEAST, Refresh
from flowcatd.sip.session import Session
from flowcatd.sip.uri import Uri
from flowcatd.wake import Wake


class State(Enum):
    """Where a call stands."""

    ASKED = auto()
    """They call; nothing final was answered."""
    ANSWERED = auto()
    """We said yes, and wait for the ACK."""
    PARTING = auto()
    """As ANSWERED, but we want to hang up."""
    CALLING = auto()
    """We call; nothing final has come."""
    CANCELLING = auto()
    """As CALLING, but we want to hang up."""
    UP = auto()
    LEAVING = auto()
    """Our BYE is under way."""
    OVER = auto()


class Turn(Enum):
    """What happens to a call."""

    ANSWER = auto()
    REFUSE = auto()
    """We answer a call with a failure."""
    HANG_UP = auto()
    """We, or a rule of ours, have enough."""
    CANCELLED = auto()
    """Their CANCEL, or nobody decided in time."""
    ACKED = auto()
    UNACKED = auto()
    """No ACK came in 64*T1."""
    SUCCESS = auto()
    """A 2xx to our INVITE that we can use."""
    USELESS = auto()
    """A 2xx whose answer we cannot use."""
    FAILURE = auto()
    """The last word to our INVITE was another."""
    BYE = auto()
    """Theirs."""
    BYE_DONE = auto()
    """Ours was answered, or nobody is there."""


class Do(Enum):
    """What a row has done."""

    REFUSE = auto()
    """The failure that the ending says goes to the INVITE."""
    CANCEL = auto()
    BYE = auto()
    UP = auto()
    """The user is told that the call is up."""


_S, _T, _D = State, Turn, Do
Row = tuple[State, tuple[Do, ...]]

TABLE: Final[dict[tuple[State, Turn], Row]] = {
    (_S.ASKED, _T.ANSWER): (_S.ANSWERED, ()),
    (_S.ASKED, _T.REFUSE): (_S.OVER, (_D.REFUSE,)),
    (_S.ASKED, _T.HANG_UP): (_S.OVER, (_D.REFUSE,)),
    (_S.ASKED, _T.CANCELLED): (_S.OVER, (_D.REFUSE,)),
    (_S.ASKED, _T.BYE): (_S.OVER, (_D.REFUSE,)),
    (_S.ANSWERED, _T.ACKED): (_S.UP, (_D.UP,)),
    (_S.ANSWERED, _T.UNACKED): (_S.LEAVING, (_D.BYE,)),
    (_S.ANSWERED, _T.HANG_UP): (_S.PARTING, ()),
    (_S.ANSWERED, _T.BYE): (_S.OVER, ()),
    (_S.PARTING, _T.ACKED): (_S.LEAVING, (_D.BYE,)),
    (_S.PARTING, _T.UNACKED): (_S.LEAVING, (_D.BYE,)),
    (_S.PARTING, _T.BYE): (_S.OVER, ()),
    (_S.CALLING, _T.SUCCESS): (_S.UP, (_D.UP,)),
    (_S.CALLING, _T.USELESS): (_S.LEAVING, (_D.BYE,)),
    (_S.CALLING, _T.FAILURE): (_S.OVER, ()),
    (_S.CALLING, _T.HANG_UP): (_S.CANCELLING, (_D.CANCEL,)),
    # Their 2xx was lost for good, and they gave up waiting for our ACK.
    (_S.CALLING, _T.BYE): (_S.OVER, (_D.CANCEL,)),
    (_S.CANCELLING, _T.SUCCESS): (_S.LEAVING, (_D.BYE,)),
    (_S.CANCELLING, _T.USELESS): (_S.LEAVING, (_D.BYE,)),
    (_S.CANCELLING, _T.FAILURE): (_S.OVER, ()),
    (_S.CANCELLING, _T.BYE): (_S.OVER, ()),
    (_S.UP, _T.HANG_UP): (_S.LEAVING, (_D.BYE,)),
    (_S.UP, _T.UNACKED): (_S.LEAVING, (_D.BYE,)),
    (_S.UP, _T.BYE): (_S.OVER, ()),
    (_S.LEAVING, _T.BYE): (_S.OVER, ()),
    (_S.LEAVING, _T.BYE_DONE): (_S.OVER, ()),
}

TALKING: Final = frozenset({State.ANSWERED, State.UP})
"""States in which media and further negotiation make sense."""


@dataclass(slots=True)
class Early:
    """One branch of a call of ours that rings (§12.1.2, RFC 3262 §4)."""

    dialog: Dialog
    rseq: int = 0
    """The last reliable answer that was acknowledged; 0 for none."""
    negotiation: Negotiation | None = None
    """A copy of the call's, once this branch has answered its offer reliably."""


@dataclass(slots=True)
class Unacked:
    """A 2xx of ours that is repeated until its ACK comes (§13.3.1.4)."""

    response: Response
    until: float
    pause: float
    owes_answer: bool
    """Whether the ACK must bring their answer to our offer."""
    wake: Wake | None = None


@dataclass(slots=True)
class Promises:
    """Our provisional answers that want a PRACK (RFC 3262 §3)."""

    rseq: int
    is_required: bool
    """Whether the caller wants all of them so."""
    is_possible: bool
    waiting: list[Response] = field(default_factory=list)
    """The first is the one under way."""
    until: float = 0.0
    pause: float = 0.0
    wake: Wake | None = None

    @property
    def holds_answer(self) -> bool:
        """Whether a 2xx must wait: a description is under way."""
        return any(response.body for response in self.waiting)


@dataclass(slots=True)
class Change:
    """A re-INVITE or UPDATE of ours that is under way."""

    method: str
    is_refresh: bool
    has_offer: bool
    rseq: int = 0
    """The last reliable provisional answer to it; 0 for none."""
    settled: Negotiation | None = None
    """A copy of the call's, once one of those has answered the offer."""


@dataclass(slots=True)
class Transfer:
    """A REFER within the call, theirs or ours."""

    is_ours: bool
    asked: TransactionId | None = None
    """Theirs, not yet answered."""
    request: Request | None = None
    """Theirs."""
    reference: Reference | None = None


@dataclass(slots=True)
class Asking:
    """What a call of ours needs before it is answered."""

    invitation: Invitation
    target: Uri
    """Of the next INVITE: a redirection moves it."""
    offer: str
    call_id: str
    hops: list[Hop]
    """Still to be tried; the first is in use."""
    rounds: int = 0
    redirects: int = 0
    tried: set[str] = field(default_factory=set, repr=False)
    """Where it was sent to, so that redirections do not go in circles."""
    early: dict[str, Early] = field(default_factory=dict)
    """By their tag."""
    strays: dict[str, Request] = field(default_factory=dict)
    """The ACKs of answers that came from other branches of a fork."""


@dataclass(slots=True)
class Call:
    """One call; what only its user agent touches."""

    number: CallNumber
    state: State
    request: Request
    """The INVITE, the last one sent where there were several."""
    hop: Hop
    tag: str
    """Ours."""
    terms: CallTerms
    dialog: Dialog | None = None
    invite: TransactionId | None = None
    negotiation: Negotiation | None = None
    session: Session | None = None
    """The last one told."""
    is_early: bool = False
    is_told: bool = False
    """Whether the user knows that it is over."""
    answerer: Answerer | None = None
    asking: Asking | None = None
    promises: Promises | None = None
    body: str = ""
    """Our description in answer to the INVITE, once there is one."""
    is_settled: bool = False
    """Whether a PRACK has acknowledged that description."""
    postponed: bool = False
    """Whether the answer waits for a PRACK."""
    replaced: CallNumber | None = None
    is_restored: bool = False
    """Whether another process had it before."""
    refresh: Refresh = field(default_factory=Refresh)
    least: int = LEAST
    """The Min-SE that a 422 has taught us."""
    refresh_due: float | None = None
    ends_due: float | None = None
    has_update: bool = False
    """Whether they take UPDATE."""
    unacked: dict[int, Unacked] = field(default_factory=dict)
    """By the CSeq of the INVITE."""
    acks: dict[int, Request] = field(default_factory=dict)
    """The ACKs that we sent, by the same."""
    change: Change | None = None
    wants_change: bool = False
    glares: int = 0
    """How often our change was put off."""
    transfers: dict[int, Transfer] = field(default_factory=dict)
    wakes: dict[str, Wake] = field(default_factory=dict)
    ending: CallEnded | None = None
    fields: tuple[tuple[str, str], ...] = ()
    """For our failure."""
    cause: Cause | None = None
    """For our BYE or CANCEL."""
    ladder: Ladder = field(default_factory=Ladder)
