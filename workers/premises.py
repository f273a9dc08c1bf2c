"""Where a worker's calls over SIP live: its addresses, ports, stamps, and those who are told.

Everything that `telephony.py` and its neighbours need of the worker around them, and that is the same
for all calls. A token of ours begins with the process's stamp, so that whatever comes back with it
finds this process (`workers/steer.py`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from flowcatd.call import Call
from flowcatd.errors import LocalError
from flowcatd.options import Options
from flowcatd.rtp.watchdog import Patience
from flowcatd.sip import session
from flowcatd.sip.agent_event import Here
from flowcatd.sip.dialog import nearest
from flowcatd.sip.event import Hop
from flowcatd.sip.resolve import DEFAULT_PORT
from flowcatd.sip.session import Local, Secrecy
from flowcatd.sip.uri import Uri
from flowcatd.transports.dtls import Certificate, Dtls, make_certificate
from flowcatd.transports.pacer import Pacer
from flowcatd.transports.sip_leg import Ends
from workers.agents import Agent
from workers.calls import CallTable
from workers.clock import WorkerClock
from workers.held import MediaPorts
from workers.leftovers import Remain
from workers.load import Load
from workers.ports import Ports

if TYPE_CHECKING:
    from workers.sip_wire import SipWire

GONE_MAX: Final = 4096
"""Connections that are known to be lost; their calls end, or go on elsewhere, before there are as many."""
FIRST_MEDIA_SECONDS: Final = 30.0
"""From the answer to the first packet: some far ends need ours first."""


_PARAMETERS: Final[dict[str, dict[str, str | None]]] = {
    "UDP": {},
    "TCP": {"transport": "tcp"},
    "TLS": {"transport": "tls"},
    "WS": {"transport": "ws"},
    "WSS": {"transport": "ws"},
}
"""Of our Contact; RFC 7118 §5.2 knows no wss."""


def _untold(_cause: str) -> None:
    """Nobody is there yet."""


@dataclass(slots=True)
class Premises:
    """One worker's."""

    options: Options
    slot: int
    seat: int
    stamp: str
    loads: Iterable[Load]
    clock: WorkerClock
    table: CallTable
    agents: Mapping[str, Agent]
    ports: Mapping[bool, Ports]
    """By whether the call is over IPv6."""
    ended: Callable[[Call, Remain], None]
    """Told of every call that is over, with what was its ports."""
    answered_after: Callable[[float], None]
    """Told how many seconds an INVITE took to be answered."""
    has_dtls: bool = False
    """Whether media may be agreed on whose keys come from a handshake."""
    refused: Callable[[str], None] = _untold
    """Told of every INVITE that became no call, by a word of metrics.REFUSALS."""
    wire: SipWire = field(init=False)
    pacer: Pacer = field(init=False)
    _made: Certificate | None = field(default=None, init=False)
    _gone: dict[Hop, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """The pacer hangs on the worker's one timer."""
        self.pacer = Pacer(self.clock)

    def token(self) -> str:
        """Unguessable, never twice the same, with our stamp."""
        return f"{self.stamp}{secrets.token_hex(10)}"

    def here(self, hop: Hop) -> Here:
        """What we call ourselves towards this hop."""
        host, port = self.wire.here(hop)
        parameters = _PARAMETERS[hop.transport]
        contact = Uri("sip", host=host, user=self.stamp, port=port, parameters=parameters)
        return Here(host, port, contact)

    def locate(self, uri: Uri, hop: Hop) -> Hop:
        """Where requests of a dialog go: to what is known without asking anybody.

        That is the connection it was last heard on. When that is gone, or was another process's, it
        is the Contact, by a new one (RFC 3261 §18.1.1), or its port where a NAT hides the host.
        """
        if not hop.is_reliable or (hop.connection and hop not in self._gone):
            return nearest(uri, hop)
        heard = Hop("UDP", hop.host, hop.port)
        host = nearest(replace(uri, parameters={}), heard).host
        port = uri.port or DEFAULT_PORT[hop.transport]
        return Hop(hop.transport, host, port, 0, hop.name or uri.host.strip("[]"))

    def lost(self, hop: Hop) -> None:
        """A connection is gone; those that were lost longest ago are forgotten."""
        if hop.connection:
            self._gone[hop] = None
            if len(self._gone) > GONE_MAX:
                del self._gone[next(iter(self._gone))]

    def local(self, hop: Hop, media: MediaPorts, secrecy: Secrecy = Secrecy.ALLOWED) -> Local:
        """What a description towards this hop says about our media."""
        is_shown = self.has_dtls and secrecy is not Secrecy.OFF
        shown = self._certificate.fingerprint if is_shown else None
        return Local(self.wire.here(hop)[0].strip("[]"), media.pair.port, fingerprint=shown)

    @property
    def _certificate(self) -> Certificate:
        """What we show in handshakes of media; made for the first call that may want one."""
        if self._made is None:
            self._made = make_certificate()
        return self._made

    def take_ports(self, hop: Hop) -> MediaPorts:
        """A pair of ports for a call with this hop; CapacityError when there is none."""
        ports = self._ports_for(hop)
        return MediaPorts(ports, ports.take())

    def take_ports_again(self, hop: Hop, port: int) -> MediaPorts:
        """The pair that a call had in the worker before us."""
        ports = self._ports_for(hop)
        return MediaPorts(ports, ports.take_again(port))

    def _ports_for(self, hop: Hop) -> Ports:
        # Not `or`: ports of which none is taken are false.
        found = self.ports.get(":" in hop.host)
        return next(iter(self.ports.values())) if found is None else found

    def agent(self, name: str) -> Agent:
        """Who answers; empty is the default one. LocalError for one we were not started with."""
        found = self.agents.get(name or self.options.agents.default)
        if found is None:
            raise LocalError("there is no such agent here")
        return found

    def ends(self, media: MediaPorts) -> Ends:
        """What a leg has of this machine."""
        return Ends(
            ports=media.pair,
            give_back=media.give_back,
            pacer=self.pacer,
            bits=secrets.randbits,
            patience=Patience(FIRST_MEDIA_SECONDS, self.options.calls.silence_seconds),
            wall_offset=time.time() - time.monotonic(),
            cname=secrets.token_hex(8).encode(),
            shake=self._shake if self.has_dtls else None,
        )

    def _shake(self, agreed: session.Dtls, now: float) -> Dtls:
        return Dtls(self._certificate, agreed, now)
