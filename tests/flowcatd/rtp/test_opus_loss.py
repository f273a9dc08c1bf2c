"""Opus packets that are lost: had back by error correction where it is there, made up where it is not."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from flowcatd.audio.opus import OpusDecoder, OpusEncoder, OpusError, OpusOptions, available, ticks
from flowcatd.rtp.codec import Codec
from flowcatd.rtp.jitter import JitterOptions
from flowcatd.rtp.receiver import Receiver
from flowcatd.rtp.trouble import RtpError

pytestmark = pytest.mark.skipif(not available(), reason="libopus is not installed")

RATE, STEP, TICK = 16_000, 960, 0.02
FRAME = 320
SECONDS = 20


def codec(*, helps: bool = True) -> Codec:
    """Opus of one call, with its decoder's own ways with loss, or without."""
    decoder = OpusDecoder(RATE)

    def recover(following: bytes, samples: int) -> bytes:
        try:
            return decoder.recover(following, samples)
        except OpusError as error:
            raise RtpError(str(error)) from error

    more = {"recover": recover, "conceal": decoder.conceal} if helps else {}
    return Codec("opus", 111, 48_000, RATE, decoder.decode, lambda pcm: pcm, ticks, **more)


def voice() -> bytes:
    """A buzz whose pitch and loudness wander, as speech does: what is lost is not just repeated."""
    time = np.arange(SECONDS * RATE) / RATE
    pitch = 140 + 40 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    sound = sum(np.sin(phase * turn) / turn for turn in range(1, 12))
    loud = 0.5 + 0.5 * np.sin(2 * np.pi * 3.1 * time)
    return (sound * loud * 5000).astype("<i2").tobytes()


def packets(pcm: bytes, *, has_fec: bool) -> list[bytes]:
    """As a telephone sends them that expects loss."""
    encoder = OpusEncoder(RATE, OpusOptions(loss_percent=20, has_fec=has_fec))
    return [encoder.encode(pcm[at : at + 2 * FRAME]) for at in range(0, len(pcm), 2 * FRAME)]


def hear(sent: list[bytes], lost: set[int], made: Receiver) -> np.ndarray:
    """What comes out, tick by tick."""
    heard = []
    for number, payload in enumerate(sent):
        if number not in lost:
            made.push(number, STEP * number, 111, payload, number * TICK)
        heard.append(made.pull(number * TICK))
    return np.frombuffer(b"".join(heard), "<i2").astype(float)


def receiver(**more: bool) -> Receiver:
    """Of such a stream."""
    return Receiver((codec(**more),), None, JitterOptions(), 0)


def lost_of(sent: list[bytes], share: float, seed: int = 7) -> set[int]:
    """A random share of the packets, none at either end."""
    random = Random(seed)
    return {each for each in range(50, len(sent) - 50) if random.random() < share}


@pytest.mark.parametrize("has_fec", [True, False])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_what_is_made_up_lasts_as_long_as_what_was_lost(has_fec, share):
    """To the sample, and the sound after it comes in its time."""
    sent = packets(voice(), has_fec=has_fec)
    lost, made = lost_of(sent, share), receiver()
    hear(sent, lost, made)
    assert made.heard.concealed == len(lost) * FRAME
    assert made.heard.undecodable == 0
    assert made.heard.runs == len({each for each in lost if each - 1 not in lost})


def test_all_but_the_last_of_a_run_are_made_up_and_the_last_is_recovered():
    """A packet's error correction is about the one before it, no further."""
    sent = packets(voice(), has_fec=True)
    lost = {100, 200, 201, 300, 301, 302}
    made = receiver()
    hear(sent, lost, made)
    assert (made.heard.concealed, made.heard.recovered) == (6 * FRAME, 3 * FRAME)


def error(sent: list[bytes], lost: set[int], made: Receiver) -> float:
    """How far the lost frames are from what was said, as a share of it."""
    whole = hear(sent, set(), receiver())
    heard = hear(sent, lost, made)
    frames = [slice((each + 2) * FRAME, (each + 3) * FRAME) for each in lost]
    wrong = sum(float(np.sum((heard[at] - whole[at]) ** 2)) for at in frames)
    return wrong / sum(float(np.sum(whole[at] ** 2)) for at in frames)


def test_error_correction_is_nearer_to_what_was_said_than_anything_made_up():
    """Less than half of the error that repeating the last pitch periods leaves."""
    sent = packets(voice(), has_fec=True)
    lost = set(range(60, len(sent) - 60, 10))
    assert error(sent, lost, receiver()) < error(sent, lost, receiver(helps=False)) / 2


def test_a_following_packet_that_is_none_is_passed_over():
    """Its predecessor is made up, it is counted as undecodable, and the stream goes on."""

    def refuses(_following: bytes, _samples: int) -> bytes:
        raise RtpError("none")

    good = codec()
    picky = Codec(
        *("opus", 111, 48_000, RATE, good.decode, good.encode, ticks, refuses, good.conceal)
    )
    made = Receiver((picky,), None, JitterOptions(), 0)
    hear(packets(voice(), has_fec=True), {100, 200}, made)
    assert (made.heard.concealed, made.heard.recovered) == (2 * FRAME, 0)
