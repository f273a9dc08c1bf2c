"""What one audio stream was agreed to be: codecs, payload types, addresses, keys. Values and tables only.

A `Session` is what an offer and its answer come to, for our end; `offer.py` computes it, and whoever
owns the RTP ports obeys it. Payload types have two sides (RFC 3264 §6.1): we send with the numbers of
their description and are sent the numbers of ours.

SRTP suites are those that pylibsrtp's profiles cover: AES_CM_128_HMAC_SHA1_80 and _32 (RFC 4568 §6.2),
AEAD_AES_128_GCM and AEAD_AES_256_GCM (RFC 7714 §13); the key lengths are master key and salt together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from flowcatd.sip.attribute import Attribute, Direction, Fingerprint, Format

Host = tuple[str, int]
"""An address, or a name that nobody has resolved, and a port."""


@dataclass(frozen=True, slots=True)
class Codec:
    """A codec that we have, with the payload type that we give it in our own first offer."""

    format: Format
    rate_hz: int
    """What it samples at, which for G.722 is not its clock (RFC 3551 §4.5.2)."""


PCMU: Final = Codec(Format(0, "PCMU", 8_000), 8_000)
PCMA: Final = Codec(Format(8, "PCMA", 8_000), 8_000)
G722: Final = Codec(Format(9, "G722", 8_000), 16_000)
OPUS: Final = Codec(Format(111, "opus", 48_000, 2, "minptime=10;useinbandfec=1"), 48_000)
"""Written as 48000/2 whatever is in it (RFC 7587 §7); 111 is the number that browsers give it."""

CODECS: Final[dict[str, Codec]] = {
    each.format.name.lower(): each for each in (PCMU, PCMA, G722, OPUS)
}
"""By the name in the configuration."""

COMFORT_NOISE: Final = Format(13, "CN", 8_000)
"""RFC 3389, which has only this clock as a static type."""
EVENT_NAME: Final = "telephone-event"
EVENT_PAYLOADS: Final[dict[int, int]] = {8_000: 101, 16_000: 102, 32_000: 103, 48_000: 110}
"""The payload type of a telephone-event at each clock rate, in our own first offer."""


@dataclass(frozen=True, slots=True)
class Suite:
    """An SRTP suite."""

    name: str
    key_bytes: int
    """Master key and master salt."""
    tag_bytes: int
    """The authentication tag, before which a peer's MKI stands in each packet (RFC 3711 §3.1);
    0 for GCM, whose tag is part of the cipher text (RFC 7714 §8.2)."""


SUITES: Final[dict[str, Suite]] = {
    each.name: each
    for each in (
        Suite("AES_CM_128_HMAC_SHA1_80", 30, 10),
        Suite("AES_CM_128_HMAC_SHA1_32", 30, 4),
        Suite("AEAD_AES_128_GCM", 28, 0),
        Suite("AEAD_AES_256_GCM", 44, 0),
    )
}


class Secrecy(Enum):
    """What we do about encryption of media."""

    OFF = auto()
    """Plain RTP only."""
    ALLOWED = auto()
    """Plain RTP in our offers, SRTP when the peer offers it."""
    SDES = auto()
    """SRTP with keys in the description (RFC 4568) in our offers; plain RTP is refused."""
    DTLS = auto()
    """SRTP with keys from DTLS (RFC 5763) in our offers; plain RTP is refused."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What we are ready to do, of an agent or a trunk; the same for a whole call."""

    codecs: tuple[Codec, ...] = (PCMU, PCMA, G722, OPUS)
    """In the order in which we offer them."""
    secrecy: Secrecy = Secrecy.ALLOWED
    suites: tuple[str, ...] = ("AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32")
    """Of SUITES, the most wanted first."""
    ptime_ms: int = 20
    """What we want to receive, and send when the peer wants nothing else."""
    ptimes_ms: tuple[int, ...] = (10, 20, 30, 40, 60)
    """What we are able to send."""
    has_comfort_noise: bool = True
    has_rtcp_mux: bool = True
    """Whether our offers ask for RTCP on RTP's port; theirs may ask in any case."""
    prefers_own_order: bool = False
    """Take the first of our codecs that is offered, not the first offered that is ours."""


@dataclass(frozen=True, slots=True)
class Local:
    """Our end of one call's media; the shell has opened the ports."""

    host: str
    port: int
    rtcp_port: int = 0
    """0 for the next one after `port`."""
    fingerprint: Fingerprint | None = None
    """Of our DTLS certificate; without one, DTLS is neither offered nor answered."""
    attributes: tuple[Attribute, ...] = ()
    """Further lines for our audio m= section, as ICE credentials."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A payload type that may arrive."""

    payload: int
    codec: Codec


@dataclass(frozen=True, slots=True)
class Events:
    """Telephone events, both ways (RFC 4733)."""

    send_payload: int
    receive_payloads: tuple[int, ...]
    clock_hz: int
    """What their durations count in; the codec's, if the peer knows how to do it (§2.4.1)."""
    understood: frozenset[int]
    """What the peer takes; 0 to 15 are the keys."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Comfort noise, both ways (RFC 3389)."""

    send_payload: int
    receive_payload: int


@dataclass(frozen=True, slots=True)
class Key:
    """What one direction is encrypted with."""

    suite: Suite
    material: bytes = field(repr=False)
    mki_bytes: int = 0
    """What stands in each of their packets before the tag and must be cut out; never in ours."""


@dataclass(frozen=True, slots=True)
class Sdes:
    """SRTP with keys that were written in the descriptions."""

    send: Key
    receive: Key


@dataclass(frozen=True, slots=True)
class Dtls:
    """SRTP with keys that a DTLS handshake will give."""

    is_client: bool
    """Whether we open it (`active`)."""
    fingerprints: tuple[Fingerprint, ...]
    """The peer's certificate is one of these, or it is not the peer; a set, in one order."""
    association: str = ""
    """What the peer calls it (a=tls-id), or without a name where its media are: another one is a new
    association (RFC 8842 §4). Empty while the media are nowhere, which changes nothing."""


@dataclass(frozen=True, slots=True)
class Session:
    """One audio stream, as agreed."""

    codec: Codec
    """What we send."""
    send_payload: int
    incoming: tuple[Incoming, ...]
    """What may arrive; the first is what should."""
    events: Events | None
    noise: Noise | None
    ptime_ms: int
    """The packets that we send."""
    direction: Direction
    """What we may do: whether we send, and whether anything should come. `sends` is never true towards
    an address that is nowhere."""
    rtp: Host | None
    """Where we send; None when the peer gave 0.0.0.0."""
    rtcp: Host | None
    """Where reports go; None when there is no address, or the peer wants none (RFC 3556)."""
    has_rtcp_mux: bool
    secrecy: Sdes | Dtls | None
    """None for plain RTP."""
    fmtp: str
    """What the peer asks of our encoder, as written."""
    held_by_us: bool
    held_by_them: bool
    """They receive nothing from us: sendonly, inactive, or an address that is nowhere."""
