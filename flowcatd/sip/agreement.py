"""What two descriptions come to: ours and theirs in, a `Session` for our end out. No state.

Whoever offered, the same is computed: the codec is the first of the *answer* that both have; we send
with their payload types and are sent ours; the direction is what both allow. So a session can be
worked out again from the two texts, as when another process takes the call up.

Two mistakes of peers are provided for: an answer without the rtpmap of a dynamic payload type means
our offer's, and a peer that sends with its own numbers is understood where they are not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from flowcatd.sip.attribute import Crypto, Direction, Fingerprint, Format, Setup, events
from flowcatd.sip.sdp import Description, Media
from flowcatd.sip.session import (
    COMFORT_NOISE,
    EVENT_NAME,
    SUITES,
    Capabilities,
    Codec,
    Dtls,
    Events,
    Host,
    Incoming,
    Key,
    Noise,
    Sdes,
    Session,
)
from flowcatd.sip.trouble import SipError

_LONGEST_MS: Final = 60
"""No packet of ours is longer, whatever is asked: each lost one is that much silence."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Our description and theirs, who offered, and which m= line is the stream."""

    ours: Description
    theirs: Description
    is_our_offer: bool
    index: int
    held_by_us: bool = False

    @property
    def sides(self) -> tuple[Media, Media]:
        """The stream in ours, and in theirs."""
        return self.ours.media[self.index], self.theirs.media[self.index]


def refusal(problem: str) -> SipError:
    """488 (Not Acceptable Here), with the reason."""
    return SipError(problem=problem, status=488)


def agree(pair: Pair, capabilities: Capabilities) -> Session:
    """The session; SipError 488 when their description leaves none."""
    ours, theirs = pair.sides
    mine, their_formats = ours.formats, _explained(pair)
    offered = mine if pair.is_our_offer else their_formats
    answered = their_formats if pair.is_our_offer else mine
    common = _common(answered, offered, capabilities.codecs)
    if not common:
        raise refusal("no codec in common")
    codec = common[0]
    sent = _matching(their_formats, codec)[0]
    direction = _direction(pair)
    rtp = _rtp(pair.theirs, theirs)
    has_mux = ours.has_rtcp_mux and theirs.has_rtcp_mux
    return Session(
        codec=codec,
        send_payload=sent.payload,
        incoming=_incoming(mine, their_formats, common),
        events=_events(mine, their_formats, codec),
        noise=_noise(mine, their_formats, codec),
        ptime_ms=ptime(theirs, capabilities),
        direction=direction,
        rtp=rtp,
        rtcp=_rtcp(theirs, rtp, has_mux=has_mux),
        has_rtcp_mux=has_mux,
        secrecy=_secrecy(pair),
        fmtp=sent.fmtp,
        held_by_us=pair.held_by_us,
        held_by_them=not _wants_media(pair.theirs, theirs),
    )


def check_answer(offer: Description, answer: Description, index: int) -> None:
    """SipError 488 when the answer does not answer our offer line for line (RFC 3264 §6)."""
    if len(offer.media) != len(answer.media):
        raise refusal(f"{len(answer.media)} media in answer to {len(offer.media)}")
    for asked, told in zip(offer.media, answer.media, strict=True):
        if asked.kind != told.kind:
            raise refusal("the media of the answer are in another order")
        if told.port and not asked.port:
            raise refusal("the answer takes up a stream that was not offered")
        if told.port and profile(asked) != profile(told):
            raise refusal("the transport of the answer is not the offered one")
    if not answer.media[index].port:
        raise refusal("the audio stream was refused")


def profile(media: Media) -> tuple[bool, bool]:
    """Whether it is RTP and whether it is secure: a profile without what RTCP feedback adds to it."""
    return media.is_rtp, is_secure(media)


def is_secure(media: Media) -> bool:
    """Whether its transport is SRTP's (RFC 3711 §12, RFC 5764 §9)."""
    return "SAVP" in media.proto.upper()


