"""The provider ports: what hearing and speaking are, whoever does them.

A provider is chosen by a row (`providers/`), run by a link (`links/`) and used by a processor
(`processors/hear.py`, `processors/speak.py`) that knows only this page. Audio at these doors is
always signed 16-bit little-endian mono PCM in `bytes`, at the rate the provider declares; whoever
stands in front of it resamples.

Hearing is utterance by utterance: `start_utterance`, any number of `push_audio`, `end_utterance`,
then exactly one `Final` or `Failed`; `Partial`s may come between. `expect` says what can be said
now, and takes effect from the next utterance. Events arrive by the callback given at construction,
on the worker's loop, never from inside one of these calls.

Speaking is one line at a time: `speak(text)` yields PCM as it is made. Closing or cancelling the
iterator stops the work behind it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Hearing:
    """What the caller may sensibly say now; a recogniser uses as much of it as it can."""

    grammar: str = ""
    """The body of a JSGF grammar (JSpeech Grammar Format) whose one public rule is `<utterance>`,
    without the garbage path, which is the recogniser's own; empty means anything."""
    hints: tuple[str, ...] = ()
    """Words and phrases worth boosting, for recognisers that take a list instead of a grammar."""
    language: str = "en-US"
    """BCP 47 tag."""


@dataclass(frozen=True, slots=True)
class Partial:
    """What has been understood so far; may be taken back."""

    text: str


@dataclass(frozen=True, slots=True)
class Final:
    """What was said. Empty `text` is a rejection: speech, but nothing that was expected."""

    text: str
    confidence: float = 1.0
    """0 to 1; 1 where the recogniser gives none."""
    audio_seconds: float = 0.0
    """How much audio was recognised, for usage."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The provider could not do it; `reason` is safe to log."""

    reason: str
    retryable: bool = True


SttEvent = Partial | Final | Failed
OnSttEvent = Callable[[SttEvent], None]


class SpeechToText(Protocol):
    """One call's ear."""

    rate_hz: int
    """The sample rate that `push_audio` wants."""

    def expect(self, hearing: Hearing) -> None:
        """From the next utterance on, this is what can be heard."""

    def start_utterance(self) -> None:
        """Somebody began to speak; an utterance still open is dropped without an event."""

    def push_audio(self, pcm: bytes) -> None:
        """More of the utterance: s16le mono at `rate_hz`; ignored when none is open."""

    def end_utterance(self) -> None:
        """They stopped; one `Final` or `Failed` follows."""

    async def close(self) -> None:
        """Give everything back; no event comes after it was called."""


class Voice(Protocol):
    """One call's mouth."""

    rate_hz: int
    """The sample rate of what `speak` yields."""

    def speak(self, text: str) -> AsyncGenerator[bytes, None]:
        """Yield the line as s16le mono at `rate_hz`, in pieces as they are made.

        Raises LinkError or ProviderError when it cannot be said.
        """

    async def close(self) -> None:
        """Give everything back."""


@dataclass(slots=True)
class Usage:
    """What a call consumed from its providers, for its record."""

    stt_audio_seconds: float = 0.0
    stt_utterances: int = 0
    stt_failures: int = 0
    tts_characters: int = 0
    tts_audio_seconds: float = 0.0
    tts_cache_hits: int = 0
    tts_failures: int = 0
    providers: dict[str, str] = field(default_factory=dict)
    """Which row served which seam: `{"stt": "pocketsphinx", "tts": "flite"}`."""
