"""`flowcatd install`: make systemd run the flowcatd that was asked, and take it away again.

What must be so is a table (`wanted`); what is so is read from the disk; the difference is a list of
steps (`plan_install`, `plan_remove`), which is pure and is what `--dry-run` prints. Doing a step is
the small rest. A second run finds no difference and does nothing.

Two kinds of files. *Ours* (unit, user, kernel settings) open with MARK: they are written again
whenever they differ, and a file of that name without the mark is somebody else's and stops
everything. *Yours* (settings, agents, trunks) are copied once and never touched again: when flowcatd ships
another text it lies beside as `.new`. Records, settings and the user are never removed.

With `--root` files are put under that directory, for a package or an image, and no command is run.
sysusers.d(5), sysctl.d(5), systemd.unit(5); sd_booted(3) says whether systemd runs here.
"""

from __future__ import annotations

import argparse
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from flowcatd.errors import ConfigError, LocalError
from workers.plan import ExitCode

MARK = "# Written by `flowcatd install`."
TEMPLATE_BIN = "/opt/flowcatd/.venv/bin/"
"""What the shipped unit says; the running flowcatd's own directory takes its place."""
USER = "flowcatd"

UNIT = Path("/etc/systemd/system/flowcatd.service")
SYSUSERS = Path("/etc/sysusers.d/flowcatd.conf")
SYSCTL = Path("/etc/sysctl.d/90-flowcatd.conf")
SETTINGS = Path("/etc/flowcatd")

SYSCTL_TOOL = Path("/usr/lib/systemd/systemd-sysctl")

