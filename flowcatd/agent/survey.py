"""Is a dialog sound as a whole? What no single line shows: ways in, ways out, names.

A state must be reachable from the initial one, and a state that does not end the call must have a
way to another one. Where a dialog calls a hook, the hook may name any state as the next, so there
an unreachable state is only remarked upon. A state that silence alone never leaves is remarked
upon, too: the caller who put the phone down would keep it for the length of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flowcatd.agent.document import Document
from flowcatd.agent.phrase import slots_in
from flowcatd.agent.script import STAY, Dialog, Event, Kind, State, Transition
from flowcatd.agent.template import Template, fields_in
from flowcatd.errors import nearest

_BY_ITSELF = {Event.TIMEOUT, Event.NO_INPUT, Event.HOOK_RESULT, Event.TTS_COMPLETE}


def survey(dialog: Dialog, file: Document) -> None:
    """Note in `file` what is wrong with the dialog as a whole."""
    hooked = any(_has(state, Kind.CALL_HOOK) for state in dialog.states.values())
    if not file.errors:  # a misspelt target would make half of the states unreachable
        _check_ways_in(dialog, file.warn if hooked else file.error)
        for state in dialog.states.values():
            _check_way_out(state, file)
            _check_silence(state, file)
    _check_slots(dialog, file)
    if not hooked:  # a hook may set variables that no line of the file names
        _check_variables(dialog, file)


def reachable(dialog: Dialog) -> set[str]:
    """Give the names of the states to which some way leads from the initial one."""
    reached, waiting = set[str](), [dialog.initial_state]
    while waiting:
        name = waiting.pop()
        if name in dialog.states and name not in reached:
            reached.add(name)
            waiting += _targets(dialog.states[name])
    return reached


def _targets(state: State) -> set[str]:
    """Give where the state can lead; staying leads nowhere."""
    found = {transition.target for transition in state.transitions()}
    return (found | {state.timeout_next, state.reprompt.give_up}) - {STAY, ""}


def _check_ways_in(dialog: Dialog, note: Callable[[int, str, str], None]) -> None:
    reached = reachable(dialog)
    for state in dialog.states.values():
        if state.name not in reached:
            note(state.line, f"states.{state.name}", "no transition leads to this state")


def _check_way_out(state: State, file: Document) -> None:
    key = f"states.{state.name}"
    if state.terminal:
        if state.own or state.timeout_next:
            file.warn(state.line, key, "a terminal state is never left by a transition")
        return
    ends = _has(state, Kind.HANGUP) or any(
        step.kind in {Kind.CALL_HOOK, Kind.TRANSFER} for step in state.on_enter
    )
    if not ends and not _targets(state) - {state.name}:
        file.error(
            state.line, key, "a dead end: give it a transition, a timeout_next or terminal: true"
        )


def _check_silence(state: State, file: Document) -> None:
    if any(move.condition is None for move in state.moves.get(Event.ENTER, ())):
        return  # always passed through, never waited in
    key = f"states.{state.name}"
    patient = state.moves.keys() & {Event.TIMEOUT, Event.NO_INPUT}
    leaves = state.timeout_next or state.reprompt.give_up or patient
    if leaves and state.timeout is None:
        file.warn(state.line, f"{key}.timeout", "without a timeout, silence is never noticed")
    if Event.HOOK_RESULT in state.moves and Event.HOOK_ERROR not in state.moves and not leaves:
        file.warn(state.line, key, "a hook that fails is not noticed: add a hook_error transition")
    waits = state.moves.keys() & {Event.SPEECH, Event.DTMF} and not state.moves.keys() & _BY_ITSELF
    if waits and not leaves and not state.terminal:
        file.warn(state.line, key, "silence alone never leaves this state: give it a timeout_next")


def _check_slots(dialog: Dialog, file: Document) -> None:
    unique = {id(move): move for state in dialog.states.values() for move in state.transitions()}
    noted: set[tuple[str, str]] = set()
    for transition in unique.values():
        filled = _filled(transition)
        for template in _templates_of(transition):
            for root, *path in fields_in(template):
                mark = (transition.key, path[0] if path else "")
                if root == "Slots" and path and path[0] not in filled and mark not in noted:
                    noted.add(mark)
                    file.error(
                        transition.line, transition.key,
                        f"nothing here fills the slot '{path[0]}'{nearest(path[0], filled)}",
                    )  # fmt: skip


def _filled(transition: Transition) -> set[str]:
    filled = {slot for tree in transition.hears for slot in slots_in(tree)}
    if transition.event is Event.DTMF:
        filled.add("digits")
    return filled | ({transition.menu[0]} if transition.menu else set())


def _templates_of(transition: Transition) -> Iterator[Template]:
    if transition.condition is not None:
        yield transition.condition
    yield from (template for _, template in transition.sets)
    for step in transition.steps:
        yield from step.params.values()


def _check_variables(dialog: Dialog, file: Document) -> None:
    known = set(dialog.variables)
    templates: list[tuple[int, str, Template]] = []
    for state in dialog.states.values():
        key = f"states.{state.name}"
        for step in state.steps():
            known |= set(step.params) if step.kind is Kind.SET_VARIABLE else set()
            templates += [(step.line, key, template) for template in step.params.values()]
        for move in state.transitions():
            known |= {name for name, _ in move.sets}
            templates += [(move.line, move.key, template) for template in _templates_of(move)]
        texts = (*state.reprompt.no_input, *state.reprompt.no_match)
        templates += [(state.line, key, template) for template in texts]
    noted: set[str] = set()
    for line, key, template in templates:
        for root, *path in fields_in(template):
            if root == "Variables" and path and path[0] not in known | noted:
                noted.add(path[0])
                file.warn(line, key, f"nothing sets '{path[0]}'{nearest(path[0], known)}")


def _has(state: State, kind: Kind) -> bool:
    return any(step.kind is kind for step in state.steps())
