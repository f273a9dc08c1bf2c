"""Scenario 1: the echo agent of conf/bench.toml gives back every frame, on every wire."""

from __future__ import annotations

import base64
import json
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.scenarios.daemon import running, stamp

pytestmark = pytest.mark.scenario

TWILIO_START = {
    "event": "start",
    "sequenceNumber": "1",
    "streamSid": "MZ1",
    "start": {
        "streamSid": "MZ1",
        "accountSid": "AC1",
        "callSid": "CA1",
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {},
    },
}
PLIVO_START = {
    "event": "start",
    "sequenceNumber": 1,
    "start": {
        "callId": "c1",
        "streamId": "s1",
        "accountId": "a1",
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000},
    },
}


@pytest.mark.parametrize(
    ("encoding", "rate", "size"),
    [("mulaw", 8000, 160), ("alaw", 8000, 160), ("pcm", 8000, 320), ("pcm", 16000, 640)],
)
async def test_a_raw_call_gets_every_frame_back(
    tmp_path: Path, encoding: str, rate: int, size: int
) -> None:
    """Fifty stamped frames, sent in pieces of odd sizes, come back in frames of 20 ms, unchanged."""
    async with running(tmp_path, "workers.count=1") as daemon, aiohttp.ClientSession() as session:
        address = daemon.media("raw", encoding=encoding, rate=rate)
        said = b"".join(stamp(number)[:160] * (size // 160) for number in range(50))
        async with session.ws_connect(address) as socket:
            heard = b""
            for at in range(0, len(said), 777):
                await socket.send_bytes(said[at : at + 777])
            while len(heard) < len(said):
                message = await socket.receive(timeout=10)
                assert len(message.data) == size
                heard += message.data
    assert heard == said


@pytest.mark.parametrize(("carrier", "start"), [("twilio", TWILIO_START), ("plivo", PLIVO_START)])
async def test_a_carrier_call_gets_every_frame_back(
    tmp_path: Path, carrier: str, start: dict[str, object]
) -> None:
    """Stamped frames in a carrier's media messages come back in its own, unchanged."""
    async with (
        running(tmp_path, "workers.count=2") as daemon,
        aiohttp.ClientSession() as session,
        session.ws_connect(daemon.media(carrier)) as socket,
    ):
        await socket.send_str(json.dumps(start))
        heard = []
        for number in range(30):
            payload = base64.b64encode(stamp(number)).decode()
            media = {"event": "media", "media": {"track": "inbound", "payload": payload}}
            await socket.send_str(json.dumps(media))
            answer = json.loads((await socket.receive(timeout=10)).data)
            heard.append(base64.b64decode(answer["media"]["payload"]))
        await socket.send_str(json.dumps({"event": "stop", "streamSid": "MZ1"}))
        closed = await socket.receive(timeout=10)
    assert heard == [stamp(number) for number in range(30)]
    assert closed.type is aiohttp.WSMsgType.CLOSE
    assert closed.data == 1000


async def test_ctrl_c_ends_the_daemon_cleanly(tmp_path: Path) -> None:
    """SIGINT ends supervisor and workers with exit status 0 and closes a live call with 1001."""
    async with (
        running(tmp_path, "workers.count=2") as daemon,
        aiohttp.ClientSession() as session,
        session.ws_connect(daemon.media("raw", encoding="mulaw", rate=8000)) as socket,
    ):
        await socket.send_bytes(stamp(0))
        await socket.receive(timeout=5)
        daemon.tell(signal.SIGINT)
        while (message := await socket.receive(timeout=5)).type is not aiohttp.WSMsgType.CLOSE:
            pass
        code = await daemon.end()
    assert code == 0
    assert message.data == 1001
    assert not daemon.log("loop.raised")
    assert not [line for line in daemon.log() if line["level"] == "error"]
