"""Words of transfers: Refer-To, Replaces, Referred-By, Refer-Sub (RFC 3515, 3891, 3892, 4488).

A blind transfer's Refer-To is an address; an attended one's has a Replaces among its URI headers, which
names the dialog that the new call shall take the place of. Tags in a Replaces are seen from the one who
is to be replaced: to-tag is *its* local one (RFC 3891 §3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from flowcatd.sip.header import parse_address, parse_parameters
from flowcatd.sip.message import Request
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri

REFERENCES_MAX: Final = 4
"""Transfers of one call that may be under way."""
SUBSCRIPTION_SECONDS: Final = 180
"""How long an answer may take: a telephone rings that long."""

_TOKEN = re.compile(r"[^\s;,<>\"]++")


@dataclass(frozen=True, slots=True)
class Replaces:
    """A dialog, named by whoever is not part of it."""

    call_id: str
    to_tag: str
    from_tag: str
    early_only: bool = False

    def __str__(self) -> str:
        early = ";early-only" if self.early_only else ""
        return f"{self.call_id};to-tag={self.to_tag};from-tag={self.from_tag}{early}"


@dataclass(frozen=True, slots=True)
class Reference:
    """What a REFER asks for."""

    target: Uri
    """Without headers."""
    replaces: Replaces | None
    referred_by: str
    wants_reports: bool
    """Whether NOTIFYs shall follow."""


def parse_replaces(text: str) -> Replaces:
    """A Replaces; SipError 400 when it is none."""
    call_id, semicolon, rest = text.strip().partition(";")
    said = parse_parameters(semicolon + rest)
    to_tag, from_tag = said.get("to-tag"), said.get("from-tag")
    if not _TOKEN.fullmatch(call_id) or not to_tag or not from_tag:
        raise SipError("a Replaces that is not well-formed")
    return Replaces(call_id, to_tag, from_tag, "early-only" in said)


def parse_reference(request: Request) -> Reference:
    """What a REFER asks for; SipError 400 without exactly one usable Refer-To (RFC 3515 §2.4.2)."""
    texts = request.values("refer-to")
    if len(texts) != 1:
        raise SipError("a REFER without exactly one Refer-To")
    target = parse_address(texts[0]).uri
    method = target.parameters.get("method") or "INVITE"
    if method.upper() != "INVITE":
        raise SipError("a REFER to something that is no call", 501)
    if target.scheme not in {"sip", "sips", "tel"}:
        raise SipError("a REFER to what cannot be called", 416)
    wanted = [value for name, value in target.headers if name.lower() == "replaces"]
    return Reference(
        replace(target, headers=()),
        parse_replaces(wanted[0]) if wanted else None,
        request.first("referred-by") or "",
        (request.first("refer-sub") or "true").partition(";")[0].strip().lower() != "false",
    )


def refer_to(target: Uri, replaces: Replaces | None) -> str:
    """The Refer-To of a transfer to `target`."""
    headers = (("Replaces", str(replaces)),) if replaces else ()
    return f"<{replace(target, headers=headers)}>"
