"""An agent's words on their way to a far end: the rig of playout's tests, in virtual time."""

from __future__ import annotations

from itertools import pairwise

from flowcatd.frames import (
    BotStartedSpeaking,
    BotStoppedSpeaking,
    End,
    Interruption,
    LineHeard,
    PlayoutCleared,
    Start,
    TtsAudio,
    TtsStarted,
    TtsStopped,
)
from flowcatd.options import Playout as PlayoutOptions
from flowcatd.pipeline.chain import interrupt
from flowcatd.pipeline.processor import Processor, up
from flowcatd.processors.playout import Playout
from tests.builders import (
    RATE,
    Marks,
    Recording,
    Rig,
    VirtualScope,
    Wire,
    names,
    tone,
)

LEAD_MS = 240
OPTIONS = PlayoutOptions(lead_ms=LEAD_MS, queue_seconds=60)
TOLD = (BotStartedSpeaking, BotStoppedSpeaking, LineHeard, PlayoutCleared, Interruption, End)
ALL_MARKS = list(Marks)


class Caller(Processor):
    """Takes the turn whenever the agent begins, as long as `speaks`."""

    def __init__(self) -> None:
        super().__init__()
        self.speaks = False

    @up(BotStartedSpeaking)
    def bot_started(self, frame: BotStartedSpeaking) -> None:
        """No."""
        self.push_up(frame)
        if self.speaks:
            interrupt(self)


class Call:
    """An agent's words on their way to a far end."""

    def __init__(
        self, marks: Marks = Marks.NONE, latency: float = 0.0, options: PlayoutOptions = OPTIONS
    ) -> None:
        self.scope = VirtualScope()
        self.wire = Wire(self.scope, marks, latency)
        self.caller = Caller()
        self.playout = Playout(self.wire, options)
        self.behind = Recording()
        self.rig = Rig([Recording(), self.caller, self.playout, self.behind], self.scope)
        self.wire.feed = self.rig.feed
        self.rig.feed(Start(RATE))

    def say(self, text: str, ms: int, *, interruptible: bool = True, piece_ms: int = 100) -> None:
        """A whole line, made at once, in pieces."""
        self.rig.feed(TtsStarted(text, interruptible))
        self.sound(ms, piece_ms)
        self.rig.feed(TtsStopped())

    def sound(self, ms: int, piece_ms: int = 100) -> None:
        """Audio of the line under way."""
        epoch = self.rig.chain.epoch
        for at in range(0, ms, piece_ms):
            self.rig.feed(TtsAudio(epoch, tone(min(piece_ms, ms - at)), RATE))

    def hang_up(self) -> None:
        """The agent is done."""
        self.rig.feed(End("done"))

    def wait(self, ms: int) -> None:
        """Time passes."""
        self.scope.pass_for(ms / 1000)

    def told(self) -> list[str]:
        """What those behind were told, in short."""
        short: list[str] = []
        for frame in self.behind.seen:
            match frame:
                case BotStartedSpeaking(interruptible):
                    short.append("starts" if interruptible else "starts held")
                case BotStoppedSpeaking(interrupted):
                    short.append("interrupted" if interrupted else "stops")
                case LineHeard(text, _, _, complete):
                    short.append(text if complete else f"{text}…")
                case End(reason):
                    short.append(f"end {reason}")
        return short

    def told_before(self) -> list[str]:
        """The types of what went up."""
        return names(self.rig.back(BotStartedSpeaking, BotStoppedSpeaking, LineHeard))

    def holes(self) -> list[float]:
        """The pauses in what the far end played, in ms."""
        pieces = self.wire.pieces
        return [
            round((after.start - before.end) * 1000)
            for before, after in pairwise(pieces)
            if after.start - before.end > 1e-6
        ]
