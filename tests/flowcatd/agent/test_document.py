"""Facts about reading YAML with its lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.agent.document import MAX_TEXT, Document


def read(text):
    """Give the document's findings and the top mapping."""
    document = Document("x.yaml")
    root = document.compose(text)
    return document, {} if root is None else document.mapping(root, "")


def test_scalars_are_taken_as_written():
    """No is a word here, and 9:30 no number."""
    document, top = read("a: no\nb: 9:30\nc: 1.0\nd: ~\n")
    assert [document.text(top[key], key) for key in "abcd"] == ["no", "9:30", "1.0", ""]
    assert document.errors == []


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("Yes", True), ("off", False), ("false", False)]
)
def test_truths_are_read_as_yaml_writes_them(text, value):
    """In the words of YAML 1.1, which Go accepts too."""
    document, top = read(f"a: {text}")
    assert document.truth(top["a"], "a") is value


def test_merged_keys_come_after_own_ones():
    """`<<` takes over what is not written, through several steps."""
    document, top = read("a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, z: 3}\n")
    found = document.mapping(top["c"], "c")
    assert {key: node.value for key, node in found.items()} == {"x": "1", "y": "2", "z": "3"}
    assert document.errors == []


def test_a_mapping_that_merges_itself_is_refused():
    """The reader does not follow it for ever."""
    document, top = read("a: &a\n  <<: *a\n  x: 1\n")
    document.mapping(top["a"], "a")
    assert [error.problem for error in document.errors] == ["'<<' wants one mapping to take over"]


def test_a_repeated_key_is_named_with_its_line():
    """YAML readers often keep the last one in silence."""
    document, _ = read("a: 1\nb: 2\na: 3\n")
    assert [str(error) for error in document.errors] == ["x.yaml:3: a: this key stands here twice"]


def test_a_text_may_stand_for_a_list_of_one():
    """And a list holds texts, the empty ones left out."""
    document, top = read("a: one\nb: [one, two, '']\n")
    assert [text for text, _ in document.texts(top["a"], "a")] == ["one"]
    assert [text for text, _ in document.texts(top["b"], "b")] == ["one", "two"]


def test_nothing_is_an_empty_collection():
    """A key without a value stands for no items."""
    document, top = read("a:\n")
    assert (document.mapping(top["a"], "a"), document.sequence(top["a"], "a")) == ({}, [])
    assert document.errors == []


def test_a_huge_file_is_not_read():
    """The size is looked at first."""
    document, _ = read("a: " + "x" * MAX_TEXT)
    assert len(document.errors) == 1


@given(st.text(st.sampled_from("ab:-[]{}&*<>|?!%@'\"\n #,~"), max_size=60) | st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    """Nothing is raised; without a mapping there is an error."""
    document = Document("x.yaml")
    assert document.compose(text) is not None or document.errors
