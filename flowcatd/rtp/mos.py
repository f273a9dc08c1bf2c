"""How good a call sounds, as a number: the E-model, cut down to what an RTP stream knows.

ITU-T G.107 (06/2015) rates a connection R = Ro - Is - Id - Ie,eff + A. With its defaults for all that
concerns rooms, handsets and levels (§7.7) the first two are 93.2, and echo is taken to be cancelled, so
of Id only Idd remains, the impairment of absolute delay (equations 7-27, 7-28):

    Idd = 25 ((1 + X^6)^(1/6) - 3 (1 + (X/3)^6)^(1/6) + 2),   X = log2(Ta / 100 ms);   0 up to 100 ms
    Ie,eff = Ie + (95 - Ie) Ppl / (Ppl / BurstR + Bpl)                               (equation 7-29)

Ppl is loss in percent, BurstR how much longer losses run on than chance would have it. R becomes a mean
opinion score of 1 to 4.5 by annex B. Ie and Bpl are codecs' values from G.113 appendix I (G.711 with
concealment: 0 and 25.1). G.722 and Opus have none on this narrow-band scale: they are taken for
G.711 with concealment, so that figures of one call can be compared with those of another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BEST_R = 93.2
"""Nothing wrong but what defaults make of it (G.107 §7.7)."""
IMPAIRMENT = {"PCMU": (0.0, 25.1), "PCMA": (0.0, 25.1), "G729": (11.0, 19.0)}
"""Ie and Bpl (G.113 appendix I, tables I.1 and I.3)."""
_OTHER = (0.0, 25.1)


@dataclass(frozen=True, slots=True)
class Quality:
    """The verdict."""

    r: float
    mos: float


def rate(codec: str, loss: float, delay_ms: float, burst_ratio: float = 1.0) -> Quality:
    """`loss` is a share, 0 to 1, of what was to be heard; `delay_ms` from mouth to ear, one way."""
    ie, robustness = IMPAIRMENT.get(codec, _OTHER)
    percent = 100.0 * min(max(loss, 0.0), 1.0)
    effective = ie + (95.0 - ie) * percent / (percent / max(burst_ratio, 1.0) + robustness)
    r = BEST_R - delay_impairment(delay_ms) - effective
    return Quality(max(r, 0.0), opinion(r))


def delay_impairment(delay_ms: float) -> float:
    """Idd, for users of average sensitivity."""
    if delay_ms <= 100.0:
        return 0.0
    x = math.log2(delay_ms / 100.0)
    lost: float = 25.0 * ((1.0 + x**6) ** (1 / 6) - 3.0 * (1.0 + (x / 3.0) ** 6) ** (1 / 6) + 2.0)
    return lost


def opinion(r: float) -> float:
    """The mean opinion score that R stands for (G.107 annex B)."""
    if r <= 0.0:
        return 1.0
    if r >= 100.0:
        return 4.5
    # Below R = 6.5 the cubic dips under 1, where no score is.
    return max(1.0, 1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6)


def burst_ratio(lost: int, runs: int, sent: int) -> float:
    """How much longer losses run than chance has it; at least 1. `runs` are losses on end."""
    if not (runs and 0 < lost < sent):
        return 1.0
    return max(1.0, lost / runs * (1.0 - lost / sent))
