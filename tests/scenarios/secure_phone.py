"""The telephone of sip_phone.py, with everything that a better one has: TLS, WebSocket, IPv6, SRTP, wideband.

It keeps what it hears with the rate it had, so that a tone can be measured (`flaws`); its descriptions can
be bent before they go out (`Bent.edit`), for what only other people's telephones say; and it can lose its
connections. Certificates are made when they are wanted, for 127.0.0.1 and nobody else.

RFC 7118 for SIP over WebSocket, RFC 4568 and RFC 5763 for the keys of SRTP.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flowcatd.rtp.source import Addr
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import (
    AgentEvent,
    CallTerms,
    Here,
    Invitation,
    Invited,
    Media,
    Mint,
    Terms,
)
from flowcatd.sip.attribute import Fingerprint
from flowcatd.sip.event import Hop
from flowcatd.sip.header import parse_address
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.sdp import Description, parse
from flowcatd.sip.session import CODECS, Capabilities, Codec, Local, Secrecy, Session
from flowcatd.sip.session import Dtls as DtlsKeys
from flowcatd.sip.uri import Uri, parse_uri
from flowcatd.transports.dtls import Certificate, Dtls, make_certificate
from flowcatd.transports.secrecy import Secrecy as Guarding
from tests.scenarios.sip_phone import Manner, SipPhone, Talk, tone
from workers.ports import PortPair

LEVEL = 8000
"""The peak of what it says."""


# --- what is heard --------------------------------------------------------------------------------


def flaws(wave: np.ndarray, rate_hz: int, hz: float, *, noise_db: float = 20.0) -> str:
    """What keeps these samples from being a tone of `hz` and LEVEL; empty when nothing does.

    A sine is fitted; what is left over must be `noise_db` below it, and no sample may stand out of it.
    """
    at = np.arange(len(wave)) / rate_hz
    basis = np.stack([np.sin(2 * np.pi * hz * at), np.cos(2 * np.pi * hz * at)], axis=1)
    weights = np.linalg.lstsq(basis, wave, rcond=None)[0]
    rest = wave - basis @ weights
    peak = float(np.hypot(*weights))
    if abs(peak - LEVEL) > LEVEL / 8:
        return f"its level is {peak:.0f}"
    below = 20 * np.log10(peak / np.sqrt(2) / (np.std(rest) + 1e-9))
    if below < noise_db:
        return f"noise is only {below:.1f} dB below it"
    click = float(np.abs(rest).max()) / (float(np.std(rest)) + 1e-9)
    return f"a click of {click:.1f} times the noise" if click > 12 else ""


@dataclass
class Tape(Talk):
    """A call that keeps its sound with the rate that it had."""

    sounds: list[tuple[int, bytes]] = field(default_factory=list)

    def hear(self, pcm: bytes) -> None:
        """20 ms of the far end."""
        super().hear(pcm)
        assert self.stream is not None
        self.sounds.append((self.stream.rates[0], pcm))

    def flaws(self, hz: float, since: int = 0, *, noise_db: float = 20.0, frames: int = 20) -> str:
        """What is wrong with the latest sound after `since` as a tone of `hz`."""
        latest = self.sounds[since:][-frames:]
        rates = {rate_hz for rate_hz, _ in latest}
        if len(latest) < frames or len(rates) != 1:
            return "too little was heard"
        wave = np.frombuffer(b"".join(pcm for _, pcm in latest), np.int16).astype(float)
        return flaws(wave, rates.pop(), hz, noise_db=noise_db)


# --- what is said about media ---------------------------------------------------------------------


class Bent(Negotiation):
    """Descriptions that can be changed before they go out."""

    edit: Callable[[str], str] | None = None

    def _say(self, description: Description) -> Description:
        if self.edit is not None:
            description = parse(self.edit(str(description)))
        return super()._say(description)

    def want(self, *codecs: Codec) -> None:
        """From the next offer on these, and no others."""
        self._capabilities = replace(self._capabilities, codecs=codecs)


def able(
    *names: str, secrecy: Secrecy = Secrecy.OFF, ptime_ms: int = 20, mux: bool = True
) -> Capabilities:
    """Media as a telephone has them that knows these codecs, in this order."""
    codecs = tuple(CODECS[name] for name in names or ("pcmu",))
    return Capabilities(
        codecs=codecs, secrecy=secrecy, ptime_ms=ptime_ms, has_rtcp_mux=mux, has_comfort_noise=False
    )


@dataclass(frozen=True)
class Extras:
    """What a better telephone has besides."""

    certificate: Certificate | None = None
    """For DTLS-SRTP."""
    shown: Fingerprint | None = None
    """Said to be its certificate's, whether it is or not."""
    web: str = ""
    """The WebSocket that it reaches others by."""
    packet_ms: int = 0
    """What it puts into a packet, whatever it is asked for; 0 does as asked."""
    edit: Callable[[str], str] | None = None
    """Bends the descriptions of new calls."""
    is_early: bool = False
    """Whether calls to it get a 183 with a description."""


