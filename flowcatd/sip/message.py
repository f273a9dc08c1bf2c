"""SIP messages: bytes to requests and responses and back (RFC 3261 §7, §8.1.1, §8.2.6, §18).

`parse_message` is the fast path: the start line and the six headers that every request is routed and
matched by (Via, From, To, Call-ID, CSeq, Max-Forwards) are read and judged at once, everything else
stays text until it is asked for. `check_fields` is the full parse: all fields we know. What is wrong
raises SipError with the answer that the RFC names, and `refuse` makes that answer out of whatever the
message has (it drops what cannot or must not be answered).

Fields are kept by lower-case name in the order of arrival, repeated and comma-separated ones alike
(§7.3.1), compact forms by their long name; unknown ones survive untouched. Text is UTF-8 with
surrogateescape, so every byte is written back as it came.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from sipmessage import MediaType

from flowcatd.errors import LocalError
from flowcatd.sip.header import (
    TOKEN,
    Address,
    CSeq,
    Valued,
    Via,
    is_token,
    parse_address,
    parse_cseq,
    parse_number,
    parse_valued,
    parse_via,
    split_list,
)
from flowcatd.sip.trouble import DROP, SipError
from flowcatd.sip.uri import Uri, parse_uri
from flowcatd.sip.words import (
    COMPACT,
    KEYS,
    KNOWN_METHODS,
    SINGLE,
    SPELLED,
    phrase_of,
    spell,
)

DEFAULT_PORT = 5060
MESSAGE_BYTES = 65_536
"""What a UDP datagram holds; nobody needs more over TCP either (answer: 513)."""
HEADER_LINES = 256
LINE_BYTES = 8192
"""One field with its folds: a hundred hops of Via in one line."""

_REQUEST_LINE = re.compile(rf"({TOKEN}) ([^\s]++) SIP/([0-9]++)\.([0-9]++)", re.IGNORECASE)
_STATUS_LINE = re.compile(r"SIP/2\.0 ([1-6][0-9]{2})(?: (.*+))?", re.IGNORECASE | re.DOTALL)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_FOLD = re.compile(r"\n[ \t]++")
_NO_LINE = re.compile(r"[\r\n]")


class Message:
    """What requests and responses share: fields, body, and the values by which they are matched."""

    __slots__ = ("body", "call_id", "cseq", "fields", "from_", "to", "top")

    def __init__(self, fields: dict[str, list[str]], body: bytes) -> None:
        """Reads the routing headers of `fields`; SipError 400 when one is missing or malformed."""
        self.fields = fields
        self.body = body
        try:
            vias = fields["via"]
            self.from_ = parse_address(fields["from"][0])
            self.to = parse_address(fields["to"][0])
            self.call_id = fields["call-id"][0]
            cseq = fields["cseq"][0]
        except KeyError as missing:
            raise SipError(f"no {spell(missing.args[0])}") from None
        self.cseq: CSeq = parse_cseq(cseq)
        top = vias[0]
        self.top: Via = parse_via(split_list(top)[0] if "," in top else top)
        """The uppermost Via."""
        if len(self.call_id.split()) != 1:
            raise SipError("a Call-ID that is not well-formed")

    # --- what is asked for when it is needed

    def first(self, name: str) -> str | None:
        """The first value of a field as text, by lower-case long name; None when there is none."""
        values = self.fields.get(name)
        return values[0] if values else None

    def values(self, name: str) -> list[str]:
        """All values of a comma-separated field, one by one."""
        return [each for line in self.fields.get(name, ()) if line for each in split_list(line)]

    def words(self, name: str) -> list[str]:
        """The values of a field of tokens, in lower case: option tags, methods."""
        return [value.lower() for value in self.values(name)]

    def addresses(self, name: str) -> list[Address]:
        """The addresses of Contact, Route, Record-Route, Refer-To, P-Asserted-Identity …"""
        return [parse_address(value) for value in self.values(name) if value != "*"]

    def vias(self) -> list[Via]:
        """Every Via, the uppermost first."""
        return [parse_via(value) for value in self.values("via")]

    def number(self, name: str) -> int | None:
        """A field that is one number (Expires, RSeq, Max-Forwards …), or None."""
        text = self.first(name)
        return None if text is None else parse_number(text)

    def valued(self, name: str) -> Valued | None:
        """A word with parameters (Event, Session-Expires …), or None."""
        text = self.first(name)
        return None if text is None else parse_valued(text)

    def media_type(self) -> MediaType | None:
        """The body's type, or None when it has none; SipError 400 when it is not well-formed."""
        text = self.first("content-type")
        return None if text is None else parse_media_type(text)

    # --- what is changed before it is sent

    def put(self, name: str, *values: object) -> None:
        """Sets a field, by its long name in any case, to these values; none removes it."""
        key = name.lower()
        if values:
            self.fields[key] = [_one_line(str(value)) for value in values]
        else:
            self.fields.pop(key, None)

    def put_body(self, body: bytes, content_type: str) -> None:
        """Sets the body and its type."""
        self.body = body
        self.put("content-type", content_type)

    def _start_line(self) -> str:
        raise NotImplementedError

    def __bytes__(self) -> bytes:
        lines = [self._start_line()]
        for name, values in self.fields.items():
            if name != "content-length":
                spelled = spell(name)
                lines += [f"{spelled}: {value}" for value in values]
        lines.append(f"Content-Length: {len(self.body)}\r\n\r\n")
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + self.body


