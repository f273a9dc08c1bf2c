"""SIP, SIPS and tel URIs as values (RFC 3261 §19.1 and §25.1, RFC 3966).

A URI of another scheme is kept whole in `opaque`: it is no error to mention one (RFC 4475 §3.3.4),
only to be called by one. Escapes are resolved in what is read and made again in what is written, so
`%75ser` and `user` are the same, and bytes that are no UTF-8 survive (surrogateescape).

Reading is liberal where real peers are (raw `#` and letters beyond ASCII in the user, underscores in
host names, empty parameters) and strict where a guess would be one: white space, brackets, ports,
IPv6 references. Every pattern is possessive, so every step is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import Final, Self
from urllib.parse import quote_from_bytes, unquote_to_bytes

from flowcatd.sip.trouble import SipError

MOST_PARAMETERS = 64
"""Of one URI or header value; more is an attack on whoever looks for one."""

HOST: Final = r"(?:\[[0-9A-Fa-f:.]++\]|[A-Za-z0-9_](?:[A-Za-z0-9_.\-]*+))"

_ALNUM: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_MARK: Final = "-_.!~*'()"
_USER_SAFE: Final = _ALNUM + _MARK + "&=+$,;?/"
_PASSWORD_SAFE: Final = _ALNUM + _MARK + "&=+$,"
_PARAMETER_SAFE: Final = _ALNUM + _MARK + "[]/:&+$"
_HEADER_SAFE: Final = _ALNUM + _MARK + "[]/?:+$"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*+):(.*+)", re.DOTALL)
_SIP = re.compile(
    r"(?>(?P<user>[^\x00-\x20<>\"@\x7f:]++)(?>:(?P<password>[^\x00-\x20<>\"@\x7f]*+)|)@|)"
    rf"(?P<host>{HOST})(?>:(?P<port>[0-9]{{1,5}}+)|)"
    r"(?P<parameters>(?>(?:;[^\x00-\x20<>\"@\x7f?;]*+)*))"
    r"(?>\?(?P<headers>[^\x00-\x20<>\"@\x7f]*+)|)"
)
_TEL = re.compile(
    r"(?P<number>\+?[0-9A-Fa-f*#.()\-]++)(?P<parameters>(?>(?:;[^\x00-\x20<>\"?;\x7f]*+)*))"
)
_VISUAL = re.compile(r"[\-.()]")
_NUMBER = re.compile(r"\+[0-9.()\-]*+")

Parameters = Mapping[str, str | None]
"""Names in lower case; None is a parameter without a value."""


@dataclass(frozen=True, slots=True)
class Uri:
    """One URI; made by `parse_uri` or written out by hand."""

    scheme: str
    """In lower case."""
    host: str = ""
    """As written; an IPv6 reference keeps its brackets. Empty unless sip or sips."""
    user: str = ""
    """Unescaped; of a tel URI the number as written."""
    port: int | None = None
    password: str | None = None
    parameters: Parameters = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()
    """`?name=value` pairs, unescaped."""
    opaque: str = ""
    """Everything behind the colon of a scheme that is neither sip, sips nor tel."""

    @property
    def is_sip(self) -> bool:
        """Whether it can be called: sip or sips."""
        return self.scheme in {"sip", "sips"}

    @property
    def number(self) -> str | None:
        """The global number (E.164 with its plus) without visual separators, or None."""
        text = self.user.partition(";")[0]
        return _VISUAL.sub("", text) if _NUMBER.fullmatch(text) else None

    def with_parameters(self, **changes: str | None) -> Self:
        """The same with these parameters added or replaced."""
        return replace(self, parameters={**self.parameters, **changes})

    def __str__(self) -> str:
        if self.scheme == "tel":
            return f"tel:{self.user}{_written(self.parameters)}"
        if not self.is_sip:
            return f"{self.scheme}:{self.opaque}"
        user = ""
        if self.user:
            user = _escape(self.user, _USER_SAFE)
            if self.password is not None:
                user += ":" + _escape(self.password, _PASSWORD_SAFE)
            user += "@"
        port = "" if self.port is None else f":{self.port}"
        headers = "&".join(
            f"{_escape(name, _HEADER_SAFE)}={_escape(value, _HEADER_SAFE)}"
            for name, value in self.headers
        )
        mark = "?" if headers else ""
        return f"{self.scheme}:{user}{self.host}{port}{_written(self.parameters)}{mark}{headers}"


def parse_uri(text: str) -> Uri:
    """The URI; SipError 400 when it is none."""
    split = _SCHEME.fullmatch(text)
    if split is None:
        raise SipError("a URI without a scheme")
    scheme, rest = split[1].lower(), split[2]
    if scheme == "tel":
        return _parse_tel(rest)
    if scheme not in {"sip", "sips"}:
        if not rest or any(letter <= " " or letter in '<>"\x7f' for letter in rest):
            raise SipError("a URI with characters that no URI has")
        return Uri(scheme, opaque=rest)
    found = _SIP.fullmatch(rest)
    if found is None:
        raise SipError("a SIP URI that is not well-formed")
    user, password, host, port, parameters, headers = found.groups()
    return Uri(
        scheme,
        host=check_host(host),
        user=unescape(user) if user else "",
        port=parse_port(port),
        password=None if password is None else unescape(password),
        parameters=_parse_parameters(parameters) if parameters else {},
        headers=_parse_headers(headers) if headers else (),
    )


def check_host(host: str) -> str:
    """The host; an IPv6 reference with RFC 3261's third colon (RFC 5118 §4.10) gets the two it means."""
    if host[0] != "[":
        return host
    if ":::" in host:
        host = host.replace(":::", "::")
    try:
        IPv6Address(host[1:-1])
    except ValueError:
        raise SipError("an IPv6 reference that is no address") from None
    return host


