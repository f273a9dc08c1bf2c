"""Facts about the shipped agent, conf/agents/appointment.yaml: every way through it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcatd.agent.brain import HangUp, Listen, Moved, Say
from flowcatd.agent.dialog import DialogBrain
from flowcatd.agent.dialog_file import read_dialog
from flowcatd.agent.phrase import sample, words_in, words_of
from flowcatd.agent.position import Snapshot
from flowcatd.agent.script import Event
from flowcatd.agent.survey import reachable
from tests.flowcatd.agent.phone import Phone

PATH = Path(__file__).parents[3] / "conf" / "agents" / "appointment.yaml"
READING = read_dialog(PATH.read_text(), PATH.name)
DIALOG = READING.dialog
assert DIALOG is not None

# name: turns, the states entered, and what is known in the end
CALLS = {
    "step by step": (
        ["...", "> tuesday", "> ten thirty please", "> yes please"],
        "ask_day ask_time confirm booked",
        ("Tuesday", "ten thirty", "booked"),
    ),
    "all in one sentence": (
        ["> I'd like Tuesday at nine, please.", "> that's right"],
        "ask_day confirm booked",
        ("Tuesday", "nine", "booked"),
    ),
    "the time first": (
        ["...", "> at half past nine", "> make it monday", "> correct"],
        "ask_day confirm booked",
        ("Monday", "nine thirty", "booked"),
    ),
    "time and day turned round": (
        ["> how about three in the afternoon on friday", "> yeah"],
        "ask_day confirm booked",
        ("Friday", "three", "booked"),
    ),
    "by keypad": (
        ["# 4", "# 4", "# 1"],
        "ask_day ask_time confirm booked",
        ("Thursday", "ten thirty", "booked"),
    ),
    "corrections while confirming": (
        ["> tuesday at nine", "> no thursday", "> no at three", "> make it friday", "> not friday but monday",
         "> not at three but ten o'clock", "> change it to wednesday at four", "> yes that is right"],
        "ask_day confirm booked",
        ("Wednesday", "four", "booked"),
    ),
    "a correction before the time": (
        ["> monday", "> no on friday please", "> eleven o'clock", "> sure thanks"],
        "ask_day ask_time confirm booked",
        ("Friday", "eleven", "booked"),
    ),
    "no, the day": (
        ["> monday at nine", "> no", "> the day please", "> friday", "> yes"],
        "ask_day confirm change ask_day confirm booked",
        ("Friday", "nine", "booked"),
    ),
    "no, the time, by keypad": (
        ["# 11", "# 2", "# 2", "# 8", "# 1"],
        "ask_day ask_time confirm change ask_time confirm booked",
        ("Monday", "four", "booked"),
    ),
    "no, another day at once": (
        ["> monday at nine", "> that's wrong", "> make it friday", "# 2", "> at ten", "# 2", "> tuesday at three", "> yes"],
        "ask_day confirm change confirm change confirm change confirm booked",
        ("Tuesday", "three", "booked"),
    ),
    "no, both": (
        ["> monday at nine", "> no thanks", "> both of them", "# 2", "# 2", "# 2", "# 3", "# 33", "# 1"],
        "ask_day confirm change ask_day ask_time confirm change ask_day ask_time confirm booked",
        ("Wednesday", "ten", "booked"),
    ),
    "the day by name while confirming": (
        ["> monday at nine", "> change the day", "> friday", "> no the time", "> four", "> yep"],
        "ask_day confirm ask_day confirm ask_time confirm booked",
        ("Friday", "four", "booked"),
    ),
    "the change by keypad": (
        ["# 11", "# 2", "# 1", "# 5", "# 2", "> the time", "> nine", "# 1"],
        "ask_day ask_time confirm change ask_day confirm change ask_time confirm booked",
        ("Friday", "nine", "booked"),
    ),
    "help everywhere": (
        ["> help", "# #", "> monday", "> i need help", "# #", "> nine", "> help me please", "# #", "> no", "> what can i say",
         "# #", "# 1", "> friday", "> yes"],
        "ask_day ask_time confirm change ask_day confirm booked",
        ("Friday", "nine", "booked"),
    ),
    "say it again": (
        ["> pardon", "> please repeat that", "# *", "> goodbye"],
        "ask_day farewell",
        ("", "", "cancelled"),
    ),
    "the front desk": (["> can i speak to a person please"], "ask_day front_desk", ("", "", "front_desk")),
    "the front desk by keypad": (["# 1", "# 0"], "ask_day ask_time front_desk", ("Monday", "", "front_desk")),
    "nobody there": (["~ 40"], "ask_day lost", ("", "", "lost")),
    "nobody there any more": (["> monday", "~ 40"], "ask_day ask_time lost", ("Monday", "", "lost")),
    "silence at the end": (["# 11", "~ 40"], "ask_day ask_time confirm lost", ("Monday", "nine", "lost")),
    "silence in between": (["# 11", "# 2", "~ 40"], "ask_day ask_time confirm change lost", ("Monday", "nine", "lost")),
    "not understood": (["?", "> blue", "# 9"], "ask_day lost", ("", "", "lost")),
    "misunderstood in time": (
        ["?", "?", "# 1", "?", "~ 8", "# 1", "?", "> sure"],
        "ask_day ask_time confirm booked",
        ("Monday", "nine", "booked"),
    ),
    "changing without success": (["# 11", "# 2", "?", "?", "?"], "ask_day ask_time confirm change lost", ("Monday", "nine", "lost")),
}  # fmt: skip


class Traced(DialogBrain):
    """Notes which transitions were taken."""

    def __init__(self, dialog):
        super().__init__(dialog)
        self.taken = []

    def _take(self, move, now):
        self.taken.append((move.key, move.event))
        super()._take(move, now)


def play(turns):
    """Have a conversation: the caller's end of it, and all the actions."""
    caller = Phone(Traced(DIALOG))
    actions = caller.start()
    for turn in turns:
        actions += caller.turn(turn)
    return caller, actions


