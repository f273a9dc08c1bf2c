"""Facts about the grammars and hints for recognisers."""

from __future__ import annotations

import re

import pytest

from flowcatd.agent.grammar import MAX_HINTS, hints, jsgf
from flowcatd.agent.phrase import Form, Word, parse_phrase

VOCABULARY = {
    "day": (Form("Mon", (Word("monday"),)), Form("Tue", (Word("tuesday"),))),
    "time": (Form("9", (parse_phrase("nine [o'clock]", None),)),),
}


def trees(*patterns):
    """Parse patterns."""
    return [parse_phrase(pattern, VOCABULARY) for pattern in patterns]


def test_a_grammar_has_a_rule_per_pattern_and_vocabulary():
    """One public rule refers to all of them; the same pattern is written once."""
    assert jsgf(trees("[on] <day> (at | for) <time>", "yes", "yes"), VOCABULARY) == (
        "public <utterance> = <p0> | <p1>;\n"
        "<p0> = [on] <v_day> (at | for) <v_time>;\n"
        "<p1> = yes;\n"
        "<v_day> = monday | tuesday;\n"
        "<v_time> = nine [o'clock];"
    )


def test_any_words_become_fillers():
    """A grammar cannot say "anything" but a few words that mean nothing."""
    text = jsgf(trees("... billing"), VOCABULARY)
    assert "<p0> = [<filler> [<filler>]] billing;" in text
    assert "<filler> = uh | um |" in text


def test_no_pattern_is_no_grammar():
    """An empty grammar means that anything can be said."""
    assert jsgf([], VOCABULARY) == ""


def test_every_rule_that_is_used_is_defined():
    """The grammar is complete in itself."""
    text = jsgf(trees("<day> at <time> ...", "no"), VOCABULARY)
    defined = set(re.findall(r"^(?:public )?<(\w+)> =", text, re.MULTILINE))
    assert set(re.findall(r"<(\w+)>", text)) == defined


def test_hints_name_spoken_forms_first():
    """Then the words of the patterns, each once, and not more than a vendor takes."""
    assert hints(trees("on <day>", "on <time>"), VOCABULARY) == (
        "monday", "tuesday", "nine o'clock", "nine", "on",
    )  # fmt: skip
    many = [Word(f"w{number}") for number in range(500)]
    assert len(hints(many, VOCABULARY)) == MAX_HINTS


def test_pocketsphinx_understands_the_grammar():
    """The recogniser that is shipped accepts alternatives, groups, options and apostrophes."""
    pocketsphinx = pytest.importorskip("pocketsphinx")
    decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL")
    body = jsgf(trees("[on] <day> (at | for) <time>", "... yes ..."), VOCABULARY)
    decoder.add_jsgf_string("ours", f"#JSGF V1.0;\ngrammar ours;\n{body}")
    decoder.activate_search("ours")
    assert decoder.current_search() == "ours"
