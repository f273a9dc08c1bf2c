"""The recording of a test call."""

from __future__ import annotations

from flowcatd.audio.wav import parse_wav
from flowcatd.caller.tape import Tape
from tests.flowcatd.caller.played import tone


def test_the_caller_is_left_and_the_agent_right(tmp_path):
    """The file says how long it is once it is closed."""
    path = tmp_path / "heard.wav"
    said, heard = tone(20), bytes(320)
    with Tape(path, 8000) as tape:
        tape.add(said, heard)
        tape.add(heard, said)
    wav = parse_wav(path.read_bytes())
    assert (wav.rate_hz, wav.channels, wav.frames) == (8000, 2, 320)
    left = b"".join(wav.pcm[i : i + 2] for i in range(0, len(wav.pcm), 4))
    right = b"".join(wav.pcm[i + 2 : i + 4] for i in range(0, len(wav.pcm), 4))
    assert left == said + heard
    assert right == heard + said


def test_an_empty_call_leaves_an_empty_file(tmp_path):
    """It plays, for no time at all."""
    path = tmp_path / "heard.wav"
    with Tape(path, 16000):
        pass
    assert parse_wav(path.read_bytes()).frames == 0
