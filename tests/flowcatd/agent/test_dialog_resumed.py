"""A dialog after a break: what is said again, what is not done twice, and what no longer fits."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.agent.brain import CallHook, HangUp, Say
from flowcatd.agent.dialog import APOLOGY, CUT_OFF, DialogBrain
from flowcatd.agent.dialog_file import load_dialog
from flowcatd.agent.position import LINES_KEPT, Position, Snapshot
from tests.flowcatd.agent.phone import Phone

CORPUS = Path(__file__).parents[2] / "corpus" / "dialogs" / "valid"
PHARMACY = load_dialog((CORPUS / "pharmacy.yaml").read_text(), "pharmacy.yaml")
MENU = "Good day. Say hours, or prescription. Or press one or two."


def taken_up(before: Phone, dialog: object = PHARMACY, now: float = 5_000.0) -> Phone:
    """The same call through JSON on another clock, and resumed there."""
    stored = msgspec.json.encode(before.brain.snapshot(before.now))
    snapshot = msgspec.json.decode(stored, type=Snapshot)
    after = Phone(DialogBrain.restore(dialog, snapshot, now, {"caller": "x"}), now=now)
    after.brain.resumed(now)
    return after


def lines(actions: list[object]) -> list[str]:
    """What is said."""
    return [action.text for action in actions if isinstance(action, Say)]


def at(*turns: str, dialog: object = PHARMACY) -> Phone:
    """A call after these turns."""
    phone = Phone(DialogBrain(dialog, {"caller": "x"}))
    phone.start()
    for turn in turns:
        phone.turn(turn)
    return phone


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([], [CUT_OFF, MENU]),
        (["..."], [CUT_OFF, MENU]),
        (["...", "# 1"], [CUT_OFF, "We are open from eight to six."]),
    ],
    ids=["a line cut", "waiting", "another state's line cut"],
)
def test_what_was_being_said_or_asked_is_said_again(turns: list[str], said: list[str]) -> None:
    """Once, after the word that there was a break; and the conversation goes on from there."""
    after = taken_up(at(*turns))
    assert lines(after.drain()) == said
    after.hear_out()
    assert not after.brain.finished


def test_a_second_break_is_excused_once() -> None:
    """The excuse is not among the lines that are said again."""
    again = taken_up(taken_up_and_drained(at("...")))
    assert lines(again.drain()) == [CUT_OFF, MENU]


def taken_up_and_drained(before: Phone) -> Phone:
    """Taken up, and everything it wants on its way."""
    after = taken_up(before)
    after.drain()
    return after


def test_silence_counts_from_new() -> None:
    """Nine of ten seconds were over; after the prompt it is ten again."""
    before = at("...", "~ 9")
    after = taken_up(before)
    after.drain()
    after.hear_out()
    assert after.brain.wake_at() == pytest.approx(after.now + 10)


def test_a_hook_is_not_called_twice_and_counts_as_failed() -> None:
    """Its answer went to the worker that died."""
    before = at("# 2")
    assert before.hooks
    after = taken_up(before)
    actions = after.drain()
    assert not [action for action in actions if isinstance(action, CallHook)]
    assert after.brain.state == "not_ready"
    assert [action.reason for action in actions if isinstance(action, HangUp)] == ["not_ready"]


def test_the_answer_to_a_hook_of_the_dead_worker_means_nothing() -> None:
    """A new worker's first hook has the same number."""
    asking = load_dialog(
        "name: x\ninitial_state: a\nstates:\n  a:\n    on_enter:\n"
        "      - {type: call_hook, params: {url: u}}\n"
        "      - {type: play_tts, params: {text: One moment.}}\n"
        "    transitions: [{event: hook_result, target: b}]\n    timeout: 9s\n"
        "    timeout_next: b\n  b: {terminal: true}\n",
        "x.yaml",
    )
    before = at(dialog=asking)
    (hook,) = before.hooks
    after = taken_up(before, asking)
    assert lines(after.drain()) == [CUT_OFF, "One moment."]
    after.brain.hook_result(hook, {}, after.now)
    assert after.drain() == []


def test_a_goodbye_that_was_cut_is_said_again_before_the_end() -> None:
    """With the reason it had, and without an excuse."""
    before = at("...", "# 2", "! {}")
    assert before.brain.finished
    last = taken_up(before).drain()
    assert lines(last) == ["It is not ready yet. Goodbye."]
    assert last[-1] == HangUp("not_ready")


def test_what_had_been_heard_is_not_said_again() -> None:
    """A goodbye heard to its end: only the hanging up is left."""
    before = at("...", "# 2", "! {}", "...")
    assert taken_up(before).drain() == [HangUp("not_ready")]


def test_a_dialog_in_another_language_just_says_its_prompt_again() -> None:
    """An English excuse in a German voice helps nobody."""
    german = load_dialog(
        "name: x\nlanguage: de-DE\ninitial_state: a\nstates:\n  a:\n    on_enter:\n"
        '      - {type: play_tts, params: {text: "Ja oder nein?"}}\n'
        '    transitions: [{digits: "1", target: b}]\n    timeout: 9s\n    timeout_next: b\n'
        "  b: {terminal: true}\n",
        "x.yaml",
    )
    after = taken_up(at("...", dialog=german), german)
    assert lines(after.drain()) == ["Ja oder nein?"]


def test_a_dialog_that_changed_begins_again_with_what_it_knew() -> None:
    """The state is gone: the first state is entered, the variables are there."""
    brain = DialogBrain.anew(PHARMACY, {"caller_name": "Ann"}, {"caller": "x"})
    brain.resumed(7.0)
    phone = Phone(brain, now=7.0)
    assert lines(phone.drain()) == [CUT_OFF, MENU]
    assert brain.state == "menu"
    assert brain.variables()["caller_name"] == "Ann"


def test_an_apology_is_what_is_left_of_a_dialog_at_fault() -> None:
    """What it said before is not said again, the apology is."""
    looping = load_dialog(
        "name: x\ninitial_state: a\nstates:\n  a:\n    on_enter:\n"
        "      - {type: play_tts, params: {text: One.}}\n"
        '    transitions: [{digits: "1", target: "b"}]\n    timeout: 9s\n    timeout_next: b\n'
        "  b:\n    on_enter: [{type: play_tts, params: {text: Two.}}]\n"
        "    transitions: [{event: enter, target: c}]\n"
        "  c:\n    transitions: [{event: enter, target: b}]\n",
        "x.yaml",
    )
    before = at("# 1", dialog=looping)
    assert before.brain.finished
    assert lines(taken_up(before, looping).drain()) == [APOLOGY]


@given(st.lists(st.text(max_size=5), max_size=3 * LINES_KEPT))
def test_lines_remembered_are_bounded_and_the_latest(texts: list[str]) -> None:
    """And none is left once all was heard."""
    position = Position()
    for text in texts:
        position.say(Say(text))
    assert [line.text for line in position.saying] == texts[-LINES_KEPT:]
    position.said()
    assert position.saying == []
