"""`flowcatd check`: everything that can be found wrong before a daemon runs, in one go.

The settings, every agent file, the default agent's name, every provider row of the operator, the trunks,
and the references to secrets. All problems are printed, each as `file:line: key: sentence`; then the exit
code is 1. `serve` looks at the same before it forks, so a mistake costs one clear line and not a
crash loop. Nothing is connected to and no engine is started.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from flowcatd.agent.dialog_file import check_dialog, load_dialog, read_dialog
from flowcatd.agent.script import Dialog
from flowcatd.environment import reveal
from flowcatd.errors import ConfigError, nearest
from flowcatd.links.text_file import read_text
from flowcatd.options import Secret
from flowcatd.providers.catalogue import Catalogue
from flowcatd.providers.row import load_rows
from flowcatd.settings import check_options
from flowcatd.sip.trunk_file import check_trunk
from supervisor.check_sip import check_sip, remark_on_sip
from supervisor.config import (
    Config,
    add_config_arguments,
    open_config,
    read_config,
    with_trunks,
)

_NOT_WORDS = re.compile(r"public|<[^>]*>|/[^/]*/|\{[^}]*\}")
_TRUNK = re.compile(r"^\s*\[\s*trunk\s*\]", re.MULTILINE)
_WORD = re.compile(r"[^\W\d_](?:[\w'-]*\w)?")

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Where the kernel takes ports of outgoing connections from (ip(7))."""

BUILT_IN_AGENTS = ("echo",)
"""Agents that have no file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `flowcatd check`."""
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="the problems as one line of JSON")
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        help="only these agent (*.yaml), provider and trunk (*.toml) files",
    )


def run(args: argparse.Namespace) -> int:
    """Print what is wrong; the result is the exit code."""
    problems = (
        [problem for path in args.paths for problem in check_path(path)]
        if args.paths
        else _check_all(args.config, args.overrides)
    )
    if args.json:
        rows = [{"where": p.where, "key": p.key, "problem": p.problem} for p in problems]
        sys.stdout.write(msgspec.json.encode({"good": not rows, "problems": rows}).decode() + "\n")
    elif problems:
        print_problems(problems)
    else:
        for remark in [*_remarks(args), *_remark_on_ports(args)]:
            sys.stderr.write(f"flowcatd: remark: {remark}\n")
        sys.stdout.write("configuration is good\n")
    return 1 if problems else 0


def check_files(config: Config) -> list[ConfigError]:
    """What is wrong around settings that are themselves in order."""
    problems: list[ConfigError] = []
    for path in _files(config.agents_directory, ".yaml", ".yml"):
        problems += check_path(path)
    for path in _files(config.providers_directory, ".toml"):
        problems += check_path(path)
    problems += _check_default_agent(config)
    problems += check_sip(config, _known_agents(config))
    if not problems:
        problems += _check_speech(config)
    problems += _caught(lambda: _check_secret(config.options.server.token))
    problems += _caught(lambda: _check_control(config))
    return problems


def check_path(path: Path) -> list[ConfigError]:
    """What is wrong with one agent, provider or trunk file; only a trunk has a [trunk]."""
    if path.suffix in {".yaml", ".yml"}:
        return _caught(lambda: check_dialog(read_text(path), str(path)))
    if path.suffix == ".toml":
        return _caught(lambda: _check_toml(read_text(path), str(path)))
    return [
        ConfigError(str(path), "is neither an agent (*.yaml) nor provider rows or a trunk (*.toml)")
    ]


def print_problems(problems: Sequence[ConfigError]) -> None:
    """One line each, on standard error."""
    for problem in problems:
        sys.stderr.write(f"flowcatd: {problem}\n")


def _check_all(file: Path | None, overrides: list[str]) -> list[ConfigError]:
    try:
        where, text = read_config(file)
        problems = check_options(text or "", where, overrides)
        return problems or check_files(open_config(file, overrides))
    except ConfigError as error:
        return [error]


