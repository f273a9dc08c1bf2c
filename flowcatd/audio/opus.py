"""Opus, by libopus through ctypes: mono PCM at 8, 16, 24 or 48 kHz against packets.

An encoder or decoder is one direction of one call. It is decoded straight to the rate that the call
wants, whatever the far end encoded (RFC 7587 §4.1), so no resampler is needed; stereo is mixed down.
The RTP clock is always 48 kHz: `ticks` reads a packet's length off its first bytes (RFC 6716 §3.1,
§3.2) without libopus, and 0 means that it is no Opus packet.

What is lost can be had back in two ways: from the next packet, when the far end sends forward error
correction (`recover`), or made up (`conceal`). Both want the exact length of the hole.

libopus is loaded when first asked for, never at import: Debian's libopus0, else the copy inside PyAV's
wheel. Every length is checked before it reaches C, every negative answer becomes OpusError, and the
state is freed with its owner. ctypes lets go of the GIL for each call; so one state belongs to one
thread. Numbers of requests: opus_defines.h, which keeps them through all 1.x.
"""

from __future__ import annotations

import ctypes
import importlib.util
import weakref
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from flowcatd.errors import LocalError, PeerError

RATES_HZ: Final = (8_000, 12_000, 16_000, 24_000, 48_000)
"""What libopus encodes from and decodes to."""
CLOCK_HZ: Final = 48_000
"""Ticks of the RTP timestamp per second (RFC 7587 §4.1)."""
MOST_BYTES: Final = 1_275
"""One frame's limit (RFC 6716 §3.2.1), and our packets hold one: they fit any path."""
MOST_TICKS: Final = 5_760
"""120 ms, the longest packet (RFC 6716 §3.2.5)."""
MISSING: Final = "libopus is not installed: apt-get install libopus0, or pip install av"

_VOIP = 2048
_SIGNAL_VOICE = 3001
_SET_BITRATE, _SET_WIDEST, _SET_VBR = 4002, 4004, 4006
_SET_COMPLEXITY, _SET_FEC = 4010, 4012
_SET_LOSS, _SET_DTX, _SET_SIGNAL = 4014, 4016, 4024
_GET_LOOKAHEAD = 4027

_FRAME_TICKS: Final = (
    *((480, 960, 1920, 2880) * 3),  # configurations 0 to 11: SILK, 10 to 60 ms
    *((480, 960) * 2),  # 12 to 15: hybrid
    *((120, 240, 480, 960) * 4),  # 16 to 31: CELT, 2.5 to 20 ms
)
"""RFC 6716 table 2."""
_ENCODED_TICKS: Final = frozenset({120, 240, 480, 960, 1920, 2880})
_LEAST_HOLE_TICKS: Final = 120
_BITRATES: Final = range(6_000, 510_001)
"""What Opus has; another wish is none (RFC 7587 §6.1)."""
_WIDEST: Final = ((8_000, 1101), (12_000, 1102), (16_000, 1103), (24_000, 1104), (48_000, 1105))
"""Sampling rate and libopus's name of the bandwidth that it has room for (RFC 6716 table 1)."""


class OpusError(PeerError):
    """A packet that is none, or that libopus cannot read; the answer is to conceal it."""


@dataclass(frozen=True, slots=True)
class OpusOptions:
    """How to encode; what the far end asked for is worked in by `asked`."""

    bitrate: int = 24_000
    """Bits per second, 6000 to 510000: wideband speech is as good as it gets at 24000."""
    complexity: int = 5
    """0 to 10. What 10 adds to speech is hard to hear and doubles the work."""
    loss_percent: int = 10
    """What the encoder reckons with; forward error correction is only spent on what it expects."""
    has_fec: bool = True
    playback_hz: int = 48_000
    """What the far end can play, as a sampling rate: 8000 to 48000. More is not sent."""
    is_constant: bool = False
    """Whether every packet has the same size."""
    has_dtx: bool = False
    """Say little in silence. Off, as RFC 7587 §6.1 has it unless somebody asks."""


def asked(fmtp: str, options: OpusOptions) -> OpusOptions:
    """`options` as the far end's fmtp line would have them (RFC 7587 §6.1); rubbish changes nothing.

    Error correction is for who says that it can use it.
    """
    can_fec, options = options.has_fec, replace(options, has_fec=False)
    for part in fmtp.split(";"):
        name, _, value = part.strip().partition("=")
        if not (value.isascii() and value.isdigit() and len(value) <= 6):
            continue
        match name.lower():
            case "maxaveragebitrate" if int(value) in _BITRATES:
                options = replace(options, bitrate=min(options.bitrate, int(value)))
            case "maxplaybackrate" if 8_000 <= int(value) <= CLOCK_HZ:
                options = replace(options, playback_hz=min(options.playback_hz, int(value)))
            case "useinbandfec":
                options = replace(options, has_fec=can_fec and value == "1")
            case "cbr":
                options = replace(options, is_constant=value == "1")
            case "usedtx":
                options = replace(options, has_dtx=value == "1")
    return options


