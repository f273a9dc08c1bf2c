"""The SIP side's counts in the schema of metrics: which count is which series."""

from __future__ import annotations

from pathlib import Path

from flowcatd.metrics import SIP_CLASSES, SIP_TRANSPORTS, Metrics
from tests.scenarios.sip_phone import Manner, sip_phone
from tests.workers.sip_worker import sip_worker, up
from workers.sip_figures import count


def read(metrics: Metrics, name: str) -> dict[str, float]:
    """Label to value."""
    return dict({**metrics.counters, **metrics.gauges}[name])


async def test_messages_and_answers_are_counted_where_they_belong(tmp_path: Path) -> None:
    """INVITE, ACK, BYE in; two 200 and a 403 out; garbage; twice counted is not counted twice."""
    async with (
        sip_worker(tmp_path) as worker,
        sip_phone() as phone,
        sip_phone(Manner(transport="TCP")) as other,
    ):
        for each in (phone, other):
            each.hang_up(await up(worker, each))
            await worker.empty()
        sent = worker.sip.wire.counts
        metrics = Metrics()
        for _ in range(2):
            count(worker.sip, metrics)
        received = read(metrics, "sip_received")
        assert set(received) == set(SIP_TRANSPORTS)
        assert (received["udp"], received["tcp"], received["ws"]) == (3, 3, 0)
        assert read(metrics, "sip_sent")["udp"] == sent["udp_out"] == 2
        answers = read(metrics, "sip_answers")
        assert set(answers) == set(SIP_CLASSES)
        assert answers["2xx"] == 4
        assert sum(answers.values()) == 4
        assert read(metrics, "trunks_dead") == {"": 0}
