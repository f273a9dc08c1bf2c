"""Values of SIP header fields: addresses, Via, CSeq, parameters, lists (RFC 3261 §20, §25.1).

Each is a frozen value with a `parse_…` and a text form, in the manner of `sipmessage`, whose own types
refuse what RFC 4475 and RFC 5118 call valid (foreign schemes, URI headers, an unbracketed IPv6 in
`received`, dotted IPv4 behind `::`) and re-escape what they do not understand.

A comma or semicolon counts only outside quoted strings and angle brackets (§7.3.1). Text is what UTF-8
with surrogateescape makes of the bytes. Every pattern is possessive: linear, whatever comes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final, Self

from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import (
    HOST,
    MOST_PARAMETERS,
    Parameters,
    Uri,
    check_host,
    parse_port,
    parse_uri,
)

TOKEN: Final = r"[A-Za-z0-9\-.!%*_+`'~]++"  # noqa: S105 the RFC's word
QUOTED: Final = r'"(?>(?:[^"\\]++|\\.)*)"'

_LIST_PIECE = re.compile(rf'(?>(?:[^",<]++|{QUOTED}|<[^>]*+>)*)', re.DOTALL)
_PARAMETER = re.compile(rf"\s*+;\s*+({TOKEN})\s*+(?>=\s*+({QUOTED}|[^\s;,\"<>]*+)\s*+|)", re.DOTALL)
_NAME_ADDR = re.compile(rf'\s*+(?:({QUOTED})|([^"<>,;:@\\]*+))\s*+<([^>]*+)>\s*+', re.DOTALL)
_ADDR_SPEC = re.compile(r"\s*+([^\s;,<>\"?]++)\s*+")
_VIA = re.compile(
    rf"\s*+SIP\s*+/\s*+([0-9.]++)\s*+/\s*+({TOKEN})\s++({HOST})\s*+(?>:\s*+([0-9]{{1,5}}+)\s*+|)",
    re.IGNORECASE,
)
_CSEQ = re.compile(rf"([0-9]{{1,24}}+)\s++({TOKEN})")
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_WORD = re.compile(TOKEN)
_TO_QUOTE = re.compile(r'(["\\])')
_BARE_NAME = re.compile(r"[A-Za-z0-9\-.!%*_+`'~ ]*+")

CSEQ_LIMIT: Final = 1 << 31
"""§8.1.1.5: a sequence number is less than that."""


@dataclass(frozen=True, slots=True)
class Address:
    """A name-addr or addr-spec with its header parameters: From, To, Contact, Route …"""

    uri: Uri
    name: str = ""
    """The display name, unquoted."""
    parameters: Parameters = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """The tag, or an empty string."""
        return self.parameters.get("tag") or ""

    def with_tag(self, tag: str) -> Self:
        """The same with this tag."""
        return replace(self, parameters={**self.parameters, "tag": tag})

    def __str__(self) -> str:
        name = ""
        if self.name:
            name = self.name if _BARE_NAME.fullmatch(self.name) else quoted(self.name)
            name += " "
        return f"{name}<{self.uri}>{write_parameters(self.parameters)}"


@dataclass(frozen=True, slots=True)
class Via:
    """One hop: where its answer goes (§20.42)."""

    transport: str
    """In upper case, as a rule: UDP, TCP, TLS, WS, WSS."""
    host: str
    port: int | None = None
    parameters: Parameters = field(default_factory=dict)

    @property
    def branch(self) -> str:
        """The branch, or an empty string from a peer of RFC 2543."""
        return self.parameters.get("branch") or ""

    @property
    def received(self) -> str:
        """Where it came from, without brackets; empty when that is the sent-by."""
        return (self.parameters.get("received") or "").strip("[]")

    def with_parameters(self, **changes: str | None) -> Self:
        """The same with these parameters added or replaced."""
        return replace(self, parameters={**self.parameters, **changes})

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"SIP/2.0/{self.transport} {self.host}{port}{write_parameters(self.parameters)}"


@dataclass(frozen=True, slots=True)
class CSeq:
    """A request's place in its dialog, and its method."""

    number: int
    method: str

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


@dataclass(frozen=True, slots=True)
class Valued:
    """A word with parameters: Event, Session-Expires, Content-Disposition, Retry-After, Reason …"""

    value: str
    parameters: Parameters = field(default_factory=dict)

    def __str__(self) -> str:
        return self.value + write_parameters(self.parameters)


