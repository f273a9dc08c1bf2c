"""G.711 against a second implementation, written from the recommendation's own tables.

The oracle knows only the decision values and output values of ITU-T G.711 (11/88) tables 1 and 2,
and ITU-T G.191's rule for a sample on a decision value; it shares no code with the room under test.
"""

from __future__ import annotations

import array
import subprocess
import sys
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.audio import g711
from flowcatd.errors import LocalError

SAMPLES = range(-32_768, 32_768)
PCM = array.array("h", SAMPLES).tobytes()
CODES = bytes(range(256))

# Decision values, scaled to 16 bits: µ-law is defined on 14, A-law on 13.
MULAW_DECISIONS = list(
    accumulate([4] + [8] * 15 + [4 << k for k in range(2, 9) for _ in range(16)], initial=0)
)
ALAW_DECISIONS = list(
    accumulate([16] * 32 + [8 << k for k in range(2, 8) for _ in range(16)], initial=0)
)

# G.711 tables 3 and 4: the other law's number (from 0) for each number of the first.
MULAW_TO_ALAW = [
    *(n // 2 for n in range(16)),
    *range(8, 25),
    *(26, 28, 30),
    *range(32, 44),
    *(45,),
    *range(47, 62),
    *range(63, 80),
    *range(81, 128),
]
ALAW_TO_MULAW = [
    *range(1, 16, 2),
    *range(16, 32),
    *(n // 2 for n in range(64, 72)),
    *range(36, 48),
    *(48, 48, 49, 49),
    *range(50, 64),
    *(64, 64),
    *range(65, 81),
    *range(80, 128),
]


def magnitude(sample: int) -> int:
    """G.191: a negative sample is complemented."""
    return sample if sample >= 0 else ~sample


def mulaw_code(sample: int) -> int:
    """The character signal of table 2: 255 less the number, 127 less it for negative samples."""
    number = min(bisect_right(MULAW_DECISIONS, magnitude(sample)) - 1, 127)
    return (255 if sample >= 0 else 127) - number


def alaw_code(sample: int) -> int:
    """The character signal of table 1, its even bits inverted."""
    number = min(bisect_right(ALAW_DECISIONS, magnitude(sample)) - 1, 127)
    return (number + (128 if sample >= 0 else 0)) ^ 0x55


def mulaw_value(code: int) -> int:
    """Half way between two decision values, and exactly 0 for number 0."""
    number = 127 - code % 128
    value = (MULAW_DECISIONS[number] + MULAW_DECISIONS[number + 1]) // 2 if number else 0
    return value if code >= 128 else -value


def alaw_value(code: int) -> int:
    """Half way between two decision values."""
    number = (code ^ 0x55) % 128
    value = (ALAW_DECISIONS[number] + ALAW_DECISIONS[number + 1]) // 2
    return value if code >= 128 else -value


def test_the_oracle_ends_at_the_virtual_decision_values():
    """Tables 1 and 2 end at 4096 (13 bits) and 8159 (14 bits), with 128 intervals each."""
    assert (ALAW_DECISIONS[-1], MULAW_DECISIONS[-1]) == (4096 * 8, 8159 * 4)
    assert len(ALAW_DECISIONS) == len(MULAW_DECISIONS) == 129


def test_every_sample_gets_its_mulaw_code():
    """All 65,536 samples encode to µ-law as the recommendation says."""
    assert g711.pcm_to_mulaw(PCM) == bytes(map(mulaw_code, SAMPLES))


def test_every_sample_gets_its_alaw_code():
    """All 65,536 samples encode to A-law as the recommendation says."""
    assert g711.pcm_to_alaw(PCM) == bytes(map(alaw_code, SAMPLES))


def test_every_mulaw_code_gets_its_value():
    """All 256 µ-law codes decode as the recommendation says."""
    assert array.array("h", g711.mulaw_to_pcm(CODES)).tolist() == list(map(mulaw_value, CODES))


def test_every_alaw_code_gets_its_value():
    """All 256 A-law codes decode as the recommendation says."""
    assert array.array("h", g711.alaw_to_pcm(CODES)).tolist() == list(map(alaw_value, CODES))


def test_only_negative_zero_does_not_survive_a_round_trip_in_mulaw():
    """255 µ-law codes come back as they went; 0x7F, the second zero, comes back as 0xFF."""
    back = g711.pcm_to_mulaw(g711.mulaw_to_pcm(CODES))
    assert back == CODES.replace(b"\x7f", b"\xff")


def test_every_alaw_code_survives_a_round_trip():
    """A-law has no zero and so no second one."""
    assert g711.pcm_to_alaw(g711.alaw_to_pcm(CODES)) == CODES


def test_mulaw_to_alaw_is_table_3():
    """Each µ-law number becomes the A-law number of G.711 table 3, with its sign."""
    expected = bytes(
        (MULAW_TO_ALAW[127 - code % 128] + (128 if code >= 128 else 0)) ^ 0x55 for code in CODES
    )
    assert g711.mulaw_to_alaw(CODES) == expected


def test_alaw_to_mulaw_is_table_4():
    """Each A-law number becomes the µ-law number of G.711 table 4, with its sign."""
    expected = bytes(
        (255 if code >= 128 else 127) - ALAW_TO_MULAW[(code ^ 0x55) % 128] for code in CODES
    )
    assert g711.alaw_to_mulaw(CODES) == expected


def test_mulaw_through_alaw_loses_only_the_eight_steps_that_alaw_lacks():
    """G.711's tables are transparent but where two µ-law steps share one A-law step near zero."""
    back = g711.alaw_to_mulaw(g711.mulaw_to_alaw(CODES))
    changed = {(code, now) for code, now in zip(CODES, back, strict=True) if code != now}
    assert changed == {
        (sign - number, sign - number - 1) for sign in (0xFF, 0x7F) for number in range(0, 15, 2)
    }


def test_silence_is_the_quietest_code():
    """The constants are what silence encodes to."""
    assert g711.pcm_to_mulaw(g711.PCM_SILENCE) == g711.MULAW_SILENCE
    assert g711.pcm_to_alaw(g711.PCM_SILENCE) == g711.ALAW_SILENCE


def test_nothing_in_gives_nothing_out():
    """An empty piece is an empty piece in every direction."""
    directions = (
        *(g711.mulaw_to_pcm, g711.alaw_to_pcm, g711.pcm_to_mulaw, g711.pcm_to_alaw),
        *(g711.mulaw_to_alaw, g711.alaw_to_mulaw),
    )
    assert [convert(b"") for convert in directions] == [b""] * 6


@pytest.mark.parametrize("encode", [g711.pcm_to_mulaw, g711.pcm_to_alaw])
def test_half_a_sample_is_a_local_error(encode):
    """Three bytes are no 16-bit samples, and it is our bug to ask."""
    with pytest.raises(LocalError, match="3 bytes"):
        encode(b"abc")


@given(st.integers(-32_768, 32_767), st.integers(-32_768, 32_767))
def test_a_louder_sample_never_decodes_lower(one, other):
    """Both laws are monotonic over the whole range."""
    pcm = array.array("h", sorted((one, other))).tobytes()
    for there, back in (
        (g711.pcm_to_mulaw, g711.mulaw_to_pcm),
        (g711.pcm_to_alaw, g711.alaw_to_pcm),
    ):
        low, high = array.array("h", back(there(pcm)))
        assert low <= high


def test_importing_it_warns_nobody():
    """The standard library's warning about audioop does not reach whoever imports the room."""
    command = [sys.executable, "-W", "error", "-c", "import flowcatd.audio.g711"]
    root = Path(__file__).parents[3]
    assert subprocess.run(command, check=False, timeout=60, cwd=root).returncode == 0
