"""Templates write messages and tell where the values stand in them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.carriers.message import (
    Slot,
    at,
    fill,
    find,
    read_object,
    read_parameters,
    render,
    write_parameters,
)
from flowcatd.errors import CarrierError

TREES = st.recursive(
    st.sampled_from(Slot) | st.integers(-9, 9) | st.text(max_size=5) | st.just([1, "two"]),
    lambda below: st.dictionaries(st.text(max_size=4), below, max_size=4),
    max_leaves=10,
)
OBJECTS = st.dictionaries(st.text(max_size=4), st.integers() | st.text(), max_size=4).map(
    json.dumps
)
TEMPLATES = st.dictionaries(st.text(max_size=4), TREES, max_size=4)


@given(template=TEMPLATES, known=st.sets(st.sampled_from(Slot)))
def test_what_is_rendered_is_found_again(template, known):
    """Round-trip law: whatever is filled early and late, each slot's value stands at its path."""
    values = {slot: f"{slot} \"'\\ü" for slot in Slot}
    early = {slot: values[slot] for slot in known}
    message = json.loads(fill(render(template, early), values))
    for slot in Slot:
        path = find(template, slot)
        assert at(message, path) == (None if path is None else values[slot])


def test_open_slots_stand_between_joined_text():
    """The shape the fast path relies on: literal, slot, literal."""
    template = {"event": "media", "id": Slot.STREAM, "media": {"payload": Slot.PAYLOAD}}
    assert render(template, {Slot.STREAM: "s"}) == (
        b'{"event":"media","id":"s","media":{"payload":',
        Slot.PAYLOAD,
        b"}}",
    )


def test_a_path_that_leaves_the_message_leads_nowhere():
    """Whatever stands in the way."""
    for message in ({}, {"a": 5}, {"a": ["b"]}, {"a": None}, [], "a", None):
        assert at(message, ("a", "b")) is None


@given(
    st.dictionaries(
        st.text("abcXYZ019", min_size=1, max_size=8), st.text("abcXYZ019", max_size=8), max_size=5
    )
)
def test_parameters_survive_as_one_text(parameters):
    """Within the characters that Plivo allows in extra headers."""
    assert read_parameters(write_parameters(parameters)) == parameters


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=4))
def test_no_parameters_can_end_a_call(value):
    """What cannot be understood is nothing, and what is understood is text."""
    for name, text in read_parameters(value).items():
        assert isinstance(name, str)
        assert isinstance(text, str)


@given(st.text() | st.binary() | OBJECTS)
def test_any_text_is_an_object_or_an_error(text):
    """Garbage law of the reader, against the standard library's idea of JSON."""
    try:
        expected = json.loads(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError):
        expected = None
    if isinstance(expected, dict):
        assert read_object(text) == expected
    else:
        with pytest.raises(CarrierError) as caught:
            read_object(text)
        assert caught.value.close_code == 1007


def test_a_lone_surrogate_is_not_json():
    """Text that has no bytes."""
    with pytest.raises(CarrierError):
        read_object('"\ud800"')
