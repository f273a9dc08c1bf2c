"""What the sample arithmetic costs: µs per 20 ms of audio, one line per function.

`python -m bench.micro.audio`. Each figure is the best of five runs of 2,000 calls, so that a busy
neighbour does not count; noise at -10 dBFS is the input, since silence takes no other path.
"""

from __future__ import annotations

import random
import struct
import timeit
from collections.abc import Callable

from flowcatd.audio.chunker import Chunker
from flowcatd.audio.g711 import (
    alaw_to_mulaw,
    alaw_to_pcm,
    mulaw_to_alaw,
    mulaw_to_pcm,
    pcm_to_alaw,
    pcm_to_mulaw,
)
from flowcatd.audio.level import dbfs, peak, rms
from flowcatd.audio.resample import RATES_HZ, Resampler, resample_whole
from flowcatd.audio.wav import SampleFormat, parse_wav, wav_header

_CALLS = 2_000
_REPEATS = 5


def _noise(samples: int) -> bytes:
    source = random.Random(711)
    return struct.pack(f"<{samples}h", *(source.randint(-18_000, 18_000) for _ in range(samples)))


def _microseconds(call: Callable[[], object]) -> float:
    return min(timeit.repeat(call, number=_CALLS, repeat=_REPEATS)) / _CALLS * 1e6


def _show(name: str, call: Callable[[], object], note: str = "") -> None:
    print(f"{name:<34}{_microseconds(call):8.2f} µs  {note}")


def _bench_resampler(from_hz: int, to_hz: int) -> None:
    resampler = Resampler(from_hz, to_hz, primed=True)
    pcm = _noise(from_hz // 50)
    _show(
        f"Resampler.push {from_hz} → {to_hz}",
        lambda: resampler.push(pcm),
        f"holds {resampler.delay_ms:.2f} ms",
    )


def main() -> None:
    """Print the table."""
    pcm = _noise(160)
    mulaw, alaw = pcm_to_mulaw(pcm), pcm_to_alaw(pcm)
    codecs: tuple[tuple[Callable[[bytes], bytes], bytes], ...] = (
        (mulaw_to_pcm, mulaw),
        (pcm_to_mulaw, pcm),
        (alaw_to_pcm, alaw),
        (pcm_to_alaw, pcm),
        (mulaw_to_alaw, mulaw),
        (alaw_to_mulaw, alaw),
    )
    for codec, data in codecs:
        _show(codec.__name__, lambda codec=codec, data=data: codec(data))  # type: ignore[misc]  # bound per turn
    for measure in (rms, peak, dbfs):
        _show(measure.__name__, lambda measure=measure: measure(pcm))  # type: ignore[misc]  # as above
    whole, split = Chunker(320), Chunker(320)
    _show("Chunker.push, one frame", lambda: whole.push(pcm))
    _show("Chunker.push, 1.5 frames", lambda: split.push(pcm + pcm[:160]))
    wav = wav_header(8_000, 1, 160, SampleFormat.PCM16) + pcm
    _show("parse_wav, 20 ms of PCM16", lambda: parse_wav(wav))
    _show(
        "resample_whole 8000 → 16000", lambda: resample_whole(pcm, 8_000, 16_000), "20 ms as a file"
    )
    for from_hz in RATES_HZ:
        for to_hz in RATES_HZ:
            if from_hz != to_hz and {from_hz, to_hz} & {8_000, 16_000}:
                _bench_resampler(from_hz, to_hz)


if __name__ == "__main__":
    main()
