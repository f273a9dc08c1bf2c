"""Calls over every transport of SIP through the real daemon: TCP, TLS, WebSocket, IPv4 and IPv6.

Each is a whole call: tones there and back, a change in its middle, a BYE from either side. Then what goes
wrong with connections: they are cut, they are nobody's, they are another worker's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowcatd.sip.agent_event import Connected
from tests.scenarios.daemon import READY_SECONDS, ROOT, free_block, until
from tests.scenarios.secure_phone import (
    Extras,
    Papers,
    SecurePhone,
    Tape,
    papers,
    secure_phone,
)
from tests.scenarios.sip_phone import Manner, sip_phone
from tests.scenarios.test_12_sip import until_heard
from tests.scenarios.test_13_sip_fleet import (
    AGENTS,
    Fleet,
    calls_on_both,
    changed,
    fleet,
    parted,
)
from tests.scenarios.test_14_sip_adversity import wire

pytestmark = pytest.mark.scenario

TRUNK = """
[trunk]
name = "loopback"
[inbound]
sources = ["127.0.0.1", "::1"]
calls_per_second = 1000
[media]
codecs = ["pcmu", "pcma", "g722", "opus"]
[[route]]
number = "keys"
agent = "digits"
[[route]]
agent = "echo"
"""
KEYS = f"agents.directory={AGENTS}"


@dataclass(frozen=True)
class Heard:
    """How the daemon's TLS is reached."""

    believer: ssl.SSLContext
    port: int


@asynccontextmanager
async def listening(tmp_path: Path, *settings: str, **trunks: str) -> AsyncIterator[Fleet]:
    """A fleet on a port where no TCP connection lingers, either."""
    port = free_block(1)
    async with fleet(tmp_path, *settings, f"sip.port={port}", **trunks) as place:
        place.port = port
        yield place


@asynccontextmanager
async def everywhere(tmp_path: Path, *settings: str) -> AsyncIterator[tuple[Fleet, Heard]]:
    """A daemon that listens on all there is; and who may be believed."""
    shown = papers(tmp_path, "daemon")
    tls_port = free_block(1)
    files = (f"sip.certificate={shown.certificate}", f"sip.certificate_key={shown.key}")
    said = (KEYS, f"sip.tls_port={tls_port}", *files, "sip.host6=::1")
    async with listening(tmp_path, *said, *settings, loopback=TRUNK) as place:
        yield place, Heard(shown.believer(), tls_port)


def kinds(place: Fleet, seen: Heard) -> dict[str, tuple[Manner, Extras, str]]:
    """Every way to call this daemon: the telephone, and whom it calls."""
    web = f"{place.daemon.url}/sip"
    six = "[::1]"
    return {
        "TCP": (Manner(transport="TCP"), Extras(), f"127.0.0.1:{place.port}"),
        "TLS": (
            Manner(transport="TLS", tls=seen.believer),
            Extras(),
            f"127.0.0.1:{seen.port}",
        ),
        "WS": (Manner(transport="WS"), Extras(web=web), f"127.0.0.1:{place.port}"),
        "UDP6": (Manner(host="::1"), Extras(), f"{six}:{place.port}"),
        "TCP6": (Manner(host="::1", transport="TCP"), Extras(), f"{six}:{place.port}"),
    }


async def until_clean(talk: Tape, hz: float = 440.0, *, noise_db: float = 20.0) -> None:
    """For 0.4 s what comes back is the tone that is said, at its level, without a click."""
    since = len(talk.sounds)
    told = ""

    def is_clean() -> bool:
        nonlocal told
        told = talk.flaws(hz, since, noise_db=noise_db)
        return not told

    try:
        await until(is_clean, "a clean tone")
    except AssertionError as error:
        raise AssertionError(f"{error}: {told}") from None


async def whole_call(phone: SecurePhone, where: str) -> str:
    """A call to the echo that this side ends, one to a keypad agent that the daemon ends."""
    talk = await phone.ring_up(f"sip:anyone@{where}")
    assert talk.has(Connected), talk.ended
    await until_clean(talk)
    await changed(phone, talk, held=True)
    await changed(phone, talk, held=False)
    await until_clean(talk)
    names = await parted(phone, talk)
    other = await phone.ring_up(f"sip:keys@{where}")
    assert other.has(Connected), other.ended
    assert other.stream is not None
    other.stream.press("47")
    await until(lambda: other.ended is not None, "the agent's end")
    assert other.ended is not None
    assert other.ended.by_peer
    return names[0]


