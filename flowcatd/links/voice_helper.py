"""The synthesiser's process: flite, or espeak-ng, by ctypes on the machine's own library.

`python -m flowcatd.links.voice_helper <engine>`, with its worker's socket as standard input. Both
engines hand samples out while they work (flite through `streaming_info`, espeak-ng through its
synth callback) and stop when the callback says so; between two pieces the socket is looked at, so
that a line nobody waits for ends within one piece (0.1 s of audio, made in under 2 ms).

Lines are cut into sentences and served in turn, a sentence each: a long line cannot hold up a short
one of another call, and the first sound of a line depends on its first sentence only.

espeak-ng is GPL-3.0: it is loaded here and nowhere else, in a process that shares no code with it
but this binding. Its markup is switched off. Sources: flite 2.2 `cst_audio.h`, `cst_wave.h`;
espeak-ng `speak_lib.h`.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import select
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Protocol

from flowcatd.links.helper_wire import (
    MOST_BYTES,
    Message,
    Piece,
    Ready,
    Said,
    Speak,
    Stop,
    Trouble,
    Unpacker,
    pack,
)

NICENESS = 5
"""The worker's audio goes first."""
PIECE_MS = 100
"""Audio per piece: small enough to stop soon, large enough to cost little."""
MOST_LINES = 64
"""Lines that wait here; the worker's pool asks for no more."""

OnAudio = Callable[[bytes], bool]
"""Is given samples as they are made; whether to go on."""


class Engine(Protocol):
    """What can speak."""

    name: str
    rate_hz: int

    def say(self, voice: str, text: str, on_audio: OnAudio) -> None:
        """Speak a sentence; ValueError for a voice it has not."""


def sentences(text: str) -> list[str]:
    """Cut a line where a voice pauses anyway; long sentences also at their commas."""
    parts: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", text.strip()):
        if len(sentence) <= 160:
            parts.append(sentence)
        else:
            parts.extend(re.split(r"(?<=[,;:])\s+", sentence))
    return [part for part in parts if part]


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.c_void_p),
    )


class _FliteVoice(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("features", ctypes.c_void_p))  # the rest is not read


_OnWave = ctypes.CFUNCTYPE(
    ctypes.c_int,
    *(ctypes.POINTER(_Wave), ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p),
)


class _Streaming(ctypes.Structure):
    _fields_ = (
        ("min_buffsize", ctypes.c_int),
        ("on_wave", _OnWave),
        ("utterance", ctypes.c_void_p),
        ("item", ctypes.c_void_p),
        ("user", ctypes.c_void_p),
    )


class Flite:
    """CMU Flite 2.2 (BSD-like licence), 16 kHz voices."""

    name = "flite"
    rate_hz = 16_000
    voices = ("slt", "kal16", "rms", "awb")

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libflite.so.1", mode=ctypes.RTLD_GLOBAL)
        for part in ("usenglish", "cmulex"):
            ctypes.CDLL(f"libflite_{part}.so.1", mode=ctypes.RTLD_GLOBAL)
        library = self._library
        library.new_audio_streaming_info.restype = ctypes.POINTER(_Streaming)
        library.audio_streaming_info_val.restype = ctypes.c_void_p
        library.audio_streaming_info_val.argtypes = [ctypes.c_void_p]
        library.feat_set.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        library.flite_synth_text.restype = ctypes.c_void_p
        library.flite_synth_text.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        library.delete_utterance.argtypes = [ctypes.c_void_p]
        library.flite_init()
        self._on_wave = _OnWave(self._wave)  # must outlive every call: C holds no reference
        self._on_audio: OnAudio | None = None
        self._voices: dict[str, ctypes.c_void_p] = {}

    def say(self, voice: str, text: str, on_audio: OnAudio) -> None:
        """Speak a sentence."""
        known = self._voices.get(voice) or self._load(voice)
        self._on_audio = on_audio
        utterance = self._library.flite_synth_text(text.encode("ascii", "replace"), known)
        self._on_audio = None
        if utterance:
            self._library.delete_utterance(utterance)

    def _load(self, voice: str) -> ctypes.c_void_p:
        if voice not in self.voices:
            raise ValueError(voice)
        register = ctypes.CDLL(f"libflite_cmu_us_{voice}.so.1")[f"register_cmu_us_{voice}"]
        register.restype = ctypes.POINTER(_FliteVoice)
        register.argtypes = [ctypes.c_char_p]
        made = register(None)
        streaming = self._library.new_audio_streaming_info()
        streaming.contents.min_buffsize = self.rate_hz * PIECE_MS // 1000
        streaming.contents.on_wave = self._on_wave
        value = self._library.audio_streaming_info_val(ctypes.cast(streaming, ctypes.c_void_p))
        self._library.feat_set(made.contents.features, b"streaming_info", value)
        self._voices[voice] = ctypes.cast(made, ctypes.c_void_p)
        return self._voices[voice]

    def _wave(self, wave: ctypes._Pointer[_Wave], start: int, size: int, *_: object) -> int:
        if self._on_audio is None:
            return -1
        pcm = ctypes.string_at(wave.contents.samples + 2 * start, 2 * size)
        return 0 if self._on_audio(pcm) else -1


