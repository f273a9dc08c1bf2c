"""One call's SIP leg: between the user agent's events, an RTP stream, and the call's chain.

    Telephony ─ agreed, connected, pressed, ended … ─► SipLeg ─ frames ─► chain
    chain ─ send_audio, send_mark, send_digits, transfer ─► SipLeg ─► Mouth ─► RtpWire ─► far end

The RTP ports are open from the first agreement on, so early media and ringing find somebody there; the
chain hears and says nothing before `connected`. Media from who was promised an answer prove the call
up when the ACK is late (RFC 3261 §13.3.1.4: the user agent goes on asking for it). Telling comes
synchronously and in any order that a network can make: what comes early is remembered, late is nothing.

*On hold* (the far end receives nothing: sendonly, inactive, 0.0.0.0) nothing is sent. What they send,
which is mostly music, is not heard: the chain is fed silence. The agent is told (`frames.Hold`): its line
stops where it is and goes on afterwards, and since a brain counts silence only once its line was heard,
it asks again at most once, unheard, and nobody is hung up for being silent while on hold.

Of the two watches over silence on the wire the stream's own is the one that counts, because it knows
hold and ringing; the call's is kept content. What raises below a tick ends this call and no other:
that is the call's boundary, as in `Call.wake`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Self

from flowcatd.audio import tones
from flowcatd.carriers.events import Encoding, Started
from flowcatd.errors import FlowcatdError, LocalError
from flowcatd.frames import Frame, Hold, InputDtmf, MarkPlayed, TransferFailed
from flowcatd.record import Outcome, Reason
from flowcatd.rtp.digits import Digit as RtpDigit
from flowcatd.rtp.digits import Pressed
from flowcatd.rtp.stream import Inactive, Moved, Plan, Stream, StreamEvent
from flowcatd.sip.agent_event import CallEnded
from flowcatd.sip.body import Digit
from flowcatd.sip.ladder import Ladder
from flowcatd.sip.session import Session
from flowcatd.sip_figures import SipFigures
from flowcatd.transports.rtp_plan import Codecs, Manners, chain_rate
from flowcatd.transports.rtp_wire import RtpWire
from flowcatd.transports.secrecy import Secrecy
from flowcatd.transports.sip_keys import Keys
from flowcatd.transports.sip_outcome import Circumstances, cause_for, lines_of, outcome_of
from flowcatd.transports.sip_sound import Ear, Mouth, quiet
from flowcatd.transports.sip_terms import CallSide, Ends, Facts, LegState, Line

__all__ = ["CallSide", "Ends", "Facts", "LegState", "Line", "SipLeg"]

LEAD_MS: Final = 120
"""What waits here can be cleared to the last frame, so lead only has to cover a stall of the loop."""
KEEP_UP_TICKS: Final = 25
"""Half a second between two looks at the clock."""
EARLY_KEYS: Final = 32
"""Pressed before anybody hears them: an INFO may come in one turn of the loop with the ACK."""
AWAIT_SECONDS: Final = 2.0
GIVE_UP_EARLY: Final = 0.01
"""Seconds before the call's own deadline, which knows nothing of ringing."""
CALL_ID_MAX: Final = 128


