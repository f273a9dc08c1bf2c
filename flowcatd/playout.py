"""The playout clock: what was sent, what has been heard, what to send next. Pure.

Everything is counted on the call's media time, in whole milliseconds since the stream began; audio
moves in frames of 20 ms, so positions never round.

Sending runs ahead of hearing by at most `lead_ms`. More lead survives longer stalls of ours; less
leaves less in the far end's buffer when the caller takes the turn, and not every far end can clear.

What has been heard is, in order of trust:
1. a mark that came back, unless a clear of ours overtook it: everything up to it was played;
2. time: a frame sent at media time t plays from max(t, end of the one before), `lag_ms` later,
   where `lag_ms` is what the last mark taught us about the far end's delay;
3. a mark that has not come back although its time has: nothing from it on has been heard yet, for
   at most MARK_GRACE_MS; then the mark is taken for lost and time decides again.

Lines (what the agent says) lie on the same axis. A line cut off inside is cut at the last word that
had ended, with words weighted by their letters, since a synthesiser reads at an even pace.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowcatd.media import PTIME_MS

MARK_GRACE_MS = 1500
"""How long an overdue mark is believed to be still on its way; a carrier's round trip with a stall."""

PACE_MS = 70
"""What a letter takes to be said, where a line's length is not known yet; a calm voice needs 65."""

MARKS_OPEN = 64
"""Marks awaiting their return; one a line, so far above any queue of lines."""


@dataclass(slots=True)
class Line:
    """One thing the agent says, as it lies on media time."""

    text: str
    start_ms: int | None = None
    end_ms: int | None = None
    """None while it is still being sent."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A line, as far as it was heard."""

    text: str
    start_ms: int
    end_ms: int
    complete: bool


