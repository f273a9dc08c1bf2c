"""What we write: our offers, and our answers to theirs. No state; what must stay the same comes in.

The order of the lines of our m= section never changes, so that equal contents are equal texts.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from flowcatd.errors import LocalError
from flowcatd.sip.agreement import (
    as_set,
    first_crypto,
    is_same,
    is_secure,
    refusal,
    telephone_event,
)
from flowcatd.sip.attribute import (
    STATIC,
    Attribute,
    Crypto,
    Direction,
    Fingerprint,
    Format,
    Rtcp,
    Setup,
    events,
    events_text,
)
from flowcatd.sip.sdp import Connection, Description, Media, Origin
from flowcatd.sip.session import (
    COMFORT_NOISE,
    EVENT_NAME,
    EVENT_PAYLOADS,
    Capabilities,
    Codec,
    Dtls,
    Local,
    Secrecy,
)
from flowcatd.sip.trouble import SipError

OUR_EVENTS: Final = frozenset(range(17))
"""The sixteen keys and the hook flash (RFC 4733 §3.2)."""
_FIRST_DYNAMIC, _LAST_DYNAMIC = 96, 127
"""RFC 3551 §6."""
_UNSHARED: Final = range(64, 96)
"""Payload types that look like RTCP where it has no port of its own (RFC 5761 §4)."""
TLS_ID: Final = "tls-id"
"""Of `Situation.keys`: what the names of our DTLS associations are made of."""
TLS_ID_BYTES: Final = 24
"""RFC 8842 §4 wants 120 bits."""

Name = tuple[str, int, int]
"""A format without its number."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a new description of ours must go by."""

    capabilities: Capabilities
    local: Local
    origin: Origin
    keys: Mapping[str, bytes]
    """Our SRTP key of every suite in the capabilities, and TLS_ID's; the same through a call."""
    numbers: Mapping[int, Name]
    """What each payload type that we have used in this call stands for."""
    taken: Mapping[int, Name]
    """What any payload type has stood for in this call, whoever used it."""
    wish: Direction
    """Sendrecv, or sendonly when we hold."""
    codec: Codec | None = None
    """What is in use."""
    dtls: Dtls | None = None
    """The DTLS association that there is."""
    tls_id: str = ""
    """What we called it."""
    index: int | None = None
    """Which m= line is the stream that there is."""


def make_offer(now: Situation, before: Description | None) -> tuple[Description, int]:
    """Our offer, and which of its m= lines is the audio stream; the others of `before` get port 0."""
    if before is None or now.index is None:
        proto, secrets = _offered_secrecy(now)
        return _description(now, (_offered_media(now, proto, secrets),)), 0
    agreed = before.media[now.index]
    media = [_refused(each) for each in before.media]
    media[now.index] = _offered_media(now, agreed.proto, _kept(agreed))
    description = _description(now, media)
    return replace(description, attributes=before.attributes), now.index


def make_answer(now: Situation, offer: Description) -> tuple[Description, int]:
    """Our answer, and which m= line is the audio stream; SipError 488 with the reason when none will do."""
    chosen, media = _first_usable(now, offer)
    answers = [_refused(each) for each in offer.media]
    answers[chosen] = media
    # RFC 8843 §7.3: the group of the answer holds what was accepted of the offer's.
    mid = media.mid
    group = (Attribute("group", f"BUNDLE {mid}"),) if mid and mid in offer.bundle else ()
    answer = _description(now, answers)
    return replace(answer, times=offer.times, attributes=group), chosen


def _description(now: Situation, media: Iterable[Media]) -> Description:
    return Description(now.origin, connection=Connection(now.local.host), media=tuple(media))


def _refused(media: Media) -> Media:
    """The line at port 0; its name stays, so that it can be told from others."""
    named = tuple(each for each in media.attributes if each.name == "mid")
    return Media(media.kind, 0, media.proto, media.words[:1], attributes=named)


def _first_usable(now: Situation, offer: Description) -> tuple[int, Media]:
    """The stream that there is, if it is still usable, else the first one that is."""
    order = [number for number, each in enumerate(offer.media) if each.kind == "audio"]
    order.sort(key=lambda number: number != now.index)
    trouble = refusal("no audio offered")
    for number in order:
        try:
            return number, _answered_media(now, offer, offer.media[number])
        except SipError as problem:
            trouble = problem
    raise trouble


