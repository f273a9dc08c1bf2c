"""The speaking half of a stream: 20 ms of PCM, or none, in at every tick; datagrams out.

Every call of `send` is one tick, and the timestamp goes on by 20 ms with it whether anything is sent or
not (RFC 3550 §5.1: it tells of sampling, not of packets). The first packet after a pause carries the marker
(RFC 3551 §4.1). Digits take the place of audio while a key is down (RFC 4733 §2.2). Where comfort
noise was negotiated a silence is announced when it begins and again every NOISE_EVERY ticks.

`state` is what another process needs to go on with the same stream: `Sender` made from it continues SSRC,
sequence numbers and timestamps, further on by what the far end may have heard in the meantime.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from flowcatd.audio.chunker import Chunker
from flowcatd.audio.g711 import PCM_SILENCE
from flowcatd.errors import LocalError
from flowcatd.media import PTIME_MS
from flowcatd.rtp.codec import Codec
from flowcatd.rtp.comfort import Noise, build_noise
from flowcatd.rtp.digits import KEYS, DigitWriter
from flowcatd.rtp.packet import datagram

PTIMES_MS = (10, 20, 30, 40, 60)
NOISE_EVERY = 50
"""Ticks: once a second, so that one lost announcement does not matter."""
NOISE = Noise(70)
"""What our silence sounds like: a quiet line, -70 dBov."""
EVERY_EVENT = frozenset(range(len(KEYS)))
AHEAD = 5
"""Sequence numbers left out at a take-over, for what was sent after the last state was kept."""

_MARKER = 0x80


class SenderState(msgspec.Struct, frozen=True):
    """Where a stream of ours stands."""

    ssrc: int
    index: int
    """The next packet's sequence number, with the cycles gone through (RFC 3711 §3.3.1 wants them)."""
    timestamp: int
    """Of the next tick."""
    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class Outbound:
    """What was agreed for the way out."""

    codec: Codec
    ptime_ms: int = PTIME_MS
    digits_type: int | None = None
    """telephone-event's payload type; None when the far end does not take it."""
    noise_type: int | None = None
    """Comfort noise's payload type; None sends nothing in a silence."""
    events: frozenset[int] = EVERY_EVENT
    """What the far end takes of telephone-event: nothing else is sent (RFC 4733 §2.5.1.1)."""


class Sender:
    """Our side of one stream."""

    def __init__(self, plan: Outbound, state: SenderState) -> None:
        if plan.ptime_ms not in PTIMES_MS:
            raise LocalError(f"packets of {plan.ptime_ms} ms are not sent")
        self.ssrc = state.ssrc
        self._index = state.index
        self._timestamp = state.timestamp
        self.packets = state.packets
        self.octets = state.octets
        self._before = (0, 0)
        """Packets and octets under an earlier SSRC."""
        self.digits = DigitWriter(plan.codec.clock_hz)
        self._talking = False
        self._silent_ticks = 0
        self.change(plan)

    def change(self, plan: Outbound) -> None:
        """Another codec or packet length was agreed; the stream goes on."""
        self._plan = plan
        codec = plan.codec
        self._chunker: Chunker | None = None
        if plan.ptime_ms != PTIME_MS:
            self._chunker = Chunker(codec.frame_bytes * plan.ptime_ms // PTIME_MS)
        self._ahead = 0
        """Ticks of the clock that the chunker holds from before this tick."""
        self._step = codec.step

    def send(self, pcm: bytes | None) -> list[bytes]:
        """One tick: the datagrams that `pcm` (None: nothing to say) makes due."""
        timestamp = self._timestamp
        self._timestamp = timestamp + self._step & 0xFFFFFFFF
        if self.digits.busy:
            event = self.digits.tick(timestamp)
            if event is not None:
                sent = self._finish(timestamp)
                if self._plan.digits_type is not None:
                    kind = self._plan.digits_type | event.marker << 7
                    sent.append(self._build(kind, event.timestamp, event.payload))
                return sent
        if pcm is None:
            return self._silence(timestamp)
        if self._chunker is None:
            return [self._speak(timestamp, pcm)]
        return self._cut(timestamp, pcm, self._chunker)

    def skip(self) -> None:
        """One tick in which nothing may be sent (we are on hold): time goes on."""
        self._timestamp = self._timestamp + self._step & 0xFFFFFFFF
        self._fall_silent()

    def rename(self, ssrc: int, index: int) -> None:
        """From now on another source, whose first packet has the number `index`."""
        self.ssrc, self._index = ssrc, index
        self._before = self.packets, self.octets

    @property
    def counted(self) -> tuple[int, int]:
        """Packets and octets sent under this SSRC: what a report says (RFC 3550 §6.4.1)."""
        return self.packets - self._before[0], self.octets - self._before[1]

    @property
    def timestamp(self) -> int:
        """Of the next tick."""
        return self._timestamp

    @property
    def state(self) -> SenderState:
        """Where we stand."""
        return SenderState(self.ssrc, self._index, self._timestamp, self.packets, self.octets)

    def _speak(self, timestamp: int, pcm: bytes) -> bytes:
        codec = self._plan.codec
        kind = codec.payload_type
        if not self._talking:
            self._talking = True
            kind |= _MARKER
        return self._build(kind, timestamp, codec.encode(pcm))

    def _cut(self, timestamp: int, pcm: bytes, chunker: Chunker) -> list[bytes]:
        """Packets of another length than a tick's; the first begins with what was held."""
        at = timestamp - self._ahead
        length = self._step * self._plan.ptime_ms // PTIME_MS
        sent = []
        for piece in chunker.push(pcm):
            sent.append(self._speak(at & 0xFFFFFFFF, piece))
            at += length
        self._ahead = timestamp + self._step - at
        return sent

    def _silence(self, timestamp: int) -> list[bytes]:
        sent = self._finish(timestamp)
        self._silent_ticks += 1
        if self._plan.noise_type is not None and self._silent_ticks % NOISE_EVERY == 1:
            sent.append(self._build(self._plan.noise_type, timestamp, build_noise(NOISE)))
        return sent

    def _finish(self, timestamp: int) -> list[bytes]:
        """Talk ends: what it left for the next packet goes as a shorter one."""
        sent = []
        chunker = self._chunker
        if chunker is not None and chunker.pending:
            rest = chunker.pending
            last = chunker.flush(PCM_SILENCE) or b""
            sent.append(self._speak(timestamp - self._ahead & 0xFFFFFFFF, last[:rest]))
        self._fall_silent()
        return sent

    def _fall_silent(self) -> None:
        if self._talking:
            self._talking = False
            self._silent_ticks = 0
        self._ahead = 0
        if self._chunker is not None:
            self._chunker.clear()

    def _build(self, second: int, timestamp: int, payload: bytes) -> bytes:
        sequence = self._index & 0xFFFF
        self._index += 1
        self.packets += 1
        self.octets += len(payload)
        return datagram(second, sequence, timestamp, self.ssrc, payload)


def carried_on(state: SenderState, plan: Outbound, elapsed: float) -> SenderState:
    """The state `elapsed` seconds later, in whole ticks, with AHEAD for what nobody wrote down."""
    ticks = math.ceil(max(0.0, elapsed) * 1000 / PTIME_MS)
    return SenderState(
        state.ssrc,
        state.index + -(-ticks * PTIME_MS // plan.ptime_ms) + AHEAD,
        state.timestamp + ticks * plan.codec.step & 0xFFFFFFFF,
        state.packets,
        state.octets,
    )
