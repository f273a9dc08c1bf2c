"""The figures of a worker's SIP side, brought into the schema of `flowcatd/metrics.py` once a second.

Sockets, policy and pacer count for themselves, on the way; here is nothing but which of their counts is
which series.
"""

from __future__ import annotations

from typing import Final

from flowcatd.metrics import Metrics
from workers.sip_side import SipSide

_TRANSPORTS: Final = {"udp": ("udp",), "tcp": ("tcp",), "tls": ("tls",), "ws": ("ws", "wss")}
"""A label's value to the names under which the wire counts."""


def count(sip: SipSide, metrics: Metrics) -> None:
    """Write all of them."""
    counts = sip.wire.counts
    for label, names in _TRANSPORTS.items():
        metrics.total("sip_received", sum(counts[f"{name}_in"] for name in names), label=label)
        metrics.total("sip_sent", sum(counts[f"{name}_out"] for name in names), label=label)
    metrics.total("sip_garbage", counts["garbage"])
    metrics.total("sip_screened", counts["screened"])
    for label, number in sip.telephony.answered.items():
        metrics.total("sip_answers", number, label=label)
    pacer = sip.premises.pacer
    metrics.total("pacer_late_ticks", pacer.owed + pacer.given_up)
    lines = sip.beat()
    registering = [line for line in lines if line.state]
    metrics.set("sip_registrations", len(registering), label="wanted")
    bound = sum(line.is_registered for line in registering)
    metrics.set("sip_registrations", bound, label="bound")
    metrics.set("trunks_dead", sum(not line.is_alive for line in lines))
