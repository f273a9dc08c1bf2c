"""Operators' rows are read strictly: each mistake is named with its file, key and nearest name."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import ConfigError
from flowcatd.providers.row import Row, load_rows

GOOD = """
[[tts]]
name = "espeak-scots"
dialect = "espeak"
voice = "en-gb-scotland"
rate_hz = 22050
options = { words_per_minute = "150" }

[[stt]]
name = "second-ear"
dialect = "sphinx"
"""


def test_rows_are_read():
    """Both kinds stand in one file."""
    scots, ear = load_rows(GOOD, "a.toml")
    assert scots == Row(
        kind="tts",
        name="espeak-scots",
        dialect="espeak",
        voice="en-gb-scotland",
        rate_hz=22_050,
        options={"words_per_minute": "150"},
    )
    assert (ear.kind, ear.name, ear.rate_hz) == ("stt", "second-ear", 16_000)


BASE = '[[tts]]\nname = "x"\ndialect = "flite"\nvoice = "slt"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[tts", "not TOML"),
        ("[[tss]]\n", "did you mean 'tts'"),
        ("tts = 3\n", "rows stand under"),
        (BASE + "voicee = 1\n", "did you mean 'voice'"),
        (BASE + "rate_hz = true\n", "whole number"),
        (BASE + 'rate_hz = "8000"\n', "whole number"),
        (BASE + "rate_hz = 12345\n", "must be one of"),
        (BASE + "docs = 3\n", "must be a string"),
        (BASE + "options = 3\n", "table of strings"),
        (BASE + "options = { a = 3 }\n", "are strings"),
        (BASE + 'options = { a = "3" }\n', "no option of flite"),
        (BASE + BASE, "twice"),
        ('[[tts]]\nname = "x"\n', "is missing"),
        ('[[tts]]\ndialect = "flite"\n', "is missing"),
        ('[[tts]]\nname = "x"\ndialect = "flite"\n', "flite needs it"),
        ('[[tts]]\nname = "x"\ndialect = "flit"\n', "did you mean 'flite'"),
        ('[[tts]]\nname = "x"\ndialect = "sphinx"\n', "no tts dialect"),
        ('[[tts]]\nname = "auto"\ndialect = "flite"\nvoice = "slt"\n', "a name is"),
        ('[[tts]]\nname = "No Such"\ndialect = "flite"\nvoice = "slt"\n', "a name is"),
    ],
)
def test_a_mistake_is_refused_and_named(text, says):
    """The error names the file and says what is wrong; nothing is skipped."""
    with pytest.raises(ConfigError, match=says) as caught:
        load_rows(text, "providers.d/mine.toml")
    assert caught.value.where == "providers.d/mine.toml"


@given(st.text(max_size=200))
def test_any_text_is_rows_or_a_config_error(text):
    """Rubbish never escapes as another error."""
    with contextlib.suppress(ConfigError):
        assert all(isinstance(row, Row) for row in load_rows(text, "x"))


def test_a_row_has_at_most_sixteen_columns():
    """A row that wants more wants a dialect."""
    assert len(dataclasses.fields(Row)) <= 16


@pytest.mark.parametrize("value", ["loud", "nan", "21", ""])
def test_an_option_that_is_a_number_is_one_within_its_range(value):
    """A gain that is none is refused with its key, before a call asks for it."""
    text = f'[[tts]]\nname = "a"\ndialect = "flite"\nvoice = "slt"\noptions = {{gain_db = "{value}"}}\n'
    with pytest.raises(ConfigError, match=r"gain_db.*between -40 and 20"):
        load_rows(text, "rows.toml")
