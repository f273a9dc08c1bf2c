"""Speech: the recognisers and voices that all calls of a worker share.

The settings name rows of `providers/`; this room opens them once, when the worker starts, and gives
each call its own ear and mouth. `none` gives neither, which only the echo agent can live with.
"""

from __future__ import annotations

from pathlib import Path

from flowcatd.options import Speech as SpeechOptions
from flowcatd.services import OnSttEvent, SpeechToText, Usage, Voice

NONE = "none"


class Speech:
    """The worker's ears and mouths."""

    def __init__(self, options: SpeechOptions, providers: Path) -> None:
        """`providers` is the directory of an operator's own rows."""
        self._options = options
        self._providers = providers
        self.rows: dict[str, str] = {}
        """Which row serves which seam, for the call's record."""

    async def start(self) -> None:
        """Start what has to run before a call may come."""

    def open_hearing(self, on_event: OnSttEvent) -> SpeechToText | None:
        """An ear for one call; its events go to `on_event`."""
        return None

    def open_voice(self, name: str, usage: Usage) -> Voice | None:
        """A mouth for one call: the voice the agent asks for, or the configured one."""
        return None

    async def close(self) -> None:
        """End the helpers."""
