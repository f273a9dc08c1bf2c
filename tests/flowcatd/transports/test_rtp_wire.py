"""The RTP wire: two of them talk on loopback, also through loss, floods, secrets and silence."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import uvloop

from flowcatd.audio.g722 import G722Decoder, G722Encoder
from flowcatd.audio.g722 import available as has_g722
from flowcatd.audio.level import rms
from flowcatd.audio.opus import OpusDecoder, OpusEncoder, OpusError, ticks
from flowcatd.audio.opus import available as has_opus
from flowcatd.errors import FlowcatdError, LocalError
from flowcatd.rtp.codec import PCMU, Codec
from flowcatd.rtp.digits import Digit
from flowcatd.rtp.packet import datagram, is_rtcp
from flowcatd.rtp.stream import Guard, Left, Moved, Plan, Stream, StreamEvent
from flowcatd.rtp.trouble import RtpError
from flowcatd.sip.session import SUITES, Key, Sdes
from flowcatd.transports.pacer import Pacer
from flowcatd.transports.rtp_wire import MOST_PER_TICK, RtpWire
from flowcatd.transports.srtp import Srtp
from workers.clock import WorkerClock
from workers.ports import PortPair, Ports, PortShare

LOUD = struct.pack("<160h", *([8000, 8000, 8000, 8000, -8000, -8000, -8000, -8000] * 20))
"""20 ms of 1 kHz at 8 kHz."""
WIDE = struct.pack("<320h", *([8000] * 8 + [-8000] * 8) * 20)
"""The same at 16 kHz."""
LIMIT = 20.0
"""Seconds after which what was waited for will not come."""
LOW, HIGH = 21_000, 21_999


class Caller:
    """A call that says one thing and notes what it hears."""

    def __init__(self) -> None:
        self.says: bytes | None = LOUD
        self.heard: list[bytes] = []
        self.events: list[StreamEvent] = []
        self.errors: list[FlowcatdError] = []
        self.hearing: Callable[[], None] = lambda: None

    def hear(self, pcm: bytes) -> None:
        """Note it."""
        self.heard.append(pcm)
        self.hearing()

    def speak(self) -> bytes | None:
        """Say it again."""
        return self.says

    def told(self, event: StreamEvent) -> None:
        """Note it."""
        self.events.append(event)

    def broken(self, error: FlowcatdError) -> None:
        """Note it too."""
        self.errors.append(error)

    def hears_well(self) -> bool:
        """Whether the last ten frames were loud."""
        return len(self.heard) > 10 and all(rms(pcm) > 4000 for pcm in self.heard[-10:])


@dataclass
class Leg:
    """One end: its ports, its stream, its call and the wire between."""

    pair: PortPair
    stream: Stream
    call: Caller
    wire: RtpWire


@dataclass
class Exchange:
    """Ends on one loop; everything is closed when it is left."""

    host: str = "127.0.0.1"
    legs: list[Leg] = field(default_factory=list)
    relays: list[asyncio.DatagramTransport] = field(default_factory=list)

    async def __aenter__(self):
        self.clock = WorkerClock(asyncio.get_running_loop())
        self.pacer = Pacer(self.clock)
        self.ports = Ports(PortShare(LOW, HIGH, 1, 0), self.host, 1)
        return self

    async def __aexit__(self, *_):
        for leg in self.legs:
            leg.wire.close()
            self.ports.give_back(leg.pair)
        for relay in self.relays:
            relay.close()
        assert len(self.pacer) == 0
        assert len(self.clock) == 0
        await asyncio.sleep(0)

    def leg(
        self,
        pair: PortPair,
        far,
        guard: Guard | None = None,
        *,
        mux: bool = False,
        codec: Codec = PCMU,
    ) -> Leg:
        """One end on `pair`, towards `far`."""
        chance = random.Random(pair.port)
        plan = Plan((codec,), far=far, mux=mux, digits_type=101, cname=b"c")
        stream = Stream(plan, chance.getrandbits, guard)
        stream.direct(self.clock.now(), sending=True, receiving=True)
        call = Caller()
        made = Leg(pair, stream, call, RtpWire(pair, stream, self.pacer, call))
        self.legs.append(made)
        return made

    def couple(self, *, mux: bool = False) -> tuple[Leg, Leg]:
        """Two ends that know each other's address."""
        one, two = self.ports.take(), self.ports.take()
        return (
            self.leg(one, (self.host, two.port), mux=mux),
            self.leg(two, (self.host, one.port), mux=mux),
        )

    async def relayed(self, drop: float, most: int) -> tuple[Leg, Leg, list[Relay]]:
        """Two ends with a relay between them that loses `drop` of at most `most` datagrams."""
        one, two = self.ports.take(), self.ports.take()
        loop = asyncio.get_running_loop()
        relays = [Relay(drop, most, seed) for seed in (1, 2)]
        transports = [
            (await loop.create_datagram_endpoint(lambda r=r: r, (self.host, 0)))[0] for r in relays
        ]
        self.relays += transports
        # What comes in at one side leaves from the other, so each end sees one address.
        relays[0].out, relays[0].to = transports[1], (self.host, two.port)
        relays[1].out, relays[1].to = transports[0], (self.host, one.port)
        near = [transport.get_extra_info("sockname") for transport in transports]
        return self.leg(one, near[0]), self.leg(two, near[1]), relays


