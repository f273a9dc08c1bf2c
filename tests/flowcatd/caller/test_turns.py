"""Wishes made into turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.audio.wav import SampleFormat, wav_header
from flowcatd.caller.turns import (
    LONGEST_SECONDS,
    MARGIN_MS,
    Kind,
    Wish,
    check,
    make_turn,
    trimmed,
    typed,
)
from flowcatd.errors import ConfigError, ProviderError
from tests.flowcatd.caller.played import tone


class ToneVoice:
    """A voice that says everything as one second of tone at 16 kHz, in two pieces, after a pause."""

    rate_hz = 16000

    def __init__(self, pieces: int = 2) -> None:
        self._pieces = pieces
        self.closed = False

    async def speak(self, text: str) -> AsyncGenerator[bytes, None]:
        """The line; `closed` afterwards, however it ended."""
        assert text
        try:
            yield bytes(16000)
            for _ in range(self._pieces):
                await asyncio.sleep(0)
                yield tone(500, rate_hz=16000)
        finally:
            self.closed = True

    async def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize(
    ("line", "wish"),
    [
        ("yes please", Wish(Kind.SAY, "yes please")),
        ("  ", None),
        ("", None),
        ("123", Wish(Kind.DIGITS, "123")),
        ("1 2 3", Wish(Kind.DIGITS, "123")),
        ("#", Wish(Kind.DIGITS, "#")),
        ("*1a", Wish(Kind.DIGITS, "*1A")),
        ("abba", Wish(Kind.SAY, "abba")),
        ("10 thirty", Wish(Kind.SAY, "10 thirty")),
    ],
)
def test_a_typed_line_is_speech_unless_it_is_nothing_but_keys(line, wish):
    """Letters of the fourth column make keys only behind a star or a hash."""
    assert typed(line) == wish


@given(st.text(max_size=30))
def test_whatever_is_typed_becomes_a_wish_that_can_be_fulfilled(line):
    """Nothing that is typed can fail the checks of the command line."""
    wish = typed(line)
    if wish is not None:
        check(wish)


def test_a_turn_is_trimmed_to_what_can_be_heard():
    """All but a margin of the silence goes, and the end of the voice is known to the sample."""
    silence = bytes(8000)
    turn = trimmed("x", silence + tone(300) + silence, 8000)
    assert len(turn.pcm) // 2 == 8 * (300 + 2 * MARGIN_MS)
    assert turn.voice_seconds == pytest.approx((300 + MARGIN_MS) / 1000)


def test_silence_is_no_turn():
    """Nobody would answer it."""
    with pytest.raises(ConfigError, match="silent"):
        trimmed("x", bytes(8000), 8000)


async def test_words_are_spoken_at_the_calls_rate():
    """The voice's own rate is its own business."""
    voice = ToneVoice()
    turn = await make_turn(Wish(Kind.SAY, "hello", 300), 8000, voice)
    assert turn.text == "hello"
    assert turn.interrupt_after_ms == 300
    assert turn.voice_seconds == pytest.approx(1.0 + MARGIN_MS / 1000, abs=0.01)
    assert voice.closed


async def test_a_voice_that_never_stops_is_stopped():
    """One turn is bounded, and the work behind it ends."""
    voice = ToneVoice(pieces=3 * LONGEST_SECONDS)
    with pytest.raises(ConfigError, match="longer than"):
        await make_turn(Wish(Kind.SAY, "hello"), 8000, voice)
    assert voice.closed


async def test_words_without_a_voice_are_refused():
    """As an error that a person can read."""
    with pytest.raises(ProviderError, match="no voice"):
        await make_turn(Wish(Kind.SAY, "hello"), 8000, None)


async def test_a_file_is_played_at_the_calls_rate(tmp_path):
    """Stereo at another rate becomes mono at the call's."""
    path = tmp_path / "hello.wav"
    mono = tone(500, rate_hz=16000)
    stereo = b"".join(mono[i : i + 2] * 2 for i in range(0, len(mono), 2))
    path.write_bytes(wav_header(16000, 2, len(mono) // 2, SampleFormat.PCM16) + stereo)
    turn = await make_turn(Wish(Kind.WAV, str(path)), 8000, None)
    assert turn.text == "hello.wav"
    assert turn.voice_seconds == pytest.approx(0.5, abs=0.01)


async def test_keys_need_no_voice():
    """They are a turn as they stand."""
    turn = await make_turn(Wish(Kind.DIGITS, "12#"), 8000, None)
    assert (turn.digits, turn.pcm) == ("12#", b"")


async def test_a_file_that_is_no_sound_is_refused_by_name(tmp_path):
    """With what was found instead."""
    path = tmp_path / "x.wav"
    path.write_bytes(b"not a sound")
    with pytest.raises(ConfigError, match=r"x\.wav: not a RIFF WAVE file"):
        await make_turn(Wish(Kind.WAV, str(path)), 8000, None)


async def test_a_file_that_is_too_long_is_refused(tmp_path):
    """A turn of a conversation is not an audiobook."""
    path = tmp_path / "x.wav"
    frames = 8000 * (LONGEST_SECONDS + 1)
    path.write_bytes(wav_header(8000, 1, frames, SampleFormat.PCM16) + bytes(2 * frames))
    with pytest.raises(ConfigError, match="longer than"):
        await make_turn(Wish(Kind.WAV, str(path)), 8000, None)


@pytest.mark.parametrize(
    ("wish", "key"),
    [
        (Wish(Kind.SAY, " "), "--say"),
        (Wish(Kind.DIGITS, "12x"), "--digits"),
        (Wish(Kind.DIGITS, ""), "--digits"),
        (Wish(Kind.WAV, "/nowhere.wav"), "--wav"),
    ],
)
def test_what_cannot_be_fulfilled_is_refused_before_the_call(wish, key):
    """The option is named."""
    with pytest.raises(ConfigError, match=key):
        check(wish)
