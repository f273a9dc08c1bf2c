"""A linphone telephone: linphonec, told what to do on its standard input, with files for a sound card.

It says on its standard output what becomes of a call. It writes the address of the machine's default
route into its session descriptions even when its media stand on loopback, as a telephone behind a NAT
does; whoever sends to where its packets come from reaches it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.interop.programs import Program, free_ports, program
from tests.interop.sound import write_tone

CONFIG = """\
[sip]
sip_port={port}
sip_tcp_port=0
sip_tls_port=0
bind_address=127.0.0.1
use_ipv6=0
guess_hostname=0
contact=sip:linphone@127.0.0.1:{port}
media_encryption={encryption}
[rtp]
bind_address=127.0.0.1
audio_rtp_port={rtp}
[net]
bind_address=127.0.0.1
[sound]
echocancellation=0
[video]
enabled=0
display=0
capture=0
automatically_initiate=0
"""


@dataclass
class Linphone:
    """One telephone."""

    program: Program
    place: Path
    port: int

    @property
    def address(self) -> str:
        """Its SIP URI, without a scheme."""
        return f"linphone@127.0.0.1:{self.port}"

    @property
    def heard(self) -> Path:
        """What it recorded; complete when it has ended."""
        return self.place / "heard.wav"

    def tell(self, command: str) -> None:
        """A command as a person types it."""
        self.program.write(command)

    async def says(self, text: str, times: int = 1) -> None:
        """Wait until it said this so often."""
        await self.program.says(text, times)


@asynccontextmanager
async def linphone(
    place: Path, *, answers: bool = False, encryption: str = "none"
) -> AsyncIterator[Linphone]:
    """A telephone that plays 440 Hz and records what it hears."""
    # It keeps a database in a folder that it does not make.
    (place / ".local/share/linphone").mkdir(parents=True)
    port, rtp = free_ports(), free_ports(4)
    config = place / "linphonerc"
    config.write_text(CONFIG.format(port=port, rtp=rtp, encryption=encryption))
    words = ["-c", str(config), "-d", "5", "-l", str(place / "details")]
    words += ["-a"] if answers else []
    tone = write_tone(place / "tone.wav", 60)
    async with program("linphonec", *words, place=place, environ={"HOME": str(place)}) as running:
        one = Linphone(running, place, port)
        await one.says("linphonec> ")
        one.tell("ipv6 disable")
        await one.says("ipv6 use disabled")
        one.tell("soundcard use files")
        await one.says("Using wav files")
        one.tell(f"play {tone}")
        one.tell(f"record {one.heard}")
        yield one
        one.tell("quit")
        await running.ended()