async def test_a_call_goes_over_every_transport_and_is_ended_from_both_sides(
    tmp_path: Path,
) -> None:
    """TCP, TLS, WebSocket, and IPv6 by UDP and TCP: call, echo, hold, resume, BYE of ours and theirs."""
    async with everywhere(tmp_path) as (place, seen), AsyncExitStack() as stack:
        names = {}
        calls = {}
        for kind, (manner, extras, where) in kinds(place, seen).items():
            phone = await stack.enter_async_context(secure_phone(manner, extras))
            calls[kind] = whole_call(phone, where)
        ended = await asyncio.gather(*calls.values())
        names = dict(zip(calls, ended, strict=True))
        for kind, name in names.items():
            record = await place.daemon.record_of(name)
            assert record["sip"]["transport"] == kind.rstrip("6")
            assert record["ended_by"] == "caller"
        assert place.daemon.log("call.failed") == []


# --- who may connect ------------------------------------------------------------------------------


async def refused_by_tls(port: int, context: ssl.SSLContext) -> bool:
    """Whether a connection gets no further than its handshake."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            writer.write(b"\r\n\r\n")
            return await asyncio.wait_for(reader.read(10), 5) == b""
        finally:
            writer.transport.abort()
    except (ssl.SSLError, ConnectionError):
        return True


async def test_with_mutual_tls_nobody_without_a_certificate_gets_in(tmp_path: Path) -> None:
    """A certificate of the named authority: a whole call. None, or another's: no connection."""
    ours, others = papers(tmp_path, "carrier"), papers(tmp_path, "stranger")
    async with everywhere(tmp_path, f"sip.client_ca={ours.authority}") as (place, seen):
        daemon = Papers(tmp_path / "daemon-ca.pem", Path(), Path())
        assert await refused_by_tls(seen.port, seen.believer)
        assert await refused_by_tls(seen.port, daemon.believer(others))
        manner = Manner(transport="TLS", tls=daemon.believer(ours))
        async with secure_phone(manner) as phone:
            await whole_call(phone, f"127.0.0.1:{seen.port}")
        assert len(place.daemon.log("call.started")) == 2


