"""WAV files as values: a header to write in front of samples, a parser for whole files.

What telephony meets: 16-bit and unsigned 8-bit PCM, µ-law and A-law, each also in the extensible
form. Whatever the file holds, `parse_wav` gives s16le, channels interleaved; `sample_format` says
what it was. Everything else (24 bits, float, ADPCM, RF64, RIFX) is refused by name.

A RIFF file is a run of chunks: four letters, a 32-bit size, that many bytes, and one more to make
the size even. Chunks we do not know are skipped. Whoever writes to a pipe cannot go back to fill in
sizes: `data` of size 0xFFFFFFFF, or of any size that is not there, or of 0 in a file that claims to
end where its data begins, therefore means all that follows. No I/O here: callers read the file.

Sources: Microsoft/IBM "Multimedia Programming Interface and Data Specifications 1.0" (RIFF, WAVE)
and the WAVEFORMATEXTENSIBLE page of learn.microsoft.com.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from flowcatd.audio.g711 import alaw_to_pcm, mulaw_to_pcm
from flowcatd.errors import FlowcatdError, LocalError


class WavError(FlowcatdError):
    """These bytes are no WAV file that we can hear."""


class SampleFormat(StrEnum):
    """How a file stores one sample."""

    PCM16 = "pcm16"
    """Signed 16-bit little-endian."""
    PCM8 = "pcm8"
    """Unsigned 8-bit, 128 is silence."""
    MULAW = "mulaw"
    """G.711 µ-law."""
    ALAW = "alaw"
    """G.711 A-law."""


@dataclass(frozen=True, slots=True)
class Wav:
    """A parsed file."""

    rate_hz: int
    channels: int
    sample_format: SampleFormat
    """What the file held; `pcm` is s16le all the same."""
    pcm: bytes
    """s16le, channels interleaved, whole frames only."""

    @property
    def frames(self) -> int:
        """How many samples each channel has."""
        return len(self.pcm) // (2 * self.channels)

    @property
    def seconds(self) -> float:
        """How long it plays."""
        return self.frames / self.rate_hz


MAX_CHANNELS = 32
"""More than any recorder makes; a larger number is a broken header."""
MAX_RATE_HZ = 384_000
"""The highest rate that sound cards have."""

_UNKNOWN_SIZE = 0xFFFFFFFF
_EXTENSIBLE = 0xFFFE
# What follows the format tag in the GUID of an extensible file's sub-format.
_GUID_REST = bytes.fromhex("000000001000800000aa00389b71")

_TAG_OF = {
    SampleFormat.PCM16: (1, 16),
    SampleFormat.PCM8: (1, 8),
    SampleFormat.MULAW: (7, 8),
    SampleFormat.ALAW: (6, 8),
}
_FORMAT_OF = {tag: sample_format for sample_format, tag in _TAG_OF.items()}

_CHUNK = struct.Struct("<4sI")
_FMT = struct.Struct("<HHIIHH")


def wav_header(
    rate_hz: int, channels: int, frames: int | None, sample_format: SampleFormat
) -> bytes:
    """Everything in front of `frames` samples per channel; None for a stream of unknown length.

    44 bytes for PCM, 58 for G.711, whose files also want a `fact` chunk. The caller appends the
    samples, and one zero byte if they are odd in number of bytes. LocalError when it cannot be said
    in 32 bits.
    """
    tag, bits = _TAG_OF[sample_format]
    align = channels * bits // 8
    if not (1 <= channels <= MAX_CHANNELS and 1 <= rate_hz <= MAX_RATE_HZ):
        raise LocalError(f"no WAV file has {channels} channels at {rate_hz} Hz")
    fmt = _FMT.pack(tag, channels, rate_hz, rate_hz * align, align, bits)
    body = b"WAVE"
    if tag == 1:
        body += _chunk(b"fmt ", fmt)
    else:
        body += _chunk(b"fmt ", fmt + b"\0\0")
        body += _chunk(b"fact", struct.pack("<I", _UNKNOWN_SIZE if frames is None else frames))
    if frames is None:
        return _CHUNK.pack(b"RIFF", _UNKNOWN_SIZE) + body + _CHUNK.pack(b"data", _UNKNOWN_SIZE)
    size = frames * align
    riff_size = len(body) + _CHUNK.size + size + size % 2
    if not 0 <= frames <= riff_size < _UNKNOWN_SIZE:
        raise LocalError(f"{frames} frames of {align} bytes do not fit a WAV file")
    return _CHUNK.pack(b"RIFF", riff_size) + body + _CHUNK.pack(b"data", size)


def parse_wav(data: bytes) -> Wav:
    """The sound in a whole file; WavError for anything that is none or that we cannot decode."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise WavError(f"not a RIFF WAVE file: {len(data)} bytes, beginning {data[:4].hex()}")
    fmt: _Format | None = None
    at = 12
    while at + _CHUNK.size <= len(data):
        name, size = _CHUNK.unpack_from(data, at)
        start = at + _CHUNK.size
        if name == b"fmt ":
            fmt = _parse_fmt(data[start : start + size])
        elif name == b"data":
            if fmt is None:
                raise WavError("the data stands before its format")
            return _decode(fmt, data[start : _end_of_data(data, start, size)])
        at = start + size + size % 2
    raise WavError("no data chunk" if fmt else "no format chunk")


