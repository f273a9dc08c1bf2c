"""Transcript: what was said and pressed, in the order in which it was heard.

The caller's words come from recognition, the agent's from the playout clock, so a line that was
cut off stands here as far as it got and a line that never sounded does not stand here at all. Both
arrive after the fact, in any order; entries are sorted by when they began, on media time. A key has
no media time of its own: it stands at the time since Start, which is playout's media time.

Put it behind playout; LineHeard is taken from either direction, so it may also stand before it, as
long as Transcription passes. Bounded: ENTRIES_MAX entries of TEXT_MAX characters; what is beyond is
counted and left out. `render_json` and `render_text` are pure.

A call's journal keeps the entries so far (`snapshot`), as JSON that grows by what is new, so a long
call costs a turn no more than a short one; `resume` goes on with them in another process, whose
media time begins anew and therefore is shifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import islice

import msgspec

from flowcatd.frames import InputDtmf, LineHeard, Start, Transcription
from flowcatd.pipeline.processor import Processor, down, up

ENTRIES_MAX = 10_000
"""A day of brisk conversation."""

TEXT_MAX = 4000
"""Characters of one entry: twice the longest line the voices take."""

NOT_UNDERSTOOD = "(not understood)"
"""What stands for speech that recognition rejected."""

VERSION = 1
"""Of the JSON document; raised when a reader of the old one would misread the new."""


class Role(StrEnum):
    """Who."""

    CALLER = "caller"
    AGENT = "agent"


class Kind(StrEnum):
    """How."""

    SPEECH = "speech"
    DIGIT = "digit"


class Entry(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One thing that was heard; what is usual is left out of the JSON."""

    role: Role
    text: str
    start_ms: int
    """On the call's media time."""
    end_ms: int
    kind: Kind = Kind.SPEECH
    rejected: bool = False
    """Speech, but nothing that was expected."""
    complete: bool = True
    """False for a line of the agent that was cut off; `text` is what was heard of it."""
    confidence: float = 1.0
    """Of the recognition, 0 to 1."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON transcript."""

    transcript: int = VERSION
    call_id: str
    entries: list[Entry]
    dropped: int
    """Entries that the limit left out."""


class Transcript(Processor):
    """Collects the entries of one call."""

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[Entry] = []
        self._origin = 0.0
        self.offset_ms = 0
        """How much later this stream began than the call's media time."""
        self._encoded = bytearray()
        self._encoded_count = 0
        self.dropped = 0
        """Entries that the limit left out."""

    def snapshot(self) -> msgspec.Raw:
        """The entries so far, in the order in which they became known, as a JSON list."""
        fresh = len(self._entries) - self._encoded_count
        for entry in islice(self._entries, self._encoded_count, None):
            self._encoded += b"," if self._encoded else b""
            self._encoded += msgspec.json.encode(entry)
        self._encoded_count += fresh
        return msgspec.Raw(b"[" + self._encoded + b"]")

    def resume(self, entries: Sequence[Entry], offset_ms: int) -> None:
        """Go on after these; what comes now began `offset_ms` after the call's media time did."""
        self._entries = list(entries[:ENTRIES_MAX])
        self.offset_ms = offset_ms

    def entries(self) -> list[Entry]:
        """What was heard so far, by when it began; together begun, by when it became known."""
        return sorted(self._entries, key=lambda entry: entry.start_ms)

    @down(Start)
    def start(self, frame: Start) -> None:
        """Media time begins."""
        self._origin = self.scope.now()
        self.push(frame)

    @down(Transcription)
    def caller(self, frame: Transcription) -> None:
        """The caller said something, understood or not."""
        self._add(
            Entry(
                role=Role.CALLER,
                text=frame.text[:TEXT_MAX] or NOT_UNDERSTOOD,
                start_ms=self.offset_ms + frame.start_ms,
                end_ms=self.offset_ms + frame.end_ms,
                rejected=not frame.text,
                confidence=round(frame.confidence, 3),
            )
        )
        self.push(frame)

    @down(InputDtmf)
    def digit(self, frame: InputDtmf) -> None:
        """The caller pressed a key."""
        at_ms = self.offset_ms + int((self.scope.now() - self._origin) * 1000)
        self._add(
            Entry(
                role=Role.CALLER,
                text=frame.digit,
                start_ms=at_ms,
                end_ms=at_ms,
                kind=Kind.DIGIT,
            )
        )
        self.push(frame)

    @down(LineHeard)
    def line(self, frame: LineHeard) -> None:
        """The agent was heard, as far as this."""
        self._line(frame)
        self.push(frame)

    @up(LineHeard)
    def line_from_behind(self, frame: LineHeard) -> None:
        """The same, when playout stands behind us."""
        self._line(frame)
        self.push_up(frame)

    def _line(self, frame: LineHeard) -> None:
        if frame.text:
            self._add(
                Entry(
                    role=Role.AGENT,
                    text=frame.text[:TEXT_MAX],
                    start_ms=self.offset_ms + frame.start_ms,
                    end_ms=self.offset_ms + frame.end_ms,
                    complete=frame.complete,
                )
            )

    def _add(self, entry: Entry) -> None:
        if len(self._entries) < ENTRIES_MAX:
            self._entries.append(entry)
        else:
            self.dropped += 1


def read_entries(snapshot: bytes) -> list[Entry]:
    """The entries of a snapshot; msgspec.MsgspecError when it is none."""
    return msgspec.json.decode(snapshot, type=list[Entry])


def render_json(call_id: str, entries: Sequence[Entry], *, dropped: int = 0) -> bytes:
    """The transcript as an indented JSON document, ending in a newline."""
    document = Document(call_id=call_id, entries=list(entries), dropped=dropped)
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def render_text(entries: Sequence[Entry]) -> str:
    """The transcript for people: one line an entry, whatever its text holds; a dash ends what was cut off."""
    return "".join(_text_line(entry) + "\n" for entry in entries)


def _text_line(entry: Entry) -> str:
    minutes, ms = divmod(max(entry.start_ms, 0), 60_000)
    said = " ".join("".join(c if c.isprintable() else " " for c in entry.text).split())
    if entry.kind is Kind.DIGIT:
        said = f"[key {said}]"
    dash = "" if entry.complete else " —"
    return f"[{minutes:02d}:{ms // 1000:02d}.{ms % 1000:03d}] {entry.role:<6} {said}{dash}"