class SecurePhone(SipPhone):
    """A telephone that knows more than one needs."""

    def __init__(self, manner: Manner | None = None, extras: Extras | None = None) -> None:
        """`start` opens its WebSocket, if it has one."""
        super().__init__(manner)
        self.extras = extras or Extras()
        host = self.manner.host
        self._shown_host = f"[{host}]" if ":" in host else host
        self._web: aiohttp.ClientWebSocketResponse | None = None
        self._session: aiohttp.ClientSession | None = None
        self.negotiations: dict[int, Bent] = {}
        self._latest: Bent
        self.ponged = 0
        if self.transport == "WS":  # RFC 7118 §5: a browser knows no address of its own
            self._shown_host = f"{secrets.token_hex(6)}.invalid"
        contact = Uri("sip", host=self._shown_host, user="phone", port=self.port)
        if self.transport == "WS":
            contact = replace(contact, port=None)
        if self.transport != "UDP":
            contact = replace(contact, parameters={"transport": self.transport.lower()})
        here = Here(self._shown_host, contact.port, contact)
        self.agent = UserAgent(
            Mint(
                lambda: secrets.token_hex(8),
                lambda _hop: here,
                secrets.SystemRandom().random,
                lambda _uri, hop: hop,
            ),
            Terms(session_seconds=0),
        )

    # --- verbs

    def dial(
        self,
        uri: str,
        *,
        says: Callable[[int], bytes | None] | None = None,
        terms: CallTerms | None = None,
        **fields: str,
    ) -> Tape:
        """Call somebody."""
        target = parse_uri(uri)
        hop = Hop(self.transport, target.host.strip("[]"), target.port or 5060)
        names = tuple((name.replace("_", "-"), value) for name, value in fields.items())
        caller = parse_address(f"<sip:phone@{self._shown_host}>")
        asked = Invitation(target, caller, (hop,), fields=names, terms=terms)
        number = self.agent.originate(asked, self._negotiation(), time.monotonic())
        tape = Tape(number, says or tone(440.0, LEVEL))
        self._keep(tape)
        self.pump()
        return tape

    async def ring_up(self, uri: str, says: Callable[[int], bytes | None] | None = None) -> Tape:
        """Call somebody, and wait until it is answered or over."""
        talk = await self.call(uri, says=says)
        assert isinstance(talk, Tape)
        return talk

    def bend(self, talk: Talk, edit: Callable[[str], str] | None) -> None:
        """Offer again, with a description that was changed by `edit`."""
        self.negotiations[talk.number].edit = edit
        self.refresh(talk)

    def change(self, talk: Talk, *names: str) -> None:
        """Offer these codecs and no others."""
        self.negotiations[talk.number].want(*(CODECS[name] for name in names))
        self.refresh(talk)

    def cut(self) -> None:
        """Lose every connection, without a word."""
        for pipe in list(self.pipes.values()):
            assert pipe.transport is not None
            pipe.transport.abort()
        self.pipes.clear()

    async def reconnect(self) -> None:
        """Lose the WebSocket without a word, and have another one."""
        assert self._session is not None
        self._drop_web()
        self._web = await self._session.ws_connect(self.extras.web, protocols=("sip",))
        self._tasks.append(asyncio.get_running_loop().create_task(self._read_web(self._web)))

    def _drop_web(self) -> None:
        if self._web is not None:
            self._web._response.close()  # aiohttp has no other way to be rude

    async def start(self) -> None:
        """Be reachable."""
        await super().start()
        if self.transport == "WS":
            self._session = aiohttp.ClientSession()
            await self.reconnect()

    async def stop(self) -> None:
        """Leave."""
        self._drop_web()
        self.close()
        if self._session is not None:
            await self._session.close()

    async def ping(self) -> None:
        """A keep-alive of RFC 5626, over the WebSocket."""
        assert self._web is not None
        await self._web.send_str("\r\n\r\n")

    def rtp(self, talk: Talk) -> PortPair:
        """The ports of a call."""
        return self._pairs[talk.number]

    # --- behind

    def _keep(self, tape: Tape) -> None:
        number = tape.number
        self.talks[number] = tape
        self._pairs[number] = self._last
        self.negotiations[number] = self._latest

    def _negotiation(self) -> Negotiation:
        plain = super()._negotiation()
        local: Local = plain.local
        if self.extras.certificate is not None:
            local = replace(
                local, fingerprint=self.extras.shown or self.extras.certificate.fingerprint
            )
        made = Bent(self.manner.capabilities, local, str(secrets.randbits(40)), secrets.token_bytes)
        made.edit = self.extras.edit
        self._latest = made
        return made

    def _read(self) -> None:
        while True:
            try:
                data, address = self.wire.recvfrom(65_535)
            except BlockingIOError:
                break
            self.take(data, Hop("UDP", address[0], address[1]))

    def _send(self, data: bytes, hop: Hop) -> None:
        if self.transport != "WS":
            super()._send(data, hop)
            return
        self.sent.append(data)
        assert self._web is not None
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._web.send_str(data.decode())))

    async def _read_web(self, web: aiohttp.ClientWebSocketResponse) -> None:
        hop = Hop("WS", "127.0.0.1", 1)
        async for message in web:
            data = message.data.encode() if isinstance(message.data, str) else message.data
            if data == b"\r\n":
                self.ponged += 1
            else:
                self.take(data, hop)

    def _invited(self, event: Invited) -> None:
        now = time.monotonic()
        tape = Tape(event.call, tone(880.0, LEVEL), event)
        negotiation = self._negotiation()
        self._keep(tape)
        if self.extras.is_early:
            self.agent.ring(event.call, now, 183, negotiation)
        else:
            self.agent.answer(event.call, negotiation, now)

    def pick_up(self, talk: Talk) -> None:
        """Answer a call that got a 183."""
        self.agent.answer(talk.number, self.negotiations[talk.number], time.monotonic())
        self.pump()

    def _take(self, event: AgentEvent) -> None:
        if isinstance(event, Media) and event.is_early:
            self._media(self.talks[event.call], event.session)
        super()._take(event)

    def _media(self, talk: Talk, session: Session) -> None:
        if self.extras.packet_ms:
            session = replace(session, ptime_ms=self.extras.packet_ms)
        if talk.session is None and self.extras.certificate is not None:
            talk.guarding = Guarding(self._shake)
        super()._media(talk, session)
        guarding = talk.guarding
        assert talk.stream is not None
        assert talk.wire is not None
        if not guarding.is_open:
            talk.stream.direct(time.monotonic(), sending=False, receiving=False)
        talk.wire.share(_Handshake(talk) if guarding.is_shaking else None)

    def _shake(self, agreed: DtlsKeys, now: float) -> Dtls:
        assert self.extras.certificate is not None
        return Dtls(self.extras.certificate, agreed, now)


