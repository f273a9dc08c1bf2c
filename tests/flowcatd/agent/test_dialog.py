"""Facts about playing a dialog: conversations in virtual time, turn by turn."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcatd.agent.brain import CallHook, HangUp, Listen, Moved, Say, Transfer
from flowcatd.agent.dialog import (
    APOLOGY,
    BETWEEN_KEYS,
    LONGEST_SPEECH,
    MAX_HOOKS,
    MAX_VARIABLES,
    DialogBrain,
)
from flowcatd.agent.dialog_file import load_dialog
from flowcatd.agent.position import Snapshot
from flowcatd.errors import LocalError
from tests.flowcatd.agent.phone import Phone

CORPUS = Path(__file__).parents[2] / "corpus" / "dialogs" / "valid"
PHARMACY = load_dialog((CORPUS / "pharmacy.yaml").read_text(), "pharmacy.yaml")
ACCOUNT = load_dialog((CORPUS / "account.yaml").read_text(), "account.yaml")


def dialog(states, **top):
    """Load a dialog made of Python values; the terminal state `end` is there when it is named."""
    end = {"end": {"terminal": True}} if '"end"' in msgspec.json.encode(states).decode() else {}
    everything = {"name": "x", "initial_state": "a", **top, "states": {**states, **end}}
    return load_dialog(msgspec.json.encode(everything).decode(), "x.yaml")


def tts(text):
    """Give the action that says `text`."""
    return {"type": "play_tts", "params": {"text": text}}


def setting(**values):
    """Give the action that sets variables."""
    return {"type": "set_variable", "params": values}


def phone(states, **top):
    """Call a dialog made of Python values, and let it begin."""
    caller = Phone(DialogBrain(dialog(states, **top)))
    caller.begun = caller.start()
    return caller


def short(actions):
    """Write actions as a table is written: one short text each, grammars left out."""
    found = []
    for action in actions:
        match action:
            case Say(text):
                found.append(f"say {text}")
            case Moved(source, target, event):
                found.append(f"{source} -{event}-> {target}")
            case HangUp(reason):
                found.append(f"hang up {reason}")
            case Transfer(target):
                found.append(f"transfer {target}")
            case CallHook(_, params, state):
                found.append(f"hook {params.get('url', '')} from {state}")
            case Listen():
                pass
    return found


def test_a_file_of_voicetyped_is_played_as_there():
    """Speech, conditions on it, a hook with its result, and the end."""
    caller = Phone(DialogBrain(PHARMACY))
    assert short(caller.start()) == [
        " -start-> menu",
        "say Good day. Say hours, or prescription. Or press one or two.",
    ]
    caller.turn("...")
    assert short(caller.turn("> My Prescription, please")) == [
        "menu -speech-> look_up",
        "hook http://127.0.0.1:9/prescriptions from look_up",
    ]
    answer = '! {"variables": {"caller_name": "Ann"}, "data": {"status": "ready", "shelf": 12}}'
    assert short(caller.turn(answer)) == [
        "look_up -hook_result-> ready",
        "say Ann, it is ready. Shelf 12.",
        "hang up completed",
    ]
    assert caller.brain.finished
    assert caller.brain.variables() == {"caller_name": "Ann", "choice": "prescription"}


@pytest.mark.parametrize(
    ("turns", "state", "said"),
    [
        (["...", "# 1"], "hours", "say We are open from eight to six."),
        (["# 2", "! x"], "not_ready", "hang up not_ready"),
        (["# 2", "! {}"], "not_ready", "say It is not ready yet. Goodbye."),
        (["...", "# 7"], "menu", None),
        (["...", "> weather"], "menu", None),
        (["...", "~ 9.9"], "menu", None),
        (["...", "~ 10"], "nobody", "say I did not hear anything."),
        (["...", "~ 10", "..."], "menu", "say Good day. Say hours, or prescription. Or press one or two."),
        (["# 1", "..."], "menu", "hours -tts_complete-> menu"),
        (["# 2", '! {"next_state": "hours"}'], "hours", "look_up -hook_result-> hours"),
        (["# 2", '! {"actions": [{"type": "play_tts", "params": {"text": "One moment."}}]}'], "not_ready", "say One moment."),
        (["# 2", '! {"actions": [{"type": "hangup"}], "next_state": "hours"}'], "look_up", "hang up completed"),
    ],
)  # fmt: skip
def test_a_turn_leads_to_a_state(turns, state, said):
    """Keys, silence, the end of a prompt, and hooks, in a file of voicetyped."""
    caller = Phone(DialogBrain(PHARMACY))
    caller.start()
    for turn in turns[:-1]:
        caller.turn(turn)
    last = short(caller.turn(turns[-1]))
    assert caller.brain.state == state
    assert said in last if said else last == []


@pytest.mark.parametrize(
    ("turns", "account"),
    [
        (["# 1234", "~ 3"], "1234"),
        (["# 123456", "~ 3"], "123456"),
        (["# 12345678"], "12345678"),
        (["# 1234#"], "1234"),
        (["# 12", "~ 3", "# 1234", "~ 3"], "1234"),
        (["# 12345", "~ 3", "# 4321", "~ 3"], "4321"),
    ],
)
def test_several_keys_are_collected(turns, account):
    """Until no more can follow, or three seconds have passed, or the pound key."""
    caller = Phone(DialogBrain(ACCOUNT))
    caller.start()
    for turn in ["...", *turns]:
        caller.turn(turn)
    assert (caller.brain.state, caller.brain.variables()["account"]) == ("notice", account)


def test_keys_wait_no_longer_than_they_must():
    """A single key that fits decides at once; one of several waits, and silence does not count."""
    caller = Phone(DialogBrain(ACCOUNT))
    caller.start()
    caller.turn("...")
    caller.press("1")
    assert caller.brain.wake_at() == pytest.approx(caller.now + BETWEEN_KEYS)
    other = Phone(DialogBrain(ACCOUNT))
    other.start()
    other.press("*")
    assert other.brain.state == "person"


def test_what_is_not_to_be_interrupted_is_said_to_its_end():
    """Neither speech nor keys count meanwhile; afterwards they do."""
    caller = Phone(DialogBrain(ACCOUNT))
    caller.start()
    said = caller.turn("# 12345678")
    assert Say("Account 12345678. This call is recorded.", "slt", interruptible=False) in said
    caller.brain.speaking(caller.now)
    caller.brain.heard("hello", caller.now)
    assert (short(caller.press("1")), caller.brain.state) == ([], "notice")
    assert short(caller.turn("...")) == [
        "notice -tts_complete-> person", "transfer sip:desk@example.invalid", "hang up transferred",
    ]  # fmt: skip


def test_silence_counts_from_the_end_of_the_prompt():
    """Not from when it was queued; without a prompt, from entering."""
    states = {"a": {"on_enter": [tts("Hm")], "timeout": "5s", "timeout_next": "end"}}
    caller = phone(states)
    assert caller.brain.wake_at() is None
    caller.brain.spoken(60.0)
    assert caller.brain.wake_at() == 65.0
    assert phone({"a": {"timeout": "5s", "timeout_next": "end"}}).brain.wake_at() == 5.0


def test_silence_pauses_while_the_caller_speaks():
    """Until something is heard, or for half a minute."""
    caller = phone({"a": {"timeout": "5s", "timeout_next": "end"}})
    caller.brain.speaking(4.0)
    assert caller.brain.wake_at() == 4.0 + LONGEST_SPEECH
    caller.brain.heard("", 6.0)
    assert caller.brain.wake_at() == 11.0
    caller.brain.speaking(7.0)
    caller.brain.wake(7.0 + LONGEST_SPEECH)
    assert caller.brain.finished


def test_a_key_pressed_while_speaking_does_not_end_the_waiting():
    """The speech is still to be heard, for half a minute at most."""
    caller = phone({"a": {"timeout": "5s", "timeout_next": "end"}})
    caller.brain.speaking(1.0)
    caller.brain.digit("5", 2.0)
    assert caller.brain.wake_at() == 2.0 + LONGEST_SPEECH


def test_a_transition_may_hang_up():
    """Then its target is not entered."""
    hang_up = {"type": "hangup", "params": {"reason": "asked"}}
    states = {"a": {"transitions": [{"event": "speech", "target": "end", "actions": [hang_up]}]}}
    assert short(phone(states).turn("> stop")) == ["hang up asked"]


def test_silence_that_leads_nowhere_is_noticed_once():
    """A timeout without anywhere to go changes nothing, and does not come again by itself."""
    caller = phone({"a": {"timeout": "5s", "transitions": [{"event": "speech", "target": "end"}]}})
    assert short(caller.turn("~ 60")) == ["a -no_input-> a"]
    assert caller.brain.wake_at() is None


REPROMPT = {
    "a": {
        "on_enter": [tts("Well?")],
        "transitions": [{"hears": "yes", "target": "end"}, {"hears": "again", "target": "repeat"}],
        "timeout": "5s",
        "reprompt": {
            "no_input": ["Hello?", "Still there?"],
            "no_match": ["Pardon?"],
            "give_up": "lost",
        },
    },
    "lost": {"terminal": True},
}

TWICE_ASKED = ("a -no_input-> a", "say Hello?", "a -no_input-> a", "say Still there?")


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        (["~ 6"], ["a -no_input-> a", "say Hello?"]),
        (["~ 13"], [*TWICE_ASKED]),
        (["~ 18"], [*TWICE_ASKED, "a -no_input-> a", "a -timeout-> lost", "hang up completed"]),
        (["?"], ["say Pardon?"]),
        (["> what"], ["say Pardon?"]),
        (["# 5"], ["say Pardon?"]),
        (["?", "?"], ["say Pardon?", "a -no_match-> lost", "hang up completed"]),
        (["?", "> again", "?"], ["say Pardon?", "a -speech-> a", "say Well?", "say Pardon?"]),
        (["?", "> yes"], ["say Pardon?", "a -speech-> end", "hang up completed"]),
    ],
)
def test_patience_runs_out_text_by_text(turns, said):
    """Each text of a reprompt is said once; a transition, even back to the prompt, renews them."""
    caller = phone(REPROMPT)
    assert [text for turn in turns for text in short(caller.turn(turn))] == said


def test_explicit_transitions_come_before_reprompts():
    """no_input and no_match first, then the texts, then timeout, then timeout_next."""
    states = {
        "a": {
            "transitions": [
                {
                    "event": "no_input",
                    "condition": "{{ eq .Variables.n `` }}",
                    "target": ".",
                    "set": {"n": "1"},
                },
                {
                    "event": "no_match",
                    "condition": "{{ eq .Variables.m `` }}",
                    "target": ".",
                    "set": {"m": "1"},
                },
                {"event": "timeout", "target": "end", "actions": [tts("Out of time.")]},
            ],
            "timeout": "5s",
            "reprompt": {"no_input": "Hello?", "no_match": "Pardon?", "give_up": "end"},
        }
    }
    caller = phone(states, variables={"n": "", "m": ""})
    assert short(caller.turn("?")) == ["a -no_match-> a"]
    assert short(caller.turn("?")) == ["say Pardon?"]
    caller.turn("...")
    assert short(caller.turn("~ 5")) == ["a -no_input-> a"]
    assert short(caller.turn("~ 6")) == ["a -no_input-> a", "say Hello?"]
    assert short(caller.turn("~ 5")) == [
        "a -no_input-> a",
        "say Out of time.",
        "a -timeout-> end",
        "hang up completed",
    ]


def test_a_state_may_be_passed_over_on_entering():
    """An `enter` transition with a condition skips the question that is answered already."""
    states = {
        "a": {"transitions": [{"hears": "<day> [at <time>]", "set": {"day": "{{ .Slots.day }}", "time": "{{ .Slots.time }}"}, "target": "b"}]},
        "b": {
            "on_enter": [tts("At what time?")],
            "transitions": [{"event": "enter", "condition": "{{ .Variables.time }}", "target": "c"}, {"event": "timeout", "target": "c"}],
            "timeout": "5s",
        },
        "c": {"on_enter": [tts("{{ .Variables.day }}, {{ .Variables.time }}.")], "terminal": True},
    }  # fmt: skip
    vocabulary = {"day": {"Mon": "monday"}, "time": {"9:00": "nine"}}
    both = phone(states, vocabulary=vocabulary)
    assert short(both.turn("> Monday at nine!")) == [
        "a -speech-> b", "b -enter-> c", "say Mon, 9:00.", "hang up completed",
    ]  # fmt: skip
    one = phone(states, vocabulary=vocabulary)
    assert short(one.turn("> monday")) == ["a -speech-> b", "say At what time?"]


def test_staying_says_only_the_prompt_again():
    """What entering set or asked of a hook is not done twice."""
    states = {
        "a": {
            "on_enter": [
                setting(x="{{ .Variables.x }}i"),
                {"type": "call_hook", "params": {"url": "u"}},
                tts("Well?"),
            ],
            "transitions": [{"event": "dtmf", "target": "."}, {"event": "speech", "target": "end"}],
        }
    }
    caller = phone(states, variables={"x": ""})
    assert short(caller.turn("# 1")) == ["a -dtmf-> a", "say Well?"]
    assert caller.brain.variables() == {"x": "i"}


def test_set_comes_before_actions_and_they_keep_their_order():
    """Variables, then actions, then the next state's own."""
    states = {
        "a": {"transitions": [{"event": "dtmf", "target": "b", "set": {"x": "{{ .Slots.digits }}"}, "actions": [tts("You pressed {{ .Variables.x }}."), setting(x="9")]}]},
        "b": {"on_enter": [tts("It is {{ .Variables.x }}.")], "transitions": [{"event": "speech", "target": "end"}]},
    }  # fmt: skip
    caller = phone(states, variables={"x": ""})
    assert short(caller.turn("# 4")) == ["say You pressed 4.", "a -dtmf-> b", "say It is 9."]


