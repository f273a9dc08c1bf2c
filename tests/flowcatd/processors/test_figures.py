"""Figures: what is counted, and the one latency that people feel."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flowcatd.frames import (
    BotStartedSpeaking,
    BotStoppedSpeaking,
    Frame,
    InputAudio,
    InputDtmf,
    Interruption,
    SentAudio,
    Transcription,
    UserStartedSpeaking,
    UserStoppedSpeaking,
)
from flowcatd.processors.figures import Figures
from flowcatd.record import CallRecord, Identity, Ledger, Outcome, Reason
from tests.builders import Rig, VirtualScope, at_once

BEGAN = BotStartedSpeaking(interruptible=True)
ENDED = BotStoppedSpeaking(interrupted=False)


class Call:
    """A ledger and who writes into it."""

    def __init__(self) -> None:
        self.scope = VirtualScope()
        identity = Identity(call_id="c", carrier="test", agent="test", worker_slot=0)
        self.ledger = Ledger(identity, datetime(2026, 11, 20, tzinfo=UTC), self.scope.now())
        self.figures = Figures(self.ledger)
        self.rig = Rig([self.figures], self.scope)
        self.fed: list[Frame] = []

    def feed(self, *frames: Frame) -> None:
        """These frames."""
        for frame in frames:
            self.fed.append(frame)
            self.rig.feed(frame)

    def record(self) -> CallRecord:
        """What was counted."""
        at_once(self.figures.close())
        return self.ledger.finish(self.scope.now(), Outcome(reason=Reason.COMPLETED))


def test_everything_is_counted_and_goes_on() -> None:
    """Turns, interruptions, keys, what was not understood, and seconds of audio."""
    call = Call()
    call.feed(*[InputAudio(b"", 8000, 20 * index) for index in range(100)])
    call.feed(*[SentAudio(b"", 8000, 20 * index) for index in range(50)])
    call.feed(UserStartedSpeaking(60), UserStoppedSpeaking(450), Interruption(1))
    call.feed(BEGAN, ENDED, InputDtmf("1"), InputDtmf("2"))
    call.feed(Transcription(1, "", 0.0, 0, 1), Transcription(1, "yes", 1.0, 0, 1))
    record = call.record()
    turns = record.turns
    assert (turns.user, turns.bot, turns.interruptions) == (1, 1, 1)
    assert (turns.digits, turns.no_match) == (2, 1)
    assert (record.audio_seconds.caller, record.audio_seconds.agent) == (2.0, 1.0)
    assert call.rig.tail == call.fed


def test_latency_runs_from_the_last_word_to_the_agents_first_frame() -> None:
    """The silence that ended the turn is part of it."""
    call = Call()
    call.feed(UserStartedSpeaking(60))
    call.scope.pass_for(2)
    call.feed(UserStoppedSpeaking(450))
    call.scope.pass_for(0.25)
    call.feed(BEGAN)
    (latency,) = call.record().latency.turns_ms
    assert 699 <= latency <= 700


def test_a_turn_is_answered_once() -> None:
    """An agent who goes on, or whose next line may be interrupted, answers nothing more."""
    call = Call()
    call.feed(BEGAN, ENDED, UserStartedSpeaking(60), UserStoppedSpeaking(450), BEGAN)
    call.feed(BotStartedSpeaking(interruptible=False), ENDED)
    call.scope.pass_for(9)
    call.feed(BEGAN, ENDED)
    assert call.record().latency.count == 1


def test_an_answer_to_a_caller_who_speaks_again_is_none() -> None:
    """What they said before has been overtaken."""
    call = Call()
    call.feed(UserStartedSpeaking(60), UserStoppedSpeaking(450), UserStartedSpeaking(60), BEGAN)
    assert call.record().latency.count == 0


def test_a_call_that_was_taken_up_again_has_its_seconds_already() -> None:
    """What was counted elsewhere stands, and this process's frames come on top; also in between."""
    call = Call()
    call.ledger.audio_seconds.caller = 9.5
    figures = Figures(call.ledger)
    rig = Rig([figures], call.scope)
    rig.feed(InputAudio(bytes(320), 8000, 0))
    figures.hand_in()
    figures.hand_in()
    assert call.ledger.audio_seconds.caller == pytest.approx(9.52)
    assert call.ledger.audio_seconds.agent == 0.0
