"""What the codecs and SRTP cost: µs per 20 ms of speech-like sound, one line per direction.

`python -m bench.micro.codec`. Each figure is the best of five runs, so that a busy neighbour does not
count. What is not installed (G.722, libopus) is said and left out.
"""

from __future__ import annotations

import itertools
import math
import random
import struct
import timeit
from collections.abc import Callable

from flowcatd.audio import g722, opus
from flowcatd.rtp.packet import datagram
from flowcatd.sip.session import SUITES, Key, Sdes
from flowcatd.transports.srtp import Srtp

_CALLS = 500
_REPEATS = 5
_FRAMES = 50


def _voice(rate_hz: int) -> list[bytes]:
    """A second of harmonics of a wavering pitch with some breath, in frames of 20 ms."""
    chance = random.Random(20)
    samples, phase = [], 0.0
    for i in range(rate_hz):
        phase += 2 * math.pi * (140 + 30 * math.sin(6 * i / rate_hz)) / rate_hz
        tone = sum(math.sin(n * phase) / n for n in range(1, 10))
        samples.append(int(5000 * tone + chance.gauss(0, 300)))
    pcm = struct.pack(f"<{rate_hz}h", *samples)
    size = len(pcm) // _FRAMES
    return [pcm[i : i + size] for i in range(0, len(pcm), size)]


def _show(name: str, call: Callable[[], object], note: str = "") -> None:
    cost = min(timeit.repeat(call, number=_CALLS, repeat=_REPEATS)) / _CALLS * 1e6
    print(f"{name:<40}{cost:8.2f} µs  {note}")


def _over(items: list[bytes], call: Callable[[bytes], object]) -> Callable[[], object]:
    """One item after the other, for ever."""
    turns = itertools.cycle(items)
    return lambda: call(next(turns))


def _bench_g722() -> None:
    if not g722.available():
        print(g722.MISSING)
        return
    encoder, decoder = g722.G722Encoder(), g722.G722Decoder()
    frames = _voice(g722.RATE_HZ)
    codes = [g722.G722Encoder().encode(frame) for frame in frames]
    _show("G.722 encode", _over(frames, encoder.encode))
    _show("G.722 decode", _over(codes, decoder.decode))


def _bench_opus() -> None:
    if not opus.available():
        print(opus.MISSING)
        return
    print(opus.version())
    for rate_hz in (8_000, 16_000, 24_000, 48_000):
        frames = _voice(rate_hz)
        for complexity in (0, 5, 10):
            encoder = opus.OpusEncoder(rate_hz, opus.OpusOptions(complexity=complexity))
            packets = [encoder.encode(frame) for frame in frames]
            size = sum(map(len, packets)) // len(packets)
            name = f"Opus encode {rate_hz} Hz, complexity {complexity}"
            _show(name, _over(frames, encoder.encode), f"{size} bytes")
        decoder = opus.OpusDecoder(rate_hz)
        _show(f"Opus decode {rate_hz} Hz", _over(packets, decoder.decode))
        samples = rate_hz // 50
        recover = _over(packets, lambda packet, d=decoder, n=samples: d.recover(packet, n))  # type: ignore[misc]  # bound per turn
        _show(f"Opus recover {rate_hz} Hz", recover)
    _show("Opus ticks", _over(packets, opus.ticks))


def _bench_srtp() -> None:
    for suite in SUITES.values():
        one = Key(suite, bytes(range(suite.key_bytes)))
        two = Key(suite, bytes(range(1, suite.key_bytes + 1)))
        sender, receiver = Srtp(Sdes(one, two)), Srtp(Sdes(two, one))
        numbers = itertools.count()
        secrets: list[bytes] = []

        def protect(
            sender: Srtp = sender,
            numbers: itertools.count[int] = numbers,
            secrets: list[bytes] = secrets,
        ) -> None:
            plain = datagram(0, next(numbers) & 0xFFFF, 0, 1, bytes(160))
            secrets.append(sender.protect(plain))

        _show(f"SRTP protect {suite.name}", protect)
        arriving = iter(secrets)
        _show(f"SRTP unprotect {suite.name}", lambda r=receiver, a=arriving: r.unprotect(next(a)))  # type: ignore[misc]  # bound per turn


def main() -> None:
    """Print the table."""
    _bench_g722()
    _bench_opus()
    _bench_srtp()


if __name__ == "__main__":
    main()
