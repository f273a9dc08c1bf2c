"""The calling side of the bench, in a process and on a CPU of its own.

    python -m bench.sip.callers PORT CALLS SECONDS SOUND

Places so many calls at a SIP port of this machine, waits until they are settled, talks and listens for so
long, and hangs up. It prints a line when the window begins and one when it ends, between which all calls
are up and no signalling goes on, and then what it heard as JSON. SOUND is `tone` or `noise`: what makes the
daemon's voice detection hear somebody, and what does not.
"""

from __future__ import annotations

import math
import sys
import time

import msgspec

from bench.fleet.idle import noise
from bench.peers.rtp_load import FRAME, Line, open_socket, run
from bench.peers.sip_caller import SipCaller
from flowcatd.audio.g711 import pcm_to_mulaw

SETTLE_SECONDS = 4.0
NOISE_DBFS = -65.0
TONE_FRAMES = 50


class Heard(msgspec.Struct, frozen=True):
    """What the callers found."""

    calls: int
    sent: int
    received: int
    lost: int
    p50_us: float
    p99_us: float
    worst_us: float
    seconds: float


def frames_of(sound: str) -> list[bytes]:
    """20 ms pieces."""
    if sound == "noise":
        whole = b"".join(noise(NOISE_DBFS))
    else:
        at = range(TONE_FRAMES * FRAME)
        samples = (int(8000 * math.sin(2 * math.pi * 440 * n / 8000)) for n in at)
        whole = pcm_to_mulaw(b"".join(n.to_bytes(2, "little", signed=True) for n in samples))
    return [whole[begin : begin + FRAME] for begin in range(0, len(whole), FRAME)]


def measure(port: int, calls: int, seconds: float, sound: str) -> Heard:
    """Call, talk, listen, hang up."""
    caller = SipCaller("127.0.0.1", port)
    lines, placed = [], []
    try:
        for number in range(calls):
            wire = open_socket()
            one = caller.call(wire.getsockname()[1])
            lines.append(Line(one.media, frames_of(sound), wire, ssrc=number + 1))
            placed.append(one)
        run(lines, SETTLE_SECONDS)
        for line in lines:
            line.errors_us.clear()
        received, sent = sum(line.received for line in lines), sum(line.sent for line in lines)
        begun = time.monotonic()
        tell("begins")
        run(lines, seconds)
        tell("ends")
        took = time.monotonic() - begun
        errors = sorted(error for line in lines for error in line.errors_us)
        for one in placed:
            caller.hang_up(one)
    finally:
        caller.close()
        for line in lines:
            line.socket.close()
    return Heard(
        calls,
        sum(line.sent for line in lines) - sent,
        sum(line.received for line in lines) - received,
        sum(line.lost for line in lines),
        at(errors, 0.5),
        at(errors, 0.99),
        at(errors, 1.0),
        took,
    )


def tell(line: str) -> None:
    """A line to whoever measures the daemon meanwhile."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def at(ordered: list[float], share: float) -> float:
    """This quantile; the nearest one that was measured, 0 of none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered), math.ceil(share * len(ordered))) - 1]


if __name__ == "__main__":
    port_text, calls_text, seconds_text, sound_name = sys.argv[1:5]
    heard = measure(int(port_text), int(calls_text), float(seconds_text), sound_name)
    tell(msgspec.json.encode(heard).decode())
