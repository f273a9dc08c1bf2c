"""The daemon's side of a caller's wire, played by the very core that the daemon uses.

`PlayedAgent` says tones for lines, waits for 200 ms of silence after the caller's voice, and ends
the call after its last line. It is pure, so that one agent serves the tests in virtual time and,
behind a real socket, those of the shell.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

from flowcatd.audio.g711 import mulaw_to_pcm, pcm_to_mulaw
from flowcatd.audio.level import rms
from flowcatd.caller.handset import Handset
from flowcatd.caller.script import Turn
from flowcatd.carriers.events import Audio, Digit, MarkReached, Started
from flowcatd.carriers.json_media import JsonMedia

SILENT_FRAMES = 10
STEP = 0.005


def tone(ms: int, *, hz: int = 440, rate_hz: int = 8000, level: int = 8000) -> bytes:
    """A sine of full strength from its first samples to its last."""
    count = rate_hz * ms // 1000
    return struct.pack(
        f"<{count}h", *(int(level * math.cos(2 * math.pi * hz * i / rate_hz)) for i in range(count))
    )


def turn(text: str, ms: int = 300, **changes: object) -> Turn:
    """A turn that is audible throughout."""
    return Turn(text, tone(ms), ms / 1000, **changes)


class PlayedAgent:
    """An agent with a fixed number of lines on one carrier core."""

    def __init__(
        self,
        core: JsonMedia,
        lines: tuple[str, ...],
        *,
        line_ms: int = 400,
        notices: bool = True,
        barge_in: bool = True,
        ends: bool = True,
    ) -> None:
        self._core = core
        self._lines = list(lines)
        self._line_ms = line_ms
        self._notices = notices
        self._barge_in = barge_in
        self._ends = ends
        self._voice = False
        self._silent = 0
        self._playing_until = 0.0
        self.digits = ""
        self.cleared = 0
        self.frames = 0
        self.marks: list[str] = []
        self.outgoing: list[str | bytes] = []
        self.finished = False

    def receive(self, message: str | bytes, now: float) -> None:
        """One message of the caller; look at `outgoing` and `finished` next."""
        if isinstance(message, str):
            self._core.receive_text(message, now)
        else:
            self._core.receive_binary(message, now)
        self.take_events(now)

    @property
    def stopped(self) -> bool:
        """Whether the caller ended the stream as a carrier does."""
        return self._core.closed

    def take_events(self, now: float) -> None:
        """Do what the carrier's events ask for."""
        for event in self._core.events():
            match event:
                case Started():
                    self._notice(type="call", call_id="c1", agent="played")
                    self._say(now)
                case Audio():
                    self._hear(event.payload, now)
                case Digit():
                    self.digits += event.digit
                    self._answer(now)
                case MarkReached():
                    self._marked(event.name)

    def _hear(self, payload: bytes, now: float) -> None:
        self.frames += 1
        if rms(mulaw_to_pcm(payload)) > 500:
            self._voice, self._silent = True, 0
            if self._barge_in and now < self._playing_until:
                self._playing_until = now
                self.cleared += 1
                self._send(self._core.clear())
        elif self._voice:
            self._silent += 1
            if self._silent == SILENT_FRAMES:
                self._voice = False
                self._notice(type="transcript", role="caller", text="heard", rejected=False)
                self._answer(now)

    def _answer(self, now: float) -> None:
        if self._lines:
            self._say(now)

    def _say(self, now: float) -> None:
        if not self._lines:
            return
        line = self._lines.pop(0)
        code = pcm_to_mulaw(tone(self._line_ms, hz=300))
        for at in range(0, len(code), 160):
            message = self._core.audio(code[at : at + 160])
            self.outgoing.append(message.decode() if self._core.audio_is_text else message)
        self._playing_until = max(now, self._playing_until) + self._line_ms / 1000
        self._send(self._core.mark(line))

    def _marked(self, name: str) -> None:
        self.marks.append(name)
        self._notice(
            type="transcript", role="agent", text=name, start_ms=10, end_ms=20, complete=True
        )
        if not self._lines and self._ends and not self._voice:
            self._notice(type="ended", by="agent", reason="completed")
            self.finished = True

    def _notice(self, **fields: object) -> None:
        if self._notices:
            self._send(self._core.notice(fields))

    def _send(self, message: bytes | None) -> None:
        assert message is not None, "the carriers of these tests have marks and clears"
        self.outgoing.append(message.decode())


def converse(
    handset: Handset,
    agent: PlayedAgent,
    *,
    seconds: float = 60.0,
    each: Callable[[float], None] = lambda _now: None,
) -> float:
    """Let both talk in virtual time until the call is over; when that was."""
    origin = now = 100.0
    steps = 0
    handset.start(now)
    agent.take_events(now)
    while now < origin + seconds and not handset.closing:
        handset.wake(now)
        for message in handset.outgoing():
            agent.receive(message, now)
        sent, agent.outgoing = agent.outgoing, []
        for message in sent:
            if isinstance(message, str):
                handset.receive_text(message, now)
            else:
                handset.receive_binary(message, now)
        if agent.finished:
            handset.receive_closed(1000, "completed", now)
        each(now)
        steps += 1
        now = origin + steps * STEP
    return now - origin
