"""WAV headers and files: our own, the standard library's, hand-made ones, and rubbish."""

from __future__ import annotations

import io
import struct
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.audio.g711 import alaw_to_pcm, mulaw_to_pcm
from flowcatd.audio.wav import SampleFormat, Wav, WavError, parse_wav, to_mono, wav_header
from flowcatd.errors import LocalError

GUID_REST = bytes.fromhex("000000001000800000aa00389b71")
FORMATS = st.sampled_from(SampleFormat)


def chunk(name: bytes, body: bytes, *, size: int | None = None) -> bytes:
    """One RIFF chunk with its pad byte; `size` is what it claims when that is a lie."""
    claimed = len(body) if size is None else size
    return name + struct.pack("<I", claimed) + body + bytes(len(body) % 2)


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    """A WAVE file of these chunks."""
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def fmt(tag: int = 1, channels: int = 1, rate_hz: int = 8_000, bits: int = 16) -> bytes:
    """An ordinary format chunk."""
    align = channels * bits // 8
    body = struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * align, align, bits)
    return chunk(b"fmt ", body)


def extensible(tag: int, bits: int, rest: bytes = GUID_REST) -> bytes:
    """An extensible format chunk whose sub-format is `tag`."""
    body = struct.pack("<HHIIHH", 0xFFFE, 1, 8_000, 8_000 * bits // 8, bits // 8, bits)
    return chunk(b"fmt ", body + struct.pack("<HHIH", 22, bits, 4, tag) + rest)


def expected_pcm(sample_format: SampleFormat, stored: bytes) -> bytes:
    """What stored samples are in s16le, the long way."""
    match sample_format:
        case SampleFormat.PCM16:
            return stored
        case SampleFormat.PCM8:
            return b"".join(struct.pack("<h", (byte - 128) * 256) for byte in stored)
        case SampleFormat.MULAW:
            return mulaw_to_pcm(stored)
        case SampleFormat.ALAW:
            return alaw_to_pcm(stored)


def outcome(data: bytes) -> Wav | str:
    """What came of it: a sound within its bounds, or what was said against it."""
    try:
        wav = parse_wav(data)
    except WavError as error:
        return str(error)
    assert 1 <= wav.channels <= 32
    assert 1 <= wav.rate_hz <= 384_000
    assert len(wav.pcm) == 2 * wav.channels * wav.frames <= 2 * len(data)
    return wav


@given(FORMATS, st.integers(1, 32), st.integers(1, 384_000), st.data())
def test_our_header_is_read_back(sample_format, channels, rate_hz, data):
    """Whatever we write in front of samples is parsed to the same samples, also as a stream."""
    width = 2 if sample_format is SampleFormat.PCM16 else 1
    frames = data.draw(st.integers(0, 20))
    size = frames * channels * width
    stored = data.draw(st.binary(min_size=size, max_size=size))
    wanted = Wav(rate_hz, channels, sample_format, expected_pcm(sample_format, stored))
    sized = wav_header(rate_hz, channels, frames, sample_format) + stored + bytes(size % 2)
    streamed = wav_header(rate_hz, channels, None, sample_format) + stored
    assert parse_wav(sized) == wanted
    assert parse_wav(streamed) == wanted
    assert wanted.frames == frames


@given(st.binary(max_size=200))
def test_any_bytes_are_a_wav_or_a_wav_error(data):
    """Garbage raises the room's one error and nothing else."""
    for garbage in (data, b"RIFF\0\0\0\0WAVE" + data, riff(fmt() + data)):
        assert outcome(garbage)


@given(st.data())
def test_a_damaged_file_is_a_wav_or_a_wav_error(data):
    """One byte changed anywhere in a sound file, or its end cut off, surprises nobody."""
    whole = bytearray(riff(extensible(1, 16), chunk(b"LIST", b"abc"), chunk(b"data", bytes(8))))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@pytest.mark.parametrize(("width", "sample_format"), [(1, "pcm8"), (2, "pcm16")])
def test_the_standard_library_agrees(width, sample_format):
    """What `wave` writes we read, and what we write in front `wave` reads."""
    stored = bytes(range(0, 240, 2))
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(2)
        writer.setsampwidth(width)
        writer.setframerate(16_000)
        writer.writeframes(stored)
    ours = parse_wav(file.getvalue())
    kind = SampleFormat(sample_format)
    assert ours == Wav(16_000, 2, kind, expected_pcm(kind, stored))
    with wave.open(io.BytesIO(wav_header(16_000, 2, 120 // (2 * width), kind) + stored)) as reader:
        assert reader.getparams()[:4] == (2, width, 16_000, 120 // (2 * width))
        assert reader.readframes(1_000) == stored


def test_a_pcm_header_has_44_bytes_and_a_g711_header_58():
    """Recorders that patch sizes afterwards count on it."""
    assert len(wav_header(8_000, 2, 0, SampleFormat.PCM16)) == 44
    assert len(wav_header(8_000, 1, 0, SampleFormat.MULAW)) == 58


@pytest.mark.parametrize(
    ("tag", "bits", "sample_format"),
    [
        (1, 16, SampleFormat.PCM16),
        (1, 8, SampleFormat.PCM8),
        (6, 8, SampleFormat.ALAW),
        (7, 8, SampleFormat.MULAW),
    ],
)
def test_the_extensible_form_means_its_sub_format(tag, bits, sample_format):
    """The tag inside the GUID decides, as it would in an ordinary file."""
    wav = parse_wav(riff(extensible(tag, bits), chunk(b"data", b"\x01\x02\x03\x04")))
    assert wav == Wav(8_000, 1, sample_format, expected_pcm(sample_format, b"\x01\x02\x03\x04"))


def test_unknown_and_odd_chunks_are_skipped():
    """A chunk of three bytes has a fourth to make it even, before and behind the format."""
    odd = chunk(b"LIST", b"abc")
    wav = parse_wav(riff(odd, fmt(), odd, chunk(b"data", b"\x01\x02"), odd))
    assert wav.pcm == b"\x01\x02"


@pytest.mark.parametrize(
    ("riff_size", "data_size"),
    [(0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (36, 0), (0xFFFFFFFF, 0), (0x7FFFFFFF, 0x7FFFFFDB)],
)
def test_a_stream_of_unknown_size_goes_on_to_its_end(riff_size, data_size):
    """Every way in which writers to a pipe leave their sizes unfinished is understood."""
    wav = parse_wav(
        riff(fmt(), chunk(b"data", b"\x01\x02\x03\x04", size=data_size), size=riff_size)
    )
    assert wav.pcm == b"\x01\x02\x03\x04"


def test_honest_emptiness_is_empty():
    """A data chunk of size 0 in a file that goes on behind it holds nothing."""
    assert parse_wav(riff(fmt(), chunk(b"data", b""), chunk(b"LIST", b"abcd"))).pcm == b""


def test_half_a_frame_at_the_end_is_dropped():
    """A cut-off stereo file ends with its last whole frame."""
    wav = parse_wav(riff(fmt(channels=2), chunk(b"data", b"\x01\x02\x03\x04\x05\x06")))
    assert wav.pcm == b"\x01\x02\x03\x04"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "0 bytes"),
        (b"ID3\x04 an MP3 file, perhaps", "49443304"),
        (b"RIFX" + riff(fmt())[4:], "52494658"),
        (riff(chunk(b"LIST", b"")), "no format chunk"),
        (riff(fmt()), "no data chunk"),
        (riff(chunk(b"data", b"\0\0"), fmt()), "before its format"),
        (riff(chunk(b"fmt ", b"\1\0")), "chunk of 2 bytes"),
        (riff(fmt(bits=24)), "0x0001 with 24 bits"),
        (riff(fmt(tag=3, bits=32)), "0x0003 with 32 bits"),
        (riff(fmt(tag=0x11, bits=4)), "0x0011 with 4 bits"),
        (riff(fmt(channels=0)), "0 channels"),
        (riff(fmt(channels=33)), "33 channels"),
        (riff(fmt(rate_hz=0)), "at 0 Hz"),
        (riff(extensible(1, 16, rest=bytes(14))), "sub-format"),
        (riff(extensible(3, 32)), "0x0003 with 32 bits"),
        (riff(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 2, 8_000, 0, 2, 16))), "blocks of 2"),
    ],
)
def test_what_cannot_be_heard_says_why(data, problem):
    """Each refusal names what is wrong with the file."""
    with pytest.raises(WavError, match=problem):
        parse_wav(data)


@pytest.mark.parametrize(
    ("rate_hz", "channels", "frames"),
    [(0, 1, 1), (8_000, 0, 1), (8_000, 33, 1), (8_000, 2, 2**30), (8_000, 1, -1)],
)
def test_a_header_that_cannot_be_is_refused(rate_hz, channels, frames):
    """No rate, no channels, or more than 32 bits can count."""
    with pytest.raises(LocalError):
        wav_header(rate_hz, channels, frames, SampleFormat.PCM16)


@given(st.integers(2, 6), st.data())
def test_mono_is_the_rounded_mean_of_the_channels(channels, data):
    """Each frame becomes its mean, within half a step, and loud channels do not wrap around."""
    sample = st.integers(-32_768, 32_767)
    row = st.lists(sample, min_size=channels, max_size=channels)
    rows = data.draw(st.lists(row, max_size=20))
    pcm = b"".join(struct.pack(f"<{channels}h", *row) for row in rows)
    mono = to_mono(Wav(8_000, channels, SampleFormat.PCM16, pcm))
    assert (mono.channels, mono.frames) == (1, len(rows))
    for value, row in zip(struct.unpack(f"<{len(rows)}h", mono.pcm), rows, strict=True):
        assert abs(value - sum(row) / channels) <= 0.5


def test_mono_stays_as_it_is():
    """One channel is not touched."""
    wav = Wav(8_000, 1, SampleFormat.PCM16, b"\x01\x02")
    assert to_mono(wav) is wav


def test_duration_counts_frames_of_all_channels():
    """Half a second of stereo is half a second."""
    assert Wav(8_000, 2, SampleFormat.PCM16, bytes(16_000)).seconds == 0.5
