"""The attributes of a session description that mean something to us: one value per kind, read and written.

Reading is forgiving: what is no well-formed attribute of its kind is None, and a description goes on
as if it were not there. RFC 4568 §5.1.2 asks that of a=crypto lines; the others are treated alike,
because a phone that writes one line badly still wants its call. Writing is exact (`str`).

Keys (RFC 4568) are secrets: they stand in no `repr` and no error.
Sources: RFC 8866 §6, RFC 3551 §6, RFC 4733 §2.4.1, RFC 4568 §9, RFC 3605, RFC 8122, RFC 4145.
"""

from __future__ import annotations

import binascii
import functools
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

__all__ = [
    "STATIC",
    "Attribute",
    "Crypto",
    "Direction",
    "Fingerprint",
    "Format",
    "Rtcp",
    "Setup",
    "events",
    "events_text",
    "read_crypto",
    "read_fingerprint",
    "read_number",
    "read_rtcp",
    "read_rtpmap",
]

_HASH: Final = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){15,63}\Z")
_TAG: Final = re.compile(r"[0-9]{1,9}\Z", re.ASCII)
_MKI: Final = re.compile(r"[1-9][0-9]{0,38}:([1-9][0-9]{0,2})\Z", re.ASCII)
_MKI_BYTES: Final = 128
_LIFETIME: Final = re.compile(r"2\^([1-9][0-9]?)\Z|([1-9][0-9]{0,14})\Z", re.ASCII)
_LIFETIME_MOST: Final = 1 << 48
"""Packets: what every suite of ours allows (RFC 3711 §9.2)."""
_EVENT_TOP: Final = 255


@dataclass(frozen=True, slots=True)
class Attribute:
    """An a= line: `name`, or `name:value`."""

    name: str
    value: str = ""

    def __str__(self) -> str:
        """The line's text behind `a=`."""
        return f"{self.name}:{self.value}" if self.value else self.name


class Direction(StrEnum):
    """Which way media flow, seen from whoever wrote it (RFC 8866 §6.7)."""

    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"

    @property
    def sends(self) -> bool:
        """Whether its writer sends."""
        return self in {Direction.SENDRECV, Direction.SENDONLY}

    @property
    def receives(self) -> bool:
        """Whether its writer wants to receive."""
        return self in {Direction.SENDRECV, Direction.RECVONLY}

    @property
    def flipped(self) -> Direction:
        """The same flow, seen from the other end."""
        return Direction.of(sends=self.receives, receives=self.sends)

    def __and__(self, other: Direction) -> Direction:
        """What both allow."""
        return Direction.of(
            sends=self.sends and other.sends, receives=self.receives and other.receives
        )

    @classmethod
    def of(cls, *, sends: bool, receives: bool) -> Direction:
        """The direction that sends and receives so."""
        return _DIRECTIONS[sends, receives]


_DIRECTIONS: Final = {
    (True, True): Direction.SENDRECV,
    (True, False): Direction.SENDONLY,
    (False, True): Direction.RECVONLY,
    (False, False): Direction.INACTIVE,
}


class Setup(StrEnum):
    """Who opens the DTLS association (RFC 4145 §4, RFC 5763 §5)."""

    ACTIVE = "active"
    PASSIVE = "passive"
    ACTPASS = "actpass"
    HOLDCONN = "holdconn"


@dataclass(frozen=True, slots=True)
class Format:
    """A payload type and what it stands for."""

    payload: int
    name: str
    clock_hz: int
    channels: int = 1
    fmtp: str = ""

    @property
    def key(self) -> tuple[str, int, int]:
        """What makes two formats the same one: encoding names know no case (RFC 8866 §6.6)."""
        return (self.name.lower(), self.clock_hz, self.channels)

    @property
    def rtpmap(self) -> Attribute:
        """Its a=rtpmap; a single channel is not written."""
        channels = f"/{self.channels}" if self.channels != 1 else ""
        return Attribute("rtpmap", f"{self.payload} {self.name}/{self.clock_hz}{channels}")


STATIC: Final[dict[int, Format]] = {
    each.payload: each
    for each in (
        *(Format(0, "PCMU", 8000), Format(3, "GSM", 8000), Format(4, "G723", 8000)),
        *(Format(5, "DVI4", 8000), Format(6, "DVI4", 16000), Format(7, "LPC", 8000)),
        # G.722 samples at 16 kHz and says 8 kHz: an error of the first profile, kept (RFC 3551 §4.5.2).
        *(Format(8, "PCMA", 8000), Format(9, "G722", 8000), Format(10, "L16", 44100, 2)),
        *(Format(11, "L16", 44100), Format(12, "QCELP", 8000), Format(13, "CN", 8000)),
        *(Format(14, "MPA", 90000), Format(15, "G728", 8000), Format(16, "DVI4", 11025)),
        *(Format(17, "DVI4", 22050), Format(18, "G729", 8000)),
    )
}
"""Payload types that need no rtpmap: the audio ones of RFC 3551 table 4."""


