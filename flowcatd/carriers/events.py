"""What a carrier's media socket can tell us, whichever carrier it is.

A carrier core (`json_media.py`, `raw.py`) turns its wire into these values and turns our wishes
(`audio`, `mark`, `clear`, `digits`, `hang_up`) into its wire. Audio stays encoded here, with its
encoding and rate beside it; decoding happens at `transports/edge.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import msgspec


class Encoding(StrEnum):
    """How a sample travels."""

    MULAW = "mulaw"
    """G.711 µ-law, one byte a sample."""
    ALAW = "alaw"
    """G.711 A-law, one byte a sample."""
    PCM = "pcm"
    """Signed 16-bit little-endian."""


@dataclass(frozen=True, slots=True)
class Started:
    """The stream is up; audio may follow in both directions."""

    call_id: str
    """The carrier's own name for the call (`CallSid`, `callId`)."""
    stream_id: str
    encoding: Encoding
    rate_hz: int
    parameters: dict[str, str] = field(default_factory=dict)
    """Custom parameters that the answer document gave the stream; never logged."""


class Audio(msgspec.Struct, frozen=True, gc=False):
    """The caller's voice, encoded as `Started` said.

    A struct, as the frames are: one is made per 20 ms, and a frozen dataclass costs five times that.
    """

    payload: bytes
    timestamp_ms: int | None = None
    """Media time since the start of the stream, where the carrier says it."""


@dataclass(frozen=True, slots=True)
class Digit:
    """One key was pressed: 0-9, *, #, A-D."""

    digit: str


@dataclass(frozen=True, slots=True)
class MarkReached:
    """The far end's playout passed our mark; it may also mean that a clear overtook it."""

    name: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """The far end says that it emptied its buffer (Plivo's `clearedAudio`)."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The carrier ended the stream."""

    reason: str = ""


CarrierEvent = Started | Audio | Digit | MarkReached | Cleared | Stopped
