"""The cache of spoken lines: hits, bounds, and only what is complete."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LinkClosed
from flowcatd.links.voice_cache import CachedVoice, Spoken, VoiceCache
from tests.builders import RATE, ScriptedVoice, tone


class Scripted:
    """A voice that says each letter as one piece, and fails at `!`."""

    rate_hz = 8_000

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def speak(self, text: str) -> AsyncGenerator[bytes, None]:
        """Say it."""
        self.asked.append(text)
        for letter in text:
            if letter == "!":
                raise LinkClosed("gone")
            yield letter.encode() * 320

    async def close(self) -> None:
        """Nothing to give back."""


async def test_a_line_is_made_once():
    """Other calls get the very same object, without the voice, and the hit is counted."""
    hits = []
    scripted, cache = Scripted(), VoiceCache(10_000)
    voice = CachedVoice(scripted, "a", cache, RATE, lambda: hits.append(1))
    first = [piece async for piece in voice.speak("hi")]
    (second,) = [piece async for piece in voice.speak("hi")]
    assert b"".join(first) == second == b"h" * 320 + b"i" * 320
    other = CachedVoice(scripted, "a", cache, RATE)
    assert [piece is second async for piece in other.speak("hi")] == [True]
    assert scripted.asked == ["hi"]
    assert (cache.hits, cache.misses, hits) == (2, 1, [1])


async def test_voices_do_not_share_lines():
    """The same text in another voice is another line."""
    scripted, cache = Scripted(), VoiceCache(10_000)
    for name in ("a", "b"):
        assert [piece async for piece in CachedVoice(scripted, name, cache, RATE).speak("hi")]
    assert scripted.asked == ["hi", "hi"]


async def test_what_was_cut_off_is_not_kept():
    """A line left in the middle is made again next time."""
    scripted, cache = Scripted(), VoiceCache(10_000)
    voice = CachedVoice(scripted, "a", cache, RATE)
    async with aclosing(voice.speak("hi")) as line:
        await anext(line)
    assert cache.size == 0


async def test_what_failed_is_not_kept():
    """A line whose voice broke is passed on as far as it got, and forgotten."""
    voice = CachedVoice(Scripted(), "a", cache := VoiceCache(10_000), RATE)
    line = voice.speak("a!")
    heard = [await anext(line)]
    with pytest.raises(LinkClosed):
        await anext(line)
    assert heard == [b"a" * 320]
    assert cache.size == 0


async def test_a_line_of_more_than_a_quarter_is_not_kept():
    """One long line does not empty the cache."""
    cache = VoiceCache(3_200)
    voice = CachedVoice(Scripted(), "a", cache, RATE)
    assert sum([len(piece) async for piece in voice.speak("abc")]) == 960
    assert cache.size == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 40)), max_size=60))
def test_the_cache_keeps_its_bound(lines):
    """Whatever is kept, the size is the sum of what is there and never above the bound."""
    cache = VoiceCache(100)
    for text, size in lines:
        cache.keep(Spoken("a", text, RATE), bytes(size))
        held = sum(map(len, cache._lines.values()))
        assert cache.size == held <= 100


def test_the_least_wanted_goes_first():
    """Being found is being wanted."""
    cache = VoiceCache(40)
    line = {text: Spoken("v", text, RATE) for text in "abcde"}
    for text in "abcd":
        cache.keep(line[text], bytes(10))
    cache.find(line["a"])
    cache.keep(line["e"], bytes(10))
    assert cache.find(line["b"]) is None
    assert cache.find(line["a"]) is not None


async def test_a_line_is_kept_as_it_is_heard_at_each_rate() -> None:
    """Without the silence before it, resampled to its end; another rate is another line."""
    cache = VoiceCache(100_000)
    voice = ScriptedVoice({"hi": [bytes(3200), tone(100)]})
    for rate_hz in (RATE, 2 * RATE):
        call = CachedVoice(voice, "a", cache, rate_hz)
        made = b"".join([piece async for piece in call.speak("hi")])
        assert len(made) == 2 * rate_hz * 120 // 1000
        assert [piece async for piece in call.speak("hi")] == [made]
    assert voice.asked == ["hi", "hi"]