def test_the_first_transition_that_fits_wins():
    """A condition that does not hold leaves the phrase to the next transition."""
    states = {
        "a": {
            "transitions": [
                {"hears": "yes", "condition": "{{ .Variables.never }}", "target": "b"},
                {"hears": "yes", "target": "c"},
                {"hears": "yes", "target": "b"},
            ]
        },
        "b": {"terminal": True},
        "c": {"terminal": True},
    }
    caller = phone(
        {**states, "a": {**states["a"], "timeout": "9s", "timeout_next": "end"}},
        variables={"never": ""},
    )
    caller.turn("> yes")
    assert caller.brain.state == "c"


def test_speech_that_cuts_a_prompt_off_is_heard_before_the_state_is_left():
    """`tts_complete` waits for what was said; if that fits nothing, it comes after all."""
    states = {
        "a": {"on_enter": [tts("A long notice.")], "transitions": [{"hears": "stop", "target": "end"}, {"event": "tts_complete", "target": "b"}]},
        "b": {"on_enter": [tts("And now?")], "transitions": [{"event": "speech", "target": "end"}]},
    }  # fmt: skip
    answered = phone(states)
    assert short(answered.turn("> stop")) == ["a -speech-> end", "hang up completed"]
    coughed = phone(states)
    assert short(coughed.turn("?")) == ["a -tts_complete-> b", "say And now?"]


