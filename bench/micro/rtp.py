"""Microseconds per 20 ms of one RTP stream, both ways, and bytes per stream: `python -m bench.micro.rtp`.

In: a datagram through packet, source, sequence and jitter buffer, and the tick that plays it, G.711
decoding included; on a perfect line and with 5 % loss, 40 ms jitter and reordering. Out: 20 ms of PCM to a
datagram, encoding included. The best of five runs, so that the machine's other work does not count;
the voice is noise, since silence takes shorter ways.
"""

from __future__ import annotations

import random
import sys
import timeit
import tracemalloc
from collections.abc import Callable

from flowcatd.audio.g711 import mulaw_to_pcm
from flowcatd.rtp.codec import PCMU
from flowcatd.rtp.packet import parse_packet
from flowcatd.rtp.stream import Plan, Stream

TICKS = 20_000
REPEAT = 5
TICK = 0.02
FAR = ("192.0.2.7", 40_000)
PLAN = Plan((PCMU,), FAR, digits_type=101, noise_type=13)

_Arrivals = list[list[tuple[bytes, float]]]
"""By tick: what came before it, and when."""


def main() -> None:
    """Print one line per figure."""
    print(f"python {sys.version.split()[0]}; microseconds per 20 ms")
    dice = random.Random(3550)
    pcm = mulaw_to_pcm(dice.randbytes(160))
    packet = Stream(PLAN, dice.getrandbits).send(pcm)[0]
    show("parse_packet alone", measure(lambda: parse_packet(packet)))
    perfect, bad = arrivals(0.0, 0.0), arrivals(0.05, 0.04)
    show("datagram in, perfect line", best(lambda: receive(perfect)))
    show("datagram in and 20 ms heard", best(lambda: hear(perfect)))
    show("the same, 5 % loss, 40 ms jitter", best(lambda: hear(bad)))
    show("20 ms out", out(pcm))
    print(f"{memory(bad):>9.0f}  bytes per stream, buffers filled")


def arrivals(loss: float, jitter: float) -> _Arrivals:
    """A far end's packets as a line delivers them."""
    dice = random.Random(4733)
    far = Stream(PLAN, dice.getrandbits)
    voices = [mulaw_to_pcm(dice.randbytes(160)) for _ in range(50)]
    came: _Arrivals = [[] for _ in range(TICKS + 10)]
    for tick in range(TICKS):
        for data in far.send(voices[tick % 50]):
            at = tick * TICK + 0.001 + dice.random() * jitter
            if dice.random() >= loss:
                came[int(at / TICK) + 1].append((data, at))
    for together in came:
        together.sort(key=lambda arrival: arrival[1])
    return came


def receive(came: _Arrivals) -> None:
    """Only take them in: what is full drops its oldest."""
    leg = Stream(PLAN, random.Random(1).getrandbits)
    for tick in came:
        for data, at in tick:
            leg.receive_datagram(data, FAR, at)


def hear(came: _Arrivals) -> Stream:
    """Take them in, and play a tick."""
    leg = Stream(PLAN, random.Random(1).getrandbits)
    now = 0.0
    for tick in came:
        for data, at in tick:
            leg.receive_datagram(data, FAR, at)
        leg.pull(now)
        now += TICK
    return leg


def out(pcm: bytes) -> float:
    """One tick of ours."""
    leg = Stream(PLAN, random.Random(1).getrandbits)
    return measure(lambda: leg.send(pcm))


def memory(came: _Arrivals) -> float:
    """What a hundred streams in the middle of talk keep, by one."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    legs = [hear(came[:500]) for _ in range(100)]
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return kept / len(legs)


def measure(step: Callable[[], object]) -> float:
    """Microseconds of one step, in the quietest of the runs."""
    return min(timeit.repeat(step, number=TICKS, repeat=REPEAT)) / TICKS * 1e6


def best(run: Callable[[], object]) -> float:
    """Microseconds per tick of a whole run, in the quietest of the runs."""
    return min(timeit.repeat(run, number=1, repeat=REPEAT)) / TICKS * 1e6


def show(name: str, microseconds: float) -> None:
    """One line."""
    print(f"{microseconds:9.2f}  {name}")


if __name__ == "__main__":
    main()
