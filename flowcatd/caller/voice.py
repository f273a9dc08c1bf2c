"""The caller's voice: a text-to-speech row of this machine, in a helper process of its own.

Only what is said by text needs one. The default is not the shipped agent's voice, so that a recording
is easily told apart; where this machine lacks it, any voice there is will do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flowcatd.errors import ConfigError
from flowcatd.links.open import SpeechLink, runnable_dialects
from flowcatd.providers.catalogue import Catalogue
from flowcatd.providers.row import Row
from flowcatd.services import Voice

VOICE = "flite-kal16"
"""What speaks when nothing is asked for."""
NONE = "none"
"""No voice: for calls of files and keys."""

_WHERE = "--voice"


@asynccontextmanager
async def open_voice(name: str) -> AsyncIterator[Voice | None]:
    """A running voice, closed at the end; an empty name is VOICE or a substitute, `none` is None.

    ConfigError when there is none of that name, or none at all, on this machine.
    """
    if name == NONE:
        yield None
        return
    link = SpeechLink(_row(name), helpers=1)
    await link.start()
    try:
        voice = link.mouth()
        yield voice
        await voice.close()
    finally:
        await link.close()


def _row(name: str) -> Row:
    catalogue, runnable = Catalogue(), runnable_dialects()
    row = catalogue.find("tts", name or VOICE, where=_WHERE)
    if name or row.dialect in runnable:
        return row
    substitute = catalogue.choose("tts", "auto", runnable=runnable, where=_WHERE)
    if substitute is None:
        raise ConfigError(
            _WHERE,
            "this machine has no voice: install Debian's libflite1 or the extra 'espeak', "
            "or call with --wav and --digits",
        )
    return substitute
