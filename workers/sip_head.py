"""What of a SIP message decides where it goes: method, Via, tags, Call-ID.

This is not a SIP stack: it reads the few header fields by which workers pass messages on, in their
long and compact forms, folded or not (RFC 3261 §7.3). It judges nothing else about a message. What
lacks one of the five fields that every request and response has (§8.1.1; Max-Forwards aside), or is
no SIP at all, is None.

Text is Latin-1 throughout, so that every byte counts in a Call-ID; names are compared without regard
to case. Every step is linear in the message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

HEAD_LINES = 256
"""Header fields that are read; a message with more is garbage to us."""
VALUE_CHARACTERS = 4096
"""The longest wanted field; longer is garbage to us. Sixty hops make a Via of that length."""

_COMPACT: Final = {"v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact"}
_WANTED: Final = frozenset({"via", "from", "to", "call-id", "cseq"})
_WORD: Final = r"[A-Za-z0-9\-.!%*_+`'~]+"
_START_REQUEST = re.compile(rf"({_WORD}) ([^\s]+) SIP/2\.0", re.IGNORECASE)
_START_RESPONSE = re.compile(r"SIP/2\.0 ([1-6][0-9]{2})(?: .*)?", re.IGNORECASE)
_SENT_BY = re.compile(
    rf"SIP\s*/\s*2\.0\s*/\s*{_WORD}\s+(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.\-_]+)\s*(?::\s*([0-9]{{1,5}}))?",
    re.IGNORECASE,
)
_CSEQ = re.compile(rf"([0-9]{{1,10}})\s+({_WORD})")


@dataclass(frozen=True, slots=True)
class Head:
    """One message, as far as routing goes."""

    method: str
    """Of a request, as it was written; empty for a response."""
    status: int
    """Of a response; 0 for a request."""
    uri_user: str
    """The user part of a request's URI: the one a Contact of ours had."""
    call_id: str
    from_tag: str
    to_tag: str
    branch: str
    """Of the top Via."""


def parse_head(data: bytes) -> Head | None:
    """The message's head, or None for what is no SIP message that could be passed on."""
    text = data.lstrip(b"\r\n").decode("latin-1")
    start, _, rest = text.partition("\n")
    fields = _fields(rest)
    if fields is None or not fields.keys() >= _WANTED:
        return None
    method, status, user = _start(start.rstrip("\r"))
    top = _split(fields["via"][0], ",", 1)[0].rstrip()
    sent_by = _SENT_BY.match(top)
    cseq = _CSEQ.fullmatch(fields["cseq"][0])
    single = all(len(fields[name]) == 1 for name in _WANTED if name != "via")
    if not (method or status) or sent_by is None or cseq is None or not single:
        return None
    if (method and cseq[2] != method) or not fields["call-id"][0]:
        return None
    if sent_by[1] is not None and not 0 < int(sent_by[1]) < 65_536:
        return None
    return Head(
        method=method,
        status=status,
        uri_user=user,
        call_id=fields["call-id"][0],
        from_tag=_tag(fields["from"][0]),
        to_tag=_tag(fields["to"][0]),
        branch=_parameters(top[sent_by.end() :]).get("branch", ""),
    )


def call_key(call_id: str) -> bytes:
    """What workers.steer.choose hashes for the call with this Call-ID."""
    return b"sip\0" + call_id.encode("latin-1")


def stamped(head: Head) -> tuple[str, ...]:
    """Where a worker's stamp can stand in this message, the surest place first.

    In a request from a peer our tag is the To's, and our Contact's user is its URI's; in a response
    the top Via is ours, and our tag is the From's (RFC 3261 §12.2, §17.1.3).
    """
    if head.status:
        return (head.branch, head.from_tag)
    return (head.to_tag, head.uri_user)


# --- reading --------------------------------------------------------------------------------------


def _start(line: str) -> tuple[str, int, str]:
    """Method, status and the user of the request's URI."""
    if (request := _START_REQUEST.fullmatch(line)) is not None:
        _scheme, _, rest = request[2].partition(":")
        user = rest.partition("@")[0] if "@" in rest else ""
        return request[1], 0, user
    if (response := _START_RESPONSE.fullmatch(line)) is not None:
        return "", int(response[1]), ""
    return "", 0, ""


def _fields(text: str) -> dict[str, list[str]] | None:
    """The wanted fields' values, unfolded and in order; None when the head is malformed."""
    fields: dict[str, list[str]] = {}
    last: list[str] | None = None
    # What stands behind the last line feed is no line.
    for raw in text.split("\n", HEAD_LINES)[:-1]:
        line = raw.removesuffix("\r")
        if not line:
            return fields if _are_short(fields) else None
        if "\r" in line or "\0" in line:
            return None
        if line[0] in " \t":  # a folded line goes on with the one before (§7.3.1)
            if last:
                last[-1] = f"{last[-1]} {line.strip()}".strip()
            continue
        name, colon, value = line.partition(":")
        if not colon:
            return None
        name = name.rstrip(" \t").lower()
        name = _COMPACT.get(name, name)
        last = fields.setdefault(name, []) if name in _WANTED else None
        if last is not None:
            last.append(value.strip(" \t"))
    return None  # a head ends with an empty line


def _are_short(fields: dict[str, list[str]]) -> bool:
    return all(len(value) <= VALUE_CHARACTERS for values in fields.values() for value in values)


def _split(text: str, separator: str, most: int = -1) -> list[str]:
    """The pieces between separators that stand outside quoted strings (§25.1), `most` cuts at most."""
    pieces, start = [], 0
    quoted = escaped = False
    for at, letter in enumerate(text):
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = quoted
        elif letter == '"':
            quoted = not quoted
        elif letter == separator and not quoted:
            pieces.append(text[start:at])
            start = at + 1
            if len(pieces) == most:
                break
    return [*pieces, text[start:]]


def _parameters(text: str) -> dict[str, str]:
    """`;name=value` after a value; names in lower case, the first of each counts."""
    found: dict[str, str] = {}
    for piece in _split(text, ";")[1:]:
        name, _, value = piece.partition("=")
        found.setdefault(name.strip().lower(), value.strip())
    return found


def _tag(value: str) -> str:
    """The tag of a From or To: a parameter behind the address, never one inside it (§20.10)."""
    _, *address = _split(value, "<", 1)
    return _parameters(address[0].partition(">")[2] if address else value).get("tag", "")
