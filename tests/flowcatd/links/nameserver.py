"""A real DNS server on loopback for tests: tells what is asked of it, and can be told to misbehave."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Zone = dict[tuple[str, str], list[str]]
"""Name and kind of record to what a zone file would say."""

Trick = Callable[["Nameserver", dns.message.Message, bytes], "Iterable[bytes] | None"]


class Nameserver:
    """A DNS server over UDP and TCP of one port; `trick` may answer in its place."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.ttl = 60
        self.trick: Trick | None = None
        self.asked: Counter[tuple[str, str, str]] = Counter()
        self.ports: set[int] = set()
        self.under_way = 0
        self.most_at_once = 0

    async def open(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        loop = asyncio.get_running_loop()
        self._tcp = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._tcp.sockets[0].getsockname()[1]
        server = self

        class Protocol(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                server.wire = transport

            def datagram_received(self, data, addr):
                server.ports.add(addr[1])
                for answer in server.answers(data, "udp"):
                    server.wire.sendto(answer, addr)

        await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", self.port))

    async def close(self) -> None:
        """Be silent."""
        self.wire.close()
        self._tcp.close()
        await self._tcp.wait_closed()

    def answers(self, data: bytes, over: str) -> Iterable[bytes]:
        """What goes back."""
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked[over, kind, name] += 1
        wire = self.respond(query).to_wire()
        if self.trick is not None and over == "udp":
            tricked = self.trick(self, query, wire)
            if tricked is not None:
                return list(tricked)
        return [wire]

    def respond(self, query: dns.message.Message) -> dns.message.Message:
        """The true answer."""
        response = dns.message.make_response(query)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        alias = self.zone.get((name, "CNAME"))
        if alias:
            response.answer.append(
                dns.rrset.from_text(question.name, self.ttl, "IN", "CNAME", *alias)
            )
            name = alias[0].rstrip(".")
        records = self.zone.get((name, kind))
        if records:
            response.answer.append(dns.rrset.from_text(f"{name}.", self.ttl, "IN", kind, *records))
        elif not any(each == name for each, _ in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response

    async def _serve(self, reader, writer):
        size = struct.unpack("!H", await reader.readexactly(2))[0]
        for answer in self.answers(await reader.readexactly(size), "tcp"):
            writer.write(struct.pack("!H", len(answer)) + answer)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def nameserver(zone: Zone) -> AsyncIterator[Nameserver]:
    """One that runs."""
    server = Nameserver(zone)
    await server.open()
    try:
        yield server
    finally:
        await server.close()
