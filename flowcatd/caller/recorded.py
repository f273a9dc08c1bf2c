"""Recordings of the demo caller's lines, so that the first call needs no synthesiser of a kind.

Made by `python -m bench.peers.demo_lines` with flite's kal16, which the offline recogniser
understands better than what a machine without Debian's packages can synthesise.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).with_name("lines")


def recording_of(text: str) -> Path:
    """Where the recording of a line stands: its words, joined."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return _FOLDER / f"{'-'.join(words)}.wav"
