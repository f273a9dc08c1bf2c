"""Which configuration is meant: the file named, or the one that is found, with the overrides.

Without `--config` it is `conf/flowcatd.toml` beside us, else `/etc/flowcatd/flowcatd.toml`, else the
built-in defaults. Relative directories in the configuration start at the file's own directory.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from flowcatd.errors import ConfigError
from flowcatd.options import Options
from flowcatd.settings import load_options

FOUND = (Path("conf/flowcatd.toml"), Path("/etc/flowcatd/flowcatd.toml"))
"""Where a configuration is looked for, in this order."""
DEFAULTS = "built-in defaults"
"""What errors call the configuration when there is no file."""

# A configuration is a few kilobytes; something larger was named by mistake.
_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration, and where it came from."""

    where: str
    """The file's name, or DEFAULTS."""
    directory: Path
    """Where relative directories start."""
    options: Options

    @property
    def agents_directory(self) -> Path:
        """Where the agent files are."""
        return self.directory / self.options.agents.directory

    @property
    def providers_directory(self) -> Path:
        """Where the operator's own provider rows are."""
        return self.directory / "providers.d"


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config` and `--set`, for every command that reads a configuration."""
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help=f"default: {FOUND[0]}, else {FOUND[1]}"
    )
    parser.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="a setting that wins over the file; may be repeated",
    )


def open_config(file: Path | None, overrides: list[str]) -> Config:
    """The configuration meant; raises ConfigError."""
    where, text = read_config(file)
    directory = Path(where).parent if text is not None else Path()
    return Config(where, directory.absolute(), load_options(text or "", where, overrides))


def read_config(file: Path | None) -> tuple[str, str | None]:
    """The name and text of the file meant; DEFAULTS and None when there is none."""
    if file is None:
        file = next((path for path in FOUND if path.is_file()), None)
    return (DEFAULTS, None) if file is None else (str(file), read_text(file))


def read_text(path: Path) -> str:
    """A configuration file's text; raises ConfigError with the reason."""
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES + 1)
        if len(data) > _FILE_BYTES:
            raise ConfigError(str(path), f"is longer than {_FILE_BYTES} bytes")
        return data.decode()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}", "is not UTF-8") from error
