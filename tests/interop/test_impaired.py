"""A call over a bad network: digits all right, no growing delay, loss concealed; and a long call.

The caller is bench/peers (texts by hand, blocking sockets, in a thread of its own), the network
tests/interop/relay.py. What it says is a tone with a click every second; where the clicks of its own echo
come back is the delay of the whole way, there and back.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from bench.peers.rtp_load import Line, open_socket, run
from bench.peers.sip_caller import SipCaller
from flowcatd.audio.g711 import mulaw_to_pcm, pcm_to_mulaw
from tests.interop.place import Answerer, answerer
from tests.interop.relay import Weather, relay

pytestmark = [pytest.mark.interop, pytest.mark.scenario]

BAD = Weather(loss=0.05, jitter_seconds=0.04, swapped=0.02)
KEYS = "1590*#42"
SECONDS = 8.0
RATE_HZ = 8000
GROWTH_MS = 40.0
"""Between the first and the last third of a call: two frames, less than a jitter buffer moves anyway."""
DELAY_MS = 400.0
"""The whole way, twice through the network."""


def clicking(seconds: int = 1) -> list[bytes]:
    """Frames of a faint tone, with a loud click of 10 ms at the start of each second."""
    at = np.arange(seconds * RATE_HZ)
    samples = 600 * np.sin(2 * np.pi * 440 * at / RATE_HZ)
    samples[at % RATE_HZ < 80] = 20_000 * np.sign(np.sin(2 * np.pi * 1000 * at[:80] / RATE_HZ))
    sound = pcm_to_mulaw(samples.astype("<i2").tobytes())
    return [sound[begin : begin + 160] for begin in range(0, len(sound), 160)]


def delays_ms(line: Line) -> list[float]:
    """Of each click that came back, since the last one was sent."""
    assert line.payloads is not None
    sent = [at for number, at in enumerate(line.sent_at_ns) if number % 50 == 0]
    found: list[float] = []
    for came_at, payload in line.payloads:
        if len(payload) != 160:
            continue
        loud = np.abs(np.frombuffer(mulaw_to_pcm(payload), "<i2").astype(int)).max() > 8000
        before = [at for at in sent if at <= came_at]
        if loud and before:
            delay = (came_at - before[-1]) / 1e6
            if not found or abs(found[-1] - delay) > 0.001:
                found.append(delay)
    return found


async def through(
    far: Answerer, weather: Weather, seconds: float, *, keys: str = "", drift_ppm: float = 0.0
) -> tuple[Line, str, float]:
    """The line afterwards, its Call-ID, and the share of its packets that the network lost.

    The blocking caller runs in threads, the network in the loop.
    """
    caller = SipCaller(far.target.host, far.target.port, far.target.user)
    line = Line(("", 0), clicking(), open_socket(), keys=list(keys), payloads=[])
    try:
        async with relay(weather) as network:
            # The daemon sends to the relay's far side, whose port stands in our offer.
            placed = await asyncio.to_thread(caller.call, network.far_port)
            network.aim(placed.media)
            line.target = ("127.0.0.1", network.port)
            await asyncio.to_thread(run, [line], seconds, drift_ppm)
            status = await asyncio.to_thread(caller.hang_up, placed)
            assert status == 200
            lost = network.there.lost / network.there.seen
    finally:
        caller.close()
        line.socket.close()
    return line, placed.call_id, lost


def judge(line: Line) -> None:
    """The delay is bounded, and at the end what it was at the beginning."""
    delays = delays_ms(line)
    third = len(delays) // 3
    assert third >= 2, delays
    assert float(np.median(delays)) < DELAY_MS, delays
    early, late = np.median(delays[1 : third + 1]), np.median(delays[-third:])
    assert late - early < GROWTH_MS, delays


@pytest.mark.parametrize("ppm", [200, pytest.param(-200, marks=pytest.mark.long)])
async def test_digits_are_right_and_the_delay_stays_over_a_bad_network(
    tmp_path: Path, ppm: float
) -> None:
    """5 % loss, 40 ms of jitter, reordering and a clock that runs off: eight digits, each once."""
    async with answerer(tmp_path / "daemon") as far:
        line, call_id, lost = await through(far, BAD, SECONDS, keys=KEYS, drift_ppm=ppm)
        assert 0.02 < lost < 0.09
        judge(line)
        if far.daemon is None:
            return
        record = await far.record(call_id)
        assert far.keys(record) == KEYS
        media = record["sip"]["media"]
        assert media["lost"] > 0
        assert media["concealed_ms"] < 1000 * SECONDS * 3 * lost


@pytest.mark.long
async def test_a_clean_network_delays_nothing_and_loses_nothing(tmp_path: Path) -> None:
    """The same measurement without weather: what the relay and the caller themselves cost."""
    async with answerer(tmp_path / "daemon") as far:
        line, _, lost = await through(far, Weather(), 6)
    assert lost == 0
    assert line.lost == 0
    judge(line)
    assert float(np.median(delays_ms(line))) < 150


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ppm", [200, -200])
async def test_ten_minutes_of_a_bad_network(tmp_path: Path, ppm: float) -> None:
    """The same for ten minutes: no growing delay, all digits, and what is concealed is what was lost."""
    async with answerer(tmp_path / "daemon") as far:
        keys = KEYS * 10
        line, call_id, lost = await through(far, BAD, 600, keys=keys, drift_ppm=ppm)
        judge(line)
        record = await far.record(call_id)
        assert far.keys(record) == keys
        concealed = record["sip"]["media"]["concealed_ms"]
        assert concealed == pytest.approx(600_000 * lost, rel=0.25)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_call_of_five_minutes_ends_as_it_began(tmp_path: Path) -> None:
    """No packet lost, no delay gained, and the hang-up is understood."""
    async with answerer(tmp_path / "daemon") as far:
        line, call_id, _ = await through(far, Weather(), 300)
        judge(line)
        assert line.lost == 0
        assert (await far.record(call_id))["ended_by"] == "caller"
