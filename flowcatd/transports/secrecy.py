"""What protects one stream's media: nothing, keys from the descriptions, or keys from a handshake.

    plain     no guard
    SDES      `srtp.Srtp`, from the keys that were written in the descriptions (RFC 4568)
    DTLS      until the handshake is done nothing passes, in neither direction; then `srtp.Srtp`

A handshake shares the RTP port: datagrams whose first byte is 20 to 63 are its own (RFC 5764 §5.1.2). Its
answers go to where its last datagram came from, or else to where RTP goes. It is a `Handshake` in the
five verbs of the house (`transports/dtls.py`), and `Shake` begins one. There is one per call: without
rtcp-mux RTCP would want a second (RFC 5764 §4.1), so none is sent then.

Signalling may agree on other keys at any time: `agreed` changes what must change and nothing else, so
that a direction whose key stays goes on counting. A DTLS association is a new one where the peer's
certificate, the roles, its a=tls-id or, without that, its address are others (RFC 8842 §3.1, §4). While
the same peer shakes hands anew, the old keys serve on, and where nothing comes of it they stay: some
peers move and mean the old association.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

import msgspec

from flowcatd.errors import LocalError
from flowcatd.rtp.source import Addr
from flowcatd.rtp.stream import Guard
from flowcatd.rtp.trouble import RtpError
from flowcatd.sip.session import Dtls, Sdes
from flowcatd.transports.dtls import Failed, Secured, is_dtls
from flowcatd.transports.srtp import Srtp, SrtpState


class Handshake(Protocol):
    """One DTLS association, without I/O."""

    def receive_datagram(self, data: bytes, now: float) -> None:
        """One of theirs."""

    def wake(self, now: float) -> None:
        """Time passed."""

    def wake_at(self) -> float | None:
        """The earliest time it wants to be woken."""

    def outgoing(self) -> Sequence[bytes]:
        """Drain what must be sent."""

    def events(self) -> Sequence[Secured | Failed]:
        """Drain what came of it."""


Shake = Callable[[Dtls, float], Handshake]
"""Begins a handshake with the peer whose certificate signalling described."""


class SecrecyState(msgspec.Struct, frozen=True):
    """Where protection stands; `keys`, of a handshake only, are secrets: never log it."""

    srtp: SrtpState | None = None
    keys: Sdes | None = None


class Secrecy:
    """One stream's protection, through all that signalling says about it."""

    def __init__(self, shake: Shake | None = None, state: SecrecyState | None = None) -> None:
        """`shake` is None where DTLS cannot be had; `state` takes up what another process left."""
        self._shake = shake
        self._state = state
        self._agreed: Sdes | Dtls | None = None
        self._srtp: Srtp | None = None
        self._handshake: Handshake | None = None
        self.shaken: Sdes | None = None
        """The keys of the last handshake, as long as they serve; secrets."""
        self._from: Addr | None = None
        self.guard: Guard | None = None
        """For `rtp.stream.Stream.shield`."""
        self.suite = ""
        """The SRTP suite in use; empty for plain RTP."""
        self.problem = ""
        """Why the handshake came to nothing."""

    @property
    def is_open(self) -> bool:
        """Whether media may pass."""
        return self.guard is not _SHUT

    @property
    def is_shaking(self) -> bool:
        """Whether a handshake is under way, and wants datagrams and ticks."""
        return self._handshake is not None

    def agreed(self, keys: Sdes | Dtls | None, now: float) -> None:
        """Signalling says what protects the media from now on; `guard` is to be asked again."""
        before = self._agreed
        if isinstance(keys, Dtls) and isinstance(before, Dtls) and not keys.association:
            keys = replace(keys, association=before.association)
        if keys == before:
            return
        self._agreed = keys
        self._handshake = None
        match keys:
            case None:
                self._srtp, self.guard, self.suite = None, None, ""
            case Sdes():
                self._use(keys)
            case Dtls():
                is_peer = isinstance(before, Dtls) and before.fingerprints == keys.fingerprints
                self._begin(keys, now, is_same_peer=is_peer)

    def receive(self, data: bytes, addr: Addr, now: float) -> bool:
        """Whether a datagram is the handshake's, and was taken by it."""
        if not is_dtls(data):
            return False
        if self._handshake is not None:
            self._from = addr
            self._handshake.receive_datagram(data, now)
        return True

    def tick(self, now: float) -> list[tuple[bytes, Addr | None]]:
        """What the handshake wants sent; None for where RTP goes. `guard` may be another afterwards."""
        handshake = self._handshake
        if handshake is None:
            return []
        due = handshake.wake_at()
        if due is not None and due <= now:
            handshake.wake(now)
        sent = [(data, self._from) for data in handshake.outgoing()]
        for event in handshake.events():
            if isinstance(event, Secured):
                self.shaken = event.keys
                self._use(event.keys)
            elif self.is_open:
                self._handshake = None  # the old association, then
            else:
                self.problem = event.problem
        return sent

    def snapshot(self) -> SecrecyState:
        """Where it stands now."""
        srtp = self._srtp.snapshot() if self._srtp is not None else None
        return SecrecyState(srtp, self.shaken if isinstance(self._agreed, Dtls) else None)

    def _begin(self, peer: Dtls, now: float, *, is_same_peer: bool) -> None:
        taken = self._state.keys if self._state is not None else None
        if taken is not None:
            self.shaken = taken
            self._use(taken)
            return
        if self._shake is None:
            raise LocalError("DTLS was agreed on, and there is none here")
        if not (is_same_peer and self.shaken is not None):
            self._srtp, self.guard, self.shaken = None, _SHUT, None
        self._from = None
        self._handshake = self._shake(peer, now)

    def _use(self, keys: Sdes) -> None:
        self.suite = keys.send.suite.name
        if self._srtp is not None:
            self._srtp.rekey(keys)
            return
        state, self._state = self._state, None
        self._srtp = Srtp(keys, state.srtp if state is not None else None)
        self.guard = self._srtp.guard


def _refused(_data: bytes) -> bytes:
    raise RtpError("there are no keys yet")


_SHUT: Final = Guard(_refused, _refused, _refused, _refused)