class Request(Message):
    """A request; `max_forwards` is None from a peer of RFC 2543 (RFC 4475 §3.4.1)."""

    __slots__ = ("max_forwards", "method", "uri")

    def __init__(self, method: str, uri: Uri, fields: dict[str, list[str]], body: bytes) -> None:
        """SipError 400 when a routing header is missing, malformed, or contradicts `method`."""
        super().__init__(fields, body)
        self.method = method
        self.uri = uri
        hops = fields.get("max-forwards")
        self.max_forwards = parse_number(hops[0], 256) if hops else None
        if self.cseq.method != method:
            # RFC 4475 §3.1.2.18: what is unknown is that first.
            raise SipError("a CSeq of another method", 400 if method in KNOWN_METHODS else 501)

    @property
    def is_initial(self) -> bool:
        """Whether it belongs to no dialog yet."""
        return not self.to.tag

    def _start_line(self) -> str:
        return f"{self.method} {self.uri} SIP/2.0"


class Response(Message):
    """A response."""

    __slots__ = ("phrase", "status")

    def __init__(self, status: int, phrase: str, fields: dict[str, list[str]], body: bytes) -> None:
        """SipError 400 when a routing header is missing or malformed."""
        super().__init__(fields, body)
        self.status = status
        self.phrase = phrase

    @property
    def is_final(self) -> bool:
        """Whether nothing follows it."""
        return self.status >= 200

    def _start_line(self) -> str:
        return f"SIP/2.0 {self.status} {self.phrase}"


# --- reading --------------------------------------------------------------------------------------


def parse_message(data: bytes) -> Request | Response:
    """One message, of a datagram or cut from a stream; SipError with the answer to give, or DROP.

    Line ends in front of it are skipped (§7.5). A body longer than Content-Length is cut; a shorter
    one is an error (§18.3). Without Content-Length the body is all the rest.
    """
    start, fields, body = _dissect(data)
    if (response := _STATUS_LINE.fullmatch(start)) is not None:
        try:
            return Response(int(response[1]), response[2] or "", fields, _cut(fields, body))
        except SipError as error:
            raise SipError(error.problem, DROP) from None
    method, uri = _parse_request_line(start)
    return Request(method, uri, fields, _cut(fields, body))


