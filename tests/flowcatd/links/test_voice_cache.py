"""The cache of spoken lines: hits, bounds, and only what is complete."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LinkClosed
from flowcatd.links.voice_cache import CachedVoice, VoiceCache


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
            yield letter.encode() * 10

    async def close(self) -> None:
        """Nothing to give back."""


async def test_a_line_is_made_once():
    """The second call gets the same pieces, without the voice, and the hit is counted."""
    hits = []
    scripted, cache = Scripted(), VoiceCache(1_000)
    voice = CachedVoice(scripted, "a", cache, lambda: hits.append(1))
    first = [piece async for piece in voice.speak("hi")]
    second = [piece async for piece in voice.speak("hi")]
    assert first == second == [b"h" * 10, b"i" * 10]
    assert scripted.asked == ["hi"]
    assert (cache.hits, cache.misses, hits) == (1, 1, [1])


async def test_voices_do_not_share_lines():
    """The same text in another voice is another line."""
    scripted, cache = Scripted(), VoiceCache(1_000)
    for name in ("a", "b"):
        assert [piece async for piece in CachedVoice(scripted, name, cache).speak("hi")]
    assert scripted.asked == ["hi", "hi"]


async def test_what_was_cut_off_is_not_kept():
    """A line left in the middle is made again next time."""
    scripted, cache = Scripted(), VoiceCache(1_000)
    voice = CachedVoice(scripted, "a", cache)
    async with aclosing(voice.speak("hi")) as line:
        await anext(line)
    assert cache.size == 0


async def test_what_failed_is_not_kept():
    """A line whose voice broke is passed on as far as it got, and forgotten."""
    voice = CachedVoice(Scripted(), "a", cache := VoiceCache(1_000))
    line = voice.speak("a!")
    heard = [await anext(line)]
    with pytest.raises(LinkClosed):
        await anext(line)
    assert heard == [b"a" * 10]
    assert cache.size == 0


async def test_a_line_of_more_than_a_quarter_is_not_kept():
    """One long line does not empty the cache."""
    cache = VoiceCache(100)
    assert len([piece async for piece in CachedVoice(Scripted(), "a", cache).speak("abc")]) == 3
    assert cache.size == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 40)), max_size=60))
def test_the_cache_keeps_its_bound(lines):
    """Whatever is kept, the size is the sum of what is there and never above the bound."""
    cache = VoiceCache(100)
    for text, size in lines:
        cache.keep("a", text, (bytes(size),))
        held = sum(sum(map(len, pieces)) for pieces in cache._lines.values())
        assert cache.size == held <= 100


def test_the_least_wanted_goes_first():
    """Being found is being wanted."""
    cache = VoiceCache(40)
    for text in "abcd":
        cache.keep("v", text, (bytes(10),))
    cache.find("v", "a")
    cache.keep("v", "e", (bytes(10),))
    assert cache.find("v", "b") is None
    assert cache.find("v", "a") is not None
