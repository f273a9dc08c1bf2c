"""What a hop costs: the promise of the pipeline, with room for a busy machine."""

from __future__ import annotations

from bench.micro.pipeline import PROCESSORS, BenchScope, Deaf, Passing, by_hand, measure
from flowcatd.frames import InputAudio
from flowcatd.pipeline.chain import Chain

ROUNDS = 10
FRAME = InputAudio(bytes(320), 8000, 0)


def best(feed) -> float:
    """The quickest of several rounds, in µs per frame: what the code costs, not what its neighbours do."""
    return min(measure(feed, FRAME) for _ in range(ROUNDS))


def test_seven_processors_cost_an_audio_frame_less_than_three_microseconds() -> None:
    """Each handles the frame and hands it on."""
    assert best(Chain([Passing() for _ in range(PROCESSORS)], BenchScope()).feed) < 3.0


def test_a_hop_costs_little_more_than_the_call_it_is() -> None:
    """Against seven nested calls by hand, in the same run: less than four times as much."""
    chained = best(Chain([Passing() for _ in range(PROCESSORS)], BenchScope()).feed)
    assert chained < 4 * best(by_hand())


def test_processors_that_ignore_audio_cost_it_nothing() -> None:
    """Seven of them are no dearer than none."""
    deaf = Chain([Deaf() for _ in range(PROCESSORS)], BenchScope())
    none = Chain([], BenchScope())
    assert best(deaf.feed) < 2 * best(none.feed)