class Relay(asyncio.DatagramProtocol):
    """Half a wide-area network: loses some, holds some back until the next one has gone."""

    def __init__(self, drop: float, most: int, seed: int) -> None:
        self.out: asyncio.DatagramTransport | None = None
        self.to = ("", 0)
        self.dropped = self.passed = 0
        self._drop, self._most = drop, most
        self._chance = random.Random(seed)
        self._held: bytes | None = None

    def datagram_received(self, data, _addr):
        """Lose it, hold it, or let it pass."""
        if self.passed >= self._most:
            return
        if self._chance.random() < self._drop:
            self.dropped += 1
            return
        self.passed += 1
        if self._held is None and self._chance.random() < 0.05:
            self._held = data
            return
        self.out.sendto(data, self.to)
        if self._held is not None:
            self.out.sendto(self._held, self.to)
            self._held = None


async def until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Wait for it, not for a time."""
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110 there is no event for what a condition looks at
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("runner", [uvloop.run, asyncio.run])
def test_two_wires_hear_each_other(runner):
    """On uvloop and on asyncio's own loop; nothing is lost between them."""

    async def talk() -> None:
        async with Exchange() as exchange:
            one, two = exchange.couple()
            await until(lambda: one.call.hears_well() and two.call.hears_well())
            for leg in (one, two):
                figures = leg.stream.figures()
                assert figures.packets_out >= 10
                assert (figures.lost, figures.bad, figures.foreign) == (0, 0, 0)
                assert leg.wire.counts.unsent == 0
            assert {leg.wire.phase for leg in (one, two)} == {0.0}

    runner(talk())


async def test_over_ipv6_it_is_the_same():
    """Addresses of four parts become addresses of two."""
    async with Exchange("::1") as exchange:
        one, two = exchange.couple()
        await until(lambda: one.call.hears_well() and two.call.hears_well())
        assert Moved(("::1", two.pair.port)) in one.call.events


async def test_every_tick_is_heard_whatever_is_lost():
    """Through five percent of loss and reordering, with every lost packet concealed."""
    async with Exchange() as exchange:
        one, two, relays = await exchange.relayed(0.05, 5_000)
        await until(lambda: min(len(leg.call.heard) for leg in (one, two)) >= 200)
        for leg, relay in ((two, relays[0]), (one, relays[1])):
            figures = leg.stream.figures()
            assert relay.dropped > 0
            assert figures.lost == pytest.approx(relay.dropped, abs=2)
            assert {len(pcm) for pcm in leg.call.heard} == {320}
            loud = sum(rms(pcm) > 1000 for pcm in leg.call.heard[20:])
            assert loud > 0.9 * (len(leg.call.heard) - 20)


async def test_digits_arrive_right_through_loss():
    """All sixteen keys, once each and in order."""
    async with Exchange() as exchange:
        one, two, _ = await exchange.relayed(0.05, 5_000)
        await until(two.call.hears_well)
        keys = "1234567890*#ABCD"
        for key in keys:
            one.stream.press(key, 60)
        heard = two.call.events
        await until(lambda: sum(isinstance(event, Digit) for event in heard) >= len(keys))
        assert "".join(event.key for event in heard if isinstance(event, Digit)) == keys


async def test_audio_goes_to_where_it_comes_from_and_not_to_where_sdp_said():
    """A far end behind a NAT is answered at the address that its packets have."""
    async with Exchange() as exchange:
        one, two = exchange.ports.take(), exchange.ports.take()
        nowhere = exchange.ports.take()
        near = exchange.leg(one, ("127.0.0.1", nowhere.port))
        far = exchange.leg(two, ("127.0.0.1", one.port))
        await until(far.call.hears_well)
        assert near.call.events == [Moved(("127.0.0.1", two.port))]
        exchange.ports.give_back(nowhere)


def g722() -> Codec:
    """One end's, with its memories."""
    return Codec("G722", 9, 8_000, 16_000, G722Decoder().decode, G722Encoder().encode, len)


