"""One call's media WebSocket, seen from our side, for any row of the JSON family.

States: *waiting* for the start message (`started` is None), *up*, *closed* (by the carrier's stop,
by its socket, or by an error that this core raised). Audio, digits, marks and a second start out of
their state are the carrier's fault; after closing everything is ignored. A row without a start
message is up from construction.

Feed `receive_text`, `receive_binary` or `receive_closed`, then drain `events()`. CarrierError carries
the close code to answer with; the core is closed after it. The core never answers by itself, so there
is no `outgoing()`: what we want is rendered by `audio`, `mark`, `clear`, `digits` and `notice`, which
return the message to send, or None where the carrier has none (mimic it by time then).

MarkReached says that the carrier gave a mark back. Where `row.returns_cleared_marks` (Twilio) a mark
comes back when it was played *and* when a clear overtook it: whoever keeps the playout clock forgets
its pending marks on clear. Plivo gives back only what was played, and answers a clear with Cleared.

The 20 ms path is one typed decode, which also turns base64 into bytes; a message that is no
well-formed media message is read again, slowly, by `reading.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from flowcatd.carriers import message as wire
from flowcatd.carriers.events import Audio, CarrierEvent, Encoding, Started, Stopped
from flowcatd.carriers.message import MESSAGE_LIMIT, Slot, Template
from flowcatd.carriers.reading import reading_of
from flowcatd.carriers.table import Clock, Row
from flowcatd.errors import CarrierError, LocalError

PENDING_LIMIT = 1024
"""Events that may wait for `events()`: a shell drains after every message, which makes one or two."""
MEDIA_MS_LIMIT = 1 << 40
"""A media time beyond 35 years is none."""


class _Media(msgspec.Struct, gc=False):
    payload: bytes
    timestamp: str | int | float | None = None
    track: str = "inbound"


class _MediaMessage(msgspec.Struct, gc=False, tag_field="event", tag="media"):
    media: _Media


_decode_media = msgspec.json.Decoder(_MediaMessage).decode
_encode = msgspec.json.Encoder().encode


class JsonMedia:
    """A carrier core: the wire of one call, as events and messages."""

    def __init__(self, row: Row, started: Started | None = None) -> None:
        """`started` is given exactly where the row has no start message."""
        if (row.start is None) != (started is not None):
            raise LocalError(f"{row.name}: `started` is for rows without a start message")
        self.row = row
        self.started: Started | None = None
        """What the stream is, once it is up."""
        self.closed = False
        """Whether nothing more will come of this core."""
        self.ignored = 0
        """Messages and keys that mean nothing to us, counted since carriers add events."""
        self.active_at = 0.0
        """When the carrier was last heard: the `now` of its last message."""
        self._events: list[CarrierEvent] = []
        self._odd: bytes | None = None  # half a PCM sample that waits for its other half
        self._origin_ms: int | None = 0 if row.clock is Clock.STREAM else None
        self._audio_prefix = b""
        self._audio_suffix = b""
        self._known: dict[Slot, object] = {}
        if started is not None:
            self._apply(started)

    # --- what arrives ---------------------------------------------------------------------------

    def receive_text(self, text: bytes | str, now: float) -> None:
        """A text message came; drain `events()` next."""
        if self.closed:
            return
        self.active_at = now
        if len(text) > MESSAGE_LIMIT:
            raise self._refusal(f"a message of {len(text)} bytes, of {MESSAGE_LIMIT} allowed", 1009)
        media: _Media | None
        try:
            media = _decode_media(text).media
        except (ValueError, RecursionError):
            media = None
        if media is None:
            self._receive_control(text)
        elif self.row.media is None:
            self.ignored += 1
        elif self.started is None:
            raise self._refusal("audio before the start", 1008)
        elif media.track == "outbound":
            self.ignored += 1  # our own voice, where a stream was told to carry both tracks
        else:
            self._hear(media.payload, self._media_ms(media.timestamp))

    def receive_binary(self, data: bytes, now: float) -> None:
        """A binary message came; drain `events()` next."""
        if self.closed:
            return
        self.active_at = now
        if self.row.media is not None:
            raise self._refusal("a binary message where text is expected", 1003)
        if len(data) > MESSAGE_LIMIT:
            raise self._refusal(f"a message of {len(data)} bytes, of {MESSAGE_LIMIT} allowed", 1009)
        self._hear(data, None)

    def receive_closed(self, now: float) -> None:
        """The socket closed, in whatever way: Stopped follows unless the stream had ended already."""
        if self.closed:
            return
        self.active_at = now
        self._apply(Stopped("closed"))

    def events(self) -> list[CarrierEvent]:
        """Drain what the carrier told us, in order."""
        if not self._events:
            return []
        drained, self._events = self._events, []
        return drained

    # --- what we want ---------------------------------------------------------------------------

    @property
    def audio_is_text(self) -> bool:
        """Whether `audio` makes a text message; else a binary one. Everything else is text."""
        return self.row.media is not None

    @property
    def has_marks(self) -> bool:
        """Whether the carrier tells when its playout has come to a place."""
        return self.row.send_mark is not None

    @property
    def has_clear(self) -> bool:
        """Whether the carrier can be told to forget what it has not played."""
        return self.row.send_clear is not None

    def audio(self, payload: bytes) -> bytes:
        """The message for one chunk, encoded as `started` says; the stream must be up."""
        if self._audio_prefix:
            return self._audio_prefix + _encode(payload) + self._audio_suffix
        if self.started is None:
            raise LocalError("audio before the stream is up")
        return payload

    def mark(self, name: str) -> bytes | None:
        """The message that asks for a MarkReached when all audio before it is played, or None."""
        return self._render(self.row.send_mark, {Slot.NAME: name})

    def clear(self) -> bytes | None:
        """The message that empties the carrier's buffer, or None."""
        return self._render(self.row.send_clear, {})

    def digits(self, keys: str) -> bytes | None:
        """The message that presses these keys towards the far end, or None."""
        if not keys or not wire.KEYS.issuperset(keys):
            raise LocalError("digits that are not keys of a telephone")
        return self._render(self.row.send_digits, {Slot.DIGITS: keys})

    def notice(self, fields: Mapping[str, object]) -> bytes:
        """Our own message about the conversation, for a loopback client that asked (`?events=1`).

        No carrier is sent one; if it were, it would ignore an event that it does not know.
        """
        return wire.notice(fields)

    # --- private --------------------------------------------------------------------------------

    def _receive_control(self, text: bytes | str) -> None:
        """Anything but well-formed media: a few messages per call."""
        try:
            meant = reading_of(self.row).read(wire.read_object(text))
            if meant is None:
                self.ignored += 1
                return
            for event in meant:
                self._apply(event)
        except CarrierError:
            self.closed = True
            raise

    def _apply(self, event: CarrierEvent) -> None:
        """Let a control event through if it is due."""
        match event:
            case Stopped():
                self.closed = True
            case Started() if self.started is not None:
                raise CarrierError("a second start", 1008)
            case Started():
                self._begin(event)
            case _ if self.started is None:
                raise CarrierError("a digit, mark or clear before the start", 1008)
        self._tell(event)

    def _begin(self, started: Started) -> None:
        """The stream is up: from here on the sending side knows its constants."""
        self.started = started
        self._known = known_slots(self.row, started)
        if started.encoding is Encoding.PCM:
            self._odd = b""
        if self.row.media is not None and self.row.send_media is not None:
            pieces = wire.render(self.row.send_media, self._known)
            place = pieces.index(Slot.PAYLOAD)
            self._audio_prefix = wire.fill(pieces[:place], {})
            self._audio_suffix = wire.fill(pieces[place + 1 :], {})

    def _hear(self, payload: bytes, media_ms: int | None) -> None:
        if self._odd is not None and (self._odd or len(payload) & 1):
            payload = self._odd + payload
            whole = len(payload) & ~1
            self._odd = payload[whole:]
            payload = payload[:whole]
        if payload:
            self._tell(Audio(payload, media_ms))

    def _media_ms(self, timestamp: str | float | None) -> int | None:
        """Media time since the start of the stream; None where the carrier's word is no number."""
        if timestamp is None:
            return None
        try:
            media_ms = int(timestamp)
        except (ValueError, OverflowError):
            return None
        if self._origin_ms is None:
            self._origin_ms = media_ms
        media_ms -= self._origin_ms
        return media_ms if 0 <= media_ms < MEDIA_MS_LIMIT else None

    def _tell(self, event: CarrierEvent) -> None:
        if len(self._events) >= PENDING_LIMIT:
            raise LocalError(f"{PENDING_LIMIT} carrier events wait: events() is not being drained")
        self._events.append(event)

    def _refusal(self, problem: str, close_code: int) -> CarrierError:
        self.closed = True
        return CarrierError(problem, close_code)

    def _render(self, template: Template | None, values: Mapping[Slot, object]) -> bytes | None:
        if template is None:
            return None
        if self.started is None:
            raise LocalError("a message before the stream is up")
        return wire.fill(wire.render(template, {**self._known, **values}), {})


def known_slots(row: Row, started: Started) -> dict[Slot, object]:
    """What a row's templates are filled with for a whole call; LocalError if it lacks the format."""
    for form in row.formats:
        if (form.encoding, form.rate_hz) == (started.encoding, started.rate_hz):
            return {
                Slot.STREAM: started.stream_id,
                Slot.CALL: started.call_id,
                Slot.ENCODING: form.wire,
                Slot.RATE: form.rate_hz,
                Slot.PARAMETERS: started.parameters,
                Slot.HEADERS: wire.write_parameters(started.parameters),
            }
    raise LocalError(f"{row.name} has no {started.encoding} at {started.rate_hz} Hz")
