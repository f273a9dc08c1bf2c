"""The demo caller's recordings: one for each line, at telephone rate, and to be heard."""

from __future__ import annotations

import pytest

from flowcatd.audio.level import dbfs
from flowcatd.audio.wav import SampleFormat, parse_wav
from flowcatd.caller.recorded import recording_of
from flowcatd.caller.script import DEMO


@pytest.mark.parametrize("text", DEMO)
def test_every_demo_line_has_a_recording_at_speaking_level(text):
    """Mono µ-law of half a second or more, between -35 and -15 dBFS over its length."""
    wav = parse_wav(recording_of(text).read_bytes())
    assert (wav.rate_hz, wav.channels, wav.sample_format) == (8000, 1, SampleFormat.MULAW)
    assert wav.seconds > 0.5
    assert -35 < dbfs(wav.pcm) < -15
