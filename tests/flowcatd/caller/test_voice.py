"""The caller's voice, with the engines of this machine."""

from __future__ import annotations

import pytest

from flowcatd.caller.turns import Kind, Wish, make_turn
from flowcatd.caller.voice import NONE, VOICE, open_voice
from flowcatd.errors import ConfigError
from flowcatd.links.open import runnable_dialects

needs_voice = pytest.mark.skipif(
    not {"flite", "espeak"} & runnable_dialects(),
    reason="no voice here: Debian's libflite1 or the extra 'espeak' would be one",
)


@needs_voice
async def test_there_is_a_voice_without_asking_for_one():
    """A sentence becomes a turn of about the length a person would take."""
    async with open_voice("") as voice:
        turn = await make_turn(Wish(Kind.SAY, "I would like Tuesday please"), 8000, voice)
    assert 1.0 < turn.voice_seconds < 4.0
    assert len(turn.pcm) >= turn.voice_seconds * 16000


async def test_no_voice_can_be_asked_for():
    """For calls of files and keys."""
    async with open_voice(NONE) as voice:
        assert voice is None


async def test_an_unknown_voice_is_refused_with_the_nearest():
    """Before anything is started."""
    with pytest.raises(ConfigError, match=f"did you mean '{VOICE}'"):
        async with open_voice("flite-kal"):
            pass
