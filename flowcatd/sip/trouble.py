"""What a SIP peer did wrong: the room's one PeerError, and the answer the RFC names for it.

A request that is wrong gets a response with `status`; what is wrong and cannot be answered (a
response, an ACK, garbage without a Via) has the status DROP and costs a counter.
"""

from __future__ import annotations

from flowcatd.errors import PeerError

DROP = 0
"""No answer: the message is forgotten."""


class SipError(PeerError):
    """A message, a header or a session description that the RFCs do not allow."""

    def __init__(self, problem: str, status: int = 400) -> None:
        """`problem` names the field or rule, never its content; `status` is the answer, or DROP."""
        self.problem = problem
        self.status = status
        super().__init__(problem)
