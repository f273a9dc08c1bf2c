"""One RTP packet, read and written (RFC 3550 §5.1, header extensions §5.3.1 kept opaque).

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    |V=2|P|X|  CC   |M|     PT      |        sequence number        |
    |                           timestamp                           |
    |            synchronisation source (SSRC) identifier           |
    |    CC times a contributing source (CSRC), extension, payload, padding

Nearly every packet of a telephone has no padding, extension or contributing source; its first octet
is 0x80, and it is read with one unpack and one slice. Whether the payload type was negotiated is
not known here. RFC 5761 §4 tells RTCP from RTP on one port by the second octet: `is_rtcp`.
"""

from __future__ import annotations

import struct

import msgspec

from flowcatd.rtp.trouble import RtpError

HEADER_BYTES = 12
"""The fixed part."""

MAX_DATAGRAM = 4096
"""No packet of audio is longer: 20 ms of 48 kHz stereo PCM has 3852 bytes."""

_FIXED = struct.Struct("!BBHII")
_WORD = struct.Struct("!HH")
_PLAIN = 0x80
_PADDED = 0x20
_EXTENDED = 0x10


class Extension(msgspec.Struct, frozen=True, gc=False):
    """A header extension as it came; RFC 8285 is one of the things that may be in it."""

    profile: int
    """The 16 bits that the profile defines; 0xBEDE for RFC 8285's one-byte form."""
    data: bytes
    """Whole 32-bit words."""


class Packet(msgspec.Struct, frozen=True, gc=False):
    """What a packet says. A struct, since one is made per 20 ms of every call."""

    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes
    csrc: tuple[int, ...] = ()
    extension: Extension | None = None
    padding: int = 0
    """How many octets of padding stood behind the payload, the count itself included."""


def is_rtcp(data: bytes) -> bool:
    """Whether this is RTCP where both share a port: a second octet of 192 to 223 (RFC 5761 §4)."""
    return len(data) > 1 and 192 <= data[1] <= 223


def parse_packet(data: bytes) -> Packet:
    """The packet; RtpError when its lengths do not add up or its version is not 2."""
    if not HEADER_BYTES <= len(data) <= MAX_DATAGRAM:
        raise RtpError(f"a packet of {len(data)} bytes")
    first, second, sequence, timestamp, ssrc = _FIXED.unpack_from(data)
    if first == _PLAIN:
        return Packet(second & 0x7F, second > 0x7F, sequence, timestamp, ssrc, data[HEADER_BYTES:])
    return _parse_rare(data, first, second)


def build_packet(packet: Packet) -> bytes:
    """The datagram of any packet; `datagram` is the short way for the usual one."""
    first = _PLAIN | len(packet.csrc)
    parts = [b"".join(source.to_bytes(4, "big") for source in packet.csrc)]
    if packet.extension is not None:
        first |= _EXTENDED
        data = packet.extension.data
        parts += [_WORD.pack(packet.extension.profile, len(data) // 4), data]
    parts.append(packet.payload)
    if packet.padding:
        first |= _PADDED
        parts.append(bytes(packet.padding - 1) + bytes([packet.padding]))
    second = packet.payload_type | packet.marker << 7
    fixed = _FIXED.pack(first, second, packet.sequence, packet.timestamp, packet.ssrc)
    return fixed + b"".join(parts)


def datagram(second: int, sequence: int, timestamp: int, ssrc: int, payload: bytes) -> bytes:
    """A packet without options; `second` is the payload type, with 0x80 added for the marker."""
    return _FIXED.pack(_PLAIN, second, sequence, timestamp, ssrc) + payload


def _parse_rare(data: bytes, first: int, second: int) -> Packet:
    if first >> 6 != 2:
        raise RtpError(f"RTP version {first >> 6}")
    _, _, sequence, timestamp, ssrc = _FIXED.unpack_from(data)
    at = HEADER_BYTES + 4 * (first & 0x0F)
    end = len(data)
    csrc = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(HEADER_BYTES, at, 4))
    extension = None
    if first & _EXTENDED:
        if at + _WORD.size > end:
            raise RtpError("a header extension that is not there")
        profile, words = _WORD.unpack_from(data, at)
        start = at + _WORD.size
        at = start + 4 * words
        extension = Extension(profile, data[start:at])
    padding = data[-1] if first & _PADDED else 0
    if first & _PADDED and not padding:
        raise RtpError("padding of no octets")
    if at + padding > end:
        raise RtpError(f"a header and padding of {at + padding} bytes in a packet of {end}")
    payload = data[at : end - padding]
    marker = second > 0x7F
    return Packet(
        second & 0x7F, marker, sequence, timestamp, ssrc, payload, csrc, extension, padding
    )
