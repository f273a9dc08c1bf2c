"""What a call over SIP costs a worker, all of it: datagram in, jitter buffer, chain, playout, datagram out.

`python -m bench.micro.sip_leg [--calls N] [--seconds S]`. The calls are real (`Call`, `SipLeg`, `RtpWire`, one
pacer, uvloop, sockets on loopback) with G.711; the far ends are a process of their own, whose time does not
count. The chain is wiring's, with a recording that goes nowhere: once with the echo agent, whose caller
hears himself, once with an agent that has nothing to say, to a caller who speaks and to one who sends
silence; first the wire alone. CPU time of this process, per call, in percent of a core; the issue allows
0.6. Not in it: recognition, synthesis, a brain, journals, the disk, SIP messages.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import uvloop

from bench.micro.echo_chain import speech_like
from bench.micro.pacer import BenchClock
from flowcatd.call import Call
from flowcatd.carriers.events import Started
from flowcatd.errors import FlowcatdError
from flowcatd.log import set_level
from flowcatd.options import Calls as CallsOptions
from flowcatd.options import Playout as PlayoutOptions
from flowcatd.options import Turns as TurnsOptions
from flowcatd.pipeline.chain import Chain
from flowcatd.pipeline.processor import Processor
from flowcatd.processors.echo import Echo
from flowcatd.processors.figures import Figures
from flowcatd.processors.hear import Hear
from flowcatd.processors.playout import Playout
from flowcatd.processors.record import Recorder
from flowcatd.processors.speak import Speak
from flowcatd.processors.transcript import Transcript
from flowcatd.processors.turns import Turns
from flowcatd.processors.vad import Vad, webrtc_detector
from flowcatd.record import Identity, Ledger
from flowcatd.rtp.codec import PCMU as CODEC
from flowcatd.rtp.packet import datagram
from flowcatd.rtp.stream import Plan, Stream, StreamEvent
from flowcatd.rtp.watchdog import Patience
from flowcatd.sip.agent_event import Cause
from flowcatd.sip.attribute import Direction
from flowcatd.sip.session import PCMU, Events, Incoming, Session
from flowcatd.transports.pacer import PERIOD, Pacer
from flowcatd.transports.rtp_wire import RtpWire
from flowcatd.transports.sip_leg import Ends, Facts, SipLeg

WARM_SECONDS = 1.0
SILENCE = [b"\xff" * 160] * 50


class Pair(NamedTuple):
    """One call's sockets."""

    rtp: socket.socket
    rtcp: socket.socket


def bound() -> Pair:
    """Two free ports."""
    made = Pair(*(socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)))
    for wire in made:
        wire.setblocking(False)
        wire.bind(("127.0.0.1", 0))
    return made


class Shredder:
    """Where recordings go: the disk has a thread of its own."""

    def append(self, block: bytes) -> None:
        """Gone."""

    async def close(self) -> None:
        """Nothing was kept."""


class Line:
    """No dialog."""

    def hang_up(self, cause: Cause | None) -> None:
        """Nobody is there."""

    def press(self, digit: str) -> None:
        """Nobody is there."""

    def refer(self, target: str) -> None:
        """Nobody is there."""

    def changed(self) -> None:
        """Nobody asks."""


def far_ends(
    wires: Sequence[socket.socket], ports: Sequence[int], payloads: Sequence[bytes]
) -> None:
    """In a process of its own: 50 packets a second to each port, spread over the period."""
    begun, number = time.monotonic(), 0
    while True:
        for index, (wire, port) in enumerate(zip(wires, ports, strict=True)):
            due = begun + (number + index / len(ports)) * PERIOD
            time.sleep(max(0.0, due - time.monotonic()))
            payload = payloads[number % len(payloads)]
            data = datagram(0, number & 0xFFFF, number * 160 & 0xFFFFFFFF, 1000 + index, payload)
            wire.sendto(data, ("127.0.0.1", port))
            try:
                while True:
                    wire.recv(2048)
            except BlockingIOError:
                pass
        number += 1


def echo(ledger: Ledger) -> list[Processor]:
    """An agent that says what it hears."""
    return [Hear(TurnsOptions(), ledger.usage), Echo(), Speak(None, ledger.usage)]


def listening(ledger: Ledger) -> list[Processor]:
    """An agent that has nothing to say at the moment."""
    return [Hear(TurnsOptions(), ledger.usage), Speak(None, ledger.usage)]


