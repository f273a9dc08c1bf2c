"""Voice activity: when speech has set in, when it has ended, and what is neither."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.frames import InputAudio, VadUserStartedSpeaking, VadUserStoppedSpeaking
from flowcatd.options import Turns as TurnsOptions
from flowcatd.processors.vad import FLOOR_RMS, LOUD_RMS, START_WINDOW, Vad, webrtc_detector
from tests.builders import Rig, VirtualScope, names

OPTIONS = TurnsOptions(start_ms=60, stop_ms=200)
SPEECH = 4096
HUM = LOUD_RMS - 1
"""Above the floor, and not loud."""


class ByLoudness:
    """A detector that calls speech what is loud, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def is_speech(self, pcm: bytes, rate_hz: int) -> bool:
        """Whether its first sample is."""
        assert len(pcm) == rate_hz // 50 * 2
        self.asked += 1
        return int.from_bytes(pcm[:2], "little") >= SPEECH


class Ear:
    """A chain of one Vad."""

    def __init__(self, options: TurnsOptions = OPTIONS, *, rate_hz: int = 8000) -> None:
        self.detector = ByLoudness()
        self.rig = Rig([Vad(options, self.detector)], VirtualScope())
        self.rate_hz = rate_hz
        self.media_ms = 0

    def hear(self, level: int, frames: int = 1) -> None:
        """This many frames of constant samples."""
        for _ in range(frames):
            pcm = level.to_bytes(2, "little") * (self.rate_hz // 50)
            self.rig.feed(InputAudio(pcm, self.rate_hz, self.media_ms))
            self.media_ms += 20

    def told(self) -> list[VadUserStartedSpeaking | VadUserStoppedSpeaking]:
        """What it decided."""
        return self.rig.out(VadUserStartedSpeaking, VadUserStoppedSpeaking)


def test_speech_has_set_in_after_start_ms_and_is_told_before_its_frame() -> None:
    """With how long ago that was."""
    ear = Ear()
    ear.hear(SPEECH, 3)
    assert names(ear.rig.tail) == [
        "InputAudio",
        "InputAudio",
        "VadUserStartedSpeaking",
        "InputAudio",
    ]
    assert ear.told() == [VadUserStartedSpeaking(60)]


def test_speech_with_holes_sets_in_too_and_began_with_its_first_frame() -> None:
    """A plosive is not silence."""
    ear = Ear()
    for level in (SPEECH, 0, SPEECH, 0, 0, SPEECH):
        ear.hear(level)
    assert ear.told() == [VadUserStartedSpeaking(120)]


@pytest.mark.parametrize("pause", [START_WINDOW - 1, 50])
def test_clicks_far_apart_are_no_speech(pause: int) -> None:
    """However many."""
    ear = Ear()
    for _ in range(20):
        ear.hear(SPEECH)
        ear.hear(0, pause)
    assert ear.told() == []


def test_speech_has_ended_after_stop_ms_without_any() -> None:
    """A shorter pause is part of it."""
    ear = Ear()
    ear.hear(SPEECH, 3)
    ear.hear(0, 9)
    ear.hear(SPEECH)
    ear.hear(0, 9)
    assert len(ear.told()) == 1
    ear.hear(0)
    assert ear.told()[1:] == [VadUserStoppedSpeaking(200)]
    ear.hear(0, 50)
    assert len(ear.told()) == 2


@pytest.mark.parametrize("start_ms", [20, 100, 160, 180, 500, 1000])
def test_every_start_ms_that_may_be_set_can_be_reached(start_ms: int) -> None:
    """By speech that lasts as long, in as many frames as it says."""
    ear = Ear(TurnsOptions(start_ms=start_ms, stop_ms=200))
    ear.hear(SPEECH, start_ms // 20 - 1)
    assert ear.told() == []
    ear.hear(SPEECH)
    assert ear.told() == [VadUserStartedSpeaking(start_ms)]


def test_what_lies_below_the_floor_is_never_asked_about() -> None:
    """Most of a call is silence, and loudness is cheap."""
    ear = Ear()
    ear.hear(FLOOR_RMS - 1, 20)
    assert ear.detector.asked == 0
    ear.hear(FLOOR_RMS)
    assert ear.detector.asked == 1


def test_what_is_loud_and_no_speech_is_left_to_the_detector() -> None:
    """It decides above the floor."""
    ear = Ear()
    ear.hear(SPEECH - 1, 50)
    assert ear.told() == []


@pytest.mark.parametrize(("level", "told"), [(HUM, 0), (LOUD_RMS, 1)])
def test_without_a_detector_or_at_a_rate_it_does_not_know_loudness_decides(
    level: int, told: int
) -> None:
    """A call goes on without the `speech` extra."""
    odd = Ear(rate_hz=24_000)
    odd.hear(level, 5)
    assert (len(odd.told()), odd.detector.asked) == (told, 0)
    rig = Rig([Vad(OPTIONS, None)], VirtualScope())
    for index in range(5):
        rig.feed(InputAudio(level.to_bytes(2, "little") * 160, 8000, 20 * index))
    assert len(rig.out(VadUserStartedSpeaking)) == told


@given(
    st.lists(st.tuples(st.sampled_from([0, HUM, SPEECH]), st.integers(1, 20)), max_size=30),
    st.integers(1, 20),
    st.integers(5, 30),
)
def test_beginnings_and_ends_alternate_and_every_frame_goes_on(
    plan: list[tuple[int, int]], start_frames: int, stop_frames: int
) -> None:
    """For any sound and any setting; and silence always ends speech."""
    ear = Ear(TurnsOptions(start_ms=20 * start_frames, stop_ms=20 * stop_frames))
    for level, frames in plan:
        ear.hear(level, frames)
    ear.hear(0, stop_frames)
    told = ear.told()
    assert len(told) % 2 == 0
    for began, ended in zip(told[::2], told[1::2], strict=True):
        assert isinstance(began, VadUserStartedSpeaking)
        assert 20 * start_frames <= began.start_ms <= 20 * max(START_WINDOW, start_frames * 3 // 2)
        assert ended == VadUserStoppedSpeaking(20 * stop_frames)
    assert [f.media_ms for f in ear.rig.out(InputAudio)] == list(range(0, ear.media_ms, 20))


def test_the_real_detector_hears_nothing_in_silence() -> None:
    """It is there with the `speech` extra."""
    detector = webrtc_detector()
    if detector is None:
        pytest.skip("webrtcvad is not installed")
    assert not any(detector.is_speech(bytes(rate // 25), rate) for rate in (8000, 16_000, 48_000))