def opus() -> Codec:
    """One end's, with its memories, for a call at 16 kHz."""
    decoder = OpusDecoder(16_000)

    def decode(packet: bytes) -> bytes:
        try:
            return decoder.decode(packet)
        except OpusError as error:
            raise RtpError(str(error)) from error

    return Codec("opus", 111, 48_000, 16_000, decode, OpusEncoder(16_000).encode, ticks)


@pytest.mark.parametrize(
    ("codec", "is_here"),
    [pytest.param(g722, has_g722, id="G.722"), pytest.param(opus, has_opus, id="Opus")],
)
async def test_wideband_is_heard_at_16_khz_whatever_its_clock_says(codec, is_here):
    """G.722's clock runs at 8 kHz, Opus's at 48; both give 640 bytes a tick, none lost."""
    if not is_here():
        pytest.skip("the codec is not installed")
    async with Exchange() as exchange:
        one, two = exchange.ports.take(), exchange.ports.take()
        near = exchange.leg(one, ("127.0.0.1", two.port), codec=codec())
        far = exchange.leg(two, ("127.0.0.1", one.port), codec=codec())
        near.call.says = far.call.says = WIDE
        await until(lambda: near.call.hears_well() and far.call.hears_well())
        assert {len(pcm) for pcm in near.call.heard} == {640}
        figures = near.stream.figures()
        assert (figures.lost, figures.bad, figures.discarded) == (0, 0, 0)


def keys() -> tuple[Sdes, Sdes]:
    """Of both ends."""
    suite = SUITES["AES_CM_128_HMAC_SHA1_80"]
    one, two = Key(suite, bytes(range(30))), Key(suite, bytes(range(1, 31)))
    return Sdes(one, two), Sdes(two, one)


async def test_with_srtp_both_hear_each_other():
    """And reports are read as well."""
    async with Exchange() as exchange:
        one, two = exchange.ports.take(), exchange.ports.take()
        guards = [Srtp(each) for each in keys()]
        near = exchange.leg(one, ("127.0.0.1", two.port), guards[0].guard)
        far = exchange.leg(two, ("127.0.0.1", one.port), guards[1].guard)
        await until(lambda: near.call.hears_well() and far.call.hears_well())
        near.wire.close()
        await until(lambda: Left() in far.call.events)
        assert all(guard.refused.forged == 0 for guard in guards)


async def test_a_wrong_key_is_silence_and_counted():
    """Not noise in the caller's ear."""
    async with Exchange() as exchange:
        one, two = exchange.ports.take(), exchange.ports.take()
        ours, theirs = keys()
        guard = Srtp(ours)
        near = exchange.leg(one, ("127.0.0.1", two.port), guard.guard)
        stranger = Srtp(Sdes(theirs.receive, theirs.receive))
        exchange.leg(two, ("127.0.0.1", one.port), stranger.guard)
        await until(lambda: near.stream.bad > 20)
        assert guard.refused.forged == near.stream.bad
        assert near.stream.figures().packets_in == 0
        assert max(map(rms, near.call.heard)) < 100


@pytest.mark.parametrize("mux", [False, True])
async def test_reports_leave_from_the_port_that_was_agreed(mux):
    """With rtcp-mux from RTP's own port (RFC 5761), else from the next."""
    async with Exchange() as exchange:
        pair = exchange.ports.take()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rtp:
            rtp.bind(("127.0.0.1", 0))
            rtp.settimeout(LIMIT)
            leg = exchange.leg(pair, rtp.getsockname(), mux=mux)
            leg.stream.send(bytes(320))  # who never sent anything says no goodbye
            seen: list[tuple[bool, int]] = []
            if not mux:
                host, port = rtp.getsockname()
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rtcp:
                    rtcp.bind((host, port + 1))
                    rtcp.settimeout(LIMIT)
                    leg.wire.close()
                    data, addr = rtcp.recvfrom(2000)
                    seen.append((is_rtcp(data), addr[1]))
            else:
                leg.wire.close()
                data, addr = rtp.recvfrom(2000)
                seen.append((is_rtcp(data), addr[1]))
            assert seen == [(True, pair.port + (not mux))]


async def test_reports_are_exchanged_while_the_call_lasts():
    """Each knows the round trip and what the other misses."""
    async with Exchange() as exchange:
        one, two = exchange.couple()
        await until(
            lambda: all(
                leg.stream.figures().round_trip_ms is not None
                or leg.stream.figures().remote_loss is not None
                for leg in (one, two)
            )
        )
        assert one.stream.figures().remote_loss == 0


