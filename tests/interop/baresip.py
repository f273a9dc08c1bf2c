"""A baresip telephone: one process without audio hardware, told what to do over its control socket.

It plays a WAV file into the call (module aufile) and writes what it hears into another (module sndfile,
`dump-…-dec.wav`). Commands and events are JSON in netstrings over TCP (module ctrl_tcp); a key that was
pressed at the other end stands only in its log. It takes two SIP ports: the second is its TLS one.
Source: the modules' documentation in baresip 1.0.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.interop.programs import Program, free_ports, made, program
from tests.interop.sound import seconds_of, write_tone

MODULES = Path("/usr/lib/baresip/modules")
CONFIG = """\
poll_method epoll
sip_listen {host}:{port}
call_local_timeout 30
call_max_calls 200
net_interface {bare}
audio_source aufile,{tone}
audio_alert aufile,{alert}
ausrc_srate 8000
auplay_srate 8000
ausrc_channels 1
auplay_channels 1
jitter_buffer_delay 2-10
rtp_stats yes
rtp_ports {rtp}-{rtp_high}
module_path {modules}
{loaded}
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:{control}
snd_path {place}
{more}
"""
TONE_SECONDS = 60.0
"""At the end of the file baresip would hang up."""
LOADED = ("g711", "g722", "opus", "aufile", "sndfile", "srtp", "dtls_srtp")


def has(module: str) -> bool:
    """Whether this baresip was built with a module."""
    return (MODULES / f"{module}.so").exists()


@dataclass
class Baresip:
    """One telephone."""

    program: Program
    place: Path
    host: str
    port: int
    user: str = "phone"
    events: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    _writer: asyncio.StreamWriter | None = None

    @property
    def address(self) -> str:
        """Its SIP URI, without a scheme."""
        return f"{self.user}@{self.host}:{self.port}"

    async def tell(self, command: str, params: str = "") -> None:
        """A command, and wait for its answer."""
        assert self._writer is not None
        before = len(self.answers)
        asked = json.dumps({"command": command, "params": params, "token": "t"}).encode()
        self._writer.write(b"%d:%s," % (len(asked), asked))
        await self.program.until(lambda: len(self.answers) > before, f"answer to {command}")
        assert self.answers[-1]["ok"], self.answers[-1]

    async def sees(self, kind: str, times: int = 1, within: float = 15.0) -> dict[str, Any]:
        """Wait for an event of this type: the newest."""
        await self.program.until(lambda: len(self.of(kind)) >= times, f"{kind} x{times}", within)
        return self.of(kind)[-1]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of a type."""
        return [event for event in self.events if event["type"] == kind]

    async def call(self, uri: str) -> None:
        """Dial, and wait until the call is up."""
        before = len(self.of("CALL_ESTABLISHED"))
        await self.tell("dial", uri)
        await self.sees("CALL_ESTABLISHED", before + 1)

    async def hang_up(self) -> None:
        """End the call."""
        before = len(self.of("CALL_CLOSED"))
        await self.tell("hangup")
        await self.sees("CALL_CLOSED", before + 1)

    def heard(self) -> Path:
        """The newest recording of what came in."""
        return max(self.place.glob("dump-*-dec.wav"), key=lambda path: path.stat().st_mtime_ns)

    async def hears(self, seconds: float, within: float = 20.0) -> None:
        """Wait until so much audio has come in since the newest call began."""

        def enough() -> bool:
            found = self.place.glob("dump-*-dec.wav")
            return len(list(found)) >= calls and seconds_of(self.heard()) >= seconds

        calls = len(self.of("CALL_ESTABLISHED"))

        await self.program.until(enough, f"{seconds} s of audio", within)

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Take what the control socket says, until it closes."""
        while True:
            try:
                size = int((await reader.readuntil(b":"))[:-1])
                said = json.loads((await reader.readexactly(size + 1))[:-1])
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            (self.answers if said.get("response") else self.events).append(said)

    async def close(self) -> None:
        """Close the control socket."""
        if self._writer is not None:
            self._writer.close()
            await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)

    async def connect(self, control: int) -> asyncio.Task[None]:
        """Open the control socket."""
        reader, self._writer = await asyncio.open_connection("127.0.0.1", control)
        return asyncio.create_task(self.read(reader))


@asynccontextmanager
async def baresip(
    place: Path,
    *,
    account: str = "",
    user: str = "phone",
    domain: str = "",
    answers: bool = True,
    host: str = "127.0.0.1",
    more: str = "",
    tone_hz: float = 440.0,
) -> AsyncIterator[Baresip]:
    """A telephone that plays a tone, silence at 0 Hz; `account` adds to its account, `more` to its config."""
    made(place)
    bare = host.strip("[]")
    port, control, rtp = free_ports(2, bare), free_ports(), free_ports(60, bare)
    filled = CONFIG.format(
        host=host,
        bare=bare,
        port=port,
        control=control,
        rtp=rtp,
        rtp_high=rtp + 59,
        tone=write_tone(place / "tone.wav", TONE_SECONDS, tone_hz),
        alert=place / "no_alert.wav",
        modules=MODULES,
        loaded="\n".join(f"module {name}.so" for name in LOADED if has(name)),
        place=place,
        more=more,
    )
    (place / "config").write_text(filled)
    mode = "auto" if answers else "manual"
    uri = f"<sip:{user}@{domain or f'{host}:{port}'}>{account or ';regint=0'}"
    (place / "accounts").write_text(f"{uri};answermode={mode}\n")
    (place / "contacts").write_text("")
    async with program("baresip", "-f", str(place), "-v", place=place) as running:
        await running.says("baresip is ready")
        one = Baresip(running, place, host, port, user)
        reading = await one.connect(control)
        try:
            yield one
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await one.close()
