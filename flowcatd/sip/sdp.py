"""Session descriptions (RFC 8866): text in, a value out, and back.

A description is its lines: what has a place in the grammar is a field, every a= line is kept as it
stands, in order. What the attributes mean is read from them when asked (`formats`, `rtcp`, `cryptos`
…) by `attribute.py`, so that nothing a peer wrote is lost, and reading what was written gives the same
value. Not kept are i=, u=, e=, p=, k=, r= and z= lines, which mean nothing to a telephone.

Taken from real peers: lines ended by LF or CR, blanks at their ends, empty lines, missing s= and t=,
session lines in any order, unknown letters (y= and f= of video gateways). Refused, with a SipError
400: no v=0 or o=, a malformed o=, c= or m=, and whatever passes the limits. Written is what §9
asks for.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from flowcatd.sip.attribute import (
    STATIC,
    Attribute,
    Crypto,
    Direction,
    Fingerprint,
    Format,
    Rtcp,
    Setup,
    read_crypto,
    read_fingerprint,
    read_number,
    read_rtcp,
    read_rtpmap,
)
from flowcatd.sip.trouble import SipError

BODY_LIMIT = 32_768
"""Bytes of a description: a browser's with video and all its candidates has 10,000."""
LINE_LIMIT = 4_096
"""Characters of a line."""
LINES_LIMIT = 1_024
MEDIA_LIMIT = 32
"""m= lines; who offers more wants a conference bridge."""
FORMATS_LIMIT = 128
"""Payload types have 7 bits."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`{|}~0-9A-Za-z]{1,64}\Z")
_PROTO: Final = re.compile(r"[!#$%&'*+\-.^_`{|}~0-9A-Za-z/]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made the session, and the how many-eth description of it this is (§5.2)."""

    user: str
    session_id: str
    version: str
    host: str

    def __str__(self) -> str:
        """The value of o=."""
        return f"{self.user} {self.session_id} {self.version} {Connection(self.host)}"


@dataclass(frozen=True, slots=True)
class Connection:
    """An address, or a name (§5.7); `scope` is what a multicast address has behind its slash."""

    host: str
    scope: str = ""

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The numeric address, None for a name."""
        return _address(self.host)

    @property
    def is_nowhere(self) -> bool:
        """0.0.0.0 or ::, where nothing may be sent: how RFC 2543 held a call (RFC 3264 §8.4)."""
        address = self.address
        return address is not None and address.is_unspecified

    @property
    def is_multicast(self) -> bool:
        """Whether more than one listens there."""
        address = self.address
        return bool(self.scope) or (address is not None and address.is_multicast)

    def __str__(self) -> str:
        """The value of c=."""
        family = "IP6" if ":" in self.host else "IP4"
        return f"IN {family} {self.host}{'/' if self.scope else ''}{self.scope}"


@functools.lru_cache(maxsize=512)
def _address(host: str) -> IPv4Address | IPv6Address | None:
    """Asked several times in a call, and mostly of the few addresses of one's trunks."""
    try:
        return ip_address(host)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Media:
    """An m= line and the lines below it."""

    kind: str
    """audio, video, image, text, application, message, or whatever was written; lower case."""
    port: int
    proto: str
    words: tuple[str, ...]
    """The formats as written: payload types where the proto is RTP's."""
    connection: Connection | None = None
    bandwidth: tuple[tuple[str, int], ...] = ()
    attributes: tuple[Attribute, ...] = ()
    ports: int = 1

    @property
    def is_rtp(self) -> bool:
        """Whether its words are payload types."""
        return "RTP/" in self.proto.upper()

    def values(self, name: str) -> Iterator[str]:
        """The values of its attributes of this name, in order."""
        return (each.value for each in self.attributes if each.name == name)

    def first(self, name: str) -> str | None:
        """The first such value; an empty text when the attribute has none, None when it is not there."""
        return next(self.values(name), None)

    @property
    def formats(self) -> tuple[Format, ...]:
        """What its payload types stand for, in its order; those that nothing explains are left out.

        A static type needs no rtpmap. The first of several rtpmaps counts, one without a payload type in
        the m= line counts for nothing (RFC 8866 §6.6).
        """
        if not self.is_rtp:
            return ()
        maps: dict[int, Format] = {}
        for value in self.values("rtpmap"):
            read = read_rtpmap(value)
            if read is not None:
                maps.setdefault(read.payload, read)
        params = self._params()
        return tuple(
            replace(known, fmtp=params[payload]) if payload in params else known
            for payload in self.payloads
            if (known := maps.get(payload, STATIC.get(payload))) is not None
        )

    @property
    def payloads(self) -> tuple[int, ...]:
        """Its payload types, each once, in its order."""
        numbers = (read_number(word, 127) for word in self.words)
        return tuple(dict.fromkeys(number for number in numbers if number is not None))

    def fmtp(self, payload: int) -> str:
        """The parameters of a payload type, empty when there are none."""
        return self._params().get(payload, "")

    def _params(self) -> dict[int, str]:
        """The first fmtp of each payload type."""
        found: dict[int, str] = {}
        for value in self.values("fmtp"):
            number, _, text = value.strip().partition(" ")
            payload = read_number(number, 127)
            if payload is not None:
                found.setdefault(payload, text.strip())
        return found

    @property
    def direction(self) -> Direction | None:
        """The first direction among its attributes, None when it has none."""
        return _direction(self.attributes)

    @property
    def ptime_ms(self) -> int | None:
        """The packet length that its writer wants to receive, in ms."""
        return read_number(self.first("ptime") or "", 2_000, least=1)

    @property
    def maxptime_ms(self) -> int | None:
        """The longest packet that its writer can receive, in ms."""
        return read_number(self.first("maxptime") or "", 60_000, least=1)

    @property
    def rtcp(self) -> Rtcp | None:
        """Where its writer wants RTCP, None for the next port."""
        return read_rtcp(self.first("rtcp") or "")

    @property
    def has_rtcp_mux(self) -> bool:
        """Whether RTCP may come on the port of RTP (RFC 5761 §5.1.1)."""
        return self.first("rtcp-mux") is not None

    @property
    def cryptos(self) -> tuple[Crypto, ...]:
        """The SRTP keys on offer that are well-formed."""
        return tuple(filter(None, map(read_crypto, self.values("crypto"))))

    @property
    def mid(self) -> str:
        """Its name for a=group, empty when it has none (RFC 5888)."""
        return (self.first("mid") or "").strip()

    def lines(self) -> Iterator[str]:
        """Its lines, in the order of RFC 8866 §9."""
        port = f"{self.port}/{self.ports}" if self.ports != 1 else f"{self.port}"
        yield f"m={self.kind} {port} {self.proto} {' '.join(self.words)}"
        if self.connection is not None:
            yield f"c={self.connection}"
        yield from (f"b={kind}:{value}" for kind, value in self.bandwidth)
        yield from (f"a={each}" for each in self.attributes)


