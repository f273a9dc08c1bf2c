"""Whom to call over SIP: an address as a person writes it. Pure.

`sip:` alone is the daemon of this machine, `sip:user@host[:port][;transport=tcp]` anybody (RFC 3261
§19.1). UDP and TCP are spoken, TLS and WebSockets are not: an operator's telephone for trying things out
needs neither. Codecs of one rate are offered together, since what is said is made before the call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from flowcatd.audio import g722, opus
from flowcatd.errors import ConfigError, nearest
from flowcatd.sip.session import CODECS, Codec
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri, parse_uri

SCHEMES: Final = ("sip:", "sips:")
DEFAULT: Final = "sip:flowcatd@127.0.0.1:5060"
"""Where `make run` answers."""
DEFAULT_USER: Final = "flowcatd"
PORT: Final = 5060
TRANSPORTS: Final = ("udp", "tcp")

OFFERS: Final[dict[str, tuple[str, ...]]] = {
    "": ("pcmu", "pcma"),
    "pcmu": ("pcmu",),
    "pcma": ("pcma",),
    "g722": ("g722",),
    "opus": ("opus",),
}
"""By `--codec`: what is offered."""

_RATES_HZ: Final = {"g722": 16_000, "opus": 16_000}
_MISSING: Final = {
    "g722": (g722.available, g722.MISSING),
    "opus": (opus.available, opus.MISSING),
}
_ADDRESS: Final = "address"


@dataclass(frozen=True, slots=True)
class SipAddress:
    """Whom to call, and with what."""

    target: Uri
    transport: str
    """UDP or TCP."""
    host: str
    """A name or an address, without brackets."""
    port: int
    codecs: tuple[Codec, ...]
    rate_hz: int
    """Of what is said and heard."""

    @property
    def shown(self) -> str:
        """As a person reads it."""
        return str(self.target)


def is_sip(address: str) -> bool:
    """Whether this address is meant for SIP."""
    return address.lower().startswith(SCHEMES)


def resolve(address: str, codec: str = "") -> SipAddress:
    """The address to call with this codec, or with G.711; ConfigError says what is wrong with it."""
    text = DEFAULT if address.lower() == "sip:" else address
    try:
        target = parse_uri(text)
    except SipError as error:
        raise ConfigError(_ADDRESS, f"{error.problem}: it looks like {DEFAULT}") from error
    transport = (target.parameters.get("transport") or "udp").lower()
    if target.scheme == "sips" or transport not in TRANSPORTS:
        raise ConfigError(
            _ADDRESS, "this telephone speaks UDP and TCP: sip:user@host, or with ;transport=tcp"
        )
    if not target.user:
        target = replace(target, user=DEFAULT_USER)
    if codec not in OFFERS:
        known = ", ".join(name for name in OFFERS if name)
        raise ConfigError("--codec", f"must be one of {known}{nearest(codec, list(OFFERS))}")
    available, missing = _MISSING.get(codec, (_always, ""))
    if not available():
        raise ConfigError("--codec", missing)
    return SipAddress(
        target,
        transport.upper(),
        target.host.strip("[]"),
        target.port or PORT,
        tuple(CODECS[name] for name in OFFERS[codec]),
        _RATES_HZ.get(codec, 8_000),
    )


def _always() -> bool:
    return True
