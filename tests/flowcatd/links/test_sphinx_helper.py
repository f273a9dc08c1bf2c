"""The recogniser's own arithmetic: grammars, guessed words, voicing, and the telephone's band."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pocketsphinx", reason="the `speech` extra is not installed")

from flowcatd.links.sphinx_helper import PHONES, garbage_grammar, grammar_words, guess
from flowcatd.links.sphinx_sound import Gate, Narrow, is_voiced, levels


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


def _heard(samples: np.ndarray) -> np.ndarray:
    narrow = Narrow()
    return np.frombuffer(narrow.push(_pcm(samples)) + narrow.flush(), "<i2")


def test_the_band_ends_where_the_telephone_ends():
    """3 kHz passes unchanged, 5 kHz is gone."""
    low, high = (_heard(_tone(hertz))[200:] for hertz in (3_000, 5_000))
    assert np.abs(low).max() == pytest.approx(5_000, rel=0.02)
    assert np.abs(high).max() < 10


@given(st.floats(0.02, 0.25))
def test_quiet_lines_are_brought_to_one_level(share):
    """Whether a tone is 12 dB below the usual or 34, it leaves equally loud."""
    quiet, other = _heard(share * _tone(1_000)), _heard(0.25 * _tone(1_000))
    assert quiet[200:].std() == pytest.approx(other[200:].std(), rel=0.02)


def test_only_a_noisy_line_has_a_gate():
    """A floor 50 dB under the speech needs none; one 20 dB under it gets one below the speech."""
    noise = np.random.default_rng(3).normal(0, 1, 9_600)
    speech = np.concatenate([np.zeros(4_800), _tone(300)[:4_800]])
    assert levels(speech + 10 * noise)[1] is None
    quiet = levels(speech + 350 * noise)[1]
    assert quiet is not None
    threshold, hushed = quiet
    assert 350**2 < threshold < (5_000**2 / 2) / 10
    assert hushed < 0.1


def test_a_gate_turns_pauses_down_and_leaves_speech():
    """What is loud passes unchanged; noise 40 ms away from it is multiplied by `hushed`."""
    noise = np.random.default_rng(3).normal(0, 100, 9_600)
    samples = np.concatenate([noise, _tone(300), noise])
    gate = Gate(200.0**2, 0.01)
    out = np.concatenate([gate.push(samples), gate.flush()])
    assert len(out) == len(samples)
    assert np.array_equal(out[9_600:17_600], samples[9_600:17_600])
    assert out[:8_000] == pytest.approx(0.01 * samples[:8_000])


@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=12), st.sampled_from([5, 400]))
def test_the_cut_does_not_matter(sizes, noise):
    """The same samples come out, as many as went in, however they are pushed."""
    count = sum(sizes)
    samples = np.random.default_rng(2).normal(0, noise, count)
    samples[count // 3 :: 2] += 3_000
    whole, pieces, at = Narrow(), Narrow(), 0
    out = []
    pcm = _pcm(samples)
    for size in sizes:
        out.append(pieces.push(pcm[2 * at : 2 * (at + size)]))
        at += size
    out.append(pieces.flush())
    assert b"".join(out) == whole.push(pcm) + whole.flush()
    assert len(b"".join(out)) == len(pcm)


def test_the_second_look_has_no_garbage_to_prefer():
    """Its grammar keeps the path for noise: a cough must not become the nearest sentence."""
    first, second = (garbage_grammar(BODY, garbage=wanted) for wanted in (True, False))
    assert "<gxany>+" in first
    assert "<gxany>+" not in second
    assert all("<gxnoise>+" in grammar for grammar in (first, second))
    assert all(grammar.count("public ") == 1 for grammar in (first, second))


BODY = "public <utterance> = yes | no;\n"