@dataclass(frozen=True, slots=True)
class Description:
    """A whole session description."""

    origin: Origin
    name: str = "-"
    connection: Connection | None = None
    bandwidth: tuple[tuple[str, int], ...] = ()
    times: tuple[str, ...] = ("0 0",)
    attributes: tuple[Attribute, ...] = ()
    media: tuple[Media, ...] = field(default=())

    def __str__(self) -> str:
        """The text, lines ended by CRLF."""
        return "".join(f"{line}\r\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield "v=0"
        yield f"o={self.origin}"
        yield f"s={self.name or '-'}"
        if self.connection is not None:
            yield f"c={self.connection}"
        yield from (f"b={kind}:{value}" for kind, value in self.bandwidth)
        yield from (f"t={time}" for time in self.times)
        yield from (f"a={each}" for each in self.attributes)
        for each in self.media:
            yield from each.lines()

    def connection_of(self, media: Media) -> Connection | None:
        """Where this stream is to go: its own c=, else the session's, else nobody said."""
        return media.connection or self.connection

    def direction_of(self, media: Media) -> Direction:
        """Its own direction, else the session's, else both ways (RFC 8866 §6.7)."""
        return media.direction or _direction(self.attributes) or Direction.SENDRECV

    def fingerprints_of(self, media: Media) -> tuple[Fingerprint, ...]:
        """The certificates that its writer may show, its own or the session's (RFC 8122 §5)."""
        for attributes in (media.attributes, self.attributes):
            values = (each.value for each in attributes if each.name == "fingerprint")
            found = tuple(filter(None, map(read_fingerprint, values)))
            if found:
                return found
        return ()

    def setup_of(self, media: Media) -> Setup | None:
        """Who opens the DTLS association, as its writer wants it."""
        value = media.first("setup")
        if value is None:
            value = next((each.value for each in self.attributes if each.name == "setup"), "")
        word = value.strip().lower()
        return Setup(word) if word in set(Setup) else None

    @property
    def bundle(self) -> tuple[str, ...]:
        """The mids of the first a=group:BUNDLE (RFC 8843 §5), empty when there is none."""
        for each in self.attributes:
            words = each.value.split()
            if each.name == "group" and words and words[0].upper() == "BUNDLE":
                return tuple(words[1:])
        return ()


def parse(body: bytes | str) -> Description:
    """The description in a body; SipError 400 when it is none."""
    lines = _lines(body)
    if next(lines, ("", "")) != ("v", "0"):
        raise _fault("it does not begin with v=0")
    session: dict[str, list[str]] = {}
    sections: list[dict[str, list[str]]] = []
    for letter, value in lines:
        if letter == "m":
            if len(sections) == MEDIA_LIMIT:
                raise _fault(f"it has more than {MEDIA_LIMIT} media")
            sections.append({})
        section = sections[-1] if sections else session
        section.setdefault(letter, []).append(value)
    if "o" not in session:
        raise _fault("it has no o=")
    return Description(
        origin=_origin(session["o"][0]),
        name=session.get("s", ["-"])[0] or "-",
        connection=_first_connection(session),
        bandwidth=_bandwidth(session),
        times=tuple(session.get("t", ())) or ("0 0",),
        attributes=_attributes(session),
        media=tuple(map(_media, sections)),
    )


def _fault(problem: str) -> SipError:
    return SipError(problem=f"a session description: {problem}", status=400)


def _lines(body: bytes | str) -> Iterator[tuple[str, str]]:
    """Letter and value of every line."""
    if len(body) > BODY_LIMIT:
        raise _fault(f"it has more than {BODY_LIMIT} bytes")
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    if "\0" in text:
        raise _fault("there is a NUL in it")
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if len(lines) > LINES_LIMIT:
        raise _fault(f"it has more than {LINES_LIMIT} lines")
    for number, line in enumerate(lines, 1):
        if not line.strip(" \t"):
            continue
        if len(line) > LINE_LIMIT:
            raise _fault(f"line {number} has more than {LINE_LIMIT} characters")
        letter, equals, value = line.partition("=")
        letter = letter.strip(" \t")
        if not equals or len(letter) != 1:
            raise _fault(f"line {number} is no letter, equals sign and value")
        yield letter, value.strip(" \t")


def _origin(value: str) -> Origin:
    words = value.split()
    # Some devices leave the user's name away or have blanks in it; the five last words are fixed.
    if len(words) < 5:
        raise _fault("its o= has too few words")
    session_id, version, _net, _family, host = words[-5:]
    if not _is_host(host):
        raise _fault("the address in its o= is none")
    return Origin("_".join(words[:-5]) or "-", session_id, version, host)


def _first_connection(section: dict[str, list[str]]) -> Connection | None:
    return _connection(section["c"][0]) if "c" in section else None


def _connection(value: str) -> Connection:
    words = value.split()
    if len(words) != 3 or words[0].upper() != "IN" or words[1].upper() not in {"IP4", "IP6"}:
        raise _fault("a c= is not of the Internet")
    host, _, scope = words[2].partition("/")
    if not _is_host(host) or (scope and not re.fullmatch(r"[0-9]{1,9}(/[0-9]{1,9})?", scope)):
        raise _fault("the address in a c= is none")
    return Connection(host.strip("[]"), scope)


def _is_host(text: str) -> bool:
    return len(text) <= 255 and re.fullmatch(r"[0-9A-Za-z.:_\-\[\]%]+", text) is not None


def _bandwidth(section: dict[str, list[str]]) -> tuple[tuple[str, int], ...]:
    """What is a kind and a number; the rest says nothing that could be obeyed."""
    pairs = []
    for value in section.get("b", ()):
        kind, _, number = value.partition(":")
        amount = read_number(number, 4_294_967_295)
        if _TOKEN.match(kind) and amount is not None:
            pairs.append((kind, amount))
    return tuple(pairs)


def _attributes(section: dict[str, list[str]]) -> tuple[Attribute, ...]:
    split = (value.partition(":") for value in section.get("a", ()))
    return tuple(Attribute(name.strip(), value.strip()) for name, _, value in split if name.strip())


def _media(section: dict[str, list[str]]) -> Media:
    words = section["m"][0].split()
    if len(words) < 3:
        raise _fault("an m= has too few words")
    kind, where, proto, *formats = words
    port_text, _, ports_text = where.partition("/")
    port = read_number(port_text, 65_535)
    ports = read_number(ports_text, 65_535, least=1) if ports_text else 1
    if port is None or ports is None or not _TOKEN.match(kind) or not _PROTO.match(proto):
        raise _fault("an m= is malformed")
    if len(formats) > FORMATS_LIMIT:
        raise _fault(f"an m= has more than {FORMATS_LIMIT} formats")
    if not formats and port:
        raise _fault("an m= has no format")
    return Media(
        kind=kind.lower(),
        port=port,
        proto=proto,
        words=tuple(formats) or ("0",),
        connection=_first_connection(section),
        bandwidth=_bandwidth(section),
        attributes=_attributes(section),
        ports=ports,
    )


def _direction(attributes: tuple[Attribute, ...]) -> Direction | None:
    for each in attributes:
        word = each.name.lower()
        if word in _DIRECTION_NAMES:
            return Direction(word)
    return None


_DIRECTION_NAMES: Final = frozenset(map(str, Direction))
