"""What is measured of one call over a bad network, and what must hold of it. Pure.

The bounds, and why they are where they are:

    growth       GROWTH_MS over the whole call. An unheeded clock of 200 ppm makes 120 ms in ten minutes, so only
                 a run of that length proves anything of drift; jitter buffers breathe by 20 ms.
    delay        never above twice the ceiling (one jitter buffer at either end) and what is between
    buffers      never above the ceiling, at either end, whenever looked at
    digits       what was pressed, in order, each once
    concealed    20 ms for each packet that the network lost or that came too late to be played, within
                 SHARE of it
    MOS          of 5 % of random loss with packet loss concealment, G.107 says 3.9 before any delay
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowcatd.rtp.jitter import JitterOptions

PTIME_MS = 20
CEILING_MS = float(JitterOptions().ceiling_ms)
GROWTH_MS = 40.0
BETWEEN_MS = 2 * 65.0 + 4 * PTIME_MS
"""The network's worst, twice, and a frame at each end of each way."""
SHARE = 0.10
MOS = (3.0, 4.2)
FOUND_LEAST = 0.5
"""Of the chirps: each loses a tenth to loss, and more to splices."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One call; ms unless it says otherwise."""

    name: str
    seconds: float
    chirps: int
    found: int
    median: float
    worst: float
    growth: float
    buffer: float
    far_buffer: float
    looks: int
    """How often the far buffer was looked at."""
    pressed: str
    digits: str
    network_lost: int
    """Packets towards the daemon."""
    lost: int
    """As the daemon counts them."""
    late: int
    concealed: int
    stretched: int
    """Made up or taken out to follow the clock."""
    mos: float
    ended_by: str


def concealed_share(call: Figures) -> float:
    """What was concealed, by what had to be."""
    return call.concealed / max(1, (call.network_lost + call.late) * PTIME_MS)


def faults(call: Figures) -> list[str]:
    """What is not as it must be; nothing is right."""
    share = concealed_share(call)
    checks = {
        "the caller did not end it": call.ended_by != "caller",
        "nothing was lost, so nothing was tested": call.network_lost == 0,
        f"{call.found} of {call.chirps} chirps found": call.found < FOUND_LEAST * call.chirps,
        f"the delay grew by {call.growth:.0f} ms": abs(call.growth) > GROWTH_MS,
        f"a delay of {call.worst:.0f} ms": call.worst > 2 * CEILING_MS + BETWEEN_MS,
        f"a buffer of {call.buffer:.0f} ms": call.buffer > CEILING_MS,
        f"the daemon's buffer at {call.far_buffer:.0f} ms": call.far_buffer > CEILING_MS,
        "the daemon's buffer was never looked at": call.looks == 0,
        "no key was pressed": not call.pressed,
        _digits(call): call.pressed != call.digits,
        f"the daemon counts {call.lost} lost of {call.network_lost}": not _alike(call),
        f"concealed {share:.2f} of what was missing": abs(share - 1) > SHARE,
        f"MOS {call.mos}": not MOS[0] <= call.mos <= MOS[1],
    }
    return [what for what, is_wrong in checks.items() if is_wrong]


def _alike(call: Figures) -> bool:
    """Reports of RTCP are lost as well, and nobody counts them."""
    return abs(call.lost - call.network_lost) <= max(5, SHARE * call.network_lost)


def _digits(call: Figures) -> str:
    return f"{len(call.pressed)} keys pressed, {len(call.digits)} heard: not the same"


def table(calls: Sequence[Figures]) -> str:
    """For people."""
    lines = [
        (
            f"{'call':12} {'s':>5} {'found':>9} {'median':>6} {'worst':>6} {'growth':>6} {'buffers':>9} "
            f"{'keys':>7} {'lost':>11} {'late':>5} {'concealed':>15} {'stretch':>7} {'MOS':>5}"
        )
    ]
    for call in calls:
        right = sum(a == b for a, b in zip(call.pressed, call.digits, strict=False))
        buffers = f"{call.buffer:.0f}/{call.far_buffer:.0f}"
        concealed = f"{call.concealed} ({concealed_share(call):.3f})"
        lines += [
            (
                f"{call.name:12} {call.seconds:5.0f} {call.found:4}/{call.chirps:<4} {call.median:6.0f} "
                f"{call.worst:6.0f} {call.growth:6.1f} {buffers:>9} {right:3}/{len(call.pressed):<3} "
                f"{call.lost:5}/{call.network_lost:<5} {call.late:5} {concealed:>15} {call.stretched:7} "
                f"{call.mos:5.2f}"
            )
        ]
        lines += [f"    BROKEN: {fault}" for fault in faults(call)]
    return "\n".join(lines)
