"""A pipeline at work, in virtual time: real processors between a synthetic caller and a port in memory.

Scene one, an echo: vad → parallel(echo | meter) → playout. Every sample must come back, in order.
It runs twice: with an observer that counts, and without one for what a frame costs.

Scene two, an interruption: vad → turns → playout. The agent says a line of three seconds, the caller
talks over it; the epoch rises, what waited is forgotten, the far end is told to forget, and what was
heard is known to the word. A straggler of the old epoch is dropped at the gate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from flowcatd.audio.level import rms
from flowcatd.frames import (
    Frame,
    InputAudio,
    LineHeard,
    Start,
    TtsAudio,
    TtsStarted,
    TtsStopped,
    VadUserStartedSpeaking,
)
from flowcatd.media import PTIME_MS, frame_bytes
from flowcatd.options import Playout as PlayoutOptions
from flowcatd.options import Turns as TurnsOptions
from flowcatd.pipeline.chain import Chain, Stage, forget
from flowcatd.pipeline.observer import Tally
from flowcatd.pipeline.parallel import Parallel
from flowcatd.pipeline.processor import Processor, down
from flowcatd.processors.echo import Echo
from flowcatd.processors.playout import Playout
from flowcatd.processors.turns import Turns
from flowcatd.processors.vad import Vad, webrtc_detector
from flowcatd.wake import Wake, WakeList

RATE_HZ = 8000
BURST_FRAMES, PAUSE_FRAMES = 30, 30
"""600 ms of voice, 600 ms of silence: a caller who speaks in short words."""
LINE = "We have nine, nine thirty, ten and ten thirty in the morning, and three in the afternoon."
LINE_MS = 3000
QUIET_MS = 1000
"""How long the caller listens before talking over the line."""


class Meter(Processor):
    """The other branch: measures what passes."""

    def __init__(self) -> None:
        super().__init__()
        self.loudest = 0

    @down(InputAudio)
    def audio(self, frame: InputAudio) -> None:
        """Keep the loudest level."""
        self.loudest = max(self.loudest, rms(frame.pcm))
        self.push(frame)

    @down(VadUserStartedSpeaking)
    def speech(self, frame: VadUserStartedSpeaking) -> None:
        """Speech set in; only the tally looks at it."""
        self.push(frame)


class MemoryPort:
    """A far end that keeps what it is sent; a MediaPort."""

    has_marks = False
    lead_ms = 0

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.clears = 0

    def send_audio(self, pcm: bytes) -> None:
        """Keep it."""
        self.frames.append(pcm)

    def send_mark(self, name: str) -> None:
        """Never asked: there are no marks."""

    def send_clear(self) -> None:
        """Count it."""
        self.clears += 1

    def send_digits(self, digits: str) -> None:
        """Nobody listens."""

    def transfer(self, _target: str) -> bool:
        """There is nobody else."""
        return False


class VirtualScope:
    """A call's time, advanced by hand."""

    def __init__(self) -> None:
        self._now = 0.0
        self._wakes = WakeList()

    def now(self) -> float:
        """Virtual seconds."""
        return self._now

    def wake(self, due: float, callback: Callable[[], None]) -> Wake:
        """Call back at `due`."""
        return self._wakes.add(due, callback)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> NoReturn:
        """No processor here has a task."""
        work.close()
        raise NotImplementedError(name)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
        self._wakes.wake(self._now)


@dataclass(slots=True)
class Interrupted:
    """What became of the line that was talked over."""

    epoch_before: int = 0
    epoch_after: int = 0
    at_ms: int = 0
    """On media time."""
    heard: str = ""
    unsent_ms: int = 0
    """Of the line, never sent to the far end."""
    clears: int = 0
    stale: int = 0
    """Frames of the old epoch that were dropped at a gate."""

    @property
    def ok(self) -> bool:
        """Whether the caller got the floor and only the heard part of the line counts."""
        rose = self.epoch_after == self.epoch_before + 1
        return rose and self.clears == 1 and self.stale == 1 and 0 < len(self.heard) < len(LINE)


@dataclass(slots=True)
class Result:
    """Both scenes."""

    frames: int
    detector: str
    returned: int = 0
    whole: bool = False
    microseconds: float = 0.0
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    interrupted: Interrupted = field(default_factory=Interrupted)

    @property
    def ok(self) -> bool:
        """Whether all of it worked."""
        return self.whole and self.interrupted.ok