def telephone_event(formats: Iterable[Format], codec: Codec) -> Format | None:
    """The telephone-event that goes with a codec: of its clock, else of 8000 Hz, else any.

    RFC 4733 §2.4.1 wants the clock of the stream; phones with Opus exist that know only 8000 Hz.
    """
    found = [each for each in formats if each.name.lower() == EVENT_NAME]
    wanted = (codec.format.clock_hz, 8_000)
    for clock_hz in wanted:
        for each in found:
            if each.clock_hz == clock_hz:
                return each
    return found[0] if found else None


def first_crypto(media: Media, suites: Iterable[str]) -> Crypto | None:
    """Their first key that we can use: a suite of ours, the length right, nothing switched off."""
    allowed = set(suites)
    for each in media.cryptos:
        suite = SUITES.get(each.suite)
        if suite is None or each.suite not in allowed or len(each.key) != suite.key_bytes:
            continue
        if all(map(_is_harmless, each.params)):
            return each
    return None


def _is_harmless(param: str) -> bool:
    """Hints, and what may be ignored (RFC 4568 §6.3.7); all else changes what goes over the wire."""
    word = param.upper()
    return word.startswith(("-", "WSH=")) or word in {"KDR=0", "FEC_ORDER=FEC_SRTP"}


def is_same(one: Format, other: Format) -> bool:
    """Whether they are one codec. Opus is 48000/2, and some write 48000 only (RFC 7587 §7)."""
    if one.name.lower() == "opus":
        return other.name.lower() == "opus" and one.clock_hz == other.clock_hz
    return one.key == other.key


def _matching(formats: Iterable[Format], codec: Codec) -> list[Format]:
    return [each for each in formats if is_same(codec.format, each)]


def _common(
    answered: Iterable[Format], offered: tuple[Format, ...], codecs: tuple[Codec, ...]
) -> list[Codec]:
    """Our codecs that both sides have, in the answer's order."""
    found = []
    for each in answered:
        for codec in codecs:
            if is_same(codec.format, each) and _matching(offered, codec) and codec not in found:
                found.append(codec)
    return found


def _explained(pair: Pair) -> tuple[Format, ...]:
    """Their formats; in an answer, a number without rtpmap is the one that we offered."""
    ours, theirs = pair.sides
    told = {each.payload: each for each in theirs.formats}
    if pair.is_our_offer:
        for each in ours.formats:
            told.setdefault(each.payload, each)
    return tuple(told[number] for number in theirs.payloads if number in told)


def _incoming(
    mine: tuple[Format, ...], theirs: tuple[Format, ...], common: list[Codec]
) -> tuple[Incoming, ...]:
    """Our numbers for what is common, then theirs where we use them for nothing else."""
    found: dict[int, Codec] = {}
    for formats in (mine, theirs):
        taken = {each.payload for each in mine} if formats is theirs else set()
        for codec in common:
            for each in _matching(formats, codec):
                if each.payload not in taken:
                    found.setdefault(each.payload, codec)
    return tuple(Incoming(payload, codec) for payload, codec in found.items())


def _events(mine: tuple[Format, ...], theirs: tuple[Format, ...], codec: Codec) -> Events | None:
    our_clocks = {each.clock_hz for each in mine if each.name.lower() == EVENT_NAME}
    sent = telephone_event((each for each in theirs if each.clock_hz in our_clocks), codec)
    if sent is None:
        return None
    numbers = [each.payload for each in mine if each.key == sent.key]
    if sent.payload not in {each.payload for each in mine}:
        numbers.append(sent.payload)
    return Events(sent.payload, tuple(numbers), sent.clock_hz, events(sent.fmtp))


def _noise(mine: tuple[Format, ...], theirs: tuple[Format, ...], codec: Codec) -> Noise | None:
    if codec.format.clock_hz != COMFORT_NOISE.clock_hz:
        return None
    pair = [
        next((each.payload for each in side if each.key == COMFORT_NOISE.key), None)
        for side in (theirs, mine)
    ]
    send, receive = pair
    return None if send is None or receive is None else Noise(send, receive)


