"""From a provider row to a running service.

A worker opens each row it uses once: `SpeechLink` holds the row's helper pool, and hands out one
ear or one mouth per call. Importing this room loads no engine: engines live in helper processes,
and whether one is on this machine is told from files (`runnable_dialects`).
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from flowcatd.errors import ConfigError, LocalError
from flowcatd.links.hearing import SphinxEar
from flowcatd.links.helper_pool import HelperPlan, HelperPool
from flowcatd.links.speaking import LocalVoice
from flowcatd.providers.row import DIALECTS, Row
from flowcatd.services import OnSttEvent

_MODULES = {
    "espeak": "flowcatd.links.voice_helper",
    "flite": "flowcatd.links.voice_helper",
    "sphinx": "flowcatd.links.sphinx_helper",
}
_FOLDERS = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/usr/local/lib64")
_DICTIONARY = "model/en-us/cmudict-en-us.dict"


def available_engines() -> frozenset[str]:
    """The engines on this machine: `pocketsphinx`, `flite`, `espeak-ng`. None is loaded."""
    engines = set()
    if _module_folder("pocketsphinx") is not None:
        engines.add("pocketsphinx")
    if _has_library("libflite.so.1") and _has_library("libflite_cmu_us_slt.so.1"):
        engines.add("flite")
    if _has_library("libespeak-ng.so.1") or _module_folder("espeakng_loader") is not None:
        engines.add("espeak-ng")
    return frozenset(engines)


def runnable_dialects() -> frozenset[str]:
    """The dialects whose engine is on this machine."""
    engines = {"espeak": "espeak-ng", "flite": "flite", "sphinx": "pocketsphinx"}
    there = available_engines()
    return frozenset(dialect for dialect, engine in engines.items() if engine in there)


def known_words(words: Iterable[str]) -> set[str]:
    """Give those of the words that the recogniser's dictionary lacks: it would have to guess them.

    Empty when the recogniser is not on this machine.
    """
    folder = _module_folder("pocketsphinx")
    if folder is None:
        return set()
    dictionary = _dictionary(folder / _DICTIONARY)
    return {word for word in words if word.lower() not in dictionary}


class SpeechLink:
    """A row that runs: its helpers, and what calls get of them."""

    def __init__(self, row: Row, helpers: int) -> None:
        """`helpers` is how many processes; LocalError for a dialect that no helper speaks."""
        module = _MODULES.get(row.dialect)
        if module is None:
            raise LocalError(f"no helper speaks the dialect {row.dialect}")
        self.row = row
        self.pool = HelperPool(HelperPlan(module, _arguments(row), helpers))

    async def start(self) -> None:
        """Start the helpers; ConfigError when the engine is not on this machine, else LinkError."""
        if self.row.dialect not in runnable_dialects():
            ways = [f"the Debian package {self.row.debian}"] if self.row.debian else []
            ways += [f"the extra '{self.row.extra}'"] if self.row.extra else []
            problem = f"not on this machine: it comes with {' or '.join(ways) or 'its maker'}"
            raise ConfigError(f"{self.row.kind} provider {self.row.name}", problem)
        await self.pool.start()

    async def close(self) -> None:
        """End the helpers."""
        await self.pool.close()

    def ear(self, on_event: OnSttEvent) -> SphinxEar:
        """One call's recogniser."""
        if self.row.kind != "stt":
            raise LocalError(f"{self.row.name} does not hear")
        return SphinxEar(self.pool, on_event)

    def mouth(self, row: Row | None = None) -> LocalVoice:
        """One call's voice, or that of another row of the same dialect; the link must be started."""
        row = row or self.row
        if row.kind != "tts" or row.dialect != self.row.dialect:
            raise LocalError(f"{row.name} does not speak here")
        gain_db = float({**DIALECTS[row.dialect].options, **row.options}["gain_db"])
        return LocalVoice(self.pool, row.voice, gain_db)


def _arguments(row: Row) -> tuple[str, ...]:
    options = {**DIALECTS[row.dialect].options, **row.options}
    match row.dialect:
        case "flite":
            return ("flite",)
        case "espeak":
            return ("espeak-ng", options["library"], options["words_per_minute"])
    return ()


def _module_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


@functools.cache
def _has_library(name: str) -> bool:
    """Where Debian's and others' linkers look; ctypes.util would start a compiler to find out."""
    folders = (Path(folder) for folder in _FOLDERS)
    return any((folder / name).exists() or any(folder.glob(f"*/{name}")) for folder in folders)


@functools.cache
def _dictionary(path: Path) -> frozenset[str]:
    text = path.read_text(encoding="utf-8")
    return frozenset(re.sub(r"\(\d+\)$", "", line.split(" ", 1)[0]) for line in text.splitlines())
