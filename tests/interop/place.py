"""The daemon as these tests want it: SIP on a port of its own, trunks of its own, everything kept.

FLOWCATD_INTEROP_TARGET=user@host:port points what only calls and listens at another answerer instead: so
the scenarios themselves are proven, with a telephone of somebody else at both ends.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.interop.programs import free_ports
from tests.interop.sipp import Target
from tests.scenarios.daemon import Daemon, running, until

LOOPBACK = """\
[trunk]
name = "loopback"
[inbound]
sources = ["127.0.0.0/8", "::1"]
calls_per_second = 1000
[media]
codecs = ["pcmu", "pcma", "g722", "opus"]
srtp = "optional"
{more}
[[route]]
agent = "{agent}"
"""
OUTBOUND = """\
[trunk]
name = "outbound"
proxies = ["sip:{proxy}"]
transport = "{transport}"
[media]
codecs = ["pcmu", "pcma"]
[identity]
caller_id = "+4930123456"
[outbound]
enabled = true
prefixes = ["+49"]
calls_per_second = 100
"""
NUMBER = "+491701234567"
"""Whom we call."""


@dataclass
class Answerer:
    """A daemon and where its SIP is; no daemon when another answerer takes its place."""

    target: Target
    daemon: Daemon | None = None
    trunks: Path | None = None

    def uri(self, *parameters: str) -> str:
        """What a telephone dials."""
        more = "".join(f";{parameter}" for parameter in parameters)
        return f"sip:{self.target.user}@{self.target}{more}"

    async def record(self, call_id: str) -> dict[str, Any]:
        """The record of the call with this Call-ID."""
        assert self.daemon is not None
        return await self.daemon.record_of(call_id[:128])

    def records(self) -> list[dict[str, Any]]:
        """All records so far."""
        assert self.daemon is not None
        paths = self.daemon.records.glob("*.json")
        return [
            json.loads(path.read_text())
            for path in paths
            if not path.name.endswith(".transcript.json")
        ]

    async def new_record(self, before: int) -> dict[str, Any]:
        """The newest record, when there are more of them than before."""
        await until(lambda: len(self.records()) > before, "another record")
        return max(self.records(), key=lambda record: str(record["started_at_utc"]))

    def keys(self, record: dict[str, Any]) -> str:
        """The keys that were pressed in a call."""
        assert self.daemon is not None
        path = self.daemon.records / f"{record['call_id']}.transcript.json"
        entries = json.loads(path.read_text())["entries"]
        return "".join(entry["text"] for entry in entries if entry.get("kind") == "digit")

    async def place(self, to: str, agent: str = "echo", trunk: str = "outbound") -> str:
        """Let it call somebody: the id of the call."""
        assert self.daemon is not None
        url = f"http://127.0.0.1:{self.daemon.ready['port']}/v1/calls"
        wish = {"to": to, "agent": agent, "trunk": trunk}
        async with aiohttp.ClientSession() as session, session.post(url, json=wish) as response:
            said = await response.json()
            assert response.status == 202, said
            return str(said["call_id"])


@asynccontextmanager
async def answerer(
    place: Path,
    *settings: str,
    agent: str = "echo",
    trunks: dict[str, str] | None = None,
    more: str = "",
    host6: str = "",
    config: str = "conf/bench.toml",
) -> AsyncIterator[Answerer]:
    """A daemon with one worker whose `loopback` trunk leads to this agent; `trunks` are further files."""
    elsewhere = os.environ.get("FLOWCATD_INTEROP_TARGET")
    if elsewhere and trunks is None and not settings:
        user, _, address = elsewhere.partition("@")
        host, _, port_text = address.rpartition(":")
        yield Answerer(Target(host, int(port_text), user))
        return
    folder = place / "trunks.d"
    folder.mkdir(parents=True)
    (folder / "loopback.toml").write_text(LOOPBACK.format(agent=agent, more=more))
    for name, text in (trunks or {}).items():
        (folder / f"{name}.toml").write_text(text)
    port, rtp = free_ports(host=host6 or "127.0.0.1"), free_ports(2)
    given = (
        f"sip.port={port}",
        f"sip.trunks={folder}",
        f"rtp.low={rtp}",
        f"rtp.high={rtp + 900}",
        "workers.count=1",
        "workers.most=2",
        "calls.per_worker=200",
        "records.record=true",
        "records.transcript=true",
        *((f"sip.host6={host6}",) if host6 else ()),
    )
    async with running(place, *given, *settings, config=config) as daemon:
        host = f"[{host6}]" if host6 else "127.0.0.1"
        yield Answerer(Target(host, port), daemon, folder)
