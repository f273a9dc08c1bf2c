"""From phrase patterns to what a recogniser is told: a JSGF grammar body and a list of hints.

The grammar has one public rule `<utterance>`, a rule per pattern and a rule per vocabulary in use;
the header and the path for everything else are the recogniser's own (services.Hearing). `...`
becomes up to two words that mean nothing, since a grammar cannot say "anything".

Source: JSpeech Grammar Format, W3C Note, 5 June 2000 (www.w3.org/TR/jsgf): sequences, `|`, `( )`,
`[ ]`, and `<rule>` references; an apostrophe is an ordinary character of a token.
"""

from __future__ import annotations

from collections.abc import Sequence as Listed

from flowcatd.agent.phrase import (
    Anything,
    Choice,
    Maybe,
    Node,
    Sequence,
    Slot,
    Vocabulary,
    Word,
    nodes_in,
    sentences,
)

MAX_HINTS = 100
"""Phrases in a hint list; vendors take between 100 and 500."""

_FILLER = "filler"
_FILLERS = ("uh", "um", "ah", "well", "so", "please")
# Those that stand in the CMU dictionary: an unknown word would spoil the whole grammar.


def jsgf(patterns: Listed[Node], vocabulary: Vocabulary) -> str:
    """Give the grammar body that accepts exactly the sentences of the patterns; "" for none."""
    trees = list(dict.fromkeys(patterns))
    if not trees:
        return ""
    rules = [f"<p{number}> = {_text(tree)};" for number, tree in enumerate(trees)]
    inner = [node for tree in trees for node in nodes_in(tree)]
    for name in dict.fromkeys(node.vocabulary for node in inner if isinstance(node, Slot)):
        spoken = [_text(tree) for form in vocabulary[name] for tree in form.spoken]
        rules.append(f"<v_{name}> = {' | '.join(dict.fromkeys(spoken))};")
    if any(isinstance(node, Anything) for node in inner):
        rules.append(f"<{_FILLER}> = {' | '.join(_FILLERS)};")
    names = " | ".join(f"<p{number}>" for number in range(len(trees)))
    return "\n".join([f"public <utterance> = {names};", *rules])


def hints(patterns: Listed[Node], vocabulary: Vocabulary) -> tuple[str, ...]:
    """Give what is worth boosting: the vocabularies' spoken forms, then the patterns' words."""
    found: dict[str, None] = {}
    inner = [node for tree in patterns for node in nodes_in(tree)]
    for name in dict.fromkeys(node.vocabulary for node in inner if isinstance(node, Slot)):
        for form in vocabulary[name]:
            for tree in form.spoken:
                found.update(dict.fromkeys(text for text, _ in sentences(tree, vocabulary, 2)))
    found.update(dict.fromkeys(node.text for node in inner if isinstance(node, Word)))
    return tuple(found)[:MAX_HINTS]


def _text(node: Node) -> str:
    match node:
        case Word(text):
            return text
        case Sequence(items):
            return " ".join(_text(item) for item in items)
        case Choice(items):
            return f"({' | '.join(_text(item) for item in items)})"
        case Maybe(item):
            return f"[{_text(item)}]"
        case Anything():
            return f"[<{_FILLER}> [<{_FILLER}>]]"
        case Slot(name, _):
            return f"<v_{name}>"
