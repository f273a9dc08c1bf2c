"""The recogniser is judged on human speech after 8 kHz µ-law: what it takes, and what it refuses.

Every threshold is a promise of nine in ten. Each utterance is a new call: nothing is learnt from
the one before. Cases that fail are printed, so that a worse recogniser says how it got worse.
"""

from __future__ import annotations

import pytest

pytest.importorskip("pocketsphinx", reason="the `speech` extra is not installed")

from tests.human_speech import ear, recordings
from tests.human_speech.recordings import CARDS, DIGITS, PHRASES, SENTENCES, Cut, on_the_phone

pytestmark = [
    pytest.mark.human,
    pytest.mark.skipif(not recordings.FOLDER.exists(), reason=recordings.MISSING),
]

MOST = 0.9


async def _understood(grammar: str, cuts: list[Cut]) -> float:
    heard = await ear.texts(grammar, [on_the_phone(cut) for cut in cuts])
    wrong = [(cut.words, text) for cut, text in zip(cuts, heard, strict=True) if text != cut.words]
    print(f"understood {len(cuts) - len(wrong)} of {len(cuts)}; not: {wrong}")  # noqa: T201 figures for -s
    return 1 - len(wrong) / len(cuts)


async def _rejected(grammar: str, cuts: list[Cut]) -> float:
    heard = await ear.texts(grammar, [on_the_phone(cut) for cut in cuts])
    wrong = [(cut.words, text) for cut, text in zip(cuts, heard, strict=True) if text]
    print(f"rejected {len(cuts) - len(wrong)} of {len(cuts)}; not: {wrong}")  # noqa: T201 figures for -s
    return 1 - len(wrong) / len(cuts)


async def test_whole_sentences_are_understood_among_distractors():
    """Nine in ten sentences are exact under a grammar of all sentences and all their phrases."""
    cuts = [*SENTENCES, *CARDS]
    grammar = ear.any_of(*(cut.words for cut in (*cuts, *PHRASES)))
    assert await _understood(grammar, cuts) >= MOST


async def test_most_hands_are_understood_under_a_grammar_of_cards():
    """Four of five hands are exact where thousands are allowed and nothing tells likely from not."""
    assert await _understood(ear.CARDS, CARDS) >= 4 / 5


async def test_short_phrases_are_understood_among_distractors():
    """Nine in ten phrases of one to seven words, cut out of running speech, are exact."""
    grammar = ear.any_of(*(cut.words for cut in (*PHRASES, *SENTENCES)))
    assert await _understood(grammar, PHRASES) >= MOST


async def test_digits_are_understood_together_and_alone():
    """Strings of digits and single digits cut out of them are exact, all but one at most."""
    assert await _understood(ear.DIGITS, DIGITS) >= 1 - 1 / len(DIGITS)


async def test_what_is_of_no_appointment_is_rejected():
    """Nine in ten off-topic utterances give no text under a grammar of days, times, yes and no."""
    cuts = [*SENTENCES, *PHRASES, *(card for card in CARDS if card.words != "five five")]
    assert len(cuts) >= 40
    assert await _rejected(ear.APPOINTMENT, cuts) >= MOST
