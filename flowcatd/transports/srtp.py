"""SRTP for one stream: keys from signalling in, the four callables of `rtp.stream.Guard` out.

libsrtp (by pylibsrtp) does the work of RFC 3711: encryption, tags, roll-over counter, replay window of
128 packets. What is forged, replayed or broken is refused with RtpError and counted by cause; a network's
own duplicates count as replayed. RTCP of AES_CM_128_HMAC_SHA1_32 has a tag of 80 bits all the same (RFC
4568 §6.2.2). A far end's MKI is cut out, not checked: there is one key.

Taking up a call (`SrtpState`): libsrtp begins with a roll-over counter of 0, and pylibsrtp cannot set it.
So the new sessions are walked to where the old ones stood, by packets that nobody sends, a quarter of a
cycle apart. That keeps these limits:
* the far end must not have gone on by half a cycle, 655 s at 20 ms, since the state was kept;
* packets received in the last moment before the state was kept can be replayed once;
* ours must not be numbered as before: `rtp.sender.carried_on` sees to that for RTP, RTCP_AHEAD for RTCP.
  The same number twice with one key gives away both packets, and with GCM the key's authentication.
The keys are not in the state but in the SDP of the dialog; those of DTLS come by `keys_from_dtls`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
from pylibsrtp import Error, Policy, Session

from flowcatd.errors import LocalError
from flowcatd.rtp.stream import Guard
from flowcatd.rtp.trouble import RtpError
from flowcatd.sip.session import Key, Sdes, Suite

RTCP_AHEAD: Final = 16
"""Numbers left out at a take-over: more reports than are sent between two states kept."""
MOST_SOURCES: Final = 8
"""SSRCs whose numbers are remembered per stream; of more the oldest is forgotten."""
MOST_INDEX: Final = 1 << 27
"""31 days of packets; a state beyond it is not one of ours."""
MOST_REPORTS: Final = 1 << 15
"""45 hours of reports: each is walked past by itself, 2 µs."""
WINDOW: Final = 128
"""Packets; one that comes later than 2.5 s is of no use to a jitter buffer either."""

_PROFILES: Final[dict[str, int]] = {
    "AES_CM_128_HMAC_SHA1_80": Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    "AES_CM_128_HMAC_SHA1_32": Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    "AEAD_AES_128_GCM": Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    "AEAD_AES_256_GCM": Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}
_SALT_BYTES: Final = {30: 14, 28: 12, 44: 12}
"""By the length of key and salt together (RFC 3711 §8.2, RFC 7714 §12)."""
_RTCP_TAG_BYTES: Final = 10
_QUARTER: Final = 1 << 14
_HEADER: Final = struct.Struct("!BBHII")
_REPORT: Final = struct.Struct("!BBHI")


class SrtpState(msgspec.Struct, frozen=True):
    """Where the numbers stand; no secret."""

    sent_ssrc: int
    sent_index: int
    """Of the last packet sent, with its cycles; -1 for none."""
    heard_ssrc: int
    heard_index: int
    """Of the highest packet heard of the latest source; -1 for none."""
    reports_sent: int


@dataclass(slots=True)
class Refused:
    """What was not let in, by cause."""

    forged: int = 0
    """Wrong key, or changed on its way."""
    replayed: int = 0
    """Seen before, or too old to tell."""
    broken: int = 0
    """No SRTP packet at all."""


_CAUSES: Final = {
    "authentication failure": "forged",
    "replay check failed (bad index)": "replayed",
    "replay check failed (index too old)": "replayed",
}


class Srtp:
    """One stream's protection, both ways."""

    def __init__(self, keys: Sdes, state: SrtpState | None = None) -> None:
        """`state` takes up what another process left; LocalError for keys of no suite of ours."""
        self._keys = keys
        self._send = _session(keys.send, Policy.SSRC_ANY_OUTBOUND)
        self._receive = _session(keys.receive, Policy.SSRC_ANY_INBOUND)
        self._sent, self._heard = _Count(), _Count()
        self._sources: dict[int, None] = {}
        self._reports_sent = 0
        self.refused = Refused()
        self.guard = Guard(self.protect, self.unprotect, self.protect_rtcp, self.unprotect_rtcp)
        """For `rtp.stream.Stream`; outlives `rekey`."""
        if state is not None:
            self._take_up(state)

    def rekey(self, keys: Sdes) -> None:
        """Signalling agreed on other keys; a direction whose key stays goes on as it was."""
        send, receive = self._keys.send, self._keys.receive
        if (keys.send.suite, keys.send.material) != (send.suite, send.material):
            self._send = _session(keys.send, Policy.SSRC_ANY_OUTBOUND)
            self._sent = _Count()
            self._reports_sent = 0
        if (keys.receive.suite, keys.receive.material) != (receive.suite, receive.material):
            self._receive = _session(keys.receive, Policy.SSRC_ANY_INBOUND)
            self._heard = _Count()
            self._sources.clear()
        self._keys = keys

    def protect(self, data: bytes) -> bytes:
        """An RTP packet of ours, encrypted; LocalError when libsrtp does not take it."""
        try:
            secret = self._send.protect(data)
        except (Error, ValueError) as error:
            raise LocalError(
                f"SRTP does not take a packet of {len(data)} bytes: {error}"
            ) from error
        self._sent.note(data)
        return secret

    def protect_rtcp(self, data: bytes) -> bytes:
        """A compound RTCP packet of ours, encrypted; LocalError when libsrtp does not take it."""
        try:
            secret = self._send.protect_rtcp(data)
        except (Error, ValueError) as error:
            raise LocalError(f"SRTP does not take {len(data)} bytes of RTCP: {error}") from error
        if self._sent.index < 0:
            self._sent.ssrc = int.from_bytes(data[4:8], "big")  # reports are all it has said
        self._reports_sent += 1
        return secret

    def unprotect(self, data: bytes) -> bytes:
        """An RTP packet of theirs, decrypted; RtpError when it is not let in."""
        key = self._keys.receive
        if key.mki_bytes:
            data = _without_mki(data, key.mki_bytes, key.suite.tag_bytes)
        try:
            plain = self._receive.unprotect(data)
        except (Error, ValueError) as error:
            raise self._refusal(error, len(data)) from error
        if self._heard.note(plain) or self._heard.ssrc not in self._sources:
            self._remember(self._heard.ssrc)
        return plain

    def unprotect_rtcp(self, data: bytes) -> bytes:
        """RTCP of theirs, decrypted; RtpError when it is not let in."""
        key = self._keys.receive
        if key.mki_bytes:
            # GCM's tag stands before the index, not at the end (RFC 7714 §9.2).
            tag = _RTCP_TAG_BYTES if key.suite.tag_bytes else 0
            data = _without_mki(data, key.mki_bytes, tag)
        try:
            plain = self._receive.unprotect_rtcp(data)
        except (Error, ValueError) as error:
            raise self._refusal(error, len(data)) from error
        ssrc = int.from_bytes(plain[4:8], "big")
        if ssrc not in self._sources:
            self._remember(ssrc)
        return plain

    def snapshot(self) -> SrtpState:
        """Where the numbers stand now."""
        sent, heard = self._sent, self._heard
        return SrtpState(sent.ssrc, sent.index, heard.ssrc, heard.index, self._reports_sent)

    def _refusal(self, error: Exception, size: int) -> RtpError:
        refused, cause = self.refused, _CAUSES.get(str(error), "broken")
        setattr(refused, cause, getattr(refused, cause) + 1)
        return RtpError(f"SRTP refuses a packet of {size} bytes: {error}")

    def _remember(self, ssrc: int) -> None:
        """Only packets that prove the key come here; even so their memory has an end."""
        self._sources[ssrc] = None
        if len(self._sources) > MOST_SOURCES:
            oldest = next(iter(self._sources))
            del self._sources[oldest]
            self._receive.remove_stream(oldest)

    def _take_up(self, state: SrtpState) -> None:
        if not (
            -1 <= state.sent_index <= MOST_INDEX
            and -1 <= state.heard_index <= MOST_INDEX
            and 0 <= state.reports_sent <= MOST_REPORTS
        ):
            raise LocalError("this is no state of an SRTP stream")
        for dummy in _way(state.sent_ssrc, state.sent_index):
            self._send.protect(dummy)
        if state.heard_index >= 0:
            theirs = _session(self._keys.receive, Policy.SSRC_ANY_OUTBOUND)
            for dummy in _way(state.heard_ssrc, state.heard_index):
                self._receive.unprotect(theirs.protect(dummy))
            self._remember(state.heard_ssrc)
        if state.reports_sent:
            report = _REPORT.pack(0x80, 201, 1, state.sent_ssrc)
            self._reports_sent = state.reports_sent + RTCP_AHEAD
            for _ in range(self._reports_sent):
                self._send.protect_rtcp(report)
        self._sent.set(state.sent_ssrc, state.sent_index)
        self._heard.set(state.heard_ssrc, state.heard_index)


