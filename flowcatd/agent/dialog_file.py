"""Reads a dialog file: YAML text in, a frozen Dialog out, or every mistake with its line.

The format is voicetyped's (name, variables, initial_state, states with on_enter, transitions,
timeout, timeout_next, terminal) and loads unchanged; ours adds

    top         vocabulary, anywhere, voice, language
    state       reprompt {no_input, no_match, give_up}, barge_in
    transition  hears [patterns], digits "pattern", keypad {slot: {key: value}}, set {variable: text},
                the events enter, no_input and no_match, the target "." (or "repeat")

A transition with `hears` waits for speech, one with `digits` or `keypad` for keys, one with both
for either; `event` need not be written then. What the whole of the states must satisfy is judged
in `survey.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import yaml

from flowcatd.agent.document import Document, line_of
from flowcatd.agent.duration import ALLOWED, maybe_duration
from flowcatd.agent.functions import TemplateError
from flowcatd.agent.grammar import hints, jsgf
from flowcatd.agent.grounds import maybe_grounds
from flowcatd.agent.keypad import KEYS, KeypadError, Keys, parse_keys
from flowcatd.agent.matcher import Matcher
from flowcatd.agent.phrase import Form, Node, PhraseError, Vocabulary, parse_phrase
from flowcatd.agent.script import (
    NEEDED,
    STAY,
    Dialog,
    Event,
    Kind,
    Reprompt,
    State,
    Step,
    Transition,
)
from flowcatd.agent.survey import survey
from flowcatd.agent.template import Template, parse_template
from flowcatd.errors import ConfigError, nearest
from flowcatd.services import Hearing

MAX_STATES = 1_000
"""States in one file; what is larger is several dialogs."""
DEFAULT_TIMEOUT = 7.0
"""Seconds of silence before the first reprompt of a state that names no timeout."""

_TOP = (
    "name", "version", "description", "variables", "initial_state", "states",
    "vocabulary", "anywhere", "voice", "language",
)  # fmt: skip
_STATE = (
    "on_enter", "transitions", "timeout", "timeout_next", "terminal", "reprompt", "barge_in",
)  # fmt: skip
_TRANSITION = ("event", "condition", "target", "actions", "hears", "digits", "keypad", "set")
_STAYING = (STAY, "repeat")  # unless a state is called so
_REPROMPT = ("no_input", "no_match", "give_up")
_HOOK = (
    "url", "auth_type", "auth_secret", "timeout_sec", "headers", "service", "method", "payload",
)  # fmt: skip


_PARAMS = {
    Kind.CALL_HOOK: _HOOK,
    Kind.HANGUP: ("reason",),
    Kind.PLAY_TTS: ("text", "voice"),
    Kind.TRANSFER: ("target",),
}  # the others take any name


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of reading a file."""

    dialog: Dialog | None
    """None when there are errors."""
    errors: list[ConfigError]
    warnings: list[ConfigError]


def load_dialog(text: str, where: str) -> Dialog:
    """Give the dialog; raises the first ConfigError. `where` names the file in messages."""
    reading = read_dialog(text, where)
    if reading.dialog is None:
        raise reading.errors[0]
    return reading.dialog


def check_dialog(text: str, where: str) -> list[ConfigError]:
    """Give everything that keeps the file from being loaded, in the order of its lines."""
    return read_dialog(text, where).errors


def read_dialog(text: str, where: str) -> Reading:
    """Give the dialog, if it has no errors, with everything noticed about it."""
    document = Document(where)
    root = document.compose(text)
    dialog = _Reader(document).dialog(root) if root is not None else None
    errors = sorted(document.errors, key=_line)
    return Reading(None if errors else dialog, errors, sorted(document.warnings, key=_line))


def _line(error: ConfigError) -> int:
    return int(error.where.rpartition(":")[2])


