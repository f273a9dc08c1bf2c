"""All rows together: looked up by kind and name, chosen for `auto`, and listed.

The rows we ship come first; an operator's rows are added and may not take a shipped name. What is
on this machine is not known here: whoever asks for `auto` says which dialects can run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from flowcatd.errors import ConfigError, nearest
from flowcatd.providers.row import Row
from flowcatd.providers.stt import STT
from flowcatd.providers.tts import TTS

PREFERRED: Mapping[str, tuple[str, ...]] = {
    "stt": ("pocketsphinx",),
    "tts": ("flite-slt", "espeak-ng"),
}
"""What `auto` tries, best first."""


class Catalogue:
    """The rows of this configuration."""

    def __init__(self, rows: Iterable[Row] = (), where: str = "conf/providers.d") -> None:
        """`rows` are the operator's; `where` is what an error about them names."""
        self._rows: dict[str, dict[str, Row]] = {"stt": dict(STT), "tts": dict(TTS)}
        for row in rows:
            if row.name in self._rows[row.kind]:
                raise ConfigError(where, "the name is taken", key=f"{row.kind}.{row.name}")
            self._rows[row.kind][row.name] = row

    def find(self, kind: str, name: str, *, where: str) -> Row:
        """The row of that name; ConfigError, naming `where` it was asked for, when there is none."""
        row = self._rows[kind].get(name)
        if row is None:
            known = sorted(self._rows[kind])
            problem = f"no {kind} provider '{name[:64]}'{nearest(name, known)}"
            raise ConfigError(where, f"{problem}; there is {', '.join(known)}")
        return row

    def choose(self, kind: str, name: str, *, runnable: Collection[str], where: str) -> Row | None:
        """The row for a setting: None for `none`, the best of the `runnable` dialects for `auto`."""
        if name == "none":
            return None
        if name != "auto":
            return self.find(kind, name, where=where)
        preferred = (self._rows[kind][each] for each in PREFERRED[kind])
        return next((row for row in preferred if row.dialect in runnable), None)

    def listing(self) -> tuple[Row, ...]:
        """Every row, by kind and name."""
        return tuple(
            row for kind in sorted(self._rows) for _, row in sorted(self._rows[kind].items())
        )
