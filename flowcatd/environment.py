"""The one room that reads the process's surroundings: environment variables, and what stderr is.

Secrets come from here (`env:`, `file:`, and `cred:` for systemd's LoadCredential), and so do the
three things systemd says through the environment: where state belongs, where to notify, and
whether stderr is the journal. Nothing else in flowcatd looks at `os.environ`, so a setting can
never come from two places. Variables are given as an argument so that a test can state them.

systemd.exec(5): CREDENTIALS_DIRECTORY, STATE_DIRECTORY (a colon-separated list), JOURNAL_STREAM
(device and inode of the stream). no-color.org: NO_COLOR.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import TextIO

from flowcatd.errors import ConfigError
from flowcatd.options import Secret

UPGRADE = "FLOWCATD_UPGRADE"
"""The variable in which `flowcatd upgrade` hands over from one program image to the next."""

SYSTEM_RUNTIME = Path("/run/flowcatd")
"""Where systemd puts the service's sockets: the last place where an operator's command looks."""

# A secret longer than this is a wrong file, not a token.
_SECRET_BYTES = 64 * 1024


def reveal(secret: Secret, *, environ: Mapping[str, str] = os.environ) -> str:
    """The secret itself, without the line end a file has; empty when there is no reference.

    Raises ConfigError, which names the reference and never what was found.
    """
    kind, _, name = secret.reference.partition(":")
    if not kind:
        return ""
    if kind == "env":
        found = environ.get(name, "")
    elif kind == "cred":
        directory = environ.get("CREDENTIALS_DIRECTORY")
        if directory is None:
            raise ConfigError(secret.reference, "systemd gave this process no credentials")
        found = _read_secret(Path(directory) / name, secret.reference)
    else:
        found = _read_secret(Path(name), secret.reference)
    if not found:
        raise ConfigError(secret.reference, "is empty or not set")
    return found


def records_directory(setting: str, *, environ: Mapping[str, str] = os.environ) -> Path:
    """Where records go: the setting, or systemd's state directory, or `var/records` beside us."""
    if setting:
        return Path(setting).absolute()
    state = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(state) if state else Path("var/records").absolute()


def runtime_directories(
    setting: str, port: int, *, environ: Mapping[str, str] = os.environ
) -> list[Path]:
    """Where a daemon's sockets may be, best first: the daemon makes the first, operators look in all.

    The setting alone when there is one; else systemd's runtime directory, or one per user and port:
    socket addresses are short (108 bytes, unix(7)), so nothing deeper will do.
    """
    if setting:
        return [Path(setting).absolute()]
    given = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given:
        return [Path(given)]
    own = environ.get("XDG_RUNTIME_DIR", "")
    parts = [Path(own) / f"flowcatd-{port}"] if own else []
    return [*parts, Path(tempfile.gettempdir()) / f"flowcatd-{os.getuid()}-{port}", SYSTEM_RUNTIME]


def upgrade_descriptor(*, environ: MutableMapping[str, str] = os.environ) -> int | None:
    """Where a former program image of this process left its state; asked once, then forgotten."""
    found = environ.pop(UPGRADE, "")
    return int(found) if found.isdigit() else None


def with_variable(
    name: str, value: str, *, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Everything that is set, and this."""
    return {**environ, name: value}


def notify_socket(*, environ: Mapping[str, str] = os.environ) -> str:
    """The address systemd listens on for our state, or an empty string."""
    return environ.get("NOTIFY_SOCKET", "")


def wants_colour(stream: TextIO, *, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a person looks at this stream on a terminal that shows colours."""
    plain = bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def is_journal(stream: TextIO, *, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this stream goes to systemd's journal, which understands `<6>` before a line."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _read_secret(path: Path, reference: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_SECRET_BYTES + 1)
    except OSError as error:
        raise ConfigError(reference, f"cannot be read: {error.strerror}") from error
    if len(data) > _SECRET_BYTES:
        raise ConfigError(reference, f"is longer than {_SECRET_BYTES} bytes")
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ConfigError(reference, "is not UTF-8") from error
