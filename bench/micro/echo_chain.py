"""What one 20 ms frame costs through the real chain of a call with the echo agent.

Run: `python -m bench.micro.echo_chain [--json]`, pinned with `taskset -c 1` for a steady figure.

The chain is wiring's: vad (with webrtcvad, where installed), turns, hear without a recogniser, echo,
speak without a voice, playout into memory, figures. It is fed µ-law-decoded frames of silence and of
noise that rises and falls four times a second, as speech does. Time is virtual and passes 20 ms a
frame, so nothing waits. `webrtcvad alone` is the detector on the frames that reach it, spread over
all frames; `with edges` begins and ends with µ-law payloads. Medians over rounds that alternate.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from flowcatd.audio.g711 import mulaw_to_pcm, pcm_to_mulaw
from flowcatd.audio.level import rms
from flowcatd.carriers.events import Encoding
from flowcatd.frames import Frame, InputAudio, Start
from flowcatd.options import Playout as PlayoutOptions
from flowcatd.options import Turns as TurnsOptions
from flowcatd.pipeline.chain import Chain
from flowcatd.processors.echo import Echo
from flowcatd.processors.figures import Figures
from flowcatd.processors.hear import Hear
from flowcatd.processors.playout import Playout
from flowcatd.processors.speak import Speak
from flowcatd.processors.turns import Turns
from flowcatd.processors.vad import FLOOR_RMS, Vad, webrtc_detector
from flowcatd.record import Identity, Ledger
from flowcatd.transports.edge import Edge
from flowcatd.wake import WakeList

RATE = 8000
SECONDS = 20
FRAMES = SECONDS * 50
ROUNDS = 15
SEED = 6210


class BenchScope:
    """Virtual time, 20 ms a frame."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._wakes = WakeList()

    def now(self) -> float:
        """Virtual seconds."""
        return self.time

    def wake(self, due: float, callback: Callable[[], None]) -> Any:
        """Fires as time passes."""
        return self._wakes.add(due, callback)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Any:
        """No tasks here."""
        work.close()
        raise NotImplementedError(name)

    def tick(self) -> None:
        """One frame later."""
        self.time += 0.02
        due = self._wakes.wake_at()
        if due is not None and due <= self.time:
            self._wakes.wake(self.time)


class Memory:
    """A far end that takes everything; `encode` is what it does to each frame."""

    has_marks = True
    lead_ms = 0

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        self._encode = encode
        self.frames = 0

    def send_audio(self, pcm: bytes) -> None:
        """Count it."""
        self._encode(pcm)
        self.frames += 1

    def send_mark(self, name: str) -> None:
        """Never asked."""

    def send_clear(self) -> None:
        """Nothing is kept."""

    def send_digits(self, digits: str) -> None:
        """Never asked."""

    def transfer(self, target: str) -> bool:  # noqa: ARG002 never asked
        """Never asked."""
        return False


def same(data: bytes) -> bytes:
    """No encoding."""
    return data


def chain_into(port: Memory, scope: BenchScope) -> Callable[[Frame], None]:
    """The echo agent's chain, started."""
    options = TurnsOptions()
    identity = Identity(call_id="bench", carrier="bench", agent="echo", worker_slot=0)
    ledger = Ledger(identity, datetime.now(UTC), scope.now())
    chain = Chain(
        [
            Vad(options, webrtc_detector()),
            Turns(options),
            Hear(options, ledger.usage),
            Echo(),
            Speak(None, ledger.usage),
            Playout(port, PlayoutOptions()),
            Figures(ledger),
        ],
        scope,
    )
    chain.feed(Start(RATE))
    return chain.feed


def speech_like() -> list[bytes]:
    """Noise under an envelope of four syllables a second with a pause in each second, as µ-law."""
    random = np.random.default_rng(SEED)
    at = np.arange(SECONDS * RATE) / RATE
    envelope = np.maximum(0.0, np.sin(2 * np.pi * 4 * at)) * (at % 1.0 < 0.75)
    noise = np.convolve(
        random.normal(size=len(at)), np.ones(6) / 6, "same"
    )  # below 1.3 kHz, mostly
    sound = (noise * envelope * 9000).clip(-32_000, 32_000).astype("<i2").tobytes()
    return [pcm_to_mulaw(sound[i : i + 320]) for i in range(0, len(sound), 320)]


def through_chain(payloads: Sequence[bytes]) -> float:
    """Microseconds per frame from decoded frame to sent frame."""
    scope = BenchScope()
    port = Memory(same)
    feed = chain_into(port, scope)
    frames = [
        InputAudio(mulaw_to_pcm(payload), RATE, 20 * index)
        for index, payload in enumerate(payloads)
    ]
    started = time.perf_counter()
    for frame in frames:
        feed(frame)
        scope.tick()
    cost = (time.perf_counter() - started) / len(frames) * 1e6
    assert port.frames == len(frames), "the chain did not send back what it was fed"
    return cost


def with_edges(payloads: Sequence[bytes]) -> float:
    """Microseconds per frame from payload to payload."""
    scope = BenchScope()
    edge = Edge(Encoding.MULAW, RATE)
    port = Memory(edge.encode)
    feed = chain_into(port, scope)
    started = time.perf_counter()
    for index, payload in enumerate(payloads):
        for frame in edge.receive(payload, 20 * index, 20 * index):
            feed(frame)
        scope.tick()
    return (time.perf_counter() - started) / len(payloads) * 1e6


def detector_alone(payloads: Sequence[bytes]) -> float:
    """Microseconds per frame for those frames that are loud enough to be asked about."""
    detector = webrtc_detector()
    if detector is None:
        return 0.0
    asked = [pcm for pcm in map(mulaw_to_pcm, payloads) if rms(pcm) >= FLOOR_RMS]
    started = time.perf_counter()
    for pcm in asked:
        detector.is_speech(pcm, RATE)
    return (time.perf_counter() - started) / len(payloads) * 1e6


def ticks_alone(payloads: Sequence[bytes]) -> float:
    """Microseconds per frame of this bench's own clock."""
    scope = BenchScope()
    started = time.perf_counter()
    for _ in payloads:
        scope.tick()
    return (time.perf_counter() - started) / len(payloads) * 1e6


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sounds = {"silence": [b"\xff" * 160] * FRAMES, "speech-like": speech_like()}
    measures: dict[str, Callable[[Sequence[bytes]], float]] = {
        "echo chain": through_chain,
        "with edges": with_edges,
        "webrtcvad alone": detector_alone,
        "the bench's clock": ticks_alone,
    }
    rounds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for sound, payloads in sounds.items():
            for name, measure in measures.items():
                rounds.setdefault(f"{sound}: {name}", []).append(measure(payloads))
    result = {name: round(statistics.median(costs), 2) for name, costs in rounds.items()}
    for sound in sounds:
        share = result[f"{sound}: webrtcvad alone"] / result[f"{sound}: echo chain"]
        result[f"{sound}: webrtcvad's share of the chain, %"] = round(100 * share, 1)
    if arguments.json:
        print(msgspec.json.encode(result).decode())
        return 0
    print(f"Python {sys.version.split()[0]}, µs per frame, median of {ROUNDS} rounds of {FRAMES}")
    for name, cost in result.items():
        print(f"  {cost:7.2f}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
