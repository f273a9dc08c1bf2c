"""Voice activity: when speech sets in and when it ends, from 20 ms frames.

Two gates. Loudness first, because it is nearly free and most frames of a phone call are silence:
below FLOOR_RMS nothing is speech. Above it webrtcvad (the Gaussian-mixture detector of WebRTC)
decides, at the call's own rate of 8, 16, 32 or 48 kHz; at other rates loudness decides alone.

Speech has set in once `start_ms` of the last START_WINDOW frames were speech, and has ended after
`stop_ms` without any. A single loud frame (a click, a cough's edge) is neither.
"""

from __future__ import annotations

import importlib
from typing import Protocol

from flowcatd.audio.g711 import audioop
from flowcatd.frames import InputAudio, VadUserStartedSpeaking, VadUserStoppedSpeaking
from flowcatd.media import PTIME_MS
from flowcatd.options import Turns as TurnsOptions
from flowcatd.pipeline.processor import Processor, down

FLOOR_RMS = 90
"""About -51 dBFS: comfort noise and line hum of a digital phone leg lie below, whispering above."""

LOUD_RMS = 400
"""About -38 dBFS: what counts as speech where webrtcvad cannot be asked."""

MODE = 2
"""webrtcvad's aggressiveness, 0 to 3; 2 misses the fewest word ends on µ-law speech."""

DETECTOR_RATES = frozenset({8000, 16000, 32000, 48000})

START_WINDOW = 8
"""Frames among which those of speech are counted; half as many again as wanted, if that is more."""


class Detector(Protocol):
    """webrtcvad.Vad, as far as it is used."""

    def is_speech(self, pcm: bytes, rate_hz: int) -> bool:
        """Whether 10, 20 or 30 ms of s16le mono are speech."""


def webrtc_detector() -> Detector | None:
    """The detector, or None when the `speech` extra is not installed."""
    try:
        module = importlib.import_module("webrtcvad")
    except ImportError:
        return None
    detector: Detector = module.Vad(MODE)
    return detector


class Vad(Processor):
    """Turns the caller's audio into the beginnings and ends of speech."""

    def __init__(self, options: TurnsOptions, detector: Detector | None) -> None:
        super().__init__()
        self._detector = detector
        self._start_frames = max(1, options.start_ms // PTIME_MS)
        self._stop_frames = max(1, options.stop_ms // PTIME_MS)
        self._window = (1 << max(START_WINDOW, self._start_frames * 3 // 2)) - 1
        self._recent = 0
        self._silent = 0
        self._speaking = False

    @down(InputAudio)
    def audio(self, frame: InputAudio) -> None:
        """Judge one frame; what it means is told before the frame goes on."""
        pcm = frame.pcm
        level = audioop.rms(pcm, 2)  # level.rms without its check: a frame is whole samples
        speech = level >= FLOOR_RMS and self._is_speech(pcm, frame.rate_hz, level)
        if speech:
            self._silent = 0
            self._recent = (self._recent << 1 | 1) & self._window
            if not self._speaking and self._recent.bit_count() >= self._start_frames:
                self._speaking = True
                self.push(VadUserStartedSpeaking(self._recent.bit_length() * PTIME_MS))
        elif self._speaking:
            self._silent += 1
            if self._silent >= self._stop_frames:
                self._speaking = False
                self._recent = 0
                self.push(VadUserStoppedSpeaking(self._silent * PTIME_MS))
        elif self._recent:
            self._recent = self._recent << 1 & self._window
        self.push(frame)

    def _is_speech(self, pcm: bytes, rate_hz: int, level: int) -> bool:
        if self._detector is None or rate_hz not in DETECTOR_RATES:
            return level >= LOUD_RMS
        return self._detector.is_speech(pcm, rate_hz)
