"""How long the offline engines keep a caller waiting: first sound of a voice, last word of a recogniser.

`python -m bench.micro.speech` starts the real helpers, one of each kind, and prints medians and
worst cases in ms over ROUNDS. Recognition is fed in real time (20 ms every 20 ms), so that what is
left when the utterance ends is what a call would wait for; the search's own share of real time is
taken from a second pass that is fed at once.
"""

from __future__ import annotations

import asyncio
import statistics
import time

import numpy as np
import soxr
import uvloop

from flowcatd import log
from flowcatd.links.open import SpeechLink, runnable_dialects
from flowcatd.options import Log
from flowcatd.providers.stt import STT
from flowcatd.providers.tts import TTS
from flowcatd.services import Failed, Final, Hearing, SttEvent

ROUNDS = 9
LINE = "On which day would you like to come? We are open from monday to friday."
SAID = "on monday at ten"
GRAMMAR = """public <utterance> = [ on ] <day> | [ on ] <day> <time> | <time> | yes | no;
<day> = monday | tuesday | wednesday | thursday | friday;
<time> = [ at ] ( one | two | three | four | nine | ten | eleven ) [ o'clock | thirty ];
"""


def report(name: str, seconds: list[float]) -> None:
    """Print one line of figures."""
    worst = 1000 * max(seconds)
    print(f"{name:34} p50 {1000 * statistics.median(seconds):7.2f} ms   max {worst:7.2f} ms")


async def speak(link: SpeechLink, line: str) -> tuple[float, float, bytes]:
    """Say a line: seconds to its first piece, seconds to its end, and its sound."""
    began = time.perf_counter()
    first = 0.0
    pieces = []
    async for piece in link.mouth().speak(line):
        first = first or time.perf_counter() - began
        pieces.append(piece)
    return first, time.perf_counter() - began, b"".join(pieces)


async def hear(link: SpeechLink, pcm: bytes, pace: float) -> tuple[float, float]:
    """Hear an utterance: seconds from its end to the answer, and in all."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def on_event(event: SttEvent) -> None:
        if isinstance(event, Final | Failed):
            answer.set_result(event.text if isinstance(event, Final) else event.reason)

    ear = link.ear(on_event)
    ear.expect(Hearing(GRAMMAR))
    began = time.perf_counter()
    ear.start_utterance()
    for at in range(0, len(pcm), 640):
        ear.push_audio(pcm[at : at + 640])
        if pace:
            await asyncio.sleep(pace)
    ended = time.perf_counter()
    ear.end_utterance()
    text = await answer
    assert text == SAID, "the recogniser misheard: the figures would mean nothing"
    await ear.close()
    return time.perf_counter() - ended, time.perf_counter() - began


async def main() -> None:
    """Measure whatever is on this machine."""
    log.configure(Log(level="warning"), slot=None)
    there = runnable_dialects()
    said = b""
    for row in TTS.values():
        if row.dialect not in there:
            continue
        link = SpeechLink(row, 1)
        await link.start()
        await speak(link, LINE)
        spoken = [await speak(link, LINE) for _ in range(ROUNDS)]
        report(f"{row.name} first piece", [first for first, _, _ in spoken])
        report(f"{row.name} whole line", [whole for _, whole, _ in spoken])
        if row.name == "flite-rms":
            _, _, said = await speak(link, SAID)
        await link.close()
    if "sphinx" in there and said:
        narrow = soxr.resample(np.frombuffer(said, "<i2"), 16_000, 8_000)
        wide = soxr.resample(narrow, 8_000, 16_000).astype("<i2").tobytes()
        pcm = bytes(6_400) + wide + bytes(9_600)
        link = SpeechLink(STT["pocketsphinx"], 1)
        await link.start()
        await hear(link, pcm, 0.0)
        paced = [await hear(link, pcm, 0.02) for _ in range(ROUNDS)]
        report("pocketsphinx end to answer", [left for left, _ in paced])
        rushed = [await hear(link, pcm, 0.0) for _ in range(ROUNDS)]
        seconds = len(pcm) / 32_000
        share = statistics.median([whole for _, whole in rushed]) / seconds
        print(f"{'pocketsphinx share of real time':34} {share:.3f}  ({seconds:.1f} s of audio)")
        await link.close()


if __name__ == "__main__":
    uvloop.run(main())
