"""Notices: the conversation as it goes, told to a client on loopback that asked for it.

`flowcatd call` prints them; no carrier is ever sent one. The fields of each kind are listed with the
`?events=1` option in README.md. Under overload (`trimmed`) nothing is told: whoever only looks on is
given up before anybody's audio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flowcatd.frames import LineHeard, Transcription
from flowcatd.pipeline.processor import Processor, down

Tell = Callable[[Mapping[str, object]], None]


class Notices(Processor):
    """Tells what was heard on both sides."""

    def __init__(self, tell: Tell, trimmed: Callable[[], bool] = lambda: False) -> None:
        """`trimmed` says whether the worker has no time for this."""
        super().__init__()
        self._told = tell
        self._trimmed = trimmed

    def _tell(self, notice: Mapping[str, object]) -> None:
        if not self._trimmed():
            self._told(notice)

    @down(Transcription)
    def caller(self, frame: Transcription) -> None:
        """What the caller was understood to say."""
        self._tell(
            {
                "type": "transcript",
                "role": "caller",
                "text": frame.text,
                "start_ms": frame.start_ms,
                "end_ms": frame.end_ms,
                "complete": True,
                "rejected": not frame.text,
            }
        )
        self.push(frame)

    @down(LineHeard)
    def agent(self, frame: LineHeard) -> None:
        """What the agent was heard to say."""
        self._tell(
            {
                "type": "transcript",
                "role": "agent",
                "text": frame.text,
                "start_ms": frame.start_ms,
                "end_ms": frame.end_ms,
                "complete": frame.complete,
                "rejected": False,
            }
        )
        self.push(frame)
