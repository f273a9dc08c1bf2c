"""A call's mouth against the real engines of this machine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LinkClosed, LocalError, ProviderError
from flowcatd.links.open import SpeechLink, available_engines
from flowcatd.links.speaking import LocalVoice, speakable
from flowcatd.providers.row import Row
from flowcatd.providers.tts import TTS

LINE = "Hello, this is the clinic. On which day would you like to come?"


def _rows() -> list[Row]:
    there = available_engines()
    rows = [row for row in TTS.values() if row.dialect == "flite" and "flite" in there]
    if "espeak-ng" in there:
        espeak = TTS["espeak-ng"]
        rows += [espeak, replace(espeak, name="espeak-wheel", options={"library": "wheel"})]
    return rows


ROWS = _rows()
pytestmark = pytest.mark.skipif(not ROWS, reason="no synthesiser on this machine")


@asynccontextmanager
async def mouth_of(row: Row) -> AsyncIterator[tuple[LocalVoice, SpeechLink]]:
    """A started voice, closed afterwards."""
    link = SpeechLink(row, 1)
    await link.start()
    try:
        yield link.mouth(), link
    finally:
        await link.close()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_every_voice_speaks(row):
    """The line comes as sound of the declared rate, in several pieces, as long as speech is."""
    if row.name == "espeak-wheel":
        pytest.importorskip("espeakng_loader", reason="the `espeak` extra is not installed")
    async with mouth_of(row) as (mouth, _):
        assert mouth.rate_hz == row.rate_hz
        pieces = [piece async for piece in mouth.speak(LINE)]
    pcm = np.frombuffer(b"".join(pieces), "<i2").astype(float)
    assert len(pieces) > 10
    assert 2.5 < len(pcm) / row.rate_hz < 7
    assert np.sqrt((pcm**2).mean()) > 300


async def test_closing_the_line_stops_the_work():
    """A line left after its first piece is over in the helper, and the next is spoken whole."""
    async with mouth_of(ROWS[0]) as (mouth, link):
        whole = sum([len(piece) async for piece in mouth.speak("yes")])
        async with aclosing(mouth.speak("one two three. " * 100)) as line:
            await anext(line)
        assert link.pool.jobs == 0
        assert sum([len(piece) async for piece in mouth.speak("yes")]) == whole


async def test_a_short_line_does_not_wait_for_a_long_one():
    """Lines are served sentence by sentence in turn: the short one is whole before the long one is."""
    async with mouth_of(ROWS[0]) as (mouth, _):
        order = []

        async def say(name: str, text: str) -> None:
            async for _ in mouth.speak(text):
                pass
            order.append(name)

        async with asyncio.timeout(30):
            await asyncio.gather(say("long", "this is one of many. " * 60), say("short", "yes."))
        assert order == ["short", "long"]


async def test_a_dead_helper_ends_the_line():
    """The line raises LinkClosed as soon as its helper is gone."""
    async with mouth_of(ROWS[0]) as (mouth, link):
        (pid,) = link.pool.pids
        os.kill(pid, signal.SIGSTOP)
        line = mouth.speak(LINE)
        first = asyncio.ensure_future(anext(line))
        while not link.pool.jobs:  # noqa: ASYNC110 a few turns of the loop
            await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(LinkClosed):
            await asyncio.wait_for(first, 5)
        await line.aclose()


async def test_a_line_that_is_too_long_is_refused():
    """The bound of a line is 2,000 characters."""
    async with mouth_of(ROWS[0]) as (mouth, _):
        with pytest.raises(ProviderError, match="2001 characters"):
            await anext(mouth.speak("a" * 2001))


async def test_a_line_of_nothing_is_nothing():
    """White space and controls give no sound and no error."""
    async with mouth_of(ROWS[0]) as (mouth, _):
        assert [piece async for piece in mouth.speak(" \n\x00 ")] == []


async def test_a_voice_that_is_not_there_is_a_provider_error():
    """The engine's refusal names no text."""
    async with mouth_of(replace(ROWS[0], voice="nobody")) as (mouth, _):
        with pytest.raises(ProviderError, match="not on this machine"):
            await anext(mouth.speak(LINE))


async def test_closing_the_voice_ends_its_lines():
    """Whoever waits for a piece is told."""
    async with mouth_of(ROWS[0]) as (mouth, link):
        (pid,) = link.pool.pids
        os.kill(pid, signal.SIGSTOP)
        line = mouth.speak(LINE)
        first = asyncio.ensure_future(anext(line))
        while not link.pool.jobs:  # noqa: ASYNC110 a few turns of the loop
            await asyncio.sleep(0)
        await mouth.close()
        with pytest.raises(LinkClosed):
            await asyncio.wait_for(first, 5)
        assert link.pool.jobs == 0


def test_a_voice_needs_started_helpers():
    """Before the helpers have said their rate there is no voice."""
    with pytest.raises(LocalError, match="started"):
        SpeechLink(ROWS[0], 1).mouth()


@given(st.text(max_size=300))
def test_what_an_engine_gets_is_one_line_without_controls(text):
    """No control, no line end, no markup sign, no double space; and once cleaned, clean."""
    said = speakable(text)
    assert said.isprintable()
    assert not set(said) & set("<>|^~\\")
    assert "  " not in said
    assert speakable(said) == said
