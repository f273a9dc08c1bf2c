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

On hold nothing is sent and hearing stands still; afterwards what was not heard lies later.

Lines (what the agent says) lie on the same axis. A line cut off inside is cut at the last word that
had ended, with words weighted by their letters, since a synthesiser reads at an even pace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

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
        self._held_at: int | None = None
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
        """Whether one more frame stays within the lead; never on hold."""
        return self._held_at is None and self.end_ms - self.media_ms(now) < self._lead_ms

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
        reached = self.media_ms(now) if self._held_at is None else self._held_at
        reached -= self.lag_ms
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

    def hold(self, now: float) -> None:
        """The far end plays nothing from here on: hearing stands still."""
        if self._held_at is None:
            self._held_at = self.media_ms(now)

    def resume(self, now: float) -> None:
        """It plays again: what was not heard before the hold comes later by as much as it lasted."""
        if self._held_at is None:
            return
        heard, pause = self.heard_ms(now), self.media_ms(now) - self._held_at
        self._held_at = None
        if self.end_ms > heard:
            self.end_ms += pause
        self._marks = {
            name: position + pause * (position > heard) for name, position in self._marks.items()
        }
        for line in self._lines:
            if line.start_ms is not None and line.start_ms > heard:
                line.start_ms += pause
            if line.end_ms is not None and line.end_ms > heard:
                line.end_ms += pause

    @property
    def is_held(self) -> bool:
        """Whether hearing stands still."""
        return self._held_at is not None

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


Between = TypeVar("Between")
"""What stands between stretches of audio."""


class Stretch:
    """Whole frames of one piece of audio that have not left; the piece itself is not copied."""

    __slots__ = ("at", "end", "pcm")

    def __init__(self, pcm: bytes, at: int, end: int) -> None:
        self.pcm = pcm
        self.at = at
        self.end = end


class Backlog(Generic[Between]):
    """What waits to be sent: pieces of any length, cut into frames only when those leave.

    A line that many calls say is one object that all of them look into, and a call that says a
    minute holds a few references instead of three thousand frames, which would leave the heap of a
    worker full of holes.
    """

    __slots__ = ("_frame", "_held", "_items", "size")

    def __init__(self, frame_bytes: int) -> None:
        self._frame = frame_bytes
        self._held = b""  # the end of the last piece: less than one frame
        self._items: list[Stretch | Between] = []  # few, and an empty deque takes 760 bytes
        self.size = 0
        """Whole frames, and what stands between them."""

    def passes(self, pcm: bytes) -> bool:
        """Whether this is one whole frame with nothing before it: it need not wait here."""
        return not self._items and not self._held and len(pcm) == self._frame

    def put(self, pcm: bytes) -> None:
        """More audio."""
        frame, at = self._frame, 0
        if self._held:
            at = frame - len(self._held)
            joined = self._held + pcm[:at]
            if len(joined) < frame:
                self._held = joined
                return
            self._add(joined, 0, frame)
        end = len(pcm) - (len(pcm) - at) % frame
        self._held = pcm[end:]
        if end > at:
            self._add(pcm, at, end)

    def fill(self) -> None:
        """The audio ends here: what is short of a frame is filled up with silence."""
        if self._held:
            self._add(self._held.ljust(self._frame, b"\0"), 0, self._frame)
            self._held = b""

    def stand(self, item: Between) -> None:
        """This comes behind all that waits."""
        self._items.append(item)
        self.size += 1

    def trim(self, most: int) -> bool:
        """Leave out the end of the audio put last, beyond a size of `most`; whether it was too much."""
        over = self.size - most
        if over <= 0:
            return False
        while over > 0 and self._items and isinstance(last := self._items[-1], Stretch):
            count = min(over, (last.end - last.at) // self._frame)
            last.end -= count * self._frame
            self.size -= count
            over -= count
            if last.at == last.end:
                self._items.pop()
        return True

    @property
    def first(self) -> Stretch | Between | None:
        """What leaves next; a stretch by frames, all else by `take`."""
        return self._items[0] if self._items else None

    def take_frame(self, stretch: Stretch) -> bytes:
        """The next frame, out of the stretch that stands first."""
        at = stretch.at
        stretch.at = end = at + self._frame
        self.size -= 1
        if end == stretch.end:
            del self._items[0]
        return stretch.pcm[at:end]

    def take(self) -> None:
        """What stands first, and is no stretch, leaves."""
        del self._items[0]
        self.size -= 1

    def between(self) -> list[Between]:
        """All that stands between stretches."""
        return [item for item in self._items if not isinstance(item, Stretch)]

    def until_between(self) -> tuple[int, bool]:
        """How many frames wait before the first thing that is none, and whether there is one."""
        frames = 0
        for item in self._items:
            if not isinstance(item, Stretch):
                return frames, True
            frames += (item.end - item.at) // self._frame
        return frames, False

    def clear(self, keep: list[Between]) -> None:
        """Forget all, but for these."""
        self._items = [*keep]
        self._held = b""
        self.size = len(keep)

    def _add(self, pcm: bytes, at: int, end: int) -> None:
        self._items.append(Stretch(pcm, at, end))
        self.size += (end - at) // self._frame


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
