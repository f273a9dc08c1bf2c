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
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from flowcatd.errors import ConfigError
from flowcatd.options import Secret

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


def notify_socket(*, environ: Mapping[str, str] = os.environ) -> str:
    """The address systemd listens on for our state, or an empty string."""
    return environ.get("NOTIFY_SOCKET", "")


def watchdog_seconds(*, environ: Mapping[str, str] = os.environ) -> float:
    """How often systemd wants a sign of life from this process; 0 for never."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 1e6 if meant and microseconds.isdigit() else 0.0


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
