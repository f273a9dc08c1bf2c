"""A new configuration for a running daemon: read, checked, and compared, before anything changes.

The same file and overrides are read again. What is wrong with them is said and nothing happens; so is
a change of what only a restart can change, because sockets and shared memory were made by it. The
rest takes effect worker by worker, as each is replaced; but where nothing was changed but trunks, the
workers stay and read those again (`only_trunks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flowcatd.errors import ConfigError
from flowcatd.options import Secret
from flowcatd.sip.trunk import Difference, compare_trunks
from supervisor.check import check_files
from supervisor.config import Config, open_config, with_trunks

FIXED = (
    *("server.host", "server.port", "workers.most", "records.directory"),
    *("control.directory", "control.tcp", "control.metrics_tcp", "control.curve_secret"),
    *("metrics.enabled", "metrics.host", "metrics.port"),
    *("sip.host", "sip.host6", "sip.port", "sip.tls_port", "rtp.low", "rtp.high"),
)
"""Settings that stay as they are until the daemon is started anew."""

PROBLEMS_SHOWN = 5


def read_again(file: Path | None, overrides: list[str], old: Config) -> Config:
    """The configuration as it is now; raises ConfigError with every reason why not to take it."""
    try:
        new = open_config(file, overrides)
        problems = check_files(new)
        if not problems:
            new = with_trunks(new)
    except OSError as error:
        raise ConfigError(str(error.filename), f"cannot be read: {error.strerror}") from error
    problems += changed(new, fixed(old))
    if problems:
        first, others = problems[0], [str(problem) for problem in problems[1:PROBLEMS_SHOWN]]
        more = len(problems) - PROBLEMS_SHOWN
        others += [f"and {more} more"] if more > 0 else []
        raise ConfigError(first.where, "; ".join([first.problem, *others]), key=first.key)
    return new


def only_trunks(old: Config, new: Config) -> Difference | None:
    """What a reload changes, where that is trunks and nothing else (or their files at least).

    None where anything else was changed, or nothing at all: who then reloads wants other workers.
    """
    before, after = old.fingerprint, new.fingerprint
    if before is None or after is None or before.rest != after.rest:
        return None
    return None if before.trunks == after.trunks else compare_trunks(old.trunks, new.trunks)


def render_difference(difference: Difference) -> str:
    """What was done in place, for the operator."""
    counts = {
        "added": len(difference.added),
        "changed": len(difference.changed),
        "removed": len(difference.removed),
    }
    said = ", ".join(f"{count} {what}" for what, count in counts.items())
    return f"trunks: {said}; no worker replaced"


def fixed(config: Config) -> dict[str, str]:
    """The settings that stay, with their values; for secrets, where they are kept."""
    return {key: _value(config, key) for key in FIXED}


def changed(new: Config, before: Mapping[str, str]) -> list[ConfigError]:
    """What is wrong with taking this configuration where `fixed` was `before`."""
    return [
        ConfigError(new.where, "cannot change while the daemon runs; restart it", key=key)
        for key, value in fixed(new).items()
        if before.get(key, value) != value
    ]


def _value(config: Config, key: str) -> str:
    section, _, name = key.partition(".")
    value = getattr(getattr(config.options, section), name)
    return value.reference if isinstance(value, Secret) else repr(value)
