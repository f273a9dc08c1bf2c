"""Regular expressions mean the same on every Python that we run on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flowcatd.sip.uri import parse_uri

ROOT = Path(__file__).parents[3]
POSSESSIVE_GROUP = re.compile(r"\)(?:[?*+]|\{[0-9,{}]+\})\+")


@pytest.mark.parametrize("package", ["flowcatd", "workers", "supervisor"])
def test_no_group_is_repeated_possessively(package: str) -> None:
    """Python before 3.11.5, Debian 12's too, mismatches such groups (gh-100061); `(?>…)` is right."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = [path.name for path in files if POSSESSIVE_GROUP.search(path.read_text("utf-8"))]
    assert found == []


def test_the_look_finds_one() -> None:
    """In each way that one can be written."""
    for pattern in ("(?:a)?+", "(a)*+", "(a|b)++", "(a){1,5}+", "(a){{1,5}}+"):
        assert POSSESSIVE_GROUP.search(pattern)
    for pattern in ("[a]*+", "a?+", "(?>(?:a)*)", "(a)+"):
        assert not POSSESSIVE_GROUP.search(pattern)


def test_a_uri_without_user_port_parameters_and_headers_is_one() -> None:
    """What those versions did not take."""
    assert parse_uri("sip:r.example").host == "r.example"
    assert parse_uri("sip:x:@r.example:5070;lr?a=b").port == 5070
