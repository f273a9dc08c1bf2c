"""A worker's helper processes: started, watched, replaced, and given jobs.

Each slot of the pool is one process on one end of a socket pair, and one task that keeps it: spawn,
await Ready, await its end, end it by its pid, pause, again. The pause doubles while a helper keeps
dying young and is capped. A helper that dies, breaks the protocol, misses a job's deadline or stops
reading takes its jobs with it: each is told at once (`lost`), none is retried here.

A job is one utterance or one line. It goes to the ready helper with the fewest jobs. Everything a
job's owner is told comes from the loop, never from inside a call of theirs. Helpers see neither the
daemon's environment nor its files; when the worker goes, its end of the socket closes and they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from flowcatd.errors import LinkClosed, LinkError, LinkRefused, LinkTimeout, PeerError
from flowcatd.links.helper_wire import (
    FromHelper,
    Guessed,
    Heard,
    Hint,
    Message,
    Piece,
    Ready,
    Said,
    ToHelper,
    Trouble,
    Unpacker,
    pack,
)
from flowcatd.log import get_logger

log = get_logger()

_ROOT = str(Path(__file__).parents[2])
_ENVIRONMENT = {
    "PYTHONPATH": _ROOT,
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",  # a helper is one core's worth of work, never more
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class HelperPlan:
    """What to run, how often, and how patient to be; times in seconds."""

    module: str
    arguments: tuple[str, ...] = ()
    count: int = 1
    most_jobs: int = 64
    """Jobs per helper; one more is refused."""
    most_unsent: int = 2_097_152
    """Bytes a helper may leave unread before it is taken for hung: a minute of audio."""
    ready_seconds: float = 20.0
    end_seconds: float = 1.0
    """From asking a helper to end until it is killed."""
    first_pause: float = 0.1
    longest_pause: float = 10.0
    settled_seconds: float = 10.0
    """A helper that lived this long did not die young."""


class JobOwner(Protocol):
    """Whoever wants a job's answers."""

    def told(self, message: FromHelper) -> None:
        """The helper says this about the job."""

    def lost(self, reason: str) -> None:
        """The helper is gone and the job with it; `reason` is safe to log."""


class Job:
    """One utterance or one line, on one helper."""

    __slots__ = ("_deadline", "_line", "_owner", "number")

    def __init__(self, number: int, owner: JobOwner, line: _Line) -> None:
        self.number = number
        self._owner = owner
        self._line: _Line | None = line
        self._deadline: asyncio.TimerHandle | None = None

    def send(self, message: ToHelper) -> None:
        """Tell the helper; nothing happens once the job is over."""
        if self._line is not None:
            self._line.send(message)

    def expect_within(self, seconds: float) -> None:
        """Unless the helper says something about this job in time, it is taken for hung."""
        self._forget_deadline()
        if self._line is not None:
            self._deadline = asyncio.get_running_loop().call_later(
                seconds, self._line.give_up, "a helper missed its deadline"
            )

    def release(self) -> None:
        """Nobody waits for it any more: the owner is told nothing further."""
        self._forget_deadline()
        if self._line is not None:
            self._line.jobs.pop(self.number, None)
            self._line = None

    def told(self, message: FromHelper) -> None:
        """For the line: hand a message to the owner, and end the job with its last one."""
        self._forget_deadline()
        if isinstance(message, Heard | Said | Trouble):
            self.release()
        self._owner.told(message)

    def lost(self, reason: str) -> None:
        """For the line: the helper is gone."""
        self.release()
        self._owner.lost(reason)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Line(asyncio.Protocol):
    """The worker's end of one helper's socket."""

    def __init__(self, most_unsent: int, on_guessed: Callable[[int], None]) -> None:
        loop = asyncio.get_running_loop()
        self.jobs: dict[int, Job] = {}
        self.ready: asyncio.Future[Ready] = loop.create_future()
        self.closed: asyncio.Future[str] = loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._unpacker = Unpacker()
        self._most_unsent = most_unsent
        self._on_guessed = on_guessed

    @property
    def open(self) -> bool:
        """Whether a job can be put on it."""
        return self.ready.done() and not self.closed.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is the loop's now."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """What the helper says."""
        try:
            for message in self._unpacker.feed(data):
                self._dispatch(message)
        except PeerError:
            self.give_up("a helper broke its protocol")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 the protocol's name
        """The helper is gone: so are its jobs."""
        self._end("a helper process died")

    def send(self, message: ToHelper) -> None:
        """Queue a message; a helper that leaves too much unread is given up."""
        if self._transport is None or self.closed.done():
            return
        self._transport.write(pack(message))
        if self._transport.get_write_buffer_size() > self._most_unsent:
            asyncio.get_running_loop().call_soon(self.give_up, "a helper stopped reading")

    def give_up(self, reason: str) -> None:
        """Close at once; the slot's task ends the process."""
        self._end(reason)
        if self._transport is not None:
            self._transport.abort()

    def _dispatch(self, message: Message) -> None:
        match message:
            case Ready():
                if not self.ready.done():
                    self.ready.set_result(message)
            case Guessed(words):
                self._on_guessed(words)
            case Hint() | Heard() | Piece() | Said() | Trouble():
                job = self.jobs.get(message.job)
                if job is not None:  # else it was released while this was under way
                    job.told(message)
            case _:
                raise PeerError("a helper sent what only a worker says")

    def _end(self, reason: str) -> None:
        if self.closed.done():
            return
        self.closed.set_result(reason)
        for job in list(self.jobs.values()):
            job.lost(reason)


