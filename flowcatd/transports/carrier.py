"""A carrier's media WebSocket: the thin shell between aiohttp, a carrier core and a call.

In: messages go to the core, its events to the call. Out: the core renders a message and this room
writes it, framed (RFC 6455 §5.2: an unmasked frame of one piece), into the connection's buffer
in the same turn of the loop. aiohttp's own sender is a coroutine, which a synchronous chain cannot
await per frame; it writes to the same buffer, one whole frame at a time, so the two do not mix.

A far end that does not read fills that buffer. Beyond BUFFER_LIMIT audio is left out; when that has
lasted STALLED_FRAMES in a row the far end is gone and the call ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from aiohttp import WSCloseCode, WSMsgType, web

from flowcatd.carriers.events import (
    Audio,
    CarrierEvent,
    Cleared,
    Digit,
    MarkReached,
    Started,
    Stopped,
)
from flowcatd.carriers.json_media import JsonMedia
from flowcatd.frames import Frame, InputDtmf, MarkPlayed
from flowcatd.record import ENDED_BY, Outcome, Reason
from flowcatd.transports.edge import Edge

TEXT = 0x81
BINARY = 0x82
"""FIN and the opcode (RFC 6455 §5.2)."""

BUFFER_LIMIT = 128 * 1024
"""Some eight seconds of Twilio's base64 µ-law; a reader that far behind is not listening."""

STALLED_FRAMES = 250
"""Five seconds of audio left out in a row."""

CLOSE_SECONDS = 2.0
"""How long the closing handshake may take; a carrier that has hung up often never finishes it."""

OUTCOME_CODES: Final[dict[Reason, int]] = {
    Reason.COMPLETED: WSCloseCode.OK,
    Reason.CALLER_HUNG_UP: WSCloseCode.OK,
    Reason.CARRIER_STOPPED: WSCloseCode.OK,
    Reason.NEVER_SPOKE: WSCloseCode.OK,
    Reason.NEVER_STARTED: WSCloseCode.POLICY_VIOLATION,
    Reason.PROTOCOL_ERROR: WSCloseCode.PROTOCOL_ERROR,
    Reason.MAX_DURATION: WSCloseCode.OK,
    Reason.DRAINED: WSCloseCode.GOING_AWAY,
    Reason.TRANSFERRED: WSCloseCode.OK,
    Reason.NOT_ANSWERED: WSCloseCode.OK,
    Reason.REFUSED: WSCloseCode.OK,
    Reason.CANCELLED: WSCloseCode.OK,
    Reason.SOCKET_LOST: WSCloseCode.GOING_AWAY,
    Reason.WORKER_LOST: WSCloseCode.GOING_AWAY,
    Reason.AGENT_FAILED: WSCloseCode.INTERNAL_ERROR,
    Reason.INTERNAL_ERROR: WSCloseCode.INTERNAL_ERROR,
}


class CallSide(Protocol):
    """The call, as its wire sees it."""

    def now(self) -> float:
        """Monotonic seconds."""

    def started(self, started: Started) -> Callable[[Frame], None]:
        """The stream is up; frames go where the answer says."""

    def media_came(self, now: float) -> None:
        """Audio arrived."""

    def end(self, outcome: Outcome) -> None:
        """The call is over, for this reason."""


def frame(opcode: int, data: bytes) -> bytes:
    """One unmasked WebSocket frame (RFC 6455 §5.2)."""
    size = len(data)
    if size < 126:
        return bytes((opcode, size)) + data
    if size < 65536:
        return bytes((opcode, 126, size >> 8, size & 255)) + data
    return bytes((opcode, 127)) + size.to_bytes(8) + data


