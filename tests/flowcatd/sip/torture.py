"""The corpus of RFC 4475 and RFC 5118, and small messages to build cases from."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from flowcatd.sip.header import Via
from flowcatd.sip.message import Request, Response, build_response, parse_message

CORPUS = Path(__file__).parents[2] / "corpus" / "sip"


@dataclass(frozen=True)
class Case:
    """One message of the corpus and what the RFC says of it."""

    name: str
    data: bytes
    verdict: str
    """Of its form."""
    wire: str
    """What a user agent sends for it."""


def cases() -> list[Case]:
    """All of both RFCs."""
    return [
        Case(name, (CORPUS / rfc / f"{name}.sip").read_bytes(), row["verdict"], row["wire"])
        for rfc in ("rfc4475", "rfc5118")
        for name, row in tomllib.loads((CORPUS / f"{rfc}.toml").read_text("utf-8")).items()
    ]


def case(name: str) -> bytes:
    """One message by name."""
    return next(each.data for each in cases() if each.name == name)


def plain(method: str = "INVITE", *more: str, body: bytes = b"", **other: str) -> bytes:
    """A well-formed request; `other` replaces header fields by name (`call_id=…`)."""
    fields = {
        "via": "SIP/2.0/UDP 192.0.2.1:5066;branch=z9hG4bKone",
        "from": '"Ann" <sip:ann@example.com>;tag=a1',
        "to": "<sip:bob@example.com>",
        "call-id": "c1@example.com",
        "cseq": f"1 {method}",
        "max-forwards": "70",
        "content-length": str(len(body)),
    }
    fields |= {name.replace("_", "-").rstrip("-"): value for name, value in other.items()}
    uri = fields.pop("uri", "sip:bob@192.0.2.2")
    lines = [f"{method} {uri} SIP/2.0", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, *more, "", ""]).encode() + body


def request(method: str = "INVITE", *more: str, body: bytes = b"", **other: str) -> Request:
    """The same, parsed."""
    parsed = parse_message(plain(method, *more, body=body, **other))
    assert isinstance(parsed, Request)
    return parsed


def response(asked: Request, status: int, tag: str = "b1") -> Response:
    """An answer as the other side would read it."""
    parsed = parse_message(bytes(build_response(asked, status, tag=tag)))
    assert isinstance(parsed, Response)
    return parsed


def via(branch: str, transport: str = "UDP") -> Via:
    """A hop of ours."""
    return Via(transport, "192.0.2.9", 5060, {"branch": branch, "rport": None})
