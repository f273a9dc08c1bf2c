"""Which of many patterns did the caller say, and what did they fill in?

All patterns of a state become one automaton over words. Each word of a pattern is a place; from a
place a table leads from the next word to further places, in the order of preference: an earlier
pattern, an earlier alternative, an optional part taken rather than not, a word that is named rather
than swallowed by `...`. Reading a sentence keeps the places it could be at, the preferred first,
each at most once and each with the slots filled on the way. So the work per word is bounded by the
number of places, whatever is said.

This is Thompson's simulation with priorities and captures (Russ Cox, "Regular Expression Matching:
the Virtual Machine Approach", swtch.com/~rsc/regexp/regexp2.html) on the automaton of Glushkov,
which has a place per letter and no empty moves; our letters are words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from flowcatd.agent.phrase import (
    Anything,
    Choice,
    Maybe,
    Node,
    PhraseError,
    Sequence,
    Slot,
    Vocabulary,
    Word,
)

MAX_WORDS = 60
"""Words looked at; more match nothing. Half a minute of speech has about as many."""
MAX_PLACES = 50_000
"""Places in one state's automaton, some tens of megabytes: far beyond any real menu."""

_Filled = tuple[tuple[str, str], ...]
_Target = tuple[int, _Filled]


@dataclass(frozen=True, slots=True)
class _Link:
    """A way on: by the word (None: by any word) to a place; "" is the end, owned by `to`."""

    word: str | None
    to: int
    filled: _Filled = ()


@dataclass(slots=True)
class _Row:
    """A place's table."""

    steps: dict[str, tuple[_Target, ...]] = field(default_factory=dict)
    others: tuple[_Target, ...] = ()
    """Where any word leads."""
    owners: tuple[int, ...] = ()
    """Whose sentence may end here."""


class Matcher:
    """The patterns of one state; immutable once built, shared by all calls."""

    __slots__ = ("_rows",)

    def __init__(self, patterns: Iterable[tuple[int, Node]], vocabulary: Vocabulary) -> None:
        """`patterns` are (owner, tree), preferred first; raises PhraseError when they are too many."""
        self._rows = _Automaton(vocabulary).rows(patterns)

    def match(self, words: list[str]) -> dict[int, dict[str, str]]:
        """Give owner → slots for each pattern that `words` as a whole can be, preferred first."""
        if len(words) > MAX_WORDS:
            return {}
        rows = self._rows
        places: dict[int, _Filled] = {0: ()}
        for word in words:
            places = _step(rows, places, word)
        found: dict[int, dict[str, str]] = {}
        for place, filled in places.items():
            for owner in rows[place].owners:
                if owner not in found:
                    found[owner] = dict(filled)
        return found


def _step(rows: list[_Row], places: dict[int, _Filled], word: str) -> dict[int, _Filled]:
    reached: dict[int, _Filled] = {}
    swallowing: list[tuple[_Row, _Filled]] = []
    for place, filled in places.items():
        row = rows[place]
        for target, more in row.steps.get(word, ()):
            if target not in reached:
                reached[target] = filled + more if more else filled
        if row.others:
            swallowing.append((row, filled))
    for row, filled in swallowing:
        for target, more in row.others:
            reached.setdefault(target, filled + more)
    return reached


class _Automaton:
    """Builds back to front: a node is given the links that follow it and gives those into it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._places: list[list[_Link]] = [[]]

    def rows(self, patterns: Iterable[tuple[int, Node]]) -> list[_Row]:
        """Give the table of every place; place 0 is where a sentence begins."""
        for owner, tree in patterns:
            self._places[0] += self._into(tree, [_Link("", owner)])
        made: dict[int, _Row] = {}  # the forms of a vocabulary share what follows them
        for links in self._places:
            if id(links) not in made:
                made[id(links)] = _row(links)
        return [made[id(links)] for links in self._places]

    def _into(self, node: Node, follow: list[_Link]) -> list[_Link]:
        match node:
            case Word(text):
                return [_Link(text, self._place(follow))]
            case Sequence(items):
                for item in reversed(items):
                    follow = self._into(item, follow)
                return follow
            case Choice(items):
                return [link for item in items for link in self._into(item, follow)]
            case Maybe(item):
                return self._into(item, follow) + follow
            case Anything(most):
                skip = follow
                for _ in range(most):  # what follows is preferred to being swallowed
                    skip = [*follow, _Link(None, self._place(skip))]
                return skip
            case Slot(name, slot):
                return [
                    _Link(link.word, link.to, ((slot, form.value), *link.filled))
                    for form in self._vocabulary[name]
                    for spoken in form.spoken
                    for link in self._into(spoken, follow)
                ]

    def _place(self, links: list[_Link]) -> int:
        if len(self._places) >= MAX_PLACES:
            raise PhraseError("the patterns of this state are too many together")
        self._places.append(links)
        return len(self._places) - 1


def _row(links: list[_Link]) -> _Row:
    steps: dict[str, list[_Target]] = {}
    for link in links:
        if link.word:
            steps.setdefault(link.word, []).append((link.to, link.filled))
    return _Row(
        {word: tuple(targets) for word, targets in steps.items()},
        tuple((link.to, link.filled) for link in links if link.word is None),
        tuple(link.to for link in links if link.word == ""),
    )
