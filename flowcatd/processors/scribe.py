"""Scribe: sees that the call's journal is written when something in it has changed.

It stands at the tail and sees turns go by: words, keys, lines begun and heard. It writes nothing while
a frame is on its way, since the others may not have made up their minds yet: a wake, due at once, comes
when all of that round is done, and once for all of it. A quiet call is written every PERIOD_SECONDS, so
that what its record says after a kill is no older than that; a worker that is late for its audio
does so less often (`is_sparing`). Audio never visits it.
"""

from __future__ import annotations

from collections.abc import Callable

from flowcatd.frames import (
    BotStartedSpeaking,
    BotStoppedSpeaking,
    InputDtmf,
    LineHeard,
    Start,
    Transcription,
)
from flowcatd.journal import PERIOD_SECONDS, SPARING_PERIODS
from flowcatd.pipeline.processor import Processor, down
from flowcatd.pipeline.scope import Cancellable


class Scribe(Processor):
    """Knows when, not what."""

    def __init__(self, write: Callable[[], None], is_sparing: Callable[[], bool]) -> None:
        """`write` keeps the call as it is now; `is_sparing` asks for little more than the turns."""
        super().__init__()
        self._write = write
        self._is_sparing = is_sparing
        self._wake: Cancellable | None = None
        self._is_marked = False
        self._spared = 0

    @down(Start, Transcription, InputDtmf, BotStartedSpeaking, BotStoppedSpeaking, LineHeard)
    def turned(
        self,
        frame: Start
        | Transcription
        | InputDtmf
        | BotStartedSpeaking
        | BotStoppedSpeaking
        | LineHeard,
    ) -> None:
        """Something happened."""
        self.push(frame)
        self.mark()

    def mark(self) -> None:
        """Write as soon as this round is done."""
        if not self._is_marked:
            self._is_marked = True
            self._arm(0.0)

    def _arm(self, seconds: float) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake = self.scope.wake(self.scope.now() + seconds, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._spared += 1
        if self._is_marked or not self._is_sparing() or self._spared >= SPARING_PERIODS:
            self._spared = 0
            self._write()
        self._is_marked = False
        self._arm(PERIOD_SECONDS)
