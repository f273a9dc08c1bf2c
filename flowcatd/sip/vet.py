"""What a user agent refuses before it looks at the call: RFC 3261 §8.2.1 to §8.2.3.

Method, scheme of the Request-URI, required extensions, type and encoding of the body, and what the
caller would accept. `find_objection` gives the first thing that is wrong, with the fields that its
answer must carry; merged requests (§8.2.2.2) are the transaction layer's, the dialog's own rules are
the dialog's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flowcatd.sip.message import Request, Response, build_response, parse_media_type
from flowcatd.sip.words import KNOWN_METHODS, phrase_of

_ASKS_SDP = frozenset({"INVITE", "UPDATE", "PRACK"})


@dataclass(frozen=True, slots=True)
class Abilities:
    """What one of our user agents can do."""

    methods: tuple[str, ...]
    extensions: tuple[str, ...] = ()
    """Option tags, in lower case."""
    media_types: tuple[str, ...] = ("application/sdp",)
    schemes: tuple[str, ...] = ("sip", "sips", "tel")


@dataclass(frozen=True, slots=True)
class Objection:
    """A refusal, and what its response says besides."""

    status: int
    fields: dict[str, str] = field(default_factory=dict)

    def answer(self, request: Request, tag: str) -> Response:
        """The response to send."""
        response = build_response(request, self.status, phrase_of(self.status), tag=tag)
        for name, value in self.fields.items():
            response.put(name, value)
        return response


def find_objection(request: Request, able: Abilities) -> Objection | None:
    """The first thing that is wrong with a request for us, or None; an ACK is never refused.

    Max-Forwards of zero is none: the request has arrived (§16.3 is for those that pass it on).
    """
    if request.method == "ACK":
        return None
    if "replaces" in request.fields and request.method != "INVITE":
        return Objection(400)  # RFC 3891 §4
    if request.method not in able.methods:
        known = request.method in KNOWN_METHODS
        return Objection(405 if known else 501, {"allow": ", ".join(able.methods)})
    if request.uri.scheme not in able.schemes:
        return Objection(416)
    if request.uri.headers:
        return Objection(400)  # RFC 3261 §19.1.1, RFC 4475 §3.1.2.11
    if request.method != "CANCEL" and (unknown := _unknown_extensions(request, able)):
        return Objection(420, {"unsupported": ", ".join(unknown)})
    return _find_in_body(request, able)


def _unknown_extensions(request: Request, able: Abilities) -> list[str]:
    return [tag for tag in request.values("require") if tag.lower() not in able.extensions]


def _find_in_body(request: Request, able: Abilities) -> Objection | None:
    accept = {"accept": ", ".join(able.media_types)}
    if request.body and not _is_optional(request):
        encodings = [each for each in request.words("content-encoding") if each != "identity"]
        if encodings:
            return Objection(415, {"accept-encoding": "identity"})
        kind = request.media_type()
        if kind is not None and not _takes(kind.mime_type.lower(), able):
            return Objection(415, accept)
    if request.method in _ASKS_SDP and (accepted := request.values("accept")):
        kinds = [parse_media_type(value).mime_type.lower() for value in accepted]
        if not {"application/sdp", "application/*", "*/*"} & set(kinds):
            return Objection(406)
    return None


def _takes(kind: str, able: Abilities) -> bool:
    # A multipart body may hold what we take; whoever reads it finds out (RFC 5621 §3).
    return kind in able.media_types or kind.startswith("multipart/")


def _is_optional(request: Request) -> bool:
    """Whether a body that is not understood may be ignored (§20.11)."""
    disposition = request.valued("content-disposition")
    return disposition is not None and disposition.parameters.get("handling") == "optional"
