"""Strict TOML text to options: what is not understood is refused, with its place and the nearest name.

Precedence is defaults, then the file, then `section.key=value` overrides. The text is given, not
read; `where` is what errors call it (a file name). tomllib keeps no positions, so the line of a key
is found by a second, forgiving look at the text: right for files written as the manual is, and the
section's line where somebody wrote a dotted key or an inline table.

`check_options` collects every problem, `load_options` raises the first. What a field may hold comes
from its type and from the `Between` or `OneOf` beside it; rules that join two settings stand in
`_RULES`. A secret's value is never accepted in the text, and never repeated in an error.

TOML 1.0: https://toml.io/en/v1.0.0
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args, get_type_hints

from flowcatd.errors import ConfigError, nearest
from flowcatd.options import Between, OneOf, Options, Secret

_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_TOML_PLACE = re.compile(r"\s*\(at [^)]*\)$")
_SECTION = re.compile(r"\s*\[\s*\"?([\w.-]+)\"?\s*\]")
_KEY = re.compile(r"\s*\"?([\w.-]+)\"?\s*=")
_REFERENCE = re.compile(r"(env:[A-Za-z_]\w*|file:/.+|cred:[\w.-]+)?")
_TCP = re.compile(r"tcp://(\*|[\w.-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")
_HOST = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
_OVERRIDE = "--set"

_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Secret: 'a reference to a secret: "env:NAME", "file:/path" or "cred:name"',
}


@dataclass(frozen=True, slots=True)
class _Field:
    """What one setting may hold."""

    kind: type
    limits: tuple[Between | OneOf, ...]

    def make(self, value: object) -> object | None:
        """`value` as this setting holds it, or None when it is of the wrong kind."""
        if self.kind is Secret:
            fits = isinstance(value, str) and _REFERENCE.fullmatch(value)
            return Secret(str(value)) if fits else None
        if self.kind is float and type(value) is int:
            return float(value)
        # Exactly the kind: to Python, but to nobody else, `true` is a whole number.
        return value if type(value) is self.kind else None

    def refusal(self, value: object) -> str:
        """What `value` should have been, or an empty string when it is allowed."""
        return next((said for limit in self.limits if (said := limit.refusal(value))), "")


def load_options(text: str, where: str, overrides: Sequence[str] = ()) -> Options:
    """The options that `text` and the overrides describe; raises the first ConfigError there is."""
    options, problems = _read(text, where, overrides)
    if problems:
        raise problems[0]
    return options


def check_options(text: str, where: str, overrides: Sequence[str] = ()) -> list[ConfigError]:
    """Everything that is wrong with `text` and the overrides; empty when all is good."""
    return _read(text, where, overrides)[1]


def is_loopback(host: str) -> bool:
    """Whether an address or host name means this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _needs_token(options: Options) -> str:
    if is_loopback(options.server.host) or options.server.token:
        return ""
    return (
        f"is needed because server.host '{options.server.host}' is reachable from other machines; "
        "give a reference such as env:FLOWCATD_TOKEN"
    )


def _needs_curve(options: Options) -> str:
    control = options.control
    if control.curve_secret or not (control.tcp or control.metrics_tcp):
        return ""
    return "is needed because a tcp endpoint is open; `flowcatd keys` makes keys"


def _is_tcp(setting: str) -> Callable[[Options], str]:
    def rule(options: Options) -> str:
        value = getattr(options.control, setting)
        return "" if not value or _TCP.fullmatch(value) else "must look like tcp://host:port"

    return rule


def _enough_workers(options: Options) -> str:
    workers = options.workers
    return "" if workers.count <= workers.most else f"is less than workers.count {workers.count}"


def _enough_ports(options: Options) -> str:
    pairs = (options.rtp.high - options.rtp.low + 1) // 2
    if pairs >= options.workers.most:
        return ""
    return f"leaves {max(pairs, 0)} port pairs for workers.most {options.workers.most}"


def _is_address(setting: str, version: int, hint: str) -> Callable[[Options], str]:
    """An address of the one family; of IPv4 also a name, whose IPv4 address is meant."""

    def rule(options: Options) -> str:
        value = getattr(options.sip, setting)
        try:
            fits = not value or ipaddress.ip_address(value).version == version
        except ValueError:
            fits = version == 4 and bool(_HOST.fullmatch(value))
        return "" if fits else hint

    return rule


def _is_public(setting: str, version: int) -> Callable[[Options], str]:
    """What others reach us by: an address of the family, or a name."""

    def rule(options: Options) -> str:
        value = getattr(options.sip, setting)
        try:
            address = ipaddress.ip_address(value) if value else None
        except ValueError:
            return "" if _HOST.fullmatch(value) else "must be an address or a host name"
        if address is not None and address.version != version:
            return f"must be an IPv{version} address or a host name"
        is_nobody = address is not None and address.is_unspecified
        return "is where nobody can be reached; name the address others use" if is_nobody else ""

    return rule


def _needs_file(setting: str) -> Callable[[Options], str]:
    def rule(options: Options) -> str:
        sip = options.sip
        if getattr(sip, setting):
            return ""
        if sip.tls_port:
            return "is needed because sip.tls_port is open"
        other = {"certificate": sip.certificate_key, "certificate_key": sip.certificate}[setting]
        return "is needed beside the other of the two" if other else ""

    return rule


def _other_port(options: Options) -> str:
    sip = options.sip
    return "is the same as sip.port" if sip.tls_port and sip.tls_port == sip.port else ""


def _has_sip_host(options: Options) -> str:
    sip = options.sip
    missing = (sip.port or sip.tls_port) and not (sip.host or sip.host6)
    return "is empty, and so is sip.host6: to listen nowhere, set the ports to 0" if missing else ""


