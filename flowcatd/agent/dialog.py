"""Plays a dialog for one call: events and the time in, actions out.

The state is a name; what it does stands in the dialog's tables (`script.py`). Every event is
answered the same way: the first transition for it whose phrases or keys fit and whose condition
holds is taken; its variables are set, its actions run, and the target is entered, or its prompt
said again. Where none fits:

    speech, keys   no_match transitions, then the state's reprompts, then give_up
    silence        no_input transitions, the reprompts, timeout transitions, timeout_next or give_up

Silence counts from the moment at which everything said has been heard (`spoken`), not from when it
was queued, and pauses while the caller speaks. Between two outside events at most 100 transitions
are made; a dialog that wants more, or whose template fails, apologises and ends the call.

The whole position is a `Snapshot`, so that a call can be taken up again elsewhere. `resumed` then says
that there was a break, and again what was being said, or else the state's prompt. No other action
of the state runs twice; a hook that was waited for counts as failed, and silence counts from new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flowcatd.agent.answer import steps_of
from flowcatd.agent.brain import Action, CallHook, HangUp, Listen, Moved, Say, Transfer
from flowcatd.agent.functions import TemplateError, text_of
from flowcatd.agent.keypad import KEYS, MAX_KEYS
from flowcatd.agent.phrase import words_of
from flowcatd.agent.position import Position, Snapshot
from flowcatd.agent.script import STAY, Dialog, Event, Kind, State, Step, Transition
from flowcatd.agent.template import Scope, Template
from flowcatd.errors import FlowcatdError, LocalError
from flowcatd.services import Hearing

MAX_TRANSITIONS = 100
"""Without an outside event; voicetyped's documented limit per call is 50."""
BETWEEN_KEYS = 3.0
"""Seconds to wait for one more key: time to look at the next figure of a number one reads off."""
LONGEST_SPEECH = 30.0
"""Seconds after which a caller who began to speak, and of whom nothing came, counts as silent."""
MAX_HOOKS = 16
"""Hooks waited for at once; the oldest is forgotten beyond it."""
MAX_VARIABLES = 1_000
"""Variables of one call, since hooks may add to them."""
APOLOGY = "I'm sorry, something went wrong on our side. Please call again later. Goodbye."
"""Said when the dialog itself is at fault."""
CUT_OFF = "Sorry, we were cut off for a moment."
"""Said, in English dialogs, when a call goes on after a break; others just say their prompt again."""


class _LoopError(FlowcatdError):
    """Too many transitions without an outside event."""


