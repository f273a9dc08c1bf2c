"""The carrier's side of one call, played from the same rows: an honest counterparty.

`flowcatd call`, the benchmarks and the tests speak to the daemon through this. `start()` gives what a
carrier sends at connect; `audio`, `digit`, `mark_played`, `cleared` and `stop` render the messages
after it, with the sequence numbers and media times that the carrier's page shows. What the daemon
sends goes into `receive_text` and `receive_binary` and comes out of `events()`.

It holds no audio and no clock: whoever plays the carrier keeps the playout buffer, answers MarkAsked
when the buffer has come there, and on ClearAsked empties it, gives back the marks in it only where
`row.returns_cleared_marks`, and sends `cleared()` where that is not None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from flowcatd.carriers import message as wire
from flowcatd.carriers.events import Audio, Encoding, Started
from flowcatd.carriers.json_media import known_slots
from flowcatd.carriers.message import MESSAGE_LIMIT, NOTICE_EVENT, Slot, Template
from flowcatd.carriers.table import Clock, Row
from flowcatd.errors import CarrierError, LocalError

PENDING_LIMIT = 1024
"""Daemon events that may wait for `events()`, which is drained after every message."""
EPOCH_MS = 1_700_000_000_000
"""The start of every stream by an epoch clock: any moment does, only differences are read."""


@dataclass(frozen=True, slots=True)
class MarkAsked:
    """Give this name back once all audio before it is played."""

    name: str


@dataclass(frozen=True, slots=True)
class ClearAsked:
    """Forget the audio that is not played yet."""


@dataclass(frozen=True, slots=True)
class DigitsAsked:
    """Press these keys towards the caller."""

    digits: str


@dataclass(frozen=True, slots=True)
class Notice:
    """One of the daemon's own messages about the conversation."""

    fields: dict[str, object]


FarEvent = Audio | MarkAsked | ClearAsked | DigitsAsked | Notice
"""What the daemon wants; Audio is encoded as the call's `Started` says."""


class _Media(msgspec.Struct, gc=False):
    payload: bytes


class _Message(msgspec.Struct, gc=False):
    event: str
    media: _Media | None = None


_decode = msgspec.json.Decoder(_Message).decode


class FarEnd:
    """One call as its carrier sees it."""

    def __init__(self, row: Row, started: Started) -> None:
        """`started` is what the daemon's core will report; LocalError if the row lacks its format."""
        self.row = row
        self.started = started
        self.ignored = 0
        """Messages of the daemon that mean nothing to this carrier."""
        self._known = known_slots(row, started)
        self._events: list[FarEvent] = []
        self._media = None if row.media is None else wire.render(row.media, self._known)
        self._sequence = 0
        self._chunk = 0
        self._sent_bytes = 0

    # --- what the carrier sends -----------------------------------------------------------------

    def start(self) -> list[bytes]:
        """The text messages to send at connect; none where the socket itself is the start."""
        hello = [] if self.row.hello is None else [self._render(self.row.hello, {})]
        start = [] if self.row.start is None else [self._next(self.row.start, {})]
        return hello + start

    def audio(self, payload: bytes) -> bytes:
        """The message for one chunk of the caller; text unless `row.media` is None."""
        if self._media is None:
            return payload
        self._sequence += 1
        self._chunk += 1
        values = self._moment() | {
            Slot.CHUNK: self._chunk,
            Slot.CHUNK_TEXT: str(self._chunk),
            Slot.PAYLOAD: payload,
        }
        self._sent_bytes += len(payload)
        return wire.fill(self._media, values)

    def digit(self, key: str) -> bytes:
        """The message for a key that the caller pressed."""
        if key not in wire.KEYS:
            raise LocalError("a digit that is no key of a telephone")
        return self._next(self._must_have(self.row.dtmf), {Slot.DIGIT: key})

    def mark_played(self, name: str) -> bytes:
        """The message that gives a mark back."""
        return self._next(self._must_have(self.row.mark), {Slot.NAME: name})

    def cleared(self) -> bytes | None:
        """The answer to ClearAsked, or None where the carrier gives none."""
        return None if self.row.cleared is None else self._next(self.row.cleared, {})

    def stop(self) -> bytes:
        """The message for the end of the stream; close the socket after it."""
        return self._next(self._must_have(self.row.stop), {})

    # --- what the daemon sends ------------------------------------------------------------------

    def receive_text(self, text: bytes | str) -> None:
        """A text message came; drain `events()` next. CarrierError when the carrier would refuse it."""
        if len(text) > MESSAGE_LIMIT:
            raise CarrierError(f"a message of {len(text)} bytes", 1009)
        try:
            message = _decode(text)
        except (ValueError, RecursionError):
            message = None
        if message is None or message.media is None or not _is(self.row.send_media, message.event):
            self._receive_control(text)
        else:
            self._tell(Audio(message.media.payload))

    def receive_binary(self, data: bytes) -> None:
        """A binary message came; drain `events()` next. CarrierError where audio travels as text."""
        if self.row.media is not None:
            raise CarrierError("a binary message where text is expected", 1003)
        self._tell(Audio(data))

    def events(self) -> list[FarEvent]:
        """Drain what the daemon wants, in order."""
        drained, self._events = self._events, []
        return drained

    # --- private --------------------------------------------------------------------------------

    def _receive_control(self, text: bytes | str) -> None:
        message = wire.read_object(text)
        event = message.get("event")
        if event == NOTICE_EVENT:
            self._tell(Notice({key: value for key, value in message.items() if key != "event"}))
        elif _is(self.row.send_media, event):
            raise CarrierError("a media message without a payload in base64", 1007)
        elif _is(self.row.send_mark, event):
            self._tell(MarkAsked(_text(self.row.send_mark, Slot.NAME, message)))
        elif _is(self.row.send_clear, event):
            self._tell(ClearAsked())
        elif _is(self.row.send_digits, event):
            self._tell(DigitsAsked(_text(self.row.send_digits, Slot.DIGITS, message)))
        else:
            self.ignored += 1

    def _tell(self, event: FarEvent) -> None:
        if len(self._events) >= PENDING_LIMIT:
            raise LocalError(f"{PENDING_LIMIT} daemon events wait: events() is not being drained")
        self._events.append(event)

    def _next(self, template: Template, values: Mapping[Slot, object]) -> bytes:
        """A numbered message."""
        self._sequence += 1
        return self._render(template, {**self._moment(), **values})

    def _render(self, template: Template, values: Mapping[Slot, object]) -> bytes:
        return wire.fill(wire.render(template, {**self._known, **values}), {})

    def _moment(self) -> dict[Slot, object]:
        """Where the call stands: message number and media time."""
        width = 2 if self.started.encoding is Encoding.PCM else 1
        media_ms = self._sent_bytes * 1000 // (self.started.rate_hz * width)
        if self.row.clock is Clock.EPOCH:
            media_ms += EPOCH_MS
        return {
            Slot.SEQUENCE: self._sequence,
            Slot.SEQUENCE_TEXT: str(self._sequence),
            Slot.TIME_TEXT: str(media_ms),
        }

    def _must_have(self, template: Template | None) -> Template:
        if template is None:
            raise LocalError(f"{self.row.name} has no such message")
        return template


def _is(template: Template | None, event: object) -> bool:
    return template is not None and template["event"] == event


def _text(template: Template | None, slot: Slot, message: dict[str, object]) -> str:
    return wire.read_text(message, wire.find(template, slot), slot)
