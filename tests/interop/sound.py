"""Tones for the programs to play, and what is in the files they recorded.

A tone is judged by its own frequency (Goertzel): what share of a window's power it has. Speech codecs
and a lossless echo leave nearly all of it there; clicks, gaps and noise do not.
"""

from __future__ import annotations

import struct
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowcatd.audio.g711 import pcm_to_mulaw

RATE_HZ = 8000
WINDOW_SECONDS = 0.05
AUDIBLE = 300.0
"""RMS below which a window is silence; the tones have some 5800."""


def write_tone(path: Path, seconds: float, hz: float = 440.0, rate_hz: int = RATE_HZ) -> Path:
    """A WAV file with a tone at -12 dBFS."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(tone(seconds, hz, rate_hz))
    return path


def tone(seconds: float, hz: float = 440.0, rate_hz: int = RATE_HZ) -> bytes:
    """The same as 16 bit PCM."""
    at = np.arange(int(seconds * rate_hz)) / rate_hz
    return bytes((8231 * np.sin(2 * np.pi * hz * at)).astype("<i2").tobytes())


def write_payload(path: Path, seconds: float, hz: float = 440.0) -> Path:
    """A tone as bare µ-law, which is what SIPp streams."""
    path.write_bytes(pcm_to_mulaw(tone(seconds, hz)))
    return path


@dataclass(frozen=True)
class Heard:
    """A recording, in windows of 50 ms."""

    seconds: float
    sounding: float
    """Seconds that are not silence."""
    pure: float
    """Seconds whose power is the tone's to nine tenths."""
    gaps: int
    """Silences between the first and the last sound."""


def listen(path: Path, hz: float = 440.0) -> Heard:
    """What is in a WAV file; also in one whose writer has not filled in the length yet."""
    samples, rate_hz = _read(path)
    size = int(rate_hz * WINDOW_SECONDS)
    count = len(samples) // size
    windows = samples[: count * size].reshape(count, size)
    power = (windows**2).mean(axis=1) if count else np.zeros(0)
    wave_at = np.exp(-2j * np.pi * hz * np.arange(size) / rate_hz)
    of_tone = 2 * (np.abs(windows @ wave_at) / size) ** 2
    sounds = power > AUDIBLE**2
    pure = sounds & (of_tone > 0.9 * power)
    span = np.flatnonzero(sounds)
    inside = sounds[span[0] : span[-1] + 1] if len(span) else sounds
    gaps = int(np.count_nonzero(np.diff(inside.astype(int)) == -1))
    return Heard(
        count * WINDOW_SECONDS,
        int(sounds.sum()) * WINDOW_SECONDS,
        int(pure.sum()) * WINDOW_SECONDS,
        gaps,
    )


def seconds_of(path: Path) -> float:
    """How long a WAV file is by its size, whatever its header says yet; 0 without one."""
    head = path.read_bytes()[:40]
    if len(head) < 40:
        return 0.0
    (bytes_a_second,) = struct.unpack_from("<I", head, 28)
    return (path.stat().st_size - 44) / int(bytes_a_second)


def _read(path: Path) -> tuple[np.ndarray, int]:
    data = path.read_bytes()
    channels, rate_hz = struct.unpack_from("<HI", data, 22)
    begin = data.index(b"data") + 8
    body = data[begin : begin + (len(data) - begin) // (2 * channels) * 2 * channels]
    return np.frombuffer(body, "<i2").reshape(-1, channels)[:, 0].astype(float), rate_hz
