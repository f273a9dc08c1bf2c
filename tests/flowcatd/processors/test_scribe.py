"""Scribe: the journal is written once a round, when the round is over, and now and then."""

from __future__ import annotations

import pytest

from flowcatd.frames import (
    BotStartedSpeaking,
    BotStoppedSpeaking,
    Frame,
    InputAudio,
    InputDtmf,
    LineHeard,
    Start,
    Transcription,
)
from flowcatd.journal import PERIOD_SECONDS, SPARING_PERIODS
from flowcatd.processors.scribe import Scribe
from tests.builders import Rig, VirtualScope

TURNS = [
    Start(8000),
    Transcription(0, "x", 1.0, 0, 1),
    InputDtmf("1"),
    BotStartedSpeaking(interruptible=True),
    BotStoppedSpeaking(interrupted=False),
    LineHeard("x", 0, 1, complete=True),
]


class Call:
    """A scribe, and when it wrote."""

    def __init__(self) -> None:
        self.scope = VirtualScope()
        self.written: list[float] = []
        self.is_sparing = False
        scribe = Scribe(lambda: self.written.append(self.scope.now()), lambda: self.is_sparing)
        self.rig = Rig([scribe], self.scope)

    def count(self, seconds: float) -> int:
        """How often it writes in this time."""
        before = len(self.written)
        self.scope.pass_for(seconds)
        return len(self.written) - before


@pytest.mark.parametrize("frame", TURNS, ids=lambda frame: type(frame).__name__)
def test_a_turn_is_written_when_its_round_is_over(frame: Frame) -> None:
    """Not while the frame is on its way, and it goes on."""
    call = Call()
    call.rig.feed(frame)
    assert call.written == []
    assert call.rig.tail == [frame]
    assert call.count(0) == 1


def test_many_frames_of_one_round_are_one_journal() -> None:
    """However many."""
    call = Call()
    for frame in TURNS * 10:
        call.rig.feed(frame)
    assert call.count(1) == 1


def test_a_quiet_call_is_written_every_period_and_audio_is_nothing() -> None:
    """Nobody writes for a frame of audio."""
    call = Call()
    call.rig.feed(Start(8000))
    assert call.count(0) == 1
    call.rig.feed(InputAudio(bytes(320), 8000, 0))
    assert call.count(10 * PERIOD_SECONDS) == 10


def test_a_worker_that_is_late_writes_its_turns_and_little_more() -> None:
    """One of four periods; and every one again when it is not late any more."""
    call = Call()
    call.rig.feed(Start(8000))
    assert call.count(0) == 1
    call.is_sparing = True
    assert call.count(SPARING_PERIODS * PERIOD_SECONDS * 3) == 3
    call.rig.feed(InputDtmf("1"))
    assert call.count(PERIOD_SECONDS / 2) == 1
    call.is_sparing = False
    assert call.count(PERIOD_SECONDS) == 1
