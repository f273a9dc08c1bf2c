"""Playout: the last processor before the far end, and the owner of the playout clock.

Audio comes in pieces of any length and leaves in frames of 20 ms, as far ahead of hearing as the
lead allows; what is beyond it waits here, bounded. With nothing waiting and room in the lead a
frame leaves in the same call that brought it, so an echo costs no timer.

What it tells the others, both ways along the chain, is the truth of what was heard:
BotStartedSpeaking, LineHeard, BotStoppedSpeaking; the recorder, behind it, gets SentAudio and
PlayoutCleared with their places on media time. End waits here until all of it has been heard, and so
does Transfer, which is then asked of the port: what stands behind it waits for what comes of that.

On hold (Hold) nothing leaves, End and Transfer neither, and nothing counts as heard: a line that was
being said goes on afterwards where it was. So a brain that waits for its line to be heard waits, too, and
nobody is hung up for being silent on hold.

They are told downstream first: what is behind only listens, what is before may answer at once, by
a frame or an interruption that comes back before the push returns.
"""

from __future__ import annotations

import copy

from flowcatd.frames import (
    BotStartedSpeaking,
    BotStoppedSpeaking,
    Cancel,
    End,
    Failure,
    Hold,
    Interruption,
    LineHeard,
    MarkPlayed,
    OutputAudio,
    OutputDtmf,
    PlayoutCleared,
    SentAudio,
    Start,
    Transfer,
    TransferFailed,
    TtsAudio,
    TtsStarted,
    TtsStopped,
)
from flowcatd.media import PTIME_MS, MediaPort, frame_bytes
from flowcatd.options import Playout as PlayoutOptions
from flowcatd.pipeline.processor import Processor, down
from flowcatd.pipeline.scope import Cancellable
from flowcatd.playout import Backlog, Heard, PlayoutClock, Stretch

_Between = TtsStarted | TtsStopped | Transfer | End
"""What stands between frames of audio."""


