"""Packets of one source made into sound."""

from __future__ import annotations

import pytest

from flowcatd.audio.level import dbfs
from flowcatd.errors import LocalError
from flowcatd.rtp.codec import MAX_PTIME_MS, PCMA, PCMU, Codec
from flowcatd.rtp.comfort import Noise, build_noise
from flowcatd.rtp.jitter import JitterOptions
from flowcatd.rtp.receiver import Receiver
from flowcatd.rtp.trouble import RtpError

TICK = 0.02


def picky(payload: bytes) -> bytes:
    """A decoder that refuses what begins with a zero."""
    if payload[0] == 0:
        raise RtpError("not a frame")
    return bytes(640)


WIDE = Codec("wide", 96, 48_000, 16_000, picky, lambda pcm: pcm[:40], lambda _payload: 960)
"""48 kHz ticks and 16 kHz samples, as Opus may have them; every payload lasts 20 ms."""


def receiver(*codecs: Codec) -> Receiver:
    """With comfort noise as type 13."""
    return Receiver(codecs or (PCMU, PCMA), 13, JitterOptions(), 0)


def test_a_clock_other_than_the_rate_is_heard_in_time() -> None:
    """Whole ticks of 16 kHz PCM from 48 kHz timestamps; a refused payload is concealed."""
    made = receiver(WIDE)
    for number in range(50):
        payload = bytes((number != 25,)) * 40
        made.push(number, 960 * number, 96, payload, number * TICK)
        assert len(made.pull(number * TICK)) == 640
    assert made.heard.undecodable == 1
    assert made.heard.concealed == 320


def test_comfort_noise_is_heard_as_described() -> None:
    """A description that breaks its format changes nothing."""
    made = receiver()
    made.push(0, 0, 0, bytes(160), 0.0)
    made.push(1, 160, 13, build_noise(Noise(40)), TICK)
    made.push(2, 160, 13, b"\xff", TICK)
    heard = b"".join(made.pull(turn * TICK) for turn in range(30))
    assert dbfs(heard[-6400:]) == pytest.approx(-40, abs=2)
    assert made.heard.concealed == 0
    assert made.heard.undecodable == 1


@pytest.mark.parametrize("payload", [b"", bytes(8 * MAX_PTIME_MS + 1)])
def test_payloads_of_no_length_or_too_much_are_refused(payload) -> None:
    """Nothing is kept of them."""
    made = receiver()
    with pytest.raises(RtpError):
        made.push(0, 0, 0, payload, 0.0)
    assert made.jitter.waiting == 0


def test_packets_of_200_ms_are_heard_whole() -> None:
    """RFC 3551 §4.2 wants that much to be taken."""
    made = receiver()
    for number in range(10):
        made.push(number, 1600 * number, 0, bytes(1600), number * 0.2)
        for tick in range(10):
            assert len(made.pull(number * 0.2 + tick * TICK)) == 320
    assert made.heard.concealed == 0
    assert made.jitter.late == made.jitter.discarded == 0


def test_codecs_of_different_clocks_are_no_stream() -> None:
    """They would be another receiver's."""
    with pytest.raises(LocalError):
        receiver(PCMU, WIDE)


def test_types_are_known_by_agreement() -> None:
    """Codecs and noise, nothing else."""
    made = receiver()
    assert [kind for kind in range(128) if made.knows(kind)] == [0, 8, 13]
