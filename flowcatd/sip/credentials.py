"""Challenges and credentials as text (RFC 3261 §25.1 `challenge`, `credentials`; RFC 7616 §3.3 to 3.5).

A scheme and named values. Which of them are quoted differs between the two: a challenge's qop is, that
of the credentials is not, and peers exist that read only one form. An unknown scheme is no error: its
sender has no credentials that we know (RFC 4475 §3.3.7).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from flowcatd.sip.header import QUOTED, TOKEN, quoted, unquoted
from flowcatd.sip.trouble import SipError

_MOST = 32
_SCHEME = re.compile(rf"\s*+({TOKEN})\s*+")
_PAIR = re.compile(rf"\s*+({TOKEN})\s*+=\s*+({QUOTED}|[^\s,\"]*+)\s*+(?:,|\Z)", re.DOTALL)
_BARE: Final = frozenset({"algorithm", "nc", "stale"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """One challenge, or the answer to one."""

    scheme: str
    """In lower case."""
    parameters: dict[str, str] = field(default_factory=dict, repr=False)
    """By lower-case name, unquoted; empty for a scheme that is not Digest."""


def parse_credentials(text: str) -> Credentials:
    """The scheme and, for Digest, its parameters; SipError 400 when they are not well-formed."""
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise SipError("credentials without a scheme")
    name = scheme[1].lower()
    if name != "digest":
        return Credentials(name)
    found: dict[str, str] = {}
    at = scheme.end()
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None or len(found) > _MOST:
            raise SipError("credentials that are not well-formed")
        value = pair[2]
        key = pair[1].lower()
        if key in found:
            raise SipError("credentials that say a thing twice")
        found[key] = unquoted(value) if value[:1] == '"' else value
        at = pair.end()
    return Credentials(name, found)


def write_credentials(scheme: str, said: dict[str, str], *, challenge: bool = False) -> str:
    """The text; without a scheme it is an Authentication-Info."""
    bare = _BARE if challenge else _BARE | {"qop"}
    pairs = ", ".join(
        f"{name}={value if name in bare else quoted(value)}" for name, value in said.items()
    )
    return f"{scheme} {pairs}" if scheme else pairs