def test_a_prompt_without_text_is_complete_at_once():
    """A state that waits for the end of its prompt is not stuck when there is none."""
    states = {
        "a": {
            "on_enter": [tts("{{ .Variables.empty }}")],
            "transitions": [{"event": "tts_complete", "target": "end"}],
        }
    }
    caller = phone(states, variables={"empty": ""})
    assert short(caller.begun) == [" -start-> a", "a -tts_complete-> end", "hang up completed"]


def test_the_recogniser_is_told_only_about_changes():
    """On entering a state that hears something else, before the prompt."""
    states = {
        "a": {"transitions": [{"hears": "on", "target": "b"}], "on_enter": [tts("A")]},
        "b": {"transitions": [{"hears": "on", "target": "c"}], "on_enter": [tts("B")]},
        "c": {"transitions": [{"hears": "off", "target": "end"}], "on_enter": [tts("C")]},
    }
    caller = phone(states)
    kinds = [type(action).__name__ for action in caller.begun]
    assert kinds == ["Moved", "Listen", "Say"]
    assert [type(action).__name__ for action in caller.turn("> on")] == ["Moved", "Say"]
    assert [type(action).__name__ for action in caller.turn("> on")] == ["Moved", "Listen", "Say"]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"transitions": [{"event": "enter", "target": "b"}], "on_enter": [tts("x")]}, "dialog_loop"),
        ({"transitions": [{"event": "tts_complete", "target": "."}, {"event": "speech", "target": "end"}]}, "dialog_loop"),
        ({"on_enter": [tts("x"), tts("{{ len .Variables.x | len }}")], "transitions": [{"event": "speech", "target": "end"}]}, "dialog_error"),
    ],
)  # fmt: skip
def test_a_dialog_at_fault_apologises_and_ends(state, reason):
    """Circles without an outside event, and templates that fail; nothing else of that round is said."""
    back = {
        "transitions": [{"event": "enter", "target": "a"}, {"event": "speech", "target": "end"}]
    }
    states = (
        {"a": state, "b": back} if reason == "dialog_loop" and "on_enter" in state else {"a": state}
    )
    caller = phone(states, variables={"x": "x"})
    assert caller.begun == [Say(APOLOGY, interruptible=False), HangUp(reason)]
    assert caller.brain.finished


