"""How this program was started, as the daemon's loop needs to know it.

The loop itself reads no arguments and no files and prints nothing: `main.py` gives it these functions,
and a test gives it others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.config import Config
from supervisor.forking import Prepare, Work

ReadAgain = Callable[[Config], Config]
"""Reads and checks the configuration anew; raises ConfigError."""


@dataclass(frozen=True, slots=True)
class Program:
    """How this program was started, and what a worker does."""

    work: Work
    """A worker's life in its child."""
    prepare: Prepare
    read_again: ReadAgain
    words: tuple[str, ...]
    """The arguments after `serve`, for the next program image."""
    begun: float
    """When the start began, as `now` tells."""
    say_ready: Callable[[Config, int, float], None]
    """Tell whoever started us, given the workers' number and the seconds it took."""
    on_terminal: bool = field(default_factory=lambda: os.isatty(0))
    """Asked at the start: a terminal that was closed is none."""
