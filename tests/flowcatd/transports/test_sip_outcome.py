"""How calls over SIP end: each end of a dialog has one reason, and each reason one cause."""

from __future__ import annotations

import pytest

from flowcatd.record import Reason
from flowcatd.sip.agent_event import CallEnded, CallNumber, Cause
from flowcatd.transports.sip_outcome import Circumstances, cause_for, outcome_of

INBOUND, OUTBOUND = Circumstances(False, False), Circumstances(True, False)
UP = Circumstances(False, True)


def ended(
    status: int, *, by_peer: bool, problem: str = "", cause: Cause | None = None
) -> CallEnded:
    """The user agent's last word."""
    return CallEnded(CallNumber(1), by_peer, status, problem, cause)


@pytest.mark.parametrize(
    ("was", "end", "reason"),
    [
        (UP, ended(200, by_peer=True), Reason.CALLER_HUNG_UP),
        (UP, ended(408, by_peer=False, problem="the session expired"), Reason.SOCKET_LOST),
        (UP, ended(481, by_peer=False), Reason.SOCKET_LOST),
        (Circumstances(False, True, True), ended(200, by_peer=True), Reason.TRANSFERRED),
        (Circumstances(False, True, True), ended(408, by_peer=False), Reason.SOCKET_LOST),
        (INBOUND, ended(487, by_peer=True), Reason.CALLER_HUNG_UP),
        (INBOUND, ended(408, by_peer=False), Reason.NEVER_STARTED),
        (OUTBOUND, ended(486, by_peer=True), Reason.REFUSED),
        (OUTBOUND, ended(603, by_peer=True), Reason.REFUSED),
        (OUTBOUND, ended(404, by_peer=True), Reason.REFUSED),
        (OUTBOUND, ended(480, by_peer=True), Reason.NOT_ANSWERED),
        (OUTBOUND, ended(408, by_peer=True), Reason.NOT_ANSWERED),
        (OUTBOUND, ended(500, by_peer=True, cause=Cause("Q.850", 19)), Reason.NOT_ANSWERED),
        (OUTBOUND, ended(500, by_peer=True, cause=Cause("SIP", 19)), Reason.REFUSED),
        (OUTBOUND, ended(487, by_peer=False), Reason.NOT_ANSWERED),
        (OUTBOUND, ended(503, by_peer=False), Reason.REFUSED),
        (OUTBOUND, ended(408, by_peer=False), Reason.REFUSED),
    ],
)
def test_an_end_has_its_reason(was: Circumstances, end: CallEnded, reason: Reason) -> None:
    """Who ended it, with what, and when in the call's life."""
    assert outcome_of(end, was).reason is reason


def test_every_reason_has_a_cause_that_a_reason_field_can_carry() -> None:
    """RFC 3326: a protocol and a number."""
    for reason in Reason:
        cause = cause_for(reason)
        assert cause.protocol in {"Q.850", "SIP"}
        assert str(cause).startswith(f"{cause.protocol};cause={cause.code}")
    assert cause_for(Reason.COMPLETED).code == 16
    assert (cause_for(Reason.DRAINED).protocol, cause_for(Reason.DRAINED).code) == ("SIP", 503)
