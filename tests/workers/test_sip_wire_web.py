"""SIP over WebSocket: what RFC 7118 asks of a server, and the limits of every connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from tests.workers.on_loop import until
from tests.workers.sip_wires import Fleet, Wire, request, with_fleet
from workers.sip_links import LinkTerms


@asynccontextmanager
async def serving(wire: Wire) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A wire's WebSocket on an HTTP server, and a client of it."""
    application = web.Application()
    application.router.add_get("/sip", wire.wire.websocket)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/sip"
    async with aiohttp.ClientSession() as session:
        yield session, url
    await runner.cleanup()
    await until(lambda: len(wire.wire.links) == 0)


def connect(session: aiohttp.ClientSession, url: str, **fields):
    """As a browser's library does."""
    return session.ws_connect(url, **{"protocols": ("sip",), "max_msg_size": 0} | fields)


@with_fleet
async def test_each_websocket_message_is_one_sip_message_both_ways(fleet: Fleet) -> None:
    """In text or binary; ours are text, or binary where they are no UTF-8."""
    one = fleet.wire()
    data = request(to=one.stamp)
    async with serving(one) as (session, url), connect(session, url) as socket:
        assert socket.protocol == "sip"
        one.answer = b"SIP/2.0 200 OK\r\n\r\n"
        await socket.send_str(data.decode())
        answer = await socket.receive(5)
        assert (answer.type, answer.data) == (WSMsgType.TEXT, one.answer.decode())
        one.answer = b"SIP/2.0 200 \xff\r\n\r\n"
        await socket.send_bytes(data)
        answer = await socket.receive(5)
        assert (answer.type, answer.data) == (WSMsgType.BINARY, one.answer)
        assert [each for each, _ in one.got] == [data, data]
        hop = one.got[0][1]
        assert (hop.transport, hop.host, hop.connection) == ("WS", "127.0.0.1", 1)
        assert (one.wire.counts["ws_in"], one.wire.counts["ws_out"]) == (2, 2)
    assert one.failed == [hop]


@with_fleet
async def test_line_ends_are_kept_alive_by_and_a_ping_is_answered(fleet: Fleet) -> None:
    """RFC 7118 §6; whatever the frame."""
    one = fleet.wire()
    async with serving(one) as (session, url), connect(session, url) as socket:
        await socket.send_str("\r\n\r\n")
        assert (await socket.receive(5)).data == "\r\n"
        await socket.send_bytes(b"\r\n")
        await socket.send_bytes(b"\r\n\r\n")
        assert (await socket.receive(5)).data == "\r\n"
        await socket.ping()
        await socket.send_bytes(request(to=one.stamp))
        await until(lambda: one.got)
        assert len(one.got) == 1


@with_fleet
async def test_who_does_not_want_sip_is_not_let_in(fleet: Fleet) -> None:
    """426 without an upgrade, 400 without the subprotocol."""
    one = fleet.wire()
    async with serving(one) as (session, url):
        async with session.get(url) as plain:
            assert (plain.status, plain.headers["Upgrade"]) == (426, "websocket")
        for offered in ((), ("xmpp",), ("SIP",)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await connect(session, url, protocols=offered)
            assert refused.value.status == 400
        async with connect(session, url, protocols=("xmpp", "sip")) as socket:
            assert socket.protocol == "sip"
    assert len(one.wire.links) == 0


@with_fleet
async def test_a_message_travels_to_its_worker_and_back_to_the_websocket(fleet: Fleet) -> None:
    """The browser stays where it connected."""
    one, two = fleet.wire(), fleet.wire()
    two.answer = b"SIP/2.0 200 OK\r\n\r\n"
    async with serving(one) as (session, url), connect(session, url) as socket:
        await socket.send_bytes(request(to=two.stamp))
        assert (await socket.receive(5)).data == two.answer.decode()
        hop = two.got[0][1]
        assert (hop.transport, hop.connection) == ("WS", 1)
    await until(lambda: two.failed == [hop])
    two.wire.send(b"late", hop)
    await until(lambda: two.failed == [hop, hop])


@with_fleet
async def test_a_message_that_is_too_long_ends_the_websocket(fleet: Fleet) -> None:
    """1009, and nobody has to read it."""
    one = fleet.wire()
    async with serving(one) as (session, url), connect(session, url) as socket:
        await socket.send_bytes(b"x" * 70_000)
        answer = await socket.receive(5)
        assert (answer.type, answer.data) == (WSMsgType.CLOSE, 1009)
    assert one.got == []


@with_fleet
async def test_limits_of_connections_hold_for_websockets(fleet: Fleet) -> None:
    """So many per source; who is silent is dropped, who does not read as well."""
    terms = LinkTerms(sweep_seconds=0.01, per_source=2, silent_seconds=0.3, write_bytes=300_000)
    one = fleet.wire(terms=terms)
    async with serving(one) as (session, url):
        silent, slow = await connect(session, url), await connect(session, url)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await connect(session, url)
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "5")
        await slow.send_bytes(request(to=one.stamp))
        await until(lambda: one.got)
        assert (await silent.receive(5)).type in (WSMsgType.CLOSED, WSMsgType.CLOSE)
        hop = one.got[0][1]
        for _ in range(4000):
            one.wire.send(b"x" * 20_000, hop)
            await asyncio.sleep(0)
            if one.failed:
                break
        await until(lambda: one.failed)
        assert one.failed == [hop]
        counts = one.wire.links.counts
        assert (counts["refused"], counts["silent"], counts["slow"]) == (1, 1, 1)
        for socket in (silent, slow):
            await socket.close()


@with_fleet
async def test_closing_ends_websockets_after_what_was_said(fleet: Fleet) -> None:
    """And lets nobody in afterwards."""
    one = fleet.wire()
    async with serving(one) as (session, url):
        socket = await connect(session, url)
        await socket.send_bytes(request(to=one.stamp))
        await until(lambda: one.got)
        one.wire.send(b"last words", one.got[0][1])
        one.wire.close()
        assert (await socket.receive(5)).data == "last words"
        assert (await socket.receive(5)).type is WSMsgType.CLOSE
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await connect(session, url)
        assert refused.value.status == 503
        await socket.close()
    assert one.failed == []
