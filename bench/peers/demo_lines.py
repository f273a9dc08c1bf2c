"""The recordings of the demo caller, made anew: `python -m bench.peers.demo_lines` (needs flite).

`flowcatd call` without arguments plays them, so that the first call works alike on every machine,
whatever synthesiser it has. 8 kHz µ-law WAV, flite's kal16.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from flowcatd.audio.g711 import pcm_to_mulaw
from flowcatd.audio.resample import resample_whole
from flowcatd.audio.wav import SampleFormat, wav_header
from flowcatd.caller.recorded import recording_of
from flowcatd.caller.script import DEMO
from flowcatd.caller.turns import Kind, Wish, make_turn
from flowcatd.caller.voice import open_voice

RATE_HZ = 8000


async def make() -> None:
    """Write one file a line."""
    async with open_voice("flite-kal16") as voice:
        assert voice is not None
        for text in DEMO:
            turn = await make_turn(Wish(Kind.SAY, text), voice.rate_hz, voice)
            samples = pcm_to_mulaw(resample_whole(turn.pcm, voice.rate_hz, RATE_HZ))
            header = wav_header(RATE_HZ, 1, len(samples), SampleFormat.MULAW)
            path = recording_of(text)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(header + samples + b"\0" * (len(samples) % 2))
            print(f"{len(samples) / RATE_HZ:5.2f} s  {path.relative_to(Path.cwd())}")


if __name__ == "__main__":
    sys.exit(asyncio.run(make()))