def parse_address(text: str) -> Address:
    """One address; SipError 400 when it is none.

    Without brackets everything behind the first semicolon belongs to the header, and a question mark
    may not stand at all (§20.10).
    """
    if (found := _NAME_ADDR.match(text)) is not None:
        written, bare, uri = found.groups()
        name = unquoted(written) if written else " ".join(bare.split())
    elif (found := _ADDR_SPEC.match(text)) is not None:
        name, uri = "", found[1]
    else:
        raise SipError("an address that is not well-formed")
    parsed = parse_uri(uri)
    end = found.end()
    return Address(parsed, name, parse_parameters(text, end) if end < len(text) else {})


def parse_via(text: str) -> Via:
    """One Via value; SipError 400 when it is none."""
    found = _VIA.match(text)
    if found is None:
        raise SipError("a Via that is not well-formed")
    version, transport, host, port = found.groups()
    if version != "2.0":
        raise SipError("a Via of another version of SIP", 505)
    end = found.end()
    parameters = parse_parameters(text, end) if end < len(text) else {}
    return Via(transport.upper(), check_host(host), parse_port(port), parameters)


def parse_cseq(text: str) -> CSeq:
    """The CSeq; SipError 400 when it is none or too large."""
    found = _CSEQ.fullmatch(text)
    if found is None or (number := int(found[1])) >= CSEQ_LIMIT:
        raise SipError("a CSeq that is not well-formed")
    return CSeq(number, found[2])


def parse_valued(text: str) -> Valued:
    """A word and its parameters; SipError 400 when the parameters are none."""
    at = text.find(";")
    if at < 0:
        return Valued(text.strip())
    return Valued(text[:at].strip(), parse_parameters(text, at))


def parse_number(text: str, limit: int = 1 << 32) -> int:
    """Digits and nothing else, below `limit`; SipError 400 otherwise."""
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or (number := int(text)) >= limit:
        raise SipError("a number that is none or too large")
    return number


def parse_parameters(text: str, at: int = 0) -> dict[str, str | None]:
    """`;name=value` from `at` to the end; names in lower case, quotes kept off, the first one counts."""
    found: dict[str, str | None] = {}
    match = _PARAMETER.match
    end = len(text)
    while at < end:
        piece = match(text, at)
        if piece is None or len(found) > MOST_PARAMETERS:
            raise SipError("parameters that are not well-formed")
        name, value = piece.groups()
        if value is not None and value[:1] == '"':
            value = unquoted(value)
        found.setdefault(name.lower(), value)
        at = piece.end()
    return found


def write_parameters(parameters: Parameters) -> str:
    """`;name=value` for each, quoted where a bare value would not be read back."""
    pieces = []
    for name, value in parameters.items():
        if value is None:
            pieces.append(f";{name}")
        else:
            pieces.append(f";{name}={value if _is_bare(value) else quoted(value)}")
    return "".join(pieces)


def split_list(text: str) -> list[str]:
    """The values between commas that stand outside quotes and brackets; SipError for an empty one."""
    if '"' not in text and "<" not in text:
        pieces = [piece.strip() for piece in text.split(",")]
    else:
        pieces, at = [], 0
        while True:
            piece = _LIST_PIECE.match(text, at)
            assert piece is not None  # the pattern matches an empty piece too
            pieces.append(piece[0].strip())
            at = piece.end()
            if at == len(text):
                break
            if text[at] != ",":
                raise SipError("a quote or bracket that is not closed")
            at += 1
    if not all(pieces):
        raise SipError("a comma with nothing beside it")
    return pieces


def quoted(text: str) -> str:
    """A quoted string; line ends and NUL, which none may hold, become spaces."""
    safe = text.replace("\r", " ").replace("\n", " ").replace("\0", " ")
    return '"' + _TO_QUOTE.sub(r"\\\1", safe) + '"'


def unquoted(text: str) -> str:
    """What stands in a quoted string."""
    inner = text[1:-1]
    return _QUOTED_PAIR.sub(r"\1", inner) if "\\" in inner else inner


def is_token(text: str) -> bool:
    """Whether it may stand as a method, a tag or a bare value."""
    return _WORD.fullmatch(text) is not None


_BARE_VALUE = re.compile(r"[A-Za-z0-9\-.!%*_+`'~\[\]:/$&@]++")


def _is_bare(value: str) -> bool:
    return _BARE_VALUE.fullmatch(value) is not None
