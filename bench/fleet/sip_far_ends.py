"""Many telephones in one cheap program: SIP by hand over one socket, RTP of all of them over another.

The words are bench/peers' (`SipCaller`: no flowcatd in it, G.711 only); here they are sent without waiting, so
that hundreds of calls may be under way at once. The daemon sends each call's sound from a port of its
own, by which calls are told apart. What is asked is asked again every REPEAT_SECONDS, and a 200 that comes
again gets its ACK again (RFC 3261 §13.2.2.4).
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from bench.peers.rtp_load import FRAME, PACKET_SECONDS, READ_BYTES
from bench.peers.sip_caller import BYTES_MAX, Message, NotAnsweredError, Placed, SipCaller, parse

REPEAT_SECONDS = 0.5
REPEATS = 8
TRIES = 40
PAUSE_SECONDS = 0.5
BUSY = "503"


@dataclass(slots=True)
class Phone:
    """One call of theirs."""

    placed: Placed
    hear: Callable[[bytes], None]
    """Told each payload of 20 ms that comes."""
    ssrc: int
    sequence: int = 0
    timestamp: int = 0

    def packet(self, payload: bytes) -> bytes:
        """The next 20 ms, as RTP (RFC 3550 §5.1)."""
        self.sequence = self.sequence + 1 & 0xFFFF
        self.timestamp = self.timestamp + FRAME & 0xFFFFFFFF
        numbers = self.sequence << 64 | self.timestamp << 32 | self.ssrc
        return b"\x80\x00" + numbers.to_bytes(10, "big") + payload


def unheard(_payload: bytes) -> None:
    """Nobody listens."""


@dataclass(slots=True)
class _Asked:
    """A request whose final answer is awaited."""

    method: str
    answer: asyncio.Future[Message]


@dataclass(slots=True)
class Refusals:
    """How often there was no room."""

    busy: int = 0
    repeats: int = 0
    """Requests that were asked again."""
    statuses: dict[str, int] = field(default_factory=dict)


class SipFarEnds(SipCaller):
    """All telephones; `open` on a running loop, `shut` when done."""

    def __init__(self, port: int) -> None:
        """`port` is the daemon's, of SIP over UDP."""
        super().__init__("127.0.0.1", port)
        self.media = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.media.bind(("127.0.0.1", 0))
        self.refusals = Refusals()
        self.all: list[Phone] = []
        self._by_source: dict[tuple[str, int], Phone] = {}
        self._asked: dict[str, _Asked] = {}

    def open(self, *, listens: bool = True) -> None:
        """Be there; who does not listen leaves what is said to him to the kernel, which drops it."""
        loop = asyncio.get_running_loop()
        self._socket.setblocking(False)
        loop.add_reader(self._socket, self._read)
        self.media.setblocking(False)
        if listens:
            loop.add_reader(self.media, self._listen)

    def shut(self) -> None:
        """Give the sockets back."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_reader(self.media)
        self.media.close()
        self.close()

    async def ring(self, hear: Callable[[bytes], None] = unheard) -> Phone:
        """One more call, as soon as there is room; NotAnsweredError when there is none for long."""
        for _ in range(TRIES - 1):
            try:
                return await self._ring(hear)
            except NotAnsweredError as error:
                status = str(error).removeprefix("SIP/2.0 ")[:3]
                self.refusals.statuses[status] = self.refusals.statuses.get(status, 0) + 1
                if status != BUSY:
                    raise
                self.refusals.busy += 1
                await asyncio.sleep(PAUSE_SECONDS)
        return await self._ring(hear)

    async def _ring(self, hear: Callable[[bytes], None]) -> Phone:
        placed = self.invite(self.media.getsockname()[1])
        try:
            answer = await self._answer(placed, self.last, "INVITE")
            self.acknowledge(placed, answer)
        except NotAnsweredError:
            self.calls.pop(placed.call_id, None)
            raise
        phone = Phone(placed, hear, random.getrandbits(32), random.getrandbits(15))
        self._by_source[placed.media] = phone
        self.all.append(phone)
        return phone

    async def part(self, phone: Phone) -> int:
        """Hang up: the status that the BYE got."""
        placed = phone.placed
        placed.cseq += 1
        text = self.request(placed, "BYE", placed.target)
        self.send(text)
        try:
            return (await self._answer(placed, text, "BYE")).status
        finally:
            self.calls.pop(placed.call_id, None)
            self.all.remove(phone)
            if self._by_source.get(placed.media) is phone:
                del self._by_source[placed.media]

    def say(self, phone: Phone, payload: bytes) -> None:
        """20 ms; what the kernel does not take is lost."""
        with suppress(BlockingIOError):
            self.media.sendto(phone.packet(payload), phone.placed.media)

    def lost(self) -> int:
        """How many the daemon has hung up on."""
        return sum(phone.placed.is_over for phone in self.all)

    async def speak(self, frames: Sequence[bytes]) -> None:
        """All say these, over and over, in turns, until cancelled."""
        loop = asyncio.get_running_loop()
        begun, said, turns = loop.time(), 0, 10
        while True:
            frame = frames[said // turns % len(frames)]
            for phone in self.all[said % turns :: turns]:
                self.say(phone, frame)
            said += 1
            await asyncio.sleep(begun + said * PACKET_SECONDS / turns - loop.time())

    async def _answer(self, placed: Placed, text: str, method: str) -> Message:
        asked = _Asked(method, asyncio.get_running_loop().create_future())
        self._asked[placed.call_id] = asked
        try:
            for _ in range(REPEATS):
                done, _ = await asyncio.wait([asked.answer], timeout=REPEAT_SECONDS)
                if done:
                    return asked.answer.result()
                self.refusals.repeats += 1
                self.send(text)
        finally:
            del self._asked[placed.call_id]
        raise NotAnsweredError(f"no answer to {method}")

    def _read(self) -> None:
        while True:
            try:
                message = parse(self._socket.recv(BYTES_MAX))
            except BlockingIOError:
                return
            self._note(message)
            if message.status >= 200:
                self._answered(message)

    def _answered(self, message: Message) -> None:
        call_id, method = message.fields["call-id"], message.fields["cseq"].split()[1]
        asked = self._asked.get(call_id)
        if asked is not None and asked.method == method:
            if not asked.answer.done():
                asked.answer.set_result(message)
            return
        placed = self.calls.get(call_id)
        if placed is not None and method == "INVITE" and placed.target:
            cseq, placed.cseq = placed.cseq, 1
            self.send(self.request(placed, "ACK", placed.target))
            placed.cseq = cseq

    def _listen(self) -> None:
        while True:
            try:
                data, source = self.media.recvfrom(READ_BYTES)
            except BlockingIOError:
                return
            phone = self._by_source.get(source)
            if phone is not None and len(data) == 12 + FRAME and data[1] & 0x7F == 0:
                phone.hear(data[12:])


@asynccontextmanager
async def sip_far_ends(port: int, frames: Sequence[bytes] = ()) -> AsyncIterator[SipFarEnds]:
    """Telephones until the block ends; given frames, deaf ones that say them all the time."""
    everybody = SipFarEnds(port)
    everybody.open(listens=not frames)
    speaking = asyncio.create_task(everybody.speak(frames)) if frames else None
    try:
        yield everybody
    finally:
        if speaking is not None:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)
        for phone in list(everybody.all):
            with suppress(NotAnsweredError):
                await everybody.part(phone)
        everybody.shut()
