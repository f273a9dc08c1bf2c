"""Think: what happens is told to the brain, and what the brain wants done is done, in order."""

from __future__ import annotations

from flowcatd.agent.brain import CallHook, HangUp, Listen, Moved, Say, Transfer
from flowcatd.frames import (
    BotStoppedSpeaking,
    Cancel,
    End,
    Expect,
    Failure,
    InputDtmf,
    Start,
    Transcription,
    TtsSpeak,
    UserStartedSpeaking,
)
from flowcatd.frames import Transfer as HandOver
from flowcatd.pipeline.chain import interrupt
from flowcatd.pipeline.processor import Processor, down
from flowcatd.processors.think import ROUNDS, Think
from flowcatd.services import Hearing
from tests.builders import Rig, ScriptedBrain, VirtualScope, names

START = Start(8000)
STOPPED = BotStoppedSpeaking(interrupted=False)


def rig_of(brain: ScriptedBrain, *behind: Processor) -> Rig:
    """A chain of one Think, and who is behind it."""
    return Rig([Think(brain), *behind], VirtualScope())


class SilentAgent(Processor):
    """Has said every line as soon as it is asked to, `times` times."""

    def __init__(self, times: int = 1000) -> None:
        super().__init__()
        self.times = times

    @down(TtsSpeak)
    def line(self, frame: TtsSpeak) -> None:
        """Said."""
        self.push(frame)
        if self.times:
            self.times -= 1
            self.push_up(STOPPED)


class Interrupting(Processor):
    """Lets the caller take the turn at every first line."""

    @down(TtsSpeak)
    def line(self, frame: TtsSpeak) -> None:
        """No."""
        self.push(frame)
        interrupt(self)
        self.push_up(BotStoppedSpeaking(interrupted=True))


def test_what_happens_is_told_and_goes_on() -> None:
    """Down the chain before the brain's answer to it, up before it too."""
    brain = ScriptedBrain()
    rig = rig_of(brain)
    for frame in (
        START,
        UserStartedSpeaking(60),
        Transcription(0, "tuesday", 0.9, 0, 1),
        InputDtmf("5"),
    ):
        rig.feed(frame)
    rig.feed_up(STOPPED)
    assert brain.told == ["started", "speaking", "heard tuesday", "digit 5", "spoken"]
    assert names(rig.tail) == ["Start", "UserStartedSpeaking", "Transcription", "InputDtmf"]
    assert rig.head == [STOPPED]


def test_everybody_knows_of_the_start_before_the_first_word() -> None:
    """A greeting needs a rate to be said at."""
    brain = ScriptedBrain(
        {"started": [[Say("hello", "nina", interruptible=False), HangUp("done")]]}
    )
    rig = rig_of(brain)
    rig.feed(START)
    assert rig.tail == [START, TtsSpeak(0, "hello", "nina", interruptible=False), End("done")]


def test_each_action_becomes_its_frame() -> None:
    """What cannot be done is told, and the brain or the caller is not left waiting."""
    moves: list[Moved] = []
    moved = Moved("a", "b", "heard")
    brain = ScriptedBrain(
        {
            "digit": [
                [Listen(Hearing("<utterance> = x;", ("x", "y"), "de-DE")), moved],
                [CallHook(7)],
                [Transfer("sales")],
            ],
            "hook_failed": [[Say("sorry")]],
        }
    )
    rig = Rig([Think(brain, moves.append)], VirtualScope())
    rig.feed(InputDtmf("1"))
    assert rig.back(Expect) == [Expect("<utterance> = x;", "x\ny", "de-DE")]
    assert moves == [moved]
    rig.feed(InputDtmf("2"))
    assert brain.told[-1] == "hook_failed 7"
    assert rig.out(TtsSpeak) == [TtsSpeak(0, "sorry")]
    rig.feed(InputDtmf("3"))
    assert rig.out(HandOver) == [HandOver("sales")]
    assert [failure.where for failure in rig.back(Failure)] == ["think"]


