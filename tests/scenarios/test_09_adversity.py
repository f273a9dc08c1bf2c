"""Scenario 9: what a machine and its surroundings do to a daemon, with live calls that must not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from flowcatd.audio.g711 import mulaw_to_pcm, pcm_to_mulaw
from flowcatd.audio.wav import parse_wav
from flowcatd.links.open import available_engines
from tests.scenarios.daemon import Daemon, running, until
from tests.scenarios.test_07_fleet import nobody_noticed, operate
from tests.scenarios.traffic import traffic

pytestmark = pytest.mark.scenario

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
SILENCE = b"\xff" * 160


def pids(daemon: Daemon) -> dict[int, int]:
    """Slot to the process that serves it."""
    return {line["slot"]: line["pid"] for line in daemon.log("worker.started")}


async def both_workers(daemon: Daemon) -> dict[int, int]:
    """The same, once there are two."""
    await until(lambda: len(pids(daemon)) == 2, "both workers")
    return pids(daemon)


async def calls_of(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """Run id to what `flowcatd calls` says of it."""
    _, said = await operate(daemon, "calls", "--json")
    return {call["run_id"]: call for call in json.loads(said)["calls"]}


async def echoes(session: aiohttp.ClientSession, daemon: Daemon, run_id: str) -> bool:
    """Whether a new call gets its frame back, within ten seconds."""
    address = daemon.media("raw", run_id, encoding="mulaw", rate=8000, agent="echo")
    async with asyncio.timeout(10), session.ws_connect(address) as call:
        await call.send_bytes(SILENCE)
        return (await call.receive()).data == SILENCE


async def status_of(session: aiohttp.ClientSession, daemon: Daemon, path: str) -> int:
    """What a GET on a connection of its own is answered."""
    address = daemon.url.replace("ws://", "http://") + path
    async with session.get(address, headers={"Connection": "close"}) as response:
        return response.status


def first_free_descriptor(pid: int) -> int:
    """The number that the next descriptor of this process would have."""
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(used) + 1) if number not in used)


@contextlib.contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """That process gets not one more."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free_descriptor(pid), before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def test_a_worker_without_descriptors_tears_nobody(tmp_path: Path) -> None:
    """New callers wait or are served by the other worker; when there are descriptors, all are served."""
    async with (
        running(tmp_path, "workers.count=2") as daemon,
        traffic(daemon, long=6) as seen,
        aiohttp.ClientSession() as session,
    ):
        workers = await both_workers(daemon)
        with without_descriptors(workers[0]):
            new = [
                asyncio.create_task(echoes(session, daemon, f"choked-{number}"))
                for number in range(30)
            ]
            await until(lambda: bool(daemon.log("door.choked")), "the door to choke")
            await until(lambda: any(task.done() for task in new), "calls at the other worker")
        assert await asyncio.gather(*new) == [True] * 30
    nobody_noticed(seen)
    assert {line["slot"] for line in daemon.log("door.choked")} == {0}
    assert daemon.log("worker.lost") == []


