"""DTLS-SRTP: the handshake that gives a call its SRTP keys, without sockets (RFC 5763, RFC 5764).

OpenSSL does the work, between two memory BIOs; this gives it datagrams, sends its own on, and checks
who is there. A certificate says nothing by itself: it must be the one whose hash stood in the peer's
description (RFC 8122 §5). It is checked while the handshake goes on, so a stranger gets an alert and
never a key. Versions: DTLS 1.2 only, as 1.0 is dead (RFC 8996) and SRTP keys need no more.

How a leg uses it, once signalling has agreed on `session.Dtls`:
* one `Dtls` per call where RTCP is on RTP's port, else a second one for the RTCP port (RFC 5764);
* datagrams with `is_dtls` from the place where media are expected go to `receive_datagram`; `outgoing`
  goes to the peer's media address, or where its last one came from; then `events`; then arm `wake_at`;
* `Secured.keys` makes `srtp.Srtp`; until then RTP is dropped, and ours is not sent. `Failed` ends the
  call, for there is no plain RTP to fall back to. After `Secured` datagrams still go in: the peer's
  last flight may come again because ours was lost;
* another fingerprint or role in a later description is a new association, and a new `Dtls`; the same
  ones are not (RFC 8842). Whoever takes a call up goes on with its keys (`secrecy.SecrecyState`).

OpenSSL times its repetitions by its own monotonic clock, 1 s and then twice as long each time; `wake_at`
translates. What is forged before the keys are there can end a handshake, as in any TLS; it cannot
complete one. pyOpenSSL is part of the `webrtc` extra and loaded when first needed.
"""

from __future__ import annotations

import datetime as dt
import importlib
import importlib.util
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from flowcatd.errors import LocalError
from flowcatd.sip import session
from flowcatd.sip.attribute import Fingerprint
from flowcatd.sip.session import SUITES, Sdes
from flowcatd.transports.srtp import keys_from_dtls

if TYPE_CHECKING:
    from OpenSSL import SSL, crypto

MISSING: Final = "DTLS is not installed: pip install 'flowcatd[webrtc]'"
PATIENCE_SECONDS: Final = 10.0
"""For a handshake: three repetitions, and nobody listens to silence for longer."""
LINGER_SECONDS: Final = 60.0
"""How long a peer may still repeat itself after the handshake; then OpenSSL's state is given back."""
MTU_BYTES: Final = 1200
"""Of our datagrams: what every path carries, tunnels too."""
MOST_OUTGOING: Final = 64
VALID_DAYS: Final = 30

_DTLS_1_2: Final = 0xFEFD
_LABEL: Final = b"EXTRACTOR-dtls_srtp"
_RECORD_HEAD: Final = 13
_READ_BYTES: Final = 65_536
_READS: Final = 16
_SHORTEST: Final = 0.005
"""Seconds between two looks at a timer of OpenSSL's that is nearly due."""
_HASHES: Final = ("sha-512", "sha-384", "sha-256")
"""The strongest first; SHA-1 and MD5 are not believed."""
_PROFILES: Final[dict[str, str]] = {
    "SRTP_AEAD_AES_128_GCM": "AEAD_AES_128_GCM",
    "SRTP_AEAD_AES_256_GCM": "AEAD_AES_256_GCM",
    "SRTP_AES128_CM_SHA1_80": "AES_CM_128_HMAC_SHA1_80",
    "SRTP_AES128_CM_SHA1_32": "AES_CM_128_HMAC_SHA1_32",
}
"""OpenSSL's names, the most wanted first, and those of `session.SUITES` (RFC 5764 §4.1.2, RFC 7714)."""
_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!aNULL:!PSK"
"""Forward secrecy always; CBC is for old gateways."""


@dataclass(frozen=True, slots=True)
class Secured:
    """The peer is who it said, and these are the keys."""

    keys: Sdes


@dataclass(frozen=True, slots=True)
class Failed:
    """No keys, and none will come."""

    problem: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """What we show; one per worker serves all its calls."""

    fingerprint: Fingerprint
    """For `session.Local`."""
    context: SSL.Context = field(repr=False, compare=False)


@cache
def available() -> bool:
    """Whether pyOpenSSL and cryptography are there; they are not loaded by asking."""
    return all(importlib.util.find_spec(name) is not None for name in ("OpenSSL", "cryptography"))


