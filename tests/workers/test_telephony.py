"""Calls that come in: let in, turned away, taken over, and what is left of them: nothing."""

from __future__ import annotations

from pathlib import Path

from tests.scenarios.sip_phone import sip_phone
from tests.workers.sip_worker import Setting, sip_worker, trunk, up


async def test_a_call_leaves_nothing(tmp_path: Path) -> None:
    """In, heard, out."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone:
        talk = await up(worker, phone)
        assert worker.live() == (1, 0)
        phone.hang_up(talk)
        await worker.empty()
        assert worker.record()["ended_by"] == "caller"


async def test_an_agent_that_is_gone_refuses_its_calls_only(tmp_path: Path) -> None:
    """A route may name an agent that this worker was not started with: 503, and the next call is taken."""
    routes = '[[route]]\nnumber = "7"\nagent = "gone"\n[[route]]\nagent = "echo"\n'
    setting = Setting(trunks=[trunk(routes=routes)])
    async with sip_worker(tmp_path, setting) as worker, sip_phone() as phone:
        refused = await phone.call(f"sip:7@127.0.0.1:{worker.port}")
        assert refused.ended is not None
        assert refused.ended.status == 503
        phone.hang_up(await up(worker, phone))
        await worker.empty()
