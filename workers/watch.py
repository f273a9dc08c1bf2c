"""What becomes of calls, told to everybody who counts: figures, and events for subscribers.

The wiring calls this at each step of a call's life. Events name the call and how it went, never what
was said, pressed or who it was. While the worker gives up what can wait, events are not published
and are counted as dropped; figures are always kept.

Of a call over SIP the record holds what became of its signalling and media (`record.SipFigures`), so
that is counted once, at its end; what stands in no record (keys by their kind, how long an INVITE
waited) is told as it happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from flowcatd.control import CallEvent
from flowcatd.metrics import Metrics
from flowcatd.record import CallRecord, Identity
from flowcatd.sip_figures import MediaFigures, SipFigures

Publish = Callable[[CallEvent], None]

SIP: Final = "sip"
"""The carrier's name of a call over SIP."""
_ANSWERED: Final = 200


class CallWatch:
    """Counts and publishes one worker's calls."""

    def __init__(
        self, slot: int, metrics: Metrics, publish: Publish, defers: Callable[[], bool]
    ) -> None:
        """`defers` tells whether events have to wait (that is, are left out) for lack of time."""
        self._slot = slot
        self._metrics = metrics
        self._publish = publish
        self._defers = defers
        self.left_out = 0
        """Events that were not published for lack of time."""

    def started(self, identity: Identity) -> None:
        """A media connection became a call."""
        self._metrics.add("calls_started")
        self._tell("started", identity)

    def answered(self, identity: Identity) -> None:
        """Its media flows."""
        self._metrics.add("calls_answered")
        self._tell("answered", identity)

    def resumed(self, identity: Identity) -> None:
        """It was taken up again after its worker had died."""
        self._metrics.add("calls_resumed")
        if identity.carrier == SIP:
            self._metrics.add("calls_adopted")
        self._tell("resumed", identity)

    def refused(self, cause: str) -> None:
        """A connection did not become a call; `cause` is a word of metrics.REFUSALS."""
        self._metrics.add("calls_refused", label=cause)
        if not self._left_out():
            self._publish(
                CallEvent(event="refused", at_utc=time.time(), slot=self._slot, reason=cause)
            )

    def ended(self, record: CallRecord) -> None:
        """It is over, and this is its record."""
        metrics = self._metrics
        metrics.add("calls_ended", label=record.reason)
        metrics.observe("call_duration_seconds", record.duration_seconds)
        for latency_ms in record.latency.turns_ms:
            metrics.observe("answer_latency_seconds", latency_ms / 1000)
        metrics.add("turns", record.turns.user, label="caller")
        metrics.add("turns", record.turns.bot, label="agent")
        metrics.add("interruptions", record.turns.interruptions)
        metrics.add("audio_frames", round(record.audio_seconds.caller * 50), label="in")
        metrics.add("audio_frames", round(record.audio_seconds.agent * 50), label="out")
        metrics.add("records_lost", sum(p.where in _KEPT for p in record.problems))
        if record.sip is not None:
            self._ended_sip(record.sip)
        if self._left_out():
            return
        self._publish(
            CallEvent(
                event="ended",
                at_utc=time.time(),
                slot=self._slot,
                call_id=record.call_id,
                run_id=record.run_id,
                carrier=record.carrier,
                agent=record.agent,
                reason=record.reason,
                ended_by=record.ended_by,
                seconds=record.duration_seconds,
                turns=record.turns.user,
                direction=record.sip.direction if record.sip is not None else "",
                trunk=record.sip.trunk if record.sip is not None else "",
            )
        )

    def unkept(self) -> None:
        """A call's record could not be written; it cannot say so itself."""
        self._metrics.add("records_lost")

    def _ended_sip(self, sip: SipFigures) -> None:
        self._metrics.add("sip_calls", label=sip.direction)
        if sip.direction == "outbound" and sip.status != _ANSWERED:
            self._metrics.add("sip_failed_outbound")
        for kind, presses in sip.keys.items():
            self._metrics.add("dtmf", presses, label=kind)
        if sip.media is not None:
            self._ended_media(sip.media)

    def _ended_media(self, media: MediaFigures) -> None:
        metrics = self._metrics
        metrics.add("rtp_packets", media.packets_in, label="in")
        metrics.add("rtp_packets", media.packets_out, label="out")
        metrics.add("rtp_lost", media.lost)
        metrics.add("rtp_late", media.late)
        metrics.add("rtp_concealed_seconds", media.concealed_ms / 1000)
        metrics.add("rtp_foreign", media.foreign)
        metrics.add("rtp_bad", media.bad)
        if media.packets_in:  # who heard nothing has no opinion of how it sounded
            metrics.observe("call_mos", media.mos)
            metrics.observe("call_jitter_seconds", media.jitter_ms / 1000)

    def _tell(self, event: str, identity: Identity) -> None:
        if self._left_out():
            return
        self._publish(
            CallEvent(
                event=event,  # type: ignore[arg-type]
                at_utc=time.time(),
                slot=self._slot,
                call_id=identity.call_id,
                run_id=identity.run_id,
                carrier=identity.carrier,
                agent=identity.agent,
            )
        )

    def _left_out(self) -> bool:
        if self._defers():
            self.left_out += 1
            return True
        return False


_KEPT = frozenset({"recording", "transcript"})
"""Where a record's problem stands when something beside it could not be written."""
