"""Opus: what goes in comes out at any rate, losses are filled to the sample, and C is never misled."""

from __future__ import annotations

import contextlib
import gc
import math
import random
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcatd.audio.opus import (
    CLOCK_HZ,
    MOST_BYTES,
    MOST_TICKS,
    OpusDecoder,
    OpusEncoder,
    OpusError,
    OpusOptions,
    _inside_pyav,
    asked,
    available,
    ticks,
    version,
)
from flowcatd.errors import LocalError

needs_libopus = pytest.mark.skipif(not available(), reason="there is no libopus")
RATES = (8_000, 16_000, 24_000, 48_000)


def spoken(rate_hz: int, frames: int, seed: int = 1) -> list[bytes]:
    """Something like a voice: harmonics of a gliding pitch, louder and softer."""
    chance = random.Random(seed)
    wander = np.cumsum([chance.uniform(-1, 1) for _ in range(frames + 1)])
    length = rate_hz // 50
    at = np.arange(frames * length)
    pitch = 140 + 3 * np.interp(at / length, np.arange(frames + 1), wander)
    phase = 2 * np.pi * np.cumsum(pitch) / rate_hz
    made = sum(np.sin(n * phase) / n for n in range(1, 12))
    made *= 5000 * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * at / rate_hz))
    pcm = made.astype("<i2").tobytes()
    return [pcm[i : i + 2 * length] for i in range(0, len(pcm), 2 * length)]


def likeness(one: np.ndarray, other: np.ndarray, lag: int) -> float:
    """The correlation, -1 to 1, of `other` with `one` heard `lag` samples later."""
    a, b = one[: len(one) - lag].astype(float), other[lag:].astype(float)
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def numbers(pieces: list[bytes]) -> np.ndarray:
    """The pieces as samples."""
    return np.frombuffer(b"".join(pieces), "<i2")


@needs_libopus
@pytest.mark.parametrize("rate_hz", RATES)
def test_a_voice_comes_back_as_long_and_as_it_was(rate_hz):
    """At every rate, after the encoder's lookahead and before a millisecond more."""
    encoder = OpusEncoder(rate_hz, OpusOptions(bitrate=64_000, has_fec=False))
    decoder = OpusDecoder(rate_hz)
    frames = spoken(rate_hz, 50)
    packets = [encoder.encode(frame) for frame in frames]
    heard = [decoder.decode(packet) for packet in packets]
    assert {len(piece) for piece in heard} == {len(frames[0])}
    assert {ticks(packet) for packet in packets} == {960}
    assert max(map(len, packets)) <= MOST_BYTES
    lags = range(encoder.lookahead - rate_hz // 1000, encoder.lookahead + rate_hz // 1000)
    assert max(likeness(numbers(frames), numbers(heard), lag) for lag in lags) > 0.8


@needs_libopus
@pytest.mark.parametrize("from_hz", RATES)
@pytest.mark.parametrize("to_hz", RATES)
def test_what_one_rate_encodes_any_other_decodes(from_hz, to_hz):
    """A packet says nothing of rates; the decoder gives 20 ms at its own."""
    encoder, decoder = OpusEncoder(from_hz), OpusDecoder(to_hz)
    for frame in spoken(from_hz, 3):
        assert len(decoder.decode(encoder.encode(frame))) == to_hz // 50 * 2


@needs_libopus
@pytest.mark.parametrize("tenths", [25, 50, 100, 200, 400, 600])
def test_every_frame_length_is_told_by_ticks_and_decoded(tenths):
    """From 2.5 to 60 ms the first bytes say how long a packet lasts."""
    encoder, decoder = OpusEncoder(16_000), OpusDecoder(16_000)
    samples = 16_000 * tenths // 10_000
    packet = encoder.encode(bytes(2 * samples))
    assert ticks(packet) == samples * 3
    assert len(decoder.decode(packet)) == 2 * samples


@needs_libopus
def test_error_correction_brings_a_lost_frame_back_better_than_a_guess():
    """With every tenth packet lost, the copy in the next one is closer than concealment."""
    frames = spoken(16_000, 200)
    encoder = OpusEncoder(16_000, OpusOptions(bitrate=32_000, loss_percent=20))
    packets = [encoder.encode(frame) for frame in frames]
    reference, mended, guessed = OpusDecoder(16_000), OpusDecoder(16_000), OpusDecoder(16_000)
    errors = [0.0, 0.0]
    for i, packet in enumerate(packets):
        whole = numbers([reference.decode(packet)]).astype(float)
        if i % 10 != 5:
            mended.decode(packet)
            guessed.decode(packet)
            continue
        one = numbers([mended.recover(packets[i + 1], 320)]).astype(float)
        two = numbers([guessed.conceal(320)]).astype(float)
        errors[0] += float(((one - whole) ** 2).sum())
        errors[1] += float(((two - whole) ** 2).sum())
    assert errors[0] < errors[1] / 2


@needs_libopus
def test_silence_costs_next_to_nothing_with_dtx():
    """Most packets of silence are too short to be worth sending."""
    encoder = OpusEncoder(16_000, OpusOptions(has_dtx=True))
    sizes = [len(encoder.encode(bytes(640))) for _ in range(100)]
    assert sum(size <= 2 for size in sizes) > 50
    assert OpusDecoder(16_000).decode(encoder.encode(bytes(640)))


@needs_libopus
def test_the_bitrate_is_kept():
    """Twice the rate gives at least half as many bytes again."""
    sizes = []
    for bitrate in (12_000, 24_000):
        encoder = OpusEncoder(16_000, OpusOptions(bitrate=bitrate, has_fec=False))
        sizes.append(sum(len(encoder.encode(frame)) for frame in spoken(16_000, 100)))
    assert sizes[0] == pytest.approx(12_000 / 8 * 2, rel=0.3)
    assert sizes[1] > 1.5 * sizes[0]


@needs_libopus
@pytest.mark.parametrize("samples", [40, 320, 640, 1920])
def test_a_hole_is_filled_to_the_sample(samples):
    """From 2.5 to 120 ms."""
    decoder = OpusDecoder(16_000)
    decoder.decode(OpusEncoder(16_000).encode(spoken(16_000, 1)[0]))
    assert len(decoder.conceal(samples)) == 2 * samples


@needs_libopus
@pytest.mark.parametrize("samples", [-40, 0, 1, 39, 321, 1960, 1 << 33])
def test_a_hole_that_libopus_could_not_fill_is_refused_before_it_is_asked(samples):
    """Neither a broken length nor a buffer too small reaches C."""
    with pytest.raises(LocalError, match="hole"):
        OpusDecoder(16_000).conceal(samples)
    with pytest.raises(LocalError, match="hole"):
        OpusDecoder(16_000).recover(b"\x08\x00", samples)


@needs_libopus
@pytest.mark.parametrize("length", [0, 1, 2, 638, 639, 642, 1_000_000])
def test_a_frame_of_no_opus_length_is_refused_before_libopus_sees_it(length):
    """Reading past the end of a buffer is not left to C."""
    with pytest.raises(LocalError, match="no Opus frame"):
        OpusEncoder(16_000).encode(bytes(length))


@needs_libopus
@pytest.mark.parametrize("rate_hz", [-1, 0, 11_025, 44_100])
def test_other_rates_are_refused(rate_hz):
    """There are five."""
    for made in (OpusEncoder, OpusDecoder):
        with pytest.raises(LocalError, match="rates"):
            made(rate_hz)


@needs_libopus
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=1500))
def test_garbage_gives_samples_or_the_one_error(packet):
    """And the decoder goes on afterwards; `ticks` is never negative nor above 120 ms."""
    decoder = OpusDecoder(16_000)
    try:
        pcm = decoder.decode(packet)
    except OpusError:
        pcm = b""
    with contextlib.suppress(OpusError):
        assert len(decoder.recover(packet, 320)) == 640
    lasts = ticks(packet)
    assert 0 <= lasts <= MOST_TICKS
    if pcm:
        assert len(pcm) == lasts * 16_000 // CLOCK_HZ * 2
    assert len(decoder.decode(OpusEncoder(16_000).encode(bytes(640)))) == 640