def parse_port(text: str | None) -> int | None:
    """The port, or None where none is written; SipError 400 outside 1 to 65535."""
    if text is None:
        return None
    port = int(text)
    if not 0 < port < 65_536:
        raise SipError("a port out of range")
    return port


def is_same_uri(one: Uri, other: Uri) -> bool:
    """Whether both mean the same (RFC 3261 §19.1.4)."""
    if one.scheme != other.scheme or one.opaque != other.opaque:
        return False
    if one.scheme == "tel":
        return _VISUAL.sub("", one.user) == _VISUAL.sub("", other.user)
    mine = (one.user, one.password, one.host.lower(), one.port, _folded(one.headers))
    theirs = (other.user, other.password, other.host.lower(), other.port, _folded(other.headers))
    return mine == theirs and _agree(one.parameters, other.parameters)


_MUST_AGREE: Final = frozenset({"user", "ttl", "method", "maddr", "transport"})


def _agree(mine: Parameters, theirs: Parameters) -> bool:
    # What only one of the two has is ignored, but for the five that change where a request goes.
    for name in mine.keys() | theirs.keys():
        both = name in mine and name in theirs
        if both and (mine[name] or "").lower() != (theirs[name] or "").lower():
            return False
        if not both and name in _MUST_AGREE:
            return False
    return True


def _folded(headers: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    return sorted((name.lower(), value) for name, value in headers)


def unescape(text: str) -> str:
    """Text with its %xx resolved."""
    if "%" not in text:
        return text
    raw = unquote_to_bytes(text.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")


def _escape(text: str, safe: str) -> str:
    return quote_from_bytes(text.encode("utf-8", "surrogateescape"), safe=safe)


def _written(parameters: Parameters) -> str:
    pieces = []
    for name, value in parameters.items():
        pieces.append(";" + _escape(name, _PARAMETER_SAFE))
        if value is not None:
            pieces.append("=" + _escape(value, _PARAMETER_SAFE))
    return "".join(pieces)


def _parse_parameters(text: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    pieces = text.split(";")
    if len(pieces) > MOST_PARAMETERS:
        raise SipError("a URI with too many parameters")
    for piece in pieces:
        if piece:
            name, equal, value = piece.partition("=")
            found.setdefault(unescape(name).lower(), unescape(value) if equal else None)
    return found


def _parse_headers(text: str) -> tuple[tuple[str, str], ...]:
    pieces = text.split("&")
    if len(pieces) > MOST_PARAMETERS:
        raise SipError("a URI with too many headers")
    split = (piece.partition("=") for piece in pieces)
    return tuple((unescape(name), unescape(value)) for name, _, value in split if name)


def _parse_tel(rest: str) -> Uri:
    found = _TEL.fullmatch(rest)
    if found is None:
        raise SipError("a tel URI that is not well-formed")
    parameters = found["parameters"]
    return Uri(
        "tel", user=found["number"], parameters=_parse_parameters(parameters) if parameters else {}
    )
