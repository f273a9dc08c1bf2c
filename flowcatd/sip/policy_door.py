"""Who is let in: floods, scanners, strangers, passwords; asked before a call is made of anything.

`screen` sees raw bytes and a source address, `judge` a parsed request that belongs to no call. Both work
by the Directory: a source is a trunk's, or may be one's that knows a password, or is nobody's. Requests
are authenticated before anything else in them is looked at (RFC 3261 §8.2), so a stranger learns
nothing but that he is one, and with DROP not even that: `screen` then forgets what would begin
something, and answers to our own requests and requests within calls still pass, as a carrier may send
them from other addresses than it is called at.

A source that has proved a password counts as known for a while: a telephone from anywhere is a
stranger by its address, and its calls must not drown in a flood of other strangers.

A reload makes a new Directory. What floods and nonces have come to stays, and so do the addresses that a
trunk's names have resolved to, as long as its names are the same.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from flowcatd.sip import digest
from flowcatd.sip.desk import ABLE
from flowcatd.sip.digest import Gate, Judgement
from flowcatd.sip.event import Hop
from flowcatd.sip.guard import FloodGate, GateTerms, is_scanner
from flowcatd.sip.message import Request, Response, build_response, stateless_tag
from flowcatd.sip.route import Challenge, Directory, Known, Refused
from flowcatd.sip.trouble import DROP, SipError
from flowcatd.sip.trunk import Difference, Trunk

PROVEN_SECONDS: Final = 3600.0
"""How long a source that proved a password is listened to like a trunk's: most calls are shorter."""
PROVEN_MAX: Final = 10_000
HEAD_BYTES: Final = 8192
"""Where a To stands, if it stands anywhere."""

_NAMED_BY: Final = frozenset({"peer", "register"})
"""A change in these sections may lead a trunk's names elsewhere."""
_TO = re.compile(rb"\n(?:to|t)[ \t]*:([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)", re.IGNORECASE)


@dataclass(slots=True)
class Counts:
    """What was not let in, since the beginning; for metrics."""

    scanners: int = 0
    """Messages of attack tools, dropped."""
    strangers: int = 0
    """Requests that were nobody's: refused, or dropped."""
    challenged: int = 0
    """Requests that were asked for a password."""
    stale: int = 0
    """Of those, with credentials for an old nonce, or one that was used: replays are here."""
    wrong: int = 0
    """Credentials that were wrong: 403."""