async def test_keep_alives_are_answered_over_every_connection(tmp_path: Path) -> None:
    """Two line ends get one (RFC 5626 §3.5.1), over TCP, TLS and WebSocket."""
    async with everywhere(tmp_path) as (place, seen):
        for port, context in ((place.port, None), (seen.port, seen.believer)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            for _ in range(3):
                writer.write(b"\r\n\r\n")
                assert await asyncio.wait_for(reader.readexactly(2), 5) == b"\r\n"
            writer.transport.abort()
        extras = Extras(web=f"{place.daemon.url}/sip")
        async with secure_phone(Manner(transport="WS"), extras) as phone:
            await phone.ping()
            await until(lambda: phone.ponged == 1, "a pong")


# --- connections that are cut ---------------------------------------------------------------------


async def cut_in_its_middle(phone: SecurePhone, place: Fleet, where: str) -> None:
    """The sound goes on; a re-INVITE and the BYE come over another connection."""
    talk = await phone.ring_up(f"sip:anyone@{where}")
    await until_clean(talk)
    if phone.transport == "WS":
        await phone.reconnect()
    else:
        phone.cut()
    await until_heard(talk, 50)
    assert talk.worst_gap() < 0.5
    await changed(phone, talk, held=True)
    await changed(phone, talk, held=False)
    await until_clean(talk)
    names = await parted(phone, talk)
    assert (await place.daemon.record_of(names[0]))["ended_by"] == "caller"


async def test_a_call_outlives_its_connection(tmp_path: Path) -> None:
    """TCP, TLS and WebSocket: cut in mid-call, the call goes on and is changed and ended over a new one."""
    async with everywhere(tmp_path) as (place, seen), AsyncExitStack() as stack:
        every = kinds(place, seen)
        work = []
        for kind in ("TCP", "TLS", "WS"):
            manner, extras, where = every[kind]
            phone = await stack.enter_async_context(secure_phone(manner, extras))
            work.append(cut_in_its_middle(phone, place, where))
        await asyncio.gather(*work)
        assert place.daemon.log("call.failed") == []


async def test_a_bye_of_ours_finds_a_telephone_whose_connection_is_gone(tmp_path: Path) -> None:
    """Where Contact says that it listens (RFC 3261 §18.1.1): a new connection, and the BYE."""
    manner = Manner(transport="TCP")
    async with everywhere(tmp_path) as (place, _), secure_phone(manner) as phone:
        talk = await phone.ring_up(f"sip:keys@127.0.0.1:{place.port}")
        assert talk.stream is not None
        phone.cut()
        talk.stream.press("47")
        await until(lambda: talk.ended is not None, "the agent's end")
        assert talk.ended is not None
        assert talk.ended.by_peer


async def test_a_call_whose_telephone_has_gone_ends_in_its_record(tmp_path: Path) -> None:
    """A WebSocket that is lost for good, and no RTP: the silence ends the call, not before its time."""
    async with everywhere(tmp_path, "calls.silence_seconds=1.5") as (place, _):
        extras = Extras(web=f"{place.daemon.url}/sip")
        async with secure_phone(Manner(transport="WS"), extras) as phone:
            talk = await phone.ring_up(f"sip:anyone@127.0.0.1:{place.port}")
            await until_clean(talk)
            name = phone.agent.call_id(talk.number)
            assert talk.wire is not None
            talk.wire.close()
        record = await place.daemon.record_of(name)
    assert record["reason"] == "socket_lost"
    assert record["duration_seconds"] > 1.5


# --- in the fleet ---------------------------------------------------------------------------------


async def test_one_connection_carries_calls_of_both_workers(tmp_path: Path) -> None:
    """Whoever holds it passes on what is the other's, both ways, and nothing is missed on the way."""
    async with listening(tmp_path) as place, sip_phone(Manner(transport="TCP")) as phone:
        owners = await calls_on_both(place, phone, 2)
        assert len(phone.pipes) == 1
        talks = [talk for each in owners.values() for talk in each]
        for talk in talks:
            await changed(phone, talk, held=True)
            await changed(phone, talk, held=False)
            await until_heard(talk, 20)
            assert talk.stream is not None
            assert (talk.lost, talk.stream.figures().sources) == (0, 1)
        names = await parted(phone, *talks)
        for name in names:
            assert (await place.record(phone, name))["ended_by"] == "caller"
        assert len(phone.pipes) == 1


async def test_options_says_whether_calls_are_taken(tmp_path: Path) -> None:
    """200 with what we can do while serving, 503 with Retry-After while draining."""
    async with listening(tmp_path, "calls.drain_seconds=8", "calls.goodbye=") as place:
        with wire(place) as peer:
            async with sip_phone() as phone:
                talk = await phone.call(place.uri())
                await until_heard(talk, 10)
                peer.send(peer.request("OPTIONS", "while-serving"))
                served = await peer.answer("OPTIONS", "while-serving")
                assert served[8:11] == b"200"
                assert b"\r\nallow: invite" in served.lower()
                place.daemon.tell(signal.SIGTERM)
                await until(lambda: len(place.daemon.log("worker.drained")) == 2, "the drain")
                number = 0

                async def asked() -> bytes:
                    nonlocal number
                    number += 1
                    peer.send(peer.request("OPTIONS", f"draining-{number}"))
                    return await peer.answer("OPTIONS", f"draining-{number}")

                answer = await asked()
                while answer[8:11] == b"200" and number < 50:
                    answer = await asked()
                assert answer[8:11] == b"503"
                assert b"\r\nretry-after: " in answer.lower()
                await parted(phone, talk)


# --- as it is delivered ---------------------------------------------------------------------------


def is_free(port: int) -> bool:
    """Whether nobody has this port, for UDP and TCP."""
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


@asynccontextmanager
async def untouched(tmp_path: Path, config: str) -> AsyncIterator[None]:
    """A daemon with nothing said about SIP."""
    runtime = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    command = [str(Path(sys.executable).with_name("flowcatd")), "serve", "--json"]
    command += ["--config", str(ROOT / config)]
    said = ("server.port=0", "metrics.port=0", f"control.directory={runtime}", "workers.count=1")
    for setting in (*said, f"records.directory={tmp_path / 'records'}"):
        command += ["--set", setting]
    with (tmp_path / "daemon.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=log, cwd=tmp_path, env=dict(os.environ)
        )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), READY_SECONDS)
        assert line, (tmp_path / "daemon.log").read_text()
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), READY_SECONDS)
        shutil.rmtree(runtime, ignore_errors=True)


@pytest.mark.skipif(not is_free(5060), reason="somebody else has port 5060")
@pytest.mark.parametrize("config", ["conf/bench.toml", "conf/flowcatd.toml"])
async def test_any_softphone_of_this_machine_can_call_at_once(tmp_path: Path, config: str) -> None:
    """Nothing set: sip:anybody@127.0.0.1 is answered by the configuration's agent, over UDP and TCP."""
    async with untouched(tmp_path, config):
        for transport in ("UDP", "TCP"):
            async with secure_phone(Manner(transport=transport)) as phone:
                if "bench" in config:  # which echoes
                    talk = await phone.ring_up("sip:anybody@127.0.0.1")
                else:  # which stops when it is talked over
                    talk = await phone.ring_up("sip:anybody@127.0.0.1", lambda _rate_hz: None)
                assert talk.has(Connected), talk.ended
                await until_heard(talk, 20)
                await parted(phone, talk)