class PlayoutClock:
    """What was heard of what was sent."""

    def __init__(self, lead_ms: int, *, has_marks: bool) -> None:
        """`has_marks` says whether the far end returns marks."""
        self._lead_ms = lead_ms
        self._has_marks = has_marks
        self._origin: float | None = None
        self.end_ms = 0
        """Media time at which the last frame sent will have been played, our lag apart."""
        self.lag_ms = 0
        self._marks: dict[str, int] = {}
        self._played_ms = 0
        self._serial = 0
        self._lines: list[
            Line
        ] = []  # few; an empty deque takes 760 bytes, and calls are idle mostly

    def start(self, now: float) -> None:
        """The stream began: media time is zero."""
        self._origin = now

    def media_ms(self, now: float) -> int:
        """Where `now` is on media time."""
        if self._origin is None:
            return 0
        return int((now - self._origin) * 1000 + 0.001)  # so that at() comes back as it went

    def at(self, media_ms: int) -> float:
        """The monotonic time of a place on media time."""
        return (self._origin or 0.0) + media_ms / 1000

    # --- sending ---------------------------------------------------------------------------------

    def may_send(self, now: float) -> bool:
        """Whether one more frame stays within the lead."""
        return self.end_ms - self.media_ms(now) < self._lead_ms

    def send_at(self) -> float:
        """When the next frame may go, if the lead is used up."""
        return self.at(self.end_ms - self._lead_ms + 1)

    def sent(self, now: float) -> int:
        """A frame went out; returns the media time at which it starts to play."""
        start_ms = max(self.end_ms, self.media_ms(now))
        self.end_ms = start_ms + PTIME_MS
        if self._lines and self._lines[-1].start_ms is None:
            self._lines[-1].start_ms = start_ms
        return start_ms

    def line_started(self, text: str) -> None:
        """The frames that follow are this line."""
        self._lines.append(Line(text))

    def line_stopped(self) -> str | None:
        """The line is complete; returns the name of the mark to send, where marks work."""
        line = self._lines[-1] if self._lines else None
        if line is None or line.end_ms is not None:
            return None
        if line.start_ms is None:
            self._lines.pop()  # nothing of it was audible
            return None
        line.end_ms = self.end_ms
        if not self._has_marks or len(self._marks) >= MARKS_OPEN:
            return None
        self._serial += 1
        name = f"line-{self._serial}"
        self._marks[name] = self.end_ms
        return name

    # --- hearing ---------------------------------------------------------------------------------

    def mark_played(self, name: str, now: float) -> bool:
        """A mark came back; false when it is none of ours, or a clear overtook it."""
        position = self._marks.get(name)
        if position is None:
            return False
        self._played_ms = max(self._played_ms, position, self.heard_ms(now))
        # Marks come back in order: one from before this one is lost, and what it stood for played.
        self._marks = {other: at_ms for other, at_ms in self._marks.items() if at_ms > position}
        self.lag_ms = min(max(0, self.media_ms(now) - position), MARK_GRACE_MS)
        return True

    def heard_ms(self, now: float) -> int:
        """Up to where the far end has played."""
        reached = self.media_ms(now) - self.lag_ms
        heard = min(self.end_ms, reached)
        for position in self._marks.values():
            if position <= heard and reached - position < MARK_GRACE_MS:
                heard = position - 1  # due, but its mark has not come back: not yet
                break
        return max(heard, self._played_ms)

    def heard(self, now: float) -> list[Heard]:
        """Drain the lines that have been heard to their end."""
        position = self.heard_ms(now)
        done: list[Heard] = []
        while self._lines:
            line = self._lines[0]
            if line.start_ms is None or line.end_ms is None or line.end_ms > position:
                break
            del self._lines[0]
            self._played_ms = max(self._played_ms, line.end_ms)  # what was told is not taken back
            done.append(Heard(line.text, line.start_ms, line.end_ms, complete=True))
        return done

    def heard_at(self) -> float | None:
        """When to ask again whether the oldest line has been heard; None when none is under way."""
        if not self._lines or self._lines[0].end_ms is None:
            return None
        end_ms = self._lines[0].end_ms
        awaiting = any(position == end_ms for position in self._marks.values())
        return self.at(end_ms + self.lag_ms + (MARK_GRACE_MS if awaiting else 0))

    @property
    def quiet(self) -> bool:
        """Whether no line is being said or awaited."""
        return not self._lines

    def drained(self, now: float) -> bool:
        """Whether everything sent has been heard."""
        return self.quiet and self.heard_ms(now) >= self.end_ms

    def cleared(
        self, now: float, *, unsent_ms: int = 0, made: bool = True
    ) -> tuple[int, list[Heard]]:
        """The far end was told to forget: where hearing ended, and the lines as far as they got.

        `unsent_ms` of the line being sent had not left, and `made` says whether that was its rest.
        """
        position = self.heard_ms(now)
        lines = self.heard(now)
        for line in self._lines:
            if line.start_ms is not None and line.start_ms < position:
                end_ms = line.end_ms
                if end_ms is None:
                    end_ms = self.end_ms + unsent_ms
                    if not made:
                        end_ms = max(end_ms, line.start_ms + PACE_MS * len(line.text))
                text = cut(line.text, line.start_ms, end_ms, position)
                lines.append(Heard(text, line.start_ms, position, complete=False))
        self._lines.clear()
        self._marks.clear()  # a mark that a clear overtook proves nothing when it comes back
        self.end_ms = position
        return position, lines


def cut(text: str, start_ms: int, end_ms: int, heard_ms: int) -> str:
    """The words of a line that had ended by `heard_ms`, the words sharing its time by their length."""
    words = text.split()
    letters = sum(len(word) + 1 for word in words)
    if not letters or end_ms <= start_ms:
        return ""
    budget = (heard_ms - start_ms) / (end_ms - start_ms) * letters
    kept: list[str] = []
    spent = 0
    for word in words:
        spent += len(word) + 1
        if spent > budget + 0.5:
            break
        kept.append(word)
    return " ".join(kept)
