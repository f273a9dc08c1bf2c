"""The silence before a line: left out, whatever the pieces; nothing behind it is touched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowcatd.audio.lead import LEAD_MS, Lead

RATE = 16_000
MS = RATE // 1000 * 2
LOUD = b"\x00\x10\x00\xf0" * (RATE // 4)


def heard(pcm: bytes, cuts: list[int]) -> bytes:
    """What comes out when `pcm` is pushed in pieces."""
    lead, out, at = Lead(RATE), b"", 0
    for size in [*cuts, len(pcm)]:
        piece = pcm[at : at + size * 2]
        at += len(piece)
        out += lead.push(piece)
    return out


@given(st.integers(0, 400), st.lists(st.integers(0, 3000), max_size=20))
def test_all_but_the_lead_goes_and_every_sample_behind_it_stays(ms: int, cuts: list[int]) -> None:
    """However the line is cut, the same bytes come out: at most LEAD_MS and a window of silence."""
    line = bytes(ms * MS) + LOUD
    out = heard(line, cuts)
    assert line.endswith(out)
    assert out.endswith(LOUD)
    assert len(out) - len(LOUD) <= min(ms, LEAD_MS + 10) * MS
    assert len(out) - len(LOUD) >= min(ms, LEAD_MS) * MS
    assert out == heard(line, [])


def test_pauses_inside_a_line_are_kept() -> None:
    """Only the beginning is judged."""
    line = LOUD + bytes(300 * MS) + LOUD
    assert heard(line, [1000, 5000, 5000]) == line


@given(st.lists(st.integers(0, 3000), max_size=20))
def test_a_line_that_never_sounds_is_nothing(cuts: list[int]) -> None:
    """And takes no memory while it does not."""
    assert heard(bytes(1000 * MS), cuts) == b""