# Draining calls takes up to TimeoutStopSec, and the others are quick.
_COMMAND_SECONDS = 300.0
# The unit hides these from the service: ProtectHome, PrivateTmp.
_HIDDEN = tuple(map(Path, ("/root", "/home", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@")


class Act(Enum):
    """What a step does; the value is what `--dry-run` prints before it."""

    MAKE = "+"
    """A file that is not there yet."""
    CHANGE = "~"
    """A file of ours that is not as it should be."""
    DELETE = "-"
    """A file of ours."""
    KEEP = "="
    """Nothing: it is somebody's, and the reason is worth saying."""
    RUN = "!"
    """A command."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do."""

    act: Act
    path: Path | None = None
    """The file, as the installed system will call it."""
    text: str = ""
    """What it shall hold."""
    words: tuple[str, ...] = ()
    """The command."""
    why: str = ""

    def __str__(self) -> str:
        what = " ".join(self.words) if self.words else str(self.path)
        return f"{self.act.value} {what}{f'   ({self.why})' if self.why else ''}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What must be so, by path."""

    ours: Mapping[Path, str]
    yours: Mapping[Path, str]

    def paths(self) -> list[Path]:
        """Every file that matters to a plan."""
        return [*self.ours, *self.yours, *(fresh(path) for path in self.yours)]


@dataclass(frozen=True, slots=True)
class System:
    """The commands there are to run, and what is so besides files."""

    has_systemd: bool = False
    """systemd runs here; without it (and when staging) no command is run."""
    has_user: bool = True
    sysusers: str = ""
    """The path of systemd-sysusers, or empty."""
    sysctl: str = ""
    """The path of systemd-sysctl, or empty."""


# --- deciding ------------------------------------------------------------------------------------


def wanted(shipped: Mapping[str, str], command: Path) -> Wanted:
    """What must be so, of the shipped files by their names; raises ConfigError.

    `command` is the flowcatd that systemd shall run.
    """
    bad = {letter for letter in str(command) if letter not in _PLAIN}
    if bad or not command.is_absolute():
        problem = "systemd needs an absolute path of plain letters, digits and ._-+@"
        raise ConfigError(str(command), problem)
    unit = shipped["systemd/flowcatd.service"].replace(TEMPLATE_BIN, f"{command.parent}/")
    texts = {
        UNIT: unit,
        SYSUSERS: shipped["systemd/flowcatd.sysusers"],
        SYSCTL: shipped["systemd/90-flowcatd.conf"],
    }
    yours = {
        SETTINGS / name.removeprefix("conf/"): text
        for name, text in sorted(shipped.items())
        if name.startswith(("conf/flowcatd.toml", "conf/agents/", "conf/trunks.d/"))
    }
    return Wanted({path: f"{MARK}\n{text}" for path, text in texts.items()}, yours)


def fresh(path: Path) -> Path:
    """Where a newer text of a file of yours is put."""
    return path.with_name(f"{path.name}.new")


def plan_install(want: Wanted, found: Mapping[Path, str], system: System) -> list[Step]:
    """What to do, in this order; `found` is what the files that exist hold. Raises ConfigError."""
    steps: list[Step] = []
    for path, text in want.ours.items():
        _check_ours(path, found)
        if path not in found:
            steps.append(Step(Act.MAKE, path, text))
        elif found[path] != text:
            steps.append(Step(Act.CHANGE, path, text))
    for path, text in want.yours.items():
        steps += _copy(path, text, found)
    return steps + _commands(steps, system)


def plan_remove(want: Wanted, found: Mapping[Path, str], system: System) -> list[Step]:
    """What to take away: files of ours, and copies beside yours that nobody changed."""
    steps: list[Step] = []
    if UNIT in found and found[UNIT].startswith(MARK) and system.has_systemd:
        why = "calls finish first, up to TimeoutStopSec"
        steps.append(Step(Act.RUN, words=("systemctl", "disable", "--now", USER), why=why))
    for path in want.ours:
        if path in found and found[path].startswith(MARK):
            steps.append(Step(Act.DELETE, path))
        elif path in found:
            steps.append(Step(Act.KEEP, path, why="not written by flowcatd install"))
    beside = {fresh(path): text for path, text in want.yours.items()}
    steps += [Step(Act.DELETE, path) for path, text in beside.items() if found.get(path) == text]
    if system.has_systemd and any(step.act is Act.DELETE and step.path == UNIT for step in steps):
        steps.append(Step(Act.RUN, words=("systemctl", "daemon-reload")))
    return steps


def is_change(step: Step) -> bool:
    """Whether something will be different afterwards."""
    return step.act is not Act.KEEP


def _check_ours(path: Path, found: Mapping[Path, str]) -> None:
    if path in found and not found[path].startswith(MARK):
        problem = "was not written by flowcatd install: move it away, or keep it and do without"
        raise ConfigError(str(path), problem)


def _copy(path: Path, text: str, found: Mapping[Path, str]) -> list[Step]:
    """A file of yours: copied when missing, else left, with another text beside it."""
    if path not in found:
        return [Step(Act.MAKE, path, text)]
    if found[path] == text or found.get(fresh(path)) == text:
        return []
    act = Act.CHANGE if fresh(path) in found else Act.MAKE
    return [
        Step(Act.KEEP, path, why="yours"),
        Step(act, fresh(path), text, why="what this flowcatd ships, to compare"),
    ]


def _commands(steps: list[Step], system: System) -> list[Step]:
    """What has to be run so that the files count; a missing user is made even if no file changed."""
    touched = {step.path for step in steps if is_change(step)}
    runs: list[Step] = []
    if system.sysusers and (SYSUSERS in touched or not system.has_user):
        runs.append(Step(Act.RUN, words=(system.sysusers, str(SYSUSERS))))
    if system.has_systemd and system.sysctl and SYSCTL in touched:
        runs.append(Step(Act.RUN, words=(system.sysctl, str(SYSCTL))))
    if system.has_systemd and UNIT in touched:
        runs.append(Step(Act.RUN, words=("systemctl", "daemon-reload")))
    return runs


def hidden_from_service(path: Path) -> str:
    """Why the service cannot run what lies there, or an empty string; looks at the disk."""
    for directory in _HIDDEN:
        if path.is_relative_to(directory):
            return f"{path} lies in {directory}, which the unit hides from the service"
    for directory in path.parents:
        try:
            closed = not directory.stat().st_mode & 0o001
        except OSError as error:
            return f"{directory} cannot be looked at: {error.strerror}"
        if closed:
            return f"{directory} is closed to the user {USER} (chmod o+x, or install elsewhere)"
    return ""


# --- doing ---------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `flowcatd install`."""
    add = parser.add_argument
    add("--remove", action="store_true", help="take away what an install wrote, and nothing else")
    add("--dry-run", action="store_true", help="show what would be done, and do nothing")
    add("--root", metavar="DIR", type=Path, help="put files under DIR and run no command")
    add(
        "--command",
        metavar="PATH",
        dest="program",
        type=Path,
        help="the flowcatd that systemd shall run (default: this one)",
    )


def run(args: argparse.Namespace) -> int:
    """Install or remove; the result is the exit code."""
    root = Path("/") if args.root is None else args.root
    if args.root is None and not args.dry_run and os.geteuid() != 0:
        raise LocalError("install needs root (sudo); or stage with --root DIR, or see --dry-run")
    command = args.program or Path(sys.prefix) / "bin" / "flowcatd"
    want = wanted(read_shipped(shipped_directory()), command)
    found = _read_found(root, want)
    system = System() if args.root is not None else _look_around()
    steps = (plan_remove if args.remove else plan_install)(want, found, system)
    if not args.remove and args.root is None:
        _warn(command)
    for step in steps:
        sys.stdout.write(f"{step}\n")
        if not args.dry_run:
            _do(step, root)
    _say_next(steps, args, system)
    return ExitCode.OK


def shipped_directory() -> Path:
    """Where `systemd/` and `conf/` are: inside the installed package, or the source tree's root."""
    packaged = Path(__file__).with_name("shipped")
    return packaged if packaged.is_dir() else Path(__file__).parents[1]


def read_shipped(directory: Path) -> dict[str, str]:
    """The shipped files by their names from `directory`; raises ConfigError."""
    paths = [directory / "systemd" / name for name in ("flowcatd.service", "flowcatd.sysusers")]
    paths += [directory / "systemd" / SYSCTL.name, directory / "conf" / "flowcatd.toml"]
    paths += sorted((directory / "conf" / "agents").glob("*.yaml"))
    paths += sorted((directory / "conf" / "trunks.d").glob("*.toml"))
    return {path.relative_to(directory).as_posix(): _read(path) for path in paths}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "is not UTF-8") from error


def _read_found(root: Path, want: Wanted) -> dict[Path, str]:
    """What those of the wanted files hold that are there."""
    return {path: _read(at) for path in want.paths() if os.path.lexists(at := _under(root, path))}


def _under(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _look_around() -> System:
    try:
        pwd.getpwnam(USER)
        has_user = True
    except KeyError:
        has_user = False
    return System(
        has_systemd=Path("/run/systemd/system").is_dir(),
        has_user=has_user,
        sysusers=_tool(Path("/usr/bin/systemd-sysusers")),
        sysctl=_tool(SYSCTL_TOOL),
    )


def _tool(path: Path) -> str:
    return str(path) if os.access(path, os.X_OK) else ""


def _do(step: Step, root: Path) -> None:
    """One step; raises ConfigError with the file, or LocalError with the command, and the reason."""
    act: Mapping[Act, Callable[[Step, Path], None]] = {
        Act.MAKE: _write,
        Act.CHANGE: _write,
        Act.DELETE: _delete,
        Act.RUN: _run,
    }
    if step.act in act:
        act[step.act](step, root)


def _write(step: Step, root: Path) -> None:
    """In one piece: a power cut leaves the old file or the new one."""
    assert step.path is not None
    path = _under(root, step.path)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 a descriptor
                file.write(step.text)
                os.fchmod(descriptor, 0o644)
                file.flush()
                os.fsync(descriptor)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(str(path), f"cannot be written: {error.strerror}") from error


def _delete(step: Step, root: Path) -> None:
    assert step.path is not None
    path = _under(root, step.path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be removed: {error.strerror}") from error


def _run(step: Step, _root: Path) -> None:
    sys.stdout.flush()
    command = " ".join(step.words)
    try:
        code = subprocess.run(step.words, check=False, timeout=_COMMAND_SECONDS).returncode  # noqa: S603 our own words
    except OSError as error:
        raise LocalError(f"'{command}' cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise LocalError(f"'{command}' took longer than {_COMMAND_SECONDS:g} s") from error
    if code:
        raise LocalError(f"'{command}' failed with exit code {code}; the files are in place")


def _warn(command: Path) -> None:
    """What would make the start fail although everything is installed."""
    if not os.access(command, os.X_OK):
        sys.stderr.write(f"flowcatd: warning: {command} is not there, or cannot be run\n")
        return
    # The command starts the interpreter it names, which may be a link to somebody's home.
    interpreter = (command.parent / "python").resolve()
    for path in (command, interpreter):
        if problem := hidden_from_service(path):
            sys.stderr.write(f"flowcatd: warning: the service will not start: {problem}\n")


def _say_next(steps: list[Step], args: argparse.Namespace, system: System) -> None:
    say = sys.stdout.write
    if not any(map(is_change, steps)):
        say("nothing to change\n")
    elif args.dry_run:
        say("nothing was done (--dry-run)\n")
    if args.remove:
        say(f"kept: {SETTINGS}, /var/lib/flowcatd (records), the user {USER}\n")
        return
    if args.root is None and not system.has_systemd:
        say("systemd does not run here: no command was run\n")
    say(f"next: edit {SETTINGS / 'flowcatd.toml'}, then: systemctl enable --now flowcatd\n")
