"""Journals on disk: written at every turn, found and claimed by whoever comes after a kill.

    journal/lives/<life>                    locked with flock(2) for as long as that worker lives
    journal/calls/<key>/<call id>.<life>    one call's journal (`flowcatd/journal.py`)

A life whose lock can be had is dead: the kernel gives the lock back when the last thread of the
process is gone (flock(2), exit), so nothing has to be noticed, pinged or timed. Testers take the lock
shared, so that two of them do not take each other for the living. The file gets its name only when
it is locked.

Who takes over a call renames its journal to its own life: rename(2) lets exactly one win, and the
loser's ENOENT is the whole protocol. A journal of a living worker is nobody else's business.

Everything here but that rename, and the opening of the life before the worker serves, is done by
the disk's thread, within bounds: the loop never waits for a directory. Files are 0640, directories
0750, since they hold what people said.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from flowcatd.journal import (
    BAD,
    Journal,
    JournalError,
    Name,
    decode,
    encode,
    key_of,
    may_resume,
    parse_name,
)
from flowcatd.links.disk import FILE_MODE, Disk, make_directory, replace_whole
from flowcatd.record import Identity

LOOK_SECONDS = 0.2
"""What a connection waits to hear whether it is a call that comes back; then it is a new one."""

CANDIDATES = 64
"""Journals read for one connection, newest first; more than one is a run id that many calls share."""

FOUND_MAX = 1000
"""Journals of dead lives taken up in one look; the rest is there at the next."""

JOURNAL_MAX = 8 << 20
"""Bytes of a journal that is read; ten thousand entries of a transcript are less than half."""

OnProblem = Callable[[str], None]
"""Told the name of an errno, on the loop, at most once per call."""


@dataclass(frozen=True, slots=True)
class Found:
    """A journal of a life that is over."""

    path: Path
    name: Name
    journal: Journal


class Journals:
    """One worker's way to the journals of all."""

    def __init__(self, disk: Disk, directory: Path, slot: int, token: str) -> None:
        """Begin a life; `token` makes it unique. OSError when the directory cannot be had."""
        self._disk = disk
        self._lives = directory / "lives"
        self._calls = directory / "calls"
        self.life = f"{slot}-{os.getpid()}-{token}"
        self.is_sparing: Callable[[], bool] = _never
        """Whether only turns are written, because the worker is late for what matters more."""
        make_directory(self._lives)
        make_directory(self._calls)
        self._lock = _lock(self._lives, self.life)

    def close(self) -> None:
        """The life is over in good order."""
        with suppress(OSError):
            (self._lives / self.life).unlink()
        os.close(self._lock)

    def file(self, identity: Identity, on_problem: OnProblem) -> JournalFile:
        """Where this call's journal goes; nothing is written yet."""
        place = self._calls / key_of(identity.carrier, identity.run_id)
        return JournalFile(self._disk, place / f"{identity.call_id}.{self.life}", on_problem)

    async def look(self, identity: Identity, patience: float) -> list[Found]:
        """Calls that may be coming back with this connection, the newest first; none after a while."""
        place = self._calls / key_of(identity.carrier, identity.run_id)
        now_utc = datetime.now(UTC)

        def work() -> list[Found]:
            found = (_read(path, name) for path, name in self._dead_in(place, CANDIDATES))
            return [
                each
                for each in found
                if each is not None and may_resume(each.journal, identity, now_utc, patience)
            ]

        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await self._disk.ask(work) or []
        except TimeoutError:
            return []

    def claim(self, found: Found) -> bool:
        """Make it ours; false when somebody was faster. The one system call on the loop: a rename."""
        return _rename(found.path, found.path.with_name(f"{found.name.call_id}.{self.life}"))

    async def dead(self) -> list[Path]:
        """The journals whose worker is gone, the oldest calls first; clears away what is left empty."""

        def work() -> list[Path]:
            found = [
                path
                for place in _entries(self._calls)
                for path, _ in self._dead_in(place, FOUND_MAX, clear=True)
            ]
            for life in _entries(self._lives):
                if not life.name.startswith(".") and _is_dead(self._lives, life.name):
                    with suppress(OSError):
                        life.unlink()
            return sorted(found, key=lambda path: path.name)[:FOUND_MAX]

        return await self._disk.ask(work) or []

    async def of_slot(self, slot: int) -> list[Found]:
        """The calls of dead workers of this slot, the newest first: for whoever follows them in it."""

        def work() -> list[Found]:
            found = (
                _read(path, name)
                for place in _entries(self._calls)
                for path, name in self._dead_in(place, CANDIDATES)
                if name.life.partition("-")[0] == str(slot)
            )
            return [each for each in found if each is not None][:FOUND_MAX]

        return await self._disk.ask(work) or []

    async def take(self, path: Path) -> tuple[Path, Journal | None] | None:
        """Claim it and read it: where it now is, and None for what cannot be read; None if it is gone.

        What cannot be read is moved aside, for a person to look at.
        """

        def work() -> tuple[Path, Journal | None] | None:
            name = parse_name(path.name)
            if name is None:
                return None
            ours = path.with_name(f"{name.call_id}.{self.life}")
            if not _rename(path, ours):
                return None
            found = _read(ours, name)
            if found is not None:
                return ours, found.journal
            aside = ours.with_name(f"{ours.name}{BAD}")
            return (aside, None) if _rename(ours, aside) else None

        return await self._disk.ask(work)

    async def discard(self, path: Path) -> None:
        """Its call is closed in its record."""
        await self._disk.ask(partial(_remove, path))

    def _dead_in(
        self, place: Path, most: int, *, clear: bool = False
    ) -> Iterator[tuple[Path, Name]]:
        """The journals of dead lives in one directory, the newest first."""
        known: dict[str, bool] = {}
        entries = sorted(_entries(place), key=lambda path: path.name, reverse=True)
        if clear:
            _clear(place, entries, partial(_is_dead, self._lives))
        for path in entries:
            name = parse_name(path.name)
            if name is None:
                continue
            if name.life not in known:
                known[name.life] = _is_dead(self._lives, name.life)
            if known[name.life]:
                yield path, name
                most -= 1
                if not most:
                    return


