"""Speech: the recognisers and voices that all calls of a worker share.

The settings name rows of `providers/`; this room opens them once, before the worker says that it
serves, and gives each call its own ear and mouth. A row is opened once per dialect: one synthesiser
speaks all voices of its engine. `none` gives nothing, which only the echo agent can live with.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flowcatd.errors import ConfigError
from flowcatd.links.open import SpeechLink, runnable_dialects
from flowcatd.links.voice_cache import CachedVoice, VoiceCache
from flowcatd.options import Speech as SpeechOptions
from flowcatd.providers.catalogue import Catalogue
from flowcatd.providers.row import Row, load_rows
from flowcatd.services import OnSttEvent, SpeechToText, Usage, Voice

MEBIBYTE = 1024 * 1024


def open_catalogue(providers: Path) -> Catalogue:
    """The shipped rows and an operator's own; ConfigError when one of those is wrong."""
    rows: list[Row] = []
    for path in sorted(providers.glob("*.toml")):
        rows += load_rows(path.read_text(encoding="utf-8"), str(path))
    return Catalogue(rows, str(providers))


class Speech:
    """The worker's ears and mouths."""

    def __init__(self, options: SpeechOptions, providers: Path, voices: Iterable[str]) -> None:
        """`providers` holds an operator's own rows; `voices` are the rows that agents ask for."""
        catalogue = open_catalogue(providers)
        runnable = runnable_dialects()
        self._helpers = options.speaking_helpers
        self._ear = catalogue.choose(
            "stt", options.hearing, runnable=runnable, where="speech.hearing"
        )
        self._mouth = catalogue.choose(
            "tts", options.voice, runnable=runnable, where="speech.voice"
        )
        if self._mouth is None and options.voice == "auto":
            problem = (
                "no synthesiser is on this machine: install Debian's flite, or the espeak extra"
            )
            raise ConfigError("speech.voice", problem)
        self._voices = {row.name: row for row in catalogue.listing() if row.kind == "tts"}
        wanted = [catalogue.find("tts", name, where="an agent's voice") for name in voices if name]
        self._cache = VoiceCache(options.voice_cache_mb * MEBIBYTE)
        self._hearing = SpeechLink(self._ear, options.hearing_helpers) if self._ear else None
        self._speaking: dict[str, SpeechLink] = {}
        self.rows: dict[str, str] = {}
        """Which row serves which seam, for the call's record."""
        if self._ear is not None:
            self.rows["stt"] = self._ear.name
        if self._mouth is not None:
            self.rows["tts"] = self._mouth.name
            for row in (self._mouth, *wanted):
                self._speaking.setdefault(row.dialect, SpeechLink(row, self._helpers))

    async def start(self) -> None:
        """Start what has to run before a call may come."""
        if self._hearing is not None:
            await self._hearing.start()
        for link in self._speaking.values():
            await link.start()

    def open_hearing(self, on_event: OnSttEvent) -> SpeechToText | None:
        """An ear for one call; its events go to `on_event`."""
        return self._hearing.ear(on_event) if self._hearing is not None else None

    def open_voice(self, name: str, usage: Usage, rate_hz: int) -> Voice | None:
        """A mouth for one call: the voice of that name, the configured one for none, or None.

        It speaks at `rate_hz`, the call's, so that calls share the very bytes of a line.

        Any voice of an engine that was started can be had, and no other engine's.
        """
        row = self._voices.get(name) if name else self._mouth
        if row is None or row.dialect not in self._speaking:
            return None

        def hit() -> None:
            usage.tts_cache_hits += 1

        voice = self._speaking[row.dialect].mouth(row)
        return CachedVoice(voice, row.name, self._cache, rate_hz, hit)

    @property
    def helpers_lost(self) -> int:
        """Speech processes that ended without being asked to, since the worker began."""
        links = [*self._speaking.values(), *([self._hearing] if self._hearing else [])]
        return sum(link.pool.restarts for link in links)

    async def close(self) -> None:
        """End the helpers."""
        if self._hearing is not None:
            await self._hearing.close()
        for link in self._speaking.values():
            await link.close()
