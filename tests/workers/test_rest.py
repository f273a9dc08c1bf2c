"""Calls of ours over HTTP, with a real server and a real client: every answer that there is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from flowcatd import log as logging
from flowcatd.options import Log
from tests.scenarios.sip_phone import sip_phone
from tests.workers.on_loop import until
from tests.workers.sip_worker import Setting, SipWorker, sip_worker, trunk, up
from workers.rest import Rest

NUMBER = "+4930123456"
TOKEN = "a-token-of-ours"
JSON = {"Content-Type": "application/json"}


@dataclass
class Client:
    """Who asks, from this machine or over a Unix socket, which is nobody's address."""

    worker: SipWorker
    port: int
    far: Path

    async def ask(
        self, body: object, headers: Mapping[str, str] | None = None, *, is_far: bool = False
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, body and fields of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connector = aiohttp.UnixConnector(str(self.far)) if is_far else None
        url = f"http://127.0.0.1:{self.port}/v1/calls"
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(url, data=data, headers={**JSON, **(headers or {})}) as response,
        ):
            text = await response.text()
            found = json.loads(text) if response.content_type == "application/json" else text
            return response.status, found, response.headers


@asynccontextmanager
async def serving(
    tmp_path: Path, *peers: int, token: str = TOKEN, most: int = 8
) -> AsyncIterator[Client]:
    """A worker that can be asked."""
    setting = Setting(trunks=[trunk(peers=peers or (9,))], most_calls=most)
    near = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    async with sip_worker(tmp_path, setting) as worker:
        rest = Rest(worker.sip.dialling, token, 7)
        application = web.Application(client_max_size=64 * 1024)
        application.router.add_post("/v1/calls", rest.place)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await web.UnixSite(runner, str(near / "s")).start()
        port = next(each[1] for each in runner.addresses if isinstance(each, tuple))
        try:
            yield Client(worker, port, near / "s")
        finally:
            await runner.cleanup()
            shutil.rmtree(near)


async def test_a_call_is_placed_and_its_id_is_told(tmp_path: Path) -> None:
    """202; the record of that name says how it went."""
    async with sip_phone() as phone, serving(tmp_path, phone.port) as client:
        wish = {"to": NUMBER, "agent": "echo", "trunk": "house", "variables": {"colour": "blue"}}
        status, answer, _ = await client.ask(wish)
        assert (status, list(answer)) == (202, ["call_id"])
        talk = await phone.rung()
        await until(lambda: talk.heard_at)
        phone.hang_up(talk)
        await client.worker.empty()
        assert client.worker.record()["call_id"] == answer["call_id"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"to": "\xff"}',
        b"[" * 60_000,
        b'{"to": ' + b"[" * 60_000,
        {"to": ""},
        {"to": 49301234567},
        {"to": "1" * 129},
        {"agent": "echo"},
        {"to": NUMBER, "secret": "x"},
        {"to": NUMBER, "agent": "a" * 65},
        {"to": NUMBER, "variables": {"a": 1}},
        {"to": NUMBER, "variables": {"a" * 65: "x"}},
        {"to": NUMBER, "variables": {"a": "x" * 501}},
        {"to": NUMBER, "variables": {str(n): "x" for n in range(101)}},
        {"to": "+49"},
    ],
)
async def test_what_is_not_understood_is_400(tmp_path: Path, body: object) -> None:
    """And no call begins."""
    async with serving(tmp_path) as client:
        status, answer, _ = await client.ask(body)
        assert status == 400, answer
        assert answer["error"]
        assert not client.worker.left()


async def test_a_field_that_nobody_knows_is_not_in_the_log(tmp_path: Path, capfd) -> None:
    """Its name may be anything, a number for one; who sent it is told."""
    logging.configure(Log(level="info", format="json"), slot=0)
    async with serving(tmp_path) as client:
        status, answer, _ = await client.ask({"to": NUMBER, "+4930777": "x"})
    assert status == 400
    assert "+4930777" in answer["error"]
    lines = [line for line in capfd.readouterr().err.splitlines() if "connection.refused" in line]
    assert lines
    assert not any("4930" in line for line in lines)


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"to": NUMBER, "agent": "gone"}, 404),
        ({"to": NUMBER, "trunk": "gone"}, 404),
        ({"to": NUMBER, "caller_id": "+4930999999"}, 403),
        ({"to": "+19005551234"}, 403),
    ],
)
async def test_what_may_not_be_is_said(tmp_path: Path, wish: object, status: int) -> None:
    """With the reason, and without the number."""
    async with serving(tmp_path) as client:
        found, answer, _ = await client.ask(wish)
        assert found == status, answer
        assert "+" not in answer["error"]
        assert not client.worker.left()


