"""What workers say to each other on their Unix sockets: one SEQPACKET message each, in msgpack.

An array of kind, version and fields (msgspec, array_like). Fields are added at the end, with a value
that older workers' messages are taken to have; what older workers cannot read has a new kind. A kind
or a version that is not known is told from garbage (`is_of_another_version`), because during an
upgrade older and newer workers live side by side. `hand_over.py` sends and reads these.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from flowcatd.sip.event import Hop
from flowcatd.sip.message import MESSAGE_BYTES as SIP_BYTES

VERSION: Final = 1
HEAD_MAX = 16 * 1024
"""The longest request head that travels; aiohttp reads no longer lines and fields than half of it."""

Seats = Annotated[tuple[int, ...], msgspec.Meta(max_length=1024)]


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    v: Literal[1]


class Connection(_Envelope, frozen=True, array_like=True, tag="connection"):
    """A descriptor comes with this; `passed` are the seats that could not take it."""

    number: int
    passed: Seats
    head: Annotated[bytes, msgspec.Meta(max_length=HEAD_MAX)] = b""


class Datagram(_Envelope, frozen=True, array_like=True, tag="datagram"):
    """A whole SIP datagram; what workers gave before they knew other ways than UDP."""

    source: tuple[str | int, ...]
    data: bytes


class _OfHop(_Envelope, frozen=True, array_like=True):
    seat: Annotated[int, msgspec.Meta(ge=0, lt=1024)]
    """Of whoever gives it."""
    transport: Literal["UDP", "TCP", "TLS", "WS", "WSS"]
    host: Annotated[str, msgspec.Meta(max_length=64)]
    port: Annotated[int, msgspec.Meta(gt=0, lt=65_536)]
    connection: Annotated[int, msgspec.Meta(ge=0, lt=1 << 42)]

    @property
    def hop(self) -> Hop:
        """Where it came from, or goes to."""
        return Hop(self.transport, self.host, self.port, self.connection)


class SipMessage(_OfHop, frozen=True, array_like=True, tag="sip"):
    """A whole SIP message: the taker's own, or (`outward`) to be sent on a connection it has."""

    data: Annotated[bytes, msgspec.Meta(max_length=SIP_BYTES)]
    outward: bool = False
    passed: Seats = ()
    """The seats that had no room for the call it begins."""


class SipGone(_OfHop, frozen=True, array_like=True, tag="sip-gone"):
    """Nothing can be sent on this connection of the giver's any more."""


class Ack(_Envelope, frozen=True, array_like=True, tag="ack"):
    """The connection of that number is taken."""

    number: int


Given = Connection | Datagram | SipMessage | SipGone
_KINDS: Final = frozenset({"connection", "datagram", "sip", "sip-gone", "ack"})

encode: Final = msgspec.msgpack.Encoder().encode
decode_given: Final = msgspec.msgpack.Decoder(Given).decode
"""What a taker reads; msgspec.DecodeError for anything else."""
decode_ack: Final = msgspec.msgpack.Decoder(Ack).decode
"""What a giver reads."""


def is_of_another_version(data: bytes) -> bool:
    """Whether this is a message as we make them, of a kind or version that is not ours."""
    try:
        message = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return False
    match message:
        case [str(kind), int(version), *_]:
            return kind not in _KINDS or version > VERSION
        case _:
            return False
