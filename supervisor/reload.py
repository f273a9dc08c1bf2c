"""A new configuration for a running daemon: read, checked, and compared, before anything changes.

The same file and overrides are read again. What is wrong with them is said and nothing happens; so is
a change of what only a restart can change, because sockets and shared memory were made by it. The
rest takes effect worker by worker, as each is replaced.
"""

from __future__ import annotations

from pathlib import Path

from flowcatd.errors import ConfigError
from supervisor.check import check_files
from supervisor.config import Config, open_config

FIXED = (
    *("server.host", "server.port", "workers.most", "records.directory"),
    *("control.directory", "control.tcp", "control.metrics_tcp", "control.curve_secret"),
    *("metrics.enabled", "metrics.host", "metrics.port", "sip.host", "sip.port"),
    *("rtp.low", "rtp.high"),
)
"""Settings that stay as they are until the daemon is started anew."""

PROBLEMS_SHOWN = 5


def read_again(file: Path | None, overrides: list[str], old: Config) -> Config:
    """The configuration as it is now; raises ConfigError with every reason why not to take it."""
    new = open_config(file, overrides)
    problems = [str(problem) for problem in check_files(new)]
    problems += [
        f"{new.where}: {key}: cannot change while the daemon runs; restart it"
        for key in FIXED
        if _value(new, key) != _value(old, key)
    ]
    if problems:
        shown = "; ".join(problems[:PROBLEMS_SHOWN])
        more = len(problems) - PROBLEMS_SHOWN
        raise ConfigError("reload", shown + (f"; and {more} more" if more > 0 else ""))
    return new


def _value(config: Config, key: str) -> object:
    section, _, name = key.partition(".")
    return getattr(getattr(config.options, section), name)
