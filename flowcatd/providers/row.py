"""The provider row: who speaks which dialect, as data; and the strict reader of operators' rows.

A row names a kind (`stt`, `tts`), a dialect (the code that runs it) and what that dialect needs to
know. A row holds no condition and no secret. The rows we ship stand in `stt.py` and `tts.py`;
`conf/providers.d/*.toml` adds more, in the same columns:

    [[tts]]
    name = "espeak-scots"
    dialect = "espeak"
    voice = "en-gb-scotland"
    options = { words_per_minute = "150" }

Nothing is skipped: an unknown kind, column, dialect, option, a missing column or a name that is
taken is a ConfigError with the file, the key and the nearest known name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from flowcatd.errors import ConfigError, nearest


@dataclass(frozen=True, slots=True)
class Row:
    """One provider."""

    kind: str
    """`stt` or `tts`."""
    name: str
    """What a configuration calls it; unique within its kind."""
    dialect: str
    """Which code runs it: a key of `DIALECTS`."""
    voice: str = ""
    """The dialect's word for the voice (tts)."""
    model: str = ""
    """The dialect's word for the model (stt)."""
    rate_hz: int = 16_000
    """Sample rate of the audio that goes in (stt) or comes out (tts)."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What differs from the dialect's defaults."""
    extra: str = ""
    """The dependency group of pyproject.toml that brings it; empty for none."""
    debian: str = ""
    """The Debian package that brings it; empty for none."""
    docs: str = ""
    """Where its maker describes it."""
    proof: str = "none"
    """How we know that it works: `live`, `recorded`, `fixture` or `none`, and when."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a dialect takes."""

    kind: str
    needs: tuple[str, ...]
    """Columns that must be filled."""
    options: Mapping[str, str]
    """Its options and their defaults."""


DIALECTS: Mapping[str, Dialect] = {
    "espeak": Dialect(
        "tts", ("voice",), {"gain_db": "0", "library": "auto", "words_per_minute": "160"}
    ),
    "flite": Dialect("tts", ("voice",), {"gain_db": "0"}),
    "sphinx": Dialect("stt", (), {}),
}
"""Every dialect there is; `links/open.py` runs them."""

KINDS = ("stt", "tts")

NUMBERS: Mapping[str, tuple[float, float]] = {"gain_db": (-40, 20), "words_per_minute": (80, 450)}
"""Options that are numbers, and the range of each."""

_COLUMNS = tuple(column.name for column in fields(Row) if column.name != "kind")
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,63}")
_RATES_HZ = (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_RESERVED = ("auto", "none")


def table(*rows: Row) -> Mapping[str, Row]:
    """Give rows by name; used for those we ship, which are checked like anybody's."""
    known: dict[str, Row] = {}
    for row in rows:
        _check(row, f"the shipped {row.kind} rows", known)
        known[row.name] = row
    return known


def load_rows(text: str, where: str) -> tuple[Row, ...]:
    """Give the rows of a TOML text; `where` is what errors call it, a file's name."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(where, f"not TOML: {error}") from error
    rows: list[Row] = []
    for kind, entries in document.items():
        if kind not in KINDS:
            raise ConfigError(where, f"no such kind of provider{nearest(kind, KINDS)}", key=kind)
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise ConfigError(where, f"rows stand under [[{kind}]]", key=kind)
        known: dict[str, Row] = {}
        for number, entry in enumerate(entries, 1):
            row = _row(kind, entry, where, f"{kind}[{number}]")
            _check(row, where, known)
            known[row.name] = row
        rows.extend(known.values())
    return tuple(rows)


def _row(kind: str, entry: Mapping[str, object], where: str, place: str) -> Row:
    for key, value in entry.items():
        if key not in _COLUMNS:
            raise ConfigError(
                where, f"no such column{nearest(key, _COLUMNS)}", key=f"{place}.{key}"
            )
        problem = _type_problem(key, value)
        if problem:
            raise ConfigError(where, problem, key=f"{place}.{key}")
    for key in ("name", "dialect"):
        if key not in entry:
            raise ConfigError(where, "is missing", key=f"{place}.{key}")
    return Row(kind=kind, **entry)  # type: ignore[arg-type]  # each value's type was checked above


def _type_problem(key: str, value: object) -> str:
    match key, value:
        case "rate_hz", bool():
            return "must be a whole number"
        case "rate_hz", int():
            return ""
        case "rate_hz", _:
            return "must be a whole number"
        case "options", dict():
            texts = all(isinstance(each, str) for each in value.values())
            return "" if texts else "option values are strings"
        case "options", _:
            return "must be a table of strings"
        case _, str():
            return ""
    return "must be a string"


def _check(row: Row, where: str, known: Mapping[str, Row]) -> None:
    place = f"{row.kind}.{row.name[:64]}"
    if not _NAME.fullmatch(row.name) or row.name in _RESERVED:
        raise ConfigError(where, "a name is small letters, digits, . _ -", key=place)
    if row.name in known:
        raise ConfigError(where, "stands here twice", key=place)
    dialect = DIALECTS.get(row.dialect)
    if dialect is None or dialect.kind != row.kind:
        names = [name for name, each in DIALECTS.items() if each.kind == row.kind]
        problem = f"no {row.kind} dialect{nearest(row.dialect, names)}; there is {', '.join(names)}"
        raise ConfigError(where, problem, key=f"{place}.dialect")
    for column in dialect.needs:
        if not getattr(row, column):
            raise ConfigError(where, f"{row.dialect} needs it", key=f"{place}.{column}")
    for option in row.options:
        if option not in dialect.options:
            problem = f"no option of {row.dialect}{nearest(option, dialect.options)}"
            raise ConfigError(where, problem, key=f"{place}.options.{option}")
        low, high = NUMBERS.get(option, (0.0, 0.0))
        if option in NUMBERS and not _lies_between(row.options[option], low, high):
            problem = f"must be a number between {low:g} and {high:g}, in quotes"
            raise ConfigError(where, problem, key=f"{place}.options.{option}")
    if row.rate_hz not in _RATES_HZ:
        raise ConfigError(where, f"must be one of {_RATES_HZ}", key=f"{place}.rate_hz")


def _lies_between(text: str, low: float, high: float) -> bool:
    try:
        return low <= float(text) <= high
    except ValueError:
        return False