@pytest.mark.skipif(
    FAKETIME is None or "FLOWCATD_CLOCK" not in os.environ,
    reason="run by `make clock`, with Debian's faketime: libfaketime holds processes up for seconds",
)
async def test_a_wall_clock_that_jumps_changes_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour ahead, then two back, in the middle of calls: durations are true and nothing expires."""
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    for name, value in (
        ("LD_PRELOAD", str(FAKETIME)),
        ("FAKETIME_TIMESTAMP_FILE", str(clock)),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ):
        monkeypatch.setenv(name, value)
    # libfaketime itself holds a process up, at times for seconds: gaps, and echoes that are late, say
    # nothing here. What a jump could break is told by ends, records and log lines.
    patience = ("calls.lag_limit_ms=10000", "workers.hung_seconds=60")
    settings = ("workers.count=2", "records.record=true", "records.journal=true", *patience)
    async with running(tmp_path, *settings) as daemon:
        for name in ("LD_PRELOAD", "FAKETIME_TIMESTAMP_FILE"):
            monkeypatch.delenv(name)
        began = time.monotonic()
        async with traffic(daemon, long=6, new_per_second=5) as seen:
            for offset in ("+3600", "-3600", "+0"):
                clock.write_text(f"{offset}\n")
                before = seen.long[0].heard
                await until(lambda: seen.long[0].heard > before + 100, "a second of echoes")  # noqa: B023
        longest = time.monotonic() - began
        record = await daemon.record_of("long-0")
        lines = daemon.log()  # before its end: there libfaketime makes time.sleep raise EINVAL
    assert [call for call in seen.long if call.wrong or call.closed_by_daemon] == []
    assert 5.5 < record["duration_seconds"] < longest
    shifts = {
        round(datetime.fromisoformat(line["at"]).timestamp() - time.time(), -3)
        for line in lines
        if line["event"] == "call.started"
    }
    assert shifts >= {4000.0, -4000.0}, "the clock did not jump"
    events = {line["event"] for line in lines}
    assert events.isdisjoint({"worker.lost", "call.abandoned", "loop.raised", "switchboard.lost"})
    assert {line["reason"] for line in lines if line["event"] == "call.ended"} == {"caller_hung_up"}


class Silent:
    """A caller who says nothing and keeps what it hears."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended = asyncio.Event()
        self.code: int | None = None

    async def listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Until the far end closes."""
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                self.heard += message.data
        self.code = socket.close_code
        self.ended.set()

    async def be_silent(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """A frame every 20 ms, until then."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        with contextlib.suppress(aiohttp.ClientConnectionError):
            while not self.ended.is_set():
                await socket.send_bytes(SILENCE)
                due += 0.02
                await asyncio.sleep(max(0.0, due - loop.time()))


@asynccontextmanager
async def silent_caller(
    session: aiohttp.ClientSession, daemon: Daemon, run_id: str
) -> AsyncIterator[Silent]:
    """A call of the default agent."""
    caller = Silent()
    address = daemon.media("raw", run_id, encoding="mulaw", rate=8000)
    async with session.ws_connect(address) as socket:
        tasks = [asyncio.create_task(each(socket)) for each in (caller.listen, caller.be_silent)]
        yield caller
        await asyncio.wait_for(asyncio.gather(*tasks), 30)


def _right(path: Path) -> bytes:
    wav = parse_wav(path.read_bytes())
    assert (wav.channels, wav.rate_hz) == (2, 8000)
    return b"".join(wav.pcm[at : at + 2] for at in range(2, len(wav.pcm), 4))


@pytest.mark.skipif(
    "pocketsphinx" not in available_engines() or len(available_engines()) < 2,
    reason="needs the `speech` extra and a synthesiser",
)
async def test_calls_that_outlast_the_drain_hear_a_goodbye_to_its_end(tmp_path: Path) -> None:
    """The record says drained, the recording holds the whole line; meanwhile new calls are refused."""
    settings = (
        "workers.count=1",
        "calls.drain_seconds=1",
        "records.record=true",
        "records.recording=true",
        "records.transcript=true",
    )
    async with (
        running(tmp_path, *settings, config="conf/flowcatd.toml") as daemon,
        aiohttp.ClientSession() as session,
    ):
        async with silent_caller(session, daemon, "parting") as caller:
            await until(lambda: len(caller.heard) > 8000, "the agent's first words")
            daemon.tell(signal.SIGTERM)
            await until(lambda: bool(daemon.log("worker.drained")), "the drain")
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(daemon.media("raw", "late", encoding="mulaw", rate=8000))
            assert refused.value.status == 503
            assert (refused.value.headers or {})["Retry-After"] == "5"
            assert await status_of(session, daemon, "/readyz") == 503
            assert await status_of(session, daemon, "/healthz") == 200
        record = await daemon.record_of("parting")
        assert await daemon.end(signal.SIGTERM) == 0
    assert (record["reason"], record["ended_by"]) == ("drained", "daemon")
    assert caller.code == 1001
    kept = daemon.records / record["files"]["transcript"]
    last = json.loads(kept.read_text())["entries"][-1]
    assert last["text"].endswith("Goodbye.")
    assert last.get("complete", True)
    sent = mulaw_to_pcm(pcm_to_mulaw(_right(daemon.records / record["files"]["recording"])))
    sent = sent.rstrip(b"\0")
    last_second = sent[-16_000 + len(sent) % 2 :]
    assert max(last_second) > 0
    assert last_second in mulaw_to_pcm(caller.heard)