class Playout(Processor):
    """Paces what the agent says and knows what was heard of it."""

    def __init__(self, port: MediaPort, options: PlayoutOptions) -> None:
        super().__init__()
        self._port = port
        lead_ms = min(options.lead_ms, port.lead_ms or options.lead_ms)
        self.clock = PlayoutClock(lead_ms, has_marks=port.has_marks)
        self._limit = int(options.queue_seconds * 1000) // PTIME_MS
        self._backlog: Backlog[_Between] = Backlog(1)  # replaced by Start
        self._rate_hz = 0
        self._wake: Cancellable | None = None
        self._due = 0.0
        self._open = False  # a line has begun here that has not ended here
        self._skipping = False  # the line coming in did not fit and is left out
        self._speaking = False
        self._interruptible = True
        self._announce: bool | None = None  # a line has begun, none of it has left: interruptible?
        self._overflowed = False
        self._handing_over = False  # the port was asked for a transfer, and its end is not known
        self._failed = False  # a transfer was asked for and refused

    def under_way(self) -> list[Heard]:
        """The lines being heard now, as far as they were; none changes by asking."""
        if self.clock.quiet:
            return []
        now = self.scope.now()
        unsent_ms, made = self._rest_of_line()
        _, lines = copy.deepcopy(self.clock).cleared(now, unsent_ms=unsent_ms, made=made)
        return [line for line in lines if line.text]

    # --- what comes down the chain ----------------------------------------------------------------

    @down(Start)
    def start(self, frame: Start) -> None:
        """Media time begins."""
        self._rate_hz = frame.rate_hz
        self._backlog = Backlog(frame_bytes(frame.rate_hz))
        self.clock.start(self.scope.now())
        self.push(frame)

    @down(OutputAudio, TtsAudio)
    def audio(self, frame: OutputAudio | TtsAudio) -> None:
        """More to be heard."""
        if self._skipping:
            return
        backlog, now = self._backlog, self.scope.now()
        if backlog.passes(frame.pcm) and self.clock.may_send(now):
            self._send(frame.pcm, now)
            return
        nothing_waits = backlog.first is None
        backlog.put(frame.pcm)
        if nothing_waits:
            self._send_audio(now)
            if frame.epoch < self.epoch.value:
                return  # sending it gave the caller the turn: the rest is of the turn before
        if backlog.trim(self._limit):
            self._overflow()
        if backlog.first is not None:
            self._arm(self.clock.send_at())

    @down(TtsStarted)
    def line_started(self, frame: TtsStarted) -> None:
        """The audio that follows is a line; one that finds the queue full is left out whole."""
        self._skipping = self._backlog.size >= self._limit
        self._open = not self._skipping
        if self._skipping:
            self._overflow()
        else:
            self._stand(frame)

    @down(TtsStopped)
    def line_stopped(self, frame: TtsStopped) -> None:
        """The line is complete."""
        self._skipping = False
        if self._open:
            self._open = False
            self._backlog.fill()
            self._stand(frame)

    @down(End)
    def end(self, frame: End) -> None:
        """Nothing more will be said; the first End is the one that waits."""
        if self._failed:
            return  # the End of a transfer that came to nothing went ahead of it
        if not any(isinstance(item, End) for item in self._backlog.between()):
            self._backlog.fill()
            self._stand(frame)

    @down(Transfer)
    def transfer(self, frame: Transfer) -> None:
        """Hand the caller over, behind all that is being said."""
        self._backlog.fill()
        self._stand(frame)

    @down(TransferFailed)
    def transfer_failed(self, frame: TransferFailed) -> None:
        """Nobody took the caller; told once, and only about what was asked."""
        if self._handing_over:
            self._not_taken(frame.reason)

    @down(Hold)
    def hold(self, frame: Hold) -> None:
        """Nobody listens, or somebody does again."""
        now = self.scope.now()
        if frame.held:
            self.clock.hold(now)
        else:
            self.clock.resume(now)
        self.push(frame)
        self._advance()

    @down(OutputDtmf)
    def digits(self, frame: OutputDtmf) -> None:
        """Keys towards the far end."""
        self._port.send_digits(frame.digits)

    @down(MarkPlayed)
    def mark_played(self, frame: MarkPlayed) -> None:
        """The far end's playout passed a mark."""
        if self.clock.mark_played(frame.name, self.scope.now()):
            self._advance()

    @down(Interruption)
    def interruption(self, frame: Interruption) -> None:
        """The caller took the turn: forget what waits, and make the far end forget too."""
        kept = (End, Transfer)
        self._forget([item for item in self._backlog.between() if isinstance(item, kept)])
        self.push(frame)
        self._advance()

    @down(Cancel)
    def cancel(self, frame: Cancel) -> None:
        """The call is over: what has not been heard by now never will be."""
        self._forget([])
        self.push(frame)

    # --- the way out ------------------------------------------------------------------------------

    def _stand(self, frame: _Between) -> None:
        """Something that stands between frames of audio takes its place behind them.

        That the agent has stopped is not told from here but by a wake: the next line may follow at once.
        """
        self._backlog.stand(frame)
        self._send_waiting()
        self._tell(self.clock.heard(self.scope.now()))
        self._arm_next()

    def _overflow(self) -> None:
        if not self._overflowed:
            self._overflowed = True
            self.push_up(Failure("playout", "the agent says more than the queue holds"))

    def _forget(self, keep: list[_Between]) -> None:
        now = self.scope.now()
        unsent_ms, made = self._rest_of_line()
        self._backlog.clear(keep)
        self._announce = None
        self._open = self._skipping = False
        if not self._speaking and self.clock.drained(now):
            return
        self._port.send_clear()
        position, lines = self.clock.cleared(now, unsent_ms=unsent_ms, made=made)
        self.push(PlayoutCleared(position))
        self._tell(lines)
        self._stopped(interrupted=True)

    def _rest_of_line(self) -> tuple[int, bool]:
        """How much of the line being sent waits here, in ms, and whether that is all of its rest."""
        frames, made = self._backlog.until_between()
        return frames * PTIME_MS, made

    def _send(self, pcm: bytes, now: float) -> None:
        if self._announce is not None:
            epoch = self.epoch.value
            self._speak_up()
            if self.epoch.value != epoch:
                return  # the caller has the turn, and this frame is of the turn before
        media_ms = self.clock.sent(now)
        self._port.send_audio(pcm)
        self.push(SentAudio(pcm, self._rate_hz, media_ms))

    def _speak_up(self) -> None:
        """The first frame of a line is about to leave."""
        interruptible, self._announce = self._announce is not False, None
        if not self._speaking or self._interruptible is not interruptible:
            self._speaking = True
            self._interruptible = interruptible
            frame = BotStartedSpeaking(interruptible)
            self.push(frame)
            self.push_up(frame)

    def _advance(self) -> None:
        """Send what may be sent, tell what was heard, and ask to be woken for the rest."""
        self._send_waiting()
        self._tell(self.clock.heard(self.scope.now()))
        if self._speaking and self.clock.quiet and not self._line_waits():
            self._stopped(interrupted=False)
        self._arm_next()

    def _send_waiting(self) -> None:
        now = self.scope.now()
        while not self._waits:
            self._send_audio(now)
            item = self._backlog.first
            if item is None or isinstance(item, Stretch):
                return
            if isinstance(item, End):
                if not self._finish(item, now):
                    return
            elif isinstance(item, Transfer):
                if not self._hand_over(item, now):
                    return
            else:
                self._backlog.take()
                self._between(item)

    def _send_audio(self, now: float) -> None:
        """The frames that stand first, as far as the lead allows."""
        backlog = self._backlog
        while isinstance(first := backlog.first, Stretch) and self.clock.may_send(now):
            self._send(backlog.take_frame(first), now)

    def _between(self, item: TtsStarted | TtsStopped) -> None:
        if isinstance(item, TtsStarted):
            self._end_line()  # should nobody have stopped the one before
            self.clock.line_started(item.text)
            self._announce = item.interruptible
            return
        epoch = self.epoch.value
        if self._announce is not None:
            self._speak_up()  # a line without a sound is a turn all the same: the brain waits for it
        if self.epoch.value == epoch:
            self._end_line()

    def _end_line(self) -> None:
        mark = self.clock.line_stopped()
        if mark is not None:
            self._port.send_mark(mark)

    def _finish(self, end: End, now: float) -> bool:
        """Hand End on once everything has been heard; a line that nobody ended ends here."""
        self._end_line()
        self._tell(self.clock.heard(now))
        if not self.clock.drained(now):
            return False
        self._backlog.clear([])
        if self._speaking:
            self._stopped(interrupted=False)
        self.push(end)
        return True

    def _hand_over(self, transfer: Transfer, now: float) -> bool:
        """Ask the port once everything has been heard; what stands behind waits for what comes of it."""
        self._end_line()
        self._tell(self.clock.heard(now))
        if not self.clock.drained(now):
            return False
        self._backlog.take()
        self._handing_over = True
        if self._speaking:
            self._stopped(interrupted=False)
        if not self._port.transfer(transfer.target):
            self._not_taken("the far end cannot be asked for a transfer")
        return True

    def _not_taken(self, reason: str) -> None:
        self._handing_over, self._failed = False, True
        self._backlog.clear([])
        self.push_up(Failure("transfer", reason))
        self.push(End("transfer_failed"))

    def _stopped(self, *, interrupted: bool) -> None:
        if self._speaking:
            self._speaking = False
            frame = BotStoppedSpeaking(interrupted)
            self.push(frame)
            self.push_up(frame)

    def _tell(self, lines: list[Heard]) -> None:
        for line in lines:
            frame = LineHeard(line.text, line.start_ms, line.end_ms, line.complete)
            self.push(frame)
            self.push_up(frame)

    def _line_waits(self) -> bool:
        return any(isinstance(item, TtsStarted) for item in self._backlog.between())

    @property
    def _waits(self) -> bool:
        """Whether nothing may leave: something else than time has to happen first."""
        return self._handing_over or self.clock.is_held

    # --- time -------------------------------------------------------------------------------------

    def _arm_next(self) -> None:
        waits = self._backlog.first
        if isinstance(waits, Stretch):
            self._arm(self.clock.send_at())
            return
        due = self.clock.heard_at()
        if due is None and (waits is not None or (self._speaking and self.clock.quiet)):
            due = self.clock.at(self.clock.end_ms + self.clock.lag_ms)
        if due is not None:
            self._arm(max(due, self.scope.now() + 0.001))

    def _arm(self, due: float) -> None:
        """Be woken by then; a wake too many does no harm, one too late is a hole in a word."""
        if self._waits:
            return  # a wake would find nothing to do, and ask for the next at once
        if self._wake is not None:
            if self._due <= due:
                return
            self._wake.cancel()
        self._due = due
        self._wake = self.scope.wake(due, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._advance()
