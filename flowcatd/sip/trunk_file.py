"""The strict reader of `conf/trunks.d/*.toml`: one file, one trunk; what is not understood is refused.

In the manner of `settings.py`: the text is given, not read; `where` is what errors call it; an error
has the file, the line, the key and the nearest known word. What a setting may hold is read off the
types of `trunk.py`. `check_trunk` collects every problem, `load_trunk` raises the first.

A route's pattern is a regular expression of a small kind whose cost is bounded: single characters and
classes, at most three of them repeated, groups of alternatives that are not. Python's own matcher goes
back over every repetition, so more of them would let a called number of 128 characters, which the
other side chooses, stop a worker.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args, get_origin, get_type_hints

from flowcatd.errors import ConfigError, nearest
from flowcatd.options import OneOf, Secret
from flowcatd.sip.trunk import (
    Account,
    Identity,
    Inbound,
    Media,
    Outbound,
    Peer,
    Register,
    Route,
    Session,
    Trunk,
)

LIST_MAX = 1000
"""Entries of one list, routes of one trunk: what a carrier's sheet of numbers has."""
PATTERN_CHARACTERS = 200
REPEATS_MAX = 3
"""Of one pattern: 128 characters are then gone over some 10^5 times at worst, in a few ms."""
GROUPS_MAX = 4
BARS_MAX = 16

_SECTIONS: Final[Mapping[str, type]] = {
    "trunk": Peer,
    "account": Account,
    "register": Register,
    "inbound": Inbound,
    "media": Media,
    "session": Session,
    "identity": Identity,
    "outbound": Outbound,
}
"""Section of the file to its type, in the order of Trunk's fields."""

_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_TOML_PLACE = re.compile(r"\s*\(at [^)]*\)$")
_HEAD = re.compile(r"\s*(\[\[?)\s*\"?([\w.-]+)\"?\s*\]")
_KEY = re.compile(r"\s*\"?([\w.-]+)\"?\s*=")
_REFERENCE = re.compile(r"(env:[A-Za-z_]\w*|file:/.+|cred:[\w.-]+)?")


def load_trunk(text: str, where: str) -> Trunk:
    """The trunk that `text` describes; raises the first ConfigError there is."""
    trunk, problems = _read(text, where)
    if problems:
        raise problems[0]
    return trunk


def check_trunk(text: str, where: str) -> list[ConfigError]:
    """Everything that is wrong with `text`; empty when all is good."""
    return _read(text, where)[1]


# --- what a setting may hold ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Setting:
    """One setting's kind and limits."""

    kind: object
    limits: tuple[Any, ...]

    def make(self, value: object) -> object | None:
        """`value` as this setting holds it, or None when it is of the wrong kind."""
        return _MAKERS[self.kind](value)

    def refusal(self, value: object) -> str:
        """What `value` should have been, or an empty string when it is allowed."""
        for limit in self.limits:
            if said := limit.refusal(value):
                words = limit.words if isinstance(limit, OneOf) else ()
                return f"{said}{nearest(str(value), words)}"
        return ""


def _make_secret(value: object) -> Secret | None:
    fits = isinstance(value, str) and _REFERENCE.fullmatch(value)
    return Secret(str(value)) if fits else None


def _make_list(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list) or len(value) > LIST_MAX:
        return None
    return tuple(value) if all(type(each) is str for each in value) else None


def _make_table(value: object) -> Mapping[str, str] | None:
    if not isinstance(value, dict) or len(value) > LIST_MAX:
        return None
    return value if all(type(each) is str for each in value.values()) else None


def _exactly(kind: type) -> Callable[[object], object | None]:
    # Exactly: to Python, but to nobody else, `true` is a whole number.
    return lambda value: value if type(value) is kind else None


_MAKERS: Final[dict[object, Callable[[object], object | None]]] = {
    bool: _exactly(bool),
    int: _exactly(int),
    float: lambda value: float(value) if type(value) in {int, float} else None,  # type: ignore[arg-type]  # just looked
    str: _exactly(str),
    Secret: _make_secret,
    tuple: _make_list,
    Mapping: _make_table,
}