_OnSamples = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_RETRIEVAL, _DO_NOT_EXIT, _UTF8, _RATE = 2, 0x8000, 1, 1


class Espeak:
    """espeak-ng: the machine's library, or the one in the espeakng-loader wheel."""

    name = "espeak-ng"

    def __init__(self, source: str, words_per_minute: int) -> None:
        """`source` is `machine`, `wheel`, or `auto` for the first of the two that is there."""
        self._library, data = _espeak_library(source)
        self._library.espeak_Initialize.argtypes = [
            *(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
        ]
        rate_hz = self._library.espeak_Initialize(_RETRIEVAL, PIECE_MS, data, _DO_NOT_EXIT)
        if rate_hz <= 0:
            raise OSError("espeak-ng found no data")
        self.rate_hz: int = rate_hz
        self._words_per_minute = words_per_minute
        self._voice = ""
        self._on_audio: OnAudio | None = None
        self._on_samples = _OnSamples(self._samples)  # must outlive every call
        self._library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        self._library.espeak_Synth.argtypes = [
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint),
            *(ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
        ]
        self._library.espeak_SetSynthCallback(self._on_samples)

    def say(self, voice: str, text: str, on_audio: OnAudio) -> None:
        """Speak a sentence."""
        if voice != self._voice:
            if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(voice)
            self._library.espeak_SetParameter(_RATE, self._words_per_minute, 0)
            self._voice = voice
        self._on_audio = on_audio
        said = text.encode()
        self._library.espeak_Synth(said, len(said) + 1, 0, 1, 0, _UTF8, None, None)
        self._on_audio = None

    def _samples(self, samples: int | None, count: int, _events: object) -> int:
        if not samples or count <= 0:
            return 0
        if self._on_audio is None:
            return 1
        return 0 if self._on_audio(ctypes.string_at(samples, 2 * count)) else 1


def _espeak_library(source: str) -> tuple[ctypes.CDLL, bytes | None]:
    if source != "wheel":
        try:
            return ctypes.CDLL("libespeak-ng.so.1"), None
        except OSError:
            if source == "machine":
                raise
    wheel = importlib.import_module("espeakng_loader")
    return ctypes.CDLL(wheel.get_library_path()), str(wheel.get_data_path()).encode()


class _Line:
    """A line that is being said: what is left of it."""

    __slots__ = ("job", "left", "voice")

    def __init__(self, wish: Speak) -> None:
        self.job = wish.job
        self.voice = wish.voice
        self.left = deque(sentences(wish.text))


class Mouth:
    """Messages in, pieces out."""

    def __init__(self, engine: Engine, line: socket.socket) -> None:
        self._engine = engine
        self._socket = line
        self._unpacker = Unpacker()
        self._lines: deque[_Line] = deque()
        self._current = 0
        self._stopped = False
        """Whether nobody waits for the current job any more."""
        self._gone = False

    def serve(self) -> None:
        """Until the worker is gone."""
        while not self._gone:
            self._read(wait=not self._lines)
            if self._lines:
                self._sentence(self._lines.popleft())

    def _sentence(self, line: _Line) -> None:
        self._current, self._stopped = line.job, False
        try:
            if line.left:
                self._engine.say(line.voice, line.left.popleft(), self._on_audio)
        except (ValueError, OSError):
            self._tell(Trouble(line.job, "the voice is not on this machine", retryable=False))
        else:
            if line.left and not self._stopped:
                self._lines.append(line)
            elif not self._stopped:
                self._tell(Said(line.job))
        self._current = 0

    def _on_audio(self, pcm: bytes) -> bool:
        if pcm:
            self._tell(Piece(self._current, pcm))
        self._read(wait=False)
        return not (self._gone or self._stopped)

    def _tell(self, message: Message) -> None:
        try:
            self._socket.sendall(pack(message))
        except (BrokenPipeError, ConnectionResetError):
            self._gone = True

    def _read(self, *, wait: bool) -> None:
        """Take what the worker says; without waiting if there is work to do."""
        while not self._gone and (wait or select.select([self._socket], [], [], 0)[0]):
            wait = False
            data = self._socket.recv(MOST_BYTES)
            if not data:
                self._gone = True
            for message in self._unpacker.feed(data):
                self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case Speak() if len(self._lines) < MOST_LINES:
                self._lines.append(_Line(message))
            case Speak(job):
                self._tell(Trouble(job, "too many lines wait to be said", retryable=True))
            case Stop(job) if job == self._current:
                self._stopped = True
            case Stop(job):
                self._lines = deque(line for line in self._lines if line.job != job)
            case _:
                pass  # a synthesiser hears nothing


def main(engine: str, source: str = "auto", words_per_minute: str = "160") -> None:
    """Serve the worker until it is gone."""
    os.nice(NICENESS)
    line = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    mouth = Flite() if engine == Flite.name else Espeak(source, int(words_per_minute))
    line.sendall(pack(Ready(mouth.name, mouth.rate_hz)))
    Mouth(mouth, line).serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
