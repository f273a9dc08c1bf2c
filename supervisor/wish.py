"""What an operator wishes for that takes a while: a reload, a resize, an upgrade; one at a time.

Wishes come as signals or over the switchboard. Who wished is told what came of it; a signal is answered
by the log alone.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from supervisor.orders import Asked

SIGNALS: Final[dict[int, Asked | str]] = {
    signal.SIGINT: Asked.STOP,
    signal.SIGTERM: Asked.DRAIN,
    signal.SIGHUP: "reload",
    signal.SIGUSR2: "upgrade",
}
"""What a signal wishes; SIGHUP on a terminal means that its window was closed."""


@dataclass(slots=True)
class Wish:
    """A reload, resize or upgrade under way."""

    ask: str
    """The operator's id; empty when it came by a signal."""
    is_upgrade: bool = False
    then_count: int = 0
    """How many workers the new settings want, where they want another number; else 0."""
