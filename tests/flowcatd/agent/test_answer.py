"""Facts about the actions that a hook's answer may ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.agent.answer import MAX_STEPS, steps_of
from flowcatd.agent.script import Kind
from flowcatd.agent.template import Scope


def test_an_action_is_taken_with_its_texts_as_they_are():
    """Nothing in it is a template."""
    (step,) = steps_of([{"type": "play_tts", "params": {"text": "{{ .Event }}", "n": 3}}])
    assert step.kind is Kind.PLAY_TTS
    assert {name: value.render(Scope()) for name, value in step.params.items()} == {
        "text": "{{ .Event }}",
        "n": "3",
    }


@pytest.mark.parametrize(
    "item",
    [
        "play_tts",
        {},
        {"type": "shout"},
        {"type": ["x"]},
        {"type": "play_tts"},
        {"type": "transfer", "params": []},
    ],
)
def test_what_is_no_action_is_left_out(item):
    """Unknown kinds, and those that lack what they need."""
    assert steps_of([item, {"type": "hangup"}])[0].kind is Kind.HANGUP


def test_sixteen_actions_are_taken():
    """The rest of a long answer is left out."""
    assert len(steps_of([{"type": "hangup"}] * 50)) == MAX_STEPS


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.sampled_from(["type", "params", "play_tts", "hangup"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "params", "text"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_answer_gives_actions(answer):
    """Whatever came, there is a list of known actions."""
    assert all(step.kind in Kind for step in steps_of(answer))
