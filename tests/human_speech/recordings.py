"""Human speech for judging a recogniser: Debian's pocketsphinx-testdata, cut and put on the telephone.

Each cut is a file, the first and last 10 ms frame, and the words in it. Where the words of the
librivox sentences stand was found once by forced alignment with the full-band recording and the
text that comes with it; the table is its result. A cut gets 200 ms of line noise before and 300 ms
after it, goes down to 8 kHz, through G.711 µ-law, and up to 16 kHz as the call's own resampler does.

Speakers: one for the cards, one for the turtle's commands and numbers, one for librivox, one for
the digits.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from flowcatd.audio.g711 import mulaw_to_pcm, pcm_to_mulaw
from flowcatd.audio.resample import Resampler

FOLDER = Path("/usr/share/pocketsphinx/test/data")
MISSING = "Debian's pocketsphinx-testdata is not installed: no human speech to judge by"
FULL_RATE_HZ = 16_000
LINE_RATE_HZ = 8_000


@dataclass(frozen=True, slots=True)
class Cut:
    """A piece of a recording."""

    file: str
    first: int
    last: int
    words: str


_AUSTEN = "librivox/sense_and_sensibility_01_austen_64kb-{}.wav"


def _austen(part: str, *pieces: tuple[int, int, str]) -> list[Cut]:
    return [Cut(_AUSTEN.format(part), first, last, words) for first, last, words in pieces]


SENTENCES = [
    *_austen(
        "0870",
        (
            *(0, 709),
            (
                "and mister john dashwood had then leisure to consider how much there might be"
                " prudently in his power to do for them"
            ),
        ),
    ),
    *_austen("0880", (0, 299, "he was not an ill disposed young man")),
    *_austen(
        "0890",
        (0, 530, "unless to be rather cold hearted and rather selfish is to be ill disposed"),
    ),
    *_austen(
        "0920",
        (
            *(0, 605),
            (
                "had he married a more a amiable woman he might have been made still more"
                " respectable than he was"
            ),
        ),
    ),
    *_austen("0930", (0, 329, "he might even have been made amiable himself")),
    Cut("goforward.raw", 20, 230, "go forward ten meters"),
    Cut("something.raw", 20, 230, "go somewhere and do something"),
]
"""What was read as a whole, and is of no appointment."""

CARDS = [
    Cut("cards/001.wav", 0, 110, "ten of clubs"),
    Cut("cards/002.wav", 0, 197, "four queen of clubs"),
    Cut("cards/003.wav", 0, 154, "seven of clubs"),
    Cut("cards/004.wav", 0, 156, "five five"),
    Cut("cards/005.wav", 0, 351, "eight of spades four of clubs seven of hearts"),
]

PHRASES = [
    *_austen(
        "0870",
        *((20, 157, "and mister john dashwood"), (158, 270, "had then leisure")),
        *((271, 343, "to consider"), (344, 432, "how much")),
        *((433, 545, "there might be prudently"), (546, 603, "in his power")),
        *((604, 678, "to do for them"), (37, 97, "mister john"), (98, 157, "dashwood")),
        *((225, 343, "leisure to consider"), (494, 545, "prudently")),
        (546, 678, "in his power to do for them"),
    ),
    *_austen(
        "0880",
        *((20, 105, "he was not"), (113, 273, "an ill disposed young man")),
        *((148, 210, "disposed"), (211, 273, "young man")),
    ),
    *_austen(
        "0890",
        *((27, 121, "unless to be rather"), (122, 221, "cold hearted")),
        *((222, 358, "and rather selfish"), (363, 508, "is to be ill disposed")),
        *((86, 221, "rather cold hearted"), (278, 358, "selfish"), (416, 508, "ill disposed")),
    ),
    *_austen(
        "0920",
        *((22, 97, "had he married"), (98, 248, "a more a amiable woman")),
        *((249, 335, "he might have been"), (336, 424, "made still more")),
        *((425, 499, "respectable"), (500, 582, "than he was"), (54, 140, "married a more")),
        *((146, 248, "amiable woman"), (369, 499, "still more respectable"), (201, 248, "woman")),
    ),
    *_austen(
        "0930",
        *((21, 91, "he might even"), (92, 169, "have been made"), (170, 226, "amiable")),
        *((227, 301, "himself"), (64, 169, "even have been made")),
        (133, 301, "made amiable himself"),
    ),
    *(Cut("goforward.raw", 46, 116, "go forward"), Cut("goforward.raw", 153, 211, "meters")),
    Cut("something.raw", 43, 117, "go somewhere"),
    Cut("something.raw", 118, 211, "and do something"),
]
"""Phrases out of the sentences: people answer in a few words, not in paragraphs."""

DIGITS = [
    Cut("tidigits/dhd.2934z.raw", 10, 200, "two nine three four zero"),
    Cut("tidigits/dhd.2934z.raw", 20, 65, "two nine"),
    Cut("tidigits/dhd.2934z.raw", 64, 163, "three four zero"),
    Cut("tidigits/dhd.2934z.raw", 40, 65, "nine"),
    Cut("tidigits/dhd.2934z.raw", 65, 88, "three"),
    Cut("tidigits/dhd.2934z.raw", 88, 113, "four"),
    Cut("cards/004.wav", 0, 156, "five five"),
]
"""Digits, together and alone."""


def on_the_phone(cut: Cut) -> bytes:
    """Give the cut as the recogniser gets it from a call: s16le at 16 kHz."""
    path = FOLDER / cut.file
    if path.suffix == ".wav":
        with wave.open(str(path)) as reader:
            assert reader.getframerate() == FULL_RATE_HZ
            raw = reader.readframes(reader.getnframes())
    else:
        raw = path.read_bytes()
    samples = np.frombuffer(raw, "<i2")
    frame = FULL_RATE_HZ // 100
    piece = samples[max(0, (cut.first - 1) * frame) : (cut.last + 3) * frame]
    return telephone(piece, FULL_RATE_HZ)


def telephone(
    samples: np.ndarray, rate_hz: int, *, gain_db: float = 0.0, noise: np.ndarray | None = None
) -> bytes:
    """Give samples with line noise around them after 8 kHz µ-law, at 16 kHz again.

    `gain_db` is how much quieter or louder the speaker is, not the line; `noise` is what else the
    line carries 20 dB below the speech, at 8 kHz, repeated as needed.
    """
    hush = np.random.default_rng(1)
    pause = [np.zeros(rate_hz * ms // 1000) for ms in (200, 300)]
    whole = np.concatenate([pause[0], samples.astype(np.float64), pause[1]])
    speech = soxr.resample(whole, rate_hz, LINE_RATE_HZ) * 10 ** (gain_db / 20)
    line = hush.normal(0, 8, len(speech))
    if noise is not None:
        frames = (speech[: len(speech) // 160 * 160].reshape(-1, 160) ** 2).mean(axis=1)
        loud = frames[frames > frames.max() / 100].mean()
        line = np.resize(noise, len(speech)) / noise.std() * np.sqrt(loud) / 10
    narrow = (speech + line).clip(-32_767, 32_767).astype("<i2").tobytes()
    heard = mulaw_to_pcm(pcm_to_mulaw(narrow))
    up = Resampler(LINE_RATE_HZ, FULL_RATE_HZ, primed=True)
    return b"".join(up.push(heard[at : at + 320]) for at in range(0, len(heard) // 320 * 320, 320))