_KINDS: Final[dict[object, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Secret: 'a reference to a secret: "env:NAME", "file:/path" or "cred:name"',
    tuple: f"a list of strings, {LIST_MAX} at most",
    Mapping: f"a table of strings, {LIST_MAX} at most",
}


def _shape_of(section: type) -> dict[str, _Setting]:
    shape: dict[str, _Setting] = {}
    for name, hint in get_type_hints(section, include_extras=True).items():
        annotated = hasattr(hint, "__metadata__")
        kind, *limits = get_args(hint) if annotated else (hint,)
        known = tuple(limit for limit in limits if hasattr(limit, "refusal"))
        shape[name] = _Setting(_origin(kind), known)
    return shape


def _origin(kind: object) -> object:
    origin = get_origin(kind)
    return kind if origin is None else origin


_SHAPES: Final = {name: _shape_of(section) for name, section in _SECTIONS.items()}
_ROUTE: Final = _shape_of(Route)


# --- reading --------------------------------------------------------------------------------------


def _read(text: str, where: str) -> tuple[Trunk, list[ConfigError]]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return Trunk(), [_broken(error, text, where)]
    reading = _Reading(where, _lines_of(text))
    for section, content in document.items():
        reading.take(section, content)
    trunk = reading.trunk()
    for key, problem in _find_contradictions(trunk):
        reading.refuse(key, problem)
    return trunk, reading.problems


@dataclass(slots=True)
class _Reading:
    """One text on its way to a trunk."""

    where: str
    lines: dict[str, int]
    """Section, dotted key, or `route[n].key` to the line where it stands."""
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    routes: list[Route] = field(default_factory=list)
    problems: list[ConfigError] = field(default_factory=list)

    def take(self, section: str, content: object) -> None:
        """One table of the file, or all its routes."""
        if section == "route":
            self._take_routes(content)
        elif section not in _SHAPES:
            known = [*_SHAPES, "route"]
            said = nearest(section, known) or f"; there are {', '.join(known)}"
            self.refuse(section, f"is not a section{said}")
        elif not isinstance(content, dict):
            self.refuse(section, f"is a section: write [{section}] and its settings below")
        else:
            self.values[section] = self._settings(section, content, _SHAPES[section])

    def refuse(self, key: str, problem: str) -> None:
        """Note a problem, with the line of its key, or of its section, where known."""
        line = self.lines.get(key) or self.lines.get(key.partition(".")[0])
        where = f"{self.where}:{line}" if line else self.where
        self.problems.append(ConfigError(where, problem, key=key))

    def trunk(self) -> Trunk:
        """What was taken, over the defaults."""
        made: dict[str, Any] = {
            "peer" if name == "trunk" else name: section(**self.values.get(name, {}))
            for name, section in _SECTIONS.items()
        }
        return Trunk(routes=tuple(self.routes), **made)

    def _take_routes(self, content: object) -> None:
        if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
            self.refuse("route", "routes stand under [[route]]")
        elif len(content) > LIST_MAX:
            self.refuse("route", f"there are more than {LIST_MAX}")
        else:
            for number, each in enumerate(content, 1):
                self._take_route(f"route[{number}]", each)

    def _take_route(self, place: str, content: Mapping[str, object]) -> None:
        route = Route(**self._settings(place, content, _ROUTE))
        if sum(map(bool, (route.number, route.prefix, route.pattern))) > 1:
            self.refuse(place, "has more than one of number, prefix and pattern")
        elif problem := find_pattern_problem(route.pattern):
            self.refuse(f"{place}.pattern", problem)
        else:
            self.routes.append(route)

    def _settings(
        self, place: str, content: Mapping[str, object], shape: Mapping[str, _Setting]
    ) -> dict[str, Any]:
        taken: dict[str, Any] = {}
        for key, value in content.items():
            setting = shape.get(key)
            if setting is None:
                said = nearest(key, shape) or f"; there are {', '.join(shape)}"
                self.refuse(f"{place}.{key}", f"is not a setting{said}")
            elif (made := setting.make(value)) is None:
                self.refuse(f"{place}.{key}", f"must be {_KINDS[setting.kind]}")
            elif refusal := setting.refusal(made):
                self.refuse(f"{place}.{key}", refusal)
            else:
                taken[key] = made
        return taken


def _needs_name(trunk: Trunk) -> str:
    return "" if trunk.name else "is needed"


def _needs_proxy(trunk: Trunk) -> str:
    wanted = trunk.outbound.enabled or trunk.peer.options_seconds or trunk.inbound.peer_is_source
    missing = wanted and not trunk.peer.proxies and not trunk.register.registrar
    return "is needed to call, to ask with OPTIONS, or for peer_is_source" if missing else ""


def _needs_registrar(trunk: Trunk) -> str:
    missing = trunk.register.enabled and not (trunk.register.registrar or trunk.domain)
    return "is needed, or trunk.proxies" if missing else ""


def _needs_user(trunk: Trunk) -> str:
    return "is needed to register" if trunk.register.enabled and not trunk.account.user else ""


def _needs_digest_user(trunk: Trunk) -> str:
    return (
        "is needed with inbound.digest" if trunk.inbound.digest and not trunk.inbound.user else ""
    )


def _needs_digest_password(trunk: Trunk) -> str:
    missing = trunk.inbound.digest and not trunk.inbound.password
    return "is needed with inbound.digest" if missing else ""


def _is_not_everybody(trunk: Trunk) -> str:
    wide = any(network.prefixlen == 0 for network in trunk.networks) and not trunk.inbound.digest
    return "everybody may call without a password: narrow it, or set inbound.digest" if wide else ""


def _has_codec(trunk: Trunk) -> str:
    return "" if trunk.media.codecs else "must name one codec at least"


def _has_lasting_session(trunk: Trunk) -> str:
    short = trunk.session.seconds < trunk.session.least_seconds
    return "is less than session.least_seconds" if short else ""


def _uses_tls(trunk: Trunk) -> str:
    plain = any(uri.startswith("sips:") for uri in trunk.peer.proxies)
    return "is not safe enough for a sips: proxy" if plain and trunk.peer.transport == "udp" else ""


_RULES: Final[tuple[tuple[str, Callable[[Trunk], str]], ...]] = (
    ("trunk.name", _needs_name),
    ("trunk.proxies", _needs_proxy),
    ("trunk.transport", _uses_tls),
    ("account.user", _needs_user),
    ("register.registrar", _needs_registrar),
    ("inbound.user", _needs_digest_user),
    ("inbound.password", _needs_digest_password),
    ("inbound.sources", _is_not_everybody),
    ("media.codecs", _has_codec),
    ("session.seconds", _has_lasting_session),
)
"""Rules that join settings: the key to name, and what is wrong with it (or nothing)."""


def _find_contradictions(trunk: Trunk) -> list[tuple[str, str]]:
    return [(key, problem) for key, rule in _RULES if (problem := rule(trunk))]


def _broken(error: tomllib.TOMLDecodeError, text: str, where: str) -> ConfigError:
    found = _TOML_LINE.search(str(error))
    line = int(found[1]) if found else max(1, len(text.splitlines()))
    return ConfigError(f"{where}:{line}", f"is not TOML: {_TOML_PLACE.sub('', str(error))}")


def _lines_of(text: str) -> dict[str, int]:
    lines: dict[str, int] = {}
    section, routes = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if found := _HEAD.match(line):
            section = found[2]
            if found[1] == "[[":
                routes += 1
                lines.setdefault(section, number)
                section = f"{section}[{routes}]"
            lines.setdefault(section, number)
        elif found := _KEY.match(line):
            lines.setdefault(f"{section}.{found[1]}" if section else found[1], number)
    return lines


# --- patterns -------------------------------------------------------------------------------------

_PIECE = re.compile(
    r"(?P<atom>[A-Za-z0-9@_~%&=,-]|\\[d.+*#?()\[\]{}|\\-]|\.|\[\^?[A-Za-z0-9+*#_.-]+\])"
    r"|(?P<open>\((?:\?:)?)|(?P<close>\))|(?P<bar>\|)"
    r"|(?P<fixed>\{[0-9]{1,2}\})|(?P<repeat>[*+?]|\{[0-9]{0,2},[0-9]{0,2}\})"
)


def find_pattern_problem(pattern: str) -> str:
    """What is wrong with a route's pattern, or an empty string."""
    if len(pattern) > PATTERN_CHARACTERS:
        return f"must be {PATTERN_CHARACTERS} characters at most"
    kinds: list[str] = []
    at = 0
    while at < len(pattern):
        piece = _PIECE.match(pattern, at)
        if piece is None:
            return f"has something at character {at + 1} that a pattern may not have; \\ escapes it"
        kind = str(piece.lastgroup)
        if kind in {"fixed", "repeat"} and (not kinds or kinds[-1] != "atom"):
            return (
                f"repeats at character {at + 1} what is no single character; write \\+ for a plus"
            )
        kinds.append(kind)
        at = piece.end()
    for kind, most in (("repeat", REPEATS_MAX), ("open", GROUPS_MAX), ("bar", BARS_MAX)):
        if kinds.count(kind) > most:
            return f"has more than {most} {_WORDS[kind]}"
    try:
        re.compile(pattern)
    except re.error as error:
        return f"is no pattern: {error.msg}"
    return ""


_WORDS: Final = {"repeat": "repetitions", "open": "groups", "bar": "alternatives"}