async def test_a_worker_that_stops_reading_is_named_as_missing_and_then_is_not(
    tmp_path: Path,
) -> None:
    """SIGSTOP for less than hung_seconds: `calls` answers for the rest; nobody is replaced."""
    async with (
        running(tmp_path, "workers.count=2", "workers.hung_seconds=30") as daemon,
        aiohttp.ClientSession() as session,
    ):
        workers = await both_workers(daemon)
        held = [
            await session.ws_connect(daemon.media("raw", f"h{n}", encoding="mulaw", rate=8000))
            for n in range(6)
        ]
        slots = {call["slot"] for call in (await calls_of(daemon)).values()}
        assert slots == {0, 1}
        os.kill(workers[0], signal.SIGSTOP)
        try:
            code, said = await operate(daemon, "calls", "--json")
        finally:
            os.kill(workers[0], signal.SIGCONT)
        assert code == 1
        reply = json.loads(said)
        assert {call["slot"] for call in reply["calls"]} == {1}
        assert len(reply["missing"]) == 1
        code, said = await operate(daemon, "calls", "--json")
        assert (code, len(json.loads(said)["calls"])) == (0, 6)
        for call in held:
            await call.send_bytes(SILENCE)
            assert (await call.receive(timeout=5)).data == SILENCE
            await call.close()
    assert daemon.log("worker.lost") == []