def refuse(data: bytes, error: SipError) -> bytes | None:
    """The answer to a request that `parse_message` or `check_fields` refused, or None to drop it.

    It copies what there is (§8.2.6), so the transaction's other side finds it; without a Via, or for
    an ACK, there is nobody to tell.
    """
    if error.status == DROP:
        return None
    start, fields, _ = _dissect(data, strict=False)
    method = start.partition(" ")[0]
    if method == "ACK" or method.upper().startswith("SIP/") or not is_token(method):
        return None
    if not fields.get("via"):
        return None
    lines = [f"SIP/2.0 {error.status} {phrase_of(error.status)}"]
    lines += [f"Via: {value}" for value in fields["via"]]
    for name in ("from", "to", "call-id", "cseq"):
        if name in fields:
            value = fields[name][0]
            if name == "to" and ";tag=" not in value.lower():
                value += f";tag={blake2b(data[:4096], digest_size=8).hexdigest()}"
            lines.append(f"{spell(name)}: {value}")
    lines += ["Content-Length: 0", "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def check_fields(message: Message) -> None:
    """The full parse: every field we know is read; SipError 400 names the first that is wrong."""
    for name in message.fields.keys() & _CHECKS.keys():
        try:
            _CHECKS[name](message, name)
        except SipError as error:
            raise SipError(f"{spell(name)}: {error.problem}", error.status) from None
    if isinstance(message, Request) and message.uri.headers:
        raise SipError("a Request-URI with headers")


def parse_media_type(text: str) -> MediaType:
    """A Content-Type or one value of Accept; SipError 400 when it is not well-formed."""
    try:
        return MediaType.parse(text)
    except (ValueError, TypeError):  # TypeError: a parameter called `self`
        raise SipError("a media type that is not well-formed") from None


def _dissect(data: bytes, *, strict: bool = True) -> tuple[str, dict[str, list[str]], bytes]:
    """Start line, fields, body. Not strict, lines that are none are left out and limits cut."""
    if len(data) > MESSAGE_BYTES:
        if strict:
            raise SipError("a message that is too long", 513)
        data = data[:MESSAGE_BYTES]
    data = data.lstrip(b"\r\n")
    end = data.find(b"\r\n\r\n")
    size = 4
    if end < 0 or data.find(b"\n\n", 0, end) >= 0:
        found = _HEAD_END.search(data)
        if found is None and strict:
            raise SipError("no empty line behind the headers")
        end, size = found.span() if found else (len(data), 0)
        size -= end if found else 0
    text = data[:end].decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    if "\r" in text:
        if strict:
            raise SipError("a bare carriage return among the headers")
        text = text.replace("\r", " ")
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    start, *lines = text.split("\n")
    if len(lines) > HEADER_LINES:
        if strict:
            raise SipError("too many headers", 513)
        del lines[HEADER_LINES:]
    return start, _fields(lines, strict=strict), data[end + size :]


def _fields(lines: list[str], *, strict: bool) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        key = KEYS.get(name)
        if key is None:
            key = name.rstrip(" \t").lower()
            key = COMPACT.get(key, key)
        if not colon or len(line) > LINE_BYTES or (key not in SPELLED and not is_token(key)):
            if strict:
                raise SipError("a header line that is not well-formed")
            continue
        if key not in fields:
            fields[key] = [value.strip(" \t")]
        elif key not in SINGLE:
            fields[key].append(value.strip(" \t"))
        elif strict:
            raise SipError(f"{spell(key)} more than once")
    return fields


def _parse_request_line(start: str) -> tuple[str, Uri]:
    line = _REQUEST_LINE.fullmatch(start)
    if line is None:
        # A response that is none, with a status out of range for one, is not answered.
        status = DROP if start[:4].upper() == "SIP/" else 400
        raise SipError("a start line that is not well-formed", status)
    method, uri, major, minor = line.groups()
    if (major, minor) != ("2", "0"):
        raise SipError("another version of SIP", 505)
    return method, parse_uri(uri)


def _cut(fields: dict[str, list[str]], body: bytes) -> bytes:
    length = fields.get("content-length")
    if not length:
        return body
    size = parse_number(length[0])
    if size > len(body):
        raise SipError("a body that is shorter than its Content-Length")
    return body[:size]


# --- building -------------------------------------------------------------------------------------


def build_request(
    method: str,
    uri: Uri,
    *,
    via: Via,
    from_: Address,
    to: Address,
    call_id: str,
    cseq: int,
    max_forwards: int = 70,
) -> Request:
    """A request with the fields that every request has (§8.1.1); the rest is `put` into it."""
    fields = {
        "via": [str(via)],
        "max-forwards": [str(max_forwards)],
        "from": [str(from_)],
        "to": [str(to)],
        "call-id": [_one_line(call_id)],
        "cseq": [f"{cseq} {method}"],
    }
    return Request(method, uri, fields, b"")


def build_response(request: Request, status: int, phrase: str = "", *, tag: str = "") -> Response:
    """A response with what §8.2.6.2 has copied; `tag` is added to a To that has none.

    Record-Route goes back where it makes the route of a dialog (§12.1.1): in 101 to 299; Timestamp in
    a 100 (§8.2.6.1).
    """
    asked = request.fields
    fields = {name: list(asked[name]) for name in ("via", "from", "to", "call-id", "cseq")}
    to = request.to
    if tag and status > 100 and not to.tag:
        to = to.with_tag(tag)
        fields["to"][0] += f";tag={tag}"
    if 100 < status < 300 and "record-route" in asked:
        fields["record-route"] = list(asked["record-route"])
    if status == 100 and "timestamp" in asked:
        fields["timestamp"] = list(asked["timestamp"])
    # What the request's parser has read need not be read again: a third of a transaction's cost.
    response = Response.__new__(Response)
    response.status, response.phrase = status, _one_line(phrase) or phrase_of(status)
    response.fields, response.body = fields, b""
    response.from_, response.to, response.top = request.from_, to, request.top
    response.call_id, response.cseq = request.call_id, request.cseq
    return response


def stateless_tag(request: Request) -> str:
    """A tag that is the same whenever the same request comes (§8.2.7)."""
    same = f"{request.top.branch}\0{request.call_id}\0{request.from_.tag}\0{request.cseq}"
    return blake2b(same.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def note_source(request: Request, host: str, port: int) -> None:
    """Writes where a request came from into its top Via (§18.2.1, RFC 3581 §4).

    `host` is an address without brackets or zone. `received` is added when the sent-by differs or
    when rport asks for it; answers then find their way through a NAT.
    """
    via = request.top
    asks = "rport" in via.parameters
    if not asks and via.host.strip("[]").lower() == host.lower():
        return
    changes: dict[str, str | None] = {"received": host}
    if asks:
        changes["rport"] = str(port)
    request.top = via.with_parameters(**changes)
    lines = request.fields["via"]
    rest = split_list(lines[0])[1:] if "," in lines[0] else []
    lines[0] = ", ".join((str(request.top), *rest))


def answer_port(via: Via, source: int) -> int:
    """The port that an answer over UDP goes to, at the host the request came from (RFC 3581 §4).

    The source's port when rport asks for it, else the sent-by's (§18.2.2). A maddr is not obeyed:
    it would let anybody send our answers to anybody.
    """
    if "rport" in via.parameters:
        return source
    return via.port or DEFAULT_PORT


def _one_line(text: str) -> str:
    if _NO_LINE.search(text):
        raise LocalError("a header value holds a line end")
    return text


# --- the full parse -------------------------------------------------------------------------------


def _check_contacts(message: Message, name: str) -> None:
    values = message.values(name)
    if "*" in values and values != ["*"]:
        raise SipError("a star beside other values")
    message.addresses(name)


def _check_accept(message: Message, name: str) -> None:
    for value in message.values(name):
        parse_media_type(value)


_Check = Callable[[Message, str], object]

_CHECKS: Final[dict[str, _Check]] = {
    "via": lambda message, _: message.vias(),
    "contact": _check_contacts,
    "content-type": lambda message, _: message.media_type(),
    "accept": _check_accept,
    **dict.fromkeys(
        (
            *("route", "record-route", "refer-to", "referred-by", "reply-to", "diversion"),
            *("p-asserted-identity", "path", "service-route"),
        ),
        Message.addresses,
    ),
    **dict.fromkeys(
        ("require", "proxy-require", "supported", "unsupported", "allow", "allow-events"),
        Message.values,
    ),
    **dict.fromkeys(
        ("expires", "min-expires", "rseq", "content-length", "max-forwards"), Message.number
    ),
    **dict.fromkeys(
        ("session-expires", "min-se", "event", "content-disposition", "replaces"), Message.valued
    ),
}


def to_json_text(text: str) -> str:
    """Text of a message as JSON can hold it: a peer's bytes need not be UTF-8 (Latin-1 names are not)."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def of_json_text(text: str) -> str:
    """The same text again; SipError 400 for what `to_json_text` never makes."""
    try:
        return text.encode("latin-1").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise SipError("a snapshot that we have not written") from None
