"""The text templates of dialog files: a small, closed subset of Go's text/template.

`{{ expression }}`, `{{ if … }} {{ else if … }} {{ else }} {{ end }}`, comments `{{/* */}}` and the
trim marks `{{-` and `-}}`. An expression is a value, a function with its arguments, or a pipe of
them; values are fields of the scope below, literals, and expressions in brackets. There are no
loops, no assignments and no methods, so every template ends, and nothing of Python is reachable.

A template is parsed once, when its file is loaded, into a tree (`Literal`, `Field`, `Member`,
`Call`, read by `grounds.py` to learn what a condition listens for) and from there into closures.
Unlike Go, what is missing prints as nothing, for it would be spoken to somebody.

Functions and their arguments are rows in `functions.py`. Source: pkg.go.dev/text/template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flowcatd.agent.functions import LIMIT, TABLE, TemplateError, is_true, member, text_of
from flowcatd.errors import nearest

MAX_SOURCE = 16_384
"""Characters in one template: some pages of speech; a limit on what is parsed, not a wish."""
MAX_DEPTH = 32
"""Brackets and ifs inside each other, since both are parsed by recursion."""

_ROOTS = {
    "Variables": "variables",
    "Event": "event",
    "Result": "result",
    "Session": "session",
    "Slots": "slots",
}
_TOKEN = re.compile(
    r"""(?P<close>(?:\s+-)?\}\})|(?P<space>\s+)
    |(?P<string>"(?:\\.|[^"\\\n])*")|(?P<raw>`[^`]*`)|(?P<char>'(?:\\.|[^'\\\n])')
    |(?P<number>[-+]?\d+(?:\.\d+)?(?![\w.]))|(?P<field>(?:\.[A-Za-z_]\w*)+)|(?P<word>[A-Za-z_]\w*)
    |(?P<mark>[()|])""",
    re.VERBOSE | re.ASCII,
)
_OPEN = re.compile(r"\{\{-(?=\s)|\{\{")
_COMMENT = re.compile(r"\s*/\*.*?\*/(?:\s+-)?\}\}", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"', "'": "'"}
_CONSTANTS: dict[str, object] = {"true": True, "false": False, "nil": None}
_KEYWORDS = ("if", "else", "end")


@dataclass(slots=True)
class Scope:
    """What a template can see."""

    variables: Mapping[str, str] = field(default_factory=dict)
    event: object = ""
    """What was said, or the code of the key that was pressed."""
    result: Mapping[str, object] = field(default_factory=dict)
    """The data of the last hook's answer."""
    session: Mapping[str, str] = field(default_factory=dict)
    """About the call itself."""
    slots: Mapping[str, str] = field(default_factory=dict)
    """What the last phrase or keys filled in."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant."""

    value: object


