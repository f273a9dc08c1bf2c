"""Scenario 2: a far end that breaks its protocol is told so, leaves a record, and disturbs nobody."""

from __future__ import annotations

import json
import socket as sockets
import struct
from pathlib import Path

import aiohttp
import pytest

from tests.scenarios.daemon import Daemon, bystander, running, until
from tests.scenarios.test_01_echo import TWILIO_START

pytestmark = pytest.mark.scenario

KEEP = ("records.record=true", "workers.count=1")

MEDIA = json.dumps({"event": "media", "streamSid": "MZ1", "media": {"payload": "/////w=="}})
WRONG: dict[str, tuple[list[str], int]] = {
    "broken-json": (['{"event": "start"'], 1007),
    "wrong-base64": (
        [json.dumps(TWILIO_START), '{"event":"media","media":{"payload":"***not base64***"}}'],
        1007,
    ),
    "audio-before-start": ([MEDIA], 1008),
    "two-starts": ([json.dumps(TWILIO_START)] * 2, 1008),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_broken_protocol_is_answered_in_it(tmp_path: Path, name: str) -> None:
    """The close code says what was wrong, one log line says it too, and the record is written."""
    messages, code = WRONG[name]
    async with running(tmp_path, *KEEP) as daemon, bystander(daemon):
        closed = await _say(daemon, name, messages)
        record = await daemon.record_of(name)
        assert closed.data == code
        assert closed.extra, "the reason is in the close frame"
        assert record["reason"] == "protocol_error"
        assert record["close_code"] == code
        assert record["error"] == closed.extra
        assert len(daemon.log("carrier.broken")) == 1


async def _say(daemon: Daemon, run_id: str, messages: list[str]) -> aiohttp.WSMessage:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(daemon.media("twilio", run_id)) as socket,
    ):
        for message in messages:
            await socket.send_str(message)
        while (message := await socket.receive(timeout=10)).type is aiohttp.WSMsgType.TEXT:
            pass
        return message


async def test_an_unknown_carrier_or_agent_is_refused_before_the_handshake(tmp_path: Path) -> None:
    """HTTP 404 names the nearest known one; there is no call and no record."""
    async with running(tmp_path, *KEEP) as daemon, aiohttp.ClientSession() as session:
        for path, known in [("twillio/x", "twilio"), ("raw/x?agent=apointment", "appointment")]:
            url = f"{daemon.url}/telephony/ws/{path}".replace("ws://", "http://", 1)
            async with session.get(url) as answer:
                assert answer.status == 404
                assert known in (await answer.json())["error"]
        assert len(daemon.log("connection.refused")) == 2
        assert not daemon.log("call.started")


async def test_a_missing_stop_is_no_accident(tmp_path: Path) -> None:
    """A carrier that closes in good order without `stop` leaves a record that says so."""
    async with running(tmp_path, *KEEP) as daemon, bystander(daemon):
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(daemon.media("twilio", "no-stop")) as socket,
        ):
            await socket.send_str(json.dumps(TWILIO_START))
            await socket.send_str(MEDIA)
        record = await daemon.record_of("no-stop")
        assert (record["reason"], record["ended_by"]) == ("caller_hung_up", "caller")
        assert record["carrier_call_id"] == "CA1"


async def test_a_socket_that_vanishes_mid_word_ends_its_call(tmp_path: Path) -> None:
    """A TCP reset in the middle of a frame ends the call at once, with a record."""
    async with running(tmp_path, *KEEP) as daemon, bystander(daemon):
        await _vanish(daemon, "vanished")
        record = await daemon.record_of("vanished")
        assert record["reason"] == "socket_lost"
        assert record["error"]


async def _vanish(daemon: Daemon, run_id: str) -> None:
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(daemon.media("twilio", run_id))
        await socket.send_str(json.dumps(TWILIO_START))
        await socket.send_str(MEDIA)
        await until(lambda: len(daemon.log("call.answered")) >= 2, "the call's start")
        wire = socket.get_extra_info("socket")
        linger = struct.pack("ii", 1, 0)
        wire.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, linger)
        transport = socket._response.connection.transport
        transport.write(b"\x81\xfe\x01")  # the beginning of a frame, and then nothing more, ever
        transport.abort()


async def test_a_socket_that_never_starts_is_closed(tmp_path: Path) -> None:
    """No start message within calls.start_seconds: 1008, and a record that says never_started."""
    async with running(tmp_path, *KEEP, "calls.start_seconds=0.3") as daemon, bystander(daemon):
        closed = await _say(daemon, "mute", [])
        record = await daemon.record_of("mute")
        assert closed.data == 1008
        assert record["reason"] == "never_started"
        assert record["answered_at_utc"] is None


async def test_a_call_without_any_media_is_ended(tmp_path: Path) -> None:
    """A stream that starts and then sends no audio at all ends after calls.silence_seconds."""
    settings = (*KEEP, "calls.silence_seconds=0.5")
    async with running(tmp_path, *settings) as daemon, bystander(daemon):
        closed = await _say(daemon, "silent", [json.dumps(TWILIO_START)])
        record = await daemon.record_of("silent")
        assert closed.type is aiohttp.WSMsgType.CLOSE
        assert record["reason"] == "socket_lost"
        assert "no media" in record["error"]


async def test_one_call_too_many_is_refused_with_retry_after(tmp_path: Path) -> None:
    """With one place, taken by the bystander, the next call is told 503 and when to come back."""
    settings = (*KEEP, "calls.per_worker=1")
    async with running(tmp_path, *settings) as daemon, bystander(daemon):
        url = daemon.media("raw", encoding="mulaw", rate=8000).replace("ws://", "http://", 1)
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "5"
            assert (await answer.json())["error"]
