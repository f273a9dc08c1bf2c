"""A carrier's JSON messages: written from a template, and read along the same template.

A template is the message as the vendor's page shows it, with a `Slot` wherever a value differs from
call to call. From one template come both directions: `render` writes the message for whoever sends
it, `find` and `at` tell whoever receives it where a value stands. So a carrier is written down once,
and its far end (`far_end.py`) is the same table seen from the other side.

This room knows text, sizes and JSON; what a message means is decided in `json_media.py`. A reading
error names the fault and never quotes the message: it may hold speech, digits or numbers.
Sources: RFC 8259 (JSON), RFC 4648 §4 (base64), RFC 6455 §7.4.1 (close codes).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from flowcatd.errors import CarrierError

MESSAGE_LIMIT = 65_536
"""The largest message taken, in bytes (a `str` is measured in characters): 3 s of 8 kHz PCM as
base64, where carriers send 20 to 100 ms."""
KEYS = frozenset("0123456789*#ABCD")
"""What a telephone can press (ITU-T Q.23)."""
NOTICE_EVENT = "flowcatd"
"""The event name of our own in-band notices; carriers ignore events that they do not know."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

Template = Mapping[str, object]
Path = tuple[str, ...]
Pieces = tuple["bytes | Slot", ...]


class Slot(StrEnum):
    """A place in a template, filled for each call or each message."""

    STREAM = "stream"
    CALL = "call"
    ENCODING = "encoding"
    """The carrier's own word for it (`audio/x-mulaw`)."""
    RATE = "rate"
    PARAMETERS = "parameters"
    """Custom parameters as an object of strings."""
    HEADERS = "headers"
    """Custom parameters as one text, `name=value;name=value`."""
    SEQUENCE = "sequence"
    SEQUENCE_TEXT = "sequence_text"
    CHUNK = "chunk"
    CHUNK_TEXT = "chunk_text"
    TIME_TEXT = "time_text"
    """Media time in ms, a number written as text."""
    PAYLOAD = "payload"
    """Encoded audio; `bytes`, which JSON carries as base64."""
    DIGIT = "digit"
    DIGITS = "digits"
    NAME = "name"
    """A mark's name."""


def find(template: object, slot: Slot) -> Path | None:
    """The keys that lead to a slot, or None when the template lacks it."""
    if not isinstance(template, Mapping):
        return None
    for key, value in template.items():
        if value is slot:
            return (key,)
        below = find(value, slot)
        if below is not None:
            return (key, *below)
    return None


def at(message: object, path: Path | None) -> object:
    """What stands there, or None when the message does not go that far."""
    if path is None:
        return None
    for key in path:
        if not isinstance(message, dict):
            return None
        message = message.get(key)
    return message


def render(template: object, values: Mapping[Slot, object]) -> Pieces:
    """The message as text, in pieces: literal bytes, and the slots that `values` leaves open."""
    joined: list[bytes | Slot] = []
    for piece in _pieces(template, values):
        if joined and isinstance(piece, bytes) and isinstance(joined[-1], bytes):
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)


def fill(pieces: Pieces, values: Mapping[Slot, object]) -> bytes:
    """The text with every slot that was left open filled; all of them must be in `values`."""
    return b"".join([p if isinstance(p, bytes) else _encode(values[p]) for p in pieces])


def _pieces(template: object, values: Mapping[Slot, object]) -> list[bytes | Slot]:
    """Unjoined pieces; lists are taken as they are, no carrier needs a slot in one."""
    if isinstance(template, Slot):
        return [_encode(values[template]) if template in values else template]
    if not isinstance(template, Mapping):
        return [_encode(template)]
    pieces: list[bytes | Slot] = []
    for key, value in template.items():
        pieces.append((b"," if pieces else b"{") + _encode(key) + b":")
        pieces += _pieces(value, values)
    return [*pieces, b"}"] if pieces else [b"{}"]


def read_object(text: bytes | str) -> dict[str, object]:
    """One JSON object; raises CarrierError with the close code that the fault deserves."""
    try:
        message = _decode(text)
    except (ValueError, RecursionError):
        # The cause would quote the message, which may hold what the caller said or pressed.
        raise CarrierError(f"{len(text)} bytes of text that are not JSON", 1007) from None
    if not isinstance(message, dict):
        raise CarrierError("a message that is not an object", 1007)
    return message


def read_text(message: object, path: Path | None, what: str) -> str:
    """The non-empty text there; raises CarrierError naming `what` when there is none."""
    value = at(message, path)
    if not isinstance(value, str) or not value:
        raise CarrierError(f"a message without its {what}", 1007)
    return value


def read_parameters(value: object) -> dict[str, str]:
    """Custom parameters, from an object, a JSON object in a text, or `name=value;name=value`.

    What is none of these gives nothing: parameters are an extra, and no reason to lose a call.
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = _decode(value)
        except (ValueError, RecursionError):
            return {}
    if isinstance(value, str):
        pairs = (pair.partition("=") for pair in value.replace(",", ";").split(";"))
        return {
            name.strip(): text.strip() for name, equals, text in pairs if name.strip() and equals
        }
    if isinstance(value, dict):
        return {name: text for name, text in value.items() if isinstance(text, str)}
    return {}


def write_parameters(parameters: Mapping[str, str]) -> str:
    """Custom parameters as the one text that `Slot.HEADERS` stands for."""
    return ";".join(f"{name}={text}" for name, text in parameters.items())


def notice(fields: Mapping[str, object]) -> bytes:
    """Our own in-band message `{"event":"flowcatd", …}` with these fields beside the event."""
    return _encode({**fields, "event": NOTICE_EVENT})
