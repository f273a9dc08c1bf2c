"""The carriers of the JSON family, one row each: what they say, what we say, in their own words.

The family: a WebSocket on which every control message is a JSON object with its kind in `event`.
Audio is base64 in `media.payload` of such a message, in both directions, or binary messages beside
them. What differs is names and places, and that is a row; whoever runs a row is `json_media.py` from
our side and `far_end.py` from the carrier's.

To add a carrier, copy a row, put a `Slot` wherever the vendor's example has a value of the call, and
record a good and an adverse transcript in `tests/corpus/carriers/<name>/`. Fields that a row sets to
constants are read by nobody.

Sources, as read in November 2026:
  Twilio  https://www.twilio.com/docs/voice/media-streams/websocket-messages
  Plivo   https://www.plivo.com/docs/voice-agents/audio-streaming/concepts/audio-streaming-reference
          https://www.plivo.com/docs/voice/xml/the-stream-element (content types, extra headers)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from flowcatd.carriers.events import Encoding
from flowcatd.carriers.message import Slot, Template


class Clock(Enum):
    """What a carrier's media timestamps count from."""

    STREAM = auto()
    """The start of the stream."""
    EPOCH = auto()
    """1970; the first one seen is taken for the start of the stream."""


@dataclass(frozen=True, slots=True)
class Format:
    """One way in which a carrier offers audio."""

    wire: str
    """The carrier's word, in lower case."""
    encoding: Encoding
    rate_hz: int


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One carrier. A message that it does not have is None."""

    name: str
    docs: str
    """The page that the row was written from."""
    formats: tuple[Format, ...]
    """What a start may announce; the only one, where its start says nothing."""
    clock: Clock
    returns_cleared_marks: bool
    """Whether a clear brings back the marks it overtook, just like played ones."""

    hello: Template | None
    """What precedes the start; tells nothing."""
    start: Template | None
    """None where the stream is up as soon as the socket is."""
    media: Template | None
    """None where audio travels as binary messages, in both directions. The payload stands in
    `media.payload`, a timestamp in `media.timestamp`: the fast path reads them by type."""
    dtmf: Template | None
    mark: Template | None
    """The answer to `send_mark`."""
    cleared: Template | None
    """The answer to `send_clear`."""
    stop: Template | None

    send_media: Template | None
    send_mark: Template | None
    send_clear: Template | None
    send_digits: Template | None


PLIVO = Row(
    name="plivo",
    docs="https://www.plivo.com/docs/voice-agents/audio-streaming/concepts/audio-streaming-reference",
    # The pages do not give the byte order of audio/x-l16; it is taken as little-endian.
    formats=(
        Format("audio/x-mulaw", Encoding.MULAW, 8000),
        Format("audio/x-l16", Encoding.PCM, 8000),
        Format("audio/x-l16", Encoding.PCM, 16000),
    ),
    clock=Clock.EPOCH,
    returns_cleared_marks=False,
    hello=None,
    start={
        "event": "start",
        "sequenceNumber": Slot.SEQUENCE,
        "start": {
            "callId": Slot.CALL,
            "streamId": Slot.STREAM,
            "accountId": "MA00000000000000000000",
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": Slot.ENCODING, "sampleRate": Slot.RATE},
        },
        "extra_headers": Slot.HEADERS,
    },
    media={
        "event": "media",
        "sequenceNumber": Slot.SEQUENCE,
        "streamId": Slot.STREAM,
        "media": {
            "track": "inbound",
            "timestamp": Slot.TIME_TEXT,
            "chunk": Slot.CHUNK,
            "payload": Slot.PAYLOAD,
        },
        "extra_headers": "",
    },
    dtmf={
        "event": "dtmf",
        "sequenceNumber": Slot.SEQUENCE,
        "streamId": Slot.STREAM,
        "dtmf": {"track": "inbound", "digit": Slot.DIGIT, "timestamp": Slot.TIME_TEXT},
        "extra_headers": "",
    },
    mark={
        "event": "playedStream",
        "sequenceNumber": Slot.SEQUENCE,
        "streamId": Slot.STREAM,
        "name": Slot.NAME,
    },
    cleared={"event": "clearedAudio", "sequenceNumber": Slot.SEQUENCE, "streamId": Slot.STREAM},
    # Not on the page, where the end is the socket's; Plivo's own examples read it.
    stop={"event": "stop", "sequenceNumber": Slot.SEQUENCE, "streamId": Slot.STREAM},
    send_media={
        "event": "playAudio",
        "media": {"contentType": Slot.ENCODING, "sampleRate": Slot.RATE, "payload": Slot.PAYLOAD},
    },
    send_mark={"event": "checkpoint", "streamId": Slot.STREAM, "name": Slot.NAME},
    send_clear={"event": "clearAudio", "streamId": Slot.STREAM},
    send_digits={"event": "sendDTMF", "dtmf": Slot.DIGITS},
)

TWILIO = Row(
    name="twilio",
    docs="https://www.twilio.com/docs/voice/media-streams/websocket-messages",
    formats=(Format("audio/x-mulaw", Encoding.MULAW, 8000),),
    clock=Clock.STREAM,
    returns_cleared_marks=True,
    hello={"event": "connected", "protocol": "Call", "version": "1.0.0"},
    start={
        "event": "start",
        "sequenceNumber": Slot.SEQUENCE_TEXT,
        "start": {
            "accountSid": "AC00000000000000000000000000000000",
            "streamSid": Slot.STREAM,
            "callSid": Slot.CALL,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": Slot.ENCODING, "sampleRate": Slot.RATE, "channels": 1},
            "customParameters": Slot.PARAMETERS,
        },
        "streamSid": Slot.STREAM,
    },
    media={
        "event": "media",
        "sequenceNumber": Slot.SEQUENCE_TEXT,
        "media": {
            "track": "inbound",
            "chunk": Slot.CHUNK_TEXT,
            "timestamp": Slot.TIME_TEXT,
            "payload": Slot.PAYLOAD,
        },
        "streamSid": Slot.STREAM,
    },
    dtmf={
        "event": "dtmf",
        "streamSid": Slot.STREAM,
        "sequenceNumber": Slot.SEQUENCE_TEXT,
        "dtmf": {"track": "inbound_track", "digit": Slot.DIGIT},
    },
    mark={
        "event": "mark",
        "sequenceNumber": Slot.SEQUENCE_TEXT,
        "streamSid": Slot.STREAM,
        "mark": {"name": Slot.NAME},
    },
    cleared=None,
    stop={
        "event": "stop",
        "sequenceNumber": Slot.SEQUENCE_TEXT,
        "stop": {"accountSid": "AC00000000000000000000000000000000", "callSid": Slot.CALL},
        "streamSid": Slot.STREAM,
    },
    send_media={
        "event": "media",
        "streamSid": Slot.STREAM,
        "media": {"payload": Slot.PAYLOAD},
    },
    send_mark={"event": "mark", "streamSid": Slot.STREAM, "mark": {"name": Slot.NAME}},
    send_clear={"event": "clear", "streamSid": Slot.STREAM},
    send_digits=None,
)

ROWS = (PLIVO, TWILIO)
"""Every row, sorted by name."""