def ticks(packet: bytes) -> int:
    """How long a packet lasts on the 48 kHz clock; 0 when it is none (RFC 6716 §3)."""
    if not packet:
        return 0
    first = packet[0]
    frame = _FRAME_TICKS[first >> 3]
    match first & 3:
        case 0:
            return frame
        case 1:
            return 2 * frame if len(packet) % 2 else 0  # two of one size, after the first byte
        case 2:
            return 2 * frame if len(packet) > 1 else 0
        case _:
            count = packet[1] & 0x3F if len(packet) > 1 else 0
            return count * frame if count * frame <= MOST_TICKS else 0


@cache
def available() -> bool:
    """Whether libopus is there; this loads it."""
    return _library() is not None


def version() -> str:
    """What libopus calls itself; LocalError where there is none."""
    library = _loaded()
    named: bytes = library.opus_get_version_string()
    return named.decode("ascii", "replace")


class OpusEncoder:
    """PCM to packets, one direction of one call."""

    __slots__ = ("__weakref__", "_encode", "_free", "_out", "_rate_hz", "_set", "_state")

    def __init__(self, rate_hz: int, options: OpusOptions | None = None) -> None:
        """`rate_hz` is the PCM's; LocalError without libopus or for what it does not do."""
        library = _loaded()
        _check_rate(rate_hz)
        state, self._free = _made(
            self, library.opus_encoder_create, library.opus_encoder_destroy, rate_hz, 1, _VOIP
        )
        self._state: int | None = state
        self._rate_hz = rate_hz
        self._encode = library.opus_encode
        self._set = library.opus_encoder_ctl
        self._out = ctypes.create_string_buffer(MOST_BYTES)
        self._request(_SET_SIGNAL, _SIGNAL_VOICE)
        self.tune(options if options is not None else OpusOptions())

    def tune(self, options: OpusOptions) -> None:
        """From the next packet on encode like this; LocalError for what libopus does not take."""
        self._request(_SET_BITRATE, options.bitrate)
        self._request(_SET_COMPLEXITY, options.complexity)
        self._request(_SET_LOSS, options.loss_percent)
        self._request(_SET_FEC, int(options.has_fec))
        self._request(_SET_DTX, int(options.has_dtx))
        self._request(_SET_VBR, int(not options.is_constant))
        widest = max(
            name for rate_hz, name in _WIDEST if rate_hz <= max(options.playback_hz, 8_000)
        )
        self._request(_SET_WIDEST, widest)

    def encode(self, pcm: bytes) -> bytes:
        """One packet of s16le mono: 2.5, 5, 10, 20, 40 or 60 ms of it, LocalError for others."""
        state = self._state
        if state is None:
            raise LocalError("the encoder is closed")
        samples = len(pcm) // 2
        if len(pcm) % 2 or samples * CLOCK_HZ not in _lengths(self._rate_hz):
            raise LocalError(f"{len(pcm)} bytes at {self._rate_hz} Hz are no Opus frame")
        out = self._out
        size: int = self._encode(state, pcm, samples, out, MOST_BYTES)
        if size < 0:  # pragma: no cover  # everything that it refuses was refused above
            raise LocalError(f"libopus cannot encode: error {size}")
        return ctypes.string_at(out, size)

    @property
    def lookahead(self) -> int:
        """How many samples of silence go ahead of the first one."""
        if self._state is None:
            raise LocalError("the encoder is closed")
        value = ctypes.c_int32()
        _check(self._set(self._state, _GET_LOOKAHEAD, ctypes.byref(value)))
        return value.value

    def close(self) -> None:
        """Free the state now; otherwise it goes with its owner."""
        self._state = None
        self._free()

    def _request(self, number: int, value: int) -> None:
        if self._state is None:
            raise LocalError("the encoder is closed")
        _check(self._set(self._state, number, ctypes.c_int32(value)))


