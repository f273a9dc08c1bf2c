"""Microseconds per media message in the carrier cores: `python -m bench.micro.carriers`.

One message of 20 ms is read (text to drained event) and one is written (payload to text), for each
row; the far end, which the load generator runs in the same way, beside it. The best of five runs, so
that the other work of the machine does not count.
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable

from flowcatd.carriers.events import Encoding, Started
from flowcatd.carriers.far_end import FarEnd
from flowcatd.carriers.json_media import JsonMedia
from flowcatd.carriers.raw import RAW, raw
from flowcatd.carriers.table import ROWS, Format, Row

NUMBER = 50_000
REPEAT = 5
FRAMES_PER_SECOND = 50


def main() -> None:
    """Print one line per row and format."""
    head = ("carrier", "format", "core in", "core out", "far in", "far out")
    print(f"python {sys.version.split()[0]}; microseconds per 20 ms message")
    print(("{:<8} {:<12}" + "{:>9}" * 4).format(*head))
    pairs = [(row, form) for row in ROWS for form in row.formats]
    pairs.append((RAW, Format("pcm", Encoding.PCM, 16000)))
    for row, form in pairs:
        figures = measure(row, form)
        name = f"{form.encoding}/{form.rate_hz}"
        print(f"{row.name:<8} {name:<12}" + "".join(f"{figure:9.2f}" for figure in figures))


def measure(row: Row, form: Format) -> tuple[float, float, float, float]:
    """Core in, core out, far end in, far end out, in microseconds."""
    far = FarEnd(row, Started("call", "M" * 34, form.encoding, form.rate_hz))
    core = raw(form.encoding, form.rate_hz) if row is RAW else JsonMedia(row)
    for text in far.start():
        core.receive_text(text, 0.0)
    width = 2 if form.encoding is Encoding.PCM else 1
    payload = bytes(range(256)) * (form.rate_hz * width // FRAMES_PER_SECOND // 256 + 1)
    payload = payload[: form.rate_hz * width // FRAMES_PER_SECOND]
    inbound, outbound = far.audio(payload), core.audio(payload)

    def core_in() -> None:
        if core.audio_is_text:
            core.receive_text(inbound, 1.0)
        else:
            core.receive_binary(inbound, 1.0)
        core.events()

    def far_in() -> None:
        if core.audio_is_text:
            far.receive_text(outbound)
        else:
            far.receive_binary(outbound)
        far.events()

    def core_out() -> None:
        core.audio(payload)

    def far_out() -> None:
        far.audio(payload)

    return best(core_in), best(core_out), best(far_in), best(far_out)


def best(step: Callable[[], None]) -> float:
    """Microseconds of one step, in the quietest of the runs."""
    return min(timeit.repeat(step, number=NUMBER, repeat=REPEAT)) / NUMBER * 1e6


if __name__ == "__main__":
    main()