@needs_libopus
def test_a_closed_codec_refuses_and_does_not_crash():
    """What C has freed is never handed to it again; closing twice is as good as once."""
    encoder, decoder = OpusEncoder(8_000), OpusDecoder(8_000)
    for codec in (encoder, decoder):
        codec.close()
        codec.close()
    with pytest.raises(LocalError, match="closed"):
        encoder.encode(bytes(320))
    with pytest.raises(LocalError, match="closed"):
        encoder.tune(OpusOptions())
    with pytest.raises(LocalError, match="closed"):
        _ = encoder.lookahead
    with pytest.raises(LocalError, match="closed"):
        decoder.decode(b"\x08\x00")
    with pytest.raises(LocalError, match="closed"):
        decoder.conceal(160)


@needs_libopus
def test_a_bitrate_that_libopus_does_not_take_is_refused():
    """Its negative answers do not pass unread."""
    with pytest.raises(LocalError, match="does not take"):
        OpusEncoder(8_000, OpusOptions(complexity=11))


@needs_libopus
def test_memory_goes_with_its_owner():
    """Two thousand codecs, closed or merely forgotten, leave less than a tenth of what they held."""
    process = psutil.Process()
    for i in range(20):
        _make_and_drop(i)
    gc.collect()
    before = process.memory_info().rss
    for i in range(1000):
        _make_and_drop(i)
    gc.collect()
    assert process.memory_info().rss - before < 1000 * 40_000 / 10


def _make_and_drop(number: int) -> None:
    encoder, decoder = OpusEncoder(48_000), OpusDecoder(48_000)
    decoder.decode(encoder.encode(bytes(1920)))
    if number % 2:
        encoder.close()
        decoder.close()