class DialogBrain:
    """One call's conversation by a dialog; implements `brain.Brain`."""

    def __init__(self, dialog: Dialog, session: Mapping[str, str] | None = None) -> None:
        """`session` is what templates read as `.Session`."""
        self._dialog = dialog
        self._state: State = dialog.states[dialog.initial_state]
        self._scope = Scope(variables=dict(dialog.variables), session=dict(session or {}))
        self._now = Position()
        self._actions: list[Action] = []
        self._listening: Hearing | None = None
        self._moves_left = MAX_TRANSITIONS
        self._is_new = True
        self._run: dict[Kind, Callable[[Step], None]] = {
            Kind.CALL_HOOK: self._call_hook,
            Kind.HANGUP: self._hang_up,
            Kind.PLAY_AUDIO: lambda _step: None,
            Kind.PLAY_TTS: self._play_tts,
            Kind.SET_VARIABLE: self._set_variable,
            Kind.TRANSFER: self._transfer,
        }

    @classmethod
    def restore(
        cls,
        dialog: Dialog,
        snapshot: Snapshot,
        now: float,
        session: Mapping[str, str] | None = None,
    ) -> DialogBrain:
        """Take a call up again; its first action is Listen. Raises LocalError for another dialog."""
        if snapshot.version != 1 or snapshot.dialog != dialog.name:
            raise LocalError(f"this snapshot is not of the dialog '{dialog.name}'")
        if snapshot.state not in dialog.states:
            raise LocalError(f"the dialog '{dialog.name}' has no state '{snapshot.state}' any more")
        brain = cls(dialog, session)
        brain._state = dialog.states[snapshot.state]
        brain._scope.variables = dict(snapshot.variables)
        brain._scope.event = snapshot.event
        brain._scope.result = dict(snapshot.result)
        brain._now = snapshot.position.shifted(now)
        brain._is_new = False
        if not brain.finished:
            brain._listen()
        return brain

    @classmethod
    def anew(
        cls, dialog: Dialog, variables: Mapping[str, str], session: Mapping[str, str] | None = None
    ) -> DialogBrain:
        """Begin this dialog again, knowing the variables that one of an older file had collected."""
        brain = cls(dialog, session)
        for name, value in variables.items():
            brain._set(name, value)
        return brain

    # --- what we are told ----------------------------------------------------------------------

    def started(self, now: float) -> None:
        """The call is up: enter the initial state. Drain `actions` next, as after every input."""
        self._is_new = False
        self._play(self._enter, self._dialog.initial_state, now, "start")

    def resumed(self, now: float) -> None:
        """The call is up again: say that it was cut off, and where it was."""
        if self._now.is_finished:
            self._actions += (*self._now.saying, HangUp(self._now.reason))
        else:
            self._play(self._resume, now)

    def heard(self, text: str, now: float, *, confidence: float = 1.0) -> None:  # noqa: ARG002  the seam's
        """The caller said this; empty text is speech that nothing expected could explain."""
        self._now.is_spoken_to = False
        if self._state.barge_in or not self._now.is_talking:
            self._play(self._hear, text, now)

    def digit(self, digit: str, now: float) -> None:
        """The caller pressed a key; what is no key is ignored."""
        if len(digit) == 1 and digit in KEYS and (self._state.barge_in or not self._now.is_talking):
            self._play(self._press, digit, now)

    def speaking(self, now: float) -> None:
        """The caller began to speak: silence is over until `heard`, or for half a minute."""
        position = self._now
        position.is_spoken_to = True
        if position.due is not None:
            position.due = now + LONGEST_SPEECH

    def spoken(self, now: float) -> None:
        """Everything said has been heard or was cut off: from now on silence counts."""
        self._now.said()
        self._play(self._said, now)

    def hook_result(self, hook_id: int, data: dict[str, object], now: float) -> None:
        """A hook answered; `data` is its answer: variables, data, next_state and actions."""
        if hook_id in self._now.hooks:
            self._now.hooks.remove(hook_id)
            self._play(self._answered, data, now)

    def hook_failed(self, hook_id: int, reason: str, now: float) -> None:  # noqa: ARG002  for other brains
        """A hook did not answer."""
        if hook_id in self._now.hooks:
            self._now.hooks.remove(hook_id)
            self._play(self._first, Event.HOOK_ERROR, now)

    def wake(self, now: float) -> None:
        """Time has passed: the keys are complete, or silence has lasted."""
        position = self._now
        if position.keys_due is not None and now >= position.keys_due:
            self._play(self._decide_keys, now)
        elif position.due is not None and now >= position.due:
            self._play(self._silence, now)

    # --- what there is to collect --------------------------------------------------------------

    def wake_at(self) -> float | None:
        """The earliest time it wants to be woken, or None."""
        position = self._now
        if position.is_finished:
            return None
        if position.keys_due is None:
            return position.due
        return position.keys_due if position.due is None else min(position.due, position.keys_due)

    def actions(self) -> list[Action]:
        """Drain what is to be done, in order."""
        drained, self._actions = self._actions, []
        return drained

    @property
    def finished(self) -> bool:
        """Whether the conversation has reached its end."""
        return self._now.is_finished

    @property
    def state(self) -> str:
        """The name of the state it is in."""
        return self._state.name

    def variables(self) -> dict[str, str]:
        """What has been collected so far."""
        return dict(self._scope.variables)

    def snapshot(self, now: float) -> Snapshot:
        """Give the position; raises LocalError while actions wait to be drained."""
        if self._actions:
            raise LocalError("drain actions() before taking a snapshot")
        scope = self._scope
        return Snapshot(
            dialog=self._dialog.name,
            state=self._state.name,
            variables=dict(scope.variables),
            event=scope.event if isinstance(scope.event, int) else text_of(scope.event),
            result=dict(scope.result),
            position=self._now.shifted(-now),
        )

    # --- events --------------------------------------------------------------------------------

    def _play(self, act: Callable[..., object], *args: object) -> None:
        if self._now.is_finished:
            return
        self._moves_left = MAX_TRANSITIONS
        done = len(self._actions)
        try:
            act(*args)
        except TemplateError:
            self._fail(done, "dialog_error")
        except _LoopError:
            self._fail(done, "dialog_loop")

    def _hear(self, text: str, now: float) -> None:
        self._scope.event = text
        moves = self._state.moves.get(Event.SPEECH, ()) if text else ()
        matcher = self._state.matcher
        found = matcher.match(words_of(text)) if moves and matcher else {}
        for number, move in enumerate(moves):
            slots = found.get(number) if move.hears else {}
            if slots is not None and self._holds(move, slots):
                self._take(move, now)
                return
        self._missed(now)

    def _press(self, digit: str, now: float) -> None:
        position = self._now
        pressed = position.pressed + digit
        waiting = [move.keys for move in self._state.moves.get(Event.DTMF, ()) if move.keys]
        if (
            digit == "#"
            and position.pressed
            and not any(keys.accepts(pressed) or keys.may_grow(pressed) for keys in waiting)
        ):
            self._decide_keys(now)  # the pound key ends an entry
            return
        position.pressed = pressed
        position.due = None
        if len(pressed) < MAX_KEYS and any(keys.may_grow(pressed) for keys in waiting):
            position.keys_due = now + BETWEEN_KEYS
        else:
            self._decide_keys(now)

    def _decide_keys(self, now: float) -> None:
        position = self._now
        pressed, position.pressed, position.keys_due = position.pressed, "", None
        self._scope.event = ord(pressed) if len(pressed) == 1 else pressed
        for move in self._state.moves.get(Event.DTMF, ()):
            if not (move.keys.accepts(pressed) if move.keys else len(pressed) == 1):
                continue
            slots = {"digits": pressed}
            if move.menu:
                slots[move.menu[0]] = move.menu[1][pressed]
            if self._holds(move, slots):
                self._take(move, now)
                return
        self._missed(now)

    def _said(self, now: float) -> None:
        # Speech that cut the prompt off is heard first: it may be the answer.
        if self._now.is_spoken_to and Event.SPEECH in self._state.moves:
            self._now.due = now + LONGEST_SPEECH
        elif not self._first(Event.TTS_COMPLETE, now):
            self._arm(now)

    def _missed(self, now: float) -> None:
        position, reprompt = self._now, self._state.reprompt
        if self._first(Event.NO_MATCH, now):
            return
        if not position.is_talking and self._first(Event.TTS_COMPLETE, now):
            return
        if position.misses < len(reprompt.no_match):
            self._say(reprompt.no_match[position.misses])
            position.misses += 1
            self._arm(now)
        elif reprompt.no_match:
            self._give_up(reprompt.give_up, now, Event.NO_MATCH)
        else:
            self._arm(now)

    def _silence(self, now: float) -> None:
        position, state = self._now, self._state
        position.due = None
        position.is_spoken_to = False
        if self._first(Event.NO_INPUT, now):
            return
        self._actions.append(Moved(state.name, state.name, str(Event.NO_INPUT)))
        if position.silences < len(state.reprompt.no_input):
            self._say(state.reprompt.no_input[position.silences])
            position.silences += 1
            self._arm(now)
        elif not self._first(Event.TIMEOUT, now):
            target = state.timeout_next or state.reprompt.give_up
            if target:
                self._give_up(target, now, Event.TIMEOUT)

    def _resume(self, now: float) -> None:
        position = self._now
        lines = [line for line in position.saying if line.text != CUT_OFF]
        lost, position.hooks = position.hooks, []
        position.begin()
        position.said()
        position.is_spoken_to = False
        if self._dialog.language.lower().startswith("en"):
            self._line(Say(CUT_OFF, self._dialog.voice, self._state.barge_in))
        if self._is_new:
            self._is_new = False
            self._enter(self._dialog.initial_state, now, "start")
            return
        for line in lines:
            self._line(line)
        if lost and self._first(Event.HOOK_ERROR, now):
            return
        if not lines:
            for step in self._state.on_enter:
                if step.kind is Kind.PLAY_TTS:
                    self._play_tts(step)
        self._arm(now)

    def _answered(self, data: Mapping[str, object], now: float) -> None:
        variables, result = data.get("variables"), data.get("data")
        if isinstance(variables, Mapping):
            for name, value in variables.items():
                self._set(str(name), text_of(value))
        self._scope.result = result if isinstance(result, Mapping) else {}
        for step in steps_of(data.get("actions")):
            self._run[step.kind](step)
        target = data.get("next_state")
        if self._now.is_finished:
            return
        if isinstance(target, str) and target in self._dialog.states:
            self._give_up(target, now, Event.HOOK_RESULT)
        else:
            self._first(Event.HOOK_RESULT, now)

    # --- moving --------------------------------------------------------------------------------

    def _first(self, event: Event, now: float) -> bool:
        """Take the first transition for the event whose condition holds; whether there was one."""
        for move in self._state.moves.get(event, ()):
            if self._holds(move, {}):
                self._take(move, now)
                return True
        return False

    def _holds(self, move: Transition, slots: dict[str, str]) -> bool:
        self._scope.slots = slots
        return move.condition is None or move.condition.holds(self._scope)

    def _take(self, move: Transition, now: float) -> None:
        self._count()
        for name, value in move.sets:
            self._set(name, value.render(self._scope))
        for step in move.steps:
            self._run[step.kind](step)
        if not self._now.is_finished:
            self._enter(move.target, now, move.event)

    def _give_up(self, target: str, now: float, event: Event) -> None:
        """Go where no transition but the state itself, or a hook, says."""
        self._count()
        self._enter(target, now, event)

    def _count(self) -> None:
        self._moves_left -= 1
        if self._moves_left < 0:
            raise _LoopError("too many transitions without an outside event")

    def _enter(self, target: str, now: float, event: str) -> None:
        source, stays = self._state, target == STAY
        state = source if stays else self._dialog.states[target]
        self._actions.append(Moved("" if event == "start" else source.name, state.name, str(event)))
        self._state = state
        self._now.begin()
        if state.terminal:
            self._end(state)
            return
        if self._first(Event.ENTER, now):
            return
        if state.hearing is not self._listening:
            self._listen()
        for step in state.on_enter:
            if not stays or step.kind is Kind.PLAY_TTS:
                self._run[step.kind](step)
        if self._now.is_finished:
            return
        if self._now.is_talking or not self._first(Event.TTS_COMPLETE, now):
            self._arm(now)

    def _end(self, state: State) -> None:
        for step in state.on_enter:
            self._run[step.kind](step)
        if not self._now.is_finished:
            handed_over = any(step.kind is Kind.TRANSFER for step in state.on_enter)
            self._hang_up_for("transferred" if handed_over else "completed")

    def _arm(self, now: float) -> None:
        """Let silence count from now, unless something is being said, or for ever."""
        position, timeout = self._now, self._state.timeout
        if position.is_talking or timeout is None:
            position.due = None
        elif position.is_spoken_to:
            position.due = now + LONGEST_SPEECH
        else:
            position.due = now + timeout

    def _listen(self) -> None:
        self._listening = self._state.hearing
        self._actions.append(Listen(self._listening))

    def _fail(self, done: int, reason: str) -> None:
        del self._actions[done:]  # nothing of a round that ended in nonsense is said
        self._now.said()
        self._line(Say(APOLOGY, self._dialog.voice, interruptible=False))
        self._hang_up_for(reason)

    # --- actions -------------------------------------------------------------------------------

    def _play_tts(self, step: Step) -> None:
        voice = step.params.get("voice")
        self._say(step.params["text"], voice.render(self._scope) if voice else "")

    def _say(self, template: Template, voice: str = "") -> None:
        text = " ".join(template.render(self._scope).split())
        if text:
            self._line(Say(text, voice or self._dialog.voice, self._state.barge_in))

    def _line(self, line: Say) -> None:
        self._actions.append(line)
        self._now.say(line)

    def _set_variable(self, step: Step) -> None:
        for name, value in step.params.items():
            self._set(name, value.render(self._scope))

    def _set(self, name: str, value: str) -> None:
        variables = self._scope.variables
        assert isinstance(variables, dict)
        if name in variables or len(variables) < MAX_VARIABLES:
            variables[name] = value

    def _call_hook(self, step: Step) -> None:
        position = self._now
        params = {name: value.render(self._scope) for name, value in step.params.items()}
        self._actions.append(CallHook(position.next_hook, params, self._state.name))
        position.hooks = [*position.hooks[1 - MAX_HOOKS :], position.next_hook]
        position.next_hook += 1

    def _hang_up(self, step: Step) -> None:
        reason = step.params.get("reason")
        text = reason.render(self._scope) if reason else ""
        self._hang_up_for(text or "completed")

    def _hang_up_for(self, reason: str) -> None:
        self._actions.append(HangUp(reason))
        self._now.finish(reason)

    def _transfer(self, step: Step) -> None:
        self._actions.append(Transfer(step.params["target"].render(self._scope)))
