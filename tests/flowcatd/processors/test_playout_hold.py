"""Playout on hold and in a transfer: what waits, what goes on, and what ends the call."""

from __future__ import annotations

import pytest

from flowcatd.frames import (
    BotStoppedSpeaking,
    End,
    Failure,
    Hold,
    LineHeard,
    Transfer,
    TransferFailed,
)
from tests.builders import Marks
from tests.flowcatd.processors.playing import ALL_MARKS, Call


@pytest.mark.parametrize("marks", [Marks.NONE, Marks.TWILIO])
@pytest.mark.parametrize("pause", [0.5, 30.0, 3000.0])
def test_a_line_is_heard_later_by_as_long_as_the_hold(marks: Marks, pause: float) -> None:
    """Nothing leaves and nothing counts as heard; then the rest of the line does, whole.

    A far end with marks does not play on hold, so its marks come later as well: here, all were sent.
    """
    call = Call(Marks.NONE if marks is Marks.NONE else Marks.LOST)
    call.say("a line of words", 2000)
    call.scope.pass_for(0.5)
    call.rig.feed(Hold(held=True))
    sent = len(call.wire.sent)
    call.scope.pass_for(pause)
    assert len(call.wire.sent) == sent
    assert not call.rig.out(LineHeard, BotStoppedSpeaking)
    call.rig.feed(Hold(held=False))
    call.scope.pass_for(1.4)
    assert not call.rig.out(LineHeard)
    call.scope.pass_for(0.2 if marks is Marks.NONE else 2.0)
    (line,) = call.rig.out(LineHeard)
    assert line.complete
    assert line.end_ms == pytest.approx(2000 + pause * 1000, abs=20)
    assert len(call.wire.sent) == 100


@pytest.mark.parametrize("marks", ALL_MARKS)
def test_what_is_said_on_hold_waits(marks: Marks) -> None:
    """A brain that asks again is not told that it was heard, so it asks no third time."""
    call = Call(marks)
    call.rig.feed(Hold(held=True))
    call.say("are you there?", 500)
    call.rig.feed(End("completed"))
    call.scope.pass_for(600)
    assert not call.wire.sent
    assert not call.rig.out(BotStoppedSpeaking, End)
    call.rig.feed(Hold(held=False))
    call.scope.pass_for(4)
    assert [line.text for line in call.rig.out(LineHeard)] == ["are you there?"]
    assert call.rig.out(End) == [End("completed")]


def test_a_transfer_waits_for_the_line_before_it() -> None:
    """And End behind it waits for what comes of it."""
    call = Call()
    call.wire.takes_transfers = True
    call.say("I connect you", 1000)
    call.rig.feed(Transfer("sip:sales@example.com"))
    call.rig.feed(End("transferred"))
    call.scope.pass_for(0.9)
    assert not call.wire.transfers
    call.scope.pass_for(0.2)
    assert call.wire.transfers == ["sip:sales@example.com"]
    call.scope.pass_for(60)
    assert not call.rig.out(End)
    call.rig.feed(TransferFailed("nobody answered"))
    assert call.rig.out(End) == [End("transfer_failed")]
    assert call.rig.back(Failure) == [Failure("transfer", "nobody answered")]
    call.rig.feed(TransferFailed("once more"))
    call.scope.pass_for(60)
    assert len(call.rig.out(End)) == 1


def test_where_nobody_can_be_asked_the_transfer_fails_at_once() -> None:
    """As carriers' sockets have it."""
    call = Call()
    call.rig.feed(Transfer("sip:sales@example.com"))
    call.rig.feed(End("transferred"))
    call.scope.pass_for(1)
    assert call.rig.out(End) == [End("transfer_failed")]


def test_a_failure_that_nobody_asked_for_is_nothing() -> None:
    """No transfer is under way."""
    call = Call()
    call.rig.feed(TransferFailed("late"))
    assert not call.rig.out(End)