def ptime(theirs: Media, capabilities: Capabilities) -> int:
    """What we send: the longest of ours within what they want (RFC 3264 §6.1), which is rarely said."""
    asked = theirs.ptime_ms or capabilities.ptime_ms
    top = min(asked, theirs.maxptime_ms or _LONGEST_MS, _LONGEST_MS)
    able = capabilities.ptimes_ms or (capabilities.ptime_ms,)
    return max((each for each in able if each <= top), default=min(able))


def _direction(pair: Pair) -> Direction:
    ours, theirs = pair.sides
    agreed = pair.ours.direction_of(ours) & pair.theirs.direction_of(theirs).flipped
    # What they wrote is answered as written; that nothing is sent to nowhere is between us and us.
    sends = agreed.sends and _wants_media(pair.theirs, theirs)
    return Direction.of(sends=sends, receives=agreed.receives)


def _wants_media(theirs: Description, media: Media) -> bool:
    """Not on hold: they receive, somewhere, and allow a bandwidth above 0 (RFC 3264 §5.1)."""
    connection = theirs.connection_of(media)
    where = connection is not None and not connection.is_nowhere
    shut = any(kind.upper() in {"AS", "TIAS"} and not amount for kind, amount in media.bandwidth)
    return theirs.direction_of(media).receives and where and not shut


def _rtp(theirs: Description, media: Media) -> Host | None:
    connection = theirs.connection_of(media)
    if connection is None or connection.is_nowhere:
        return None
    return connection.host, media.port


def _rtcp(media: Media, rtp: Host | None, *, has_mux: bool) -> Host | None:
    amounts = {kind.upper(): amount for kind, amount in media.bandwidth}
    if rtp is None or (amounts.get("RS") == 0 and amounts.get("RR") == 0):
        return None
    if has_mux:
        return rtp
    said = media.rtcp
    if said is not None:
        return said.host or rtp[0], said.port
    # Media on port 65535 have no next port.
    return (rtp[0], rtp[1] + 1) if rtp[1] < 65_535 else None


def _secrecy(pair: Pair) -> Sdes | Dtls | None:
    ours, theirs = pair.sides
    if ours.cryptos:
        return _sdes(pair)
    if not pair.ours.fingerprints_of(ours):
        return None
    fingerprints = pair.theirs.fingerprints_of(theirs)
    if not fingerprints:
        raise refusal("the answer shows no certificate")
    answer = pair.theirs.setup_of(theirs) if pair.is_our_offer else pair.ours.setup_of(ours)
    client = _CLIENT[pair.is_our_offer](answer)
    rtp = _rtp(pair.theirs, theirs)
    where = "" if rtp is None else f"{rtp[0]} {rtp[1]}"
    return Dtls(client, as_set(fingerprints), theirs.first("tls-id") or where)


def as_set(fingerprints: Iterable[Fingerprint]) -> tuple[Fingerprint, ...]:
    """The fingerprints, so that equal sets are equal: their order means nothing (RFC 8842 §3.1)."""
    return tuple(sorted(set(fingerprints), key=str))


_CLIENT: Final[dict[bool, Callable[[Setup | None], bool]]] = {
    # The answer says who opens; without a word the answerer is passive (RFC 4145 §4.1).
    True: lambda theirs: theirs is Setup.PASSIVE or theirs is None,
    False: lambda ours: ours is Setup.ACTIVE,
}


def _sdes(pair: Pair) -> Sdes:
    """The key pair; the answer's tag says which of the offered suites it is (RFC 4568 §5.1.3)."""
    ours, theirs = pair.sides
    if pair.is_our_offer:
        told = first_crypto(theirs, (each.suite for each in ours.cryptos))
        mine = next((each for each in ours.cryptos if told and each.tag == told.tag), None)
    else:
        mine = ours.cryptos[0]
        told = next((each for each in theirs.cryptos if each.tag == mine.tag), None)
    if told is None or mine is None or told.suite != mine.suite:
        raise refusal("the answer has no key for what was offered")
    if told.key == mine.key:
        # RFC 4568 §7.1.2: two directions under one key can undo each other.
        raise refusal("the answer has our own key")
    suite = SUITES[mine.suite]
    return Sdes(Key(suite, mine.key), Key(suite, told.key, told.mki_bytes))
