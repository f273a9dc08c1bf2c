"""Which transaction a message belongs to, and what is made of one request for another (RFC 3261 §17).

A request is found by the branch of its topmost Via, whoever sent it and its method (§17.2.3), with the
rule of RFC 2543 for a branch without the cookie; an ACK is looked for as its INVITE. The ACK of a
failure (§17.1.1.3) and a CANCEL (§9.1) are copies of the INVITE's own fields. Functions only: the
transactions themselves are in `transaction.py`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from flowcatd.sip.header import CSeq, split_list
from flowcatd.sip.message import Request, Response

COOKIE: Final = "z9hg4bk"
"""What a branch of RFC 3261 begins with (§8.1.1.7), in lower case."""
_OBJECT_BYTES = 200
"""A field's list, its string's head and its place in the table."""


def size_of(request: Request) -> int:
    """About what a request takes in memory: a long one is its text, a short one its objects."""
    lines = sum(len(value) for values in request.fields.values() for value in values)
    return lines + len(request.body) + _OBJECT_BYTES * len(request.fields)


def has_cookie(branch: str) -> bool:
    """Whether a branch is unique in itself; a bare cookie identifies nothing (RFC 4475 §3.2.1)."""
    return len(branch) > len(COOKIE) and branch[: len(COOKIE)].lower() == COOKIE


def has_second(response: Response) -> bool:
    """Whether the topmost line has two Vias."""
    via = response.fields["via"][0]
    return "," in via and len(split_list(via)) > 1


def server_key(
    request: Request, *, method: str | None = None, to_tag: str | None = None
) -> Hashable:
    """What §17.2.3 compares; an ACK is looked for as its INVITE."""
    top = request.top
    wanted = method or ("INVITE" if request.method == "ACK" else request.method)
    sent_by = (top.host.lower(), top.port or 5060)
    if has_cookie(top.branch):
        return (top.branch, sent_by, wanted)
    tag = request.to.tag if to_tag is None else to_tag
    told = (request.call_id, request.cseq.number, request.from_.tag, tag)
    return (top.branch, sent_by, wanted, str(request.uri), told)


def follow(request: Request, method: str, answer: Response | None) -> Request:
    """The ACK of a failure (§17.1.1.3) or the CANCEL of an INVITE (§9.1)."""
    asked = request.fields
    top = asked["via"][0]
    fields = {
        "via": [split_list(top)[0] if "," in top else top],
        "max-forwards": ["70"],
        "from": list(asked["from"]),
        "to": list(answer.fields["to"] if answer else asked["to"]),
        "call-id": list(asked["call-id"]),
        "cseq": [str(CSeq(request.cseq.number, method))],
    }
    if "route" in asked:
        fields["route"] = list(asked["route"])
    return Request(method, request.uri, fields, b"")