@dataclass(frozen=True, slots=True)
class Rtcp:
    """Where RTCP goes when it is not the next port (RFC 3605); `host` is empty for the media's own."""

    port: int
    host: str = ""

    def __str__(self) -> str:
        """The attribute's value."""
        if not self.host:
            return str(self.port)
        return f"{self.port} IN {'IP6' if ':' in self.host else 'IP4'} {self.host}"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The hash of a DTLS certificate (RFC 8122 §5)."""

    hash: str
    value: str

    def __str__(self) -> str:
        """The attribute's value."""
        return f"{self.hash} {self.value}"


@dataclass(frozen=True, slots=True)
class Crypto:
    """One SRTP master key for one direction (RFC 4568): what its writer encrypts with."""

    tag: int
    suite: str
    key: bytes = field(repr=False)
    """Master key and salt, concatenated."""
    lifetime: str = ""
    """As written: `2^31`, or a number of packets."""
    mki: str = ""
    """As written: `value:length`."""
    params: tuple[str, ...] = ()

    @property
    def mki_bytes(self) -> int:
        """How many bytes of every packet are the key's index, 0 when there is none."""
        match = _MKI.match(self.mki)
        return int(match[1]) if match else 0

    def __str__(self) -> str:
        """The attribute's value."""
        inline = "|".join(filter(None, (b64encode(self.key).decode(), self.lifetime, self.mki)))
        return " ".join((str(self.tag), self.suite, f"inline:{inline}", *self.params))


def read_number(text: str, top: int, *, least: int = 0) -> int | None:
    """The decimal number in these bounds, or None. `20.0` and `20 ` are written, and mean 20."""
    whole = text.strip().partition(".")[0]
    if not (whole.isascii() and whole.isdigit()) or len(whole) > 10:
        return None
    return int(whole) if least <= int(whole) <= top else None


@functools.lru_cache(maxsize=512)
def read_rtpmap(value: str) -> Format | None:
    """`101 telephone-event/8000`; the channels are 1 unless written.

    The same few hundred texts come in all calls, and each several times in one: hence the cache.
    """
    payload_text, _, rest = value.strip().partition(" ")
    name, slash, rate = rest.strip().partition("/")
    clock, _, channels = rate.partition("/")
    payload = read_number(payload_text, 127)
    clock_hz = read_number(clock, 768_000, least=1)
    count = read_number(channels, 255, least=1) if channels.strip() else 1
    if payload is None or clock_hz is None or count is None or not slash:
        return None
    name = name.strip()
    return Format(payload, name, clock_hz, count) if name and " " not in name else None


def read_rtcp(value: str) -> Rtcp | None:
    """`53020`, or `53020 IN IP6 2001:db8::1`."""
    words = value.split()
    port = read_number(words[0], 65_535, least=1) if words else None
    if port is None:
        return None
    return Rtcp(port, words[3]) if len(words) == 4 else Rtcp(port)


def read_fingerprint(value: str) -> Fingerprint | None:
    """`sha-256 AB:CD:…`; the hash's name is lowered, its digits raised, so that equal ones are equal."""
    words = value.split()
    if len(words) != 2 or not _HASH.match(words[1]):
        return None
    return Fingerprint(words[0].lower(), words[1].upper())


def read_crypto(value: str) -> Crypto | None:
    """One key of the method `inline`; None for several keys, which need an index that we do not read."""
    words = value.split()
    if len(words) < 3 or not _TAG.match(words[0]):
        return None
    method, _, info = words[2].partition(":")
    if method.lower() != "inline" or ";" in info:
        return None
    key_text, *rest = info.split("|")
    mki = rest.pop() if rest and ":" in rest[-1] else ""
    lifetime = "".join(rest)
    if len(rest) > 1 or not _is_mki(mki) or not _is_lifetime(lifetime):
        return None
    key = _key(key_text)
    if key is None:
        return None
    # §4: everything but the key is read without regard to case.
    return Crypto(int(words[0]), words[1].upper(), key, lifetime, mki, tuple(words[3:]))


def _is_mki(text: str) -> bool:
    """None, or one of a length that there is; with another the whole line is invalid (§6.1)."""
    match = _MKI.match(text)
    return not text or (match is not None and int(match[1]) <= _MKI_BYTES)


def _is_lifetime(text: str) -> bool:
    """None, or one that the suites allow; with another the whole line is invalid (§6.1)."""
    match = _LIFETIME.match(text)
    if match is None:
        return not text
    return (1 << int(match[1]) if match[1] else int(match[2])) <= _LIFETIME_MOST


def _key(text: str) -> bytes | None:
    """Base64, with its padding or, as some devices send it, without."""
    try:
        key = b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if 0 < len(key) <= 128 else None


def events(fmtp: str) -> frozenset[int]:
    """The events of a telephone-event's fmtp, `0-15,66`; 0 to 15 when it names none (RFC 4733 §2.4.1)."""
    found = frozenset(_ranges(fmtp.replace("events=", "")))
    return found or frozenset(range(16))


def _ranges(text: str) -> Iterator[int]:
    for piece in text.split(",")[: _EVENT_TOP + 1]:
        first, dash, last = piece.strip().partition("-")
        low = read_number(first, _EVENT_TOP)
        high = read_number(last, _EVENT_TOP) if dash else low
        if low is not None and high is not None:
            yield from range(low, high + 1)


def events_text(numbers: frozenset[int]) -> str:
    """The events as an fmtp, runs joined: `0-15,66`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in runs)
