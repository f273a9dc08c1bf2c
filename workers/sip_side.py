"""The SIP side of one worker, put together: made before it can speak, opened when it can.

    made      policy, user agent, sockets that nobody reads yet
    adopted   the lines of a dead worker of this slot go on, silent (`adoption.py`)
    opened    conversations go on, messages are read, trunks are tended
    stopped   nothing new is read from the shared port; what fellows give is still answered
    closed    all of it is given back

`main.py` calls these in this order, and knows nothing of what is behind them.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flowcatd import options
from flowcatd.audio import g722, opus
from flowcatd.call import Call
from flowcatd.control import TrunkLine
from flowcatd.environment import reveal
from flowcatd.errors import ConfigError
from flowcatd.journal import Journal
from flowcatd.links.dns import Resolver
from flowcatd.links.journal import Journals
from flowcatd.log import get_logger
from flowcatd.sip.policy import Policy
from flowcatd.sip.policy import Terms as PolicyTerms
from flowcatd.sip_figures import SipFigures
from flowcatd.transports import dtls
from workers.adoption import Adoption
from workers.agents import Agent
from workers.calls import CallTable
from workers.clock import WorkerClock
from workers.dialling import Dialling
from workers.hand_over import Source
from workers.hand_over_message import SipGone, SipMessage
from workers.leftovers import Remain
from workers.plan import WorkerPlan
from workers.ports import Ports, PortShare
from workers.premises import Premises
from workers.registrations import Registrations
from workers.registrations import TrunkLine as TendedLine
from workers.sip_door import Routes
from workers.sip_here import Called
from workers.sip_tls import Tls, TlsFiles, open_tls
from workers.sip_wire import Give, SipWire, WirePlace
from workers.steer import mint_stamp
from workers.telephony import Telephony
from workers.trunk_errands import Road
from workers.trunk_tending import Means, TrunkEvent
from workers.trunks import read_trunks
from workers.wiring import Wiring

log = get_logger()


@dataclass(frozen=True, slots=True)
class Around:
    """What a worker has anyway."""

    plan: WorkerPlan
    clock: WorkerClock
    table: CallTable
    agents: Mapping[str, Agent]
    ended: Callable[[Call, Remain], None]
    answered_after: Callable[[float], None]


class SipSide:
    """One worker's; made on its loop."""

    def __init__(self, around: Around) -> None:
        plan = around.plan
        self._around = around
        self._give: Give = _to_nobody
        self.counts = plan.trunk_counts.of(plan.seat)
        self.policy = Policy(
            plan.trunks,
            reveal,
            lambda: secrets.token_bytes(16),
            self.counts,
            PolicyTerms(codecs=installed_codecs(), has_dtls=dtls.available()),
        )
        self._tell_problems()
        stamp = mint_stamp(plan.load.read(plan.seat))
        self.premises = Premises(
            options=plan.options,
            slot=plan.slot,
            seat=plan.seat,
            stamp=stamp,
            loads=plan.load,
            clock=around.clock,
            table=around.table,
            agents=around.agents,
            ports=_ports(plan),
            ended=around.ended,
            answered_after=around.answered_after,
            has_dtls=dtls.available(),
        )
        self.telephony = Telephony(self.premises, self.policy)
        self.wire = self._open_wire()
        self.premises.wire = self.telephony.wire = self.wire
        self.resolver = Resolver(self.wire.able)
        self.dialling = self.telephony.dialling = Dialling(
            self.telephony, self.resolver, self.counts.is_dead
        )
        self.registrations = self.telephony.registrations = self._make_registrations()
        self.adoption = Adoption(self.telephony)

    # --- its life ---------------------------------------------------------------------------------

    async def adopt(self, journals: Journals | None) -> None:
        """Go on with the lines of who was in this slot before us and died."""
        if journals is not None:
            self.adoption.media(await journals.of_slot(self._around.plan.slot))

    def open(self, wiring: Wiring, give: Give, refused: Callable[[str], None]) -> None:
        """Take calls from now on.

        `give` hands messages to fellows (HandOver.give_sip), `refused` is told of every INVITE that
        becomes no call, by a word of metrics.REFUSALS.
        """
        self._give = give
        self.premises.refused = refused
        self.telephony.wiring = wiring
        self.adoption.calls()
        self.wire.start()
        self.registrations.start()

    def given(self, message: SipMessage | SipGone) -> None:
        """A fellow got this for us."""
        self.wire.given(message)

    def given_datagram(self, data: bytes, source: Source) -> None:
        """A fellow of an older version got this for us."""
        self.wire.given_datagram(data, source)

    def part(self, journal: Journal) -> None:
        """Hang up a call that nobody took up."""
        self.adoption.part(journal)

    def change(self) -> None:
        """Read the trunks again; a set that is wrong changes nothing."""
        try:
            trunks = read_trunks(self._around.plan.trunks_directory)
        except ConfigError as error:
            log.error("trunks.refused", why=str(error))
            return
        difference = self.policy.change(trunks)
        self._tell_problems()
        self.registrations.change(trunks)
        log.info(
            "trunks.changed",
            added=len(difference.added),
            changed=len(difference.changed),
            removed=len(difference.removed),
        )

    def stop(self) -> None:
        """Read nothing new from the shared ports."""
        self.wire.stop()

    def leave_ports(self) -> None:
        """Somebody else takes the shared ports: our calls end from others."""
        self.wire.leave()

    async def leave(self) -> None:
        """The trunks are somebody else's to tend, or nobody's any more; bounded."""
        await self.registrations.leave()

    async def close(self) -> None:
        """Give everything back."""
        await self.telephony.close()
        self.registrations.close()
        await self.resolver.close()
        self.wire.close()

    def beat(self) -> tuple[TendedLine, ...]:
        """Once a second: all workers know which trunks answer; how those stand that are ours to tend."""
        lines = self.registrations.lines()
        for line in lines:
            self.counts.mark(line.trunk, is_dead=not line.is_alive)
        return lines

    # --- what operators ask -----------------------------------------------------------------------

    def figures(self, call_id: str) -> SipFigures | None:
        """How a live call goes; None when there is none of this call id over SIP."""
        return self.telephony.figures(call_id)

    def trunk_lines(self) -> list[TrunkLine]:
        """Every trunk, with what this worker knows of it."""
        tended = {line.trunk: line for line in self.registrations.lines()}
        lines = []
        for name, trunk in self.policy.trunks.items():
            known = tended.get(name)
            is_asked = known is not None and trunk.peer.options_seconds > 0
            lines.append(
                TrunkLine(
                    name=name,
                    registration="" if known is None else _STATES.get(known.state, "off"),
                    expires_seconds=0.0 if known is None else known.expires_in,
                    failures=0 if known is None else known.failures,
                    alive=known.is_alive if known is not None and is_asked else None,
                    inbound=self.policy.live(name, inbound=True),
                    outbound=self.policy.live(name, inbound=False),
                )
            )
        return lines

    # --- private ----------------------------------------------------------------------------------

    def _open_wire(self) -> SipWire:
        plan, policy = self._around.plan, self.policy
        sip = plan.options.sip
        place = WirePlace(
            seat=plan.seat,
            doors=plan.sip_doors,
            routes=Routes(plan.load, plan.options.workers.bound),
            give=self._pass,
            screen=policy.screen,
            is_known=policy.is_known,
            called=Called(sip.public_host, sip.public_host6, plan.port),
            tls=tls_of(sip, plan.config_directory),
        )
        return SipWire(place, self.telephony.receive, self.telephony.failed)

    def _pass(self, seat: int, message: SipMessage | SipGone) -> bool:
        """To a fellow, once we know them."""
        return self._give(seat, message)

    def _make_registrations(self) -> Registrations:
        premises = self.premises
        means = Means(
            road=Road(self.wire.send, self._around.clock, self.resolver),
            here=self.wire.here,
            token=premises.token,
            random=secrets.SystemRandom().random,
            loads=premises.loads,
            seat=premises.seat,
            answerer=self.policy.answerer,
            told=_untold,
            learn=self.policy.learn,
            keep=self.wire.keep,
            machine=f"{socket.gethostname()}:{self._around.plan.port}",
        )
        return Registrations(means, self.policy.trunks)

    def _tell_problems(self) -> None:
        for each in self.policy.problems:
            log.warning("trunk.limited", trunk=each.trunk, key=each.key, why=each.problem)