def _answered_media(now: Situation, offer: Description, theirs: Media) -> Media:
    _check_reachable(now, offer, theirs)
    theirs_formats = theirs.formats
    codec, format_ = _chosen_codec(now, theirs_formats)
    formats = [_numbered(now, codec.format, format_)]
    event = telephone_event(theirs_formats, codec)
    understood = events(event.fmtp) & OUR_EVENTS if event is not None else frozenset()
    if event is not None and understood:
        named = Format(0, EVENT_NAME, event.clock_hz, 1, events_text(understood))
        formats.append(_numbered(now, named, event))
    noise = next((each for each in theirs_formats if each.key == COMFORT_NOISE.key), None)
    if now.capabilities.has_comfort_noise and noise and codec.format.clock_hz == noise.clock_hz:
        formats.append(_numbered(now, COMFORT_NOISE, noise))
    secrets = _answered_secrecy(now, offer, theirs)
    direction = offer.direction_of(theirs).flipped & now.wish
    named_mid = tuple(each for each in theirs.attributes if each.name == "mid")[:1]
    has_mux = theirs.has_rtcp_mux and not any(each.payload in _UNSHARED for each in formats)
    attributes = (*_lines(now, formats, direction, has_mux=has_mux), *secrets, *named_mid)
    return _audio(now, theirs.proto, formats, attributes)


def _check_reachable(now: Situation, offer: Description, theirs: Media) -> None:
    connection = offer.connection_of(theirs)
    if not theirs.port or not theirs.is_rtp:
        raise refusal("no audio stream over RTP offered")
    if connection is None:
        raise refusal("an audio stream without an address")
    if connection.is_multicast:
        raise refusal("an audio stream to a multicast address")
    address = connection.address
    ours = Connection(now.local.host).address
    if address and ours and not connection.is_nowhere and address.version != ours.version:
        raise refusal(f"an audio stream over IPv{address.version} where we have none")


def _chosen_codec(now: Situation, theirs: tuple[Format, ...]) -> tuple[Codec, Format]:
    """The one in use while it is on offer; else by their order, or ours where that is asked for."""
    codecs = now.capabilities.codecs
    ranked = [(codec, each) for each in theirs for codec in codecs if is_same(codec.format, each)]
    if now.capabilities.prefers_own_order:
        ranked.sort(key=lambda pair: codecs.index(pair[0]))
    ranked.sort(key=lambda pair: pair[0] != now.codec)
    if not ranked:
        raise refusal("no codec in common")
    return ranked[0]


def _numbered(now: Situation, ours: Format, theirs: Format) -> Format:
    """Our format with their number (RFC 3264 §6.1), unless we gave that number to something else."""
    is_ours = now.numbers.get(theirs.payload, ours.key) == ours.key
    return replace(ours, payload=theirs.payload if is_ours else _number(now, ours))


def _number(now: Situation, format_: Format, used: Iterable[int] = ()) -> int:
    """The number that it has had in this call, else its usual one, else one that is free."""
    had = (number for number, name in now.numbers.items() if name == format_.key)
    usual = format_.payload
    if (number := next(had, None)) is not None:
        return number
    if usual not in used and now.taken.get(usual, format_.key) == format_.key:
        return usual
    busy = {*now.taken, *now.numbers, *used}
    free = (number for number in range(_LAST_DYNAMIC, _FIRST_DYNAMIC - 1, -1))
    # With all 32 taken by a peer's whims, its meaning of the usual one has to give way.
    return next((number for number in free if number not in busy), usual)


def _offered_media(now: Situation, proto: str, further: Iterable[Attribute]) -> Media:
    formats = list(_offered_formats(now))
    lines = _lines(now, formats, now.wish, has_mux=now.capabilities.has_rtcp_mux)
    return _audio(now, proto, formats, (*lines, *further))


def _kept(agreed: Media) -> Iterator[Attribute]:
    """What a new offer for a stream says again: the same keys, so that no call falls back to plain.

    Who opens DTLS is open again in every offer (RFC 8842 §5.5).
    """
    for each in agreed.attributes:
        if each.name in {"crypto", "fingerprint", "mid", "tls-id"}:
            yield each
        elif each.name == "setup":
            yield Attribute("setup", str(Setup.ACTPASS))


def _offered_formats(now: Situation) -> Iterator[Format]:
    """All our codecs, the one in use first; a telephone-event for each of their clocks, comfort noise."""
    used: list[int] = []
    for each in _wanted_formats(now):
        payload = each.payload if each.payload in STATIC else _number(now, each, used)
        used.append(payload)
        yield replace(each, payload=payload)


def _wanted_formats(now: Situation) -> Iterator[Format]:
    capabilities = now.capabilities
    codecs = sorted(capabilities.codecs, key=lambda each: each != now.codec)
    yield from (each.format for each in codecs)
    clocks = {each.format.clock_hz for each in codecs}
    if capabilities.has_comfort_noise and COMFORT_NOISE.clock_hz in clocks:
        yield COMFORT_NOISE
    for clock_hz in dict.fromkeys(each.format.clock_hz for each in codecs):
        number = EVENT_PAYLOADS.get(clock_hz, _FIRST_DYNAMIC)
        yield Format(number, EVENT_NAME, clock_hz, 1, events_text(OUR_EVENTS))


def _audio(
    now: Situation, proto: str, formats: Iterable[Format], attributes: Iterable[Attribute]
) -> Media:
    words = tuple(str(each.payload) for each in formats)
    every = (*attributes, *now.local.attributes)
    return Media("audio", now.local.port, proto, words, attributes=every)


