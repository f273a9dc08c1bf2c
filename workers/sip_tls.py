"""TLS of a worker's SIP connections: two contexts, and whose a certificate is.

Both sides speak TLS 1.2 or later. As a server we show our certificate and, when the operator named a
`client_ca`, let nobody in without one of its certificates. As a client we check the chain against
`trusted_ca`, or what the system trusts, and then whether the certificate is for the domain that the
call was to go to (RFC 5922 §7.1): the domains of its sip URIs, or, when it has none, its DNS names.
Python's own check knows nothing of sip URIs, so it is off, and `is_for` takes its place. A hop that is
an address and nothing else must be named by an address (RFC 6125 leaves it to us).

Wildcards match nothing (RFC 5922 §7.2) unless `wildcards` allows them: some carriers have such
certificates. One stands for a whole first label, and never for an address.

Contexts are made after the fork, and live as long as the worker: new certificates need new workers.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from ipaddress import ip_address
from typing import Any

from flowcatd.errors import ConfigError

SHAKE_SECONDS = 10.0
"""What a handshake gets."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files, as the configuration has them; empty is none."""

    certificate: str = ""
    key: str = ""
    """Empty when it stands beside the certificate."""
    client_ca: str = ""
    trusted_ca: str = ""


@dataclass(frozen=True, slots=True)
class Tls:
    """What a worker needs to speak TLS."""

    server: ssl.SSLContext | None = None
    """None without a certificate of ours."""
    client: ssl.SSLContext | None = None
    wildcards: bool = False
    """Whether `*.example.com` in a certificate is `sip.example.com`."""
    trust: Callable[[], None] = lambda: None
    """To be called before `client` is used; loads what the system trusts, once. Some 150 authorities
    take 1.6 MB, which a worker without a TLS trunk need not have."""


def open_tls(files: TlsFiles, *, wildcards: bool = False) -> Tls:
    """The contexts; ConfigError names the setting whose file is not what it should be."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # `is_for` does that
    _harden(client)
    trust: Callable[[], None] = _nobody_else
    if files.trusted_ca:
        _trust(client, files.trusted_ca, "sip.trusted_ca")
    else:
        trust = cache(partial(client.load_default_certs, ssl.Purpose.SERVER_AUTH))
    if not files.certificate:
        return Tls(None, client, wildcards, trust)
    _show(client, files)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(server)
    _show(server, files)
    if files.client_ca:
        _trust(server, files.client_ca, "sip.client_ca")
        server.verify_mode = ssl.CERT_REQUIRED
    return Tls(server, client, wildcards, trust)


def _nobody_else() -> None:
    """The authorities were named."""


def is_for(certificate: Mapping[str, Any], name: str, *, wildcards: bool = False) -> bool:
    """Whether a certificate, as `getpeercert` gives it, is for this domain, or address in figures."""
    wanted = name.strip("[]").rstrip(".").lower()
    try:
        address = ip_address(wanted.partition("%")[0])
    except ValueError:
        pass
    else:
        return any(address == ip_address(each) for each in _named(certificate, "IP Address"))
    domains = [domain for uri in _named(certificate, "URI") if (domain := _domain_of(uri))]
    domains = domains or list(_named(certificate, "DNS"))
    return any(_is_same(each.lower(), wanted, wildcards=wildcards) for each in domains)


def _named(certificate: Mapping[str, Any], kind: str) -> Iterator[str]:
    for each, value in certificate.get("subjectAltName", ()):
        if each == kind and isinstance(value, str):
            # OpenSSL ends an IPv6 address with a line feed.
            yield value.strip()


def _domain_of(uri: str) -> str:
    """The domain that a sip URI names; empty for another scheme, or a user's (RFC 5922 §7.1)."""
    scheme, _, rest = uri.partition(":")
    if scheme.lower() != "sip" or "@" in rest:
        return ""
    return rest.partition(";")[0].partition("?")[0].partition(":")[0]


def _is_same(shown: str, wanted: str, *, wildcards: bool) -> bool:
    if shown.rstrip(".") == wanted:
        return bool(wanted)
    first, dot, rest = wanted.partition(".")
    # "*.com" would be everybody's.
    return wildcards and bool(first and dot) and "." in rest and shown == f"*.{rest}"


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _show(context: ssl.SSLContext, files: TlsFiles) -> None:
    try:
        # A key that is locked would make OpenSSL ask on the terminal.
        context.load_cert_chain(files.certificate, files.key or None, password=_nothing)
    except (OSError, ValueError) as error:
        raise _wrong(files.certificate, "sip.certificate", error) from None


def _trust(context: ssl.SSLContext, path: str, key: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        raise _wrong(path, key, error) from None


def _wrong(path: str, key: str, error: Exception) -> ConfigError:
    why = error.reason if isinstance(error, ssl.SSLError) else getattr(error, "strerror", "")
    return ConfigError(path, f"cannot be used: {why or 'it is not what it should be'}", key=key)


def _nothing() -> str:
    return ""
