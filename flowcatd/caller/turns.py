"""Wishes (a text, a sound file, keys) made into turns at the call's rate.

Synthesis happens before the call, so that a slow voice delays nobody. Silence at both ends is cut
off, all but MARGIN_MS for soft consonants: a turn begins when it is said and its answer is timed
from the last sample that can be heard.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from flowcatd.audio.resample import resample_whole
from flowcatd.audio.wav import WavError, parse_wav, to_mono
from flowcatd.caller.listener import voice_span
from flowcatd.caller.script import Turn
from flowcatd.carriers.message import KEYS
from flowcatd.errors import ConfigError, LinkTimeout, ProviderError
from flowcatd.services import Voice

MARGIN_MS = 60
"""Kept around what is audible."""
LONGEST_SECONDS = 120
"""Of one turn; a longer file is not a turn of a conversation."""
FILE_LIMIT = 64 * 1024 * 1024
SYNTHESIS_SECONDS = 30.0
"""What a voice gets for one line."""


class Kind(StrEnum):
    """What a wish is."""

    SAY = "say"
    WAV = "wav"
    DIGITS = "digits"


@dataclass(frozen=True, slots=True)
class Wish:
    """A turn as it was asked for on the command line or typed."""

    kind: Kind
    value: str
    interrupt_after_ms: int | None = None
    recording: Path | None = None
    """A line that somebody has said already; `value` is its words."""


def check(wish: Wish) -> None:
    """ConfigError when a wish cannot be fulfilled, as far as that can be told beforehand."""
    match wish.kind:
        case Kind.SAY if not wish.value.strip():
            raise ConfigError("--say", "must have words")
        case Kind.DIGITS if not wish.value or not KEYS.issuperset(wish.value):
            raise ConfigError("--digits", "must be keys of a telephone: 0-9, *, #, A-D")
        case Kind.WAV if not Path(wish.value).is_file():
            raise ConfigError("--wav", f"there is no file {wish.value}")


def typed(line: str) -> Wish | None:
    """What a typed line asks for: keys if it is nothing but keys, else words; None if it is empty."""
    line = line.strip()
    if not line:
        return None
    keys = line.upper().replace(" ", "")
    is_keys = KEYS.issuperset(keys) and (keys[0] in "*#" or keys.isdigit())
    return Wish(Kind.DIGITS, keys) if is_keys else Wish(Kind.SAY, line)


async def make_turn(wish: Wish, rate_hz: int, voice: Voice | None) -> Turn:
    """The turn; ConfigError for a bad file, LinkError or ProviderError when it cannot be spoken."""
    after_ms = wish.interrupt_after_ms
    match wish.kind:
        case Kind.DIGITS:
            return Turn(wish.value, digits=wish.value, interrupt_after_ms=after_ms)
        case Kind.WAV:
            return trimmed(
                Path(wish.value).name, _load(Path(wish.value), rate_hz), rate_hz, after_ms
            )
        case Kind.SAY if wish.recording is not None:
            return trimmed(wish.value, _load(wish.recording, rate_hz), rate_hz, after_ms)
        case Kind.SAY:
            if voice is None:
                raise ProviderError("there is no voice on this machine to say that with")
            pcm = await _speak(voice, wish.value)
            return trimmed(
                wish.value, resample_whole(pcm, voice.rate_hz, rate_hz), rate_hz, after_ms
            )


def trimmed(text: str, pcm: bytes, rate_hz: int, interrupt_after_ms: int | None = None) -> Turn:
    """A turn of this speech without the silence around it; ConfigError if it is all silence."""
    first, last = voice_span(pcm, rate_hz)
    if last == 0:
        raise ConfigError(text, "is silent")
    margin = rate_hz * MARGIN_MS // 1000
    start = max(0, first - margin)
    return Turn(
        text,
        pcm[2 * start : 2 * (last + margin)],
        (last - start) / rate_hz,
        interrupt_after_ms=interrupt_after_ms,
    )


async def _speak(voice: Voice, text: str) -> bytes:
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(SYNTHESIS_SECONDS), aclosing(voice.speak(text)) as speech:
            async for piece in speech:
                size += len(piece)
                if size > 2 * voice.rate_hz * LONGEST_SECONDS:
                    raise ConfigError("--say", f"takes longer than {LONGEST_SECONDS} s to say")
                pieces.append(piece)
    except TimeoutError as error:
        raise LinkTimeout(f"the voice took longer than {SYNTHESIS_SECONDS:g} s") from error
    return b"".join(pieces)


def _load(path: Path, rate_hz: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
        wav = to_mono(parse_wav(data))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except WavError as error:
        raise ConfigError(str(path), str(error)) from error
    if len(data) > FILE_LIMIT or wav.seconds > LONGEST_SECONDS:
        raise ConfigError(str(path), f"is longer than {LONGEST_SECONDS} s")
    return resample_whole(wav.pcm, wav.rate_hz, rate_hz)
