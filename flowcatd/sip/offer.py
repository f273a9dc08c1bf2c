"""Offer and answer (RFC 3264, RFC 6337): what both ends of a call agree to do with one audio stream.

    state      what it means                                     how it is left
    SETTLED    no offer of ours is open; `session` holds         `offer`
    OFFERED    ours is open                                      `receive_answer`, `withdraw`

`receive_offer` takes and answers in one step, so theirs is never open. When it or `receive_answer`
raises, nothing has changed: what was agreed holds on. A provisional answer (183 without 100rel) gives
a session and leaves the offer open, because the final answer need not be the same.

What stays the same through a call: our o= but for its version, which grows by one whenever the text
differs from our last and never otherwise (§8); the number and order of m= lines; what a payload type
of ours stands for (§8.3.2); our keys; the codec, as long as it is on offer. Of several audio streams
the first usable one is taken; all others, and what is no audio, get port 0.

Hold is ours and theirs apart (RFC 6337 §5.3): we offer what *we* want, whatever they hold, and answer
theirs flipped, cut by what we want. Where a description breaks RFC 3264 but its meaning is plain (a
direction that was not offered, AVP for AVPF), the common part is taken. That two offers cross, and
when to try again, is the dialog's; here it is the error 491.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from typing import Self

import msgspec

from flowcatd.errors import LocalError
from flowcatd.sip.agreement import Pair, agree, check_answer, is_same
from flowcatd.sip.attribute import Direction
from flowcatd.sip.message import of_json_text, to_json_text
from flowcatd.sip.proposal import (
    TLS_ID,
    TLS_ID_BYTES,
    Name,
    Situation,
    make_answer,
    make_offer,
)
from flowcatd.sip.sdp import Description, Media, Origin, parse
from flowcatd.sip.session import SUITES, Capabilities, Dtls, Incoming, Local, Session
from flowcatd.sip.trouble import SipError


class State(Enum):
    """Whether an answer is due."""

    SETTLED = auto()
    """No offer of ours is open."""
    OFFERED = auto()
    """Ours is open."""


class Snapshot(msgspec.Struct, frozen=True):
    """A settled negotiation, for the process that takes the call up. Holds keys: never log it."""

    origin: tuple[str, str]
    """Session id and host of our o=."""
    sent: str
    """Our last description; its version counts even if what it offered was refused."""
    ours: str
    """Of the agreement, as `theirs`; both empty when there is none."""
    theirs: str
    is_our_offer: bool
    index: int
    is_held: bool
    """What we want."""
    held_by_us: bool
    """What was agreed."""
    numbers: list[tuple[int, str, int, int]]
    """Payload type, name, clock and channels of what we have used."""
    keys: dict[str, bytes]


class Negotiation:
    """One call's descriptions, from the first to the last."""

    def __init__(
        self,
        capabilities: Capabilities,
        local: Local,
        session_id: str,
        key: Callable[[int], bytes],
    ) -> None:
        """`session_id` is a number, as text, that no other call of this host has; `key` gives that many
        unguessable bytes.
        """
        self.state = State.SETTLED
        self.local = local
        """Where our media are; another may be set before the next offer or answer."""
        self.is_held = False
        """Whether we want to hold the peer; the next offer or answer says it."""
        self.session: Session | None = None
        """What holds, None before the first agreement."""
        self._capabilities = capabilities
        self._origin = Origin("-", session_id, "0", local.host)
        self._keys = {name: key(SUITES[name].key_bytes) for name in capabilities.suites}
        self._keys[TLS_ID] = key(TLS_ID_BYTES)
        self._numbers: dict[int, Name] = {}
        self._taken: dict[int, Name] = {}
        self._sent: Description | None = None
        self._open = 0
        self._pair: Pair | None = None

    def offer(self) -> str:
        """Our offer; `receive_answer` or `withdraw` must follow. LocalError while one is open."""
        if self.state is State.OFFERED:
            raise LocalError("an offer of ours is open")
        agreed = self._pair.ours if self._pair else None
        description, self._open = make_offer(self._situation(), agreed)
        self._remember(description.media[self._open], ours=True)
        self.state = State.OFFERED
        return str(self._say(description))

    def refresh(self) -> str:
        """What was agreed, offered again word for word, as RFC 4028 §7.4 wants it of a session refresh.

        As after `offer`, an answer or `withdraw` must follow. LocalError before there is an agreement.
        """
        if self.state is State.OFFERED or self._pair is None:
            raise LocalError("there is no agreement to refresh, or an offer of ours is open")
        self._open = self._pair.index
        self.state = State.OFFERED
        return str(self._say(self._pair.ours))

    def receive_answer(self, body: bytes | str, *, final: bool = True) -> Session:
        """The session that their answer makes; SipError when it makes none, and the offer stays open.

        With `final` False the answer is of a provisional response, and a later one may differ.
        """
        if self.state is not State.OFFERED or self._sent is None:
            raise LocalError("no offer of ours is open")
        answer = parse(body)
        check_answer(self._sent, answer, self._open)
        pair = Pair(
            self._sent, answer, is_our_offer=True, index=self._open, held_by_us=self.is_held
        )
        session = agree(pair, self._capabilities)
        if final:
            self._settle(pair, session)
        return session

    def withdraw(self) -> None:
        """Our offer was refused, or nobody will answer it: what was agreed before holds on."""
        if self.state is not State.OFFERED:
            raise LocalError("no offer of ours is open")
        self.state = State.SETTLED

    def receive_offer(self, body: bytes | str) -> str:
        """Our answer to their offer; `session` is then what was agreed.

        SipError 400 for what is no description, 488 with the reason for what cannot be, 491 while an
        offer of ours is open; all of them change nothing.
        """
        if self.state is State.OFFERED:
            raise SipError(problem="an offer of ours is open", status=491)
        offer = parse(body)
        draft, index = make_answer(self._situation(), offer)
        answer = self._versioned(draft)
        pair = Pair(answer, offer, is_our_offer=False, index=index, held_by_us=self.is_held)
        session = agree(pair, self._capabilities)
        self._remember(answer.media[index], ours=True)
        self._settle(pair, session)
        return str(self._say(draft))

    @property
    def expected(self) -> tuple[Incoming, ...]:
        """What may arrive before an answer does: all that our open offer names (RFC 3264 §5.1)."""
        if self.state is not State.OFFERED or self._sent is None:
            return self.session.incoming if self.session else ()
        return tuple(
            Incoming(each.payload, codec)
            for each in self._sent.media[self._open].formats
            for codec in self._capabilities.codecs
            if is_same(codec.format, each)
        )

    def snapshot(self) -> Snapshot:
        """Everything that another process needs; an open offer is not part of it."""
        pair = self._pair
        return Snapshot(
            origin=(self._origin.session_id, self._origin.host),
            sent=to_json_text(str(self._sent or "")),
            ours=to_json_text(str(pair.ours)) if pair else "",
            theirs=to_json_text(str(pair.theirs)) if pair else "",
            is_our_offer=bool(pair and pair.is_our_offer),
            index=pair.index if pair else 0,
            is_held=self.is_held,
            held_by_us=bool(pair and pair.held_by_us),
            numbers=[
                (number, to_json_text(name), clock_hz, channels)
                for number, (name, clock_hz, channels) in self._numbers.items()
            ],
            keys=dict(self._keys),
        )

    @classmethod
    def restore(cls, snapshot: Snapshot, capabilities: Capabilities, local: Local) -> Self:
        """The negotiation where it was left; its session is worked out again from the two texts.

        SipError 488 when the capabilities are not those of the call and its session needs what is gone.
        """
        session_id, host = snapshot.origin
        # A suite that had no key then has none now.
        known = tuple(name for name in capabilities.suites if name in snapshot.keys)
        made = cls(replace(capabilities, suites=known), local, session_id, bytes)
        made._origin = Origin("-", session_id, "0", host)
        made.is_held = snapshot.is_held
        made._keys |= snapshot.keys
        made._numbers = {
            number: (of_json_text(name), clock_hz, channels)
            for number, name, clock_hz, channels in snapshot.numbers
        }
        made._taken = dict(made._numbers)
        made._sent = parse(of_json_text(snapshot.sent)) if snapshot.sent else None
        if snapshot.ours:
            pair = Pair(
                parse(of_json_text(snapshot.ours)),
                parse(of_json_text(snapshot.theirs)),
                is_our_offer=snapshot.is_our_offer,
                index=snapshot.index,
                held_by_us=snapshot.held_by_us,
            )
            made._settle(pair, agree(pair, capabilities))
            # The DTLS association goes on, so the certificate that it was made with is ours: another
            # fingerprint would ask the peer for another association (RFC 8842).
            shown = pair.ours.fingerprints_of(pair.sides[0])
            if shown:
                made.local = replace(local, fingerprint=shown[0])
        return made

    def _situation(self) -> Situation:
        session, pair = self.session, self._pair
        return Situation(
            capabilities=self._capabilities,
            local=self.local,
            origin=self._origin,
            keys=self._keys,
            numbers=self._numbers,
            taken=self._taken,
            wish=Direction.SENDONLY if self.is_held else Direction.SENDRECV,
            codec=session.codec if session else None,
            dtls=session.secrecy if session and isinstance(session.secrecy, Dtls) else None,
            tls_id=(pair.sides[0].first("tls-id") or "") if pair else "",
            index=pair.index if pair else None,
        )

    def _versioned(self, description: Description) -> Description:
        """The description as it goes out: our last one if it is the same, else with the next version."""
        if self._sent is None:
            return replace(description, origin=replace(self._origin, version="1"))
        if replace(description, origin=self._sent.origin) == self._sent:
            return self._sent
        version = str(int(self._sent.origin.version) + 1)
        return replace(description, origin=replace(self._origin, version=version))

    def _say(self, description: Description) -> Description:
        self._sent = self._versioned(description)
        return self._sent

    def _settle(self, pair: Pair, session: Session) -> None:
        self._pair, self.session = pair, session
        self._remember(pair.sides[1], ours=False)
        self.state = State.SETTLED

    def _remember(self, media: Media, *, ours: bool) -> None:
        """What the payload types of this section stand for, from now on."""
        for each in media.formats:
            if ours:
                self._numbers.setdefault(each.payload, each.key)
            self._taken.setdefault(each.payload, each.key)
