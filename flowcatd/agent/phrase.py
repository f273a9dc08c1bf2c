"""What a caller may say, as patterns: `"(on|for) <day> [at <time>] [please]"`.

    words        themselves; letters, digits and ' in any case
    a | b        either
    ( a b )      a group
    [ a b ]      may be left out
    <day>        one of the vocabulary's spoken forms; fills the slot `day` with the form's value
    <day:new>    the same, filling the slot `new`
    ...          up to six words of any kind (for a recogniser's grammar: only words of hesitation)

One tree serves four readers: a grammar for the recogniser (`grammar.py`), a matcher for what was
recognised (`matcher.py`), the list of words, and sample sentences for tests. There is no
repetition, so the sentences of a pattern are finitely many and matching is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from flowcatd.errors import FlowcatdError, nearest

MAX_PATTERN = 500
"""Characters in one pattern; a longer one is several."""
MAX_DEPTH = 8
"""Brackets inside each other."""
HESITATIONS = ("uh", "um", "er", "erm", "ah", "hmm")
"""What people say while they think: never part of a pattern, dropped from what was heard."""

_TOKEN = re.compile(
    r"\s*(?:(?P<any>\.\.\.)|<(?P<slot>[^<>]*)>|(?P<word>[^\W_][\w']*|'[^\W_][\w']*)|(?P<mark>[()\[\]|])|(?P<bad>\S))"
)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_HEARD = re.compile(r"[^\W_]+(?:'[^\W_]+)*'?")
_SILENT = frozenset(HESITATIONS)


class PhraseError(FlowcatdError):
    """A pattern is wrong; the message names the place in it."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word, in lower case."""

    text: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of them, the first preferred."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Maybe:
    """It, or nothing."""

    item: Node


@dataclass(frozen=True, slots=True)
class Anything:
    """Up to six words of any kind."""

    most: int = 6


@dataclass(frozen=True, slots=True)
class Slot:
    """One form of a vocabulary; its value goes into the slot `name`."""

    vocabulary: str
    name: str


Node = Word | Sequence | Choice | Maybe | Anything | Slot


@dataclass(frozen=True, slots=True)
class Form:
    """One value of a vocabulary and how it is spoken."""

    value: str
    spoken: tuple[Node, ...]


Vocabulary = Mapping[str, tuple[Form, ...]]
"""Name to its forms."""


def words_of(text: str) -> list[str]:
    """Give the words of what was heard: lower case, no punctuation, no hesitations."""
    return [word for word in _HEARD.findall(text.lower()) if word not in _SILENT]


def parse_phrase(text: str, vocabulary: Vocabulary | None) -> Node:
    """Give the pattern's tree; raises PhraseError. Without a vocabulary, slots are refused."""
    if len(text) > MAX_PATTERN:
        raise PhraseError(f"a pattern is longer than {MAX_PATTERN} characters")
    node = _Parser(text, vocabulary).whole()
    if is_silent(node):
        raise PhraseError("the pattern is also true of silence; something in it must be said")
    return node


def is_silent(node: Node) -> bool:
    """Whether saying nothing at all would match."""
    match node:
        case Maybe() | Anything():
            return True
        case Sequence(items):
            return all(is_silent(item) for item in items)
        case Choice(items):
            return any(is_silent(item) for item in items)
        case _:
            return False


def nodes_in(node: Node) -> Iterator[Node]:
    """Give the node and everything inside it."""
    yield node
    match node:
        case Sequence(items) | Choice(items):
            for item in items:
                yield from nodes_in(item)
        case Maybe(item):
            yield from nodes_in(item)


def slots_in(node: Node) -> set[str]:
    """Give the names of the slots that the pattern can fill."""
    return {inner.name for inner in nodes_in(node) if isinstance(inner, Slot)}


def words_in(node: Node, vocabulary: Vocabulary) -> set[str]:
    """Give every word that a sentence of the pattern can contain, for a look into dictionaries."""
    found: set[str] = set()
    for inner in nodes_in(node):
        if isinstance(inner, Word):
            found.add(inner.text)
        elif isinstance(inner, Slot):
            for form in vocabulary[inner.vocabulary]:
                for spoken in form.spoken:
                    found |= words_in(spoken, vocabulary)
    return found


