"""Scenario 4: a spoken call, from the first hello to the record, against the real daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from flowcatd.audio.g711 import mulaw_to_pcm, pcm_to_mulaw
from flowcatd.audio.wav import parse_wav
from flowcatd.links.open import available_engines
from tests.scenarios.daemon import FLOWCATD, Daemon, bystander, running, until

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.skipif(
        "pocketsphinx" not in available_engines() or len(available_engines()) < 2,
        reason="needs the `speech` extra and a synthesiser (Debian's flite, or the `espeak` extra)",
    ),
]

AGENTS = Path(__file__).parents[1] / "corpus" / "agents"
SPOKEN = ("records.record=true", "records.recording=true", "records.transcript=true")
ANSWER_MS = 800
"""From the caller's last word to the agent's first sound, as the caller hears it."""


def spoken(tmp_path: Path, *settings: str, agents: bool = False) -> Any:
    """The daemon as `make run` starts it, on one worker."""
    quick = (f"agents.directory={AGENTS}", "agents.default=quick") if agents else ()
    return running(
        tmp_path, "workers.count=1", *SPOKEN, *quick, *settings, config="conf/flowcatd.toml"
    )


async def call(daemon: Daemon, *words: str) -> tuple[int, dict[str, Any]]:
    """`flowcatd call --json`, and its exit status."""
    process = await asyncio.create_subprocess_exec(
        str(FLOWCATD), "call", daemon.url, "--json", *words, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode is not None
    return process.returncode, json.loads(output)


async def record_after(daemon: Daemon) -> dict[str, Any]:
    """The one record there is, when it is written."""

    def found() -> list[Path]:
        return [p for p in daemon.records.glob("*.json") if "transcript" not in p.name]

    await until(lambda: bool(found()), "the record")
    record: dict[str, Any] = json.loads(found()[0].read_text())
    return record


async def test_the_shipped_agent_books_an_appointment_by_voice(tmp_path: Path) -> None:
    """The demo conversation, correction included, reaches its end with every answer in time."""
    heard_path = tmp_path / "heard.wav"
    async with spoken(tmp_path, "log.level=debug") as daemon:
        code, heard = await call(daemon, "--record", str(heard_path))
        record = await record_after(daemon)
    assert code == 0
    logged = daemon.log_path.read_text().lower()
    assert not [word for word in ("tuesday", "thursday", "ten thirty", "willow") if word in logged]
    assert heard["reason"] == "completed"
    assert len(heard["answer_ms"]) == 4
    assert max(heard["answer_ms"]) <= ANSWER_MS
    assert record["variables"]["outcome"] == "booked"
    assert (record["variables"]["day"], record["variables"]["time"]) == ("Thursday", "ten thirty")
    assert record["leftovers"] == []
    assert record["problems"] == []
    transcript = json.loads((daemon.records / record["files"]["transcript"]).read_text())
    said = [entry for entry in transcript["entries"] if entry["role"] == "caller"]
    assert [entry["text"] for entry in said][2] == "no thursday"
    goodbye = transcript["entries"][-1]
    assert goodbye["text"].endswith("Goodbye.")
    assert goodbye.get("complete", True)
    _goodbye_was_heard_to_its_last_sample(daemon.records / record["files"]["recording"], heard_path)


def _goodbye_was_heard_to_its_last_sample(kept: Path, heard: Path) -> None:
    """The last second that sounds in the daemon's recording is in what the caller heard, exactly."""
    sent = mulaw_to_pcm(pcm_to_mulaw(_right(kept))).rstrip(b"\0")
    last_second = sent[-16_000 + len(sent) % 2 :]
    assert max(last_second) > 0
    assert last_second in _right(heard)


def _right(path: Path) -> bytes:
    wav = parse_wav(path.read_bytes())
    assert (wav.channels, wav.rate_hz) == (2, 8000)
    return b"".join(wav.pcm[at : at + 2] for at in range(2, len(wav.pcm), 4))


async def test_the_shipped_agent_books_an_appointment_by_keypad(tmp_path: Path) -> None:
    """Not a word is spoken: 2 is Tuesday, 4 is ten thirty, 1 is yes."""
    async with spoken(tmp_path) as daemon:
        words = ("--voice", "none", "--digits", "2", "--digits", "4", "--digits", "1")
        code, _ = await call(daemon, *words)
        record = await record_after(daemon)
    assert code == 0
    assert record["variables"]["outcome"] == "booked"
    assert (record["variables"]["day"], record["variables"]["time"]) == ("Tuesday", "ten thirty")
    assert record["turns"]["digits"] == 3


async def test_plivo_hears_the_same_conversation(tmp_path: Path) -> None:
    """The same words over Plivo's wire, whose marks and clears differ, come to the same end."""
    async with spoken(tmp_path) as daemon:
        words = ("--carrier", "plivo", "--say", "tuesday at nine please", "--say", "yes please")
        code, heard = await call(daemon, *words)
    assert code == 0
    assert heard["reason"] == "completed"


async def test_a_caller_who_never_speaks_is_asked_again_and_let_go(tmp_path: Path) -> None:
    """Two tries, a goodbye that is heard, and a record that says never_spoke."""
    async with spoken(tmp_path, agents=True) as daemon, bystander(daemon):
        await _listen_only(daemon)
        await until(lambda: len(daemon.log("call.ended")) >= 1, "the call's end")
        ended = daemon.log("call.ended")[0]
    assert (ended["by"], ended["reason"]) == ("agent", "never_spoke")


async def _listen_only(daemon: Daemon) -> None:
    """A raw caller whose line is silent, until the daemon closes."""
    loop = asyncio.get_running_loop()
    address = daemon.media("raw", "mute", encoding="mulaw", rate=8000)
    async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
        due = loop.time()
        while not socket.closed:
            await socket.send_bytes(b"\xff" * 160)
            due += 0.02
            while (left := due - loop.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    if (await socket.receive(timeout=left)).type is aiohttp.WSMsgType.CLOSE:
                        return


async def test_a_recogniser_that_is_killed_mid_call_costs_one_turn(tmp_path: Path) -> None:
    """The helper comes back, the caller is asked again, and the call reaches its end."""
    async with spoken(tmp_path, agents=True) as daemon, bystander(daemon):
        helpers = [
            child
            for child in psutil.Process(daemon.process.pid).children(recursive=True)
            if any("sphinx_helper" in word for word in child.cmdline())
        ]
        assert len(helpers) == 1
        helpers[0].kill()
        await until(lambda: bool(daemon.log("helper.lost")), "the loss to be noticed")
        await metric_is(daemon, "flowcatd_helpers_lost_total", "1")
        code, heard = await call(daemon, "--say", "yes please", "--say", "yes please")
    assert heard["reason"] == "completed"
    assert code == 0


async def metric_is(daemon: Daemon, name: str, value: str) -> None:
    """Wait until /metrics says so."""
    address = f"http://{daemon.ready['metrics']}/metrics"
    async with aiohttp.ClientSession() as session:
        for _ in range(500):
            async with session.get(address) as answer:
                if f"\n{name} {value}\n" in await answer.text():
                    return
            await asyncio.sleep(0.01)
    raise AssertionError(f"{name} never was {value}")