def run(seconds: int) -> Result:
    """Both scenes, with this much audio in the first."""
    frames = speech(seconds * 1000 // PTIME_MS)
    result = Result(len(frames), "webrtcvad" if webrtc_detector() is not None else "loudness")
    tally = Tally()
    observed, _ = _echo(frames, tally)
    bare, spent = _echo(frames, None)
    result.counts = tally.counts
    result.returned = len(bare)
    result.whole = frames == observed == bare
    result.microseconds = spent / len(frames) * 1e6
    result.interrupted = _interruption()
    return result


def speech(count: int) -> list[bytes]:
    """Frames like speech: a buzzing voice in bursts, with digital silence between them."""
    samples = frame_bytes(RATE_HZ) // 2
    at = np.arange(count * samples) / RATE_HZ
    phase = 2 * np.pi * 120 * at
    voice = sum(np.sin(overtone * phase) / overtone for overtone in range(1, 25))
    loudness = 3000 * (1 + 0.5 * np.sin(2 * np.pi * 4 * at))
    period = BURST_FRAMES + PAUSE_FRAMES
    speaking = (np.arange(count * samples) // samples) % period < BURST_FRAMES
    pcm = np.where(speaking, voice * loudness, 0).astype("<i2").tobytes()
    return [pcm[i : i + 2 * samples] for i in range(0, len(pcm), 2 * samples)]


def _echo(frames: list[bytes], tally: Tally | None) -> tuple[list[bytes], float]:
    """What came back, and the seconds that took."""
    scope, port = VirtualScope(), MemoryPort()
    stages: list[Stage] = [
        Vad(TurnsOptions(), webrtc_detector()),
        Parallel([Echo()], [Meter()], name="parallel"),
        Playout(port, PlayoutOptions()),
    ]
    chain = Chain(stages, scope)
    if tally is not None:
        chain.observe(tally)
    chain.feed(Start(RATE_HZ))
    began = time.perf_counter()
    for count, pcm in enumerate(frames):
        chain.feed(InputAudio(pcm, RATE_HZ, count * PTIME_MS))
        scope.advance(PTIME_MS / 1000)
    return port.frames, time.perf_counter() - began


def _interruption() -> Interrupted:
    """A line, talked over."""
    scope, port, told = VirtualScope(), MemoryPort(), Interrupted()

    def at_tail(frame: Frame) -> None:
        if isinstance(frame, LineHeard):
            told.heard = frame.text

    stages: list[Stage] = [
        Vad(TurnsOptions(), webrtc_detector()),
        Turns(TurnsOptions()),
        Playout(port, PlayoutOptions()),
    ]
    chain = Chain(stages, scope, at_tail=at_tail, at_head=forget)
    chain.feed(Start(RATE_HZ))
    told.epoch_before = chain.epoch
    line = bytes(frame_bytes(RATE_HZ) * LINE_MS // PTIME_MS)
    chain.feed(TtsStarted(LINE, interruptible=True))
    chain.feed(TtsAudio(chain.epoch, line, RATE_HZ))
    chain.feed(TtsStopped())
    silence = [bytes(frame_bytes(RATE_HZ))] * (QUIET_MS // PTIME_MS)
    for count, pcm in enumerate(silence + speech(BURST_FRAMES)):
        chain.feed(InputAudio(pcm, RATE_HZ, count * PTIME_MS))
        scope.advance(PTIME_MS / 1000)
        if chain.epoch != told.epoch_before and not told.at_ms:
            told.at_ms = (count + 1) * PTIME_MS
            told.unsent_ms = LINE_MS - len(port.frames) * PTIME_MS
    chain.feed(TtsAudio(told.epoch_before, line, RATE_HZ))
    told.epoch_after, told.clears, told.stale = chain.epoch, port.clears, chain.stale
    return told


def figures(result: Result) -> dict[str, object]:
    """For a program."""
    told = result.interrupted
    return {
        "ok": result.ok,
        "frames": result.frames,
        "returned": result.returned,
        "whole": result.whole,
        "microseconds_per_frame": round(result.microseconds, 2),
        "detector": result.detector,
        "counts": [
            {"processor": processor, "frame": frame, "count": count}
            for (processor, frame), count in sorted(result.counts.items())
        ],
        "interruption": {
            "epoch_before": told.epoch_before,
            "epoch_after": told.epoch_after,
            "at_ms": told.at_ms,
            "heard": told.heard,
            "unsent_ms": told.unsent_ms,
            "clears": told.clears,
            "stale": told.stale,
            "ok": told.ok,
        },
    }


def render(result: Result) -> str:
    """For a person."""
    told = result.interrupted
    seconds = result.frames * PTIME_MS / 1000
    lines = [
        (
            f"{seconds:g} s of audio, {result.frames} frames: "
            f"vad ({result.detector}) → parallel(echo | meter) → playout"
        ),
        *(
            f"  {processor:10} {frame:24} {count:6}"
            for (processor, frame), count in sorted(result.counts.items())
        ),
        f"  {result.returned} of {result.frames} frames came back, "
        + ("every sample as it was" if result.whole else "NOT as they were"),
        f"  {result.microseconds:.1f} µs per frame, unobserved",
        "an interruption: vad → turns → playout",
        (
            f"  epoch {told.epoch_before} → {told.epoch_after} "
            f"at {told.at_ms} ms, {told.at_ms - QUIET_MS} ms into the caller's words"
        ),
        f"  heard: {told.heard} …",
        (
            f"  {told.unsent_ms} ms of {LINE_MS} never sent, {told.clears} clear to the far end, "
            f"{told.stale} straggler of the old epoch dropped"
        ),
        "all right" if result.ok else "NOT all right",
    ]
    return "\n".join(lines)