def sample(
    node: Node, vocabulary: Vocabulary, choose: Callable[[int], int]
) -> tuple[list[str], dict[str, str]]:
    """Give one sentence and the slots it fills; `choose(n)` picks a number below n at each fork."""
    match node:
        case Word(text):
            return [text], {}
        case Sequence(items):
            said: list[str] = []
            slots: dict[str, str] = {}
            for item in items:
                more, filled = sample(item, vocabulary, choose)
                said += more
                slots |= filled
            return said, slots
        case Choice(items):
            return sample(items[choose(len(items))], vocabulary, choose)
        case Maybe(item):
            return ([], {}) if choose(2) else sample(item, vocabulary, choose)
        case Anything(most):
            return ["whatever"] * choose(most + 1), {}
        case Slot(name, slot):
            form = vocabulary[name][choose(len(vocabulary[name]))]
            spoken = form.spoken[choose(len(form.spoken))]
            return sample(spoken, vocabulary, choose)[0], {slot: form.value}


def sentences(node: Node, vocabulary: Vocabulary, limit: int) -> list[tuple[str, dict[str, str]]]:
    """Give the first `limit` sentences with the slots they fill, in the order of the pattern."""
    found: list[tuple[str, dict[str, str]]] = []
    # The forks of one sentence form a number whose digits have varying bases: count it up.
    path: list[int] = []
    while len(found) < limit:
        forks: list[int] = []

        def choose(count: int, path: list[int] = path, forks: list[int] = forks) -> int:
            if len(forks) == len(path):
                path.append(0)
            forks.append(count)
            return path[len(forks) - 1]

        said, slots = sample(node, vocabulary, choose)
        found.append((" ".join(said), slots))
        while path and path[-1] + 1 >= forks[len(path) - 1]:
            path.pop()
        if not path:
            break
        path[-1] += 1
    return found


class _Parser:
    """Recursive descent: choice, sequence, item."""

    def __init__(self, text: str, vocabulary: Vocabulary | None) -> None:
        self._tokens = [found for found in _TOKEN.finditer(text) if found[0].strip()]
        self._vocabulary = vocabulary
        self._next = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._choice()
        if (token := self._peek()) is not None:
            raise self._error(f"'{token['mark']}' closes nothing", token)
        return node

    def _choice(self) -> Node:
        items = [self._sequence()]
        while (token := self._peek()) is not None and token["mark"] == "|":
            self._next += 1
            items.append(self._sequence())
        return items[0] if len(items) == 1 else Choice(tuple(items))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while (token := self._peek()) is not None and token["mark"] not in {"|", ")", "]"}:
            items.append(self._item(token))
        if not items:
            raise self._error("nothing is said here", token)
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def _item(self, token: re.Match[str]) -> Node:
        self._next += 1
        if token["any"]:
            return Anything()
        if token["word"]:
            return self._word(token)
        if token["slot"] is not None:
            return self._slot(token)
        if token["bad"]:
            raise self._error(f"'{token['bad']}' is not understood", token)
        return self._group(token)

    def _word(self, token: re.Match[str]) -> Node:
        word = token["word"].lower()
        if word in _SILENT:
            raise self._error(f"'{word}' is dropped from what is heard", token)
        return Word(word)

    def _group(self, opened: re.Match[str]) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} brackets inside each other", opened)
        node = self._choice()
        closing = ")" if opened["mark"] == "(" else "]"
        token = self._peek()
        if token is None or token["mark"] != closing:
            raise self._error(f"'{closing}' is missing", token)
        self._next += 1
        self._depth -= 1
        return node if closing == ")" else Maybe(node)

    def _slot(self, token: re.Match[str]) -> Node:
        vocabulary, _, name = token["slot"].partition(":")
        if self._vocabulary is None:
            raise self._error("a spoken form cannot refer to a vocabulary", token)
        if vocabulary not in self._vocabulary:
            known = ", ".join(sorted(self._vocabulary)) or "none"
            guess = nearest(vocabulary, self._vocabulary)
            raise self._error(
                f"no vocabulary '{vocabulary}'{guess or f'; there is {known}'}", token
            )
        name = name or vocabulary
        if not _NAME.fullmatch(name):
            raise self._error(f"'{name}' is no name for a slot", token)
        return Slot(vocabulary, name)

    def _peek(self) -> re.Match[str] | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _error(self, problem: str, token: re.Match[str] | None) -> PhraseError:
        if token is None:
            return PhraseError(f"at the end: {problem}")
        at = token.start() + len(token[0]) - len(token[0].lstrip()) + 1
        return PhraseError(f"character {at}: {problem}")
