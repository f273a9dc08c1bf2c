"""Scenario 3: what an operator can get wrong, and what a machine can run out of."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from flowcatd.audio.wav import Wav, parse_wav
from tests.scenarios.daemon import FLOWCATD, ROOT, Daemon, bystander, running, stamp, until

pytestmark = pytest.mark.scenario


def serve(tmp_path: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail, with what it said."""
    command = [str(FLOWCATD), "serve", "--config", str(ROOT / "conf/bench.toml")]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=30, cwd=tmp_path, check=False
    )


def test_a_port_already_taken_is_one_clear_line(tmp_path: Path) -> None:
    """Another program on the port: exit status 71, the address, and what to do about it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve(tmp_path, f"server.port={port}")
    assert done.returncode == 71
    assert f"127.0.0.1:{port}" in done.stderr
    assert "server.port" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


async def test_a_second_daemon_cannot_share_the_port_by_accident(tmp_path: Path) -> None:
    """SO_REUSEPORT would let it in silently; it is refused like any other program."""
    async with running(tmp_path, "workers.count=1") as daemon, bystander(daemon):
        done = await asyncio.to_thread(serve, tmp_path, f"server.port={daemon.ready['port']}")
    assert done.returncode == 71


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("server.prot=6210", "server.prot: is not a setting, did you mean 'port'"),
        ("servr.port=6210", "servr: is not a section, did you mean 'server'"),
        ("speech.voice=flite-sltt", "speech.voice: no tts provider 'flite-sltt', did you mean"),
        ("turns.stop_ms=5", "turns.stop_ms: must lie between 100 and 5000"),
        ("agents.default=apointment", "has no file in {agents}, did you mean 'appointment'"),
    ],
)
def test_a_misspelt_setting_keeps_the_daemon_from_starting(
    tmp_path: Path, setting: str, said: str
) -> None:
    """Exit status 78, the key, what is allowed or the nearest known word."""
    done = serve(tmp_path, setting)
    assert done.returncode == 78
    assert said.format(agents=ROOT / "conf/agents") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def nearly_full(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 48 KiB left on it."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        (place / "filler").write_bytes(bytes(208 * 1024))
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def recordings(place: Path) -> list[Wav]:
    """Every recording there, parsed."""
    return [parse_wav(path.read_bytes()) for path in place.glob("*.wav")]


def refusals(daemon: Daemon) -> list[dict[str, object]]:
    """The log lines about what could not be kept of the call that started last."""
    latest = daemon.log("call.started")[-1]["call"]
    return [line for line in daemon.log("record.lost") if line["call"] == latest]


async def test_a_full_disk_costs_the_recording_and_nothing_else(
    tmp_path: Path, nearly_full: Path
) -> None:
    """The call goes on; the recording stops as a valid WAV; one log line; the record is written."""
    settings = (
        f"records.directory={nearly_full}",
        "records.record=true",
        "records.recording=true",
        "workers.count=1",
    )
    async with running(tmp_path, *settings) as daemon, bystander(daemon):
        daemon.records = nearly_full
        async with aiohttp.ClientSession() as session:
            address = daemon.media("raw", "full", encoding="pcm", rate=48000)
            async with session.ws_connect(address) as call:
                for number in range(350):
                    await call.send_bytes(stamp(number) * 12)
                    assert (await call.receive(timeout=10)).data == stamp(number) * 12
                    await asyncio.sleep(0.018)
                await until(lambda: bool(refusals(daemon)), "the disk's refusal")
                await call.send_bytes(stamp(1) * 12)
                assert (await call.receive(timeout=10)).data == stamp(1) * 12
        record = await daemon.record_of("full")
    assert record["problems"] == [{"where": "recording", "reason": "ENOSPC", "times": 1}]
    assert len(refusals(daemon)) == 1
    assert all(wav.channels == 2 for wav in recordings(nearly_full))


async def test_what_remains_of_two_calls_is_never_overwritten(tmp_path: Path) -> None:
    """Two calls with the same run id leave two records, two recordings of their own length."""
    settings = ("records.record=true", "records.recording=true", "workers.count=1")
    async with running(tmp_path, *settings) as daemon, bystander(daemon):
        async with aiohttp.ClientSession() as session:
            for frames in (10, 40):
                address = daemon.media("raw", "same", encoding="mulaw", rate=8000)
                async with session.ws_connect(address) as call:
                    for number in range(frames):
                        await call.send_bytes(stamp(number))
                        await call.receive(timeout=10)
        await until(lambda: len(list(daemon.records.glob("*.json"))) == 2, "both records")
        records = [json.loads(path.read_text()) for path in daemon.records.glob("*.json")]
    assert {record["run_id"] for record in records} == {"same"}
    assert len({record["call_id"] for record in records}) == 2
    seconds = sorted(
        parse_wav((daemon.records / record["files"]["recording"]).read_bytes()).seconds
        for record in records
    )
    assert seconds[0] >= 0.2
    assert seconds[1] >= 0.8
