"""Keys over SIP: each press told once, however many ways a gateway says it in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowcatd.audio.tones import KEYS, press
from flowcatd.media import frame_bytes
from flowcatd.transports.sip_keys import SAME_PRESS, Keys

WAYS = st.lists(
    st.tuples(st.sampled_from("12#"), st.sampled_from(["event", "info", "both"])), max_size=12
)


@given(WAYS, st.floats(0.0, 0.14), st.booleans())
def test_every_press_is_told_once_whichever_ways_say_it(
    presses: list[tuple[str, str]],
    late: float,
    info_is_first: bool,  # noqa: FBT001 hypothesis gives them in order
) -> None:
    """Presses 400 ms apart; an INFO up to 140 ms before the event begins or after it has ended."""
    keys, told, now = Keys(), "", 100.0
    for key, way in presses:
        if way == "info" or (way == "both" and info_is_first):
            told += keys.informed(key, now - late)
        if way != "info":
            keys.went_down(key, now)
            told += keys.ended(key, now + 0.1)
        if way == "both" and not info_is_first:
            told += keys.informed(key, now + 0.1 + late)
        now += 0.1 + 0.14 + SAME_PRESS + 0.2
    assert told == "".join(key for key, _ in presses)


def test_an_info_while_the_key_is_down_is_the_same_press() -> None:
    """However long the key is held."""
    keys = Keys()
    keys.went_down("5", 10.0)
    assert keys.informed("5", 11.0) == ""
    assert keys.ended("5", 12.0) == "5"


def test_the_same_key_twice_in_one_way_is_two_presses() -> None:
    """A quick finger, or a gateway that sends a burst."""
    keys = Keys()
    assert keys.informed("5", 10.0) + keys.informed("5", 10.05) == "55"


def test_another_key_is_another_press() -> None:
    """At the same moment, even."""
    keys = Keys()
    assert keys.informed("5", 10.0) + keys.ended("6", 10.0) == "56"


def test_a_hook_flash_is_no_key() -> None:
    """RFC 4733's event 16."""
    assert Keys().ended("!", 1.0) == ""


def test_tones_are_keys_only_while_they_are_listened_for() -> None:
    """All sixteen, in order."""
    keys = Keys()
    sound = press(KEYS, 8000)
    size = frame_bytes(8000)
    frames = [sound[at : at + size] for at in range(0, len(sound), size)]
    assert not keys.is_listening
    assert "".join(keys.heard(pcm, 1.0) for pcm in frames) == ""
    keys.listen(8000)
    told = "".join(keys.heard(pcm, 1.0 + at * 0.02) for at, pcm in enumerate(frames))
    assert told == KEYS
    keys.listen(0)
    assert "".join(keys.heard(pcm, 9.0) for pcm in frames) == ""