@dataclass(frozen=True, slots=True)
class Field:
    """`.Variables.name`: a root of the scope and the way from there."""

    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """`(expression).name`."""

    of: Node
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the table, the piped value already among its arguments."""

    name: str
    args: tuple[Node, ...]


Node = Literal | Field | Member | Call


@dataclass(frozen=True, slots=True)
class If:
    """One part or the other."""

    condition: Node
    then: tuple[Part, ...]
    otherwise: tuple[Part, ...]


Part = str | Node | If
_Value = Callable[[Scope], object]
_Writer = Callable[[Scope], str]


class Template:
    """A parsed template; `parts` is its tree. Make one with `parse_template`."""

    __slots__ = ("_write", "constant", "parts", "source")

    def __init__(self, source: str, parts: tuple[Part, ...]) -> None:
        self.source = source
        self.parts = parts
        self.constant = all(isinstance(part, str) for part in parts)
        """Whether it says the same whatever the scope."""
        self._write = _writer(parts)

    def render(self, scope: Scope) -> str:
        """Give the text; raises TemplateError when a function refuses or 64 KiB are exceeded."""
        text = self._write(scope)
        if len(text) > LIMIT:
            raise TemplateError(f"the text is longer than {LIMIT} characters")
        return text

    def holds(self, scope: Scope) -> bool:
        """Whether the text counts as true: not empty, not `false`, not `<no value>`."""
        return self._write(scope).strip() not in {"", "false", "<no value>"}


def parse_template(source: str) -> Template:
    """Give the template; raises TemplateError naming the character where it goes wrong."""
    if len(source) > MAX_SOURCE:
        raise TemplateError(f"a template is longer than {MAX_SOURCE} characters")
    if "{{" not in source:
        return Template(source, (source,) if source else ())
    return Template(source, _Parser(source).template())


# --- parsing -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    """Recursive descent over one source; `_at` is where the next piece begins."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._tokens: list[_Token] = []
        self._next = 0
        self._depth = 0
        self._trim_next = False

    def template(self) -> tuple[Part, ...]:
        parts, stop = self._parts()
        if stop is not None:
            raise self._error(f"'{stop.text}' without an if", stop.at)
        return parts

    def _parts(self) -> tuple[tuple[Part, ...], _Token | None]:
        """Read until the end or an `else` or `end`, which is given back with its tokens waiting."""
        parts: list[Part] = []
        while (text := self._text_before_action()) is not None:
            if text:
                parts.append(text)
            if self._next >= len(self._tokens):
                continue  # a comment
            first = self._tokens[self._next]
            if first.text in {"else", "end"}:
                return tuple(parts), first
            if first.text == "if":
                self._next += 1
                parts.append(self._if(first))
            else:
                parts.append(self._whole_pipe())
        if rest := self._take_text(len(self._source)):
            parts.append(rest)
        return tuple(parts), None

    def _if(self, opened: _Token) -> If:
        self._deeper(opened.at)
        condition = self._whole_pipe()
        then, stop = self._parts()
        otherwise: tuple[Part, ...] = ()
        if stop is not None and stop.text == "else":
            self._next += 1
            if self._next < len(self._tokens) and self._tokens[self._next].text == "if":
                self._next += 1
                chained = If(condition, then, (self._if(stop),))  # its `end` is ours too
                self._depth -= 1
                return chained
            self._nothing_more()
            otherwise, stop = self._parts()
        if stop is None or stop.text != "end":
            raise self._error("this if has no end", opened.at)
        self._next += 1
        self._nothing_more()
        self._depth -= 1
        return If(condition, then, otherwise)

    def _text_before_action(self) -> str | None:
        """Give the text up to the next action and read the action's tokens; None without one."""
        opened = _OPEN.search(self._source, self._at)
        if opened is None:
            return None
        text = self._take_text(opened.start())
        if opened.end() - opened.start() == 3:
            text = text.rstrip()
        self._at = opened.end()
        self._tokens, self._next = [], 0
        if comment := _COMMENT.match(self._source, self._at):
            self._closed(comment[0], comment.end())
            return text
        self._read_tokens(opened.start())
        return text

    def _read_tokens(self, opened: int) -> None:
        at = self._at
        while found := _TOKEN.match(self._source, at):
            kind = found.lastgroup or ""
            if kind == "close":
                self._closed(found[0], found.end())
                if not self._tokens:
                    raise self._error("nothing between {{ and }}", opened)
                return
            if kind != "space":
                self._tokens.append(_Token(kind, found[0], at))
            at = found.end()
        if at >= len(self._source):
            raise self._error("'{{' without '}}'", opened)
        raise self._error(f"'{self._source[at]}' is not understood here", at)

    def _closed(self, mark: str, end: int) -> None:
        self._trim_next = mark.endswith("-}}")
        self._at = end

    def _take_text(self, end: int) -> str:
        text = self._source[self._at : end]
        return text.lstrip() if self._trim_next else text

    def _whole_pipe(self) -> Node:
        node = self._pipe()
        self._nothing_more()
        return node

    def _pipe(self) -> Node:
        node = self._command(None)
        while self._next < len(self._tokens) and self._tokens[self._next].text == "|":
            self._next += 1
            node = self._command(node)
        return node

    def _command(self, piped: Node | None) -> Node:
        first = self._peek()
        if first.kind != "word" or first.text in _CONSTANTS:
            if piped is not None:
                raise self._error("what follows '|' is not a function", first.at)
            node = self._operand()
            if self._next < len(self._tokens) and self._tokens[self._next].text not in {"|", ")"}:
                raise self._error("a value is no function: it takes no arguments", first.at)
            return node
        self._next += 1
        args: list[Node] = []
        while self._next < len(self._tokens) and self._tokens[self._next].text not in {"|", ")"}:
            args.append(self._operand())
        if piped is not None:
            args.append(piped)
        return self._call(first, tuple(args))

    def _call(self, name: _Token, args: tuple[Node, ...]) -> Call:
        row = TABLE.get(name.text)
        if row is None:
            known = f"; there are {', '.join(sorted(TABLE))}"
            guess = nearest(name.text, (*TABLE, *_KEYWORDS))
            raise self._error(f"no function '{name.text}'{guess or known}", name.at)
        if not row.least <= len(args) <= row.most:
            wanted = f"{row.least}" if row.least == row.most else f"at least {row.least}"
            raise self._error(f"'{name.text}' wants {wanted} values, not {len(args)}", name.at)
        return Call(name.text, args)

    def _operand(self) -> Node:
        token = self._peek()
        self._next += 1
        if token.text == "(":
            return self._bracket(token)
        if token.kind == "field":
            return Field(self._known_path(token))
        if token.kind == "word":
            if token.text in _CONSTANTS:
                return Literal(_CONSTANTS[token.text])
            return self._call(token, ())
        return Literal(self._literal(token))

    def _bracket(self, opened: _Token) -> Node:
        self._deeper(opened.at)
        node = self._pipe()
        closed = self._peek()  # a pipe ends at nothing else
        self._next += 1
        self._depth -= 1
        if self._next < len(self._tokens):
            after = self._tokens[self._next]
            if after.kind == "field" and after.at == closed.at + 1:
                self._next += 1
                return Member(node, tuple(after.text[1:].split(".")))
        return node

    def _known_path(self, token: _Token) -> tuple[str, ...]:
        path = tuple(token.text[1:].split("."))
        if path[0] not in _ROOTS:
            known = ", ".join("." + root for root in _ROOTS)
            raise self._error(
                f"no '.{path[0]}'{nearest(path[0], _ROOTS) or f'; there are {known}'}", token.at
            )
        if path[0] == "Event" and len(path) > 1:
            raise self._error("'.Event' has no parts", token.at)
        return path

    def _literal(self, token: _Token) -> object:
        if token.kind == "number":
            if len(token.text) > 18:
                raise self._error("a number this long is not kept exactly", token.at)
            return float(token.text) if "." in token.text else int(token.text)
        if token.kind == "raw":
            return token.text[1:-1]
        if token.kind not in {"string", "char"}:
            raise self._error(f"'{token.text}' is not a value", token.at)
        body = _ESCAPE.sub(lambda found: self._unescape(found[1], token), token.text[1:-1])
        return ord(body) if token.kind == "char" else body

    def _unescape(self, letter: str, token: _Token) -> str:
        if letter not in _ESCAPES:
            raise self._error(f"'\\{letter}' is not an escape; use \\n \\t \\\\ or \\\"", token.at)
        return _ESCAPES[letter]

    def _peek(self) -> _Token:
        if self._next < len(self._tokens):
            return self._tokens[self._next]
        raise self._error("a value is missing", self._at)

    def _nothing_more(self) -> None:
        if self._next < len(self._tokens):
            token = self._tokens[self._next]
            raise self._error(f"'{token.text}' is too much here", token.at)

    def _deeper(self, at: int) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} brackets or ifs inside each other", at)

    def _error(self, problem: str, at: int) -> TemplateError:
        return TemplateError(f"character {at + 1}: {problem}")