async def test_more_than_a_body_may_hold_is_413(tmp_path: Path) -> None:
    """Whatever is in it."""
    async with serving(tmp_path) as client:
        status, _, _ = await client.ask(b"{" + b" " * (64 * 1024) + b"}")
        assert status == 413


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_what_a_form_can_send_is_415(tmp_path: Path, kind: str) -> None:
    """A foreign page may send these without asking."""
    async with serving(tmp_path) as client:
        status, _, _ = await client.ask({"to": NUMBER}, {"Content-Type": kind})
        assert status == 415


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://127.0.0.1:{port}", "", 202),
        ("http://localhost:{port}", "localhost:{port}", 202),
        ("http://[::1]:{port}", "[::1]:{port}", 202),
        ("http://example.net", "", 403),
        ("null", "", 403),
        ("http://[::1", "", 403),
        ("http://evil.example:{port}", "evil.example:{port}", 403),
        ("http://evil.example", "evil.example", 403),
    ],
)
async def test_a_page_places_calls_only_if_it_is_ours(
    tmp_path: Path, origin: str, host: str, status: int
) -> None:
    """Also not one whose name was made to lead here (DNS rebinding)."""
    async with sip_phone() as phone, serving(tmp_path, phone.port) as client:
        headers = {"Origin": origin.format(port=client.port)}
        if host:
            headers["Host"] = host.format(port=client.port)
        found, answer, _ = await client.ask({"to": NUMBER}, headers)
        assert found == status, answer
        client.worker.table.say_goodbye("")
        await client.worker.empty()


async def test_a_page_of_another_name_has_the_token(tmp_path: Path) -> None:
    """An operator's own page behind their own name."""
    async with sip_phone() as phone, serving(tmp_path, phone.port) as client:
        headers = {
            "Origin": "https://calls.example",
            "Host": "calls.example",
            "Authorization": f"Bearer {TOKEN}",
        }
        status, _, _ = await client.ask({"to": NUMBER}, headers)
        assert status == 202
        client.worker.table.say_goodbye("")
        await client.worker.empty()


@pytest.mark.parametrize(
    ("token", "given", "status"),
    [
        (TOKEN, "", 403),
        (TOKEN, f"Bearer {TOKEN}x", 403),
        (TOKEN, "Bearer ", 403),
        (TOKEN, f"Basic {TOKEN}", 403),
        (TOKEN, "Bearer \udcff", 403),
        ("", "Bearer ", 403),
        ("", "", 403),
        (TOKEN, f"Bearer {TOKEN}", 202),
        (TOKEN, f"bearer  {TOKEN}", 202),
    ],
)
async def test_from_elsewhere_a_token_is_needed(
    tmp_path: Path, token: str, given: str, status: int
) -> None:
    """Without one of ours nobody has the right one."""
    async with sip_phone() as phone, serving(tmp_path, phone.port, token=token) as client:
        head = b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        body = json.dumps({"to": NUMBER}).encode()
        said = f"Authorization: {given}\r\n".encode(errors="surrogateescape") if given else b""
        size = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        reader, writer = await asyncio.open_unix_connection(str(client.far))
        writer.write(head + said + size + body)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        client.worker.table.say_goodbye("")
        await client.worker.empty()


async def test_without_room_it_is_said_when_to_ask_again(tmp_path: Path) -> None:
    """503 with Retry-After."""
    async with (
        sip_phone() as phone,
        sip_phone() as caller,
        serving(tmp_path, phone.port, most=1) as client,
    ):
        talk = await up(client.worker, caller)
        status, _, fields = await client.ask({"to": NUMBER})
        assert (status, bool(int(fields["Retry-After"]))) == (503, True)
        caller.hang_up(talk)
        await client.worker.empty()


async def test_a_trunk_whose_address_nobody_knows_is_503(tmp_path: Path) -> None:
    """With the seconds of the setting."""
    async with serving(tmp_path) as client:
        text = '[trunk]\nname = "house"\nproxies = ["sip:nowhere.invalid"]\n[outbound]\n'
        client.worker.sip.policy.change(
            {"house": trunk(f'{text}enabled = true\nprefixes = ["+"]\n')}
        )
        status, _, fields = await client.ask({"to": NUMBER})
        assert (status, fields["Retry-After"]) == (503, "7")
        assert not client.worker.left()