class _Reader:
    """Walks the document by the schema above."""

    def __init__(self, document: Document) -> None:
        self._file = document
        self._vocabulary: Vocabulary = {}
        self._states: Collection[str] = ()

    def dialog(self, root: yaml.MappingNode) -> Dialog:
        file, top = self._file, self._file.mapping(root, "", _TOP)
        plain = {
            key: file.text(top[key], key)
            for key in ("name", "version", "description", "initial_state", "voice", "language")
            if key in top
        }
        for key in ("name", "initial_state"):
            if not plain.get(key):
                file.error(line_of(top.get(key, root)), key, "missing")
        if "vocabulary" in top:
            self._vocabulary = self._read_vocabulary(top["vocabulary"])
        nodes = file.mapping(top["states"], "states") if "states" in top else {}
        if not 1 <= len(nodes) <= MAX_STATES:
            line = line_of(top.get("states", root))
            file.error(line, "states", f"a dialog has 1 to {MAX_STATES} states")
        self._states = nodes.keys()
        if plain.get("initial_state"):
            self._target(top, "", "initial_state")
        everywhere = self._transitions(top["anywhere"], "anywhere") if "anywhere" in top else []
        self._check_everywhere(everywhere)
        dialog = Dialog(
            name=plain.get("name", ""),
            initial_state=plain.get("initial_state", ""),
            states={name: self._state(name, node, everywhere) for name, node in nodes.items()},
            version=plain.get("version", ""),
            description=plain.get("description", ""),
            variables=self._variables(top.get("variables")),
            vocabulary=self._vocabulary,
            language=plain.get("language") or "en-US",
            voice=plain.get("voice", ""),
        )
        survey(dialog, file)
        return self._with_ears(dialog)

    def _variables(self, node: yaml.Node | None) -> dict[str, str]:
        if node is None:
            return {}
        pairs = self._file.mapping(node, "variables").items()
        return {name: self._file.text(value, f"variables.{name}") for name, value in pairs}

    def _read_vocabulary(self, node: yaml.Node) -> Vocabulary:
        found: dict[str, tuple[Form, ...]] = {}
        for name, values in self._file.mapping(node, "vocabulary").items():
            forms = []
            key = f"vocabulary.{name}"
            if not name.isidentifier() or not name.isascii():
                self._file.error(line_of(values), key, "a vocabulary's name is letters and digits")
            for value, spoken in self._file.mapping(values, key).items():
                trees = self._phrases(spoken, f"{key}.{value}", None)
                if trees:
                    forms.append(Form(value, trees))
            if not forms:
                self._file.error(line_of(values), key, "a vocabulary needs spoken forms")
            found[name] = tuple(forms)
        return found

    def _check_everywhere(self, transitions: list[Transition]) -> None:
        for transition in transitions:
            if transition.event is Event.ENTER:
                self._file.error(
                    transition.line, f"{transition.key}.event", "'enter' belongs to one state"
                )

    def _state(self, name: str, node: yaml.Node, everywhere: list[Transition]) -> State:
        key = f"states.{name}"
        found = self._file.mapping(node, key, _STATE)
        own = self._transitions(found["transitions"], f"{key}.transitions") if (
            "transitions" in found
        ) else []  # fmt: skip
        terminal = self._truth(found, key, "terminal", default=False)
        moves: dict[Event, list[Transition]] = {}
        for transition in own if terminal else own + everywhere:
            moves.setdefault(transition.event, []).append(transition)
        reprompt = self._reprompt(found["reprompt"], f"{key}.reprompt") if (
            "reprompt" in found
        ) else Reprompt()  # fmt: skip
        timeout = self._timeout(found, key)
        if timeout is None and (reprompt.no_input or reprompt.give_up):
            timeout = DEFAULT_TIMEOUT
        return State(
            name=name,
            line=line_of(node),
            on_enter=self._steps(found["on_enter"], f"{key}.on_enter")
            if "on_enter" in found
            else (),
            moves={event: tuple(listed) for event, listed in moves.items()},
            timeout=timeout,
            timeout_next=self._target(found, key, "timeout_next"),
            terminal=terminal,
            reprompt=reprompt,
            barge_in=self._truth(found, key, "barge_in", default=True),
            own=len(own),
        )

    def _truth(self, found: Mapping[str, yaml.Node], key: str, name: str, *, default: bool) -> bool:
        return self._file.truth(found[name], f"{key}.{name}") if name in found else default

    def _timeout(self, found: Mapping[str, yaml.Node], key: str) -> float | None:
        if "timeout" not in found:
            return None
        text = self._file.text(found["timeout"], f"{key}.timeout")
        seconds = maybe_duration(text)
        if seconds is None and text:
            line = line_of(found["timeout"])
            self._file.error(line, f"{key}.timeout", f"'{text}' is not {ALLOWED}")
        return seconds or None  # as in voicetyped, "0s" means never

    def _reprompt(self, node: yaml.Node, key: str) -> Reprompt:
        found = self._file.mapping(node, key, _REPROMPT)
        lists = {
            name: tuple(
                self._template(item, key, text=text)
                for text, item in self._file.texts(found[name], f"{key}.{name}")
            )
            for name in ("no_input", "no_match")
            if name in found
        }
        give_up = self._target(found, key, "give_up")
        if not give_up:
            self._file.error(
                line_of(node), f"{key}.give_up", "missing: the state to go to after the last text"
            )
        return Reprompt(lists.get("no_input", ()), lists.get("no_match", ()), give_up)

    # --- transitions ---------------------------------------------------------------------------

    def _transitions(self, node: yaml.Node, key: str) -> list[Transition]:
        found: list[Transition] = []
        for number, item in enumerate(self._file.sequence(node, key)):
            found += self._transition(item, f"{key}[{number}]")
        return found

    def _transition(self, node: yaml.Node, key: str) -> list[Transition]:
        found = self._file.mapping(node, key, _TRANSITION)
        target = self._target(found, key, "target")
        if not target:
            self._file.error(line_of(node), f"{key}.target", "missing")
        sets = self._file.mapping(found["set"], f"{key}.set") if "set" in found else {}
        plain = Transition(
            event=Event.SPEECH,
            target=target,
            line=line_of(node),
            key=key,
            condition=self._template(found["condition"], f"{key}.condition")
            if "condition" in found
            else None,
            sets=tuple(
                (name, self._template(value, f"{key}.set.{name}")) for name, value in sets.items()
            ),
            steps=self._steps(found["actions"], f"{key}.actions") if "actions" in found else (),
        )
        hears = self._phrases(found["hears"], f"{key}.hears", self._vocabulary) if (
            "hears" in found
        ) else ()  # fmt: skip
        menu = self._menu(found["keypad"], f"{key}.keypad") if "keypad" in found else None
        keys = self._keys(found, key, menu)
        return [
            replace(plain, event=event, hears=hears if event is Event.SPEECH else (),
                    keys=keys if event is Event.DTMF else None,
                    menu=menu if event is Event.DTMF else None)
            for event in self._events(found, node, key)
        ]  # fmt: skip

    def _events(self, found: Mapping[str, yaml.Node], node: yaml.Node, key: str) -> list[Event]:
        implied = [Event.SPEECH] * ("hears" in found)
        implied += [Event.DTMF] * ("digits" in found or "keypad" in found)
        if "event" not in found:
            if not implied:
                self._file.error(line_of(node), f"{key}.event", "missing")
            return implied
        name = self._file.text(found["event"], f"{key}.event")
        if name not in list(Event):
            guess = nearest(name, list(Event)) or f"; allowed are {', '.join(Event)}"
            self._file.error(line_of(found["event"]), f"{key}.event", f"no event '{name}'{guess}")
            return []
        event = Event(name)
        for other in implied:
            if other is not event:
                self._file.error(
                    line_of(found["event"]), f"{key}.event",
                    f"'{event}' here, but the transition waits for {other} as well: leave event out",
                )  # fmt: skip
        return [event]

    def _target(self, found: Mapping[str, yaml.Node], key: str, name: str) -> str:
        if name not in found:
            return ""
        full = f"{key}.{name}" if key else name
        target = self._file.text(found[name], full)
        if name == "target" and target in _STAYING and target not in self._states:
            return STAY
        if target and target not in self._states:
            guess = nearest(target, self._states)
            self._file.error(line_of(found[name]), full, f"no state '{target}'{guess}")
        return target

    def _phrases(
        self, node: yaml.Node, key: str, vocabulary: Vocabulary | None
    ) -> tuple[Node, ...]:
        trees = []
        texts = self._file.texts(node, key)
        if not texts:
            self._file.error(line_of(node), key, "at least one pattern is wanted here")
        for text, item in texts:
            try:
                trees.append(parse_phrase(text, vocabulary))
            except PhraseError as problem:
                self._file.error(line_of(item), key, str(problem))
        return tuple(trees)

    def _menu(self, node: yaml.Node, key: str) -> tuple[str, dict[str, str]] | None:
        slots = self._file.mapping(node, key)
        if len(slots) != 1:
            self._file.error(line_of(node), key, "one slot is wanted here, with a value per key")
            return None
        (slot, values), *_ = slots.items()
        found: dict[str, str] = {}
        for digit, value in self._file.mapping(values, f"{key}.{slot}").items():
            if len(digit) != 1 or digit not in KEYS:
                self._file.error(
                    line_of(value), f"{key}.{slot}.{digit}", f"a key is one of {' '.join(KEYS)}"
                )
            found[digit] = self._file.text(value, f"{key}.{slot}.{digit}")
        return slot, found

    def _keys(
        self, found: Mapping[str, yaml.Node], key: str, menu: tuple[str, dict[str, str]] | None
    ) -> Keys | None:
        if menu is not None:
            if "digits" in found:
                self._file.error(
                    line_of(found["digits"]), f"{key}.digits", "keypad says it already"
                )
            return Keys((("".join(menu[1]), False),))
        if "digits" not in found:
            return None
        try:
            return parse_keys(self._file.text(found["digits"], f"{key}.digits"))
        except KeypadError as problem:
            self._file.error(line_of(found["digits"]), f"{key}.digits", str(problem))
            return None

    # --- actions -------------------------------------------------------------------------------

    def _steps(self, node: yaml.Node, key: str) -> tuple[Step, ...]:
        made = [
            self._step(item, f"{key}[{number}]")
            for number, item in enumerate(self._file.sequence(node, key))
        ]
        return tuple(step for step in made if step is not None)

    def _step(self, node: yaml.Node, key: str) -> Step | None:
        found = self._file.mapping(node, key, ("type", "params"))
        name = self._file.text(found["type"], f"{key}.type") if "type" in found else ""
        if name not in list(Kind):
            guess = nearest(name, list(Kind)) or f"; allowed are {', '.join(Kind)}"
            line = line_of(found.get("type", node))
            self._file.error(line, f"{key}.type", f"no action '{name}'{guess}")
            return None
        kind = Kind(name)
        given = self._file.mapping(found["params"], f"{key}.params", _PARAMS.get(kind)) if (
            "params" in found
        ) else {}  # fmt: skip
        for needed in NEEDED.get(kind, ()):
            if needed not in given:
                self._file.error(line_of(node), f"{key}.params.{needed}", "missing")
        if kind is Kind.PLAY_AUDIO:
            self._file.warn(line_of(node), key, "play_audio is not carried out yet; use play_tts")
        return Step(kind, self._params(given, f"{key}.params"), line_of(node))

    def _params(self, given: Mapping[str, yaml.Node], key: str) -> dict[str, Template]:
        params: dict[str, Template] = {}
        for name, value in given.items():
            if name == "headers" and isinstance(value, yaml.MappingNode):
                for header, text in self._file.mapping(value, f"{key}.headers").items():
                    params[f"headers.{header}"] = self._template(text, f"{key}.headers.{header}")
            else:
                params[name] = self._template(value, f"{key}.{name}")
        return params

    def _template(self, node: yaml.Node, key: str, *, text: str | None = None) -> Template:
        source = self._file.text(node, key) if text is None else text
        try:
            return parse_template(source)
        except TemplateError as problem:
            self._file.error(line_of(node), key, str(problem))
            return parse_template("")

    # --- what can be heard ---------------------------------------------------------------------

    def _with_ears(self, dialog: Dialog) -> Dialog:
        states: dict[str, State] = {}
        hearings: dict[Hearing, Hearing] = {}  # equal ones are one: the player compares identity
        for name, state in dialog.states.items():
            speech = state.moves.get(Event.SPEECH, ())
            said = [(number, tree) for number, move in enumerate(speech) for tree in move.hears]
            try:
                matcher = Matcher(said, self._vocabulary)
            except PhraseError as problem:
                self._file.error(state.line, f"states.{name}", str(problem))
                continue
            hearing = _hearing(speech, self._vocabulary, dialog.language)
            hearing = hearings.setdefault(hearing, hearing)
            states[name] = replace(state, matcher=matcher, hearing=hearing)
        return replace(dialog, states=states)


def _hearing(speech: tuple[Transition, ...], vocabulary: Vocabulary, language: str) -> Hearing:
    trees: list[Node] = []
    is_open = False
    for move in speech:
        grounds = move.hears or (maybe_grounds(move.condition) if move.condition else None)
        is_open |= grounds is None
        trees += grounds or ()
    grammar = "" if is_open else jsgf(trees, vocabulary)
    return Hearing(grammar=grammar, hints=hints(trees, vocabulary), language=language)