class _Count:
    """The highest packet of the latest source, with its cycles, as libsrtp counts it too."""

    __slots__ = ("index", "ssrc")

    def __init__(self) -> None:
        self.set(0, -1)

    def set(self, ssrc: int, index: int) -> None:
        """It stands here."""
        self.ssrc, self.index = ssrc, index

    def note(self, packet: bytes) -> bool:
        """One more packet; whether it is another source's than the one before."""
        _, _, sequence, _, ssrc = _HEADER.unpack_from(packet)
        if ssrc != self.ssrc or self.index < 0:
            self.set(ssrc, sequence)
            return True
        ahead = (sequence - self.index) & 0xFFFF
        if ahead < 0x8000:
            self.index += ahead
        return False


def keys_from_dtls(suite: Suite, material: bytes, *, is_client: bool) -> Sdes:
    """What a handshake exported under EXTRACTOR-dtls_srtp, as our keys (RFC 5764 §4.2).

    `material` is both keys, then both salts, the client's first; LocalError for another length.
    """
    salt_bytes = _SALT_BYTES[suite.key_bytes]
    key_bytes = suite.key_bytes - salt_bytes
    if len(material) != 2 * suite.key_bytes:
        raise LocalError(f"{len(material)} bytes of keys where {2 * suite.key_bytes} are wanted")
    salts = material[2 * key_bytes :]
    client = Key(suite, material[:key_bytes] + salts[:salt_bytes])
    server = Key(suite, material[key_bytes : 2 * key_bytes] + salts[salt_bytes:])
    return Sdes(client, server) if is_client else Sdes(server, client)


def _session(key: Key, sources: int) -> Session:
    profile = _PROFILES.get(key.suite.name)
    if profile is None or len(key.material) != key.suite.key_bytes:
        raise LocalError(f"no SRTP with {key.suite.name} and {len(key.material)} bytes of key")
    policy = Policy(key=key.material, ssrc_type=sources, srtp_profile=profile)
    policy.window_size = WINDOW
    return Session(policy)


def _without_mki(data: bytes, mki_bytes: int, tag_bytes: int) -> bytes:
    end = len(data) - tag_bytes
    if end < mki_bytes:
        return data  # libsrtp will say that it is too short
    return data[: end - mki_bytes] + data[end:]


def _way(ssrc: int, index: int) -> Iterator[bytes]:
    """Empty packets that lead a counter of 0 to `index`, each less than half a cycle on."""
    if index < 0:
        return
    for number in (*range(0, index, _QUARTER), index):
        yield _HEADER.pack(0x80, 0, number & 0xFFFF, 0, ssrc)
