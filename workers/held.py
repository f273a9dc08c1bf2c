"""What a worker holds for one call of its SIP user agent: number, leg, ports, and whose quota it takes.

    held     events of this number go to its leg
    ended    the user agent said so: the trunk's quota is given back, the leg knows
    over     the user agent has forgotten it: the last answer was seen, or missed

Each thing is given back once, wherever the end comes from. Two numbers may share a leg for a moment,
when one dialog takes the place of another (RFC 3891, or a transfer that was asked of us): `leg` is then
taken from the older one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowcatd.sip.agent_event import CallNumber
from flowcatd.sip.event import Hop
from flowcatd.sip.ladder import Ladder
from flowcatd.sip.session import Session
from flowcatd.transports.sip_leg import SipLeg
from workers.parts import Parts
from workers.ports import PortPair, Ports

if TYPE_CHECKING:
    from flowcatd.wake import Wake


@dataclass(frozen=True, slots=True)
class Counted:
    """Whose quota a call takes."""

    trunk: str
    inbound: bool


@dataclass(slots=True)
class MediaPorts:
    """A pair of ports that one call has."""

    ports: Ports
    pair: PortPair
    is_held: bool = True

    def give_back(self) -> None:
        """Close them; once is enough."""
        if self.is_held:
            self.is_held = False
            self.ports.give_back(self.pair)


@dataclass(slots=True)
class PortsRemain:
    """The ports of one conversation, for whoever asks after its end (`workers/leftovers.py`)."""

    media: list[MediaPorts]
    name: str = "media ports"

    def is_released(self) -> bool:
        """Whether all of them are closed."""
        pairs = (each.pair for each in self.media)
        return all(pair.rtp.fileno() < 0 and pair.rtcp.fileno() < 0 for pair in pairs)


@dataclass(slots=True, eq=False)
class Held:
    """One call of the user agent."""

    number: CallNumber
    hop: Hop
    ladder: Ladder
    counted: Counted
    media: MediaPorts
    uncount: Callable[[Counted], None]
    leg: SipLeg | None = None
    """None before it takes one over, and after another has taken it."""
    parts: Parts | None = None
    session: Session | None = None
    """What was agreed last; kept for whoever takes a leg over."""
    referrer: tuple[CallNumber, int] | None = None
    """The call that asked for this one by REFER, and under which reference."""
    wanted: list[Held] = field(default_factory=list)
    """The calls that this one asked for; whoever has no leg yet rings for its sake only."""
    ringing: Wake | None = None
    """How long such a call may ring."""
    remain: PortsRemain = field(init=False)
    """Shared with the calls that its conversation went on over."""
    is_ended: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Its own ports are the first ones."""
        self.remain = PortsRemain([self.media])

    def answered(self) -> None:
        """It rings no longer."""
        if self.ringing is not None:
            self.ringing.cancel()
            self.ringing = None

    def end(self) -> None:
        """The user agent says that it has ended."""
        self.answered()
        if not self.is_ended:
            self.is_ended = True
            self.uncount(self.counted)
            if self.leg is None:
                self.media.give_back()
