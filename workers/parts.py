"""One call's parts, and what a journal takes from them and gives back to them.

`Parts` is what the wiring keeps of a call beside its chain: who is asked when the call is written down.
`journal_of` asks them; `resumption_of` turns a journal into the beginnings of the same call here:
its ledger, which goes on counting, its words so far, and by how much this process's media time is
later than the call's. The wall clock is believed for the length of the break only, and never backwards.

Nothing here waits or touches a file; the time comes in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from flowcatd.agent.brain import Brain
from flowcatd.call import Call
from flowcatd.carriers.events import Started
from flowcatd.journal import NOTHING, Journal, Media
from flowcatd.links.disk import GrowingFile
from flowcatd.links.journal import JournalFile
from flowcatd.log import get_logger
from flowcatd.processors.figures import Figures
from flowcatd.processors.playout import Playout
from flowcatd.processors.scribe import Scribe
from flowcatd.processors.transcript import Entry, Role, Transcript, read_entries
from flowcatd.record import CallRecord, Files, Identity, Ledger

log = get_logger()


class Listing(Protocol):
    """Where live calls are found by their name."""

    def add(self, call: Call) -> None:
        """It lives, under this name."""

    def remove(self, call: Call) -> None:
        """It does not, or no longer under this name."""


@dataclass(slots=True)
class Parts:
    """One call and who is asked about it; what is None has not come to be, or is not wanted."""

    call: Call
    transcript: Transcript
    listing: Listing | None = None
    """Told when the call turns out to be an older one, whose name it takes."""
    recording: GrowingFile | None = None
    journal: JournalFile | None = None
    scribe: Scribe | None = None
    figures: Figures | None = None
    playout: Playout | None = None
    brain: Brain | None = None
    session: dict[str, str] = field(default_factory=dict)
    """What the agent's templates read."""
    leg: Callable[[float], msgspec.Raw] = lambda _now: NOTHING
    """What another process needs to go on with the wire itself, where it can."""

    def changed(self) -> None:
        """Something that the journal holds is not as it was."""
        if self.scribe is not None:
            self.scribe.mark()


@dataclass(frozen=True, slots=True)
class Resumption:
    """A call that goes on here."""

    ledger: Ledger
    journal: Journal
    entries: list[Entry]
    offset_ms: int
    """Where this stream begins on the call's media time, in ms."""


def journal_of(parts: Parts, started: Started, now: float) -> Journal:
    """The call as it is; to be encoded before anything else happens."""
    call, brain, playout = parts.call, parts.brain, parts.playout
    if parts.figures is not None:
        parts.figures.hand_in()
    since = call.ledger.answered_at
    offset_ms = parts.transcript.offset_ms
    heard = playout.under_way() if playout is not None else []
    return Journal(
        identity=call.ledger.identity,
        written_at_utc=datetime.now(UTC),
        session=parts.session,
        ledger=call.ledger.snapshot(now),
        media=Media(
            encoding=started.encoding,
            rate_hz=started.rate_hz,
            at_ms=0 if since is None else int((now - since) * 1000),
            heard=[
                (line.text, offset_ms + line.start_ms, offset_ms + line.end_ms) for line in heard
            ],
        ),
        variables=call.variables(),
        brain=NOTHING if brain is None else _encoded(brain.snapshot(now)),
        transcript=parts.transcript.snapshot(),
        leg=parts.leg(now),
    )


def resumption_of(journal: Journal, identity: Identity, now: float) -> Resumption:
    """The call goes on, in the worker of `identity`, under its own name."""
    gap = max(0.0, (datetime.now(UTC) - journal.written_at_utc).total_seconds())
    ours = msgspec.structs.replace(journal.identity, worker_slot=identity.worker_slot)
    ledger = Ledger.restored(ours, journal.ledger, now, gap)
    ledger.resumed += 1
    ledger.problem("worker", f"worker lost, resumed after {gap:.1f} s")
    since = ledger.answered_at
    return Resumption(
        ledger=ledger,
        journal=journal,
        entries=entries_of(journal, ledger),
        offset_ms=0 if since is None else int((now - since) * 1000),
    )


def entries_of(journal: Journal, ledger: Ledger) -> list[Entry]:
    """What was said by then, the line that the break cut off as far as it was heard included."""
    if bytes(journal.transcript) == bytes(NOTHING):
        return []
    try:
        entries = read_entries(journal.transcript)
    except msgspec.MsgspecError:
        ledger.problem("transcript", "what was said before the worker was lost cannot be read")
        return []
    cut = (
        Entry(role=Role.AGENT, text=text, start_ms=start_ms, end_ms=end_ms, complete=False)
        for text, start_ms, end_ms in journal.media.heard
    )
    return [*entries, *cut]


def begin_recording(files: Files, name: str) -> None:
    """Another recording of this call is being written; the first one keeps its place."""
    if not files.recording:
        files.recording = name
    else:
        files.later_recordings.append(name)


def end_recording(files: Files, begun: str, kept: str) -> None:
    """The one that was begun under that name was kept under this one, or is empty and gone."""
    if files.recording == begun:
        files.recording = kept
    elif begun in files.later_recordings:
        place = files.later_recordings.index(begun)
        files.later_recordings[place : place + 1] = [kept] if kept else []


def _encoded(snapshot: msgspec.Struct) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(snapshot))


def tell_unkept(record: CallRecord, problem: str) -> None:
    """A record that the disk refused stands in the log: it is then the last place where it can stand."""
    log.error(
        "record.lost",
        call=record.call_id,
        what="record",
        problem=problem,
        record=msgspec.to_builtins(msgspec.structs.replace(record, variables={})),
        pii_variables=record.variables,
    )
