"""What templates can compute: each function is a row with its count of arguments.

Values are text, whole and broken numbers, true and false, nothing (None), maps and lists: what
JSON can say. `contains` and `hasPrefix` take the longer text first. Comparing an order takes two
numbers or two texts; a text that is a number counts as one beside a number, since every variable
of a call is text.

Source: pkg.go.dev/text/template §Functions and pkg.go.dev/fmt for the verbs of printf.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flowcatd.errors import FlowcatdError

LIMIT = 65_536
"""Characters that one template, and any value inside it, may make."""

_MAX_ARGS = 64
_PRINTED_DEPTH = 8  # maps inside maps: beyond it, whatever is printed is no sentence
_VERB = re.compile(r"%([-0]?)(\d{0,3})([a-zA-Z%])")
_NUMERIC = re.compile(r"[-+]?\d{1,15}(?:\.\d{1,15})?", re.ASCII)


class TemplateError(FlowcatdError):
    """A template is wrong, or a function refused what it was given; holds no value of the call."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function that templates may call."""

    function: Callable[..., object]
    least: int
    most: int


def text_of(value: object) -> str:
    """Give the text that stands for a value; nothing is printed as nothing."""
    if type(value) is str:
        return value
    return _print(value, _PRINTED_DEPTH)


def is_true(value: object) -> bool:
    """Whether Go would take it for true: anything but nothing, false, zero and the empty."""
    return bool(value)


def member(value: object, path: tuple[str, ...]) -> object:
    """Follow `path` through maps; what is missing is nothing."""
    for key in path:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise TemplateError(f"'.{key}' of something that has no parts")
        value = value.get(key)
    return value


def _print(value: object, depth: int) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return str(_within_64_bits(value))
        case float():
            return f"{value:.15g}"
        case str():
            return value
        case _ if depth == 0:
            return "…"
        case Mapping():
            pairs = sorted((str(key), _print(item, depth - 1)) for key, item in value.items())
            return f"map[{' '.join(f'{key}:{item}' for key, item in pairs)}]"
        case list() | tuple():
            return f"[{' '.join(_print(item, depth - 1) for item in value)}]"
        case _:
            raise TemplateError("a value of a kind that is not printed")


def _within_64_bits(value: int) -> int:
    if value.bit_length() > 64:  # JSON has no limit; Python refuses to print some of them
        raise TemplateError("a number beyond 64 bits")
    return value


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "nothing" if value is None else "other"


def _same(one: object, other: object) -> bool:
    # In Python True == 1; in a template it is not.
    return _kind(one) == _kind(other) and one == other


def _eq(first: object, *others: object) -> bool:
    if type(first) is str:
        return first in others
    return any(_same(first, other) for other in others)


def _ordered(one: object, other: object) -> tuple[float, float] | tuple[str, str]:
    kinds = {_kind(one), _kind(other)}
    if kinds == {"text"}:
        return str(one), str(other)
    if kinds <= {"text", "number"}:
        return _number(one), _number(other)
    raise TemplateError("only numbers and texts have an order")


def _number(value: object) -> float:
    if isinstance(value, int):
        return float(_within_64_bits(value))
    if isinstance(value, float):
        return value
    if isinstance(value, str) and _NUMERIC.fullmatch(value.strip()):
        return float(value)
    raise TemplateError("a text that is no number beside a number")


def _lt(one: object, other: object) -> bool:
    left, right = _ordered(one, other)
    return left < right  # type: ignore[operator]  # both are of one kind


def _le(one: object, other: object) -> bool:
    left, right = _ordered(one, other)
    return left <= right  # type: ignore[operator]  # both are of one kind


def _index(value: object, *keys: object) -> object:
    for key in keys:
        match value, key:
            case None, _:
                return None
            case Mapping(), str():
                value = value.get(key)
            case ((list() | tuple()), int()) if not isinstance(key, bool):
                if not 0 <= key < len(value):
                    raise TemplateError(f"index {key} of a list of {len(value)}")
                value = value[key]
            case _:
                raise TemplateError("index wants a map and a text, or a list and a number")
    return value


def _len(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, str | Mapping | list | tuple):
        return len(value)
    raise TemplateError("len of something that has no length")


def _printf(pattern: object, *values: object) -> str:
    if not isinstance(pattern, str):
        raise TemplateError("printf wants a text first")
    waiting = list(values)

    def one(found: re.Match[str]) -> str:
        flag, width, verb = found.groups()
        if verb == "%":
            return "%"
        if not waiting:
            return f"%!{verb}(MISSING)"
        text = _verb(verb, waiting.pop(0))
        wide = int(width or 0)
        if flag == "0" and verb == "d":
            return text.zfill(wide)
        return text.ljust(wide) if flag == "-" else text.rjust(wide)

    text = _VERB.sub(one, pattern)
    if len(text) > LIMIT:
        raise TemplateError(f"printf made more than {LIMIT} characters")
    return text


def _verb(verb: str, value: object) -> str:
    kind = _kind(value)
    whole = isinstance(value, int) and kind == "number"
    if verb in {"s", "v"}:
        return text_of(value)
    if verb == "d" and whole:
        return text_of(value)
    if verb == "c" and whole:
        return _character(value)
    if verb == "q":
        inner = text_of(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{inner}"'
    return f"%!{verb}({kind})"


def _character(code: object) -> str:
    # A lone surrogate is no character and could never be sent anywhere.
    if isinstance(code, int) and 0 <= code < 0x110000 and not 0xD800 <= code < 0xE000:
        return chr(code)
    return "\N{REPLACEMENT CHARACTER}"


TABLE: dict[str, Function] = {
    "and": Function(lambda *_: None, 1, _MAX_ARGS),  # evaluated lazily by template.py
    "contains": Function(lambda text, part: text_of(part) in text_of(text), 2, 2),
    "eq": Function(_eq, 2, _MAX_ARGS),
    "ge": Function(lambda one, other: _le(other, one), 2, 2),
    "gt": Function(lambda one, other: _lt(other, one), 2, 2),
    "hasPrefix": Function(lambda text, start: text_of(text).startswith(text_of(start)), 2, 2),
    "index": Function(_index, 2, _MAX_ARGS),
    "le": Function(_le, 2, 2),
    "len": Function(_len, 1, 1),
    "lower": Function(lambda text: text_of(text).lower(), 1, 1),
    "lt": Function(_lt, 2, 2),
    "ne": Function(lambda one, other: not _same(one, other), 2, 2),
    "not": Function(lambda value: not is_true(value), 1, 1),
    "or": Function(lambda *_: None, 1, _MAX_ARGS),  # evaluated lazily by template.py
    "printf": Function(_printf, 1, _MAX_ARGS),
    "trim": Function(lambda text: text_of(text).strip(), 1, 1),
    "upper": Function(lambda text: text_of(text).upper(), 1, 1),
}
"""Every function there is, sorted by name."""