_STATES: Mapping[str, str] = {
    "registered": "registered",
    "idle": "registering",
    "asking": "registering",
    "waiting": "failed",
    "leaving": "leaving",
    "left": "left",
}
"""The words of a registration's state, as operators are told."""


def installed_codecs() -> frozenset[str]:
    """The codecs that this machine has, by their names in a trunk file."""
    wide = {"g722": g722.available(), "opus": opus.available()}
    return frozenset({"pcmu", "pcma", *(name for name, is_here in wide.items() if is_here)})


def _to_nobody(_seat: int, _message: SipMessage | SipGone) -> bool:
    return False


def _ports(plan: WorkerPlan) -> dict[bool, Ports]:
    """By whether they are IPv6's."""
    options = plan.options
    rtp = options.rtp
    share = PortShare(rtp.low, rtp.high, options.workers.most, plan.slot)
    hosts = [host for host in (options.sip.host, options.sip.host6) if host]
    retry = options.calls.retry_after_seconds
    return {":" in host: Ports(share, host, retry, rtp.dscp) for host in hosts}


def tls_of(sip: options.Sip, base: Path) -> Tls:
    """What a worker speaks TLS with; relative paths begin at `base`."""
    paths = (sip.certificate, sip.certificate_key, sip.client_ca, sip.trusted_ca)
    files = TlsFiles(*(str(base / path) if path else "" for path in paths))
    return open_tls(files, wildcards=sip.wildcards)


def _untold(_trunk: str, _event: TrunkEvent) -> None:
    """Whoever tends a trunk tells the log; nobody else wants to know yet."""
