"""Facts about dialogs as a whole; the messages stand in tests/corpus/dialogs."""

from __future__ import annotations

from flowcatd.agent.dialog_file import load_dialog, read_dialog
from flowcatd.agent.survey import reachable

TEXT = """
name: x
initial_state: a
states:
  a: {{transitions: [{{event: speech, target: b}}], timeout: 5s, timeout_next: c}}
  b: {{on_enter: [{{type: {action}, params: {{}}}}], transitions: [{{event: hook_error, target: c}}]}}
  c: {{terminal: true}}
{more}
"""


def test_reachable_follows_every_way():
    """Transitions, timeouts and the end of patience."""
    dialog = load_dialog(
        "name: x\ninitial_state: a\nstates:\n"
        "  a: {transitions: [{event: speech, target: b}], timeout: 5s, timeout_next: c}\n"
        "  b: {reprompt: {no_input: Hello, give_up: d}}\n  c: {terminal: true}\n  d: {terminal: true}\n".replace(
            "Hello?", "Hello"
        ),
        "x.yaml",
    )
    assert reachable(dialog) == {"a", "b", "c", "d"}


def test_a_hook_may_lead_to_a_state_no_transition_names():
    """Then it is a remark; without hooks an error."""
    island = "  island: {terminal: true}"
    with_hook = read_dialog(TEXT.format(action="call_hook", more=island), "x.yaml")
    without = read_dialog(TEXT.format(action="set_variable", more=island), "x.yaml")
    problem = "no transition leads to this state"
    assert (with_hook.errors, [note.problem for note in with_hook.warnings]) == ([], [problem])
    assert [error.problem for error in without.errors] == [problem]


def test_a_state_that_waits_for_a_hook_alone_is_no_dead_end():
    """The hook's answer may name the next state."""
    text = "name: x\ninitial_state: a\nstates:\n  a: {on_enter: [{type: call_hook, params: {url: u}}]}\n"
    assert read_dialog(text, "x.yaml").errors == []


def test_a_hook_that_may_fail_unnoticed_is_remarked_upon():
    """A state that waits for the result should wait for the error, too."""
    text = (
        "name: x\ninitial_state: a\nstates:\n  b: {terminal: true}\n"
        "  a: {on_enter: [{type: call_hook, params: {url: u}}], transitions: [{event: hook_result, target: b}]}\n"
    )
    notes = [note.problem for note in read_dialog(text, "x.yaml").warnings]
    assert notes == ["a hook that fails is not noticed: add a hook_error transition"]