def is_dtls(data: bytes) -> bool:
    """Whether a datagram on a media port is DTLS, by its first byte (RFC 5764 §5.1.2, RFC 7983)."""
    return bool(data) and 20 <= data[0] <= 63


def make_certificate() -> Certificate:
    """A new self-signed certificate: P-256, a random name, 30 days. LocalError where DTLS is not installed.

    Takes about a millisecond. The name says nothing about us, so calls cannot be joined by it.
    """
    if not available():  # pragma: no cover  # tests of DTLS want it
        raise LocalError(MISSING)
    x509 = importlib.import_module("cryptography.x509")
    ec = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ec")
    hashes = importlib.import_module("cryptography.hazmat.primitives.hashes")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, secrets.token_hex(16))])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks differ: it was valid yesterday.
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=VALID_DAYS))
        .sign(key, hashes.SHA256())
    )
    shown = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    return Certificate(Fingerprint("sha-256", shown), _context(certificate, key))


def _openssl() -> Any:
    return importlib.import_module("OpenSSL.SSL")


def _context(certificate: Any, key: Any) -> SSL.Context:
    ssl = _openssl()
    context: SSL.Context = ssl.Context(ssl.DTLS_METHOD)
    context.set_min_proto_version(_DTLS_1_2)
    context.set_max_proto_version(_DTLS_1_2)
    # A memory BIO has no MTU to ask for: without the first, flights go out in pieces of 256 bytes.
    context.set_options(ssl.OP_NO_QUERY_MTU | ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION)
    context.set_mode(ssl.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(ssl.SESS_CACHE_OFF)
    context.set_cipher_list(_CIPHERS)
    context.set_verify(ssl.VERIFY_PEER | ssl.VERIFY_FAIL_IF_NO_PEER_CERT, _is_expected)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    context.set_tlsext_use_srtp(":".join(_PROFILES).encode())
    return context


def _is_expected(
    connection: SSL.Connection, shown: crypto.X509, _error: int, depth: int, _ok: int
) -> bool:
    """OpenSSL's question about each certificate of the peer; only the first is the peer's own."""
    return depth > 0 or _fits(connection, shown)


def _fits(connection: SSL.Connection, shown: crypto.X509 | None) -> bool:
    """Whether a certificate is the one that stood in the description."""
    name, values = connection.get_app_data()
    return shown is not None and shown.digest(name).decode("ascii").upper() in values


def _strongest(fingerprints: Iterable[Fingerprint]) -> tuple[str, frozenset[str]]:
    """The hash to check by, in OpenSSL's writing, and its values; empty when we believe none.

    RFC 8122 §5.1: of several hash functions the one we hold for the most secure decides; of several
    values of that one, as the peer may have several certificates, one must fit.
    """
    by_name: dict[str, set[str]] = {}
    for each in fingerprints:
        by_name.setdefault(each.hash.lower(), set()).add(each.value.upper())
    name = next((name for name in _HASHES if name in by_name), "")
    return name.replace("-", ""), frozenset(by_name.get(name, ()))


class Dtls:
    """One association, from the agreement of both descriptions to its keys.

    Feed it, then drain `outgoing` and `events` and ask `wake_at`. `Secured` or `Failed` comes once.
    """

    def __init__(
        self,
        certificate: Certificate,
        keys: session.Dtls,
        now: float,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Begins at once where we are the client."""
        self.ignored = 0
        """Datagrams that were no DTLS, or came when all was over."""
        self._ssl = _openssl()
        self._is_client = keys.is_client
        self._until = now + patience
        self._due: float | None = None
        self._is_secured = False
        self._events: list[Secured | Failed] = []
        self._outgoing: list[bytes] = []
        self._connection: SSL.Connection | None = None
        wanted = _strongest(keys.fingerprints)
        if not wanted[0]:
            self._fail("the far end shows no fingerprint that we can check")
            return
        connection = self._connection = self._ssl.Connection(certificate.context)
        connection.set_app_data(wanted)
        connection.set_ciphertext_mtu(MTU_BYTES)
        if keys.is_client:
            connection.set_connect_state()
            self._go_on(connection, now)
        else:
            connection.set_accept_state()

    # --- told

    def receive_datagram(self, data: bytes, now: float) -> None:
        """A datagram came; drain `outgoing` and `events` next."""
        connection = self._connection
        if connection is None or not is_dtls(data):
            self.ignored += 1
            return
        connection.bio_write(data)
        if self._is_secured:
            self._hear_again(connection)
        else:
            self._go_on(connection, now)

    def wake(self, now: float) -> None:
        """The time is `now`; drain `outgoing` and `events` next."""
        connection = self._connection
        if connection is None:
            return
        if now >= self._until:
            if not self._is_secured:
                self._fail("the handshake did not end in time")
            self._connection = None
        elif self._due is not None and now >= self._due:
            try:
                connection.DTLSv1_handle_timeout()
            except self._ssl.Error as error:
                self._fail(_reason(error))
            else:
                self._arm(connection, now)
            self._flush(connection)

    # --- drained

    def wake_at(self) -> float | None:
        """When it wants to be woken; None when it is over."""
        if self._connection is None:
            return None
        return self._until if self._due is None else min(self._due, self._until)

    def outgoing(self) -> list[bytes]:
        """Datagrams to send."""
        taken, self._outgoing = self._outgoing, []
        return taken

    def events(self) -> list[Secured | Failed]:
        """What came of it."""
        taken, self._events = self._events, []
        return taken

    # --- what OpenSSL is asked to do

    def _go_on(self, connection: SSL.Connection, now: float) -> None:
        try:
            connection.do_handshake()
        except self._ssl.WantReadError:
            self._arm(connection, now)
        except self._ssl.Error as error:
            self._fail(_reason(error))
        else:
            self._secure(connection, now)
        # An alert, or our last flight, goes out as well.
        self._flush(connection)

    def _secure(self, connection: SSL.Connection, now: float) -> None:
        if not _fits(connection, connection.get_peer_certificate()):  # pragma: no cover
            # OpenSSL has asked before; that it always does is not left to it alone.
            self._fail("the far end's certificate is another one")
            return
        name = _PROFILES.get(connection.get_selected_srtp_profile().decode("ascii"))
        if name is None:
            self._fail("the far end knows no SRTP profile of ours")
            return
        suite = SUITES[name]
        material = connection.export_keying_material(_LABEL, 2 * suite.key_bytes)
        self._is_secured = True
        self._due = None
        self._until = now + LINGER_SECONDS
        keys = keys_from_dtls(suite, material, is_client=self._is_client)
        self._events.append(Secured(keys))

    def _hear_again(self, connection: SSL.Connection) -> None:
        """The peer repeats its last flight, or says goodbye; nothing of it changes the keys."""
        try:
            for _ in range(_READS):
                connection.recv(_READ_BYTES)
        except self._ssl.Error:
            pass  # nothing more to read, or nothing that matters
        self._flush(connection)

    def _fail(self, problem: str) -> None:
        self._connection = None
        self._events.append(Failed(problem))

    def _arm(self, connection: SSL.Connection, now: float) -> None:
        left = connection.DTLSv1_get_timeout()
        self._due = None if left is None else now + max(left, _SHORTEST)

    def _flush(self, connection: SSL.Connection) -> None:
        made = b""
        try:
            while True:
                made += connection.bio_read(_READ_BYTES)
        except self._ssl.WantReadError:
            self._outgoing += _datagrams(made)
        del self._outgoing[:-MOST_OUTGOING]


def _datagrams(flight: bytes) -> list[bytes]:
    """A flight in datagrams of whole records: a memory BIO has forgotten where they ended."""
    made: list[bytes] = []
    begin = at = 0
    while at < len(flight):
        end = at + _RECORD_HEAD + int.from_bytes(flight[at + 11 : at + _RECORD_HEAD], "big")
        if end - begin > MTU_BYTES and at > begin:
            made.append(flight[begin:at])
            begin = at
        at = end
    if flight:
        made.append(flight[begin:])
    return made


def _reason(error: Exception) -> str:
    """OpenSSL's words for what went wrong; they are fixed ones, nothing of the peer's is in them."""
    stack = error.args[0] if error.args else None
    if isinstance(stack, list) and stack:
        return f"DTLS: {stack[0][-1]}"
    return "DTLS: the handshake failed"
