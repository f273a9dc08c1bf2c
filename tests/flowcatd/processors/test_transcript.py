"""Transcript: what was heard, in order, as JSON and as text."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flowcatd.frames import Frame, InputDtmf, LineHeard, Start, Transcription
from flowcatd.pipeline.chain import Chain
from flowcatd.pipeline.scope import Cancellable
from flowcatd.processors.transcript import (
    ENTRIES_MAX,
    TEXT_MAX,
    Entry,
    Kind,
    Role,
    Transcript,
    read_entries,
    render_json,
    render_text,
)
from flowcatd.wake import WakeList


class FixedScope:
    """A call whose time stands where the test puts it."""

    def __init__(self) -> None:
        self.time = 70.0
        self.wakes = WakeList()

    def now(self) -> float:
        """Virtual seconds."""
        return self.time

    def wake(self, due: float, callback: Callable[[], None]) -> Cancellable:
        """A wake in virtual time."""
        return self.wakes.add(due, callback)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Cancellable:
        """Nobody here has work to do."""
        raise NotImplementedError(name, work)


class Call:
    """A chain of one transcript, with what left it at both ends."""

    def __init__(self) -> None:
        self.scope = FixedScope()
        self.transcript = Transcript()
        self.out: list[Frame] = []
        self.back: list[Frame] = []
        self.chain = Chain(
            [self.transcript], self.scope, at_tail=self.out.append, at_head=self.back.append
        )
        self.chain.feed(Start(8000))


def test_entries_stand_in_the_order_they_began() -> None:
    """What became known late still stands where it was said."""
    call = Call()
    call.chain.feed(LineHeard("Which day?", 3000, 4000, complete=True))
    call.chain.feed(Transcription(0, "monday", 0.91234, 4500, 5000))
    call.chain.feed(LineHeard("Good morning.", 100, 1500, complete=True))
    call.scope.time += 6.5
    call.chain.feed(InputDtmf("5"))
    call.chain.feed(LineHeard("At what", 6000, 7000, complete=False))
    call.chain.feed(Transcription(0, "", 0.2, 5500, 5600))
    assert call.transcript.entries() == [
        Entry(role=Role.AGENT, text="Good morning.", start_ms=100, end_ms=1500),
        Entry(role=Role.AGENT, text="Which day?", start_ms=3000, end_ms=4000),
        Entry(role=Role.CALLER, text="monday", start_ms=4500, end_ms=5000, confidence=0.912),
        Entry(
            role=Role.CALLER,
            text="(not understood)",
            start_ms=5500,
            end_ms=5600,
            rejected=True,
            confidence=0.2,
        ),
        Entry(role=Role.AGENT, text="At what", start_ms=6000, end_ms=7000, complete=False),
        Entry(role=Role.CALLER, text="5", start_ms=6500, end_ms=6500, kind=Kind.DIGIT),
    ]


def test_every_frame_travels_on_in_its_direction() -> None:
    """A tap takes nothing out of the chain."""
    call = Call()
    line = LineHeard("Hello.", 0, 500, complete=True)
    frames = [Transcription(0, "hi", 1.0, 0, 1), InputDtmf("1"), line]
    for frame in frames:
        call.chain.feed(frame)
    call.chain.feed_up(line)
    assert call.out == [Start(8000), *frames]
    assert call.back == [line]
    heard = [entry.text for entry in call.transcript.entries()]
    assert heard == ["hi", "1", "Hello.", "Hello."]


def test_a_line_nobody_heard_does_not_stand_there() -> None:
    """A line cut off before its first word is no entry."""
    call = Call()
    call.chain.feed(LineHeard("", 100, 120, complete=False))
    assert call.transcript.entries() == []


def test_a_transcript_is_bounded() -> None:
    """Entries beyond the limit are counted, texts beyond theirs are cut."""
    call = Call()
    call.chain.feed(LineHeard("x" * (TEXT_MAX + 1), 0, 1, complete=True))
    for n in range(ENTRIES_MAX + 9):
        call.chain.feed(InputDtmf("0") if n % 2 else Transcription(0, "yes", 1.0, n, n))
    entries = call.transcript.entries()
    assert (len(entries), call.transcript.dropped) == (ENTRIES_MAX, 10)
    assert max(len(entry.text) for entry in entries) == TEXT_MAX


def test_the_json_names_what_is_unusual() -> None:
    """An entry has role, text and times, and beyond them only what is not as usual."""
    entries = [
        Entry(role=Role.AGENT, text="Which day?", start_ms=0, end_ms=900),
        Entry(role=Role.AGENT, text="At", start_ms=950, end_ms=999, complete=False),
        Entry(role=Role.CALLER, text="7", start_ms=1000, end_ms=1000, kind=Kind.DIGIT),
        Entry(role=Role.CALLER, text="(not understood)", start_ms=2, end_ms=3, rejected=True),
    ]
    assert json.loads(render_json("c1", entries, dropped=2)) == {
        "transcript": 1,
        "call_id": "c1",
        "entries": [
            {"role": "agent", "text": "Which day?", "start_ms": 0, "end_ms": 900},
            {"role": "agent", "text": "At", "start_ms": 950, "end_ms": 999, "complete": False},
            {"role": "caller", "text": "7", "start_ms": 1000, "end_ms": 1000, "kind": "digit"},
            {
                "role": "caller",
                "text": "(not understood)",
                "start_ms": 2,
                "end_ms": 3,
                "rejected": True,
            },
        ],
        "dropped": 2,
    }


def test_the_text_reads_as_a_conversation() -> None:
    """One line an entry: time, who, what; a dash where somebody was cut off."""
    entries = [
        Entry(role=Role.AGENT, text="Good morning.", start_ms=120, end_ms=900),
        Entry(role=Role.AGENT, text="Which", start_ms=61_005, end_ms=61_400, complete=False),
        Entry(role=Role.CALLER, text="9", start_ms=6_000_000, end_ms=6_000_000, kind=Kind.DIGIT),
    ]
    assert render_text(entries) == (
        "[00:00.120] agent  Good morning.\n"
        "[01:01.005] agent  Which —\n"
        "[100:00.000] caller [key 9]\n"
    )


@given(st.lists(st.text(max_size=20), max_size=5))
def test_no_text_can_forge_a_line(texts: list[str]) -> None:
    """Whatever was recognised, an entry is one line without control characters."""
    entries = [Entry(role=Role.CALLER, text=text, start_ms=0, end_ms=0) for text in texts]
    lines = render_text(entries).splitlines()
    assert len(lines) == len(texts)
    assert all(line.isprintable() for line in lines)


def test_a_transcript_goes_on_in_another_process() -> None:
    """What was kept at any moment is all there was; what comes now is later by the offset."""
    before, after = Call(), Call()
    assert read_entries(before.transcript.snapshot()) == []
    before.chain.feed(LineHeard("Which day?", 3000, 4000, complete=True))
    assert len(read_entries(before.transcript.snapshot())) == 1
    before.chain.feed(Transcription(0, "monday", 0.91234, 4500, 5000))
    before.chain.feed(InputDtmf("5"))
    kept = read_entries(before.transcript.snapshot())
    assert sorted(kept, key=lambda entry: entry.start_ms) == before.transcript.entries()
    after.transcript.resume(kept, 60_000)
    after.scope.time += 2
    after.chain.feed(InputDtmf("6"))
    after.chain.feed(LineHeard("Thanks.", 3000, 4000, complete=True))
    after.chain.feed(Transcription(0, "bye", 1.0, 4500, 5000))
    entries = after.transcript.entries()
    assert entries[:3] == before.transcript.entries()
    assert [(entry.text, entry.start_ms) for entry in entries[3:]] == [
        ("6", 62_000),
        ("Thanks.", 63_000),
        ("bye", 64_500),
    ]
    assert len(read_entries(after.transcript.snapshot())) == 6