class SipLeg:
    """A Transport and MediaPort of one call."""

    notices = False
    """A telephone is told nothing but sound."""
    has_marks = True
    lead_ms = LEAD_MS

    def __init__(self, facts: Facts, line: Line, ends: Ends) -> None:
        """Nothing is opened before the first `agreed`; it needs a loop then."""
        self.facts = facts
        self._line = line
        self._ends = ends
        self._cname = ends.cname
        self._call: CallSide | None = None
        self._feed: Callable[[Frame], None] | None = None
        self._codecs = Codecs()
        self._secrecy = Secrecy(ends.shake)
        self._stream: Stream | None = None
        self._wire: RtpWire | None = None
        self._session: Session | None = None
        self._keys = Keys()
        self._early = ""
        self._mouth = Mouth(self._mark_played)
        self._ear: Ear | None = None
        self._rate_hz = 0
        self._ticks = 0
        self._is_up = False
        self._is_promised = False
        self._is_held = False
        self._is_handing_over = False
        self._is_closed = False
        self._outcome: Outcome | None = None
        self._ended: CallEnded | None = None
        self._taken: LegState | None = None
        self._ladder: tuple[list[str], int] | None = None

    # --- told by Telephony ------------------------------------------------------------------------

    def agreed(self, session: Session, now: float, *, is_early: bool) -> None:
        """This holds for the media from now on; LocalError for a codec that we do not have."""
        if self._is_closed:
            return
        self._session = session
        self._is_promised = self._is_promised or not is_early
        manners = Manners(self._ends.patience, self._ends.wall_offset, self._cname)
        plan = self._codecs.plan(session, manners)
        self._secrecy.agreed(session.secrecy, now)
        if self._stream is None:
            self._stream = self._open(plan, now)
        else:
            self._stream.signal(plan)
            self._stream.shield(self._secrecy.guard)
        self._direct(now)
        if self._wire is None:
            self._wire = RtpWire(self._ends.ports, self._stream, self._ends.pacer, self)
        self._wire.share(self if self._secrecy.is_shaking else None)
        self._bridge(session)
        self._note()
        self._begin(now)

    def connected(self, now: float) -> None:
        """The call is up: the agent begins."""
        if self._is_closed:
            return
        if not self._is_up:
            self._is_up = True
            self._direct(now)
        self._begin(now)

    def pressed(self, digit: Digit) -> None:
        """A key by INFO."""
        now = self._call.now() if self._call is not None else 0.0
        self._press(self._keys.informed(digit.key, now))

    def learn(self, *, takes_info: bool) -> None:
        """What the far end said that it can do."""
        self.facts = replace(self.facts, takes_info=takes_info)

    def refer_told(self, status: int) -> None:
        """How the transfer goes that we asked for."""
        if not self._is_handing_over or status < 200:
            return
        self._is_handing_over = False
        if status < 300:
            self._end(Outcome(reason=Reason.TRANSFERRED))
        else:
            self._deliver(TransferFailed(f"the transfer was answered {status}"))

    def replaced(self, line: Line, ends: Ends, *, is_up: bool = True) -> None:
        """Another dialog takes this call over: the conversation goes on, the old ports go back.

        `agreed` follows with what holds for the new dialog, and `connected` when it was not `is_up`:
        whom the far end wanted us to call is still being rung, and the conversation waits as on hold.
        """
        self._shut()
        if self._is_closed:
            line.hang_up(None)
            ends.give_back()
            return
        self._line, self._ends = line, ends
        self._stream = self._wire = self._session = None
        self._codecs, self._secrecy = Codecs(), Secrecy(ends.shake)
        self._is_up = is_up
        self._is_handing_over = False
        if not is_up:
            if not self._is_held:
                self._is_held = True
                self._deliver(Hold(held=True))
            self._await_media()

    def ended(self, ended: CallEnded, ladder: Ladder) -> None:
        """The user agent's last word; `note_ladder` may bring some more steps."""
        if self._ended is not None:
            return
        self._ended = ended
        was = Circumstances(self.facts.is_outbound, self._is_up, self._is_handing_over)
        self.note_ladder(ladder)
        self._end(outcome_of(ended, was))
        if self._call is None:
            self.drop()

    def note_ladder(self, ladder: Ladder) -> None:
        """What went to and fro, for the record."""
        self._ladder = lines_of(ladder), ladder.dropped
        self._note()

    def drop(self) -> None:
        """Nobody will ever read from it: give everything back; idempotent."""
        self._is_closed = True
        self._shut()

    # --- the journal ------------------------------------------------------------------------------

    def snapshot(self, now: float) -> LegState | None:
        """What another process needs, or None while the call is not up."""
        stream = self._stream
        if stream is None or not self._is_up or self._is_closed or self._ended is not None:
            return None
        self._note()
        secrecy = self._secrecy.snapshot()
        return LegState(self.facts, self._rate_hz, stream.snapshot(now), secrecy, self._cname)

    @classmethod
    def taken_up(
        cls, state: LegState, line: Line, ends: Ends, session: Session, now: float
    ) -> Self:
        """The leg that another process left: its media go on at once, its agent with `connected`."""
        leg = cls(state.facts, line, ends)
        leg._rate_hz, leg._taken = state.rate_hz, state  # one of us, being made
        leg._cname, leg._is_up = state.cname, True
        leg._secrecy = Secrecy(ends.shake, state.secrecy)
        leg.agreed(session, now, is_early=False)
        return leg

    def figures(self) -> SipFigures:
        """How the call goes, brought up to date."""
        self._note()
        ledger = self._call.ledger if self._call is not None else None
        return (ledger.sip if ledger is not None else None) or self._blank()

    # --- Transport --------------------------------------------------------------------------------

    async def read(self, call: CallSide) -> Outcome:
        """Be the call's; it ends by `ended`, by the stream, or by the call."""
        self._call = call
        self._note()
        if self._outcome is not None:
            return self._outcome
        if self.facts.is_outbound and not self._is_up:
            call.wake(call.now() + call.start_seconds - GIVE_UP_EARLY, self._unanswered)
        self._begin(call.now())
        over: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        return await over  # whoever ends the call tells it so; this one is cancelled then

    async def close(self, outcome: Outcome) -> int | None:
        """Hang up with a cause that fits, and give the ports back at once."""
        if self._is_closed:
            return None
        self._is_closed = True
        self._note()
        self._feed = None
        try:
            if self._ended is None:
                self._line.hang_up(cause_for(outcome.reason))
        finally:
            self._shut()
        return None

    # --- MediaPort --------------------------------------------------------------------------------

    def send_audio(self, pcm: bytes) -> None:
        """One frame of the agent."""
        self._mouth.put(pcm)

    def send_mark(self, name: str) -> None:
        """To be told when all that waits has been played."""
        self._mouth.mark(name)

    def send_clear(self) -> None:
        """Forget what has not left."""
        self._mouth.clear()

    def send_digits(self, digits: str) -> None:
        """Press keys: as events where they are taken, else by INFO, else as tones."""
        keys = "".join(key for key in digits.upper() if key in tones.KEYS)
        session, stream = self._session, self._stream
        if not keys or session is None or stream is None:
            return
        try:
            if session.events is not None:
                stream.press(keys)
            elif self.facts.takes_info:
                for key in keys:
                    self._line.press(key)
            else:
                self._mouth.press(tones.press(keys, self._rate_hz), self._rate_hz)
        except LocalError as error:
            self._problem("digits", str(error))

    def transfer(self, target: str) -> bool:
        """Ask the far end to call `target`."""
        if self._is_closed or self._ended is not None:
            return False
        self._is_handing_over = True
        try:
            self._line.refer(target)
        except LocalError as error:
            self._is_handing_over = False
            self._problem("transfer", str(error))
            return False
        return True

    def notice(self, fields: Mapping[str, object]) -> None:
        """Nobody asked."""

    # --- rtp_wire.CallSide ------------------------------------------------------------------------

    def hear(self, pcm: bytes) -> None:
        """The far end's 20 ms, every tick."""
        feed, ear, call = self._feed, self._ear, self._call
        if feed is None or ear is None or call is None:
            return
        self._ticks += 1
        if self._ticks % KEEP_UP_TICKS == 0:
            now = call.now()
            call.media_came(now)
            ear.keep_up(now)
        try:
            if self._is_held:
                feed(ear.silence())
                return
            if ear.is_bridged:
                for frame in ear.hear_bridged(pcm):
                    feed(frame)
            else:
                feed(ear.hear(pcm))
            if self._keys.is_listening:
                self._press(self._keys.heard(pcm, call.now()))
        except Exception as error:  # noqa: BLE001 the call's boundary
            call.fail(error)

    def speak(self) -> bytes | None:
        """The agent's 20 ms, every tick; what waits on hold goes on waiting."""
        if self._is_held or not self._is_up:
            return None
        return self._mouth.next() if self._feed is not None else self._mouth.idle

    def told(self, event: StreamEvent) -> None:
        """What the stream noticed."""
        call = self._call
        now = call.now() if call is not None else 0.0
        match event:
            case Pressed(key):
                self._keys.went_down(key, now)
            case RtpDigit(key):
                self._press(self._keys.ended(key, now))
            case Moved() if call is not None:
                if self._is_promised and not self.facts.is_outbound:
                    self.connected(now)
                self._line.changed()
            case Inactive(seconds) if not self._is_handing_over:
                error = f"no media for {seconds:.0f} s"
                self._end(Outcome(reason=Reason.SOCKET_LOST, error=error))
            case _:
                pass  # RTCP's goodbye, or silence in a transfer: what they mean, signalling says

    def broken(self, error: FlowcatdError) -> None:
        """A tick failed."""
        if self._call is not None:
            self._call.fail(error)

    # --- rtp_wire.Aside: a handshake on the RTP port ----------------------------------------------

    def receive(self, data: bytes, addr: tuple[str, int], now: float) -> bool:
        """Whether it is the handshake's."""
        return self._secrecy.receive(data, addr, now)

    def tick(self, now: float) -> list[tuple[bytes, tuple[str, int] | None]]:
        """The handshake goes on; with its keys the media do."""
        secrecy, stream = self._secrecy, self._stream
        was = secrecy.shaken
        sent = secrecy.tick(now)
        if secrecy.problem:
            self._end(Outcome(reason=Reason.PROTOCOL_ERROR, error=secrecy.problem))
        if secrecy.shaken is not was and stream is not None:
            stream.shield(secrecy.guard)
            self._direct(now)
            self._line.changed()
        return sent

    # --- private ----------------------------------------------------------------------------------

    def _open(self, plan: Plan, now: float) -> Stream:
        bits, guard, taken = self._ends.bits, self._secrecy.guard, self._taken
        if taken is None:
            return Stream(plan, bits, guard)
        self._taken = None
        return Stream.taken_up(plan, taken.stream, bits, now, guard)

    def _begin(self, now: float) -> None:
        """Everything is there that a conversation needs."""
        call, session = self._call, self._session
        if call is None or session is None or not self._is_up or self._feed or self._outcome:
            return
        self._rate_hz = self._rate_hz or chain_rate(session)
        self._ear = Ear(self._rate_hz, now)
        self._bridge(session)
        name = self.facts.sip_call_id[:CALL_ID_MAX]
        started = Started(name, "", Encoding.PCM, self._rate_hz, self.facts.session())
        self._feed = call.started(started)
        self._note()
        if self._is_held:
            self._deliver(Hold(held=True))
        early, self._early = self._early, ""
        self._press(early)

    def _bridge(self, session: Session) -> None:
        """The codec may have another rate than the chain, and tones may be keys."""
        if self._stream is None:
            return
        hears_hz, says_hz = self._stream.rates
        # Comfort noise tells of a silence; without it a far end that hears nothing takes us for gone.
        self._mouth.idle = None if session.noise is not None else quiet(says_hz)
        if self._ear is None:
            return
        self._ear.bridge(hears_hz)
        self._mouth.bridge(self._rate_hz, says_hz)
        is_deaf = session.events is not None or session.codec.format.name.upper() == "OPUS"
        self._keys.listen(0 if is_deaf else hears_hz)

    def _await_media(self) -> None:
        """While nobody has answered yet there are no ticks: keep the call's own watch content."""
        call = self._call
        if call is None or self._is_closed or self._wire is not None:
            return
        now = call.now()
        call.media_came(now)
        call.wake(now + AWAIT_SECONDS, self._await_media)

    def _direct(self, now: float) -> None:
        """Who may send: nobody before the answer, and not towards who holds us."""
        session, stream = self._session, self._stream
        if session is None or stream is None:
            return
        may = self._is_up and self._secrecy.is_open
        sends, receives = session.direction.sends, session.direction.receives
        held = session.held_by_us or session.held_by_them or not sends
        held = held or (self._feed is not None and not self._is_up)
        # Who holds us may send music, or nothing: neither is missed.
        stream.direct(now, sending=may and sends, receiving=may and receives and not held)
        if held != self._is_held:
            self._is_held = held
            self._deliver(Hold(held=held))

    def _press(self, keys: str) -> None:
        if self._feed is None and self._outcome is None:
            self._early = (self._early + keys)[:EARLY_KEYS]
            return
        for key in keys:
            self._deliver(InputDtmf(key))

    def _mark_played(self, name: str) -> None:
        self._deliver(MarkPlayed(name))

    def _deliver(self, frame: Frame) -> None:
        """Into the chain, if there is one."""
        if self._feed is None or self._call is None:
            return
        try:
            self._feed(frame)
        except Exception as error:  # noqa: BLE001 the call's boundary
            self._call.fail(error)

    def _unanswered(self) -> None:
        if not self._is_up:
            self._end(Outcome(reason=Reason.NOT_ANSWERED))

    def _end(self, outcome: Outcome) -> None:
        if self._outcome is None:
            self._outcome = outcome
        if self._call is not None:
            self._call.end(outcome)

    def _shut(self) -> None:
        if self._wire is not None:
            self._wire.close()
        self._ends.give_back()

    def _problem(self, where: str, reason: str) -> None:
        if self._call is not None:
            self._call.ledger.problem(where, reason)

    def _blank(self) -> SipFigures:
        facts = self.facts
        return SipFigures(trunk=facts.trunk, direction=facts.direction, transport=facts.transport)

    def _note(self) -> None:
        """Bring the record's part up to date."""
        if self._call is None:
            return
        ledger = self._call.ledger
        sip = ledger.sip = ledger.sip or self._blank()
        if self._is_up:
            sip.status = 200
        elif self._ended is not None:
            sip.status = self._ended.status
        if self._ended is not None and self._ended.cause is not None:
            sip.cause = f"{self._ended.cause.protocol} {self._ended.cause.code}"
        if self._session is not None:
            sip.codec = self._session.codec.format.name
            sip.srtp = self._secrecy.suite
        if self._stream is not None:
            sip.media = self._stream.figures()
        sip.keys = self._keys.counts
        if self._ladder is not None:
            sip.ladder, sip.ladder_dropped = self._ladder
