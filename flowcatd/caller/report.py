"""The conversation as it happens, for a person; its figures at the end, for a person or a program.

    00:00.3  agent   Hello, this is Willow Lane Surgery.
    00:07.8  caller  I would like tuesday please
                     understood: tuesday
    00:09.9  agent   Tuesday. And at what time?  (after 0.58 s)

What the agent said is known by the daemon's account, which it gives only to callers on its own
machine, and not over SIP; without it the report says how long the agent spoke. Answer latency is measured here, by
ear: from the caller's last audible sample to the agent's first.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import assert_never

import msgspec

from flowcatd.caller.facts import (
    AgentSpoke,
    Answered,
    CallerEvent,
    Line,
    Opened,
    Outcome,
    Rang,
    Spoke,
    Taken,
    Transferred,
)
from flowcatd.sip_figures import MediaFigures

ROWS_LIMIT = 10_000
"""Rows kept for the figures at the end; an hour of short lines."""

ECHO = "echo"
"""The agent that has no lines: of it the daemon has nothing to tell."""

_DIM, _BOLD, _RED, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[0m"
_NO_TIME = " " * 7

_RINGING = {
    180: "it rings",
    181: "it is forwarded",
    182: "it is queued",
    183: "something is played",
}

GOOD_MOS, FAIR_MOS = 4.0, 3.6
"""ITU-T G.107 annex B: users are satisfied, and some are not."""


@dataclass(slots=True)
class Row:
    """One turn of either side."""

    role: str
    text: str
    start_ms: int
    end_ms: int
    answer_ms: int | None = None
    """Caller: how long the agent took to answer."""
    understood: str | None = None
    """Caller: what the daemon took it for; empty when it was rejected."""
    keys: str = ""
    """Caller: what was pressed, when it was not said."""
    complete: bool = True
    """Agent: whether it was heard to its end."""


class Report:
    """One call, told."""

    def __init__(self, write: Callable[[str], None], *, coloured: bool) -> None:
        """`write` gets one line at a time, without its end."""
        self._write = write
        self._coloured = coloured
        self._accounted = False
        self._answered_ms: int | None = None
        self.rows: list[Row] = []
        self.call_id = ""
        """The daemon's name for the call, or over SIP its Call-ID."""
        self.media: MediaFigures | None = None
        """What became of the sound, where this caller knows: over SIP."""

    def begin(self, shown: str, carrier: str) -> None:
        """The call is about to be placed."""
        self._write(self._dim(f"calling {shown} as {carrier}"))

    def tell(self, event: CallerEvent) -> None:
        """Something happened."""
        match event:
            case Spoke():
                self._spoke(event)
            case Answered():
                self._answered_ms = event.ms
                caller = self._last_caller()
                if caller is not None:
                    caller.answer_ms = event.ms
            case AgentSpoke():
                if not self._accounted:
                    self._agent(
                        "", round(event.start * 1000), round(event.end * 1000), not event.cut
                    )
            case Line():
                self._accounted = True
                self._line(event)
            case Opened():
                self._accounted = event.agent != ECHO
                self.call_id = event.call_id
                self._write(self._dim(f"{_NO_TIME}  call {event.call_id}, agent {event.agent}"))
            case Rang() | Taken() | Transferred():
                self._signalled(event)
            case _:
                assert_never(event)

    def finish(self, outcome: Outcome, *, heard_seconds: float, unsaid: int) -> None:
        """The last lines."""
        if outcome.reached_end:
            self._write(self._bold(f"the {outcome.ended_by} ended the call: {outcome.reason}"))
        else:
            why = f"the conversation did not reach its end: {outcome.reason} ({outcome.ended_by})"
            self._write(self._paint(_RED, why))
        said = sum(row.role == "caller" for row in self.rows)
        parts = [f"{_many(said, 'turn')} said", f"agent heard for {heard_seconds:.1f} s"]
        if unsaid:
            parts.append(f"{_many(unsaid, 'turn')} left unsaid")
        answers = self.answers_ms()
        if answers:
            middle, most = statistics.median(answers) / 1000, max(answers) / 1000
            parts.append(
                f"{len(answers)} answered, after {middle:.2f} s (median), {most:.2f} s (max)"
            )
        self._write(self._dim("; ".join(parts)))
        if self.media is not None:
            self._write(self._dim(_sound(self.media)))
            self._write(self._dim(f"flowcatd ladder {self.call_id} shows the daemon's side of it"))

    def answers_ms(self) -> list[int]:
        """The answer latencies, in the order of the turns."""
        return [row.answer_ms for row in self.rows if row.answer_ms is not None]

    def figures(self, outcome: Outcome, *, heard_seconds: float, unsaid: int) -> dict[str, object]:
        """Everything, for a program."""
        return {
            "call_id": self.call_id,
            "turns": [asdict(row) for row in self.rows],
            "unsaid": unsaid,
            "answer_ms": self.answers_ms(),
            "heard_seconds": round(heard_seconds, 3),
            **({} if self.media is None else {"media": msgspec.to_builtins(self.media)}),
            **asdict(outcome),
        }

    # --- private ----------------------------------------------------------------------------------

    def _signalled(self, event: Rang | Taken | Transferred) -> None:
        match event:
            case Rang():
                self._note(_RINGING.get(event.status, f"it says {event.status}"))
            case Taken():
                self.call_id = event.call_id
                self._note(
                    f"taken after {event.after:.2f} s, {event.codec} over {event.transport}; what is "
                    "said is not told over SIP, only heard"
                )
            case Transferred():
                self._note("the agent wants to hand the call over; refused, so that it goes on")

    def _spoke(self, event: Spoke) -> None:
        turn = event.turn
        text = f"presses {' '.join(turn.digits)}" if turn.digits else turn.text
        start_ms, end_ms = round(event.at * 1000), round(event.until * 1000)
        self._keep(Row("caller", text, start_ms, end_ms, keys=turn.digits))
        self._write(f"{_clock(event.at)}  {self._bold('caller')}  {text}")

    def _line(self, line: Line) -> None:
        if line.role == "agent":
            self._agent(line.text, line.start_ms, line.end_ms, line.complete)
            return
        understood = "" if line.rejected else line.text
        spoken = self._last_caller(spoken=True)
        if spoken is not None and spoken.understood is None:
            spoken.understood = understood
        words = f"understood: {understood}" if understood else "not understood"
        self._write(self._dim(f"{_NO_TIME}          {words}"))

    def _agent(self, text: str, start_ms: int, end_ms: int, complete: bool) -> None:  # noqa: FBT001 a value passed on, not a choice
        self._keep(Row("agent", text, start_ms, end_ms, complete=complete))
        shown = text or "…"
        if not text and not self._accounted:
            shown = f"(speaks {(end_ms - start_ms) / 1000:.1f} s)"
        notes = []
        if not complete:
            notes.append("cut off")
        if self._answered_ms is not None:
            notes.append(f"after {self._answered_ms / 1000:.2f} s")
            self._answered_ms = None
        if notes:
            shown += self._dim(f"  ({', '.join(notes)})")
        self._write(f"{_clock(start_ms / 1000)}  agent   {shown}")

    def _keep(self, row: Row) -> None:
        if len(self.rows) < ROWS_LIMIT:
            self.rows.append(row)

    def _last_caller(self, *, spoken: bool = False) -> Row | None:
        """The caller's last turn; with `spoken` the last one that was speech."""
        rows = (row for row in reversed(self.rows) if row.role == "caller")
        return next((row for row in rows if not (spoken and row.keys)), None)

    def _note(self, text: str) -> None:
        """Something of the call itself, outside of the conversation."""
        self._write(self._dim(f"{_NO_TIME}  {text}"))

    def _dim(self, text: str) -> str:
        return self._paint(_DIM, text)

    def _bold(self, text: str) -> str:
        return self._paint(_BOLD, text)

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._coloured else text


def _sound(media: MediaFigures) -> str:
    """How what we heard sounded, by the packets it came in."""
    if not media.packets_in:
        return "sound: nothing came, not a single packet"
    word = "good" if media.mos >= GOOD_MOS else "fair" if media.mos >= FAIR_MOS else "poor"
    parts = [
        f"sound: MOS {media.mos:.1f} ({word})",
        f"{media.packets_in} packets came, {media.lost} lost, {media.late} late",
        f"jitter {media.jitter_ms:.1f} ms",
    ]
    if media.round_trip_ms is not None:
        parts.append(f"round trip {media.round_trip_ms:.1f} ms")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    """mm:ss.t since the call began."""
    tenths = round(seconds * 10)
    return f"{tenths // 600:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
