"""A stream as a whole: what a telephone line does to it, in virtual time."""

from __future__ import annotations

import heapq
import math
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from flowcatd.audio.g711 import pcm_to_mulaw
from flowcatd.errors import LocalError
from flowcatd.rtp.codec import PCMA, PCMU
from flowcatd.rtp.digits import KEYS, Digit, DigitWriter, Pressed
from flowcatd.rtp.packet import Packet, build_packet, parse_packet
from flowcatd.rtp.rtcp import Block, Description, Goodbye, Report, build_rtcp, parse_rtcp
from flowcatd.rtp.sender import AHEAD
from flowcatd.rtp.stream import Guard, Inactive, Left, Moved, Plan, Stream
from flowcatd.rtp.trouble import RtpError
from flowcatd.rtp.watchdog import Patience
from tests.laws import keeps_bounded_law, keeps_quiet_law

FAR = ("192.0.2.7", 40_000)
ELSEWHERE = ("198.51.100.9", 5004)
T0 = 1000.0
TICK = 0.02
PLAN = Plan((PCMU, PCMA), FAR, digits_type=101, noise_type=13, cname=b"leg")


def chance(seed: int) -> Callable[[int], int]:
    """Bits that a test can count on."""
    return random.Random(seed).getrandbits


def stream(plan: Plan = PLAN, seed: int = 1) -> Stream:
    """One leg."""
    return Stream(plan, chance(seed))


def voice(frames: int) -> list[bytes]:
    """Something periodic like a voice: 140 Hz with harmonics, rising and falling."""
    samples = []
    for n in range(160 * frames):
        t = n / 8000
        loud = 5000 * (1.2 + math.sin(2 * math.pi * 0.7 * t))
        wave = sum(math.sin(2 * math.pi * 140 * h * t) / h for h in range(1, 8))
        samples.append(int(loud * wave / 2.5))
    pcm = struct.pack(f"<{len(samples)}h", *samples)
    return [pcm[at : at + 320] for at in range(0, len(pcm), 320)]


VOICE = voice(50)


@dataclass
class Line:
    """What the way does to packets: a delay of its own for each, or None for loss."""

    way: Callable[[int, float], float | None]
    drift: float = 0.0
    """How much faster than ours the far end's clock runs."""
    ptime_ms: int = 20
    keys: dict[int, str] = field(default_factory=dict)
    """Pressed at these ticks."""

    def packets(self, frames: int) -> Iterator[tuple[float, int, bytes]]:
        """Arrivals in order: time, number of the packet, datagram; what is lost has none."""
        far = Stream(replace(PLAN, ptime_ms=self.ptime_ms), chance(7))
        far.direct(T0, sending=True, receiving=True)
        waiting: list[tuple[float, int, bytes]] = []
        number = 0
        for tick in range(frames):
            sent_at = T0 + tick * TICK / (1 + self.drift)
            if tick in self.keys:
                far.press(self.keys[tick])
            for data in far.send(VOICE[tick % len(VOICE)]):
                delay = self.way(number, sent_at)
                if delay is not None:
                    heapq.heappush(waiting, (sent_at + 0.03 + delay, number, data))
                number += 1
            # Nothing sent later than a second from here can overtake.
            while waiting and waiting[0][0] < sent_at:
                yield heapq.heappop(waiting)
        while waiting:
            yield heapq.heappop(waiting)


@dataclass
class Heard:
    """What came of it."""

    leg: Stream
    delays_ms: list[float]
    """The buffer's delay at each second."""
    events: list[object]
    ends: float


def listen(line: Line, seconds: float) -> Heard:
    """Play a line into a stream for so long, pulling every 20 ms; all drained to the end."""
    leg = stream()
    leg.direct(T0, sending=True, receiving=True)
    frames = int(seconds / TICK)
    arrivals = line.packets(frames)
    coming = next(arrivals, None)
    delays, events = [], []
    now, ticks = T0, 0
    while coming is not None or ticks < frames:
        now = T0 + 0.007 + ticks * TICK
        while coming is not None and coming[0] <= now:
            leg.receive_datagram(coming[2], FAR, coming[0])
            coming = next(arrivals, None)
        leg.wake(now)
        assert len(leg.pull(now)) == 320
        events += leg.events()
        leg.outgoing()
        ticks += 1
        if ticks % 50 == 0:
            delays.append(leg.figures().delay_ms)
    return Heard(leg, delays, events, now)


def uniform(seed: int, *, loss: float = 0.05, jitter: float = 0.04) -> Callable[..., float | None]:
    """Each packet for itself; so much jitter reorders them too."""
    dice = random.Random(seed)
    return lambda _number, _at: None if dice.random() < loss else dice.random() * jitter


def bursty(seed: int, *, loss: float = 0.05, jitter: float = 0.04) -> Callable[..., float | None]:
    """Held back and let go together, every second or so; a tenth of the packets is overtaken."""
    dice = random.Random(seed)
    held_until = 0.0
    next_hold = T0

    def way(_number: int, at: float) -> float | None:
        nonlocal held_until, next_hold
        if at >= next_hold:
            held_until = at + jitter
            next_hold = at + dice.uniform(0.2, 2.0)
        if dice.random() < loss:
            return None
        if at < held_until:
            return held_until - at
        return dice.uniform(0.02, jitter) if dice.random() < 0.1 else 0.0

    return way


MINUTES = 600
"""Seconds: the issue's ten minutes."""


@pytest.mark.parametrize("way", [uniform, bursty])
@pytest.mark.parametrize("drift", [200e-6, -200e-6])
def test_ten_bad_minutes_add_no_delay_and_conceal_what_was_lost(way, drift):
    """5 % loss, 40 ms jitter, reordering, 200 ppm: the delay stays, holes are as long as the loss."""
    keys = {100 + 600 * n: KEYS[:16] for n in range(48)}
    heard = listen(Line(way(3), drift, keys=keys), MINUTES)
    figures = heard.leg.figures()
    assert max(heard.delays_ms) <= 200
    late = heard.delays_ms[-60:]
    early = heard.delays_ms[20:80]
    assert abs(sum(late) / len(late) - sum(early) / len(early)) < 5
    mean = sum(heard.delays_ms) / len(heard.delays_ms)
    assert 40 <= mean <= 65
    told = "".join(event.key for event in heard.events if isinstance(event, Digit))
    assert told == KEYS[:16] * 48
    print(figures, mean)
