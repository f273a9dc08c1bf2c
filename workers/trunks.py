"""Reading the trunk files: `trunks.d/*.toml` to the set of trunks that a worker lives by.

The supervisor reads them before it forks and when it is told to reload; a worker that is told so (SIGHUP)
reads them again by itself. Both refuse a set with anything wrong in it as a whole. A directory that is
not there is a daemon without trunks.

Nothing here reveals a secret, opens a socket or remembers anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flowcatd.errors import ConfigError
from flowcatd.links.text_file import read_text
from flowcatd.sip.trunk import TRUNKS_MAX, Trunk, join_trunks
from flowcatd.sip.trunk_file import check_trunk, load_trunk


def trunk_files(directory: Path) -> list[Path]:
    """The trunk files, in order of their names; none when there is no such directory."""
    try:
        found = sorted(path for path in directory.iterdir() if path.suffix == ".toml")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(str(directory), f"cannot be read: {error.strerror}") from error
    if len(found) > TRUNKS_MAX:
        raise ConfigError(str(directory), f"has more than {TRUNKS_MAX} files")
    return found


def read_trunks(directory: Path) -> Mapping[str, Trunk]:
    """The enabled trunks by name; raises the first ConfigError there is."""
    return join_trunks(
        (str(path), load_trunk(read_text(path), str(path))) for path in trunk_files(directory)
    )


def check_trunks(directory: Path) -> list[ConfigError]:
    """Everything that is wrong with them; what joins several is looked at when each is good."""
    problems: list[ConfigError] = []
    try:
        for path in trunk_files(directory):
            try:
                problems += check_trunk(read_text(path), str(path))
            except ConfigError as error:
                problems.append(error)
        if not problems:
            read_trunks(directory)
    except ConfigError as error:
        problems.append(error)
    return problems
