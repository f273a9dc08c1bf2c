"""Which configuration is meant: the file named, or the one that is found, with the overrides.

Without `--config` it is `conf/flowcatd.toml` beside us, else `/etc/flowcatd/flowcatd.toml`, else the
built-in defaults. Relative directories in the configuration start at the file's own directory.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from flowcatd.links.text_file import read_text
from flowcatd.options import Options, Secret
from flowcatd.settings import load_options
from flowcatd.sip.trunk import Trunk
from supervisor.fingerprint import Fingerprint, fingerprint, with_secrets

FOUND = (Path("conf/flowcatd.toml"), Path("/etc/flowcatd/flowcatd.toml"))
"""Where a configuration is looked for, in this order."""
DEFAULTS = "built-in defaults"
"""What errors call the configuration when there is no file."""


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration, and where it came from."""

    where: str
    """The file's name, or DEFAULTS."""
    directory: Path
    """Where relative directories start."""
    options: Options
    source: tuple[str, ...] = ()
    """The text, and the overrides."""
    trunks: Mapping[str, Trunk] = field(default_factory=dict)
    """Empty until `with_trunks` has read them."""
    fingerprint: Fingerprint | None = None
    """Of everything it was read from; None until `with_trunks`."""

    @property
    def agents_directory(self) -> Path:
        """Where the agent files are."""
        return self.directory / self.options.agents.directory

    @property
    def providers_directory(self) -> Path:
        """Where the operator's own provider rows are."""
        return self.directory / "providers.d"

    @property
    def trunks_directory(self) -> Path:
        """Where the trunk files are."""
        return self.directory / self.options.sip.trunks

    @property
    def certificates(self) -> dict[str, Path]:
        """The files of TLS, by their settings; those that are named."""
        sip = self.options.sip
        names = ("certificate", "certificate_key", "client_ca", "trusted_ca")
        named = ((f"sip.{name}", getattr(sip, name)) for name in names)
        return {key: self.directory / value for key, value in named if value}


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
    options = load_options(text or "", where, overrides)
    return Config(where, directory.absolute(), options, (text or "", *overrides))


def with_trunks(config: Config) -> Config:
    """The same, with its trunks, and what it was all read from; raises ConfigError."""
    from workers.trunks import read_trunks  # noqa: PLC0415 as in seats.py

    found = fingerprint(config)
    trunks = read_trunks(config.trunks_directory)
    secrets = with_secrets(found, _secrets(trunks))
    return replace(config, trunks=trunks, fingerprint=secrets)


def _secrets(trunks: Mapping[str, Trunk]) -> Iterator[Secret]:
    for trunk in trunks.values():
        yield trunk.account.password
        yield trunk.inbound.password


def read_config(file: Path | None) -> tuple[str, str | None]:
    """The name and text of the file meant; DEFAULTS and None when there is none."""
    if file is None:
        file = next((path for path in FOUND if path.is_file()), None)
    return (DEFAULTS, None) if file is None else (str(file), read_text(file))
