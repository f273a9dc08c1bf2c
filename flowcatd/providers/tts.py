"""Text to speech: the rows we ship. Sorted by name, one per block.

Rows under `flite` and `espeak` run on this machine, in a helper process (`links/voice_helper.py`).
slt is the clearest of flite's voices at 8 kHz; the others serve as callers in tests. `gain_db` brings
a voice to about -20 dBFS while it speaks: slt comes at -14.5, which is shouting on a telephone.
"""

from __future__ import annotations

from flowcatd.providers.row import Row, table

TTS = table(
    Row(
        kind="tts",
        name="espeak-ng",
        dialect="espeak",
        voice="en-us+klatt2",
        rate_hz=22_050,
        extra="espeak",
        debian="libespeak-ng1",
        docs="https://github.com/espeak-ng/espeak-ng",
        proof="live 2026-11",
    ),
    Row(
        kind="tts",
        name="flite-awb",
        dialect="flite",
        voice="awb",
        debian="libflite1",
        docs="http://www.festvox.org/flite",
        proof="live 2026-11",
    ),
    Row(
        kind="tts",
        name="flite-kal16",
        dialect="flite",
        voice="kal16",
        debian="libflite1",
        docs="http://www.festvox.org/flite",
        proof="live 2026-11",
    ),
    Row(
        kind="tts",
        name="flite-rms",
        dialect="flite",
        voice="rms",
        debian="libflite1",
        docs="http://www.festvox.org/flite",
        proof="live 2026-11",
    ),
    Row(
        kind="tts",
        name="flite-slt",
        dialect="flite",
        voice="slt",
        options={"gain_db": "-6"},
        debian="libflite1",
        docs="http://www.festvox.org/flite",
        proof="live 2026-11",
    ),
)
"""By name."""
