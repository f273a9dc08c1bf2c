"""What was agreed, as the RTP room wants it: a `sip.session.Session` becomes a `rtp.stream.Plan`.

The two rooms stand on one floor and do not know each other; this is where they meet. A call has one
`Codecs` for its whole life: G.722 and Opus remember what they have heard and said, so the same codec
object must come back as long as the codec stays, and a plan that changes nothing compares equal.

Payload types have two sides (RFC 3264 §6.1): what we hear has our numbers, what we send has theirs. A
stream has one clock and one rate. Of what may arrive the first decides; another codec of the same clock
and another rate (PCMU beside G.722) is brought to that rate, one of another clock is left out.

Opus is decoded straight to 16 kHz, and what the peer's fmtp asks of our encoder is done (RFC 7587 §6.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from flowcatd.audio.g711 import alaw_to_pcm, mulaw_to_pcm, pcm_to_alaw, pcm_to_mulaw
from flowcatd.audio.g722 import G722Decoder, G722Encoder
from flowcatd.audio.opus import OpusDecoder, OpusEncoder, OpusError, OpusOptions, asked, ticks
from flowcatd.audio.resample import Resampler
from flowcatd.errors import LocalError
from flowcatd.media import PTIME_MS
from flowcatd.rtp.codec import Codec
from flowcatd.rtp.sender import EVERY_EVENT, Outbound
from flowcatd.rtp.stream import Plan
from flowcatd.rtp.trouble import RtpError
from flowcatd.rtp.watchdog import Patience
from flowcatd.sip.session import Dtls, Session

NARROW_HZ: Final = 8_000
WIDE_HZ: Final = 16_000
OPUS_PTIMES_MS: Final = (10, 20, 40, 60)
"""Of ours, those that are one Opus frame (RFC 6716 §2.1.4)."""

RATES_HZ: Final[dict[str, int]] = {
    "PCMU": NARROW_HZ,
    "PCMA": NARROW_HZ,
    "G722": WIDE_HZ,
    "OPUS": WIDE_HZ,
}
"""What each codec's PCM has here, by its name in capitals."""


@dataclass(frozen=True, slots=True)
class Manners:
    """What of a plan no description says."""

    patience: Patience = field(default_factory=Patience)
    wall_offset: float = 0.0
    """Unix time less monotonic time."""
    cname: bytes = b""


class Codecs:
    """One call's codecs, each made when it is first wanted, with its memory."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, int], Codec] = {}
        self._opus: OpusEncoder | None = None
        self._fmtp: str | None = None
        """What the encoder was tuned by."""

    def plan(self, session: Session, manners: Manners) -> Plan:
        """The plan; LocalError for a codec that this machine does not have."""
        incoming = session.incoming or ()
        first = incoming[0].codec.format if incoming else session.codec.format
        rate_hz = _rate_of(first.name)
        heard = tuple(
            replace(self._codec(each.codec.format.name, rate_hz), payload_type=each.payload)
            for each in incoming
            if each.codec.format.clock_hz == first.clock_hz
        )
        said = self._said(session)
        events, noise = session.events, session.noise
        theirs = events.receive_payloads if events is not None else ()
        return Plan(
            codecs=heard or (said,),
            far=session.rtp,
            far_rtcp=None if session.has_rtcp_mux else session.rtcp,
            mux=session.has_rtcp_mux,
            ptime_ms=session.ptime_ms,
            digits_type=theirs[0] if theirs else None,
            more_digits=theirs[1:],
            digits_clock=events.clock_hz if events is not None else 0,
            noise_type=noise.receive_payload if noise is not None else None,
            sends=Outbound(
                said,
                _ptime(said, session.ptime_ms),
                events.send_payload if events is not None else None,
                noise.send_payload if noise is not None else None,
                events.understood & EVERY_EVENT if events is not None else EVERY_EVENT,
            ),
            has_reports=_has_reports(session),
            cname=manners.cname,
            wall_offset=manners.wall_offset,
            patience=manners.patience,
        )

    def _said(self, session: Session) -> Codec:
        name = session.codec.format.name
        codec = replace(self._codec(name, _rate_of(name)), payload_type=session.send_payload)
        if self._opus is not None and name.upper() == "OPUS" and session.fmtp != self._fmtp:
            self._fmtp = session.fmtp
            self._opus.tune(asked(session.fmtp, OpusOptions()))
        return codec

    def _codec(self, name: str, rate_hz: int) -> Codec:
        """The codec whose PCM has this rate."""
        key = name.upper(), rate_hz
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._make(*key)
        return made

    def _make(self, name: str, rate_hz: int) -> Codec:
        made = _MAKERS[name](self)
        if made.rate_hz == rate_hz:
            return made
        return replace(made, rate_hz=rate_hz, decode=_brought_to(made, rate_hz))

    def make_g711_u(self) -> Codec:
        """µ-law has no memory."""
        return Codec("PCMU", 0, 8_000, NARROW_HZ, mulaw_to_pcm, pcm_to_mulaw, len)

    def make_g711_a(self) -> Codec:
        """Nor has A-law."""
        return Codec("PCMA", 8, 8_000, NARROW_HZ, alaw_to_pcm, pcm_to_alaw, len)

    def make_g722(self) -> Codec:
        """The clock is half the rate, as RFC 3551 §4.5.2 has it."""
        return Codec("G722", 9, 8_000, WIDE_HZ, G722Decoder().decode, G722Encoder().encode, len)

    def make_opus(self) -> Codec:
        """Decoded to what the chain wants."""
        decoder, encoder = OpusDecoder(WIDE_HZ), OpusEncoder(WIDE_HZ)
        self._opus = encoder

        def decode(payload: bytes) -> bytes:
            try:
                return decoder.decode(payload)
            except OpusError as error:
                raise RtpError(str(error)) from error

        def recover(following: bytes, samples: int) -> bytes:
            try:
                return decoder.recover(following, samples)
            except OpusError as error:
                raise RtpError(str(error)) from error

        made = Codec("opus", 111, 48_000, WIDE_HZ, decode, encoder.encode, ticks)
        return replace(made, recover=recover, conceal=decoder.conceal)


_MAKERS: Final[dict[str, Callable[[Codecs], Codec]]] = {
    "PCMU": Codecs.make_g711_u,
    "PCMA": Codecs.make_g711_a,
    "G722": Codecs.make_g722,
    "OPUS": Codecs.make_opus,
}


def chain_rate(session: Session) -> int:
    """The rate of the chain of a call that begins like this; LocalError for a codec we do not know."""
    return _rate_of(session.codec.format.name)


def _rate_of(name: str) -> int:
    rate_hz = RATES_HZ.get(name.upper())
    if rate_hz is None:
        raise LocalError("the codec that was agreed on is none of ours")
    return rate_hz


def _has_reports(session: Session) -> bool:
    """Not where the far end wants none, nor where RTCP would need a handshake of its own."""
    if isinstance(session.secrecy, Dtls) and not session.has_rtcp_mux:
        return False
    return session.rtcp is not None or session.rtp is None


def _ptime(codec: Codec, ptime_ms: int) -> int:
    """The length of our packets."""
    if codec.clock_hz == 48_000 and ptime_ms not in OPUS_PTIMES_MS:
        return PTIME_MS
    return ptime_ms


def _brought_to(codec: Codec, rate_hz: int) -> Callable[[bytes], bytes]:
    """The decoder, with a resampler behind it; a payload comes out in its full length."""
    resampler = Resampler(codec.rate_hz, rate_hz, primed=True)
    decode = codec.decode

    def decoded(payload: bytes) -> bytes:
        return resampler.push(decode(payload))

    return decoded