async def test_closing_says_goodbye_and_leaves_the_sockets_to_their_owner():
    """The far end is told; no reader and no tick is left; twice is as good as once."""
    async with Exchange() as exchange:
        one, two = exchange.couple()
        await until(lambda: one.call.hears_well() and two.call.hears_well())
        one.wire.close()
        one.wire.close()
        await until(lambda: Left() in two.call.events)
        heard = len(one.call.heard)
        assert one.pair.rtp.fileno() >= 0
        await until(lambda: len(two.call.heard) > 100)
        assert len(one.call.heard) == heard
        one.pair.rtp.setblocking(False)
        assert one.pair.rtp.recv(2000), "what comes now is left in the socket"


async def test_a_call_may_end_within_its_tick():
    """Nothing is sent after the goodbye."""
    async with Exchange() as exchange:
        one, two = exchange.couple()
        await until(lambda: one.call.hears_well() and two.call.hears_well())
        sent: list[int] = []

        def hang_up() -> None:
            one.wire.close()
            sent.append(one.stream.figures().packets_out)

        one.call.hearing = hang_up
        await until(lambda: Left() in two.call.events)
        assert sent == [one.stream.figures().packets_out]


async def test_a_tick_that_fails_is_the_last_one_and_the_call_is_told():
    """Its neighbours go on; closing afterwards still says goodbye."""
    async with Exchange() as exchange:
        one, two = exchange.couple()
        await until(lambda: one.call.hears_well() and two.call.hears_well())

        def fail() -> None:
            raise LocalError("a mistake of ours")

        one.call.hearing = fail
        await until(lambda: one.call.errors)
        heard = len(two.call.heard)
        await until(lambda: len(two.call.heard) > heard + 5)
        assert len(one.call.errors) == 1
        one.wire.close()
        await until(lambda: Left() in two.call.events)


async def test_silence_sends_nothing():
    """Nothing to say is no packet; hearing goes on."""
    async with Exchange() as exchange:
        one, two = exchange.couple()
        one.call.says = None
        await until(one.call.hears_well)
        assert one.stream.figures().packets_out == 0
        assert not any(map(any, two.call.heard[-5:]))


async def test_a_flood_is_read_by_the_share_and_the_call_goes_on():
    """Two thousand datagrams at once cost 64 per tick; what the far end says is heard afterwards."""
    async with Exchange() as exchange:
        one, two = exchange.couple()
        await until(lambda: one.call.hears_well() and two.call.hears_well())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            for number in range(2_000):
                data = datagram(0, number & 0xFFFF, number * 160, 666, bytes(160))
                flood.sendto(data, ("127.0.0.1", one.pair.port))
        before = len(one.call.heard)
        figures = one.stream.figures()
        await until(lambda: one.wire.counts.floods > 0)
        await until(lambda: len(one.call.heard) > before + 5)
        taken = one.stream.figures().foreign - figures.foreign
        assert taken <= MOST_PER_TICK * (len(one.call.heard) - before + 1)
        one.call.heard.clear()
        await until(one.call.hears_well)


@pytest.mark.parametrize(
    "far", [("localhost", 21_998), ("::1", 21_998), ("127.0.0.1", 70_000), ("", 1), None]
)
async def test_what_is_no_address_is_not_sent_to(far):
    """A name is never looked up on the way of audio: counted, and the tick goes on."""
    async with Exchange() as exchange:
        leg = exchange.leg(exchange.ports.take(), far)
        await until(lambda: len(leg.call.heard) > 5)
        assert leg.wire.counts.unsent >= 5


async def test_nobody_at_the_far_end_breaks_nothing():
    """ICMP says that the port is closed; we go on, and hear when somebody comes."""
    async with Exchange() as exchange:
        one, two = exchange.ports.take(), exchange.ports.take()
        exchange.ports.give_back(two)
        leg = exchange.leg(one, ("127.0.0.1", two.port))
        await until(lambda: len(leg.call.heard) > 10)
        assert leg.wire.counts.unread == 0
        late = PortPair(*_bound(two.port), two.port)
        far = exchange.leg(late, ("127.0.0.1", one.port))
        await until(lambda: leg.call.hears_well() and far.call.hears_well())


def _bound(port: int) -> list[socket.socket]:
    made = []
    for number in (port, port + 1):
        wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        wire.setblocking(False)
        wire.bind(("127.0.0.1", number))
        made.append(wire)
    return made


async def test_garbage_is_counted_and_harmless():
    """Of any length, on both ports."""
    async with Exchange() as exchange:
        one, two = exchange.couple()
        await until(lambda: one.call.hears_well() and two.call.hears_well())
        chance = random.Random(3)
        for length in (0, 1, 11, 12, 13, 40, 1400, 5000, 40_000):
            for port in (one.pair.port, one.pair.port + 1):
                two.pair.rtp.sendto(chance.randbytes(length), ("127.0.0.1", port))
        await until(lambda: one.stream.bad >= 9)
        one.call.heard.clear()
        await until(one.call.hears_well)
