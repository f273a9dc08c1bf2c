"""Who calls: script, earpiece and mouthpiece joined, whatever the wire between them and the agent. Pure.

A call is lived in frames of 20 ms, counted from 0. Like a telephone's, a frame holds the 20 ms *before*
it leaves, and what arrives is heard the moment it can be played. Answer latency is measured between
those two: from our last audible sample to the agent's first one, packets and network included.

Whoever has the wire gives what arrives to `listener`, asks for each `frame` and looks for `marks` to
give back; once `closing` is true nothing more is said, and `outcome` tells how it ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowcatd.caller import listener as ear
from flowcatd.caller.facts import AgentSpoke, Answered, CallerEvent, Outcome, Spoke
from flowcatd.caller.listener import Listener
from flowcatd.caller.mouth import Mouth
from flowcatd.caller.script import Script
from flowcatd.media import PTIME_MS


@dataclass(frozen=True, slots=True)
class Frame:
    """What leaves in one 20 ms."""

    pcm: bytes
    """s16le mono at the call's rate."""
    key: str
    """The key that is pressed now, or nothing."""


class Person:
    """One caller, for one call."""

    def __init__(
        self,
        rate_hz: int,
        script: Script,
        *,
        returns_cleared_marks: bool = False,
        quiet_ms: int = ear.QUIET_MS,
        on_frame: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        """`on_frame` gets each 20 ms of both sides, said and heard."""
        self.script = script
        self.listener = Listener(
            rate_hz, returns_cleared_marks=returns_cleared_marks, quiet_ms=quiet_ms
        )
        self.rate_hz = rate_hz
        self.outcome = Outcome()
        self.closing = False
        """Whether nothing more will be said."""
        self._on_frame = on_frame
        self._frame_samples = rate_hz * PTIME_MS // 1000
        self._mouth = Mouth(rate_hz)
        self._asked_at: float | None = None
        self._marks: list[str] = []
        self._events: list[CallerEvent] = []

    def frame(self, number: int) -> Frame | None:
        """The frame of this number leaves, and 20 ms more have been heard; None: we hang up instead."""
        at = number * PTIME_MS / 1000
        heard = self.listener.play(number * self._frame_samples)
        self.notice()
        self._decide(at)
        if self.closing:
            return None
        key = self._mouth.key()
        pcm = self._mouth.frame()
        said = self._mouth.finished()
        if said is not None:
            self._asked_at = said.ended
            self.script.said(said.began, said.ended)
        if self._on_frame is not None and heard:
            self._on_frame(pcm, heard)
        return Frame(pcm, key)

    def hang_up(self, reason: str, *, asked: bool = False) -> bool:
        """End the call; `asked` if that is the end that was wanted. False when it has ended before."""
        if self.closing:
            return False
        self.closing = True
        if not self.outcome.ended_by:
            self.outcome.ended_by, self.outcome.reason = "caller", reason
            self.outcome.reached_end = asked and not self.script.remaining
        return True

    def finish(self) -> None:
        """The other side is gone: nothing more is said or heard."""
        self.closing = True
        self.listener.finish()
        self.notice()

    def notice(self) -> None:
        """Let script and report know what the ear noticed."""
        for event in self.listener.events():
            match event:
                case ear.MarkReached():
                    self._marks.append(event.name)
                case ear.AgentStarted():
                    self.script.agent_started(event.at)
                    self._answered(event.at)
                case ear.AgentStopped():
                    self.script.agent_stopped(event.start, event.end, cut=event.cut)
                    self.tell(AgentSpoke(event.start, event.end, event.cut))

    def tell(self, event: CallerEvent) -> None:
        """Something happened that the wire knows of."""
        self._events.append(event)

    # --- to collect -------------------------------------------------------------------------------

    def marks(self) -> list[str]:
        """Drain the marks that were reached, in order."""
        drained, self._marks = self._marks, []
        return drained

    def events(self) -> list[CallerEvent]:
        """Drain what there is to tell, in order."""
        drained, self._events = self._events, []
        return drained

    # --- private ----------------------------------------------------------------------------------

    def _decide(self, at: float) -> None:
        if self._mouth.busy:
            return
        wish = self.script.hang_up(at)
        if wish is not None:
            self.hang_up(wish.reason, asked=wish.asked)
            return
        turn = self.script.next_turn(at)
        if turn is not None:
            said = self._mouth.begin(turn, at)
            self._asked_at = None
            self.tell(Spoke(max(0.0, said.began), said.ended, turn))

    def _answered(self, at: float) -> None:
        if self._asked_at is not None and at >= self._asked_at:
            self.tell(Answered(at, round((at - self._asked_at) * 1000)))
            self._asked_at = None
