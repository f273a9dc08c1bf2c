"""The mouthpiece: turns in frames of 20 ms, keys one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowcatd.caller.mouth import KEY_FRAMES, Mouth, Said
from flowcatd.caller.script import Turn

FRAME = 320


def test_a_silent_mouth_sends_silence():
    """The line is never empty."""
    mouth = Mouth(8000)
    assert mouth.frame() == bytes(FRAME)
    assert mouth.finished() is None
    assert not mouth.busy


@given(st.binary(min_size=2, max_size=2000).map(lambda data: data[: len(data) // 2 * 2]))
def test_a_turn_leaves_whole_and_then_silence(pcm):
    """Every sample once, the last frame filled up, and exactly one end."""
    mouth = Mouth(8000)
    mouth.begin(Turn("x", pcm, len(pcm) / 16000), at=1.0)
    sent, ends = b"", 0
    for _ in range(10):
        sent += mouth.frame()
        mouth.key()
        ends += mouth.finished() is not None
    assert sent == pcm.ljust(10 * FRAME, b"\0")
    assert ends == 1
    assert not mouth.busy


def test_a_turn_is_said_in_the_20_ms_before_its_frame_leaves():
    """And ends with its last audible sample, not with its last frame."""
    mouth = Mouth(8000)
    said = mouth.begin(Turn("x", bytes(2 * FRAME), 0.03), at=1.0)
    assert abs(said.began - 0.98) < 1e-9
    assert abs(said.ended - 1.01) < 1e-9


def test_keys_are_pressed_as_a_person_does():
    """One every 200 ms, and the turn ends with the last."""
    mouth = Mouth(8000)
    said = mouth.begin(Turn("12", digits="12"), at=0.0)
    pressed = []
    for count in range(2 * KEY_FRAMES):
        assert mouth.frame() == bytes(FRAME)
        key = mouth.key()
        if key:
            pressed.append((count, key))
        if (end := mouth.finished()) is not None:
            assert end == said
            assert count == KEY_FRAMES
    assert pressed == [(0, "1"), (KEY_FRAMES, "2")]
    assert said == Said(-0.02, KEY_FRAMES * 0.02)


def test_the_first_key_of_a_second_turn_does_not_wait_for_the_first_turn():
    """The pause between keys is one within a turn."""
    mouth = Mouth(8000)
    for _ in range(2):
        mouth.begin(Turn("1", digits="1"), at=0.0)
        assert mouth.key() == "1"
        assert mouth.finished() is not None