# --- to closures -------------------------------------------------------------------------------


def _writer(parts: tuple[Part, ...]) -> _Writer:
    writers = [_part_writer(part) for part in parts]
    if not writers:
        return lambda _scope: ""
    if len(writers) == 1:
        return writers[0]
    return lambda scope: "".join([write(scope) for write in writers])


def _part_writer(part: Part) -> _Writer:
    if isinstance(part, str):
        return lambda _scope: part
    if isinstance(part, If):
        condition = _value(part.condition)
        then, otherwise = _writer(part.then), _writer(part.otherwise)
        return lambda scope: then(scope) if is_true(condition(scope)) else otherwise(scope)
    value = _value(part)
    return lambda scope: text_of(value(scope))


def _value(node: Node) -> _Value:
    match node:
        case Literal(constant):
            return lambda _scope: constant
        case Field(path):
            return _field(path[0], path[1:])
        case Member(inner, path):
            start = _value(inner)
            return lambda scope: member(start(scope), path)
        case Call(name, args):
            return _call(name, [_value(arg) for arg in args])


def _field(root: str, rest: tuple[str, ...]) -> _Value:
    if root == "Event":
        return lambda scope: scope.event
    if root == "Variables" and len(rest) == 1:
        name = rest[0]
        return lambda scope: scope.variables.get(name)
    if root == "Slots" and len(rest) == 1:
        slot = rest[0]
        return lambda scope: scope.slots.get(slot)
    attribute = _ROOTS[root]
    return lambda scope: member(getattr(scope, attribute), rest)


def _call(name: str, args: list[_Value]) -> _Value:
    if name in {"and", "or"}:  # as in Go, the first that decides ends the evaluation
        return _deciding(args, stop_at=name == "or")
    function = TABLE[name].function
    if len(args) == 1:
        only = args[0]
        return lambda scope: function(only(scope))
    if len(args) == 2:
        first, second = args
        return lambda scope: function(first(scope), second(scope))
    return lambda scope: function(*[arg(scope) for arg in args])


def _deciding(args: list[_Value], *, stop_at: bool) -> _Value:
    def value(scope: Scope) -> object:
        found: object = None
        for arg in args:
            found = arg(scope)
            if is_true(found) is stop_at:
                return found
        return found

    return value


def fields_in(template: Template) -> set[tuple[str, ...]]:
    """Give the path of every field that the template can read."""
    found: set[tuple[str, ...]] = set()
    waiting: list[Part] = list(template.parts)
    while waiting:
        match waiting.pop():
            case Field(path):
                found.add(path)
            case Member(inner, _):
                waiting.append(inner)
            case Call(_, args):
                waiting += args
            case If(condition, then, otherwise):
                waiting += (condition, *then, *otherwise)
    return found