def _remarks(args: argparse.Namespace) -> list[str]:
    """What is allowed and still worth knowing about the agents that were checked."""
    # Late: it brings a loop's modules along, which must not be in the supervisor before it forks.
    from flowcatd.links.open import known_words  # noqa: PLC0415

    paths = args.paths or _files(
        open_config(args.config, args.overrides).agents_directory, ".yaml", ".yml"
    )
    remarks: list[str] = []
    for path in paths:
        if path.suffix not in {".yaml", ".yml"}:
            continue
        reading = read_dialog(read_text(path), str(path))
        remarks += [str(warning) for warning in reading.warnings]
        unknown = known_words(words_heard_by(reading.dialog)) if reading.dialog else set()
        if unknown:
            remarks.append(
                f"{path}: the offline recogniser must guess how these are said: "
                f"{', '.join(sorted(unknown))}"
            )
    return remarks


def _remark_on_ports(args: argparse.Namespace) -> list[str]:
    """Whether outgoing connections may take the ports of media and SIP, and what else ports want."""
    from workers.ports import ephemeral_overlap  # noqa: PLC0415

    if args.paths or not EPHEMERAL.is_file():
        return []
    config = with_trunks(open_config(args.config, args.overrides))
    rtp, local_ports = config.options.rtp, EPHEMERAL.read_text(encoding="ascii")
    said = ephemeral_overlap(rtp.low, rtp.high, local_ports)
    return [*([f"rtp.low, rtp.high: {said}"] if said else []), *remark_on_sip(config, local_ports)]


def words_heard_by(dialog: Dialog) -> set[str]:
    """Every word of every grammar of a dialog."""
    bare = (_NOT_WORDS.sub(" ", state.hearing.grammar) for state in dialog.states.values())
    return {word for text in bare for word in _WORD.findall(text)}


def _check_secret(secret: Secret) -> list[ConfigError]:
    reveal(secret)
    return []


def _check_control(config: Config) -> list[ConfigError]:
    """Whether the keys that tcp endpoints need are there, and are keys."""
    control = config.options.control
    if not (control.tcp or control.metrics_tcp):
        return []
    # Late: it brings ZeroMQ along, which `flowcatd check` of most people need not load.
    from supervisor.curve import check_remote  # noqa: PLC0415

    endpoints = [control.tcp, control.metrics_tcp]
    clients = config.directory / control.curve_clients
    return check_remote(endpoints, reveal(control.curve_secret), clients)


def _check_default_agent(config: Config) -> list[ConfigError]:
    name, known = config.options.agents.default, _known_agents(config)
    if name in known:
        return []
    problem = f"'{name}' has no file in {config.agents_directory}{nearest(name, known)}"
    return [ConfigError(config.where, problem, key="agents.default")]


def _known_agents(config: Config) -> list[str]:
    paths = _files(config.agents_directory, ".yaml", ".yml")
    return [*BUILT_IN_AGENTS, *(path.stem for path in paths)]


def _check_toml(text: str, where: str) -> list[ConfigError]:
    if _TRUNK.search(text):
        return check_trunk(text, where)
    load_rows(text, where)
    return []


def _check_speech(config: Config) -> list[ConfigError]:
    """Whether every voice and recogniser that is asked for by name is a row."""
    rows = [
        row
        for path in _files(config.providers_directory, ".toml")
        for row in load_rows(read_text(path), str(path))
    ]
    try:
        catalogue = Catalogue(rows, str(config.providers_directory))
    except ConfigError as error:
        return [error]
    speech = config.options.speech
    asked = [("stt", speech.hearing, config.where, "speech.hearing")]
    asked.append(("tts", speech.voice, config.where, "speech.voice"))
    for path in _files(config.agents_directory, ".yaml", ".yml"):
        voice = load_dialog(read_text(path), str(path)).voice
        asked.append(("tts", voice or "auto", str(path), "voice"))
    problems = []
    for kind, name, where, key in asked:
        try:
            catalogue.choose(kind, name, runnable=(), where=where)
        except ConfigError as error:
            problems.append(ConfigError(where, error.problem, key=key))
    return problems


def _files(directory: Path, *endings: str) -> list[Path]:
    """Its files with these endings, sorted; none when there is no such directory."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.suffix in endings)


def _caught(check: Callable[[], list[ConfigError]]) -> list[ConfigError]:
    """What a check found, or raised."""
    try:
        return check()
    except ConfigError as error:
        return [error]
