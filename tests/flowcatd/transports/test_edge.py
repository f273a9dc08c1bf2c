"""The edge: any pieces in, 20 ms frames out, each at its place on media time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.carriers.events import Encoding
from flowcatd.frames import InputAudio
from flowcatd.transports.edge import (
    AHEAD_MS,
    DECODE,
    ENCODE,
    GAP_MS,
    SAMPLE_BYTES,
    SILENCE,
    STALL_MS,
    Edge,
)
from tests.laws import keeps_chunking_law

RATES = st.sampled_from([8000, 16_000, 24_000, 48_000])
ENCODINGS = st.sampled_from(list(Encoding))


def frame_of(encoding: Encoding, rate_hz: int = 8000) -> int:
    """The bytes of 20 ms."""
    return rate_hz // 50 * SAMPLE_BYTES[encoding]


@given(st.binary(max_size=4000), st.lists(st.integers(0, 4000), max_size=6), ENCODINGS, RATES)
def test_any_split_of_payloads_gives_the_same_frames(
    data: bytes, cuts: list[int], encoding: Encoding, rate_hz: int
) -> None:
    """And the samples of all of them are those that came, but for a frame not full yet."""

    def run(pieces: Sequence[bytes]) -> list[InputAudio]:
        edge = Edge(encoding, rate_hz)
        return [frame for piece in pieces for frame in edge.receive(piece, None, 0)]

    frames = keeps_chunking_law(run, data, cuts)
    size = frame_of(encoding, rate_hz)
    whole = data[: len(data) - len(data) % size]
    assert b"".join(frame.pcm for frame in frames) == DECODE[encoding](whole)
    assert [frame.media_ms for frame in frames] == list(range(0, 20 * len(frames), 20))
    assert all(len(frame.pcm) == rate_hz // 25 for frame in frames)
    assert {frame.rate_hz for frame in frames} <= {rate_hz}


@pytest.mark.parametrize("encoding", list(Encoding))
def test_what_is_encoded_is_one_payload_of_the_right_size(encoding: Encoding) -> None:
    """And silence is silence on every wire."""
    edge = Edge(encoding, 8000)
    payload = edge.encode(bytes(320))
    assert payload == SILENCE[encoding] * (len(payload) // len(SILENCE[encoding]))
    assert len(payload) == frame_of(encoding)
    pcm = ENCODE[encoding](bytes(range(160)) * 2)
    assert len(pcm) == frame_of(encoding)


@given(st.integers(0, GAP_MS), st.integers(0, 50))
def test_jitter_of_a_carriers_clock_is_no_gap(jitter: int, frames: int) -> None:
    """Media time is counted from samples."""
    edge = Edge(Encoding.MULAW, 8000)
    got = []
    for index in range(frames):
        at = 20 * index
        got += edge.receive(bytes(160), at + (jitter if index % 2 else 0), at)
    assert [frame.media_ms for frame in got] == [20 * index for index in range(frames)]


def test_a_gap_in_the_timestamps_moves_media_time_and_fills_the_frame_it_cut_short() -> None:
    """What comes after it stands where the carrier says."""
    edge = Edge(Encoding.MULAW, 8000)
    assert edge.receive(b"\x00" * 100, 0, 0) == []
    first, second = edge.receive(b"\x10" * 160, 1000, 1000)
    assert first.media_ms == 0
    assert first.pcm == DECODE[Encoding.MULAW](b"\x00" * 100 + b"\xff" * 60)
    assert (second.media_ms, second.pcm) == (1000, DECODE[Encoding.MULAW](b"\x10" * 160))


@pytest.mark.parametrize(("late_ms", "media_ms"), [(STALL_MS, 20), (STALL_MS + 40, 1040)])
def test_without_timestamps_only_a_long_silence_is_a_gap(late_ms: int, media_ms: int) -> None:
    """A shorter one is a burst on its way."""
    edge = Edge(Encoding.MULAW, 8000)
    edge.receive(bytes(160), None, 0)
    (frame,) = edge.receive(bytes(160), None, late_ms + 20)
    assert frame.media_ms in (media_ms, media_ms + 20)


def test_a_timestamp_that_runs_away_is_believed_no_further_than_a_limit() -> None:
    """Media time stays near the clock, whatever a carrier claims."""
    edge = Edge(Encoding.MULAW, 8000)
    (frame,) = edge.receive(bytes(160), 2**62, 500)
    assert frame.media_ms == 500 + AHEAD_MS
    (frame,) = edge.receive(bytes(160), -(2**62), 520)
    assert frame.media_ms == 500 + AHEAD_MS + 20


PIECES = st.lists(
    st.tuples(
        st.integers(0, 700),
        st.one_of(st.none(), st.integers(-(2**40), 2**40), st.integers(0, 20_000)),
        st.integers(0, 2500),
    ),
    max_size=30,
)


@given(PIECES, ENCODINGS)
def test_media_time_only_grows_and_is_bounded_by_clock_and_samples(
    pieces: list[tuple[int, int | None, int]], encoding: Encoding
) -> None:
    """With gaps, bursts, timestamps and rubbish in their place; every sample comes out once."""
    edge = Edge(encoding, 8000)
    elapsed_ms, samples, last_ms = 0, 0, -20
    silence = (DECODE[encoding](SILENCE[encoding] * 2))[:2]
    given_in, out = b"", b""
    for size, timestamp_ms, pause in pieces:
        elapsed_ms += pause
        samples += size
        payload = bytes([(samples * 7) % 120 + 1]) * (size * SAMPLE_BYTES[encoding])
        given_in += DECODE[encoding](payload)
        for frame in edge.receive(payload, timestamp_ms, elapsed_ms):
            assert frame.media_ms >= last_ms + 20
            assert frame.media_ms % 20 == 0
            assert frame.media_ms <= elapsed_ms + AHEAD_MS + samples / 8 + 20
            assert len(frame.pcm) == 320
            last_ms = frame.media_ms
            out += frame.pcm
    assert _without(out, silence) == _without(given_in, silence)[: len(_without(out, silence))]
    assert len(_without(given_in, silence)) - len(_without(out, silence)) < 320


def _without(pcm: bytes, silence: bytes) -> bytes:
    """The samples that are none of the silence that fills a frame."""
    samples = [pcm[index : index + 2] for index in range(0, len(pcm), 2)]
    return b"".join(sample for sample in samples if sample != silence)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_frames_of_silence_are_one_object_for_all_calls(encoding: Encoding) -> None:
    """And sound like what the codec would have made of them."""
    payload = SILENCE[encoding] * (160 * SAMPLE_BYTES[encoding])
    frames = [frame for _ in range(2) for frame in Edge(encoding, 8000).receive(payload, 0, 0)]
    assert len(frames) == 2
    assert frames[0].pcm is frames[1].pcm
    assert frames[0].pcm == DECODE[encoding](payload)
