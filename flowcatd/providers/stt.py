"""Speech to text: the rows we ship. Sorted by name, one per block.

A row under `sphinx` runs on this machine, in a helper process (`links/sphinx_helper.py`).
"""

from __future__ import annotations

from flowcatd.providers.row import Row, table

STT = table(
    Row(
        kind="stt",
        name="pocketsphinx",
        dialect="sphinx",
        model="en-us",
        rate_hz=16_000,
        extra="speech",
        docs="https://pocketsphinx.readthedocs.io",
        proof="live 2026-11",
    ),
)
"""By name."""
