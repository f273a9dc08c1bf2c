"""Bodies of SIP messages that a call reads: session descriptions, digits, fragments of messages.

A session description may stand alone or as one part of a multipart body (RFC 5621; SIP-I carriers put
ISUP beside it). Digits come in INFO in two forms that no RFC has written down: `application/dtmf-relay`
with `Signal=` and `Duration=` lines, and `application/dtmf` with the digit alone. What a REFER leads to
is told as `message/sipfrag` (RFC 3420), of which the status line counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sipmessage import MediaType

from flowcatd.sip.message import Message, parse_media_type
from flowcatd.sip.trouble import SipError
from flowcatd.sip.words import phrase_of

SDP: Final = "application/sdp"
RELAY: Final = "application/dtmf-relay"
DTMF: Final = "application/dtmf"
FRAGMENT: Final = "message/sipfrag"

PARTS_MAX = 16
NESTED_MAX = 3
DURATION_MS: Final = (40, 6000)
"""Shortest and longest digit that is believed."""

_SIGNAL = re.compile(r"^\s*signal\s*=\s*([0-9A-Fa-f*#]|1[0-5])\s*$", re.IGNORECASE | re.MULTILINE)
_DURATION = re.compile(r"^\s*duration\s*=\s*([0-9]{1,6})\s*$", re.IGNORECASE | re.MULTILINE)
_ALONE = re.compile(r"\s*([0-9A-Fa-f*#])\s*")
_PART_FIELD = re.compile(rb"^([A-Za-z-]{1,40})[ \t]*:[ \t]*([^\r\n]*)", re.MULTILINE)
_UNFOLD = re.compile(rb"\r\n[ \t]++")
_STATUS = re.compile(rb"SIP/2\.0 ([1-6][0-9]{2})(?:[ \r\n]|\Z)")
_NUMBERED: Final = "0123456789*#ABCD"
"""A signal from 10 on is an event number of RFC 4733."""


@dataclass(frozen=True, slots=True)
class Digit:
    """One key of a telephone."""

    key: str
    """0-9, *, #, A-D."""
    duration_ms: int


def type_of(message: Message) -> str:
    """The body's type in lower case; SDP where a body has none (§20.15), empty without a body."""
    if not message.body:
        return ""
    kind = message.media_type()
    return SDP if kind is None else kind.mime_type.lower()


def sdp_of(message: Message) -> bytes | None:
    """The session description, or None when there is none; SipError 400 for broken parts.

    In a multipart body it is the first part of that type that is about the session, at any of
    NESTED_MAX depths (RFC 5621 §3.1: mixed, alternative, related alike).
    """
    kind = type_of(message)
    if kind == SDP:
        return message.body
    if not kind.startswith("multipart/"):
        return None
    return _find_sdp(message.body, _boundary(message.media_type()), NESTED_MAX)


def _find_sdp(body: bytes, boundary: bytes, depth: int) -> bytes | None:
    lines = b"\r\n" + body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    for part in lines.split(b"\r\n--" + boundary)[1 : PARTS_MAX + 1]:
        if part.startswith(b"--"):
            return None
        # Behind the boundary's own line end: the part's fields, if it has any (RFC 2046 §5.1).
        head, _, inner = part.lstrip(b" \t").partition(b"\r\n\r\n")
        said = {name.lower(): text for name, text in _PART_FIELD.findall(_UNFOLD.sub(b" ", head))}
        kind = parse_media_type(said.get(b"content-type", b"text/plain").decode("latin-1"))
        about = said.get(b"content-disposition", b"session").partition(b";")[0].strip().lower()
        if kind.mime_type.lower() == SDP and about == b"session":
            return inner + b"\r\n"
        if kind.mime_type.lower().startswith("multipart/") and depth > 1:
            found = _find_sdp(inner, _boundary(kind), depth - 1)
            if found is not None:
                return found
    return None


def digit_of(message: Message) -> Digit | None:
    """The digit of an INFO, or None when its type is another one; SipError 400 when it is none."""
    kind = type_of(message)
    if kind not in {RELAY, DTMF}:
        return None
    text = message.body[:200].decode("ascii", "replace")
    found = _SIGNAL.search(text) or _ALONE.fullmatch(text)
    if found is None:
        raise SipError("a digit that is none")
    key = found[1].upper()
    length = _DURATION.search(text)
    shortest, longest = DURATION_MS
    duration_ms = min(max(int(length[1]), shortest), longest) if length else 160
    return Digit(_NUMBERED[int(key)] if len(key) > 1 else key, duration_ms)


def write_digit(digit: Digit, kind: str = RELAY) -> bytes:
    """The body of an INFO for one digit."""
    if kind == DTMF:
        return f"{digit.key}\r\n".encode()
    return f"Signal={digit.key}\r\nDuration={digit.duration_ms}\r\n".encode()


def status_of(message: Message) -> int:
    """The status in a NOTIFY's fragment; SipError 400 when it has none."""
    found = _STATUS.match(message.body.lstrip()[:40]) if type_of(message) == FRAGMENT else None
    if found is None:
        raise SipError("a notification without a status line")
    return int(found[1])


def write_fragment(status: int) -> bytes:
    """The fragment that tells a status; of the answer nothing else leaves the house."""
    return f"SIP/2.0 {status} {phrase_of(status)}\r\n".encode()


def _boundary(kind: MediaType | None) -> bytes:
    boundary = dict(kind.parameters).get("boundary") if kind is not None else None
    if not boundary or len(boundary) > 70:
        raise SipError("a multipart body without a boundary")
    return boundary.strip('"').encode("utf-8", "surrogateescape")
