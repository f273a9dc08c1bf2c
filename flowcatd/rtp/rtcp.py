"""RTCP on the wire: sender and receiver reports, SDES, BYE and APP, read and written (RFC 3550 §6).

Packets are stacked into one datagram, each with its own length in 32-bit words (§6.1). The first of a
compound is a report; RFC 5506 allows others to stand alone, and so do we. Only the last may be padded
(§6.4.1). What we do not know (extended reports, feedback) is passed over by its length.

A report counts in the units of the wire: loss in 1/256, jitter in ticks, delays in 1/65536 s, and
the middle 32 bits of an NTP time (§4) as its stamp. `report` turns them into seconds.
"""

from __future__ import annotations

import struct

import msgspec

from flowcatd.rtp.packet import MAX_DATAGRAM
from flowcatd.rtp.trouble import RtpError

SR, RR, SDES, BYE, APP = 200, 201, 202, 203, 204
CNAME = 1

_HEAD = struct.Struct("!BBH")
_BLOCK = struct.Struct("!IIIIII")
_SENDER = struct.Struct("!QIII")


class Block(msgspec.Struct, frozen=True, gc=False):
    """What one receiver says of one source (RFC 3550 §6.4.1)."""

    ssrc: int
    fraction_lost: int
    """In 1/256, since the last report."""
    lost: int
    """In all, 24 bits with a sign."""
    highest: int
    """The highest sequence number received, with 16 bits of cycles."""
    jitter: int
    """In ticks of the source's clock."""
    last_report: int
    """The middle 32 bits of the NTP time of the source's last sender report; 0 for none."""
    delay: int
    """Since that came, in 1/65536 s."""


class Report(msgspec.Struct, frozen=True, gc=False):
    """A sender's (with `ntp`) or a receiver's report."""

    ssrc: int
    blocks: tuple[Block, ...] = ()
    ntp: int | None = None
    """64 bits of NTP time, seconds since 1900 and their fraction; None from who sends nothing."""
    timestamp: int = 0
    packets: int = 0
    octets: int = 0


class Description(msgspec.Struct, frozen=True, gc=False):
    """What a source calls itself; of SDES's items only CNAME is kept."""

    ssrc: int
    cname: bytes


class Goodbye(msgspec.Struct, frozen=True, gc=False):
    """Sources that end."""

    ssrcs: tuple[int, ...]


class Application(msgspec.Struct, frozen=True, gc=False):
    """Something of somebody's own."""

    ssrc: int
    subtype: int
    name: bytes
    data: bytes


RtcpPacket = Report | Description | Goodbye | Application


def parse_rtcp(data: bytes) -> list[RtcpPacket]:
    """The packets of a datagram that we know; RtpError when they do not fill it exactly."""
    size = len(data)
    if not 4 <= size <= MAX_DATAGRAM or size % 4:
        raise RtpError(f"RTCP of {size} bytes")
    found: list[RtcpPacket] = []
    at = 0
    while at < size:
        first, kind, words = _HEAD.unpack_from(data, at) if at + 4 <= size else (0, 0, 0)
        end = at + 4 + 4 * words
        if first >> 6 != 2 or end > size:
            raise RtpError(f"RTCP version {first >> 6}, {words} words at {at} of {size} bytes")
        body = data[at + 4 : end]
        if first & 0x20:
            padding = data[end - 1]
            if end != size or not padding or padding > len(body) or padding % 4:
                raise RtpError("RTCP with padding where none may be")
            body = body[: len(body) - padding]
        reader = _READERS.get(kind)
        if reader is not None:
            found += reader(body, first & 0x1F, kind)
        at = end
    return found


def build_rtcp(packets: list[RtcpPacket]) -> bytes:
    """One compound datagram."""
    return b"".join(_build(packet) for packet in packets)