def test_after_the_end_nothing_happens():
    """Every input is ignored, and nothing is waited for."""
    caller = phone({"a": {"on_enter": [{"type": "hangup"}]}})
    assert short(caller.begun) == [" -start-> a", "hang up completed"]
    brain = caller.brain
    for act in (
        lambda: brain.heard("yes", 9.0),
        lambda: brain.digit("1", 9.0),
        lambda: brain.speaking(9.0),
        lambda: brain.spoken(9.0),
        lambda: brain.wake(99.0),
        lambda: brain.hook_result(1, {}, 9.0),
    ):
        act()
    assert (brain.actions(), brain.wake_at()) == ([], None)


def test_what_is_no_key_is_ignored():
    """Only the sixteen keys of a telephone count."""
    caller = phone({"a": {"transitions": [{"event": "dtmf", "target": "end"}]}})
    for key in ("", "x", "12", "é"):
        caller.brain.digit(key, 1.0)
    assert caller.brain.actions() == []


def test_hooks_are_known_by_their_number():
    """An answer to an unknown or forgotten hook is ignored; the same comes once."""
    states = {
        "a": {
            "transitions": [
                {"event": "dtmf", "target": ".", "actions": [{"type": "call_hook", "params": {"url": "u", "headers": {"X-A": "{{ .Slots.digits }}"}}}]},
                {"event": "hook_result", "target": "end"},
            ]
        }
    }  # fmt: skip
    caller = phone(states)
    called = [
        action
        for _ in range(MAX_HOOKS + 1)
        for action in caller.turn("# 7")
        if isinstance(action, CallHook)
    ]
    assert called[0].params == {"url": "u", "headers.X-A": "7"}
    assert len({call.hook_id for call in called}) == MAX_HOOKS + 1
    caller.brain.hook_result(called[0].hook_id, {}, 50.0)
    caller.brain.hook_failed(999, "who?", 50.0)
    assert caller.drain() == []
    caller.brain.hook_result(called[1].hook_id, {}, 50.0)
    assert short(caller.drain()) == ["a -hook_result-> end", "hang up completed"]