async def test_two_thousand_connections_that_say_little_cost_calls_nothing(tmp_path: Path) -> None:
    """Each says half a request line and waits; calls go on, and new ones get through the crowd."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 4096)
    if wanted < 3000:
        pytest.skip("needs 3000 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    crowd: list[socket.socket] = []
    async with (
        running(tmp_path, "workers.count=2") as daemon,
        traffic(daemon, long=6, new_per_second=10) as seen,
    ):
        try:
            for number in range(2000):
                caller = socket.create_connection(("127.0.0.1", daemon.ready["port"]))
                crowd.append(caller)
                caller.sendall(b"GET /telephony/ws/raw/slow HTT"[: 1 + number % 30])
                if number % 10 == 0:
                    await asyncio.sleep(0)
            before = seen.long[0].heard
            done = seen.short_done
            await until(lambda: seen.long[0].heard > before + 100, "two seconds of echoes")
            await until(lambda: seen.short_done >= done + 10, "new calls beside the crowd")
        finally:
            for caller in crowd:
                caller.close()
    nobody_noticed(seen)
    assert daemon.log("worker.lost") == []


async def test_an_operator_hangs_up_one_call_by_either_name(tmp_path: Path) -> None:
    """By run id and by call id: reason cancelled; a name nobody has is exit status 1."""
    async with (
        running(tmp_path, "workers.count=2", "records.record=true") as daemon,
        traffic(daemon, long=4) as seen,
        aiohttp.ClientSession() as session,
    ):
        for by_run_id in (True, False):
            run_id = f"cut-{by_run_id}"
            address = daemon.media("raw", run_id, encoding="mulaw", rate=8000)
            async with session.ws_connect(address) as call:
                call_id = (await calls_of(daemon))[run_id]["call_id"]
                code, said = await operate(daemon, "hangup", run_id if by_run_id else call_id)
                assert code == 0, said
                assert (await call.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
            record = await daemon.record_of(run_id)
            assert (record["call_id"], record["reason"]) == (call_id, "cancelled")
        code, _ = await operate(daemon, "hangup", "nobody")
        assert code == 1
    nobody_noticed(seen)


async def test_the_log_level_changes_in_every_worker(tmp_path: Path) -> None:
    """At `warning` calls leave no line; at `info` those of both workers do; and back."""
    async with (
        running(tmp_path, "workers.count=2", "log.level=warning") as daemon,
        traffic(daemon, long=2) as seen,
        aiohttp.ClientSession() as session,
    ):

        async def some_calls() -> None:
            addresses = [
                daemon.media("raw", f"level-{number}", encoding="mulaw", rate=8000)
                for number in range(12)
            ]
            held = [await session.ws_connect(address) for address in addresses]
            for call in held:  # all up at once, so that each worker has its share of them
                await call.close()

        await some_calls()
        assert daemon.log("call.started") == []
        assert (await operate(daemon, "log-level", "debug"))[0] == 0
        await some_calls()
        await until(lambda: len(daemon.log("call.ended")) == 12, "the lines of twelve calls")
        assert {line["slot"] for line in daemon.log("call.started")} == {0, 1}
        assert (await operate(daemon, "log-level", "warning"))[0] == 0
        await some_calls()
        assert len(daemon.log("call.started")) == 12
    nobody_noticed(seen)


async def scrape(session: aiohttp.ClientSession, daemon: Daemon) -> dict[str, float]:
    """Series to value, counters only."""
    async with session.get(f"http://{daemon.ready['metrics']}/metrics") as response:
        text = await response.text()
    counters = {
        line.split()[2]
        for line in text.splitlines()
        if line.startswith("# TYPE") and line.endswith(" counter")
    }
    rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {
        series: float(value)
        for series, _, value in rows
        if any(series.startswith(name) for name in counters)
    }


def total(figures: dict[str, float], name: str, label: str = "") -> float:
    """All workers' series of this name, with this label."""
    return sum(
        value for series, value in figures.items() if series.startswith(name) and label in series
    )


async def test_counters_are_right_and_survive_a_kill_and_a_reload(tmp_path: Path) -> None:
    """Twenty calls and five refusals are twenty and five, afterwards too; no series ever falls."""
    async with (
        running(tmp_path, "workers.count=2") as daemon,
        aiohttp.ClientSession() as session,
    ):
        workers = await both_workers(daemon)
        seen: dict[str, float] = {}

        async def counted(ended: float, refused: float) -> None:
            async with asyncio.timeout(10):
                while True:
                    figures = await scrape(session, daemon)
                    fallen = {
                        k: (v, figures.get(k)) for k, v in seen.items() if figures.get(k, -1) < v
                    }
                    assert fallen == {}
                    seen.update(figures)
                    if (
                        total(figures, "flowcatd_calls_ended", 'reason="caller_hung_up"') == ended
                        and total(figures, "flowcatd_calls_refused", 'cause="not_understood"')
                        == refused
                    ):
                        break
                    await asyncio.sleep(0.1)
            assert total(figures, "flowcatd_calls_started") == ended
            assert total(figures, "flowcatd_calls_answered") == ended
            assert total(figures, "flowcatd_audio_frames", '"in"') >= ended

        async def calls(times: int) -> None:
            for number in range(times):
                assert await echoes(session, daemon, f"count-{number}")

        await calls(20)
        for _ in range(5):
            assert await status_of(session, daemon, "/telephony/ws/nobody/x") == 404
        await counted(20, 5)
        os.kill(workers[0], signal.SIGKILL)
        await until(lambda: len(daemon.log("worker.started")) == 3, "the successor")
        await counted(20, 5)
        await calls(4)
        code, said = await operate(daemon, "reload")  # at once: the last second's figures count too
        assert code == 0, said
        await counted(24, 5)
        await calls(4)
        await counted(28, 5)
