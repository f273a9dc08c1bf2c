"""Keys that come in over SIP: three ways to say them, each press told once.

    RFC 4733   telephone-event in RTP: `Pressed` when it goes down, `Digit` when it has ended
    INFO       a SIP message, at the beginning or the end of a press
    in band    tones in the audio, listened for only where telephone-event was not agreed on, and not
               in Opus, which is made for voices and bends them

Gateways say one press in two ways at once. The same key said another way while it is down, or within
SAME_PRESS of its beginning or end, is the same press; the same key said twice in one way is two. A
hook flash (RFC 4733's event 16) is no key.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from flowcatd.audio.tones import KEYS, KeyFinder

SAME_PRESS: Final = 0.15
"""Seconds; people need 200 ms from one press to the next of the same key."""


class Way(StrEnum):
    """How a press was said."""

    EVENT = "rtp"
    INFO = "info"
    TONE = "inband"


class Keys:
    """One call's keys."""

    def __init__(self) -> None:
        self._key = ""
        """The last press that was told."""
        self._way = Way.EVENT
        self._told_at = -1.0
        self._down = ""
        """The key whose event goes on."""
        self._down_at = 0.0
        self._finder: KeyFinder | None = None
        self.counts: dict[str, int] = {}
        """Presses told, by the way in which they were said first."""

    def went_down(self, key: str, now: float) -> None:
        """An event began; it is told when it ends."""
        self._down, self._down_at = key, now

    def ended(self, key: str, now: float) -> str:
        """An event ended: the key, or nothing when it has been told."""
        begun = self._down_at if self._down == key else now
        self._down = ""
        return self._told(key, Way.EVENT, begun, now)

    def informed(self, key: str, now: float) -> str:
        """An INFO came: the key, or nothing when it has been told, or is being told."""
        if key == self._down:
            return ""
        return self._told(key, Way.INFO, now, now)

    def listen(self, rate_hz: int) -> None:
        """From now on tones are keys, in audio of this rate; 0 for no longer."""
        self._finder = KeyFinder(rate_hz) if rate_hz else None

    @property
    def is_listening(self) -> bool:
        """Whether audio is wanted."""
        return self._finder is not None

    def heard(self, pcm: bytes, now: float) -> str:
        """The keys that are certain with this audio, mostly none."""
        if self._finder is None:
            return ""
        found = self._finder.push(pcm)
        return "".join(self._told(key, Way.TONE, now, now) for key in found) if found else ""

    def _told(self, key: str, way: Way, begun: float, now: float) -> str:
        if key not in KEYS:
            return ""
        is_same = key == self._key and way is not self._way and begun - self._told_at <= SAME_PRESS
        if is_same:
            return ""
        self._key, self._way, self._told_at = key, way, now
        self.counts[way] = self.counts.get(way, 0) + 1
        return key
