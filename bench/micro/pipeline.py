"""What one frame costs through seven processors that each handle it and hand it on.

Run: `python -m bench.micro.pipeline [--json]`, pinned with `taskset -c 1` for a steady figure.

Besides the chain, the same seven handlers called by hand (the floor that Python sets) and a chain
whose processors ignore audio, alternating, repeated; the figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from flowcatd.frames import Frame, InputAudio, InputDtmf, OutputAudio
from flowcatd.pipeline.chain import Chain, forget
from flowcatd.pipeline.observer import Tally
from flowcatd.pipeline.processor import Processor, down
from flowcatd.wake import WakeList

FRAMES = 20_000
ROUNDS = 15
PROCESSORS = 7


class BenchScope:
    """A scope for processors that never wait."""

    def __init__(self) -> None:
        self._wakes = WakeList()

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def wake(self, due: float, callback: Callable[[], None]) -> Any:
        """Never fires."""
        return self._wakes.add(due, callback)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Any:
        """No tasks here."""
        raise NotImplementedError(name)


class Passing(Processor):
    """Looks at each audio frame and hands it on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    @down(InputAudio, OutputAudio)
    def see(self, frame: InputAudio | OutputAudio) -> None:
        """Count and pass on."""
        self.seen += 1
        self.push(frame)


class Deaf(Processor):
    """Ignores audio."""

    @down(InputDtmf)
    def digit(self, frame: InputDtmf) -> None:
        """Pass on."""
        self.push(frame)


def by_hand() -> Callable[[Frame], None]:
    """Seven nested calls with the same work and no chain."""
    seen = [0] * PROCESSORS

    def layer(index: int, following: Callable[[Frame], None]) -> Callable[[Frame], None]:
        def see(frame: Frame) -> None:
            seen[index] += 1
            following(frame)

        return see

    function: Callable[[Frame], None] = forget
    for index in range(PROCESSORS):
        function = layer(index, function)
    return function


def measure(feed: Callable[[Frame], None], frame: Frame) -> float:
    """Microseconds per frame."""
    started = time.perf_counter()
    for _ in range(FRAMES):
        feed(frame)
    return (time.perf_counter() - started) / FRAMES * 1e6


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    scope = BenchScope()
    chain = Chain([Passing() for _ in range(PROCESSORS)], scope)
    deaf = Chain([Deaf() for _ in range(PROCESSORS)], scope)
    observed = Chain([Passing() for _ in range(PROCESSORS)], scope)
    observed.observe(Tally())
    inbound = InputAudio(bytes(320), 8000, 0)
    outbound = OutputAudio(0, bytes(320), 8000)
    cases: dict[str, tuple[Callable[[Frame], None], Frame]] = {
        "by hand, seven nested calls": (by_hand(), inbound),
        "seven processors, inbound audio": (chain.feed, inbound),
        "seven processors, outbound audio (epoch gates)": (chain.feed, outbound),
        "seven processors that ignore audio": (deaf.feed, inbound),
        "seven processors, one observer": (observed.feed, inbound),
    }
    rounds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, (feed, frame) in cases.items():
            rounds[name].append(measure(feed, frame))
    result = {name: round(statistics.median(times), 3) for name, times in rounds.items()}
    if arguments.json:
        print(msgspec.json.encode(result).decode())
        return 0
    print(f"Python {sys.version.split()[0]}, µs per frame, median of {ROUNDS} rounds of {FRAMES}")
    for name, cost in result.items():
        print(f"  {cost:7.3f}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
