"""What a worker and its helper processes say to each other, and how it lies on the wire.

A helper is a process that holds an engine (a recogniser, a synthesiser) which is blocking, holds
the GIL, or is under a licence that must not be linked with the daemon. One Unix stream socket joins
it to its worker. A message is a msgpack array tagged by its type, behind its length: four bytes,
big-endian. Both ends know MOST_BYTES; a longer message is a broken peer, not a big one.

Everything about an utterance or a line carries its job number, which only the worker gives out and
never twice. A helper keeps nothing between two jobs that a later job depends on: the caller's
channel estimate travels with the messages, so that any helper can serve any utterance.

msgpack: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from flowcatd.errors import LocalError, PeerError

MOST_BYTES = 262_144
"""The longest message: 8 s of 16 kHz audio; audio is cut far shorter than that."""
MOST_AUDIO_BYTES = 65_536
"""The most PCM put into one message: 2 s at 16 kHz."""

_HEAD = 4


class Prepare(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """This grammar will be wanted soon: compile it."""

    grammar: str


class Begin(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An utterance begins; `channel` is what an earlier `Heard` of this caller gave, or empty."""

    job: int
    grammar: str
    channel: str = ""


class Audio(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """More of the utterance: s16le mono at the helper's rate."""

    job: int
    pcm: bytes


class Finish(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The utterance is over: answer."""

    job: int


class Speak(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Say a line in a voice of this helper's engine."""

    job: int
    voice: str
    text: str


class Stop(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Nobody waits for this job any more; nothing is answered."""

    job: int


class Ready(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The engine is loaded; `rate_hz` is what it takes or gives."""

    engine: str
    rate_hz: int


class Guessed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """How many words of a grammar stand in no dictionary: their pronunciation was guessed."""

    words: int


class Hint(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What an open utterance seems to be."""

    job: int
    text: str


class Heard(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What an utterance was: the end of its job. Empty text is a rejection."""

    job: int
    text: str
    confidence: float
    audio_seconds: float
    channel: str


class Piece(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """More of a line: s16le mono at the helper's rate."""

    job: int
    pcm: bytes


class Said(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The line is complete: the end of its job."""

    job: int


class Trouble(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The engine could not do it: the end of the job. `reason` is safe to log."""

    job: int
    reason: str
    retryable: bool


ToHelper = Prepare | Begin | Audio | Finish | Speak | Stop
FromHelper = Ready | Guessed | Hint | Heard | Piece | Said | Trouble
Message = ToHelper | FromHelper

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def pack(message: Message) -> bytes:
    """Give the message as it goes on the wire; LocalError when it is too long."""
    body = _ENCODER.encode(message)
    if len(body) > MOST_BYTES:
        raise LocalError(f"a helper message of {len(body)} bytes, {MOST_BYTES} at most")
    return len(body).to_bytes(_HEAD, "big") + body


class Unpacker:
    """Bytes in any pieces in, whole messages out; PeerError once what came is no message of ours."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that `data` completes; the iterator must be run to its end."""
        self._waiting += data
        start = 0
        while len(self._waiting) - start >= _HEAD:
            body = start + _HEAD
            length = int.from_bytes(self._waiting[start:body], "big")
            if length > MOST_BYTES:
                raise PeerError(f"a helper message of {length} bytes, {MOST_BYTES} at most")
            if len(self._waiting) < body + length:
                break
            start = body + length
            yield _decoded(bytes(self._waiting[body:start]))
        del self._waiting[:start]


def _decoded(body: bytes) -> Message:
    try:
        return _DECODER.decode(body)
    except msgspec.MsgspecError as error:
        raise PeerError(f"a helper message of {len(body)} bytes that is none of ours") from error
