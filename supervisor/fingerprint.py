"""What a configuration was read from, as two fingerprints: of the trunks, and of everything else.

A reload that finds the rest as it was, and the trunks not, replaces no worker: each reads the trunks
again by itself. A secret counts by its content, since whoever rotates one and reloads means it; so do
certificates and the public keys of subscribers. What the environment holds cannot change.

The fingerprints are taken before what they tell of is read: a file that changes in between makes the
next reload one too many, never one too few. They stay in this process, and tell nobody a secret.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowcatd.options import Secret

if TYPE_CHECKING:
    from supervisor.config import Config


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a configuration was read from."""

    rest: str
    trunks: str


def fingerprint(config: Config) -> Fingerprint:
    """Of the files as they are now, except the trunks' secrets (see `with_secrets`)."""
    options = config.options
    files = [
        *_files(config.agents_directory, "*.yaml", "*.yml"),
        *_files(config.providers_directory, "*.toml"),
        *_files(config.directory / options.control.curve_clients, "*.pub"),
        *config.certificates.values(),
        *_kept_in((options.server.token, options.control.curve_secret)),
    ]
    return Fingerprint(
        rest=_hash([*config.source, *map(_content, files)]),
        trunks=_hash(map(_content, _files(config.trunks_directory, "*.toml"))),
    )


def with_secrets(found: Fingerprint, secrets: Iterable[Secret]) -> Fingerprint:
    """The same, with the contents of the trunks' secrets."""
    files = sorted(set(_kept_in(secrets)))
    return Fingerprint(found.rest, _hash([found.trunks, *map(_content, files)]))


def _files(directory: Path, *patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in directory.glob(pattern))


def _kept_in(secrets: Iterable[Secret]) -> list[Path]:
    """The files of secrets; systemd's credentials are as they were when it started us."""
    kinds = (secret.reference.partition(":") for secret in secrets)
    return [Path(name) for kind, _, name in kinds if kind == "file"]


def _content(path: Path) -> str:
    """Its name and what stands in it; what cannot be read is told by whoever needs it."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError as error:
        digest = str(error.errno)
    return f"{path}\0{digest}"


def _hash(texts: Iterable[str]) -> str:
    made = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode(errors="surrogateescape")
        made.update(len(data).to_bytes(8, "big") + data)
    return made.hexdigest()