class CarrierSocket:
    """One call's media WebSocket; a MediaPort for the way out, a Transport for the call."""

    def __init__(
        self, socket: web.WebSocketResponse, wire: asyncio.WriteTransport, core: JsonMedia
    ) -> None:
        """`wire` is the connection under `socket`, which has been prepared."""
        self._socket = socket
        self._wire = wire
        self._core = core
        self._edge: Edge | None = None
        self._opcode = TEXT if core.audio_is_text else BINARY
        self._closing = False
        self._stalled = 0
        self._call: CallSide | None = None
        self._feed: Callable[[Frame], None] | None = None
        self._origin = 0.0
        self.notices = False
        """Whether the far end asked to be told about the conversation."""
        self.lead_ms = 0
        """As configured: what lies ahead survives our stalls in the carrier's buffer."""

    # --- MediaPort --------------------------------------------------------------------------------

    @property
    def has_marks(self) -> bool:
        """Whether this carrier returns marks."""
        return self._core.has_marks

    def send_audio(self, pcm: bytes) -> None:
        """One frame of the agent."""
        if self._closing or self._edge is None:
            return
        if self._wire.get_write_buffer_size() > BUFFER_LIMIT:
            self._congested()
            return
        self._stalled = 0
        self._wire.write(frame(self._opcode, self._core.audio(self._edge.encode(pcm))))

    def send_mark(self, name: str) -> None:
        """Ask to be told when everything sent so far has been played."""
        self._control(self._core.mark(name))

    def send_clear(self) -> None:
        """Make the carrier forget what it has not yet played."""
        self._control(self._core.clear())

    def send_digits(self, digits: str) -> None:
        """Press keys towards the far end, where the carrier can."""
        self._control(self._core.digits(digits))

    def transfer(self, target: str) -> bool:  # noqa: ARG002 as the port has it
        """No carrier takes a transfer on its media socket."""
        return False

    def notice(self, fields: Mapping[str, object]) -> None:
        """Tell a loopback client about the conversation, if it asked."""
        if self.notices:
            self._control(self._core.notice(fields))

    # --- Transport --------------------------------------------------------------------------------

    async def read(self, call: CallSide) -> Outcome:
        """Feed the call until the carrier stops or the socket goes."""
        self._call = call
        core = self._core
        self._deliver(core.events())  # a wire without a start message is up at once
        async for message in self._socket:
            now = call.now()
            if message.type is WSMsgType.TEXT:
                core.receive_text(message.data, now)
            elif message.type is WSMsgType.BINARY:
                core.receive_binary(message.data, now)
            self._deliver(core.events())
            if core.closed:
                self._closing = True  # it wants nothing more
                return Outcome(reason=Reason.CARRIER_STOPPED)
        self._closing = True
        core.receive_closed(call.now())
        code = self._socket.close_code
        if code == WSCloseCode.OK:
            return Outcome(reason=Reason.CALLER_HUNG_UP, close_code=code)
        return Outcome(
            reason=Reason.SOCKET_LOST, error="the media socket went away", close_code=code
        )

    async def close(self, outcome: Outcome) -> int:
        """Close with the code that says why, waiting no longer than CLOSE_SECONDS."""
        self.notice({"type": "ended", "by": ENDED_BY[outcome.reason], "reason": outcome.reason})
        self._closing = True
        code = outcome.close_code or OUTCOME_CODES[outcome.reason]
        theirs = self._socket.close_code
        if theirs is not None:
            self._forget()
            return theirs
        text = (outcome.error or outcome.reason.value).encode()[:120]  # RFC 6455 §5.5: 125 less 2
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._socket.close(code=code, message=text)
        except TimeoutError:
            self._wire.abort()
        self._forget()
        return code

    def _forget(self) -> None:
        """Let go of the call, which holds us."""
        self._call = self._feed = None

    # --- private ----------------------------------------------------------------------------------

    def _deliver(self, events: list[CarrierEvent]) -> None:
        for event in events:
            match event:
                case Audio(payload, timestamp_ms):
                    self._audio(payload, timestamp_ms)
                case Started():
                    self._started(event)
                case Digit(digit) if self._feed is not None:
                    self._feed(InputDtmf(digit))
                case MarkReached(name) if self._feed is not None:
                    self._feed(MarkPlayed(name))
                case Digit() | MarkReached() | Cleared() | Stopped():
                    pass  # playout forgot at its own clear; the reading loop sees `closed`

    def _audio(self, payload: bytes, timestamp_ms: int | None) -> None:
        call, feed, edge = self._call, self._feed, self._edge
        if call is None or feed is None or edge is None:
            return  # the core lets no audio through before the start
        now = call.now()
        call.media_came(now)
        elapsed_ms = int((now - self._origin) * 1000)
        for audio in edge.receive(payload, timestamp_ms, elapsed_ms):
            feed(audio)

    def _started(self, started: Started) -> None:
        assert self._call is not None, "events are delivered by read"
        self._edge = Edge(started.encoding, started.rate_hz)
        self._origin = self._call.now()
        self._feed = self._call.started(started)

    def _control(self, message: bytes | None) -> None:
        if message is None or self._closing:
            return
        if self._wire.get_write_buffer_size() > 2 * BUFFER_LIMIT:
            self._congested()
        else:
            self._wire.write(frame(TEXT, message))

    def _congested(self) -> None:
        self._stalled += 1
        if self._stalled == STALLED_FRAMES and self._call is not None:
            self._call.end(Outcome(reason=Reason.SOCKET_LOST, error="the far end stopped reading"))
