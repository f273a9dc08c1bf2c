"""Facts about dialog files: what they become, and every message about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.agent.dialog_file import DEFAULT_TIMEOUT, check_dialog, load_dialog, read_dialog
from flowcatd.agent.script import STAY, Event, Kind
from flowcatd.errors import ConfigError

CORPUS = Path(__file__).parents[2] / "corpus" / "dialogs"
FILES = sorted(CORPUS.glob("*/*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_gets_exactly_its_messages(path):
    """Errors and remarks, with file, line, key, what is allowed and the nearest name."""
    reading = read_dialog(path.read_text(), path.name)
    said = [str(error) for error in reading.errors]
    said += [f"remark: {warning}" for warning in reading.warnings]
    assert said == path.with_suffix(".txt").read_text().splitlines()
    assert (reading.dialog is None) is (path.parent.name == "invalid")


def test_the_corpus_is_there():
    """Both kinds of files exist, so that the test above has something to read."""
    assert {path.parent.name for path in FILES} == {"valid", "invalid"}
    assert len(FILES) >= 13


def test_loading_raises_the_first_error():
    """The one on the lowest line."""
    with pytest.raises(ConfigError) as caught:
        load_dialog("name: x\nstats: {}\n", "x.yaml")
    assert str(caught.value) == "x.yaml:1: initial_state: missing"
    assert len(check_dialog("name: x\nstats: {}\n", "x.yaml")) == 3


def test_a_file_of_voicetyped_is_taken_as_it_is():
    """Every key of its format arrives where it belongs."""
    dialog = load_dialog((CORPUS / "valid" / "pharmacy.yaml").read_text(), "pharmacy.yaml")
    assert (dialog.name, dialog.version, dialog.initial_state) == ("pharmacy-line", "1.0", "menu")
    assert dialog.variables == {"caller_name": "", "choice": ""}
    menu = dialog.states["menu"]
    assert (menu.timeout, menu.timeout_next, menu.terminal, menu.barge_in) == (
        10.0,
        "nobody",
        False,
        True,
    )
    assert [move.target for move in menu.moves[Event.SPEECH]] == ["hours", "look_up"]
    assert [step.kind for step in dialog.states["look_up"].on_enter] == [Kind.CALL_HOOK]
    assert dialog.states["ready"].terminal


def test_what_plain_conditions_wait_for_becomes_the_grammar():
    """A state of voicetyped's format needs no `hears` to be heard by a grammar."""
    dialog = load_dialog((CORPUS / "valid" / "pharmacy.yaml").read_text(), "pharmacy.yaml")
    grammar = dialog.states["menu"].hearing.grammar
    assert "<p0> = hours;" in grammar
    assert "prescription" in grammar
    assert dialog.states["menu"].hearing.hints == ("hours", "prescription")


HEAD = "name: x\ninitial_state: a\nvocabulary: {day: {Mon: monday}}\nstates:\n  b: {terminal: true}\n  a:\n"


def state_a(body):
    """Load a dialog whose state `a` has this body, one line per item."""
    return load_dialog(HEAD + "".join(f"    {line}\n" for line in body), "x.yaml").states["a"]


@pytest.mark.parametrize(
    "transition",
    [
        "{event: speech, target: b}",
        "{event: speech, condition: '{{ .Variables.x }}', target: b}",
        "{event: speech, condition: '{{ eq .Event \"yes\" }}', target: b}, {event: speech, target: b}",
    ],
)
def test_a_condition_that_tells_nothing_listens_openly(transition):
    """One transition that could take anything is enough."""
    assert state_a([f"transitions: [{transition}]"]).hearing.grammar == ""


def test_patterns_that_are_too_many_together_are_refused():
    """The matcher of one state is bounded."""
    hears = ", ".join(f'"{"... " * 100}x{number}"' for number in range(90))
    with pytest.raises(ConfigError, match="too many"):
        state_a([f"transitions: [{{hears: [{hears}], target: b}}]"])


def test_states_that_hear_the_same_share_one_hearing():
    """So that the player tells the recogniser only about changes."""
    dialog = load_dialog(
        HEAD.replace("  b:", "  c: {transitions: [{hears: yes please, target: b}]}\n  b:")
        + "    transitions: [{hears: yes please, target: b}, {digits: '1', target: c}]\n",
        "x.yaml",
    )
    assert dialog.states["a"].hearing is dialog.states["c"].hearing


def test_phrases_and_keys_in_one_transition_are_two():
    """The event follows from what is waited for."""
    moves = state_a(["transitions: [{hears: yes, digits: '1', target: b}]"]).moves
    assert [(event, len(listed)) for event, listed in moves.items()] == [
        (Event.SPEECH, 1),
        (Event.DTMF, 1),
    ]


@pytest.mark.parametrize("target", [".", "repeat"])
def test_a_transition_can_stay(target):
    """By a dot, or by the word."""
    moves = state_a(
        [f"transitions: [{{event: dtmf, target: {target}}}, {{event: speech, target: b}}]"]
    ).moves
    assert moves[Event.DTMF][0].target == STAY


def test_a_state_called_repeat_is_a_state():
    """Older files come first."""
    text = HEAD.replace("b:", "repeat:") + "    transitions: [{event: dtmf, target: repeat}]\n"
    assert load_dialog(text, "x.yaml").states["a"].moves[Event.DTMF][0].target == "repeat"


def test_reprompts_bring_a_timeout():
    """A state that asks again needs to notice silence."""
    state = state_a(["reprompt: {no_input: Hello, give_up: b}"])
    assert state.timeout == DEFAULT_TIMEOUT


def test_what_holds_anywhere_comes_after_the_states_own():
    """And not in terminal states."""
    text = HEAD.replace("states:", "anywhere: [{event: dtmf, target: b}]\nstates:")
    dialog = load_dialog(text + "    transitions: [{event: dtmf, target: .}]\n", "x.yaml")
    assert [move.target for move in dialog.states["a"].moves[Event.DTMF]] == [STAY, "b"]
    assert dialog.states["b"].moves == {}


KEYS = st.sampled_from(
    ["name", "states", "initial_state", "anywhere", "vocabulary", "variables", "on_enter", "transitions", "event",
     "target", "hears", "digits", "keypad", "set", "timeout", "reprompt", "give_up", "no_input", "type", "params",
     "condition", "terminal", "a", "day", "text"]
)  # fmt: skip
SCALARS = st.sampled_from(
    [
        "a",
        "speech",
        "dtmf",
        "play_tts",
        "call_hook",
        "{{ .Event }}",
        "<day> please",
        "[0-9]{4}",
        "5s",
        "",
        "true",
        ".",
    ]
)


@given(
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
        max_leaves=25,
    )
)
def test_any_document_is_a_dialog_or_has_errors(value):
    """Whatever the shape, nothing but a ConfigError is raised; JSON is YAML too."""
    import json

    reading = read_dialog(json.dumps(value), "x.yaml")
    assert (reading.dialog is None) is bool(reading.errors)