_RULES: tuple[tuple[str, Callable[[Options], str]], ...] = (
    ("server.token", _needs_token),
    ("workers.most", _enough_workers),
    ("control.tcp", _is_tcp("tcp")),
    ("control.metrics_tcp", _is_tcp("metrics_tcp")),
    ("control.curve_secret", _needs_curve),
    ("sip.host", _is_address("host", 4, "must be an IPv4 address; IPv6 has sip.host6")),
    ("sip.host", _has_sip_host),
    ("sip.host6", _is_address("host6", 6, "must be an IPv6 address, without brackets")),
    ("sip.tls_port", _other_port),
    ("sip.certificate", _needs_file("certificate")),
    ("sip.certificate_key", _needs_file("certificate_key")),
    ("sip.public_host", _is_public("public_host", 4)),
    ("sip.public_host6", _is_public("public_host6", 6)),
    ("rtp.high", _enough_ports),
)
"""Rules that join two settings: the key to name, and what is wrong with it (or nothing)."""


def _read(text: str, where: str, overrides: Sequence[str]) -> tuple[Options, list[ConfigError]]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return Options(), [_broken(error, text, where)]
    reading = _Reading(where, _lines_of(text))
    for section, content in document.items():
        reading.take_section(section, content)
    for override in overrides:
        reading.take_override(override)
    options = reading.options()
    if not reading.problems:
        for key, rule in _RULES:
            if problem := rule(options):
                reading.refuse(key, problem)
    return options, reading.problems


@dataclass(slots=True)
class _Reading:
    """One text on its way to options."""

    where: str
    lines: dict[str, int]
    """Section or dotted key to the line where it stands."""
    values: dict[str, dict[str, object]] = field(default_factory=dict)
    problems: list[ConfigError] = field(default_factory=list)

    def take_section(self, section: str, content: object) -> None:
        """One table of the file."""
        shape = _SHAPE.get(section)
        if shape is None:
            self.refuse(section, _unknown("section", section, _SHAPE))
        elif not isinstance(content, dict):
            self.refuse(section, f"is a section: write [{section}] and its settings below")
        else:
            for key, value in content.items():
                self.take_value(section, key, value)

    def take_override(self, override: str) -> None:
        """One `section.key=value`; the value is TOML, or else a string as it stands."""
        dotted, equals, raw = override.partition("=")
        section, dot, key = dotted.strip().partition(".")
        if not (equals and dot and section and key):
            # The text is not repeated: it may be a secret that lost its key.
            self.problems.append(ConfigError(_OVERRIDE, "must look like section.key=value"))
            return
        here = _Reading(_OVERRIDE, {}, self.values, self.problems)
        shape = _SHAPE.get(section, {})
        is_text = key in shape and shape[key].kind in {str, Secret}
        here.take_section(section, {key: raw.strip() if is_text else _toml_value(raw.strip())})

    def take_value(self, section: str, key: str, value: object) -> None:
        """One setting."""
        dotted = f"{section}.{key}"
        setting = _SHAPE[section].get(key)
        if setting is None:
            self.refuse(dotted, _unknown("setting", key, _SHAPE[section]))
            return
        made = setting.make(value)
        if made is None:
            self.refuse(dotted, f"must be {_KINDS[setting.kind]}")
            return
        refusal = setting.refusal(made)
        if refusal:
            self.refuse(dotted, f"{refusal}{_nearest_word(made, setting)}")
            return
        self.values.setdefault(section, {})[key] = made

    def refuse(self, key: str, problem: str) -> None:
        """Note a problem, with the line of its key, or of its section, where known."""
        line = self.lines.get(key) or self.lines.get(key.partition(".")[0])
        where = f"{self.where}:{line}" if line else self.where
        self.problems.append(ConfigError(where, problem, key=key))

    def options(self) -> Options:
        """What was taken, over the defaults."""
        defaults = Options()
        changed: dict[str, Any] = {
            section: replace(getattr(defaults, section), **values)
            for section, values in self.values.items()
        }
        return replace(defaults, **changed)


def _unknown(what: str, name: str, known: dict[str, Any]) -> str:
    return f"is not a {what}{nearest(name, known) or '; there are ' + ', '.join(known)}"


def _nearest_word(value: object, setting: _Field) -> str:
    words = [word for limit in setting.limits if isinstance(limit, OneOf) for word in limit.words]
    return nearest(str(value), words)


def _broken(error: tomllib.TOMLDecodeError, text: str, where: str) -> ConfigError:
    """The place stands inside tomllib's sentence, or is `at end of document`."""
    found = _TOML_LINE.search(str(error))
    line = int(found[1]) if found else max(1, len(text.splitlines()))
    return ConfigError(f"{where}:{line}", f"is not TOML: {_TOML_PLACE.sub('', str(error))}")


def _toml_value(raw: str) -> object:
    try:
        document = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        return raw
    return document["value"] if len(document) == 1 else raw


def _lines_of(text: str) -> dict[str, int]:
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if found := _SECTION.match(line):
            section = found[1]
            lines.setdefault(section, number)
        elif found := _KEY.match(line):
            lines.setdefault(f"{section}.{found[1]}" if section else found[1], number)
    return lines


def _shape_of(section: type) -> dict[str, _Field]:
    shape: dict[str, _Field] = {}
    for name, hint in get_type_hints(section, include_extras=True).items():
        kind, *limits = get_args(hint) or (hint,)
        shape[name] = _Field(kind, tuple(limits))
    return shape


_SHAPE = {name: _shape_of(section) for name, section in get_type_hints(Options).items()}
"""Section to setting to what it may hold, read off the types of `options.py`."""
