"""The catalogue: names, `auto`, and rows of an operator's own."""

from __future__ import annotations

import pytest

from flowcatd.errors import ConfigError
from flowcatd.providers.catalogue import PREFERRED, Catalogue
from flowcatd.providers.row import load_rows


def test_a_name_that_is_not_there_is_met_by_the_nearest():
    """The error names where it was asked for, the nearest row and all rows."""
    with pytest.raises(ConfigError, match=r"did you mean 'flite-slt'.*espeak-ng") as caught:
        Catalogue().find("tts", "flite-slp", where="flowcatd.toml")
    assert caught.value.where == "flowcatd.toml"


@pytest.mark.parametrize(
    ("runnable", "chosen"),
    [
        ({"flite", "espeak"}, "flite-slt"),
        ({"espeak", "sphinx"}, "espeak-ng"),
        ({"sphinx"}, None),
    ],
)
def test_auto_takes_the_best_that_runs(runnable, chosen):
    """The best is flite where it is, else espeak-ng, else nothing."""
    row = Catalogue().choose("tts", "auto", runnable=runnable, where="x")
    assert (row.name if row else None) == chosen


def test_none_is_none_and_a_name_is_taken_at_its_word():
    """A named row is chosen whether it runs here or not: the link says why it cannot."""
    catalogue = Catalogue()
    assert catalogue.choose("stt", "none", runnable={"sphinx"}, where="x") is None
    row = catalogue.choose("tts", "flite-awb", runnable=(), where="x")
    assert row is not None
    assert row.voice == "awb"


def test_an_operators_row_is_found_and_listed():
    """It stands beside ours, under its own name."""
    rows = load_rows('[[tts]]\nname = "mine"\ndialect = "flite"\nvoice = "rms"\n', "a.toml")
    catalogue = Catalogue(rows)
    assert catalogue.find("tts", "mine", where="x") == rows[0]
    assert rows[0] in catalogue.listing()


def test_an_operators_row_takes_no_name_of_ours():
    """The shipped rows mean the same on every machine."""
    rows = load_rows('[[tts]]\nname = "flite-slt"\ndialect = "flite"\nvoice = "rms"\n', "a.toml")
    with pytest.raises(ConfigError, match="taken") as caught:
        Catalogue(rows, "a.toml")
    assert caught.value.where == "a.toml"


def test_what_is_preferred_exists():
    """`auto` names rows that are there, of the right kind."""
    catalogue = Catalogue()
    for kind, names in PREFERRED.items():
        assert [catalogue.find(kind, name, where="x").kind for name in names] == [kind] * len(names)