class JournalFile:
    """One call's journal, seen from the loop: `write` never waits, and only the newest is written."""

    def __init__(self, disk: Disk, path: Path, on_problem: OnProblem) -> None:
        """Made by Journals.file only."""
        self._disk = disk
        self._path = path
        self._on_problem = on_problem
        self._waiting: list[bytes] = []  # the newest last; an empty deque takes 760 bytes
        self._submitted = False
        self._over = False
        self._told = False

    def write(self, journal: Journal) -> int:
        """Keep this instead of the last one; returns its size in bytes."""
        data = encode(journal)
        if self._over:
            return 0
        self._waiting[:] = [data]
        if not self._submitted:
            self._submitted = self._disk.submit(self._write, len(data))
            if not self._submitted:
                self._tell("ENOBUFS")
            self._disk.hurry()
        return len(data)

    def remove(self) -> None:
        """The call has its record; what waits is not written any more."""
        self._over = True
        self._waiting.clear()
        self._disk.submit(partial(_remove, self._path))

    def _tell(self, problem: str) -> None:
        if not self._told:
            self._told = True
            self._on_problem(problem)

    # --- in the thread -----------------------------------------------------------------------------

    def _write(self) -> None:
        self._submitted = False  # first: what is added from here on is submitted again
        try:
            data = self._waiting.pop()
        except IndexError:
            return
        problem = replace_whole(self._path, data)
        if problem:
            self._disk.tell(partial(self._tell, problem))


def _never() -> bool:
    return False


def _lock(lives: Path, life: str) -> int:
    hidden = lives / f".{life}"
    fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        hidden.rename(lives / life)
    except OSError:
        os.close(fd)
        raise
    return fd


def _is_dead(lives: Path, life: str) -> bool:
    try:
        fd = os.open(lives / life, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False  # it lives; or nobody can say, and then nobody takes its calls away
    finally:
        os.close(fd)
    return True


def _entries(place: Path) -> list[Path]:
    try:
        with os.scandir(place) as found:
            return [place / entry.name for entry in found]
    except OSError:
        return []


def _read(path: Path, name: Name) -> Found | None:
    try:
        with path.open("rb") as file:
            return Found(path, name, decode(file.read(JOURNAL_MAX)))
    except (OSError, JournalError):
        return None


def _rename(path: Path, target: Path) -> bool:
    try:
        path.rename(target)
    except OSError:
        return False
    return True


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
    with suppress(OSError):
        path.parent.rmdir()


def _clear(place: Path, entries: list[Path], is_dead: Callable[[str], bool]) -> None:
    """Half a file that a kill left, and a directory without a call, are nobody's."""
    for path in entries:
        name = parse_name(path.name.removeprefix(".").removesuffix(".part"))
        if path.name.startswith(".") and name is not None and is_dead(name.life):
            with suppress(OSError):
                path.unlink()
    with suppress(OSError):
        place.rmdir()
