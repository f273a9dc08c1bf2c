"""Disk: one writer thread per worker, so that no file ever makes the loop wait.

The loop puts work into a queue and goes on; the thread opens, writes and closes. The bytes that
wait are limited: beyond it a block of a growing file is replaced by a hole of the same length, so
what comes later keeps its place in time.

* A file is created with O_EXCL and never replaces another; a name that is taken gets a number.
* A growing file's header is written again after each block, so a worker that dies leaves a valid
  file, and so does a disk that is full: the block that did not fit is cut off again.
* A whole file is written under a temporary name and linked (link(2) refuses an existing name), so
  whoever sees the name sees all of it. Where the file system has no hard links, the name is taken
  first and replaced by rename(2).
* A file that is written again and again (a call's journal) is replaced the same way by rename(2), so
  a reader, or whoever comes after a kill, sees one version or the next, and never a half.
* What the system refuses is told once per file, by the name of its errno. The call goes on.

It decides nothing about content: `header` is a function from the payload's size to the bytes before
it. Files are 0640, directories 0750, less the umask.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

FILE_MODE = 0o640
DIRECTORY_MODE = 0o750

PENDING_MAX = 32 << 20
"""Bytes that may wait for a slow disk: 10 s of 100 calls at 8 kHz stereo."""

BATCH_SECONDS = 0.1
"""How long work may lie on the loop's side before the thread is woken for all of it at once."""

NAMES_MAX = 100
"""How many numbers are tried after a name; call ids are unique, so the first is expected to do."""

RACES = 4
"""How often a directory is made again that others found empty."""

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_NO_ROOM = "ENOBUFS"
_Work = tuple[Callable[[], None], int]
"""What the thread is to do, and how many waiting bytes that ends."""
_Result = TypeVar("_Result")

Header = Callable[[int], bytes]
"""The bytes before a payload of this size; always equally many."""

OnProblem = Callable[[str], None]
"""Told the name of an errno (`ENOSPC`), on the loop, at most once per file."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a file."""

    name: str
    """Its name in its directory; empty when nothing was kept."""
    size: int
    """Bytes of payload."""
    problem: str = ""
    """The errno that stopped it; a growing file may have one and still be kept in part."""


class Disk:
    """The writer of one worker; made after the fork, on the loop that will use it."""

    def __init__(self, *, pending_max: int = PENDING_MAX, sync: bool = False) -> None:
        """`sync` makes a file safe against a power cut before it counts as kept."""
        self._loop = asyncio.get_running_loop()
        self._pending_max = pending_max
        self._sync = sync
        self._queue: SimpleQueue[list[_Work] | None] = SimpleQueue()
        self._batch: list[_Work] = []
        self._timer: asyncio.TimerHandle | None = None
        # Each is written by one side only, so the two sides need no lock.
        self._queued = 0
        self._done = 0
        self._closed = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        # A daemon, because a network disk that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Bytes that wait to be written."""
        return self._queued - self._done

    def create(self, path: Path, header: Header, on_problem: OnProblem) -> GrowingFile:
        """A file that grows, opened in the background; directories that are missing are made."""
        return GrowingFile(self, _Growing(path, header, sync=self._sync), on_problem)

    async def write_whole(self, path: Path, data: bytes) -> Kept:
        """A small file, all of it or nothing; `Kept.problem` says why nothing."""
        outcome: asyncio.Future[Kept] = self._loop.create_future()

        def work() -> None:
            kept = _write_whole(path, data, sync=self._sync)
            self.tell(partial(_settle, outcome, kept))

        if not self.submit(work, len(data)):
            return Kept("", 0, _NO_ROOM)
        self.hurry()
        return await outcome

    async def ask(self, work: Callable[[], _Result]) -> _Result | None:
        """What `work` gives, done by the thread; None when the system refused, or all is closed."""
        answer: asyncio.Future[_Result | None] = self._loop.create_future()

        def done() -> None:
            result = None
            with suppress(OSError):
                result = work()
            self.tell(partial(_settle, answer, result))

        if not self.submit(done):
            return None
        self.hurry()
        return await answer

    async def close(self, within: float) -> bool:
        """Write what waits, for at most `within` seconds; false when the disk was too slow for it."""
        if not self._closed:
            self._closed = True
            self.hurry()
            self._queue.put(None)
        done, _ = await asyncio.wait([self._ended], timeout=within)
        return bool(done)

    def submit(self, work: Callable[[], None], size: int = 0) -> bool:
        """Queue work that holds `size` bytes; false when there is no room, or all is closed.

        It may lie here for BATCH_SECONDS: to wake a thread costs the loop 20 µs, to add to a list
        nothing. Whoever waits for the work calls `hurry` next.
        """
        if self._closed or (size and self.pending + size > self._pending_max):
            return False
        self._queued += size
        self._batch.append((work, size))
        if self._timer is None:
            self._timer = self._loop.call_later(BATCH_SECONDS, self.hurry)
        return True

    def hurry(self) -> None:
        """Give the thread what lies here."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._batch:
            self._queue.put(self._batch)
            self._batch = []

    def tell(self, callback: Callable[[], None]) -> None:
        """Run this on the loop, from the thread; forgotten when the loop has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            for work, size in batch:
                work()
                self._done += size
        self.tell(partial(_settle, self._ended, None))


