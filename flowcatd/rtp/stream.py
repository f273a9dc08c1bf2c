"""One RTP stream pair, as one leg of a call has it: datagrams in and out, PCM out and in.

    datagram → unprotect → packet → source → sequence → jitter ┐        ┌ events: digits, moves, end
                                             └─────→ digits    └ pull → 20 ms of PCM, every tick
    20 ms of PCM or None, every tick → send → datagrams            wake → reports, silence noticed

Nothing that comes from outside raises here: what breaks a format is dropped and counted. SRTP is the
shell's (`Guard`): its callables raise RtpError for what does not authenticate.

A new SSRC from the believed address must show two packets in sequence (RFC 3550 A.1), so that one
forged packet does not throw the buffer away; digits with an SSRC of their own, as some gateways send
them, are heard without that. Who sends us packets under our own SSRC collides with us, or mirrors us:
we take another one, once (§8.2), and go on hearing him, as test tools do mirror. `snapshot` is all that another process needs to take the stream up: it
goes on with the same SSRC, and believes the same source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import msgspec

from flowcatd.errors import LocalError
from flowcatd.media import PTIME_MS
from flowcatd.rtp.codec import Codec
from flowcatd.rtp.digits import KEYS, TONE_MS, Digit, DigitReader, DigitWriter, Pressed
from flowcatd.rtp.hearing import Hearing
from flowcatd.rtp.jitter import JitterOptions
from flowcatd.rtp.mos import burst_ratio, rate
from flowcatd.rtp.packet import Packet, is_rtcp, parse_packet
from flowcatd.rtp.receiver import Receiver
from flowcatd.rtp.report import Reporter, Sent
from flowcatd.rtp.rtcp import Description, Report, parse_rtcp
from flowcatd.rtp.sender import Outbound, Sender, SenderState, carried_on
from flowcatd.rtp.source import Addr, Source
from flowcatd.rtp.trouble import RtpError
from flowcatd.rtp.watchdog import Patience, Watchdog
from flowcatd.sip_figures import MediaFigures

MOST_EVENTS = 64
"""Waiting to be drained; digits have as many of their own."""

Bits = Callable[[int], int]
"""So many unguessable bits as a number: `secrets.randbits`."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The far end is (now) at this address: the first lock, or a NAT's new port."""

    addr: Addr


@dataclass(frozen=True, slots=True)
class Inactive:
    """Nothing came for so many seconds although something should have; told once."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Left:
    """The far end said goodbye by RTCP; signalling decides what that means."""


StreamEvent = Pressed | Digit | Moved | Inactive | Left


@dataclass(frozen=True, slots=True)
class Plan:
    """What was agreed for one stream, and what we want of it."""

    codecs: tuple[Codec, ...]
    """Those we can hear, of one clock and one rate; the first is what we send, unless `sends` says."""
    far: Addr | None = None
    """Where SDP says that the far end listens."""
    far_rtcp: Addr | None = None
    """Its a=rtcp line."""
    mux: bool = False
    """RTCP shares RTP's port (RFC 5761)."""
    ptime_ms: int = PTIME_MS
    digits_type: int | None = None
    """telephone-event's payload type."""
    more_digits: tuple[int, ...] = ()
    """Further types under which theirs may come."""
    digits_clock: int = 0
    """What events count in; 0 is the codecs' clock, as RFC 4733 §2.1 wants it."""
    noise_type: int | None = None
    """Comfort noise's payload type."""
    sends: Outbound | None = None
    """What we send, where its numbers are not those of what we hear (RFC 3264 §6.1)."""
    has_reports: bool = True
    """Whether the far end wants RTCP (RFC 3556)."""
    cname: bytes = b""
    """What we call ourselves in reports; tells nothing of whom or where (RFC 7022)."""
    wall_offset: float = 0.0
    """Unix time less monotonic time."""
    jitter: JitterOptions = field(default_factory=JitterOptions)
    patience: Patience = field(default_factory=Patience)

    @property
    def event_clock(self) -> int:
        """What the durations of keys count in, per second."""
        return self.digits_clock or self.codecs[0].clock_hz

    @property
    def outbound(self) -> Outbound:
        """The sender's part of it."""
        return self.sends or Outbound(
            self.codecs[0], self.ptime_ms, self.digits_type, self.noise_type
        )