@needs_libopus
def test_other_threads_run_while_libopus_works():
    """The GIL is let go of: another thread gets its turns while long frames are encoded."""
    encoder = OpusEncoder(48_000, OpusOptions(complexity=10))
    frame = b"".join(spoken(48_000, 3))
    turns = [0]
    done = threading.Event()

    def take_turns() -> None:
        while not done.is_set():
            turns[0] += 1
            time.sleep(0.0001)

    interval = sys.getswitchinterval()
    other = threading.Thread(target=take_turns)
    other.start()
    try:
        sys.setswitchinterval(30)  # nobody is made to let go: the other runs only while C does
        before = turns[0]
        for _ in range(200):
            encoder.encode(frame)
            if turns[0] > before + 3:
                break
        after = turns[0]
    finally:
        sys.setswitchinterval(interval)
        done.set()
        other.join(5)
    assert after > before + 3


@pytest.mark.parametrize(
    ("packet", "lasts"),
    [
        (b"", 0),
        (b"\x08", 960),  # SILK, 20 ms, one frame
        (b"\x18ab", 2880),  # 60 ms
        (b"\x09ab", 1920),  # two of one size
        (b"\x09abc", 0),  # which three bytes cannot be
        (b"\x0a\x01ab", 1920),  # two of different sizes
        (b"\x0a", 0),
        (b"\x0b\x03abc", 2880),  # three, counted
        (b"\x0b\x00", 0),  # none
        (b"\x0b\x3f", 0),  # 63 of 20 ms are over the limit
        (b"\x0b", 0),
        (b"\x83\x30" + bytes(48), 5760),  # 48 of 2.5 ms
        (b"\xf8\xff\xfe", 960),  # CELT, what encoders send for silence
    ],
)
def test_the_length_stands_in_the_first_bytes(packet, lasts):
    """RFC 6716 §3.1 and §3.2, with and without libopus."""
    assert ticks(packet) == lasts


def test_the_far_end_has_a_say_within_what_we_allow():
    """RFC 7587 §6.1: less bitrate, no error correction, silence left out; rubbish changes nothing."""
    ours = OpusOptions(bitrate=24_000, has_fec=True)
    assert asked("useinbandfec=1", ours) == ours
    assert asked("maxaveragebitrate=12000; useinbandfec=0;usedtx=1", ours) == OpusOptions(
        bitrate=12_000, has_fec=False, has_dtx=True
    )
    assert asked("maxaveragebitrate=510000;useinbandfec=1;stereo=1", ours) == ours
    rubbish = "maxaveragebitrate=x;maxaveragebitrate=-3;;=;useinbandfec;useinbandfec=1"
    assert asked(rubbish, ours) == ours
    assert asked("maxplaybackrate=8000;cbr=1", ours) == OpusOptions(
        has_fec=False, playback_hz=8_000, is_constant=True
    )


@pytest.mark.parametrize("wish", ["maxaveragebitrate=0", "maxaveragebitrate=5999"])
def test_a_bitrate_that_opus_does_not_have_is_no_wish(wish):
    """RFC 7587 §6.1: it should be ignored, not be taken for the lowest there is."""
    assert asked(wish, OpusOptions()).bitrate == 24_000


def test_error_correction_is_for_who_says_that_it_can_use_it():
    """RFC 7587 §6.1: without a word useinbandfec is 0."""
    assert not asked("", OpusOptions()).has_fec
    assert not asked("useinbandfec=1", OpusOptions(has_fec=False)).has_fec


@needs_libopus
@pytest.mark.parametrize(("playback_hz", "widest"), [(8_000, 0), (12_000, 1), (16_000, 2)])
def test_no_more_bandwidth_is_sent_than_the_far_end_plays(playback_hz, widest):
    """RFC 7587 §7.1: maxplaybackrate binds the sender; a SILK packet's first byte tells its bandwidth."""
    encoder = OpusEncoder(16_000)
    encoder.tune(asked(f"maxplaybackrate={playback_hz}", OpusOptions(bitrate=40_000)))
    made = [encoder.encode(frame)[0] >> 3 for frame in spoken(16_000, 20)]
    assert {config // 4 for config in made[3:]} == {widest}


@needs_libopus
def test_packets_are_of_one_size_where_the_far_end_prefers_that():
    """RFC 7587 §6.1: cbr."""
    encoder = OpusEncoder(16_000)
    encoder.tune(asked("cbr=1", OpusOptions()))
    assert len({len(encoder.encode(frame)) for frame in spoken(16_000, 50)}) == 1


def test_libopus_is_not_loaded_by_an_import():
    """The room is imported before the fork, and stays pure until somebody makes a codec."""
    code = (
        "import flowcatd.audio.opus, flowcatd.audio.g722, sys;"
        "print('libopus' in open('/proc/self/maps').read(), 'G722' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["False", "False"]


def test_the_copy_inside_pyav_is_found_without_importing_pyav(tmp_path, monkeypatch):
    """It lies beside the package, under a name with a checksum in it."""
    (tmp_path / "av").mkdir()
    (tmp_path / "av" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "av.libs").mkdir()
    copy = tmp_path / "av.libs" / "libopus-114e2b1a.so.0.11.1"
    copy.touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert _inside_pyav() == [str(copy)]


@needs_libopus
def test_libopus_says_which_it_is():
    """For the log and the figures."""
    assert version().startswith("libopus")
