"""How long garbage collections hold a worker: young ones, and a full one of so many calls' objects.

Run: `python -m bench.micro.collector [--json]`, pinned with `taskset -c 1` for a steady figure.

The objects are what calls are made of (an instance, its dictionary, a list and a circle, 700 of them
a call), made under the thresholds that `workers/collector.py` sets. The ratio of a full collection's
pause to the sum of the young ones before it is the collector's expectation put to the test.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from time import perf_counter

import msgspec

THRESHOLDS = (700, 10, 2**31 - 1)
"""Those of workers/collector.py, which a bench does not import."""
OBJECTS_A_CALL = 700
ROUNDS = 7


class Thing:
    """A stand-in for a processor."""

    def __init__(self, number: int) -> None:
        self.table = {"at": [number]}
        self.me = self


def one_round(calls: int) -> tuple[list[float], list[float], float, float]:
    """Pauses in µs: each youngest, each middle, the full one with all alive, and with all dead."""
    pauses: tuple[list[float], list[float], list[float]] = ([], [], [])
    began = [0.0]

    def called(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            began[0] = perf_counter()
        else:
            pauses[info["generation"]].append((perf_counter() - began[0]) * 1e6)

    gc.collect()
    gc.callbacks.append(called)
    kept = [Thing(number) for number in range(calls * OBJECTS_A_CALL // 3)]
    gc.collect()
    del kept
    gc.collect()
    gc.callbacks.remove(called)
    return pauses[0], pauses[1], pauses[2][0], pauses[2][1]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    result: dict[str, float] = {}
    for calls in (50, 200, 400):
        rounds = [one_round(calls) for _ in range(ROUNDS)]
        if calls == 200:
            result["youngest, median"] = statistics.median(p for r in rounds for p in r[0])
            result["youngest, longest"] = max(p for r in rounds for p in r[0])
            result["middle, median"] = statistics.median(p for r in rounds for p in r[1])
            result["middle, longest"] = max(p for r in rounds for p in r[1])
        result[f"full, {calls} calls alive"] = statistics.median(r[2] for r in rounds)
        result[f"full, {calls} calls dead"] = statistics.median(r[3] for r in rounds)
        ratios = [r[2] / (sum(r[0]) + sum(r[1])) for r in rounds]
        result[f"full over expected, {calls} calls, %"] = 100 * statistics.median(ratios)
    result = {name: round(figure, 1) for name, figure in result.items()}
    if arguments.json:
        print(msgspec.json.encode(result).decode())
        return 0
    print(f"Python {sys.version.split()[0]}, pauses in µs, median of {ROUNDS} rounds")
    for name, figure in result.items():
        print(f"  {figure:9.1f}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
