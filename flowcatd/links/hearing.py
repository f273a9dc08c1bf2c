"""A call's ear on the helper pool: the SpeechToText port for pocketsphinx.

Each utterance is a job on whichever helper has least to do. Words come back in the order in which
utterances ended, whatever order helpers finish in. A helper that dies answers each utterance on it
by `Failed`: at once when the utterance has ended, else when it ends, since that is when the port
promises an answer. The estimate of the caller's channel comes back with each answer and goes out
with the next utterance: helpers keep nothing of a caller.
"""

from __future__ import annotations

import asyncio

from flowcatd.errors import LinkError
from flowcatd.links.helper_pool import HelperPool, Job
from flowcatd.links.helper_wire import (
    MOST_AUDIO_BYTES,
    Audio,
    Begin,
    Finish,
    FromHelper,
    Heard,
    Hint,
    Prepare,
    Stop,
    Trouble,
)
from flowcatd.services import Failed, Final, Hearing, OnSttEvent, Partial

ANSWER_SECONDS = 5.0
"""From the end of an utterance until its helper is taken for hung; a busy one needs 1."""
MOST_GRAMMAR = 100_000
"""Characters of a grammar; a state with a thousand sentences has 50,000."""
LANGUAGES = ("en", "en-US", "en-GB")
"""What the bundled model was made for, and what it is near to."""


class SphinxEar:
    """One call's ear."""

    rate_hz = 16_000

    def __init__(self, pool: HelperPool, on_event: OnSttEvent) -> None:
        self._pool = pool
        self._on_event: OnSttEvent | None = on_event
        self._hearing = Hearing()
        self._channel = ""
        self._open: _Utterance | None = None
        self._ended: list[_Utterance] = []  # few; an empty deque takes 760 bytes

    def expect(self, hearing: Hearing) -> None:
        """From the next utterance on; helpers compile the grammar meanwhile."""
        if hearing == self._hearing:
            return
        self._hearing = hearing
        if not self._refusal():
            self._pool.tell_all(Prepare(hearing.grammar))

    def start_utterance(self) -> None:
        """Somebody began to speak."""
        if self._on_event is None:
            return
        if self._open is not None:
            self._open.drop()
        self._open = _Utterance(self)
        refusal = self._refusal()
        if refusal:
            self._open.outcome = Failed(refusal, retryable=False)
        else:
            self._open.begin(self._pool, self._hearing.grammar, self._channel)

    def push_audio(self, pcm: bytes) -> None:
        """More of it."""
        if self._open is not None:
            self._open.push(pcm)

    def end_utterance(self) -> None:
        """They stopped."""
        if self._open is None:
            return
        utterance, self._open = self._open, None
        self._ended.append(utterance)
        utterance.end()
        if utterance.outcome is not None:  # never from inside a call of the port
            asyncio.get_running_loop().call_soon(self.deliver)

    async def close(self) -> None:
        """Nothing is heard any more."""
        self._on_event = None
        for utterance in (*self._ended, *([self._open] if self._open else [])):
            utterance.drop()
        self._ended.clear()
        self._open = None

    def deliver(self) -> None:
        """For utterances: pass on the answers that are due, oldest utterance first."""
        while self._on_event is not None and self._ended:
            outcome = self._ended[0].outcome
            if outcome is None:
                return
            self._ended.pop(0)
            self._on_event(outcome)

    def hint(self, text: str) -> None:
        """For utterances: what the open one seems to be."""
        if self._on_event is not None:
            self._on_event(Partial(text))

    def learn(self, channel: str) -> None:
        """For utterances: how this caller's line sounds."""
        self._channel = channel

    def _refusal(self) -> str:
        if self._hearing.language not in LANGUAGES:
            return f"pocketsphinx hears English only, not {self._hearing.language[:16]}"
        if len(self._hearing.grammar) > MOST_GRAMMAR:
            return f"a grammar of more than {MOST_GRAMMAR} characters"
        return ""


class _Utterance:
    """From somebody's first sound to the answer."""

    def __init__(self, ear: SphinxEar) -> None:
        self.outcome: Final | Failed | None = None
        self._ear = ear
        self._job: Job | None = None

    def begin(self, pool: HelperPool, grammar: str, channel: str) -> None:
        """Open the job, or fail."""
        try:
            self._job = pool.begin(self)
        except LinkError as error:
            self.outcome = Failed(str(error))
        else:
            self._job.send(Begin(self._job.number, grammar, channel))

    def push(self, pcm: bytes) -> None:
        """Send audio on, in messages of bounded size."""
        if self._job is None:
            return
        for at in range(0, len(pcm), MOST_AUDIO_BYTES):
            self._job.send(Audio(self._job.number, pcm[at : at + MOST_AUDIO_BYTES]))

    def end(self) -> None:
        """Ask for the answer."""
        if self._job is not None:
            self._job.send(Finish(self._job.number))
            self._job.expect_within(ANSWER_SECONDS)

    def drop(self) -> None:
        """Nobody wants the answer."""
        if self._job is not None:
            self._job.send(Stop(self._job.number))
            self._job.release()
            self._job = None

    def told(self, message: FromHelper) -> None:
        """The helper's word."""
        match message:
            case Hint(_, text):
                self._ear.hint(text)
            case Heard(_, text, confidence, audio_seconds, channel):
                self._ear.learn(channel)
                self._settle(Final(text, confidence, audio_seconds))
            case Trouble(_, reason, retryable):
                self._settle(Failed(reason, retryable))
            case _:
                self._settle(Failed("the recogniser's answer made no sense"))

    def lost(self, reason: str) -> None:
        """The helper is gone."""
        self._settle(Failed(reason))

    def _settle(self, outcome: Final | Failed) -> None:
        self.outcome = outcome
        self._job = None
        self._ear.deliver()
