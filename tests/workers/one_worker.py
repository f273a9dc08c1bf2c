"""A worker reduced to its calls, as a process of its own that a test may kill.

    python -m tests.workers.one_worker RECORDS SLOT RESUME_SECONDS AGENTS

It serves media sockets with the real wiring, journals and orphans, mute and deaf, on a free port that
it prints on a line of its own; it logs JSON to standard error and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from flowcatd.carriers.catalogue import open_carrier
from flowcatd.links.disk import Disk
from flowcatd.log import configure
from flowcatd.options import Calls, Log, Options, Records, Speech
from flowcatd.transports.carrier import CarrierSocket
from workers import speech
from workers.agents import load_agents
from workers.clock import WorkerClock
from workers.orphans import Orphans
from workers.wiring import Wiring, identity_of, open_store

MUTE = Speech(hearing="none", voice="none")


def options_of(resume_seconds: float) -> Options:
    """What these tests run with."""
    return Options(
        calls=Calls(resume_seconds=resume_seconds),
        speech=MUTE,
        records=Records(recording=True),
        log=Log(level="info", format="json"),
    )


class Worker:
    """The calls of one process."""

    def __init__(self, records: Path, slot: int, options: Options, agents: Path) -> None:
        self._slot = slot
        self.agents = load_agents(agents, "echo")
        self.clock = WorkerClock(asyncio.get_running_loop())
        self.disk = Disk()
        self.store = open_store(options.records, self.disk, records, slot)
        ears = speech.Speech(options.speech, Path("none"), ())
        self.wiring = Wiring(options, self.clock, ears, self.store)
        self.orphans = Orphans(options, self.clock, self.store)
        self._names = 0

    async def media(self, request: web.Request) -> web.StreamResponse:
        """One call, as the listeners do it."""
        run_id = request.match_info["run_id"]
        core = open_carrier(request.match_info["provider"], request.query, run_id)
        agent = self.agents[request.query.get("agent", "echo")]
        self._names += 1
        identity = identity_of(
            run_id=run_id,
            carrier=core.row.name,
            agent=agent.name,
            slot=self._slot,
            token=f"{self._slot}{id(self) % 9973:04d}{self._names:06d}",
        )
        found = await self.wiring.look(identity)
        response = web.WebSocketResponse(decode_text=False)
        await response.prepare(request)
        assert request.transport is not None
        socket = CarrierSocket(response, request.transport, core)
        socket.notices = request.query.get("events") == "1"
        parts = self.wiring.open(socket, agent, identity, found)
        await self.wiring.keep(parts, await parts.call.run(socket))
        return response

    async def serve(self) -> tuple[web.AppRunner, int]:
        """Serve on a free port."""
        app = web.Application()
        app.router.add_get("/telephony/ws/{provider}/{run_id}", self.media)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.orphans.begin()
        return runner, runner.addresses[0][1]

    async def close(self) -> None:
        """End in good order."""
        self.orphans.close()
        await self.disk.close(5)
        self.store.close()


async def main(records: str, slot: str, resume_seconds: str, agents: str) -> None:
    """Until standard input ends."""
    options = options_of(float(resume_seconds))
    configure(options.log, slot=int(slot))
    worker = Worker(Path(records), int(slot), options, Path(agents))
    runner, port = await worker.serve()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()
    await worker.close()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
