"""What does a condition listen for? Phrases read out of the conditions of voicetyped's files.

Those files have no `hears`: a state compares the transcript in its conditions. Where a condition
says plainly what it waits for, that becomes a pattern, so that a recogniser with a grammar works
without a word more in the file:

    eq .Event "yes" "sure"                  the phrase "yes", the phrase "sure"
    contains .Event "billing"               "billing" among other words
    hasPrefix .Event "call"                 "call" and what follows
    or A B                                  what A and what B listen for
    and A B                                 what either of them listens for, as far as known

`lower`, `upper` and `trim` around `.Event` change nothing here. Anything else (`not`, `ne`, a
comparison of variables alone) tells nothing, and the state has to listen openly.
"""

from __future__ import annotations

from flowcatd.agent.phrase import Anything, Node, Sequence, Word, words_of
from flowcatd.agent.template import Call, Field, Literal, Template
from flowcatd.agent.template import Node as Expression

_EVENT = Field(("Event",))
_SHAPING = {"lower", "upper", "trim"}


def maybe_grounds(condition: Template) -> tuple[Node, ...] | None:
    """Give the patterns that the condition waits for, or None when it does not tell."""
    parts = [part for part in condition.parts if not (isinstance(part, str) and not part.strip())]
    if len(parts) != 1 or not isinstance(parts[0], Call):
        return None
    return _of(parts[0])


def _of(node: Expression) -> tuple[Node, ...] | None:
    if not isinstance(node, Call):
        return None
    if node.name in {"or", "and"}:
        return _joined(node.name, [_of(arg) for arg in node.args])
    said = [_said(arg) for arg in node.args if isinstance(arg, Literal)]
    heard = [arg for arg in node.args if not isinstance(arg, Literal)]
    if len(heard) != 1 or not _is_event(heard[0]) or not said or not all(said):
        return None
    match node.name:
        case "eq":
            return tuple(_phrase(words) for words in said)
        case "contains":
            return (Sequence((Anything(), _phrase(said[0]), Anything())),)
        case "hasPrefix":
            return (Sequence((_phrase(said[0]), Anything())),)
        case _:
            return None


def _joined(name: str, found: list[tuple[Node, ...] | None]) -> tuple[Node, ...] | None:
    known = [grounds for grounds in found if grounds is not None]
    if not known or (name == "or" and len(known) < len(found)):
        return None
    return tuple(node for grounds in known for node in grounds)


def _said(literal: Literal) -> list[str]:
    return words_of(literal.value) if isinstance(literal.value, str) else []


def _phrase(words: list[str]) -> Node:
    return Sequence(tuple(Word(word) for word in words)) if len(words) > 1 else Word(words[0])


def _is_event(node: Expression) -> bool:
    while isinstance(node, Call) and node.name in _SHAPING and len(node.args) == 1:
        node = node.args[0]
    return node == _EVENT