class GrowingFile:
    """A file of one call, seen from the loop: nothing here waits for the disk but `close`."""

    def __init__(self, disk: Disk, growing: _Growing, on_problem: OnProblem) -> None:
        """Made by Disk.create only."""
        self._disk = disk
        self._growing = growing
        self._on_problem = on_problem
        self._gap = 0
        self._failed = False
        self._told = False
        self._closing: asyncio.Future[Kept] | None = None
        disk.submit(self._open)

    @property
    def name(self) -> str:
        """Its name in its directory, as far as it is known: the first wish, until it is opened."""
        return self._growing.name

    def append(self, block: bytes) -> None:
        """More payload; a hole of its length when too much waits, nothing once the file has failed."""
        if self._failed or self._closing is not None:
            return
        if self._disk.submit(partial(self._write, self._gap, block), len(block)):
            self._gap = 0
        else:
            self._gap += len(block)
            self._tell(_NO_ROOM)

    async def close(self) -> Kept:
        """No more comes; returns what was kept, once it is written."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
            if not self._disk.submit(partial(self._close, self._closing)):
                self._closing.set_result(Kept("", 0, _NO_ROOM))
            self._disk.hurry()
        return await asyncio.shield(self._closing)

    def _tell(self, problem: str) -> None:
        if not self._told:
            self._told = True
            self._on_problem(problem)

    def _fail(self, problem: str) -> None:
        self._failed = True
        self._tell(problem)

    # --- in the thread -----------------------------------------------------------------------------

    def _open(self) -> None:
        self._growing.open()
        self._report()

    def _write(self, gap: int, block: bytes) -> None:
        if not self._growing.problem:
            self._growing.write(gap, block)
            self._report()

    def _close(self, closing: asyncio.Future[Kept]) -> None:
        kept = self._growing.close()
        self._report()
        self._disk.tell(partial(_settle, closing, kept))

    def _report(self) -> None:
        if self._growing.problem:
            self._disk.tell(partial(self._fail, self._growing.problem))


class _Growing:
    """The same file, seen from the thread: the system calls, and what they refused."""

    def __init__(self, path: Path, header: Header, *, sync: bool) -> None:
        self._path = path
        self._header = header
        self._head = len(header(0))
        self._sync = sync
        self._fd = -1
        self._size = 0
        self.problem = ""

    @property
    def name(self) -> str:
        return self._path.name

    def open(self) -> None:
        try:
            self._path, self._fd = _open_new(self._path)
            _write_all(self._fd, self._header(0), 0)
        except OSError as error:
            self.problem = _name_of(error)

    def write(self, gap: int, block: bytes) -> None:
        """A block, after a hole of `gap` bytes; all of both counts, or nothing."""
        size = self._size + gap
        try:
            _write_all(self._fd, block, self._head + size)
            _write_all(self._fd, self._header(size + len(block)), 0)
            self._size = size + len(block)
        except OSError as error:
            self.problem = _name_of(error)
            with suppress(OSError):  # the header is still that of the size before
                os.ftruncate(self._fd, self._head + self._size)

    def close(self) -> Kept:
        """A file without payload is removed again; one whose name has vanished is not kept."""
        if self._fd < 0:
            return Kept("", 0, self.problem)
        name = self._path.name
        try:
            if not os.fstat(self._fd).st_nlink:
                raise FileNotFoundError(errno.ENOENT, "the file was removed while it was written")
            if not self._size:
                name = ""
                self._path.unlink()
            elif self._sync:
                os.fsync(self._fd)
        except OSError as error:
            self.problem = self.problem or _name_of(error)
            name = "" if isinstance(error, FileNotFoundError) else name
        try:
            os.close(self._fd)
        except OSError as error:  # where a network disk tells that it did not keep what it took
            self.problem = self.problem or _name_of(error)
        return Kept(name, self._size if name else 0, self.problem)


def replace_whole(path: Path, data: bytes) -> str:
    """Give the name to a file with these bytes, whatever had it before; the errno's name, or nothing.

    For the thread. One writer per name; its directory may vanish at any moment before (an empty one
    is removed by whoever emptied it), so it is made again, a few times.
    """
    temporary = path.with_name(f".{path.name}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    for attempt in range(RACES):
        try:
            try:
                fd = os.open(temporary, flags, FILE_MODE)
            except FileNotFoundError:
                make_directory(path.parent)
                if attempt == RACES - 1:
                    raise
                continue
            try:
                _write_all(fd, data, 0)
            finally:
                os.close(fd)
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            return _name_of(error)
        break
    return ""


def _write_whole(path: Path, data: bytes, *, sync: bool) -> Kept:
    try:
        temporary, fd = _open_new(path.with_name(f".{path.name}.part"))
        try:
            try:
                _write_all(fd, data, 0)
                if sync:
                    os.fsync(fd)
            finally:
                os.close(fd)
            return Kept(_publish(temporary, path).name, len(data))
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        return Kept("", 0, _name_of(error))


def _publish(temporary: Path, path: Path) -> Path:
    """Give the temporary file its name, or the first numbered one that is free."""
    for candidate in _names(path):
        try:
            os.link(temporary, candidate)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno in _NO_HARD_LINKS:
                return _publish_by_rename(temporary, path)
            raise
        return candidate
    raise FileExistsError(errno.EEXIST, "every numbered name is taken")


def _publish_by_rename(temporary: Path, path: Path) -> Path:
    """The same without hard links: for a moment the name stands for an empty file."""
    candidate, fd = _open_new(path)
    os.close(fd)
    try:
        return temporary.replace(candidate)
    except OSError:
        candidate.unlink(missing_ok=True)
        raise


def _open_new(path: Path) -> tuple[Path, int]:
    """A file that was not there before, under this name or the first numbered one that is free."""
    for candidate in _names(path):
        try:
            return candidate, _create(candidate)
        except FileExistsError:
            continue
        except FileNotFoundError:
            make_directory(candidate.parent)
            return candidate, _create(candidate)
    raise FileExistsError(errno.EEXIST, "every numbered name is taken")


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)


def _names(path: Path) -> Iterator[Path]:
    """`a.wav`, `a-2.wav`, `a-3.wav` …"""
    yield path
    for number in range(2, NAMES_MAX + 1):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def make_directory(directory: Path) -> None:
    """All that is missing, for the thread or a start; `Path.mkdir(parents=True)` would give the mode to the last one only."""
    if not directory.is_dir():
        if directory.parent != directory:
            make_directory(directory.parent)
        with suppress(FileExistsError):
            directory.mkdir(DIRECTORY_MODE)


def _write_all(fd: int, data: bytes, at: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, at)
        rest = rest[written:]
        at += written


def _name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "EIO")


def _settle(future: asyncio.Future[_Result], result: _Result) -> None:
    if not future.done():
        future.set_result(result)
