"""One call over a carrier's WebSocket as its caller lives it: a person on a carrier's wire. Pure.

The clock is the call's: frame n leaves at `origin + n * 20 ms`, whatever happened before, so a late
shell catches up and the call never drifts.

Feed `receive_text`, `receive_binary`, `receive_closed`, or `wake` when `wake_at` has come; then drain
`outgoing()` and `events()`. Once `closing` is true, send what is outgoing and close the socket.
"""

from __future__ import annotations

from collections.abc import Callable

from flowcatd.caller import listener as ear
from flowcatd.caller.facts import COMPLETED, CallerEvent, Line, Opened, Outcome
from flowcatd.caller.listener import Listener
from flowcatd.caller.person import Person
from flowcatd.caller.script import Script
from flowcatd.carriers.events import Audio, Encoding
from flowcatd.carriers.far_end import ClearAsked, FarEnd, FarEvent, MarkAsked, Notice
from flowcatd.media import PTIME_MS
from flowcatd.transports.edge import DECODE, ENCODE

NORMAL_CLOSE = 1000

STALL_SECONDS = 5.0
"""A shell later than this was stopped, not late; so many frames at once would be no call."""


class Handset:
    """A caller, from the start of the stream to its end."""

    def __init__(
        self,
        far: FarEnd,
        script: Script,
        *,
        quiet_ms: int = ear.QUIET_MS,
        on_frame: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        """`on_frame` gets each 20 ms of both sides, said and heard."""
        started = far.started
        self._far = far
        self.person = Person(
            started.rate_hz,
            script,
            returns_cleared_marks=far.row.returns_cleared_marks,
            quiet_ms=quiet_ms,
            on_frame=on_frame,
        )
        self._rate_hz = started.rate_hz
        self._audio_is_text = far.row.media is not None
        self._encode = ENCODE[started.encoding]
        self._decode = DECODE[started.encoding]
        self._odd: bytes | None = b"" if started.encoding is Encoding.PCM else None
        self._origin: float | None = None
        self._count = 0
        self._stopped = False
        self._outgoing: list[str | bytes] = []

    @property
    def script(self) -> Script:
        """What is said when."""
        return self.person.script

    @property
    def listener(self) -> Listener:
        """What is heard."""
        return self.person.listener

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        return self.person.outcome

    @property
    def closing(self) -> bool:
        """Whether nothing more will be sent."""
        return self.person.closing

    # --- what happens -----------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """The socket is open: the stream begins."""
        self._origin = now
        self._outgoing += [message.decode() for message in self._far.start()]

    def receive_text(self, text: str, now: float) -> None:
        """A text message came; CarrierError when a carrier would refuse it."""
        self.wake(now)
        self._far.receive_text(text)
        self._follow(now)

    def receive_binary(self, data: bytes, now: float) -> None:
        """A binary message came; CarrierError when a carrier would refuse it."""
        self.wake(now)
        self._far.receive_binary(data)
        self._follow(now)

    def receive_closed(self, code: int | None, why: str, now: float) -> None:
        """The socket is closed, with this code and reason where there were any."""
        self.wake(now)
        outcome = self.outcome
        outcome.close_code = code
        if outcome.ended_by:
            pass  # the daemon, or we ourselves, said why
        elif code == NORMAL_CLOSE and why in {"", COMPLETED}:
            outcome.ended_by, outcome.reason, outcome.reached_end = "agent", COMPLETED, True
        else:
            outcome.ended_by = "daemon"
            outcome.reason = why or f"the connection closed with code {code}"
        self.person.closing = True

    def hang_up(self, reason: str, *, asked: bool = False) -> None:
        """End the call now; `asked` if that is the end that was wanted."""
        if self.person.hang_up(reason, asked=asked):
            self._stop()

    def wake_at(self) -> float | None:
        """When the next frame leaves."""
        if self._origin is None or self.closing:
            return None
        return self._origin + self._count * PTIME_MS / 1000

    def wake(self, now: float) -> None:
        """Send every frame that is due; hang up after a stall too long to catch up with."""
        due = self.wake_at()
        if due is not None and now - due > STALL_SECONDS:
            self.hang_up(f"the caller stood still for {now - due:.1f} s")
        while (due := self.wake_at()) is not None and due <= now:
            self._frame(self._count)
            self._count += 1

    # --- to collect -------------------------------------------------------------------------------

    def outgoing(self) -> list[str | bytes]:
        """Drain the messages to send, in order; `bytes` travel as binary messages."""
        drained, self._outgoing = self._outgoing, []
        return drained

    def events(self) -> list[CallerEvent]:
        """Drain what there is to tell, in order."""
        return self.person.events()

    # --- 20 ms ------------------------------------------------------------------------------------

    def _frame(self, number: int) -> None:
        """One frame leaves, and 20 ms more have been heard."""
        frame = self.person.frame(number)
        self._give_marks_back()
        if frame is None:
            self._stop()
            return
        if frame.key:
            self._outgoing.append(self._far.digit(frame.key).decode())
        message = self._far.audio(self._encode(frame.pcm))
        self._outgoing.append(message.decode() if self._audio_is_text else message)

    def _stop(self) -> None:
        """What a carrier sends at the end, once."""
        if self._origin is not None and not self._stopped:
            self._outgoing.append(self._far.stop().decode())
        self._stopped = True

    def _give_marks_back(self) -> None:
        for name in self.person.marks():
            if not self._stopped:
                self._outgoing.append(self._far.mark_played(name).decode())

    # --- what the daemon wants --------------------------------------------------------------------

    def _follow(self, now: float) -> None:
        assert self._origin is not None, "nothing can be received before the start"
        at = int((now - self._origin) * self._rate_hz)
        for event in self._far.events():
            self._obey(event, at)
        self.person.notice()
        self._give_marks_back()

    def _obey(self, event: FarEvent, at: int) -> None:
        match event:
            case Audio():
                self.listener.push(self._pcm(event.payload), at)
            case MarkAsked():
                self.listener.mark(event.name, at)
            case ClearAsked():
                self.listener.clear(at)
                answer = self._far.cleared()
                if answer is not None:
                    self._outgoing.append(answer.decode())
            case Notice():
                self._read(event.fields)
            case _:
                pass  # keys towards the caller: nobody here to hear them

    def _pcm(self, payload: bytes) -> bytes:
        if self._odd is not None:  # a plain socket may cut a sample in two
            payload = self._odd + payload
            whole = len(payload) & ~1
            self._odd, payload = payload[whole:], payload[:whole]
        return self._decode(payload)

    def _read(self, fields: dict[str, object]) -> None:
        """One of the daemon's own notices; unknown ones are for later clients."""
        match fields.get("type"):
            case "call":
                self.person.tell(Opened(_text(fields, "call_id"), _text(fields, "agent")))
            case "transcript":
                self.person.tell(
                    Line(
                        _text(fields, "role"),
                        _text(fields, "text"),
                        _number(fields, "start_ms"),
                        _number(fields, "end_ms"),
                        complete=fields.get("complete") is not False,
                        rejected=fields.get("rejected") is True,
                    )
                )
            case "ended" if not self.outcome.ended_by:
                self.outcome.ended_by = _text(fields, "by")
                self.outcome.reason = _text(fields, "reason")
                self.outcome.reached_end = self.outcome.reason == COMPLETED


def _text(fields: dict[str, object], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""


def _number(fields: dict[str, object], key: str) -> int:
    value = fields.get(key)
    return value if isinstance(value, int) else 0