def _lines(
    now: Situation, formats: Iterable[Format], direction: Direction, *, has_mux: bool
) -> Iterator[Attribute]:
    """What every audio section of ours has; static types get their rtpmap too (RFC 3264 §5.1)."""
    for each in formats:
        yield each.rtpmap
        if each.fmtp:
            yield Attribute("fmtp", f"{each.payload} {each.fmtp}")
    yield Attribute("ptime", str(now.capabilities.ptime_ms))
    yield Attribute(str(direction))
    if now.local.rtcp_port not in {0, now.local.port + 1}:
        yield Attribute("rtcp", str(Rtcp(now.local.rtcp_port)))
    if has_mux:
        yield Attribute("rtcp-mux")


def _cryptos(now: Situation) -> Iterator[Attribute]:
    for tag, suite in enumerate(now.capabilities.suites, 1):
        yield Attribute("crypto", str(Crypto(tag, suite, now.keys[suite])))


def _certificate(now: Situation, setup: Setup, tls_id: str) -> Iterator[Attribute]:
    yield Attribute("fingerprint", str(now.local.fingerprint))
    yield Attribute("setup", str(setup))
    if tls_id:
        yield Attribute("tls-id", tls_id)


def _offered_secrecy(now: Situation) -> tuple[str, tuple[Attribute, ...]]:
    """The transport of a first offer, and the lines that go with it."""
    match now.capabilities.secrecy:
        case Secrecy.SDES:
            return "RTP/SAVP", tuple(_cryptos(now))
        case Secrecy.DTLS:
            if now.local.fingerprint is None:
                raise LocalError("DTLS is asked for, and there is no certificate")
            return "UDP/TLS/RTP/SAVP", tuple(_certificate(now, Setup.ACTPASS, _named(now, "")))
        case _:
            return "RTP/AVP", ()


def _answered_secrecy(now: Situation, offer: Description, theirs: Media) -> tuple[Attribute, ...]:
    """The lines that say how we encrypt, none for plain RTP; SipError 488 when it cannot be agreed.

    A key beside a plain profile is an offer to encrypt if we can: many phones write it so, though
    RFC 4568 §3.1.1 wants the secure profile.
    """
    wanted = now.capabilities.secrecy
    secure = is_secure(theirs)
    if wanted is Secrecy.OFF:
        if secure:
            raise refusal("media are offered encrypted only, and encryption is off")
        return ()
    certificates = offer.fingerprints_of(theirs) if secure and now.local.fingerprint else ()
    keyed_by_dtls = theirs.proto.upper().startswith("UDP/TLS")
    crypto = None if keyed_by_dtls else first_crypto(theirs, now.capabilities.suites)
    if crypto and not (certificates and wanted is Secrecy.DTLS):
        return (_answered_crypto(now, crypto),)
    if certificates:
        setup = _answered_setup(now, offer.setup_of(theirs))
        return tuple(_certificate(now, setup, _answered_id(now, theirs, certificates)))
    if secure:
        raise refusal("media are offered encrypted in no way that we have")
    if wanted is not Secrecy.ALLOWED:
        raise refusal("media are offered in plain, and encryption is demanded")
    return ()


def _answered_crypto(now: Situation, theirs: Crypto) -> Attribute:
    """Their tag, our key (RFC 4568 §5.1.2)."""
    return Attribute("crypto", str(Crypto(theirs.tag, theirs.suite, now.keys[theirs.suite])))


def _answered_setup(now: Situation, theirs: Setup | None) -> Setup:
    """Who opens DTLS. RFC 5763 §5: the answerer is active where it may choose, and stays what it was."""
    if theirs is Setup.HOLDCONN:
        raise refusal("DTLS is put off")
    if theirs is Setup.ACTPASS:
        stays = now.dtls is not None and not now.dtls.is_client
        return Setup.PASSIVE if stays else Setup.ACTIVE
    return Setup.ACTIVE if theirs is Setup.PASSIVE else Setup.PASSIVE


def _answered_id(now: Situation, theirs: Media, certificates: tuple[Fingerprint, ...]) -> str:
    """What we call the association: nothing where they call it nothing, the same while it is the same.

    RFC 8842 §5.3. What is new in theirs makes a new one of ours.
    """
    named = theirs.first("tls-id") or ""
    if not named:
        return ""
    prints = as_set(certificates)
    was = now.dtls
    if was is not None and now.tls_id and (was.association, was.fingerprints) == (named, prints):
        return now.tls_id
    return _named(now, " ".join((named, *map(str, prints))))


def _named(now: Situation, theirs: str) -> str:
    """A name for an association that nobody can guess: always the same for the same of theirs."""
    digest = hashlib.sha256(now.keys[TLS_ID] + theirs.encode("utf-8", "replace")).digest()
    return urlsafe_b64encode(digest[:TLS_ID_BYTES]).decode()
