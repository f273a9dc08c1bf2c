"""Mutated RTP and RTCP against the whole room: `python -m tests.fuzz.rtp --count N --seconds S`.

Every datagram is a good one with some octets changed, cut, doubled or replaced, fed to a stream that
hears it as its far end's, with ticks and wakes in between. Nothing may come out of `receive_datagram`
and `receive_rtcp`, the parsers raise RtpError or nothing, every tick is 20 ms of PCM, and what is kept
stays bounded. The seed is printed first; the same seed gives the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from collections.abc import Callable

from flowcatd.rtp.codec import PCMA, PCMU
from flowcatd.rtp.comfort import Noise, build_noise, parse_noise
from flowcatd.rtp.digits import build_event
from flowcatd.rtp.jitter import MAX_PACKETS
from flowcatd.rtp.packet import Extension, Packet, build_packet, parse_packet
from flowcatd.rtp.rtcp import (
    Application,
    Block,
    Description,
    Goodbye,
    Report,
    build_rtcp,
    parse_rtcp,
)
from flowcatd.rtp.stream import Plan, Stream
from flowcatd.rtp.trouble import RtpError

FAR = ("192.0.2.7", 40_000)
PLAN = Plan((PCMU, PCMA), FAR, digits_type=101, noise_type=13, mux=True, cname=b"fuzz")
BLOCK = Block(7, 12, -3, 70_000, 44, 1, 2)
REPORTS = (
    build_rtcp([Report(7, (BLOCK,), 1 << 40, 5, 6, 7), Description(7, b"far"), Goodbye((7, 8))]),
    build_rtcp([Report(7, (BLOCK, BLOCK)), Application(7, 1, b"name", b"data")]),
)


def main() -> int:
    """Run until the count or the time is used up."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.rtp", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    asked = parser.parse_args()
    sys.stdout.write(f"seed {asked.seed}\n")
    sys.stdout.flush()
    until = time.monotonic() + asked.seconds
    done = fuzz(asked.count, asked.seed, lambda: time.monotonic() < until)
    sys.stdout.write(f"{done} mutated datagrams, nothing but drops\n")
    return 0


def fuzz(count: int, seed: int, may_go_on: Callable[[], bool]) -> int:
    """Feed up to `count` datagrams; how many they were. Raises what should never be raised."""
    dice = random.Random(seed)
    leg = Stream(PLAN, dice.getrandbits)
    leg.direct(0.0, sending=True, receiving=True)
    now = 0.0
    for number in range(count):
        if number % 1024 == 0 and not may_go_on():
            return number
        now += dice.random() * 3 if dice.random() < 0.01 else dice.choice((0.0, 0.005, 0.02, 0.02))
        data = mutated(sample(dice, number), dice)
        for parse in (parse_packet, parse_rtcp, parse_noise):
            with contextlib.suppress(RtpError):
                parse(data)
        leg.receive_datagram(data, FAR, now)
        leg.receive_rtcp(data, FAR, now)
        if number % 3 == 0:
            assert len(leg.pull(now)) == 320
            leg.wake(now)
        if number % 16 == 0:
            leg.events()
            leg.outgoing()
            leg.figures()
            assert leg._receiver.jitter.waiting <= MAX_PACKETS  # the bound itself
    return count


def sample(dice: random.Random, number: int) -> bytes:
    """A good datagram: audio mostly, and everything else there is."""
    kind = dice.random()
    if kind < 0.15:
        return dice.choice(REPORTS)
    step = number & 0xFFFF
    if kind < 0.25:
        payload = build_event(dice.randrange(20), dice.randrange(65_536), end=dice.random() < 0.3)
        return build_packet(Packet(101, False, step, 160 * (number // 8), 7, payload))
    if kind < 0.3:
        noise = build_noise(Noise(dice.randrange(128), tuple(dice.randbytes(dice.randrange(14)))))
        return build_packet(Packet(13, False, step, 160 * number & 0xFFFFFFFF, 7, noise))
    packet = Packet(
        dice.choice((0, 0, 8)),
        dice.random() < 0.1,
        step,
        160 * number & 0xFFFFFFFF,
        7,
        dice.randbytes(dice.choice((80, 160, 160, 240, 480, 1000))),
        csrc=(1, 2) if dice.random() < 0.05 else (),
        extension=Extension(0xBEDE, bytes(8)) if dice.random() < 0.05 else None,
        padding=4 if dice.random() < 0.05 else 0,
    )
    return build_packet(packet)


def mutated(data: bytes, dice: random.Random) -> bytes:
    """The datagram with something wrong in it, mostly in its header."""
    octets = bytearray(data)
    for _ in range(dice.choice((0, 1, 1, 2, 4))):
        how = dice.random()
        at = dice.randrange(min(len(octets), dice.choice((4, 16, 16, 4096)))) if octets else 0
        if not octets or how < 0.05:
            octets = bytearray(dice.randbytes(dice.randrange(64)))
        elif how < 0.6:
            octets[at] = dice.randrange(256)
        elif how < 0.8:
            octets[at] ^= 1 << dice.randrange(8)
        elif how < 0.9:
            del octets[at:]
        else:
            octets[at:at] = octets[at : at + dice.randrange(64)]
    return bytes(octets)


if __name__ == "__main__":
    sys.exit(main())