@pytest.mark.parametrize("name", CALLS)
def test_a_call_goes_where_it_should(name):
    """The states entered, in order, and what is known in the end.

    Staying is left out, and so is what is passed over by an `enter` transition.
    """
    turns, states, known = CALLS[name]
    caller, actions = play(turns)
    moved = [action for action in actions if isinstance(action, Moved)]
    following = [*[move.event for move in moved[1:]], ""]
    entered = [
        move.target
        for move, then in zip(moved, following, strict=True)
        if then != "enter" and move.source != move.target
    ]
    assert entered == states.split()
    variables = caller.brain.variables()
    assert (variables["day"], variables["time"], variables["outcome"]) == known
    assert caller.brain.finished
    assert isinstance(actions[-1], HangUp)


def test_every_transition_is_taken_by_some_call():
    """The table above exercises the whole file: each transition, for each of its events."""
    taken = {mark for turns, _, _ in CALLS.values() for mark in play(turns)[0].brain.taken}
    every = {
        (move.key, move.event) for state in DIALOG.states.values() for move in state.transitions()
    }
    assert every - taken == set()


def test_every_state_is_reached_and_every_call_can_end():
    """Nothing is left over, and silence alone leads out of every state."""
    assert reachable(DIALOG) == set(DIALOG.states)
    assert (READING.errors, READING.warnings) == ([], [])
    for state in DIALOG.states.values():
        waits = (not state.terminal and Event.ENTER not in state.moves) or state.reprompt.no_input
        assert not waits or (state.timeout and state.reprompt.give_up)


def test_help_escalates_to_the_keypad():
    """The last text before giving up names the keys."""
    for state in DIALOG.states.values():
        for texts in (state.reprompt.no_input, state.reprompt.no_match):
            assert not texts or "press" in texts[-1].source.lower()


def test_the_caller_hears_sentences():
    """Whatever is said ends like a sentence, is short enough to listen to, and has no gaps."""
    said = {
        action.text
        for turns, _, _ in CALLS.values()
        for action in play(turns)[1]
        if isinstance(action, Say)
    }
    assert len(said) > 40
    for text in said:
        assert text[-1] in ".?!"
        assert len(text) < 250
        assert text == " ".join(text.split())
        assert "{{" not in text


def spoken():
    """Give (state, number of the transition, pattern) for everything the agent listens for."""
    return [
        (state, number, tree)
        for state in DIALOG.states.values()
        for number, move in enumerate(state.moves.get(Event.SPEECH, ()))
        for tree in move.hears
    ]


@settings(max_examples=400)
@given(st.data(), st.sampled_from(spoken()))
def test_every_sentence_is_understood_with_its_slots(data, listened):
    """Any sentence of any pattern reaches its transition, unless an earlier one says the same."""
    state, number, tree = listened
    said, slots = sample(
        tree, DIALOG.vocabulary, lambda count: data.draw(st.integers(0, count - 1))
    )
    found = state.matcher.match(words_of(" ".join(said)))
    assert {name: found[number].get(name) for name in slots if name != "old"} == {
        name: value for name, value in slots.items() if name != "old"
    }


def test_every_word_is_in_the_recognisers_dictionary():
    """A word that is not, could not be heard."""
    pocketsphinx = pytest.importorskip("pocketsphinx")
    dictionary = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
    known = {line.split(" ", 1)[0] for line in dictionary.read_text().splitlines()}
    words = {word for _, _, tree in spoken() for word in words_in(tree, DIALOG.vocabulary)}
    assert len(words) > 50
    assert words - known == set()


def test_every_state_is_heard_with_a_grammar():
    """No state of the offline agent listens openly, and the recogniser takes each grammar."""
    pocketsphinx = pytest.importorskip("pocketsphinx")
    decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL")
    for state in DIALOG.states.values():
        if not state.terminal:
            decoder.add_jsgf_string(state.name, f"#JSGF V1.0;\ngrammar g;\n{state.hearing.grammar}")
            decoder.activate_search(state.name)
            assert decoder.current_search() == state.name


@pytest.mark.parametrize("name", CALLS)
def test_a_call_can_be_taken_up_after_any_turn(name):
    """The rest of it goes as it would have, in another process at another time."""
    turns, _, _ = CALLS[name]
    whole = Phone(DialogBrain(DIALOG))
    expected = [whole.start(), *[whole.turn(turn) for turn in turns]]
    for cut in range(len(turns)):
        before = Phone(DialogBrain(DIALOG))
        before.start()
        for turn in turns[:cut]:
            before.turn(turn)
        stored = msgspec.json.encode(before.brain.snapshot(before.now))
        brain = DialogBrain.restore(DIALOG, msgspec.json.decode(stored, type=Snapshot), 900.0)
        after = Phone(brain, now=900.0)
        after.is_playing = before.is_playing
        assert [type(action) for action in after.drain()] == [Listen]
        assert [after.turn(turn) for turn in turns[cut:]] == expected[cut + 1 :]
