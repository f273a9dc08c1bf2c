"""Orphans: calls whose worker died and that nobody took up are closed in their records.

Every worker looks, when it starts, when a fellow is gone, and every EVERY_SECONDS: a killed worker's slot
may never come back. What it finds may still be on its way home, so it waits calls.resume_seconds, and then
claims each call by a rename, which one worker wins (`links/journal.py`). The winner writes what the
journal knows: the figures, the words and the variables up to the last turn, with `worker_lost`. The
call's end is the moment of that last turn, since nothing later is known.

A worker may itself die between a record and the end of its journal. So a record that is there
already is not written again: one call, one record. A journal that cannot be read is moved aside,
named once in the log, and its call's record says what the file's name knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from flowcatd.journal import Journal, parse_name, unreadable
from flowcatd.links.disk import Disk
from flowcatd.links.journal import Journals
from flowcatd.log import get_logger
from flowcatd.options import Options
from flowcatd.processors.transcript import render_json
from flowcatd.record import CallRecord, Ledger, Outcome, Reason, render
from workers.clock import WorkerClock
from workers.load import Load
from workers.parts import entries_of, tell_unkept
from workers.wiring import Store, Unwatched, Watch

log = get_logger()

EVERY_SECONDS = 60.0
"""From one look to the next."""
SECOND = 1.0

LOST = Outcome(reason=Reason.WORKER_LOST, error="its worker died, and nobody came back for it")


def _nothing(_journal: Journal) -> None:
    """A media socket went with its worker."""


class Orphans:
    """One worker's care for the calls of dead ones; one task, from `begin` to `close`."""

    def __init__(
        self, options: Options, clock: WorkerClock, store: Store, watch: Watch | None = None
    ) -> None:
        """`watch` is told of the calls that end here."""
        self._options = options
        self._clock = clock
        self._disk: Disk = store.disk
        self._directory = store.directory
        self._journals: Journals | None = store.journals
        self._watch = watch or Unwatched()
        self._task: asyncio.Task[None] | None = None
        self.loads: Iterable[Load] = ()
        """Who is there; looked at every second."""
        self.part: Callable[[Journal], None] = _nothing
        """Ends what the call still has outside, given its journal: a BYE in its dialog."""

    def begin(self) -> None:
        """Care from now on."""
        self._task = asyncio.get_running_loop().create_task(self.run(), name="orphans")

    def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def run(self) -> None:
        """Look, wait, close, for ever; cancel it to end. Without journals there is nothing to do."""
        journals = self._journals
        while journals is not None:
            found = await journals.dead()
            if found:
                await self._pause(self._options.calls.resume_seconds)
            for path in found:
                await self._close(journals, path)
            await self._until_next_look()

    async def _until_next_look(self) -> None:
        """EVERY_SECONDS, or until a fellow is gone."""
        until, were = self._clock.now() + EVERY_SECONDS, self._fellows()
        while self._clock.now() < until:
            await self._pause(SECOND)
            are = self._fellows()
            if were - are:
                return
            were = are

    def _fellows(self) -> frozenset[tuple[int, int]]:
        return frozenset((load.seat, load.since_us) for load in self.loads)

    async def _pause(self, seconds: float) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wake = self._clock.wake(self._clock.now() + seconds, lambda: over.set_result(None))
        try:
            await over
        finally:
            wake.cancel()

    async def _close(self, journals: Journals, path: Path) -> None:
        name = parse_name(path.name)
        taken = await journals.take(path) if name is not None else None
        if name is None or taken is None:
            return  # its carrier came back, or another worker was faster
        place, journal = taken
        if journal is None:
            log.error("journal.broken", call=name.call_id, moved_to=place.name)
        known = journal or unreadable(name.call_id)
        record_path = self._directory / f"{name.call_id}.json"
        if not await self._is_there(record_path):
            record = await self._finish(known)
            await self._write(record_path, record)
            log.warning("call.abandoned", call=record.call_id, seconds=record.duration_seconds)
            self._watch.ended(record)
            self.part(known)
        if journal is not None:
            await journals.discard(place)

    async def _is_there(self, path: Path) -> bool:
        return bool(await self._disk.ask(path.exists))

    async def _finish(self, journal: Journal) -> CallRecord:
        """The record, as of the last turn that was written down; its transcript is written here."""
        state, name = journal.ledger, journal.identity.call_id
        ledger = Ledger.restored(journal.identity, state, state.elapsed, 0.0)
        if not journal.media.rate_hz:
            ledger.problem("journal", "could not be read")
        files = ledger.files
        begun = [each for each in (files.recording, *files.later_recordings) if each]
        kept = [each for each in begun if await self._is_there(self._directory / each)]
        files.recording = kept[0] if kept else ""
        files.later_recordings = kept[1:]
        entries = sorted(entries_of(journal, ledger), key=lambda entry: entry.start_ms)
        if entries and self._options.records.transcript:
            path = self._directory / f"{name}.transcript.json"
            transcript = await self._disk.write_whole(path, render_json(name, entries))
            files.transcript = transcript.name
            if transcript.problem:
                ledger.problem("transcript", transcript.problem)
        return ledger.finish(state.elapsed, LOST, variables=journal.variables)

    async def _write(self, path: Path, record: CallRecord) -> None:
        """The record; what the disk refuses is in the log, as with every call."""
        if not self._options.records.record:
            return
        kept = await self._disk.write_whole(path, render(record))
        if kept.problem:
            tell_unkept(record, kept.problem)
            self._watch.unkept()
