"""Facts about the settings' types: complete, explained, frozen, and silent about secrets."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from typing import get_type_hints

import pytest

from flowcatd import options
from flowcatd.options import Between, OneOf, Options, Secret

SECTIONS = list(get_type_hints(Options).values())


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_says_what_it_means(section):
    """Under each field stands a sentence."""
    (node,) = ast.parse(inspect.getsource(section)).body
    pairs = zip(node.body, node.body[1:], strict=False)
    explained = {
        field.target.id
        for field, doc in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr)
    }
    assert explained == {field.name for field in dataclasses.fields(section)}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_default_is_allowed(section):
    """No built-in value would be refused if somebody wrote it down."""
    hints = get_type_hints(section, include_extras=True)
    for name, value in dataclasses.asdict(section()).items():
        for limit in getattr(hints[name], "__metadata__", ()):
            assert limit.refusal(value) == "", name


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_named_after_itself(section):
    """[server] is `Server`, and so on, so that the file and the types read alike."""
    assert f"[{section.__name__.lower()}]" in section.__doc__


def test_a_secret_has_no_text_form():
    """Neither str, repr, f-string nor the whole configuration shows a reference."""
    secret = Secret("file:/somewhere")
    shown = f"{secret} {secret!r} {Options(server=options.Server(token=secret))}"
    assert "somewhere" not in shown
    assert shown.count("•••") == 4


def test_only_a_reference_makes_a_secret_true():
    """No reference, no secret."""
    assert Secret("env:X")
    assert not Secret()


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        (Between(1, 5), 1, ""),
        (Between(1, 5), 5.0, ""),
        (Between(1, 1_000_000), 0, "must lie between 1 and 1000000"),
        (Between(0.1, 5), float("nan"), "must lie between 0.1 and 5"),
        (OneOf(("a", "b")), "b", ""),
        (OneOf(("a", "b")), "c", "must be one of a, b"),
    ],
)
def test_a_limit_says_what_is_allowed(limit, value, said):
    """The sentence is empty exactly when the value is allowed."""
    assert limit.refusal(value) == said
