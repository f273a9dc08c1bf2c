"""G.722: right to the bit, a stream however it is cut, and bounded by what went in."""

from __future__ import annotations

import hashlib
import importlib.util
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.audio.g722 import DELAY_SAMPLES, RATE_HZ, G722Decoder, G722Encoder, available
from flowcatd.errors import LocalError

pytestmark = pytest.mark.skipif(not available(), reason="the g722 extra is not installed")

CODES_SHA256 = "15911a8f5edd91f0816f730853e26a84fef090e122dd60d53786e51b90343bff"
PCM_SHA256 = "a7bcba1e8cfb6d023c321cb23d933b549c655e6129058f97b4c481e2fa75a8aa"
"""Of what ffmpeg's own encoder and decoder (libavcodec, by PyAV 18.1.0) make of `signal()`."""


def signal() -> bytes:
    """Two seconds of a rising triangle, noise and steps, by whole numbers alone."""
    samples = []
    state, phase = 722, 0
    for i in range(2 * RATE_HZ):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        noise = ((state >> 16) - 16384) // 8
        phase = (phase + 200 + i // 8) & 0xFFFF
        triangle = (phase if phase < 32768 else 65535 - phase) - 16384
        step = 0 if i % 4000 > 2000 else triangle // 3
        samples.append(max(-32768, min(32767, triangle // 2 + noise + step)))
    return np.array(samples, "<i2").tobytes()


def test_what_is_encoded_is_what_another_implementation_encodes():
    """Every one of 16,000 codes is ffmpeg's."""
    codes = G722Encoder().encode(signal())
    assert len(codes) == RATE_HZ
    assert hashlib.sha256(codes).hexdigest() == CODES_SHA256


def test_what_is_decoded_is_what_another_implementation_decodes():
    """Every one of 32,000 samples is ffmpeg's."""
    pcm = G722Decoder().decode(G722Encoder().encode(signal()))
    assert hashlib.sha256(pcm).hexdigest() == PCM_SHA256


@pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV is not installed")
def test_ffmpeg_itself_agrees():
    """The digests above are what ffmpeg makes, where it is at hand to be asked."""
    import av

    codes = G722Encoder().encode(signal())
    decoder = av.CodecContext.create("g722", "r")
    decoder.sample_rate, decoder.layout = RATE_HZ, "mono"
    packets = (av.Packet(codes[at : at + 160]) for at in range(0, len(codes), 160))
    pcm = b"".join(
        frame.to_ndarray().astype("<i2").tobytes()
        for packet in packets
        for frame in decoder.decode(packet)
    )
    assert hashlib.sha256(pcm).hexdigest() == PCM_SHA256


def test_speech_frequencies_survive_with_the_filters_delay():
    """A 1 kHz tone comes back 22 samples later, 30 dB above what was added to it."""
    there = 8000 * np.sin(2 * np.pi * 1000 * np.arange(RATE_HZ) / RATE_HZ)
    codes = G722Encoder().encode(there.astype("<i2").tobytes())
    back = np.frombuffer(G722Decoder().decode(codes), "<i2").astype(float)
    sent, heard = there[1000:-DELAY_SAMPLES], back[1000 + DELAY_SAMPLES :]
    assert 10 * np.log10((sent**2).sum() / ((sent - heard) ** 2).sum()) > 30


def test_twenty_ms_are_160_bytes_and_160_ticks():
    """The RTP clock runs at 8 kHz, so a payload has as many ticks as bytes."""
    assert len(G722Encoder().encode(bytes(640))) == 160
    assert len(G722Decoder().decode(bytes(160))) == 640


@given(cuts=st.lists(st.integers(0, 1600), max_size=8))
def test_a_stream_is_the_same_however_it_is_cut(cuts):
    """Encoder and decoder keep their memory between pieces."""
    pcm = signal()[:6400]
    edges = sorted({0, 1600, *cuts})
    encoder, decoder = G722Encoder(), G722Decoder()
    pieces = [encoder.encode(pcm[4 * a : 4 * b]) for a, b in pairwise(edges)]
    whole = G722Encoder().encode(pcm)
    assert b"".join(pieces) == whole
    assert b"".join(decoder.decode(piece) for piece in pieces) == G722Decoder().decode(whole)


@given(st.binary(max_size=400))
def test_any_bytes_decode_to_four_times_as_many(payload):
    """There is no invalid G.722."""
    assert len(G722Decoder().decode(payload)) == 4 * len(payload)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_half_a_pair_of_samples_is_refused(length):
    """One byte stands for two samples; what does not fit is a mistake of ours."""
    with pytest.raises(LocalError, match="pairs"):
        G722Encoder().encode(bytes(length))


def test_two_directions_share_nothing():
    """Each codec has a memory of its own."""
    first, second = G722Encoder(), G722Encoder()
    first.encode(signal()[:6400])
    assert second.encode(signal()[:640]) == G722Encoder().encode(signal()[:640])