class _Handshake:
    """What RtpWire shares its port with, until there are keys."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    def receive(self, data: bytes, addr: Addr, now: float) -> bool:
        """Whether it was the handshake's."""
        return self._talk.guarding.receive(data, addr, now)

    def tick(self, now: float) -> list[tuple[bytes, Addr | None]]:
        """20 ms."""
        talk = self._talk
        was_open = talk.guarding.is_open
        sent = talk.guarding.tick(now)
        if talk.guarding.is_open and not was_open:
            assert talk.stream is not None
            assert talk.session is not None
            direction = talk.session.direction
            talk.stream.shield(talk.guarding.guard)
            talk.stream.direct(now, sending=direction.sends, receiving=direction.receives)
        return sent


@asynccontextmanager
async def secure_phone(
    manner: Manner | None = None, extras: Extras | None = None
) -> AsyncIterator[SecurePhone]:
    """A telephone, put down however the test ends."""
    phone = await _started(manner, extras)
    try:
        yield phone
    finally:
        await phone.stop()


async def _started(manner: Manner | None, extras: Extras | None) -> SecurePhone:
    """A telephone on a port that nobody has for TCP, either."""
    for _ in range(10):
        phone = SecurePhone(manner, extras)
        try:
            await phone.start()
        except OSError:
            await phone.stop()
        else:
            return phone
    raise AssertionError("no port is free for a telephone")


def dtls(*, shown: Fingerprint | None = None) -> Extras:
    """A certificate of its own."""
    return Extras(certificate=make_certificate(), shown=shown)


# --- certificates ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Papers:
    """PEM files: an authority, and a certificate of its for 127.0.0.1 with its key."""

    authority: Path
    certificate: Path
    key: Path

    def believer(self, shown: Papers | None = None) -> ssl.SSLContext:
        """Who believes this authority, and shows the certificate of `shown`."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if shown is not None:
            context.load_cert_chain(shown.certificate, shown.key)
        return context


def papers(directory: Path, name: str) -> Papers:
    """A new authority, and what it signed."""
    now = dt.datetime.now(dt.UTC)
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority")])
    own_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())

    def build(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(root_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )

    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    root = (
        build(root_name, root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    own = (
        build(own_name, key.public_key())
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(root_key, hashes.SHA256())
    )
    made = Papers(*(directory / f"{name}-{part}.pem" for part in ("ca", "cert", "key")))
    pem = serialization.Encoding.PEM
    made.authority.write_bytes(root.public_bytes(pem))
    made.certificate.write_bytes(own.public_bytes(pem))
    made.key.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made