class HelperPool:
    """The helper processes of one kind that a worker owns."""

    def __init__(self, plan: HelperPlan) -> None:
        self.plan = plan
        self.restarts = 0
        """Helpers that ended without being asked to."""
        self.guessed_words = 0
        """Words in grammars whose pronunciation had to be guessed."""
        self.ready: Ready | None = None
        """What the engine said about itself; None before `start`."""
        self._lines: list[_Line | None] = [None] * plan.count
        self._processes: list[asyncio.subprocess.Process | None] = [None] * plan.count
        self._keepers: list[asyncio.Task[None]] = []
        self._numbers = itertools.count(1)

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that run now."""
        return tuple(process.pid for process in self._processes if process is not None)

    @property
    def jobs(self) -> int:
        """Utterances and lines under way."""
        return sum(len(line.jobs) for line in self._lines if line is not None)

    async def start(self) -> None:
        """Start all helpers and wait until each is ready; LinkError, and none left, if one is not."""
        if self._keepers:
            return
        loop = asyncio.get_running_loop()
        first: list[asyncio.Future[None]] = [loop.create_future() for _ in self._lines]
        self._keepers = [
            loop.create_task(self._keep(slot, first[slot]), name=f"{self.plan.module} {slot}")
            for slot in range(self.plan.count)
        ]
        results = await asyncio.gather(*first, return_exceptions=True)
        failed = next((result for result in results if isinstance(result, BaseException)), None)
        if failed is not None:
            await self.close()
            raise failed

    async def close(self) -> None:
        """End every helper; each has `end_seconds` to go by itself."""
        keepers, self._keepers = self._keepers, []
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    def begin(self, owner: JobOwner) -> Job:
        """Open a job on the least busy helper; LinkRefused when none has room."""
        ready = [line for line in self._lines if line is not None and line.open]
        if not ready:
            raise LinkRefused("no speech helper is running")
        line = min(ready, key=lambda each: len(each.jobs))
        if len(line.jobs) >= self.plan.most_jobs:
            raise LinkRefused("every speech helper is busy")
        job = Job(next(self._numbers), owner, line)
        line.jobs[job.number] = job
        return job

    def tell_all(self, message: ToHelper) -> None:
        """Tell every helper that is ready."""
        for line in self._lines:
            if line is not None and line.open:
                line.send(message)

    async def _keep(self, slot: int, first: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        pause = self.plan.first_pause
        try:
            while True:
                began = loop.time()
                try:
                    await self._run(slot, first)
                except LinkError as error:
                    if not first.done():
                        first.set_exception(error)
                        return
                self.restarts += 1
                if loop.time() - began >= self.plan.settled_seconds:
                    pause = self.plan.first_pause
                await asyncio.sleep(pause)
                pause = min(2 * pause, self.plan.longest_pause)
        finally:
            if not first.done():
                first.set_exception(LinkClosed("the speech helpers were closed"))

    async def _run(self, slot: int, first: asyncio.Future[None]) -> None:
        """One helper, from its birth to its end."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            spawning = loop.create_task(self._spawn(theirs))
            cancelled = await _through(spawning)
            process = spawning.result()
            theirs.close()
            line = _Line(self.plan.most_unsent, self._count_guessed)
            self._processes[slot], self._lines[slot] = process, line
            try:
                if cancelled:
                    raise asyncio.CancelledError
                await loop.create_unix_connection(lambda: line, sock=ours)
                self.ready = await self._await_ready(line)
                log.debug("helper.started", helper=self.plan.module, pid=process.pid)
                if not first.done():
                    first.set_result(None)
                why = await line.closed
                log.warning("helper.lost", helper=self.plan.module, pid=process.pid, why=why)
            finally:
                self._lines[slot] = None
                line.give_up("the speech helpers were closed")
                cancelled = await _through(loop.create_task(self._end(process)))
                self._processes[slot] = None
                if cancelled:
                    raise asyncio.CancelledError

    async def _spawn(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        # Engines print what they were given when they dislike it: nothing they print may be kept.
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-s", "-P", "-m", self.plan.module, *self.plan.arguments),
                stdin=theirs.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=_ENVIRONMENT,
                start_new_session=True,  # Ctrl-C at the terminal is for the supervisor alone
            )
        except OSError as error:
            raise LinkRefused(f"{self.plan.module}: {error.strerror}") from error

    async def _await_ready(self, line: _Line) -> Ready:
        waiting: set[asyncio.Future[Any]] = {line.ready, line.closed}
        await asyncio.wait(
            waiting, timeout=self.plan.ready_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if line.closed.done():
            raise LinkClosed(f"{self.plan.module}: {line.closed.result()} before it was ready")
        if not line.ready.done():
            raise LinkTimeout(f"{self.plan.module} was not ready in {self.plan.ready_seconds:g} s")
        return line.ready.result()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self.plan.end_seconds):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _count_guessed(self, words: int) -> None:
        self.guessed_words += words


async def _through(task: asyncio.Task[Any]) -> bool:
    """See a task to its end whoever cancels us meanwhile; whether somebody did.

    A process half started or half ended would be nobody's: close() must not cut these short.
    """
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    return cancelled