def to_mono(wav: Wav) -> Wav:
    """The mean of all channels, rounded; the same object when there is only one."""
    if wav.channels == 1:
        return wav
    samples = np.frombuffer(wav.pcm, "<i2").reshape(-1, wav.channels)
    mean = np.rint(samples.mean(axis=1)).astype("<i2")
    return Wav(wav.rate_hz, 1, wav.sample_format, mean.tobytes())


@dataclass(frozen=True, slots=True)
class _Format:
    sample_format: SampleFormat
    channels: int
    rate_hz: int
    align: int


def _chunk(name: bytes, body: bytes) -> bytes:
    return _CHUNK.pack(name, len(body)) + body


def _parse_fmt(body: bytes) -> _Format:
    if len(body) < _FMT.size:
        raise WavError(f"a format chunk of {len(body)} bytes")
    tag, channels, rate_hz, _, align, bits = _FMT.unpack_from(body)
    if tag == _EXTENSIBLE:
        # cbSize (2), valid bits (2), channel mask (4), then the sub-format, a GUID whose first two
        # bytes are the tag that an ordinary file would have.
        if len(body) < 40 or body[26:40] != _GUID_REST:
            raise WavError("an extensible format without a known sub-format")
        tag = int.from_bytes(body[24:26], "little")
    sample_format = _FORMAT_OF.get((tag, bits))
    if sample_format is None:
        raise WavError(f"format {tag:#06x} with {bits} bits is not supported")
    if not (1 <= channels <= MAX_CHANNELS and 1 <= rate_hz <= MAX_RATE_HZ):
        raise WavError(f"{channels} channels at {rate_hz} Hz")
    if align != channels * bits // 8:
        raise WavError(f"{channels} channels of {bits} bits in blocks of {align} bytes")
    return _Format(sample_format, channels, rate_hz, align)


def _end_of_data(data: bytes, start: int, size: int) -> int:
    if size == 0:
        riff_end = 8 + int.from_bytes(data[4:8], "little")
        if riff_end <= start or riff_end >= _UNKNOWN_SIZE:
            return len(data)
    return min(start + size, len(data))


def _decode(fmt: _Format, stored: bytes) -> Wav:
    stored = stored[: len(stored) - len(stored) % fmt.align]
    match fmt.sample_format:
        case SampleFormat.PCM16:
            pcm = stored
        case SampleFormat.MULAW:
            pcm = mulaw_to_pcm(stored)
        case SampleFormat.ALAW:
            pcm = alaw_to_pcm(stored)
        case SampleFormat.PCM8:
            wide = np.frombuffer(stored, np.uint8).astype("<i2")
            pcm = ((wide - 128) << 8).tobytes()
    return Wav(fmt.rate_hz, fmt.channels, fmt.sample_format, pcm)