def _parse_report(body: bytes, count: int, kind: int) -> list[RtcpPacket]:
    head = 24 if kind == SR else 4
    if len(body) < head + 24 * count:  # what a profile adds behind is passed over (§6.4.3)
        raise RtpError(f"a report of {len(body)} bytes with {count} blocks")
    blocks = tuple(_parse_block(body, head + 24 * number) for number in range(count))
    ssrc = int.from_bytes(body[:4], "big")
    if kind == RR:
        return [Report(ssrc, blocks)]
    ntp, timestamp, packets, octets = _SENDER.unpack_from(body, 4)
    return [Report(ssrc, blocks, ntp, timestamp, packets, octets)]


def _parse_block(body: bytes, at: int) -> Block:
    ssrc, loss, highest, jitter, last, delay = _BLOCK.unpack_from(body, at)
    lost = loss & 0xFFFFFF
    lost -= (lost & 0x800000) << 1
    return Block(ssrc, loss >> 24, lost, highest, jitter, last, delay)


def _parse_sdes(body: bytes, count: int, _kind: int) -> list[RtcpPacket]:
    found: list[RtcpPacket] = []
    at = 0
    for _ in range(count):
        if at + 4 > len(body):
            raise RtpError("SDES with fewer chunks than it says")
        ssrc = int.from_bytes(body[at : at + 4], "big")
        cname, at = _parse_chunk(body, at + 4)
        if cname is not None:
            found.append(Description(ssrc, cname))
    return found


def _parse_chunk(body: bytes, at: int) -> tuple[bytes | None, int]:
    """The CNAME among a chunk's items, and where the next chunk begins (§6.5)."""
    cname = None
    while at < len(body) and body[at]:
        if at + 2 > len(body) or at + 2 + body[at + 1] > len(body):
            raise RtpError("an SDES item that is longer than its packet")
        end = at + 2 + body[at + 1]
        if body[at] == CNAME:
            cname = body[at + 2 : end]
        at = end
    if at >= len(body):
        raise RtpError("SDES items without an end")
    return cname, at // 4 * 4 + 4


def _parse_bye(body: bytes, count: int, _kind: int) -> list[RtcpPacket]:
    if len(body) < 4 * count:
        raise RtpError(f"BYE for {count} sources in {len(body)} bytes")
    ssrcs = (int.from_bytes(body[at : at + 4], "big") for at in range(0, 4 * count, 4))
    return [Goodbye(tuple(ssrcs))]


def _parse_app(body: bytes, count: int, _kind: int) -> list[RtcpPacket]:
    if len(body) < 8:
        raise RtpError(f"APP of {len(body)} bytes")
    return [Application(int.from_bytes(body[:4], "big"), count, body[4:8], body[8:])]


_READERS = {
    SR: _parse_report,
    RR: _parse_report,
    SDES: _parse_sdes,
    BYE: _parse_bye,
    APP: _parse_app,
}


def _build(packet: RtcpPacket) -> bytes:
    match packet:
        case Report():
            return _build_report(packet)
        case Description():
            items = bytes((CNAME, len(packet.cname))) + packet.cname
            chunk = packet.ssrc.to_bytes(4, "big") + items
            return _with_head(SDES, 1, chunk + bytes(4 - len(chunk) % 4))
        case Goodbye():
            ssrcs = b"".join(ssrc.to_bytes(4, "big") for ssrc in packet.ssrcs)
            return _with_head(BYE, len(packet.ssrcs), ssrcs)
        case _:
            body = packet.ssrc.to_bytes(4, "big") + packet.name + packet.data
            return _with_head(APP, packet.subtype, body)


def _build_report(report: Report) -> bytes:
    body = report.ssrc.to_bytes(4, "big")
    if report.ntp is not None:
        body += _SENDER.pack(report.ntp, report.timestamp, report.packets, report.octets)
    for block in report.blocks:
        loss = block.fraction_lost << 24 | block.lost & 0xFFFFFF
        body += _BLOCK.pack(
            block.ssrc, loss, block.highest, block.jitter, block.last_report, block.delay
        )
    return _with_head(RR if report.ntp is None else SR, len(report.blocks), body)


def _with_head(kind: int, count: int, body: bytes) -> bytes:
    return _HEAD.pack(0x80 | count, kind, len(body) // 4) + body