@dataclass(frozen=True, slots=True)
class Guard:
    """SRTP's four directions; each raises RtpError for what it refuses, ours while there are no keys."""

    protect: Callable[[bytes], bytes]
    unprotect: Callable[[bytes], bytes]
    protect_rtcp: Callable[[bytes], bytes]
    unprotect_rtcp: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A report to be sent."""

    data: bytes
    addr: Addr


class Snapshot(msgspec.Struct, frozen=True):
    """Enough to go on with a stream in another process of this machine."""

    sender: SenderState
    at: float
    """Monotonic seconds, which all processes of a machine share."""
    locked: Addr | None
    far_ssrc: int
    far_sequence: int


class Stream:
    """One leg's audio, both ways."""

    def __init__(
        self, plan: Plan, bits: Bits, guard: Guard | None = None, state: SenderState | None = None
    ) -> None:
        """`state` continues a stream of ours that another process sent; without it one begins."""
        if state is None:
            # RFC 3550 §5.1: all three begin at random; below 2^15, libsrtp's advice, so that no
            # early loss wraps the number before the far end has counted its first cycle.
            state = SenderState(bits(32), bits(15), bits(32), 0, 0)
        self._plan, self._guard, self._bits = plan, guard, bits
        self._clock = plan.codecs[0].clock_hz
        self._sender = Sender(plan.outbound, state)
        self._sender.digits = DigitWriter(plan.event_clock)
        self._digit_types = frozenset((plan.digits_type, *plan.more_digits))
        self._receiver = Receiver(plan.codecs, plan.noise_type, plan.jitter, bits(13))
        self._source = Source(plan.far, rtcp=plan.far_rtcp, mux=plan.mux)
        self._hearing = Hearing()
        self._digits = DigitReader(plan.event_clock)
        self._reporter = Reporter(plan.cname, plan.wall_offset, lambda: bits(24) / (1 << 24))
        self._watchdog = Watchdog(plan.patience)
        self._events: list[StreamEvent] = []
        self._outgoing: list[Outgoing] = []
        self._sending = True
        self._has_evaded = False
        self.bad = 0
        """Datagrams that broke a format or had an unknown payload type."""

    @classmethod
    def taken_up(
        cls, plan: Plan, snapshot: Snapshot, bits: Bits, now: float, guard: Guard | None = None
    ) -> Self:
        """The stream that another process left at `snapshot`: same SSRC, numbers going on."""
        state = carried_on(snapshot.sender, plan.outbound, now - snapshot.at)
        stream = cls(plan, bits, guard, state)
        if snapshot.locked is not None:
            host, port = snapshot.locked
            far = snapshot.far_ssrc, snapshot.far_sequence
            stream._source.restore((host, port), *far, now)  # ours, being made
        stream._reporter.begin(now)  # as above
        return stream

    # --- what we are told ----------------------------------------------------------------------

    def receive_datagram(self, data: bytes, addr: Addr, now: float) -> None:
        """Something came on the RTP port. Drain `events` afterwards."""
        if self._plan.mux and is_rtcp(data):
            self.receive_rtcp(data, addr, now)
            return
        try:
            self._receive(data, addr, now)
        except RtpError:
            self.bad += 1

    def receive_rtcp(self, data: bytes, addr: Addr, now: float) -> None:
        """Something came on the RTCP port. Drain `events` afterwards."""
        if not self._source.accept_rtcp(addr):
            return
        try:
            if self._guard is not None:
                data = self._guard.unprotect_rtcp(data)
            packets = parse_rtcp(data)
        except RtpError:
            self.bad += 1
            return
        self._watchdog.heard_at = now
        ours = self._sender.ssrc
        if self._reporter.receive(packets, (ours, self._hearing.ssrc), len(data), now):
            self._tell(Left())
        if any(isinstance(each, Report | Description) and each.ssrc == ours for each in packets):
            self._evade(now)

    def signal(self, plan: Plan) -> None:
        """Signalling agreed on other media (re-INVITE, UPDATE, the answer after early media)."""
        before, self._plan = self._plan, plan
        self._digit_types = frozenset((plan.digits_type, *plan.more_digits))
        self._source.signal(plan.far, plan.far_rtcp, mux=plan.mux)
        if plan.outbound != before.outbound:
            self._sender.change(plan.outbound)
        if (plan.codecs, plan.noise_type) != (before.codecs, before.noise_type):
            self._clock = plan.codecs[0].clock_hz
            self._receiver = self._receiver.successor(plan.codecs, plan.noise_type, plan.jitter)
            self._recount(before.codecs[0].rate_hz, plan.codecs[0].rate_hz)
            self._hearing.begin_anew()
            self._digits.reclock(plan.event_clock)
        if plan.event_clock != before.event_clock:
            self._digits.reclock(plan.event_clock)
            self._sender.digits = DigitWriter(plan.event_clock)

    def shield(self, guard: Guard | None) -> None:
        """From now on SRTP as `guard` does it, or none."""
        self._guard = guard

    def direct(self, now: float, *, sending: bool, receiving: bool) -> None:
        """The direction agreed on: from the answer on both, on hold one or none (RFC 3264 §8.4)."""
        self._sending = sending
        self._watchdog.watch(now, expected=receiving)
        self._reporter.begin(now)

    def wake(self, now: float) -> None:
        """Time passed. Drain `events`, send `outgoing`."""
        self._digits.wake(now)
        silent = self._watchdog.wake(now)
        if silent is not None:
            self._tell(Inactive(silent))
        if self._reporter.wake(now):
            self._report(now)

    # --- what we want --------------------------------------------------------------------------

    def pull(self, now: float) -> bytes:
        """The next 20 ms that are heard; always that long, whatever came."""
        return self._receiver.pull(now)

    def send(self, pcm: bytes | None) -> list[bytes]:
        """One tick of ours, None for silence: datagrams for `destination`."""
        if not self._sending:
            self._sender.skip()
            return []
        sent = self._sender.send(pcm)
        if self._guard is None:
            return sent
        try:
            return [self._guard.protect(data) for data in sent]
        except RtpError:
            return []  # there are no keys yet, and nothing goes in the clear

    def press(self, keys: str, tone_ms: int = TONE_MS) -> None:
        """Press keys towards the far end; LocalError where it takes none, or not these."""
        outbound = self._plan.outbound
        if outbound.digits_type is None:
            raise LocalError("the far end takes no telephone-event")
        if {KEYS.find(key) for key in keys.upper()} - outbound.events:
            raise LocalError("a key that the far end takes no event of")
        self._sender.digits.press(keys, tone_ms)

    def say_goodbye(self, now: float) -> None:
        """The call ends: a last report with BYE is in `outgoing`, if anything of us was ever sent."""
        if self._sender.packets or self._reporter.has_reported:  # RFC 3550 §6.3.7
            self._report(now, bye=True)

    # --- what there is to collect --------------------------------------------------------------

    def events(self) -> list[StreamEvent]:
        """Drain what the call should know."""
        told: list[StreamEvent] = [*self._events, *self._digits.events()]
        self._events.clear()
        return told

    def outgoing(self) -> list[Outgoing]:
        """Drain the reports to be sent."""
        sent, self._outgoing = self._outgoing, []
        return sent

    def wake_at(self) -> float | None:
        """The earliest time at which something is due."""
        dues = (self._digits.wake_at(), self._watchdog.wake_at(), self._reporter.wake_at())
        return min((due for due in dues if due is not None), default=None)

    @property
    def rates(self) -> tuple[int, int]:
        """Samples per second of what is pulled, and of what is to be sent."""
        return self._plan.codecs[0].rate_hz, self._plan.outbound.codec.rate_hz

    @property
    def destination(self) -> Addr | None:
        """Where datagrams go."""
        return self._source.destination

    def snapshot(self, now: float) -> Snapshot:
        """Where the stream stands."""
        return Snapshot(self._sender.state, now, self._source.locked, *self._source.heard)

    def figures(self) -> MediaFigures:
        """What became of it so far."""
        hearing, jitter, heard = self._hearing, self._receiver.jitter, self._receiver.heard
        reporter, per_ms = self._reporter, self._clock / 1000
        samples_ms = self._plan.codecs[0].rate_hz / 1000
        lost = max(0, hearing.lost + jitter.duplicates)
        missed = lost + jitter.late + jitter.discarded
        share = missed / max(1, hearing.expected)
        trip = reporter.round_trip
        # Mouth to ear: half the way round, the buffer, and a frame at either end.
        delay_ms = (trip or 0.0) * 500 + jitter.delay / per_ms + 2 * PTIME_MS
        ratio = burst_ratio(missed, heard.runs, hearing.expected)
        quality = rate(self._plan.codecs[0].name, share, delay_ms, ratio)
        remote = reporter.remote
        return MediaFigures(
            packets_in=hearing.received,
            packets_out=self._sender.packets,
            octets_out=self._sender.octets,
            lost=lost,
            late=jitter.late,
            duplicates=jitter.duplicates,
            discarded=jitter.discarded,
            foreign=self._source.foreign,
            bad=self.bad,
            sources=hearing.sources,
            jitter_ms=round(hearing.jitter / per_ms, 2),
            delay_ms=round(jitter.delay / per_ms, 1),
            concealed_ms=int(heard.concealed / samples_ms),
            background_ms=int(heard.background / samples_ms),
            shortened_ms=int(heard.shortened / samples_ms),
            lengthened_ms=int(heard.lengthened / samples_ms),
            round_trip_ms=None if trip is None else round(trip * 1000, 2),
            remote_loss=None if remote is None else remote.fraction_lost / 256,
            remote_jitter_ms=None if remote is None else round(remote.jitter / per_ms, 2),
            r=round(quality.r, 1),
            mos=round(quality.mos, 2),
        )

    # --- the way in ------------------------------------------------------------------------------

    def _receive(self, data: bytes, addr: Addr, now: float) -> None:
        if self._guard is not None:
            data = self._guard.unprotect(data)
        packet = parse_packet(data)
        kind = packet.payload_type
        is_digit = kind in self._digit_types
        if not (is_digit or self._receiver.knows(kind)):
            raise RtpError(f"payload type {kind} was not agreed on")
        source = self._source
        moved = source.locked != addr
        if not source.accept(packet, addr, now):
            return
        self._watchdog.heard_at = now
        if moved:
            self._tell(Moved(addr))
            self._reporter.begin(now)
        if packet.ssrc == self._sender.ssrc:
            self._evade(now)
        hearing = self._hearing
        if packet.ssrc != hearing.ssrc and not self._meet(packet, now, is_digit=is_digit):
            return
        sequence = hearing.receive(packet.sequence)
        if sequence is None:
            return
        if hearing.restarted:
            hearing.restarted = False
            self._receiver.reset()
        if is_digit:
            self._receiver.jitter.note(sequence)
            self._digits.receive(packet.payload, packet.timestamp, now, marker=packet.marker)
            return
        hearing.measure(now * self._clock, packet.timestamp, self._clock)
        self._receiver.push(sequence, packet.timestamp, kind, packet.payload, now)

    def _recount(self, was_hz: int, is_hz: int) -> None:
        """What was counted in samples of the old rate, in those of the new one."""
        heard = self._receiver.heard
        for name in ("concealed", "background", "shortened", "lengthened"):
            setattr(heard, name, getattr(heard, name) * is_hz // was_hz)

    def _meet(self, packet: Packet, now: float, *, is_digit: bool) -> bool:
        """Another SSRC than before: whether it is now the one we hear."""
        hearing = self._hearing
        if hearing.ssrc >= 0 and is_digit:
            self._digits.receive(packet.payload, packet.timestamp, now, marker=packet.marker)
            return False
        if not hearing.meets(packet.ssrc, packet.sequence):
            return False
        if hearing.sources > 1:
            self._receiver.reset()
            self._digits.reset()
        return True

    def _evade(self, now: float) -> None:
        """The far end sends under our SSRC: say goodbye to it, and take another; once only."""
        if self._has_evaded:
            return
        self._has_evaded = True
        self.say_goodbye(now)
        self._sender.rename(self._bits(32), self._bits(15))

    def _report(self, now: float, *, bye: bool = False) -> None:
        to = self._source.rtcp_destination
        if to is None or not self._plan.has_reports:
            return
        sender, hearing = self._sender, self._hearing
        sent = Sent(sender.ssrc, sender.timestamp, *sender.counted)
        block = None
        if hearing.has_news:
            block = hearing.block(*self._reporter.last_report(hearing.ssrc, now))
        data = self._reporter.make(sent, block, now, bye=bye)
        if self._guard is not None:
            try:
                data = self._guard.protect_rtcp(data)
            except RtpError:
                return  # there are no keys yet, and nothing goes in the clear
        if len(self._outgoing) >= MOST_EVENTS:
            raise LocalError("reports of a stream were not sent")
        self._outgoing.append(Outgoing(data, to))

    def _tell(self, event: StreamEvent) -> None:
        if len(self._events) >= MOST_EVENTS:
            raise LocalError("events of a stream were not drained")
        self._events.append(event)
