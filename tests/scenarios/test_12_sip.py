"""Calls over SIP through the real daemon: a telephone calls, is heard, presses, holds, hangs up.

The telephone is tests/scenarios/sip_phone.py; other people's telephones are in tests/interop.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from flowcatd.sip.agent_event import Connected, Media
from tests.scenarios.daemon import Daemon, free_block, running, until
from tests.scenarios.sip_phone import SipPhone, Talk, sip_phone

pytestmark = pytest.mark.scenario


async def until_heard(talk: Talk, frames: int = 25) -> None:
    """So many 20 ms of sound have come back."""
    begun = len(talk.heard_at)
    await until(lambda: len(talk.heard_at) >= begun + frames, "sound")


async def test_a_telephone_calls_and_hears_the_echo_of_itself(tmp_path: Path) -> None:
    """INVITE, 200, ACK, audio both ways, BYE; the record says how it went."""
    port = free_block(1)
    async with running(
        tmp_path, f"sip.port={port}", "workers.count=1", "records.record=true"
    ) as daemon:
        async with sip_phone() as phone:
            talk = await phone.call(f"sip:anyone@127.0.0.1:{port}")
            assert talk.has(Connected), talk.ended
            await until_heard(talk, 50)
            phone.hang_up(talk)
            await until(lambda: talk.ended is not None, "the end")
        record = await daemon.record_of(record_name(phone))
    assert (record["carrier"], record["agent"]) == ("sip", "echo")
    assert record["ended_by"] == "caller"
    sip = record["sip"]
    assert (sip["trunk"], sip["direction"], sip["status"], sip["codec"]) == (
        "loopback",
        "inbound",
        200,
        "PCMU",
    )
    assert sip["media"]["packets_in"] > 50
    assert sip["media"]["mos"] > 4.0
    assert [line.split(" ", 1)[1] for line in sip["ladder"]] == [
        "← INVITE 1 +body",
        "→ 200 INVITE 1 +body",
        "← ACK 1",
        "← BYE 2",
        "→ 200 BYE 2",
    ]


def record_name(phone: SipPhone) -> str:
    """The run id of the phone's latest call: its Call-ID."""
    line = next(
        each for each in phone.sent[0].decode().splitlines() if each.lower().startswith("call-id:")
    )
    return line.partition(":")[2].strip()


async def test_a_held_call_is_silent_and_comes_back(tmp_path: Path) -> None:
    """Hold and resume by re-INVITE; nothing is heard meanwhile, and afterwards all is as before."""
    port = free_block(1)
    async with running(tmp_path, f"sip.port={port}", "workers.count=1"), sip_phone() as phone:
        talk = await phone.call(f"sip:anyone@127.0.0.1:{port}")
        await until_heard(talk)
        phone.hold(talk)
        await until(lambda: sum(isinstance(each, Media) for each in talk.events) == 2, "hold")
        await asyncio.sleep(0)
        phone.hold(talk, held=False)
        await until(lambda: sum(isinstance(each, Media) for each in talk.events) == 3, "resume")
        await until_heard(talk)
        phone.hang_up(talk)
        await until(lambda: talk.ended is not None, "the end")


async def worker_of(daemon: Daemon) -> int:
    """The pid of the only worker."""
    return int(daemon.log("worker.started")[-1]["pid"])


async def test_a_call_survives_the_death_of_its_worker(tmp_path: Path) -> None:
    """Kill -9: the slot's next process has the dialog, the ports and the SSRC; audio is back within 1 s."""
    port = free_block(1)
    settings = ("workers.count=1", "records.record=true", "records.journal=true")
    async with running(tmp_path, f"sip.port={port}", *settings) as daemon, sip_phone() as phone:
        talk = await phone.call(f"sip:anyone@127.0.0.1:{port}")
        await until_heard(talk, 50)
        assert talk.stream is not None
        before = talk.stream.figures()
        os.kill(await worker_of(daemon), signal.SIGKILL)
        killed_at = talk.heard_at[-1]
        await until(lambda: len(daemon.log("worker.started")) == 2, "the next worker")
        heard = len(talk.heard_at)
        await until(lambda: len(talk.heard_at) > heard + 25, "sound again")
        gap = max(b - a for a, b in zip(talk.heard_at, talk.heard_at[1:], strict=False))
        assert gap < 1.0, f"{gap:.2f} s without sound after {killed_at}"
        assert talk.stream.figures().sources == before.sources == 1
        phone.hold(talk)
        await until(lambda: sum(isinstance(each, Media) for each in talk.events) == 2, "hold")
        phone.hold(talk, held=False)
        await until(lambda: sum(isinstance(each, Media) for each in talk.events) == 3, "resume")
        await until_heard(talk)
        phone.hang_up(talk)
        await until(lambda: talk.ended is not None, "the end")
        record = await daemon.record_of(record_name(phone))
    assert record["resumed"] == 1
    assert record["ended_by"] == "caller"
