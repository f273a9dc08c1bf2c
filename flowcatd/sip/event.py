"""What the transaction layer is told, tells and sends: values, no behaviour.

`Hop` is one peer over one transport; the shell that owns the sockets makes them. The events are those of
`transaction.Transactions.events`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

from flowcatd.sip.message import Request, Response

TransactionId = NewType("TransactionId", int)


@dataclass(frozen=True, slots=True)
class Hop:
    """Where a message comes from or goes to."""

    transport: str
    """UDP, TCP, TLS, WS or WSS."""
    host: str
    port: int
    connection: int = 0
    """Which connection, where there are some; the shell's own number."""
    name: str = field(default="", compare=False)
    """Whose certificate is wanted when a connection has to be made (RFC 5922 §7.1); empty is the host's."""

    @property
    def is_reliable(self) -> bool:
        """Whether nothing needs to be sent twice."""
        return self.transport != "UDP"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Bytes to send."""

    data: bytes
    hop: Hop


@dataclass(frozen=True, slots=True)
class Asked:
    """A new request: answer it by `respond`."""

    id: TransactionId
    request: Request
    hop: Hop


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A CANCEL: answer it with 200, and `target` with 487 if it still rings; 481 without one."""

    id: TransactionId
    request: Request
    hop: Hop
    target: TransactionId | None


@dataclass(frozen=True, slots=True)
class Acked:
    """An ACK that belongs to no failure: of a 2xx, or a stray one."""

    request: Request
    hop: Hop


@dataclass(frozen=True, slots=True)
class Answered:
    """A response to a request of ours; each 2xx to an INVITE comes every time it comes."""

    id: TransactionId
    response: Response
    hop: Hop


@dataclass(frozen=True, slots=True)
class Stray:
    """A 2xx to an INVITE that this process did not send: perhaps one did that is dead, and nobody
    acknowledges it.
    """

    response: Response
    hop: Hop


@dataclass(frozen=True, slots=True)
class TimedOut:
    """No answer to our request, as if by a 408; or no ACK to our failure, or no answer of our own user."""

    id: TransactionId


@dataclass(frozen=True, slots=True)
class Undelivered:
    """The transport could not send, as if by a 503 (§8.1.3.1)."""

    id: TransactionId


@dataclass(frozen=True, slots=True)
class Ended:
    """The last that is heard of this number."""

    id: TransactionId


TransactionEvent = Asked | Cancelled | Acked | Answered | Stray | TimedOut | Undelivered | Ended


@dataclass(frozen=True, slots=True)
class Limits:
    """How much there may be of what."""

    transactions: int = 20_000
    """At 60 calls per second and 32 s each: 2,000 INVITEs, as many BYEs, and room for a storm."""
    kept_bytes: int = 128 << 20
    """What all of them keep: 20,000 of the usual two to four KB, but only 2,000 of 64 KB each, which
    no telephone sends."""
    undrained: int = 10_000
    """Events, and datagrams, that may wait to be drained."""
