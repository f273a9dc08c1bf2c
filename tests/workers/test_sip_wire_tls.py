"""SIP over TLS: both ways, with certificates that a throw-away authority made for this run."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowcatd.errors import ConfigError
from flowcatd.options import Sip
from flowcatd.sip.event import Hop
from tests.workers.on_loop import open_descriptors, until
from tests.workers.sip_wires import Fleet, request, with_fleet
from workers.sip_links import LinkTerms
from workers.sip_side import tls_of
from workers.sip_tls import Tls, TlsFiles, is_for, open_tls

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there")


@dataclass(frozen=True, slots=True)
class Papers:
    """An authority and those it vouches for; each is a certificate with its key behind it."""

    ca: str
    us: str
    """127.0.0.1, and sip:us.example."""
    peer: str
    """sip.peer.example by DNS."""
    stranger: str
    """Nobody vouches for it."""
    server_only: str
    """As public authorities make them: its extended key usage lacks clientAuth."""


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """Made anew for every run."""
    place = tmp_path_factory.mktemp("ca")

    def make(name: str, names: str, *more: str) -> str:
        path = place / f"{name}.pem"
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        words += ["-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{path}.key"]
        words += ["-out", str(path), "-addext", f"subjectAltName={names}", *more]
        subprocess.run(words, check=True, capture_output=True, timeout=20)
        with path.open("a") as file:
            file.write(Path(f"{path}.key").read_text())
        return str(path)

    ca = make("authority", "DNS:ca.example")
    by = ("-CA", ca, "-CAkey", f"{ca}.key", "-addext", "basicConstraints=critical,CA:FALSE")
    return Papers(
        ca,
        make("us", "IP:127.0.0.1,URI:sip:us.example", *by),
        make("peer", "DNS:sip.peer.example,DNS:*.wild.example", *by),
        make("stranger", "IP:127.0.0.1"),
        make("server", "DNS:sip.peer.example", *by, "-addext", "extendedKeyUsage=serverAuth"),
    )


class Peer:
    """A TLS client or server of the standard library's, asyncio streams around it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int, papers: Papers, certificate: str = "") -> Peer:
        """Connected to us."""
        context = ssl.create_default_context(cafile=papers.ca)
        if certificate:
            context.load_cert_chain(certificate)
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context))

    async def close(self) -> None:
        """Go at once."""
        self.writer.transport.abort()
        await asyncio.sleep(0)


def trusting(papers: Papers, **files) -> Tls:
    """Our contexts."""
    wildcards = files.pop("wildcards", False)
    return open_tls(
        TlsFiles(**{"certificate": papers.us, "trusted_ca": papers.ca} | files), wildcards=wildcards
    )


# --- as a server ----------------------------------------------------------------------------------


@with_fleet
async def test_a_message_over_tls_comes_and_its_answer_goes_back(fleet: Fleet, papers) -> None:
    """Byte by byte as well; TLS 1.2 at least."""
    one = fleet.wire(tls=trusting(papers))
    one.answer = b"SIP/2.0 200 OK\r\n\r\n"
    peer = await Peer.to(one.ports["tls"], papers)
    assert peer.writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
    data = request(to=one.stamp)
    for number in range(len(data)):
        peer.writer.write(data[number : number + 1])
        await asyncio.sleep(0)
    assert await peer.reader.readuntil(b"\r\n\r\n") == one.answer
    source = peer.writer.get_extra_info("sockname")
    assert one.got == [(data, Hop("TLS", *source, 1))]
    assert one.wire.able.transports == ("UDP", "TCP", "TLS")
    assert one.wire.here(one.got[0][1]) == ("127.0.0.1", one.ports["tls"])
    await peer.close()
    await until(lambda: one.failed == [one.got[0][1]])


@pytest.mark.parametrize(("shown", "is_let_in"), [("", False), ("stranger", False), ("peer", True)])
def test_who_must_show_a_certificate_and_has_none_of_ours_is_turned_away(
    papers, shown, is_let_in
) -> None:
    """Before anything it says is read."""

    @with_fleet
    async def run(fleet: Fleet) -> None:
        one = fleet.wire(tls=trusting(papers, client_ca=papers.ca))
        one.answer = b"SIP/2.0 200 OK\r\n\r\n"
        heard = b""
        try:
            peer = await Peer.to(one.ports["tls"], papers, shown and getattr(papers, shown))
            peer.writer.write(request(to=one.stamp))
            heard = await asyncio.wait_for(peer.reader.read(100), 5)
            await peer.close()
        except OSError:
            pass
        assert (heard, len(one.got)) == ((one.answer, 1) if is_let_in else (b"", 0))
        await until(lambda: len(one.wire.links) == 0)
        assert one.wire.links.counts["shake_failed"] == (0 if is_let_in else 1)

    run()