class Door:
    """Lets in or not; `change` it with every reload.

    `key` signs nonces and `random` makes them (`digest.Gate`); `password_of` gives the password that a
    trunk's callers must know, or None where nobody can.
    """

    def __init__(
        self,
        unknown_status: int,
        flood: GateTerms,
        key: bytes,
        random: Callable[[], bytes],
        password_of: Callable[[Trunk], str | None],
    ) -> None:
        """Nobody is let in before the first `change`."""
        self.counts = Counts()
        self.flood = FloodGate(self._is_heard, flood)
        self._unknown = unknown_status
        self._key = key
        self._random = random
        self._password_of = password_of
        self._directory = Directory({}, unknown_status)
        self._gates: dict[str, Gate] = {}
        self._names: frozenset[str] = frozenset()
        self._learned: dict[str, tuple[str, ...]] = {}
        self._proven: OrderedDict[str, float] = OrderedDict()

    def change(self, trunks: Mapping[str, Trunk], difference: Difference) -> None:
        """These are the trunks from now on; what did not change keeps what it has learned."""
        moved = {trunk.name for trunk, sections in difference.changed if sections & _NAMED_BY}
        self._names = frozenset(trunks)
        for name in self._learned.keys() - (self._names - moved):
            del self._learned[name]
        self._directory = Directory(trunks, self._unknown)
        for name, addresses in self._learned.items():
            self._directory.learn(name, addresses)
        realms = {each.inbound.realm for each in trunks.values() if each.inbound.digest}
        self._gates = {realm: self._gates.get(realm) or self._gate(realm) for realm in realms}

    def learn(self, name: str, addresses: Iterable[str]) -> None:
        """A trunk's names resolve to these now (`route.Directory.learn`)."""
        known = tuple(addresses)
        self._directory.learn(name, known)
        if name in self._names:
            self._learned[name] = known

    # --- before any parsing

    def screen(self, data: bytes, source: str, now: float) -> bool:
        """Whether to read a message from this address; false is to forget it without an answer."""
        if source in self._proven and now >= self._proven[source]:
            del self._proven[source]
        if not self.flood.admit(source, now):
            return False
        if self._is_heard(source):
            return True
        if is_scanner(data):
            self.flood.note_scanner(source, now)
            self.counts.scanners += 1
            return False
        if self._unknown == DROP and self._is_nobody(source) and begins_something(data):
            self.counts.strangers += 1
            return False
        return True

    def is_known(self, source: str) -> bool:
        """Whether an address is a trunk's."""
        return self._directory.is_known(source)

    def _is_heard(self, source: str) -> bool:
        return self._directory.is_known(source) or source in self._proven

    def _is_nobody(self, source: str) -> bool:
        return isinstance(self._directory.find_trunk(source), Refused)

    # --- a request that belongs to no call

    def judge(self, request: Request, hop: Hop, now: float) -> Known | Response:
        """Whose it is, or what to answer instead."""
        found = self._directory.find_trunk(hop.host)
        if isinstance(found, Challenge):
            return self._ask(found, request, hop, now)
        return found if isinstance(found, Known) else self._turn_away(found, request)

    def is_ping(self, request: Request, hop: Hop) -> bool:
        """Whether this is an OPTIONS from a trunk's own address: answered without a password.

        A carrier that gets anything but 200 takes the trunk down, and asks without credentials.
        """
        return request.method == "OPTIONS" and self._directory.is_known(hop.host)

    def find(self, source: str, user: str | None) -> Trunk | Refused:
        """Whose a request is that `judge` has let in before, as that user."""
        found = self._directory.find_trunk(source, user)
        if isinstance(found, Known):
            return found.trunk
        return found if isinstance(found, Refused) else Refused(403, "nobody proved a password")

    def _ask(
        self, challenge: Challenge, request: Request, hop: Hop, now: float
    ) -> Known | Response:
        gate = self._gates[challenge.realm]
        try:
            verdict = gate.judge(request, now)
        except SipError as error:
            return answer(request, error.status or 400)
        match verdict.judgement:
            case Judgement.PASSED:
                trunk = self.find(hop.host, verdict.user)
                if isinstance(trunk, Refused):
                    return self._turn_away(trunk, request)
                self._prove(hop.host, now)
                return Known(trunk)
            case Judgement.WRONG:
                # Not asked again: a telephone with a wrong password would go on for ever.
                self.counts.wrong += 1
                return answer(request, 403)
        stale = verdict.judgement is Judgement.STALE
        self.counts.challenged += 1
        self.counts.stale += stale
        response = answer(request, gate.terms.flavour.status)
        gate.challenge(response, now, stale=stale)
        return response

    def _turn_away(self, refused: Refused, request: Request) -> Response:
        self.counts.strangers += 1
        # What `screen` was not asked about cannot be dropped any more: it has a transaction.
        return answer(request, 403 if refused.status == DROP else refused.status)

    def _prove(self, source: str, now: float) -> None:
        self._proven[source] = now + PROVEN_SECONDS
        self._proven.move_to_end(source)
        if len(self._proven) > PROVEN_MAX:
            self._proven.popitem(last=False)

    def _gate(self, realm: str) -> Gate:
        def password_of(user: str) -> str | None:
            trunk = self._directory.password_user(realm, user)
            return self._password_of(trunk) if trunk is not None else None

        return Gate(digest.Terms(realm), self._key, self._random, password_of)


def begins_something(data: bytes) -> bool:
    """Whether a message, not parsed yet, is a request outside of calls: its To has no tag."""
    head = data[:HEAD_BYTES].lstrip(b"\r\n")
    if head[:8].upper() == b"SIP/2.0 ":
        return False
    to = _TO.search(head.partition(b"\r\n\r\n")[0])
    return to is None or re.search(rb";\s*tag\s*=", to[1], re.IGNORECASE) is None


def answer(request: Request, status: int) -> Response:
    """An answer that says no more than its status; a 405 has the methods that we take."""
    response = build_response(request, status, tag=stateless_tag(request))
    if status == 405:
        response.put("allow", ", ".join(each for each in ABLE.methods if each != request.method))
    return response
