"""A call's mouth on the helper pool: the Voice port for flite and espeak-ng.

A line is a job. Its pieces wait in a queue until they are asked for; engines speak a hundred times
faster than real time, so that a line is bounded by its text (MOST_CHARACTERS, about three minutes,
6 MB), not by back-pressure. Closing the generator stops the work in the helper within one piece.
What engines might take for markup or for controls is taken out of the text first.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncGenerator

from flowcatd.audio.level import gain
from flowcatd.errors import LinkClosed, LinkTimeout, LocalError, ProviderError
from flowcatd.links.helper_pool import HelperPool, Job
from flowcatd.links.helper_wire import FromHelper, Piece, Said, Speak, Stop, Trouble

MOST_CHARACTERS = 2_000
"""Of one line."""
MOST_AUDIO_SECONDS = 600
"""Of one line; an engine that gives more is broken."""
PIECE_SECONDS = 5.0
"""Without a piece for so long the helper is taken for hung; a busy one needs 1."""


def speakable(text: str) -> str:
    """Give the line as an engine may have it: one line, no controls, nothing that looks like markup."""
    kept = (
        " " if unicodedata.category(letter)[0] in "CZ" or letter in "<>|^~\\" else letter
        for letter in text
    )
    return " ".join("".join(kept).split())


class LocalVoice:
    """One voice of an engine on this machine."""

    def __init__(self, pool: HelperPool, voice: str, gain_db: float = 0.0) -> None:
        """`pool` must have been started: the engine tells its rate then."""
        if pool.ready is None:
            raise LocalError("the speech helpers have not been started")
        self.rate_hz = pool.ready.rate_hz
        self._pool = pool
        self._voice = voice
        self._gain_db = gain_db
        self._lines: set[_Line] = set()

    async def speak(self, text: str) -> AsyncGenerator[bytes, None]:
        """Yield the line in pieces of about 100 ms."""
        said = speakable(text)
        if len(said) > MOST_CHARACTERS:
            raise ProviderError(f"a line of {len(said)} characters, {MOST_CHARACTERS} at most")
        if not said:
            return
        line = _Line(2 * self.rate_hz * MOST_AUDIO_SECONDS)
        self._lines.add(line)
        try:
            line.begin(self._pool, self._voice, said)
            while (piece := await line.piece()) is not None:
                yield gain(piece, self._gain_db)
        finally:
            line.stop()
            self._lines.discard(line)

    async def close(self) -> None:
        """Stop whatever is being said."""
        for line in list(self._lines):
            line.stop()
            line.lost("the voice was closed")


class _Line:
    """One line on its way from the helper to the call."""

    def __init__(self, most_bytes: int) -> None:
        self._pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._left = most_bytes
        self._job: Job | None = None

    def begin(self, pool: HelperPool, voice: str, text: str) -> None:
        """Ask a helper for it; LinkRefused when none can."""
        self._job = pool.begin(self)
        self._job.send(Speak(self._job.number, voice, text))
        self._job.expect_within(PIECE_SECONDS)

    async def piece(self) -> bytes | None:
        """The next piece, or None after the last."""
        try:
            async with asyncio.timeout(2 * PIECE_SECONDS):
                got = await self._pieces.get()
        except TimeoutError as error:
            raise LinkTimeout("a speech helper said nothing") from error
        if isinstance(got, Exception):
            raise got
        return got

    def stop(self) -> None:
        """Nobody waits for it any more."""
        if self._job is not None:
            self._job.send(Stop(self._job.number))
            self._job.release()
            self._job = None

    def told(self, message: FromHelper) -> None:
        """The helper's word."""
        match message:
            case Piece(_, pcm) if len(pcm) <= self._left:
                self._left -= len(pcm)
                self._pieces.put_nowait(pcm)
                if self._job is not None:
                    self._job.expect_within(PIECE_SECONDS)
            case Said():
                self._finish(None)
            case Trouble(_, reason, retryable):
                self._finish(LinkClosed(reason) if retryable else ProviderError(reason))
            case _:
                self.stop()
                self._finish(ProviderError("the voice does not end"))

    def lost(self, reason: str) -> None:
        """The helper is gone."""
        self._finish(LinkClosed(reason))

    def _finish(self, last: Exception | None) -> None:
        self._job = None
        self._pieces.put_nowait(last)
