"""Hundreds of idle far ends in one cheap program: each sends line noise or silence and reads no word.

A far end is a WebSocket client by hand (RFC 6455): a masked frame whose key is zero needs no
arithmetic, and what arrives is thrown away unparsed, so four hundred callers cost a tenth of a core.
Audio leaves in pieces of 100 ms, which the daemon cuts to its frames of 20 ms.

Noise is white, from a fixed seed, and differs from piece to piece.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from flowcatd.audio.g711 import pcm_to_mulaw

PIECE_MS = 100
PIECE_SAMPLES = 8 * PIECE_MS
OPEN_SECONDS = 10.0
TRIES = 40
PAUSE_SECONDS = 0.5
SILENCE = b"\xff"
TURNS = 5
"""Far ends take turns within a piece's time, so that they do not all send at once."""
_UPGRADE = (
    "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def noise(dbfs: float, pieces: int = 16) -> list[bytes]:
    """White noise of this level (RMS against a full-scale square wave), as mu-law; 0 is silence."""
    if not dbfs:
        return [SILENCE * PIECE_SAMPLES]
    source = random.Random(6)  # the same noise in every run
    deviation = 32768 * 10 ** (dbfs / 20)
    made = []
    for _ in range(pieces):
        samples = (int(source.gauss(0, deviation)) for _ in range(PIECE_SAMPLES))
        pcm = b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples)
        made.append(pcm_to_mulaw(pcm))
    return made


@dataclass
class FarEnd(asyncio.Protocol):
    """One caller."""

    carrier: str
    number: int
    path: str
    opened: asyncio.Future[None]
    heard: int = 0
    """Bytes that came."""
    lost: bool = False
    elapsed_ms: int = 0
    _wire: asyncio.Transport = field(init=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the WebSocket."""
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport
        transport.write(_UPGRADE.format(self.path).encode())

    def data_received(self, data: bytes) -> None:
        """The answer, once; the agent, from then on."""
        if not self.heard:
            if not data.startswith(b"HTTP/1.1 101"):
                self.opened.set_exception(ConnectionError(data[:100].decode("latin-1")))
                return
            for message in self._hello():
                self._send(0x81, message)
            self.opened.set_result(None)
        self.heard += len(data)

    def connection_lost(self, _error: Exception | None) -> None:
        """The daemon has hung up."""
        self.lost = True
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("closed before it was open"))

    def say(self, piece: bytes) -> None:
        """One piece."""
        if self.carrier == "twilio":
            payload = base64.b64encode(piece).decode()
            media = f'{{"track":"inbound","timestamp":"{self.elapsed_ms}","payload":"{payload}"}}'
            text = f'{{"event":"media","streamSid":"MZ{self.number}","media":{media}}}'
            self._send(0x81, text.encode())
        else:
            self._send(0x82, piece)
        self.elapsed_ms += PIECE_MS

    def close(self) -> None:
        """Hang up."""
        self._send(0x88, b"\x03\xe8")
        self._wire.close()

    def _hello(self) -> list[bytes]:
        if self.carrier != "twilio":
            return []
        start = {
            "streamSid": f"MZ{self.number}",
            "callSid": f"CA{self.number}",
            "accountSid": "AC",
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {},
        }
        messages: list[dict[str, object]] = [
            {"event": "connected", "protocol": "Call", "version": "1.0.0"},
            {
                "event": "start",
                "sequenceNumber": "1",
                "streamSid": f"MZ{self.number}",
                "start": start,
            },
        ]
        return [msgspec.json.encode(message) for message in messages]

    def _send(self, opcode: int, data: bytes) -> None:
        size = len(data)
        if size < 126:
            head = bytes((opcode, 0x80 | size))
        else:
            head = bytes((opcode, 0xFE)) + size.to_bytes(2, "big")
        self._wire.write(head + bytes(4) + data)


class FarEnds:
    """All callers of one daemon, and the one task that speaks for them."""

    def __init__(self, port: int, carrier: str, pieces: list[bytes]) -> None:
        """`pieces` are said in turn, over and over."""
        self._port = port
        self._carrier = carrier
        self._pieces = pieces
        self.all: list[FarEnd] = []

    async def open(self, path: str) -> None:
        """One more; a worker that has no time just now is asked again, TRIES times."""
        for _ in range(TRIES - 1):
            try:
                return await self._open(path)
            except ConnectionError:
                await asyncio.sleep(PAUSE_SECONDS)
        return await self._open(path)

    async def _open(self, path: str) -> None:
        loop = asyncio.get_running_loop()
        far_end = FarEnd(self._carrier, len(self.all), path, loop.create_future())
        await loop.create_connection(lambda: far_end, "127.0.0.1", self._port)
        async with asyncio.timeout(OPEN_SECONDS):
            await far_end.opened
        self.all.append(far_end)

    def lost(self) -> int:
        """How many the daemon has hung up on."""
        return sum(far_end.lost for far_end in self.all)

    async def speak(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        begun, said = loop.time(), 0
        while True:
            piece = self._pieces[said // TURNS % len(self._pieces)]
            for far_end in self.all[said % TURNS :: TURNS]:
                if not far_end.lost:
                    far_end.say(piece)
            said += 1
            await asyncio.sleep(begun + said * PIECE_MS / 1000 / TURNS - loop.time())


@asynccontextmanager
async def far_ends(port: int, carrier: str, pieces: list[bytes]) -> AsyncIterator[FarEnds]:
    """Callers that speak until the block ends, and then hang up."""
    all_of_them = FarEnds(port, carrier, pieces)
    speaking = asyncio.create_task(all_of_them.speak())
    try:
        yield all_of_them
    finally:
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)
        for far_end in all_of_them.all:
            far_end.close()
