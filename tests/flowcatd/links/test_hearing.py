"""A call's ear against a real recogniser; its speech is made by whatever voice is on the machine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import numpy as np
import pytest
import soxr

pytest.importorskip("pocketsphinx", reason="the `speech` extra is not installed")

from flowcatd.links.hearing import SphinxEar
from flowcatd.links.open import SpeechLink, available_engines
from flowcatd.providers.stt import STT
from flowcatd.providers.tts import TTS
from flowcatd.services import Failed, Final, Hearing, Partial

pytestmark = pytest.mark.skipif("flite" not in available_engines(), reason="flite is not installed")

DAYS = "public <utterance> = on ( monday | tuesday | friday | saturday );"


class Caller:
    """An ear, and what it said."""

    def __init__(self, link: SpeechLink) -> None:
        self.ear: SphinxEar = link.ear(self._on_event)
        self.partials: list[str] = []
        self.outcomes: asyncio.Queue[Final | Failed] = asyncio.Queue()

    def _on_event(self, event) -> None:
        if isinstance(event, Partial):
            self.partials.append(event.text)
        else:
            self.outcomes.put_nowait(event)

    def say(self, pcm: bytes) -> None:
        """One utterance from its beginning to its end."""
        self.ear.start_utterance()
        for at in range(0, len(pcm), 640):
            self.ear.push_audio(pcm[at : at + 640])
        self.ear.end_utterance()

    async def answer(self) -> Final | Failed:
        """The next answer."""
        return await asyncio.wait_for(self.outcomes.get(), 10)


@pytest.fixture
async def speech() -> dict[str, bytes]:
    """Days, spoken, at 16 kHz with silence around them."""
    link = SpeechLink(TTS["flite-kal16"], 1)
    await link.start()
    spoken = {}
    for text in ("on monday", "on friday", "on saturday"):
        pcm = b"".join([piece async for piece in link.mouth().speak(text)])
        narrow = soxr.resample(np.frombuffer(pcm, "<i2"), 16_000, 8_000)
        wide = soxr.resample(narrow, 8_000, 16_000).astype("<i2").tobytes()
        spoken[text] = bytes(6_400) + wide + bytes(6_400)
    await link.close()
    return spoken


@pytest.fixture
async def link() -> AsyncIterator[SpeechLink]:
    """A recogniser process."""
    link = SpeechLink(STT["pocketsphinx"], 1)
    await link.start()
    yield link
    await link.close()


async def test_what_was_said_comes_back(link, speech):
    """A sentence of the grammar is heard, with the length of its audio."""
    caller = Caller(link)
    caller.ear.expect(Hearing(DAYS))
    caller.say(speech["on friday"])
    final = await caller.answer()
    assert isinstance(final, Final)
    assert final.text == "on friday"
    assert final.audio_seconds == pytest.approx(len(speech["on friday"]) / 32_000)


async def test_open_utterances_are_told_apart(link, speech):
    """Seven callers speak at once to one helper, one more than it has decoders; each is heard."""
    said = ["on monday", "on friday", "on saturday"] * 2 + ["on friday"]
    callers = [Caller(link) for _ in said]
    for caller in callers:
        caller.ear.expect(Hearing(DAYS))
        caller.ear.start_utterance()
    longest = max(len(speech[text]) for text in said)
    for at in range(0, longest, 640):
        for caller, text in zip(callers, said, strict=True):
            caller.ear.push_audio(speech[text][at : at + 640])
    for caller in callers:
        caller.ear.end_utterance()
    assert [(await caller.answer()).text for caller in callers] == said


async def test_answers_come_in_the_order_of_utterances(link, speech):
    """A caller who goes on before the answer gets both, the first first."""
    caller = Caller(link)
    caller.ear.expect(Hearing(DAYS))
    caller.say(speech["on saturday"])
    caller.say(speech["on monday"])
    assert [(await caller.answer()).text for _ in range(2)] == ["on saturday", "on monday"]


async def test_partials_come_while_the_utterance_is_open(link, speech):
    """Before the utterance has ended its beginning is understood."""
    caller = Caller(link)
    caller.ear.expect(Hearing(DAYS))
    caller.ear.start_utterance()
    for at in range(0, len(speech["on saturday"]), 640):
        caller.ear.push_audio(speech["on saturday"][at : at + 640])
    async with asyncio.timeout(10):
        while not caller.partials:  # noqa: ASYNC110 a condition of another process
            await asyncio.sleep(0.01)
    assert caller.outcomes.empty()
    assert caller.partials[0].startswith("on")


async def test_an_utterance_begun_again_is_dropped(link, speech):
    """Of an utterance that another replaces nothing is ever said."""
    caller = Caller(link)
    caller.ear.expect(Hearing(DAYS))
    caller.ear.start_utterance()
    caller.ear.push_audio(speech["on saturday"])
    caller.say(speech["on monday"])
    final = await caller.answer()
    assert final.text == "on monday"
    assert caller.outcomes.empty()


async def test_a_dead_helper_fails_the_ended_utterance_at_once(link, speech):
    """The answer is Failed and may be retried; the next utterance is heard by the next helper."""
    caller = Caller(link)
    caller.ear.expect(Hearing(DAYS))
    (pid,) = link.pool.pids
    os.kill(pid, signal.SIGSTOP)
    caller.say(speech["on monday"])
    os.kill(pid, signal.SIGKILL)
    failed = await caller.answer()
    assert isinstance(failed, Failed)
    assert failed.retryable
    async with asyncio.timeout(10):
        while link.pool.pids in ((), (pid,)) or not any(x and x.open for x in link.pool._lines):  # noqa: ASYNC110 another process
            await asyncio.sleep(0.01)
    caller.say(speech["on monday"])
    assert (await caller.answer()).text == "on monday"


async def test_without_a_helper_an_utterance_fails_when_it_ends(link, speech):
    """No event comes from inside a call of the port, and exactly one when the utterance is over."""
    await link.close()
    caller = Caller(link)
    caller.ear.start_utterance()
    caller.ear.push_audio(speech["on monday"])
    caller.ear.end_utterance()
    assert caller.outcomes.empty()
    assert isinstance(await caller.answer(), Failed)


async def test_a_broken_grammar_fails_its_utterances_only(link, speech):
    """A grammar that does not parse is no reason to stop hearing under another."""
    caller = Caller(link)
    caller.ear.expect(Hearing("public <utterance> = ( on monday ;"))
    caller.say(speech["on monday"])
    failed = await caller.answer()
    assert failed == Failed("the recogniser refused the grammar", retryable=False)
    caller.ear.expect(Hearing(DAYS))
    caller.say(speech["on monday"])
    assert (await caller.answer()).text == "on monday"


async def test_another_language_is_refused(link, speech):
    """The bundled model hears English; German is Failed, not misheard."""
    caller = Caller(link)
    caller.ear.expect(Hearing(DAYS, language="de-DE"))
    caller.say(speech["on monday"])
    failed = await caller.answer()
    assert isinstance(failed, Failed)
    assert not failed.retryable


async def test_words_of_no_dictionary_are_guessed_and_counted(link, speech):
    """An unknown name in a grammar is reported and does not spoil the rest."""
    caller = Caller(link)
    caller.ear.expect(Hearing("public <utterance> = doctor zorblaxian | on monday;"))
    caller.say(speech["on monday"])
    assert (await caller.answer()).text == "on monday"
    assert link.pool.guessed_words == 1


async def test_nothing_is_heard_after_close(link, speech):
    """An ear that was closed says nothing more, and gives its jobs back."""
    caller = Caller(link)
    caller.ear.expect(Hearing(DAYS))
    caller.say(speech["on monday"])
    await caller.ear.close()
    other = Caller(link)
    other.ear.expect(Hearing(DAYS))
    other.say(speech["on friday"])
    assert (await other.answer()).text == "on friday"
    assert caller.outcomes.empty()
    assert link.pool.jobs == 0