@with_fleet
async def test_handshakes_that_are_none_leave_nothing_behind(fleet: Fleet, papers) -> None:
    """Garbage, silence, an end in the middle, an old TLS; others are served meanwhile."""
    one = fleet.wire(tls=trusting(papers), terms=LinkTerms(sweep_seconds=0.01, silent_seconds=0.5))
    peer = await Peer.to(one.ports["tls"], papers)
    peer.writer.write(request(to=one.stamp))
    await until(lambda: one.got)
    before = open_descriptors()
    with ExitStack() as stack:
        for number in range(20):
            wire = stack.enter_context(socket.create_connection(("127.0.0.1", one.ports["tls"])))
            wire.send(
                (b"", b"INVITE sip:x SIP/2.0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01")[number % 3]
            )
            if number % 4 == 0:
                wire.close()
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection("127.0.0.1", one.ports["tls"], ssl=old)
        await until(lambda: len(one.wire.links) == 1)
    await until(lambda: open_descriptors() == before)
    assert one.failed == []
    peer.writer.write(request(to=one.stamp))
    await until(lambda: len(one.got) == 2)
    await peer.close()


@with_fleet
async def test_a_fellow_answers_over_tls_that_another_worker_speaks(fleet: Fleet, papers) -> None:
    """Only one of them has the keys of that connection."""
    one, two = fleet.wire(tls=trusting(papers)), fleet.wire()
    two.answer = b"SIP/2.0 200 OK\r\n\r\n"
    peer = await Peer.to(one.ports["tls"], papers)
    peer.writer.write(request(to=two.stamp))
    assert await peer.reader.readuntil(b"\r\n\r\n") == two.answer
    assert two.got[0][1].connection == 1
    await peer.close()


# --- as a client ----------------------------------------------------------------------------------


