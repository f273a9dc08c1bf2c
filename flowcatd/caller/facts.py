"""What a call was like for its caller: facts for whoever reports them. Pure values.

Times are seconds on the call's own clock, which begins with 0; a `Line` carries the daemon's account
of what was said, on the daemon's media clock in ms, which begins with the same start message.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowcatd.caller.script import Turn

COMPLETED = "completed"
"""The reason of a conversation that reached its end (`flowcatd.record.Reason`)."""


@dataclass(frozen=True, slots=True)
class Spoke:
    """The caller began a turn, and will have said it by `until`."""

    at: float
    until: float
    turn: Turn


@dataclass(frozen=True, slots=True)
class Answered:
    """The agent's first audible sample after the caller's last one, `ms` later."""

    at: float
    ms: int


@dataclass(frozen=True, slots=True)
class AgentSpoke:
    """A stretch of the agent's voice is over."""

    start: float
    end: float
    cut: bool


@dataclass(frozen=True, slots=True)
class Line:
    """What the daemon says was said, by its own account; times on its media clock."""

    role: str
    text: str
    start_ms: int
    end_ms: int
    complete: bool
    rejected: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """The daemon named the call."""

    call_id: str
    agent: str


@dataclass(frozen=True, slots=True)
class Rang:
    """A call over SIP is on its way: 180 rings, 183 plays something."""

    status: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A call over SIP was taken; the call's clock begins with this."""

    after: float
    """Seconds since it was placed."""
    codec: str
    transport: str
    call_id: str
    """The SIP Call-ID."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """The agent wanted to hand the call over to somebody else; that was refused."""


CallerEvent = Spoke | Answered | AgentSpoke | Line | Opened | Rang | Taken | Transferred


@dataclass(slots=True)
class Outcome:
    """How the call ended."""

    ended_by: str = ""
    """`agent`, `caller`, or who the daemon says it was."""
    reason: str = ""
    reached_end: bool = False
    """The agent completed the conversation, or the caller hung up where that was wanted."""
    close_code: int | None = None
    """RFC 6455 §7.4; None when we closed the socket or it broke, and over SIP."""
