"""What the network does to a daemon with SIP: garbage, floods, forgeries, peers that fall silent.

Always with a live call beside it, or after it, that must not notice. What a telephone never says is
written here by hand, and sent over a bare socket.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
import struct
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from flowcatd.sip.digest import Answerer, Secret
from tests.scenarios.daemon import until
from tests.scenarios.sip_phone import Manner, SipPhone, Talk, bound, sip_phone
from tests.scenarios.test_12_sip import until_heard
from tests.scenarios.test_13_sip_fleet import (
    Fleet,
    changed,
    fleet,
    nothing_missed,
    parted,
    until_calls,
)

pytestmark = pytest.mark.scenario

CORPUS = Path(__file__).parents[1] / "corpus" / "sip"
DIGEST = """
[trunk]
name = "guarded"
[inbound]
sources = ["127.0.0.3"]
digest = true
user = "alice"
password = "file:{password}"
[[route]]
"""


class Wire:
    """A bare UDP socket, and SIP as it is written."""

    def __init__(self, place: Fleet, host: str = "127.0.0.1") -> None:
        self.place = place
        self.host = host
        self.socket = bound(host)
        self.port = self.socket.getsockname()[1]
        self.received: list[bytes] = []
        asyncio.get_running_loop().add_reader(self.socket, self._read)

    def close(self) -> None:
        """Read no more."""
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()

    def _read(self) -> None:
        try:
            while True:
                self.received.append(self.socket.recv(65_535))
        except BlockingIOError:
            pass

    def send(self, data: bytes) -> None:
        """To the daemon; what the kernel does not take is lost, as on any network."""
        with suppress(BlockingIOError):
            self.socket.sendto(data, ("127.0.0.1", self.place.port))

    def request(self, method: str, call: str, *, to: str = "", cseq: int = 1, **more: str) -> bytes:
        """One request; `more` are `tag`, `branch`, `number` (of the CSeq's method), `body`."""
        body = more.get("body", "")
        kind = "Content-Type: application/sdp\r\n" if body else ""
        return (
            f"{method} {self.place.uri()} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {self.host}:{self.port};branch={more.get('branch', branch())};rport\r\n"
            f"From: <sip:stranger@{self.host}>;tag={more.get('tag', 'ours')}\r\n"
            f"To: <{self.place.uri()}>{f';tag={to}' if to else ''}\r\n"
            f"Call-ID: {call}\r\nCSeq: {cseq} {method}\r\nMax-Forwards: 70\r\n"
            f"Contact: <sip:stranger@{self.host}:{self.port}>\r\n"
            f"{kind}Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def offer(self, port: int = 40_000) -> str:
        """µ-law at this port."""
        return (
            f"v=0\r\no=- 1 1 IN IP4 {self.host}\r\ns=-\r\nc=IN IP4 {self.host}\r\nt=0 0\r\n"
            f"m=audio {port} RTP/AVP 0\r\na=sendrecv\r\n"
        )

    async def answer(self, method: str, call: str, after: int = 0) -> bytes:
        """The first final answer to this request of this call."""
        found: list[bytes] = []
        what = re.compile(rf"\ncseq: *\d+ {method}\r".encode(), re.IGNORECASE)

        def came() -> bool:
            found[:] = [
                each
                for each in self.received[after:]
                if each.startswith(b"SIP/2.0 ")
                and each[8:9] != b"1"
                and call.encode() in each
                and what.search(each)
            ]
            return bool(found)

        await until(came, f"an answer to {method}")
        return found[0]


@contextmanager
def wire(place: Fleet, host: str = "127.0.0.1") -> Iterator[Wire]:
    """Closed however the test ends."""
    made = Wire(place, host)
    try:
        yield made
    finally:
        made.close()


def branch() -> str:
    """A fresh one."""
    return f"z9hG4bK{secrets.token_hex(8)}"


def tag_of(message: bytes, name: str = "to") -> str:
    """The tag in To or From."""
    found = re.search(rf"\n{name}:[^\r]*;tag=([^;\r]+)".encode(), message, re.IGNORECASE)
    assert found is not None
    return found[1].decode()


@asynccontextmanager
async def bystander(place: Fleet) -> AsyncIterator[Talk]:
    """A call that must not notice anything."""
    async with sip_phone() as phone:
        talk = await phone.call(place.uri())
        await until_heard(talk, 10)
        yield talk
        await until_heard(talk, 10)
        nothing_missed(talk)
        await parted(phone, talk)
    assert place.daemon.log("worker.lost") == []
    assert place.daemon.log("loop.raised") == []
    assert place.daemon.log("call.failed") == []


# --- nonsense -------------------------------------------------------------------------------------


def invalid() -> dict[str, tuple[bytes, str]]:
    """Every message of the RFCs' torture tests that is not to be accepted, with its verdict."""
    found = {}
    for index in CORPUS.glob("*.toml"):
        for name, entry in tomllib.loads(index.read_text()).items():
            if isinstance(entry, dict) and entry["verdict"] != "accept":
                data = (index.with_suffix("") / f"{name}.sip").read_bytes()
                found[name] = data, entry["verdict"]
    return found


async def test_nonsense_over_udp_and_tcp_is_answered_as_it_should_be_or_not_at_all(
    tmp_path: Path,
) -> None:
    """Torture messages, cut and flipped ones, and noise, by the hundred; a live call hears every frame."""
    messages = invalid()
    assert len(messages) > 25
    async with fleet(tmp_path) as place, bystander(place):
        with wire(place) as sender:
            for data, _ in messages.values():
                sender.send(data)
                sender.send(data[: len(data) // 2])
                flipped = bytearray(data)
                flipped[secrets.randbelow(len(data))] ^= 0x55
                sender.send(bytes(flipped))
                await asyncio.sleep(0)
            for length in (1, 9, 100, 1400, 60_000):
                sender.send(secrets.token_bytes(length))
            sender.send(sender.request("OPTIONS", "after-all-that"))
            assert (await sender.answer("OPTIONS", "after-all-that")).startswith(b"SIP/2.0 200")
        answers = await asyncio.gather(
            *(over_tcp(place, data) for data, _ in messages.values()),
            over_tcp(place, secrets.token_bytes(70_000)),
        )
        wrong = {
            name: (verdict, answer)
            for (name, (_, verdict)), answer in zip(messages.items(), answers, strict=False)
            if answer and not (verdict.isdigit() and verdict == answer[8:11].decode())
        }
        assert {name: each for name, each in wrong.items() if each[0] in {"drop", "stray"}} == {}
        assert all(each[1][8:9] in b"45" for each in wrong.values()), wrong


async def over_tcp(place: Fleet, data: bytes) -> bytes:
    """What is answered on a connection of its own, within half a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    try:
        writer.write(data)
        async with asyncio.timeout(0.5):
            return (await reader.read(12)).ljust(12)
    except (TimeoutError, ConnectionError):
        return b""
    finally:
        writer.transport.abort()


async def test_a_flood_from_a_stranger_takes_neither_memory_nor_calls(tmp_path: Path) -> None:
    """20 000 INVITEs from nobody's address: a trunk's calls are answered meanwhile, memory stays."""
    async with fleet(tmp_path) as place, bystander(place), sip_phone() as phone:
        workers = [psutil.Process(pid) for pid in place.pids().values()]
        before = sum(each.memory_info().rss for each in workers)
        slowest = 0.0
        with wire(place, "127.0.0.2") as stranger:
            for turn in range(40):
                for _ in range(500):
                    stranger.send(stranger.request("INVITE", secrets.token_hex(8)))
                await asyncio.sleep(0.01)
                if turn % 8 == 0:
                    begun = time.monotonic()
                    talk = await phone.call(place.uri())
                    slowest = max(slowest, time.monotonic() - begun)
                    assert talk.ended is None
                    await parted(phone, talk)
            said = {each[8:11] for each in stranger.received}
        grown = sum(each.memory_info().rss for each in workers) - before
    assert said <= {b"403"}
    assert len(stranger.received) < 2000
    assert grown < 20 * 1024 * 1024
    assert slowest < 2.5


# --- forgeries ------------------------------------------------------------------------------------


async def test_a_bye_with_a_wrong_tag_ends_nobodys_call(tmp_path: Path) -> None:
    """The Call-ID alone, one tag right, tags of the other side: 481 each time, and the call is heard."""
    async with fleet(tmp_path) as place, bystander(place) as talk, sip_phone() as phone:
        victim = await phone.call(place.uri())
        await until_heard(victim, 10)
        name = phone.agent.call_id(victim.number)
        right = next(each for each in phone.received if each.startswith(b"SIP/2.0 200"))
        theirs, ours = tag_of(right), tag_of(right, "from")
        with wire(place) as forger:
            tries = (("", "x"), ("x", "x"), (theirs, "x"), ("x", ours), (ours, theirs))
            for number, (to, tag) in enumerate(tries):
                after = len(forger.received)
                forger.send(forger.request("BYE", name, to=to, tag=tag, cseq=100 + number))
                assert (await forger.answer("BYE", name, after))[8:11] == b"481"
            after = len(forger.received)
            forger.send(forger.request("CANCEL", name, tag=ours))
            assert (await forger.answer("CANCEL", name, after))[8:11] == b"481"
        await until_heard(victim, 10)
        nothing_missed(victim, talk)
        await parted(phone, victim)


def guarded(tmp_path: Path) -> str:
    """A trunk file that wants a password."""
    password = tmp_path / "password"
    password.write_text("opensesame")
    return DIGEST.format(password=password)


def authorized(phone: SipPhone, status: str) -> list[bytes]:
    """The INVITEs with credentials that were answered so."""
    return [
        each
        for each in phone.sent
        if each.startswith(b"INVITE")
        and re.search(rb"(?i)\nauthorization:", each)
        and answer_to(phone, each) == status
    ]


async def test_credentials_that_let_somebody_in_do_so_once(tmp_path: Path) -> None:
    """Digest lets the right one in, on both workers; replayed, or with a wrong password, it does not."""
    right = Manner(host="127.0.0.3", answerer=answerer("opensesame"))
    wrong = Manner(host="127.0.0.3", answerer=answerer("guessed"))
    async with (
        fleet(tmp_path, guarded=guarded(tmp_path)) as place,
        bystander(place),
        sip_phone(right) as phone,
        sip_phone(wrong) as burglar,
    ):
        talks = [await phone.call(place.uri()) for _ in range(6)]
        assert [talk.ended for talk in talks] == [None] * 6
        refused = await burglar.call(place.uri())
        assert refused.ended is not None
        assert refused.ended.status == 403
        used = authorized(phone, "200")
        assert len(used) == 6
        with wire(place, "127.0.0.3") as thief:
            for number, each in enumerate(used):
                for call in (f"replayed-{number}-{turn}" for turn in range(4)):
                    thief.send(forged(each, call, thief.port))
                    assert (await thief.answer("INVITE", call))[8:11] == b"401"
        await until_calls(place, 7)
        await parted(phone, *talks)


async def test_credentials_that_were_refused_as_stale_let_nobody_in_either(tmp_path: Path) -> None:
    """Whoever overheard an INVITE that came to the other worker cannot call by it."""
    right = Manner(host="127.0.0.3", answerer=answerer("opensesame"))
    async with (
        fleet(tmp_path, guarded=guarded(tmp_path)) as place,
        sip_phone(right) as phone,
    ):
        for _ in range(12):
            await parted(phone, await phone.call(place.uri()))
        stale = authorized(phone, "401")
        assert stale, "all calls came to one worker"
        with wire(place, "127.0.0.3") as thief:
            for number, each in enumerate(stale):
                for call in (f"replayed-{number}-{turn}" for turn in range(8)):
                    thief.send(forged(each, call, thief.port))
                    assert (await thief.answer("INVITE", call))[8:11] == b"401"


def answer_to(phone: SipPhone, request: bytes) -> str:
    """The status of the final answer the phone got to this request."""
    found = re.search(rb"branch=([^;\r]+)", request)
    assert found is not None
    return next(
        each[8:11].decode()
        for each in phone.received
        if each.startswith(b"SIP/2.0 ") and each[8:9] != b"1" and found[1] in each
    )


def forged(request: bytes, call: str, port: int) -> bytes:
    """The same credentials in another call, whose answers come to this port."""
    data = re.sub(rb"(?i)(\ncall-id: *)[^\r]+", rb"\1" + call.encode(), request)
    data = re.sub(rb"branch=[^;\r]+", f"branch={branch()}".encode(), data)
    return re.sub(rb"(127\.0\.0\.3:)\d+;", rf"\g<1>{port};".encode(), data, count=1)


def answerer(password: str) -> Answerer:
    """Of the user alice."""
    return Answerer(Secret("alice", password), lambda: secrets.token_hex(8))


async def test_media_from_another_address_are_neither_heard_nor_answered(tmp_path: Path) -> None:
    """RTP to the right port from a wrong one: counted as foreign; the call goes on where it was."""
    async with fleet(tmp_path) as place, sip_phone() as phone:
        talk = await phone.call(place.uri())
        await until_heard(talk, 25)
        assert talk.session is not None
        assert talk.session.rtp is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hijacker:
            hijacker.bind(("127.0.0.2", 0))
            hijacker.setblocking(False)
            for number in range(200):
                head = struct.pack("!BBHII", 0x80, 0, number, number * 160, 0xBADBAD)
                hijacker.sendto(head + b"\x00" * 160, talk.session.rtp)
                if number % 10 == 0:
                    await until_heard(talk, 2)
            with pytest.raises(BlockingIOError):
                hijacker.recv(2000)
        nothing_missed(talk)
        names = await parted(phone, talk)
        record = await place.daemon.record_of(names[0])
    assert record["sip"]["media"]["foreign"] >= 190
    assert record["sip"]["media"]["sources"] == 1


# --- half a conversation --------------------------------------------------------------------------


async def test_a_cancel_ends_what_is_not_answered_and_nothing_else(tmp_path: Path) -> None:
    """For no call 481; after the 200 it is too late: the call lives, and BYE ends it."""
    async with fleet(tmp_path) as place, bystander(place):
        with wire(place) as peer:
            peer.send(peer.request("CANCEL", "no-such-call"))
            assert (await peer.answer("CANCEL", "no-such-call"))[8:11] == b"481"
            way = branch()
            peer.send(peer.request("INVITE", "late-cancel", branch=way, body=peer.offer()))
            peer.send(peer.request("CANCEL", "late-cancel", branch=way))
            answered = await peer.answer("INVITE", "late-cancel")
            assert answered[8:11] == b"200"
            assert (await peer.answer("CANCEL", "late-cancel"))[8:11] == b"200"
            theirs = tag_of(answered)
            peer.send(peer.request("ACK", "late-cancel", to=theirs))
            await until_calls(place, 2)
            peer.send(peer.request("BYE", "late-cancel", to=theirs, cseq=2))
            assert (await peer.answer("BYE", "late-cancel"))[8:11] == b"200"
        record = await place.daemon.record_of("late-cancel")
        assert record["ended_by"] == "caller"


async def test_an_offer_may_come_with_the_ack(tmp_path: Path) -> None:
    """An INVITE without a description gets an offer; the answer in the ACK opens the media."""
    async with fleet(tmp_path) as place:
        with wire(place) as peer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as media:
            media.bind(("127.0.0.1", 0))
            media.setblocking(False)
            peer.send(peer.request("INVITE", "late-offer"))
            offered = await peer.answer("INVITE", "late-offer")
            assert offered[8:11] == b"200"
            port = re.search(rb"m=audio (\d+)", offered)
            assert port is not None
            answer = peer.offer(media.getsockname()[1])
            peer.send(peer.request("ACK", "late-offer", to=tag_of(offered), body=answer))
            heard = 0
            for number in range(400):
                head = struct.pack("!BBHII", 0x80, 0, number, number * 160, 77)
                media.sendto(head + bytes(range(160)), ("127.0.0.1", int(port[1])))
                await asyncio.sleep(0.02)
                try:
                    heard += len(media.recv(2000)) == 172
                except BlockingIOError:
                    continue
                if heard > 20:
                    break
            assert heard > 20
            peer.send(peer.request("BYE", "late-offer", to=tag_of(offered), cseq=2))
            assert (await peer.answer("BYE", "late-offer"))[8:11] == b"200"


@pytest.mark.skipif("FLOWCATD_SLOW" not in os.environ, reason="waits for 32 s, as RFC 3261 has it")
async def test_a_peer_that_never_acknowledges_is_hung_up(tmp_path: Path) -> None:
    """After 64*T1 without an ACK: BYE, the place is free, and the record says why."""
    async with fleet(tmp_path) as place, bystander(place):
        with wire(place) as peer:
            peer.send(peer.request("INVITE", "never-acked", body=peer.offer()))
            await peer.answer("INVITE", "never-acked")
            await until_calls(place, 2)
            await until(lambda: any(x.startswith(b"BYE") for x in peer.received), "the BYE", 50)
            record = await place.daemon.record_of("never-acked")
        await until_calls(place, 1)
    assert record["reason"] == "never_started"


async def test_a_peer_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    """No RTP for calls.silence_seconds: BYE with a reason; on hold silence is no end."""
    settings = ("calls.silence_seconds=1.5", "workers.count=1")
    async with fleet(tmp_path, *settings) as place, sip_phone() as phone:
        silent, held = await phone.call(place.uri()), await phone.call(place.uri())
        await until_heard(silent, 10)
        await until_heard(held, 10)
        await changed(phone, held, held=True)
        quiet(silent)
        quiet(held)
        await until(lambda: silent.ended is not None, "the BYE")
        assert silent.ended is not None
        assert silent.ended.by_peer
        assert held.ended is None
        await parted(phone, held)


def quiet(talk: Talk) -> None:
    """Nothing is sent any more, not even reports."""
    assert talk.wire is not None
    talk.wire.close()