def test_what_an_action_brings_back_is_acted_on_after_the_actions_before_it() -> None:
    """The brain's order is kept, though `spoken` comes while its first line is still being pushed."""
    brain = ScriptedBrain({"started": [[Say("one"), Say("two")]], "spoken": [[Say("three")]]})
    rig = rig_of(brain, SilentAgent(times=1))
    rig.feed(START)
    assert [line.text for line in rig.out(TtsSpeak)] == ["one", "two", "three"]


def test_lines_decided_before_an_interruption_are_not_said_after_it() -> None:
    """The first line brought the interruption; hanging up is still to be done."""
    brain = ScriptedBrain({"started": [[Say("one"), Say("two"), HangUp("done")]]})
    rig = rig_of(brain, Interrupting())
    rig.feed(START)
    assert [line.text for line in rig.out(TtsSpeak)] == ["one"]
    assert rig.out(End) == [End("done")]
    assert rig.chain.stale == 1


def test_what_is_decided_after_an_interruption_is_said() -> None:
    """It is of the new epoch."""
    brain = ScriptedBrain({"started": [[Say("one")]], "heard": [[Say("two")]]})
    rig = rig_of(brain, Interrupting())
    rig.feed(START)
    rig.feed(Transcription(1, "wait", 1.0, 0, 1))
    assert [(line.epoch, line.text) for line in rig.out(TtsSpeak)] == [(0, "one"), (1, "two")]


def test_a_brain_that_never_comes_to_rest_ends_its_call() -> None:
    """After a bounded number of rounds, with a problem for the record."""
    brain = ScriptedBrain({"started": [[Say("on")]], "spoken": [[Say("and on")]] * 10 * ROUNDS})
    rig = rig_of(brain, SilentAgent())
    rig.feed(START)
    assert len(rig.out(TtsSpeak)) == ROUNDS
    assert rig.out(End) == [End("agent_failed")]
    assert rig.back(Failure) == [Failure("think", "the brain never came to rest")]


def test_the_brain_is_woken_when_it_asked_to_be_and_no_more() -> None:
    """Its wish is read anew after everything it is told."""
    brain = ScriptedBrain({"wake": [[Say("still there?")]]})
    rig = rig_of(brain)
    scope = rig.scope
    assert isinstance(scope, VirtualScope)
    brain.due = scope.now() + 5
    rig.feed(START)
    scope.pass_for(4)
    brain.due = scope.now() + 5
    rig.feed(InputDtmf("1"))
    scope.pass_for(4.9)
    assert "wake" not in brain.told
    scope.pass_for(0.2)
    assert brain.told.count("wake") == 1
    assert rig.out(TtsSpeak) == [TtsSpeak(0, "still there?")]
    assert len(scope.wakes) == 0


def test_a_call_that_is_over_is_not_spoken_to_its_end() -> None:
    """The line that Cancel cuts off was not said: it moves the brain nowhere, and nothing wakes it."""
    brain = ScriptedBrain({"spoken": [[Moved("asking", "done", "spoken"), HangUp()]]})
    rig = rig_of(brain)
    scope = rig.scope
    assert isinstance(scope, VirtualScope)
    brain.due = scope.now() + 5
    rig.feed(START)
    rig.feed(Cancel("caller_hung_up"))
    rig.feed_up(BotStoppedSpeaking(interrupted=True))
    scope.pass_for(10)
    assert brain.told == ["started"]
    assert names(rig.tail) == ["Start", "Cancel"]
    assert names(rig.head) == ["BotStoppedSpeaking"]


class Returning(ScriptedBrain):
    """A brain that has been in this call before."""

    def resumed(self, now: float) -> None:  # noqa: ARG002 the port's
        """The call is up again."""
        self._on("resumed")


def test_a_brain_that_was_in_the_call_before_is_told_so_instead_of_started() -> None:
    """And what it then wants is done."""
    brain = Returning({"resumed": [[Say("we were cut off")]]})
    rig = Rig([Think(brain, is_resumed=True)], VirtualScope())
    rig.feed(START)
    assert brain.told == ["resumed"]
    assert [line.text for line in rig.out(TtsSpeak)] == ["we were cut off"]