@dataclass
class Bench:
    """One round: its loop's pacer, and the calls on it."""

    clock: BenchClock
    pacer: Pacer
    agent: Callable[[Ledger], list[Processor]]

    def call(self, pair: Pair, far: int) -> tuple[asyncio.Task[object], SipLeg]:
        """One call, up."""
        chance = random.Random(far)
        ends = Ends(pair, lambda: None, self.pacer, chance.getrandbits, Patience(), 0.0, b"bench")
        facts = Facts("call", "bench", False, "", "", "", "UDP", {})
        leg = SipLeg(facts, Line(), ends)
        identity = Identity(call_id=f"bench-{far}", carrier="sip", agent="bench", worker_slot=0)
        ledger = Ledger(identity, datetime.now(UTC), self.clock.now())

        def wire_up(call: Call, _started: Started) -> Chain:
            options = TurnsOptions()
            first: list[Processor] = [Vad(options, webrtc_detector()), Turns(options)]
            last: list[Processor] = [Playout(leg, PlayoutOptions()), Figures(ledger), Transcript()]
            last.append(Recorder(lambda _rate_hz: Shredder()))
            return Chain([*first, *self.agent(ledger), *last], call, at_tail=call.at_tail)

        call = Call(ledger, CallsOptions(), self.clock, wire_up)
        task = asyncio.get_running_loop().create_task(call.run(leg))
        now = self.clock.now()
        leg.agreed(session_with(far), now, is_early=False)
        leg.connected(now)
        return task, leg


def session_with(far: int) -> Session:
    """PCMU with keys, as most carriers answer."""
    return Session(
        codec=PCMU,
        send_payload=0,
        incoming=(Incoming(0, PCMU),),
        events=Events(101, (101,), 8000, frozenset(range(16))),
        noise=None,
        ptime_ms=20,
        direction=Direction.SENDRECV,
        rtp=("127.0.0.1", far),
        rtcp=("127.0.0.1", far),
        has_rtcp_mux=True,
        secrecy=None,
        fmtp="",
        held_by_us=False,
        held_by_them=False,
    )


class Deaf:
    """A call that hears nothing and says silence: the wire alone."""

    def hear(self, pcm: bytes) -> None:
        """Nothing."""

    def speak(self) -> bytes:
        """Silence."""
        return bytes(320)

    def told(self, event: StreamEvent) -> None:
        """Nothing."""

    def broken(self, error: FlowcatdError) -> None:
        """A benchmark of something broken is none."""
        raise SystemExit(str(error))


async def measured(
    name: str,
    agent: Callable[[Ledger], list[Processor]] | None,
    payloads: Sequence[bytes],
    size: tuple[int, float],
) -> None:
    """One line of the table."""
    calls, seconds = size
    clock = BenchClock(asyncio.get_running_loop())
    pacer = Pacer(clock)
    pairs = [bound() for _ in range(calls)]
    fars = [bound().rtp for _ in range(calls)]
    ports = [pair.rtp.getsockname()[1] for pair in pairs]
    child = multiprocessing.get_context("fork").Process(
        target=far_ends, args=(fars, ports, payloads), daemon=True
    )
    child.start()
    tasks, legs, wires, streams = [], [], [], []
    for pair, far in zip(pairs, fars, strict=True):
        to = far.getsockname()[1]
        if agent is not None:
            task, leg = Bench(clock, pacer, agent).call(pair, to)
            tasks.append(task)
            legs.append(leg)
            continue
        stream = Stream(Plan((CODEC,), ("127.0.0.1", to), mux=True), random.Random(to).getrandbits)
        stream.direct(clock.now(), sending=True, receiving=True)
        wires.append(RtpWire(pair, stream, pacer, Deaf()))
        streams.append(stream)
    await asyncio.sleep(WARM_SECONDS)
    before = moved(legs, streams)
    cpu, begun = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    cpu, lasted = time.process_time() - cpu, time.monotonic() - begun
    came, went = (now - then for now, then in zip(moved(legs, streams), before, strict=True))
    child.kill()
    child.join()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for wire in wires:
        wire.close()
    for pair, far in zip(pairs, fars, strict=True):
        for each in (*pair, far):
            each.close()
    share = cpu / lasted / calls
    rates = f"{came / lasted / calls:4.1f} in {went / lasted / calls:4.1f} out"
    print(
        f"  {share * 100:6.3f} %  {share * PERIOD * 1e6:6.1f} µs a tick  {rates} a second  {name}",
        flush=True,
    )


def moved(legs: Sequence[SipLeg], streams: Sequence[Stream]) -> tuple[int, int]:
    """Packets that came and went so far: a figure of calls that did less than their work is none."""
    media = [leg.figures().media for leg in legs] + [each.figures() for each in streams]
    assert all(each is not None for each in media)
    return (
        sum(each.packets_in for each in media if each is not None),
        sum(each.packets_out for each in media if each is not None),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro.sip_leg", description=__doc__)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    size = (args.calls, args.seconds)
    set_level("warning")
    speech = speech_like()
    print(f"{args.calls} calls, {args.seconds:g} s each, of a core per call:")
    uvloop.run(measured("the wire alone", None, speech, size))
    uvloop.run(measured("echo agent, the caller speaks", echo, speech, size))
    uvloop.run(measured("agent that listens, the caller speaks", listening, speech, size))
    uvloop.run(measured("agent that listens, the caller is silent", listening, SILENCE, size))


if __name__ == "__main__":
    main()
