"""How a call over SIP ends, both ways: what the user agent says becomes the record's reason, and back.

A call's end has two sides. `outcome_of` reads a `CallEnded` (a BYE, a CANCEL, a failure, silence) in the
light of what the call was; the tables hold what statuses and causes mean. `cause_for` says to the far
end why we hang up (RFC 3326): Q.850's causes as ITU-T Q.850 table 1 numbers them, or a SIP status where
that says more. A far end that hangs up within a transfer it was asked for has taken the caller with it.
`lines_of` writes down what went to and fro.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flowcatd.record import Outcome, Reason
from flowcatd.sip.agent_event import CallEnded, Cause
from flowcatd.sip.ladder import Ladder

NOBODY_THERE: Final = frozenset({408, 480, 487})
"""Their words for a call that rang and that nobody took."""
NOBODY_THERE_Q850: Final = frozenset({18, 19})
"""No user responding; alerting, no answer."""

_NORMAL: Final = Cause("Q.850", 16, "normal call clearing")
_TROUBLE: Final = Cause("Q.850", 41, "temporary failure")
_DRAINED: Final = Cause("SIP", 503, "going down")

CAUSES: Final[dict[Reason, Cause]] = {
    Reason.COMPLETED: _NORMAL,
    Reason.AGENT_FAILED: _TROUBLE,
    Reason.CALLER_HUNG_UP: _NORMAL,
    Reason.NEVER_SPOKE: _NORMAL,
    Reason.CARRIER_STOPPED: _NORMAL,
    Reason.SOCKET_LOST: Cause("Q.850", 41, "no media"),
    Reason.NEVER_STARTED: Cause("Q.850", 102, "recovery on timer expiry"),
    Reason.PROTOCOL_ERROR: Cause("Q.850", 111, "protocol error"),
    Reason.TRANSFERRED: _NORMAL,
    Reason.NOT_ANSWERED: Cause("Q.850", 19, "no answer"),
    Reason.REFUSED: Cause("Q.850", 21, "call rejected"),
    Reason.CANCELLED: Cause("Q.850", 31, "ended by an operator"),
    Reason.MAX_DURATION: _NORMAL,
    Reason.DRAINED: _DRAINED,
    Reason.WORKER_LOST: _TROUBLE,
    Reason.INTERNAL_ERROR: _TROUBLE,
}
"""What the far end is told for each of our reasons."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a call was when it ended."""

    is_outbound: bool
    is_answered: bool
    is_handing_over: bool = False
    """We asked for a transfer, and its end was not known."""


def cause_for(reason: Reason) -> Cause:
    """What goes with our BYE or CANCEL."""
    return CAUSES[reason]


def outcome_of(ended: CallEnded, was: Circumstances) -> Outcome:
    """Why the call ended, for its record."""
    if was.is_answered:
        return _after_answer(ended, was)
    return _unanswered(ended) if was.is_outbound else _unacknowledged(ended)


def _after_answer(ended: CallEnded, was: Circumstances) -> Outcome:
    if ended.by_peer:
        gone = Reason.TRANSFERRED if was.is_handing_over else Reason.CALLER_HUNG_UP
        return Outcome(reason=gone)
    return Outcome(reason=Reason.SOCKET_LOST, error=ended.problem or "the call was given up")


def _unacknowledged(ended: CallEnded) -> Outcome:
    """A call to us that never came up."""
    if ended.by_peer:
        return Outcome(reason=Reason.CALLER_HUNG_UP)
    return Outcome(reason=Reason.NEVER_STARTED, error=ended.problem or "it was never acknowledged")


def _unanswered(ended: CallEnded) -> Outcome:
    """A call of ours that nobody took."""
    cause = ended.cause
    nobody = cause is not None and cause.protocol == "Q.850" and cause.code in NOBODY_THERE_Q850
    if not ended.by_peer:
        if ended.status == 487:  # we gave up
            return Outcome(reason=Reason.NOT_ANSWERED)
        return Outcome(reason=Reason.REFUSED, error=ended.problem or "nobody could be reached")
    if nobody or ended.status in NOBODY_THERE:
        return Outcome(reason=Reason.NOT_ANSWERED)
    return Outcome(reason=Reason.REFUSED, error=f"the other side answered {ended.status}")


def lines_of(ladder: Ladder) -> list[str]:
    """A ladder's steps as the record has them: seconds since the first, direction, what, CSeq."""
    steps = list(ladder)
    begun = steps[0].now if steps else 0.0
    return [
        f"{step.now - begun:.3f} {'→' if step.is_ours else '←'} {step.what} {step.cseq}"
        f"{' +body' if step.has_body else ''}"
        for step in steps
    ]
