"""How one call over SIP went, and its media: the part of a call's record that its leg writes.

Figures and words of protocols only. No number, address or tag is in it, so it may be shown, logged and kept.
"""

from __future__ import annotations

import msgspec


class MediaFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a call's RTP; times in ms."""

    packets_in: int
    packets_out: int
    octets_out: int
    lost: int
    late: int
    duplicates: int
    discarded: int
    foreign: int
    bad: int
    sources: int
    """How many SSRCs the far end has had."""
    jitter_ms: float
    """RFC 3550 A.8."""
    delay_ms: float
    """What the jitter buffer adds now."""
    concealed_ms: int
    background_ms: int
    shortened_ms: int
    lengthened_ms: int
    round_trip_ms: float | None
    remote_loss: float | None
    """The share of our packets that the far end misses, as it last said."""
    remote_jitter_ms: float | None
    r: float
    mos: float


class SipFigures(msgspec.Struct, kw_only=True):
    """How a call over SIP went; no number, address or tag is in it."""

    trunk: str
    direction: str = "inbound"
    """Or `outbound`: whose call it was."""
    transport: str = "UDP"
    status: int = 0
    """The last word of the INVITE, or 200 once it was answered; 0 while there is none."""
    cause: str = ""
    """The other side's Reason (RFC 3326), as `Q.850 16`."""
    codec: str = ""
    srtp: str = ""
    """The SRTP suite; empty for plain RTP."""
    media: MediaFigures | None = None
    """None when there was no media."""
    keys: dict[str, int] = {}
    """Keys pressed by the other side, by how they came: rtp (RFC 4733), info, inband."""
    ladder: list[str] = []
    """What went to and fro: seconds since the start, direction, method or status, CSeq."""
    ladder_dropped: int = 0
    """Steps from the middle that were not kept."""
