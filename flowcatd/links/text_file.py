"""The text of a configuration file, whoever's it is: of the daemon, a trunk, an agent, a catalogue.

One bounded read, because such a file is a few kilobytes and something larger was named by mistake, and
one error with the file's name for everything that can be wrong with it as a file: what stands in it
is judged elsewhere. It blocks: for who starts, checks or reloads, never between two frames.
"""

from __future__ import annotations

from pathlib import Path

from flowcatd.errors import ConfigError

FILE_BYTES = 1024 * 1024
"""A trunk with a thousand routes has some hundred kilobytes."""


def read_text(path: Path) -> str:
    """A configuration file's text; raises ConfigError with the reason."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
        if len(data) > FILE_BYTES:
            raise ConfigError(str(path), f"is longer than {FILE_BYTES} bytes")
        return data.decode()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}", "is not UTF-8") from error
