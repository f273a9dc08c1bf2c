"""The recogniser's own arithmetic: grammars, guessed words, voicing, and the telephone's band."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pocketsphinx", reason="the `speech` extra is not installed")

from flowcatd.links.sphinx_helper import (
    PHONES,
    Narrow,
    garbage_grammar,
    grammar_words,
    guess,
    is_voiced,
)


def test_a_grammar_has_one_public_rule():
    """The body's rule is reached through ours, in small letters, and rule names stay as they are."""
    grammar = garbage_grammar("public <utterance> = On <theDay>; <theDay> = Monday;")
    assert grammar.count("public") == 1
    assert "<utterance> = on <theDay>; <theDay> = monday;" in grammar


def test_the_words_of_a_grammar_are_found():
    """Weights, tags, rules and signs are no words."""
    body = 'public <utterance> = /0.5/ On ( monday | "o\'clock" ) {tag} [ please ]* | <rest>;'
    assert grammar_words(body) == {"on", "monday", "o'clock", "please"}


@given(st.text(min_size=1, max_size=40))
def test_any_word_can_be_guessed(word):
    """A guess is never empty and made of the model's phones only."""
    phones = guess(word.lower()).split()
    assert phones
    assert set(phones) <= set(PHONES)


def _tone(hertz: float, seconds: float = 0.5) -> np.ndarray:
    return 5_000 * np.sin(2 * np.pi * hertz * np.arange(int(16_000 * seconds)) / 16_000)


def _pcm(samples: np.ndarray) -> bytes:
    return samples.clip(-32_768, 32_767).astype("<i2").tobytes()


@pytest.mark.parametrize("hertz", [80, 120, 200, 350])
def test_a_pitch_is_voiced(hertz):
    """What repeats at the pitch of a voice can be a vowel."""
    assert is_voiced(_pcm(_tone(hertz) + _tone(3 * hertz)))


def test_noise_silence_and_nothing_are_not_voiced():
    """Hiss, digital silence, a click and an empty utterance hold no vowel."""
    hiss = np.random.default_rng(1).normal(0, 3_000, 16_000)
    click = np.zeros(16_000)
    click[8_000:8_040] = 20_000
    assert [is_voiced(_pcm(each)) for each in (hiss, np.zeros(16_000), click, hiss[:0])] == [
        False
    ] * 4


def test_the_band_ends_where_the_telephone_ends():
    """3 kHz passes unchanged, 5 kHz is gone."""
    low = np.frombuffer(Narrow().push(_pcm(_tone(3_000))), "<i2")[200:]
    high = np.frombuffer(Narrow().push(_pcm(_tone(5_000))), "<i2")[200:]
    assert np.abs(low).max() == pytest.approx(5_000, rel=0.02)
    assert np.abs(high).max() < 10


@given(st.lists(st.integers(1, 700), min_size=1, max_size=8))
def test_the_cut_does_not_matter(sizes):
    """The same samples come out, as many as went in, however they are pushed."""
    samples = np.random.default_rng(2).normal(0, 3_000, sum(sizes)).astype("<i2")
    whole, pieces, at = Narrow(), Narrow(), 0
    out = []
    for size in sizes:
        out.append(pieces.push(samples[at : at + size].tobytes()))
        at += size
    assert b"".join(out) == whole.push(samples.tobytes())
