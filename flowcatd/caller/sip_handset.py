"""One call over SIP as its caller lives it: a person with a user agent for a telephone. Pure.

    start ─► INVITE ─ Rang … ─► Taken: the person's first frame ─► … ─► BYE from either side ─► over
                └ refused, or nobody answers: `refusal` says so in words

The call's clock begins when it is taken: frames are counted from there, one for each `hear` and `speak`
(a tick of the RTP wire). What rings or plays before is not part of the conversation.

Over SIP nobody tells what was said: the agent's words are in the daemon's own record. A BYE is taken for
a conversation that reached its end when its Reason (RFC 3326) is a normal one, or when it has none.
A transfer is refused: whoever tries an agent out wants to see that it was wanted, not to be led away.

Feed `receive`, `receive_failure` or `wake`, then drain `outgoing`, `sessions`, `pressed` and the person's events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flowcatd.caller.facts import COMPLETED, Rang, Taken, Transferred
from flowcatd.caller.person import Person
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import (
    AgentEvent,
    CallEnded,
    CallNumber,
    Cause,
    Connected,
    Invitation,
    Invited,
    Media,
    Progress,
    Redirected,
    Referred,
)
from flowcatd.sip.body import Digit
from flowcatd.sip.event import Hop, Outgoing
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.session import Session
from flowcatd.sip.words import phrase_of

FIRST_SECONDS: Final = 5.0
"""Until there is any answer at all: a daemon that is up says something at once."""
RING_SECONDS: Final = 60.0
LEAVE_SECONDS: Final = 2.0
"""What the other side gets to answer our BYE or CANCEL."""
HOLD_SECONDS: Final = 3.0
"""How long the agent is held, where that was asked for."""
KEY_MS: Final = 100

_NORMAL: Final = {("Q.850", 16), ("SIP", 200)}
_BUSY_HERE: Final = 486
_DECLINE: Final = 603

_MEANINGS: Final = {
    401: "it wants a user and a password that it knows: --user NAME --password-env VARIABLE",
    403: "it lets nobody in from here; conf/trunks.d says who may call",
    404: "it has nobody of this name or number; the routes in conf/trunks.d say whom it has",
    407: "it wants a user and a password that it knows: --user NAME --password-env VARIABLE",
    408: "nobody answered in time",
    415: "it does not understand our description of the call",
    480: "nobody can answer there now",
    484: "the number is not complete",
    486: "it is busy",
    487: "the call was taken back",
    488: "it has none of the codecs offered; --codec chooses another",
    500: "it failed; its log says why",
    503: "it has no room for one more call now",
    600: "it is busy",
    603: "it does not want the call",
    606: "it has none of the codecs offered; --codec chooses another",
}
"""What a final answer means to a caller."""


@dataclass(frozen=True, slots=True)
class Manner:
    """What the caller does besides talking; times are seconds."""

    most_seconds: float
    """The longest the call may take."""
    hold_after: float | None = None
    """Hold the agent so long after it answered; None does not."""
    hold_seconds: float = HOLD_SECONDS


class SipHandset:
    """One call, from the INVITE to the end."""

    def __init__(
        self, agent: UserAgent, person: Person, invitation: Invitation, manner: Manner
    ) -> None:
        """`agent` has no other calls."""
        self.person = person
        self.refusal = ""
        """Why there was nobody to talk to, as a sentence; empty while nobody said so."""
        self.call_id = ""
        """The SIP Call-ID, which the daemon takes for its run id."""
        self.codec = ""
        """What we send, as agreed on last."""
        self.connected = False
        """Whether the call was taken."""
        self._agent = agent
        self._invitation = invitation
        self._manner = manner
        self._number = CallNumber(0)
        self._began = 0.0
        self._due: float | None = None
        self._is_answered = False
        self._rang = 0
        self._count = 0
        self._hold_due: list[tuple[float, bool]] = []
        self._sessions: list[Session] = []
        self._keys: list[str] = []
        self._takes_events = False
        self._ended = False
        self._leave_by = 0.0

    # --- what happens -----------------------------------------------------------------------------

    def start(self, negotiation: Negotiation, now: float) -> None:
        """Call."""
        self._began = now
        self._due = now + FIRST_SECONDS
        self._number = self._agent.originate(self._invitation, negotiation, now)
        self.call_id = self._agent.call_id(self._number)

    def receive(self, data: bytes, hop: Hop, now: float) -> None:
        """A SIP message came."""
        if not self._is_answered and not self.connected:
            self._is_answered = True
            self._due = self._began + RING_SECONDS
        self._agent.receive(data, hop, now)
        self._follow(now)

    def receive_failure(self, hop: Hop, now: float) -> None:
        """Nothing can be sent there (any more)."""
        self._agent.receive_failure(hop, now)
        self._follow(now)
        if hop.is_reliable and self.connected and not self._ended:
            self._end("daemon", "the connection was lost")

    def receive_silence(self, seconds: float, now: float) -> None:
        """No sound came for so long although some should have."""
        self.hang_up(f"nothing came from the agent for {seconds:.0f} s, not even silence", now)

    def hang_up(self, reason: str, now: float, *, asked: bool = False) -> None:
        """End the call now, wherever it stands."""
        self.person.hang_up(reason, asked=asked)
        self._leave(now)

    def wake(self, now: float) -> None:
        """Time passed."""
        self._agent.wake(now)
        self._follow(now)
        if self._ended:
            return
        if now - self._began > self._manner.most_seconds:
            self._take_too_long(now)
        elif self._due is not None and now >= self._due:
            self._give_up(now)
        elif self._hold_due and now >= self._hold_due[0][0]:
            _, held = self._hold_due.pop(0)
            self._agent.hold(self._number, now, held=held)

    def wake_at(self) -> float | None:
        """The earliest time at which something is due; None once it is over."""
        if self.is_over(self._leave_by):
            return None
        dues = [self._agent.wake_at(), self._due, *(due for due, _ in self._hold_due[:1])]
        dues.append(self._leave_by if self._ended else self._began + self._manner.most_seconds)
        return min(due for due in dues if due is not None)

    # --- 20 ms ------------------------------------------------------------------------------------

    def hear(self, pcm: bytes) -> None:
        """The next 20 ms of the agent."""
        if self.connected:
            person = self.person
            person.listener.push(pcm, self._count * (len(pcm) // 2))

    def speak(self, now: float) -> bytes | None:
        """The next 20 ms for the agent; None before the call is taken, and after its end."""
        if not self.connected or self._ended:
            return None
        frame = self.person.frame(self._count)
        self._count += 1
        if frame is None:
            self._leave(now)
            return None
        if frame.key and self._takes_events:
            self._keys.append(frame.key)
        elif frame.key:
            self._agent.send_digit(self._number, Digit(frame.key, KEY_MS), now)
        return frame.pcm

    # --- to collect -------------------------------------------------------------------------------

    def outgoing(self) -> list[Outgoing]:
        """Drain the SIP messages to send."""
        return self._agent.outgoing()

    def sessions(self) -> list[Session]:
        """Drain what was agreed for the media; the last one holds."""
        drained, self._sessions = self._sessions, []
        return drained

    def pressed(self) -> list[str]:
        """Drain the keys to press by RFC 4733; what the other side does not take so goes by INFO."""
        drained, self._keys = self._keys, []
        return drained

    @property
    def has_ended(self) -> bool:
        """Whether there is nobody to hear or speak to any more."""
        return self._ended

    def is_over(self, now: float) -> bool:
        """Whether there is nothing more to wait for."""
        return self._ended and (not self._agent.has(self._number) or now >= self._leave_by)

    # --- private ----------------------------------------------------------------------------------

    def _follow(self, now: float) -> None:
        for event in self._agent.events():
            self._obey(event, now)

    def _obey(self, event: AgentEvent, now: float) -> None:
        match event:
            case Invited():
                self._agent.reject(event.call, _BUSY_HERE, now)
            case Progress():
                if event.status != self._rang:  # a ringing telephone says so again and again
                    self._rang = event.status
                    self.person.tell(Rang(event.status))
            case Media():
                self.codec = event.session.codec.format.name
                self._takes_events = event.session.events is not None
                self._sessions.append(event.session)
            case Connected():
                self._taken(now)
            case Redirected():
                contact = next((str(each) for each in event.contacts), "somewhere else")
                self._refuse(f"it can be reached at {contact}", event.status)
                self._agent.hang_up(self._number, now)
            case Referred():
                self.person.tell(Transferred())
                self._agent.answer_refer(event.call, event.reference, _DECLINE, now)
            case CallEnded():
                self._over(event, now)

    def _taken(self, now: float) -> None:
        self.connected = True
        self._due = None
        after = self._manner.hold_after
        if after is not None:
            back = now + after + self._manner.hold_seconds
            self._hold_due = [(now + after, True), (back, False)]
        transport = self._invitation.hops[0].transport
        self.person.tell(Taken(now - self._began, self.codec, transport, self.call_id))

    def _take_too_long(self, now: float) -> None:
        seconds = f"{self._manner.most_seconds:g} s"
        if self.connected:
            self.hang_up(f"the call took longer than {seconds}", now)
        else:
            self.refusal = f"nobody took the call within {seconds}"
            self._leave(now)

    def _give_up(self, now: float) -> None:
        """It has taken too long until somebody took the call."""
        if self._is_answered:
            self.refusal = f"it rang for {RING_SECONDS:g} s, and nobody took the call"
        else:
            self.refusal = self._nobody()
        self._leave(now)

    def _over(self, event: CallEnded, now: float) -> None:
        if not self.person.closing and not self.refusal:
            if not self.connected:
                self._refuse_by(event)
            elif event.by_peer:
                self._hung_up_on(event.cause)
            else:
                self._end("daemon", event.problem or f"the call broke off with {event.status}")
        if not self._ended:
            self._leave_by = now + LEAVE_SECONDS
        self._shut()

    def _shut(self) -> None:
        """There is nobody to hear or speak to any more."""
        if not self._ended:
            self._ended = True
            self.person.finish()

    def _hung_up_on(self, cause: Cause | None) -> None:
        if cause is None or (cause.protocol, cause.code) in _NORMAL:
            self._end("agent", COMPLETED)
            self.person.outcome.reached_end = True
        else:
            text = f", {cause.text}" if cause.text else ""
            self._end("daemon", f"it hung up with {cause.protocol} {cause.code}{text}")

    def _end(self, by: str, reason: str) -> None:
        outcome = self.person.outcome
        if not outcome.ended_by:
            outcome.ended_by, outcome.reason = by, reason
        self._shut()

    def _refuse_by(self, event: CallEnded) -> None:
        if not (event.by_peer or self._is_answered):
            self.refusal = self._nobody()
            return
        meaning = _MEANINGS.get(event.status, phrase_of(event.status).lower())
        if event.retry_after is not None:
            meaning += f"; try again in {event.retry_after} s"
        self._refuse(meaning, event.status)

    def _refuse(self, meaning: str, status: int) -> None:
        self.refusal = f"{self._invitation.target} refused the call with SIP {status}: {meaning}"

    def _nobody(self) -> str:
        return (
            f"nobody answers at {self._invitation.target}: is the daemon running, and does it listen "
            "there (sip.port)? `make run`"
        )

    def _leave(self, now: float) -> None:
        """Say goodbye in SIP; the person has said, or will not say, anything more."""
        if self._ended:
            return
        self._leave_by = now + (LEAVE_SECONDS if self._is_answered else 0.0)
        self._due = None
        self._shut()
        self._agent.hang_up(self._number, now, Cause("Q.850", 16))
        self._follow(now)
