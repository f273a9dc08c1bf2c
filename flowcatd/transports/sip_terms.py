"""What a SIP leg is given and asked for: values and protocols, no behaviour.

`Line` and `CallSide` are those it speaks to: the dialog on one side, the call on the other. `Facts` says
who calls whom, `Ends` what this machine gives, `LegState` what another process takes up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from flowcatd.carriers.events import Started
from flowcatd.frames import Frame
from flowcatd.record import Ledger, Outcome
from flowcatd.rtp.stream import Snapshot
from flowcatd.rtp.watchdog import Patience
from flowcatd.sip.agent_event import Cause
from flowcatd.transports.pacer import Pacer
from flowcatd.transports.rtp_wire import Sockets
from flowcatd.transports.secrecy import SecrecyState, Shake


class Line(Protocol):
    """The dialog, for the leg; everything returns at once."""

    def hang_up(self, cause: Cause | None) -> None:
        """End the call, wherever it stands."""

    def press(self, digit: str) -> None:
        """Send a key by INFO; LocalError where that may not be."""

    def refer(self, target: str) -> None:
        """Ask the far end to call `target`; LocalError where that may not be."""

    def changed(self) -> None:
        """What a journal should know has changed."""


class CallSide(Protocol):
    """The call, as its leg sees it."""

    ledger: Ledger
    start_seconds: float

    def now(self) -> float:
        """Monotonic seconds."""

    def wake(self, due: float, callback: Callable[[], None]) -> object:
        """Call back at `due`, unless the call is over by then."""

    def started(self, started: Started) -> Callable[[Frame], None]:
        """The stream is up; frames go where the answer says."""

    def media_came(self, now: float) -> None:
        """The far end is alive."""

    def end(self, outcome: Outcome) -> None:
        """The call is over, for this reason."""

    def fail(self, error: BaseException) -> None:
        """Something raised."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Who calls whom, as trunk and route have it; numbers and names are never logged."""

    sip_call_id: str
    trunk: str
    is_outbound: bool
    called: str = field(repr=False)
    caller: str = field(repr=False)
    caller_name: str = field(repr=False)
    transport: str
    variables: Mapping[str, str] = field(repr=False)
    takes_info: bool = False
    """Whether the far end allows INFO, for keys of ours where it takes no telephone-event."""

    @property
    def direction(self) -> str:
        """As the record names it."""
        return "outbound" if self.is_outbound else "inbound"

    def session(self) -> dict[str, str]:
        """What the agent's templates read; nothing that came in a message overrides what we know."""
        return {
            **self.variables,
            "called": self.called,
            "caller": self.caller,
            "caller_name": self.caller_name,
            "trunk": self.trunk,
            "direction": self.direction,
        }


@dataclass(frozen=True, slots=True)
class Ends:
    """What a leg has of this machine."""

    ports: Sockets
    give_back: Callable[[], None]
    """Of the ports; twice is as good as once."""
    pacer: Pacer
    bits: Callable[[int], int]
    """So many unguessable bits."""
    patience: Patience
    wall_offset: float
    """Unix time less monotonic time."""
    cname: bytes
    shake: Shake | None = None
    """Begins a DTLS handshake; None where there is none."""


class LegState(msgspec.Struct, frozen=True):
    """What another process needs to go on with a leg; it may hold keys: never log it."""

    facts: Facts
    rate_hz: int
    stream: Snapshot
    secrecy: SecrecyState
    cname: bytes
