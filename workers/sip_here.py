"""What a worker's SIP ports are called, towards whom: for Via, Contact, and connections that we open.

A port that is bound to an address is that address; one that is bound to all is, towards each peer, the
one that packets to that peer leave from, which the kernel tells by connecting a UDP socket that sends
nothing (udp(7)). What the operator says the world calls us comes before both.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from flowcatd.sip.event import Hop
from flowcatd.sip.resolve import DEFAULT_PORT, Abilities
from workers.sip_door import is_one_host

LOCALS: Final = 256
"""Peers towards which our own address is remembered; the oldest are forgotten first."""
LOCAL_SECONDS: Final = 30.0
"""And for how long: a machine may get another address."""
_NAMES: Final = ((socket.AF_INET6, "AAAA"), (socket.AF_INET, "A"))
_WILD: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 they are asked for, not bound


@dataclass(frozen=True, slots=True)
class Called:
    """What the operator says; empty is to be found out."""

    public_host: str = ""
    public_host6: str = ""
    web_port: int = 0
    """The HTTP server's."""


class Addresses:
    """Of one worker."""

    def __init__(self, called: Called) -> None:
        self._called = called
        self._bound: dict[tuple[str, int], tuple[str, int]] = {}
        """Transport and family to the address that is bound."""
        self._locals: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        """Peers towards which our address is remembered."""
        return len(self._locals)

    def bind(self, transport: str, family: int, address: tuple[str, int]) -> None:
        """A port of ours."""
        self._bound[transport, family] = address

    def reaches(self, host: str) -> bool:
        """Whether we have a port of this address's family."""
        family = family_of(host)
        return any(each == family for _, each in self._bound)

    def abilities(self, *, opens_tls: bool) -> Abilities:
        """What we can send by; `opens_tls` when connections of ours may be TLS's."""
        have = {transport for transport, _ in self._bound}
        if opens_tls and have:
            have.add("TLS")
        families = {family for _, family in self._bound}
        return Abilities(
            tuple(each for each in ("UDP", "TCP", "TLS") if each in have),
            tuple(name for family, name in _NAMES if family in families),
        )

    def source(self, host: str) -> str:
        """The address that connections to this one leave from; empty is whichever."""
        family = family_of(host)
        for (_, each), (bound, _) in self._bound.items():
            if each == family and bound not in _WILD:
                return bound
        return ""

    def here(self, hop: Hop, now: float) -> tuple[str, int]:
        """Host, with brackets for IPv6, and port."""
        called = self._called
        family = family_of(hop.host) or socket.AF_INET
        is_six = family == socket.AF_INET6
        bound, port = self._bound.get((hop.transport, family), ("", 0))
        if hop.transport in {"WS", "WSS"}:
            port = called.web_port
        host = (called.public_host6 if is_six else called.public_host) or bound
        if not host or host in _WILD:
            host = self._local(hop.host, family, now)
        if ":" in host and not host.startswith("["):
            host = f"[{host.partition('%')[0]}]"
        return host, port or DEFAULT_PORT[hop.transport]

    def _local(self, host: str, family: int, now: float) -> str:
        known, until = self._locals.get(host, ("", 0.0))
        if known and now < until:
            return known
        local = local_towards(host, family)
        self._locals[host] = (local, now + LOCAL_SECONDS)
        self._locals.move_to_end(host)
        if len(self._locals) > LOCALS:
            self._locals.popitem(last=False)
        return local


@lru_cache(4096)
def family_of(host: str) -> int | None:
    """The family of an address in figures that is one host's; None for anything else."""
    if not is_one_host(host):
        return None
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def local_towards(host: str, family: int) -> str:
    """The address that packets to this one leave from; loopback when there is no way."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, DEFAULT_PORT["UDP"]))
            return str(probe.getsockname()[0])
        except OSError:
            return "::1" if family == socket.AF_INET6 else "127.0.0.1"
