"""A bad network in one process: UDP between a caller and a daemon, with loss, jitter and reordering.

What the near side sends to `port` goes on, from `far_port`, to whom the relay is aimed at; what comes
back to `far_port` goes to the near side, from `port`. Each direction draws its own packets' fate from a seeded generator:
lost, or late by up to `jitter_seconds`. Late packets overtake each other, which is what reorders them; a
share of `swapped` is held back for one packet more. At most HELD_MAX packets wait at a time. Drift, the
clocks of two sides running apart, cannot be made by a relay: it is the sender's (`bench.peers.rtp_load.run`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

HELD_MAX = 2000
SWAP_SECONDS = 0.025


@dataclass(frozen=True)
class Weather:
    """What the network does to a packet."""

    loss: float = 0.0
    jitter_seconds: float = 0.0
    swapped: float = 0.0


@dataclass
class Fate:
    """What it did."""

    seen: int = 0
    lost: int = 0
    dropped: int = 0
    """For want of room."""


@dataclass
class _Way(asyncio.DatagramProtocol):
    """One socket; what it receives leaves at `onward` towards `target`."""

    weather: Weather
    chance: random.Random
    fate: Fate = field(default_factory=Fate)
    onward: _Way | None = None
    target: tuple[str, int] | None = None
    learns: bool = False
    """Whether the answers go to whoever spoke last."""
    wire: asyncio.DatagramTransport | None = None
    held: int = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.wire = transport

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        assert self.onward is not None
        if self.learns:
            self.onward.target = source
        self.fate.seen += 1
        if self.chance.random() < self.weather.loss:
            self.fate.lost += 1
            return
        delay = self.chance.random() * self.weather.jitter_seconds
        delay += SWAP_SECONDS * (self.chance.random() < self.weather.swapped)
        if not delay:
            self.send(data)
        elif self.held < HELD_MAX:
            self.held += 1
            asyncio.get_running_loop().call_later(delay, self.let_go, data)
        else:
            self.fate.dropped += 1

    def let_go(self, data: bytes) -> None:
        self.held -= 1
        self.send(data)

    def send(self, data: bytes) -> None:
        assert self.onward is not None
        wire = self.onward.wire
        if wire is not None and not wire.is_closing() and self.target is not None:
            wire.sendto(data, self.target)


@dataclass
class Relay:
    """Where the near side sends to, what the far side sees, and what became of it both ways."""

    port: int
    far_port: int
    there: Fate
    back: Fate
    _near: _Way

    def aim(self, target: tuple[str, int]) -> None:
        """What the near side sends goes there from now on."""
        self._near.target = target


@asynccontextmanager
async def relay(weather: Weather, seed: int = 1) -> AsyncIterator[Relay]:
    """Between a near side on loopback and whom it is aimed at, until the block ends."""
    loop = asyncio.get_running_loop()
    chance = random.Random(seed)
    near = _Way(weather, chance, learns=True)
    far = _Way(weather, chance)
    near.onward, far.onward = far, near
    front, _ = await loop.create_datagram_endpoint(lambda: near, local_addr=("127.0.0.1", 0))
    back, _ = await loop.create_datagram_endpoint(lambda: far, local_addr=("127.0.0.1", 0))
    try:
        ports = (end.get_extra_info("sockname")[1] for end in (front, back))
        yield Relay(*ports, near.fate, far.fate, near)
    finally:
        front.close()
        back.close()