class OpusDecoder:
    """Packets to PCM, one direction of one call."""

    __slots__ = ("__weakref__", "_decode", "_free", "_most", "_out", "_rate_hz", "_state")

    def __init__(self, rate_hz: int) -> None:
        """`rate_hz` is what is wanted out; LocalError without libopus or for what it does not do."""
        library = _loaded()
        _check_rate(rate_hz)
        state, self._free = _made(
            self, library.opus_decoder_create, library.opus_decoder_destroy, rate_hz, 1
        )
        self._state: int | None = state
        self._rate_hz = rate_hz
        self._decode = library.opus_decode
        self._most = MOST_TICKS * rate_hz // CLOCK_HZ
        self._out = ctypes.create_string_buffer(2 * self._most)

    def decode(self, packet: bytes) -> bytes:
        """A packet's s16le mono; OpusError when it is none."""
        if not packet:
            raise OpusError("an empty payload is no Opus packet")
        return self._run(packet, self._most, 0)

    def recover(self, following: bytes, samples: int) -> bytes:
        """The `samples` lost before the packet `following`, from its error correction if it has any.

        Then `following` itself is decoded. Whole 2.5 ms up to 120; OpusError for no packet.
        """
        if not following:
            raise OpusError("an empty payload is no Opus packet")
        return self._run(following, self._hole(samples), 1)

    def conceal(self, samples: int) -> bytes:
        """Something in place of `samples` that are lost: whole 2.5 ms up to 120."""
        return self._run(None, self._hole(samples), 0)

    def close(self) -> None:
        """Free the state now; otherwise it goes with its owner."""
        self._state = None
        self._free()

    def _hole(self, samples: int) -> int:
        lasting = samples * CLOCK_HZ
        step = _LEAST_HOLE_TICKS * self._rate_hz
        if not 0 < samples <= self._most or lasting % step:
            raise LocalError(f"a hole of {samples} samples at {self._rate_hz} Hz is not filled")
        return samples

    def _run(self, packet: bytes | None, samples: int, fec: int) -> bytes:
        state = self._state
        if state is None:
            raise LocalError("the decoder is closed")
        out = self._out
        size = 0 if packet is None else len(packet)
        made: int = self._decode(state, packet, size, out, samples, fec)
        if made < 0:
            raise OpusError(f"libopus cannot read a packet of {size} bytes: error {made}")
        return ctypes.string_at(out, 2 * made)


@cache
def _lengths(rate_hz: int) -> frozenset[int]:
    """Samples times 48000 of each frame length: whole numbers at every rate."""
    return frozenset(length * rate_hz for length in _ENCODED_TICKS)


def _check_rate(rate_hz: int) -> None:
    if rate_hz not in RATES_HZ:
        raise LocalError(f"{rate_hz} Hz is none of Opus's rates: {RATES_HZ}")


def _check(code: int) -> None:
    if code < 0:
        raise LocalError(f"libopus does not take this: error {code}")


def _made(
    owner: object, create: ctypes._NamedFuncPointer, destroy: ctypes._NamedFuncPointer, *how: int
) -> tuple[int, weakref.finalize[..., object]]:
    """A state of libopus, and what frees it: at once when called, else with `owner`; once."""
    code = ctypes.c_int(0)
    state: int | None = create(*how, ctypes.byref(code))
    if not state or code.value < 0:  # pragma: no cover  # no memory
        raise LocalError(f"libopus makes no state: error {code.value}")
    free = weakref.finalize(owner, destroy, state)
    free.atexit = False  # the process's end frees all
    return state, free


def _loaded() -> ctypes.CDLL:
    library = _library()
    if library is None:  # pragma: no cover  # tests of codecs want one
        raise LocalError(MISSING)
    return library


@cache
def _library() -> ctypes.CDLL | None:
    """The library with its functions' types, or None where there is none."""
    for name in ("libopus.so.0", "libopus.0.dylib", *_inside_pyav()):
        try:
            return _typed(ctypes.CDLL(name))
        except (OSError, AttributeError):  # pragma: no cover  # depends on the machine
            continue  # not there, or something else of that name
    return None  # pragma: no cover  # as above


def _inside_pyav() -> list[str]:
    """Where PyAV's wheel keeps its copy; PyAV is not imported."""
    found = importlib.util.find_spec("av")
    if found is None or found.origin is None:
        return []
    folder = Path(found.origin).parent.with_name("av.libs")
    return sorted(str(path) for path in folder.glob("libopus-*.so*"))


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    """opus.h's prototypes. opus_encoder_ctl takes its value as a variable argument."""
    number, state, data = ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p
    length, code = ctypes.c_int32, ctypes.POINTER(ctypes.c_int)
    prototypes: tuple[tuple[str, object, list[object]], ...] = (
        ("opus_get_version_string", data, []),
        ("opus_encoder_create", state, [length, number, number, code]),
        ("opus_encoder_destroy", None, [state]),
        ("opus_encoder_ctl", number, [state, number]),
        ("opus_encode", length, [state, data, number, data, length]),
        ("opus_decoder_create", state, [length, number, code]),
        ("opus_decoder_destroy", None, [state]),
        ("opus_decode", number, [state, data, length, data, number, number]),
    )
    for name, result, arguments in prototypes:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