def test_a_hook_cannot_flood_a_call_with_variables():
    """A call keeps a thousand; those it knows can still be changed."""
    states = {"a": {"on_enter": [{"type": "call_hook", "params": {"url": "u"}}]}}
    caller = phone(states, variables={"x": ""})
    flood = {f"v{number}": number for number in range(2 * MAX_VARIABLES)} | {"x": [1, None]}
    caller.brain.hook_result(caller.hooks[0], {"variables": flood}, 1.0)
    assert len(caller.brain.variables()) == MAX_VARIABLES
    assert caller.brain.variables()["x"] == "[1 ]"


def test_a_snapshot_belongs_to_its_dialog():
    """It is refused with actions undrained, by another dialog, and when its state is gone."""
    brain = DialogBrain(PHARMACY)
    brain.started(0.0)
    with pytest.raises(LocalError):
        brain.snapshot(0.0)
    brain.actions()
    snapshot = brain.snapshot(0.0)
    with pytest.raises(LocalError):
        DialogBrain.restore(ACCOUNT, snapshot, 0.0)
    with pytest.raises(LocalError):
        DialogBrain.restore(PHARMACY, msgspec.structs.replace(snapshot, state="gone"), 0.0)


CONVERSATIONS = {
    "pharmacy": (PHARMACY, ["...", "> hours", "...", "~ 11", "> prescription", "! {}"]),
    "hook": (PHARMACY, ["# 2", '! {"data": {"status": "ready", "shelf": 1}}']),
    "account": (ACCOUNT, ["...", "# 12", "~ 1", "# 34", "~ 3", "..."]),
    "patience": (dialog(REPROMPT), ["~ 6", "?", "> again", "?", "~ 3", "?"]),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_call_taken_up_again_goes_on_as_it_would_have(name):
    """After any turn: snapshot, JSON, another clock; the rest of the conversation is the same."""
    script, turns = CONVERSATIONS[name]
    whole = Phone(DialogBrain(script, {"caller": "x"}))
    expected = [whole.start()] + [whole.turn(turn) for turn in turns]
    for cut in range(len(turns) + 1):
        before = Phone(DialogBrain(script, {"caller": "x"}))
        before.start()
        for turn in turns[:cut]:
            before.turn(turn)
        stored = msgspec.json.encode(before.brain.snapshot(before.now))
        snapshot = msgspec.json.decode(stored, type=Snapshot)
        after = Phone(DialogBrain.restore(script, snapshot, 5_000.0, {"caller": "x"}), now=5_000.0)
        after.is_playing, after.hooks = before.is_playing, list(before.hooks)
        listening = after.drain()
        assert [type(action) for action in listening] == [] if before.brain.finished else [Listen]
        assert [after.turn(turn) for turn in turns[cut:]] == expected[cut + 1 :]


TURNS = st.one_of(
    st.sampled_from(["...", "?", "~ 3", "~ 12", "> hours", "> prescription", "> yes", "> again", "! x",
                     '! {"data": {"status": "ready"}, "variables": {"a": 1}}', '! {"next_state": "menu", "actions": [3, {"type": "transfer"}]}']),
    st.text(st.sampled_from("0123456789*#A"), min_size=1, max_size=4).map(lambda keys: f"# {keys}"),
)  # fmt: skip


@settings(max_examples=60)
@given(st.sampled_from([PHARMACY, ACCOUNT, dialog(REPROMPT)]), st.lists(TURNS, max_size=12))
def test_any_conversation_keeps_the_rules(script, turns):
    """Deterministic, quiet when drained, never two ends, and no wake in the past."""
    one, other = Phone(DialogBrain(script)), Phone(DialogBrain(script))
    actions = one.start()
    assert other.start() == actions
    for turn in turns:
        if turn.startswith("!") and not one.hooks:
            continue
        now = one.turn(turn)
        assert now == other.turn(turn)
        assert one.brain.actions() == []
        actions += now
        due = one.brain.wake_at()
        assert due is None or due > one.now
    assert sum(isinstance(action, HangUp) for action in actions) == int(one.brain.finished)