class Server:
    """A SIP peer over TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.heard = b""
        self.certificates: list[object] = []
        self.names: list[str | None] = []
        context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self.server: asyncio.Server

    async def open(self) -> Hop:
        """Listen; the hop that leads there."""
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        return Hop("TLS", *self.server.sockets[0].getsockname())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.certificates.append(writer.get_extra_info("peercert"))
        try:
            while data := await reader.read(1000):
                self.heard += data
        except OSError:
            pass
        writer.close()


@pytest.mark.parametrize(
    ("shown", "name", "wildcards", "may"),
    [
        ("us", "", False, True),
        ("us", "us.example", False, True),
        ("us", "other.example", False, False),
        ("peer", "", False, False),
        ("peer", "sip.peer.example", False, True),
        ("peer", "SIP.Peer.Example", False, True),
        ("peer", "a.wild.example", False, False),
        ("peer", "a.wild.example", True, True),
        ("peer", "a.b.wild.example", True, False),
        ("stranger", "", False, False),
    ],
)
def test_nothing_is_said_to_who_cannot_show_the_wanted_name(
    papers, shown, name, wildcards, may
) -> None:
    """RFC 5922 §7: neither to whom nobody vouches for, nor to somebody else."""

    @with_fleet
    async def run(fleet: Fleet) -> None:
        one = fleet.wire(tls=trusting(papers, wildcards=wildcards))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(getattr(papers, shown))
        server = Server(context)
        hop = await server.open()
        wanted = Hop(hop.transport, hop.host, hop.port, 0, name)
        one.wire.send(b"secret", wanted)
        await until(lambda: server.heard or one.failed)
        assert (server.heard, one.failed) == ((b"secret", []) if may else (b"", [hop]))
        assert server.names[:1] == ([name] if name else [None])
        one.wire.close()
        server.server.close()
        await until(lambda: len(one.wire.links) == 0)

    run()


def test_wildcards_are_the_operators_to_allow(tmp_path) -> None:
    """RFC 5922 §7.2 does not."""
    assert [tls_of(Sip(wildcards=each), tmp_path).wildcards for each in (False, True)] == [
        False,
        True,
    ]


@pytest.mark.parametrize(("shown", "is_let_in"), [("server_only", False), ("peer", True)])
def test_a_certificate_for_servers_only_proves_no_caller(papers, shown, is_let_in) -> None:
    """RFC 5922 §7.1: extendedKeyUsage is obeyed; what the manual says of client_ca is so."""
    server = trusting(papers, client_ca=papers.ca).server
    client = ssl.create_default_context(cafile=papers.ca)
    client.load_cert_chain(getattr(papers, shown))
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        server.wrap_bio(into, out, server_side=True),
        client.wrap_bio(out, into, server_hostname="127.0.0.1"),
    )
    problem = ""
    for end in ends * 4:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            problem = error.verify_message
            break
    assert ("purpose" in problem, problem == "") == (not is_let_in, is_let_in)


@with_fleet
async def test_we_show_our_certificate_to_who_asks_for_it(fleet: Fleet, papers) -> None:
    """Mutual TLS with a trunk; another name is another connection to the same address."""
    one = fleet.wire(tls=trusting(papers))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=papers.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(papers.us)
    server = Server(context)
    hop = await server.open()
    for name in ("", "us.example", "US.example"):
        one.wire.send(b"hello", Hop("TLS", hop.host, hop.port, 0, name))
    await until(lambda: server.heard == b"hello" * 3)
    assert len(server.certificates) == 2
    assert all(("commonName", "us") in each["subject"][0] for each in server.certificates)
    one.wire.close()
    server.server.close()
    await until(lambda: len(one.wire.links) == 0)


@with_fleet
async def test_a_peer_that_speaks_no_tls_is_given_up_in_time(fleet: Fleet, papers) -> None:
    """Silence, an end, garbage: all are told."""
    terms = LinkTerms(sweep_seconds=0.01, open_seconds=0.3)
    one = fleet.wire(tls=trusting(papers), terms=terms)
    loop = asyncio.get_running_loop()
    before = open_descriptors() + 1  # libuv keeps a spare one, from the first connection on
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        hop = Hop("TLS", *listener.getsockname())
        for number, said in enumerate((b"", b"no TLS at all, not in any way that matters")):
            one.wire.send(b"x", hop)
            accepted, _ = await asyncio.wait_for(loop.sock_accept(listener), 5)
            accepted.send(said)
            await until(lambda number=number: one.failed == [hop] * (number + 1))
            accepted.close()
    assert len(one.wire.links) == 0
    await until(lambda: open_descriptors() <= before)


# --- contexts and names ---------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["certificate", "trusted_ca", "client_ca"])
def test_a_file_that_is_none_is_told_by_its_setting(papers, tmp_path: Path, key: str) -> None:
    """Missing, or not what it should be."""
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    for path in (tmp_path / "missing.pem", rubbish):
        with pytest.raises(ConfigError, match=f"sip.{key}"):
            trusting(papers, **{key: str(path)})


def test_without_a_certificate_we_are_a_client_only() -> None:
    """Of whoever the system trusts."""
    tls = open_tls(TlsFiles())
    assert tls.server is None
    assert tls.client is not None
    assert tls.client.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("names", "wanted", "wildcards", "is_it"),
    [
        ([("DNS", "Example.com")], "example.com.", False, True),
        ([("DNS", "sip.example.com")], "example.com", False, False),
        ([("URI", "sip:example.com"), ("DNS", "other.com")], "example.com", False, True),
        ([("URI", "sip:example.com"), ("DNS", "other.com")], "other.com", False, False),
        ([("URI", "SIP:example.com:5061;transport=tls")], "example.com", False, True),
        ([("URI", "sips:example.com"), ("DNS", "other.com")], "other.com", False, True),
        ([("URI", "sip:alice@example.com"), ("DNS", "other.com")], "example.com", False, False),
        ([("URI", "sip:alice@example.com"), ("DNS", "other.com")], "other.com", False, True),
        ([("DNS", "*.example.com")], "a.example.com", True, True),
        ([("DNS", "*.example.com")], "example.com", True, False),
        ([("DNS", "a*.example.com")], "ab.example.com", True, False),
        ([("DNS", "*.com")], "example.com", True, False),
        ([("DNS", "*.0.2.1")], "192.0.2.1", True, False),
        ([("IP Address", "192.0.2.1")], "192.0.2.1", False, True),
        ([("IP Address", "2001:DB8:0:0:0:0:0:1\n")], "2001:db8::1", False, True),
        ([("DNS", "192.0.2.1")], "192.0.2.1", False, False),
        ([("DNS", "")], "", False, False),
        ([], "example.com", True, False),
    ],
)
def test_whose_a_certificate_is(names, wanted, wildcards, is_it) -> None:
    """Domains of sip URIs, else DNS names, else nobody's; the common name is not looked at."""
    certificate = {"subject": ((("commonName", wanted),),), "subjectAltName": tuple(names)}
    assert is_for(certificate, wanted, wildcards=wildcards) is is_it
