"""The last word of a call that the daemon ends, with the real processors, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flowcatd.agent.brain import Action, HangUp, Say
from flowcatd.errors import ProviderError
from flowcatd.frames import (
    BotStartedSpeaking,
    End,
    InputDtmf,
    LineHeard,
    Start,
    VadUserStartedSpeaking,
)
from flowcatd.options import Playout as PlayoutOptions
from flowcatd.options import Turns as TurnsOptions
from flowcatd.processors.playout import Playout
from flowcatd.processors.speak import Speak
from flowcatd.processors.think import Think
from flowcatd.processors.turns import Turns
from flowcatd.services import Usage
from tests.builders import RATE, LoopScope, Marks, Rig, ScriptedBrain, ScriptedVoice, Wire

LONG = "we are open on monday tuesday wednesday thursday and friday"
BYE = "we have to end this call"


@pytest.fixture
def scope() -> Iterator[LoopScope]:
    """A call with a loop in virtual time."""
    with LoopScope() as made:
        yield made


class Call:
    """An agent that says what its brain says, until it is told to part."""

    def __init__(
        self,
        scope: LoopScope,
        script: dict[str, list[list[Action]]],
        voice: ScriptedVoice | None = None,
    ) -> None:
        self.scope = scope
        self.brain = ScriptedBrain(script)
        self.voice = voice or ScriptedVoice()
        self.speak = Speak(self.voice, Usage())
        wire = Wire(scope, Marks.TWILIO, 0.05)
        stages = [
            Turns(TurnsOptions()),
            Think(self.brain),
            self.speak,
            Playout(wire, PlayoutOptions()),
        ]
        self.rig = Rig(stages, scope)
        wire.feed = self.rig.feed
        self.rig.feed(Start(RATE))

    def heard(self) -> list[str]:
        """The agent's lines, as far as they were heard."""
        return [line.text if line.complete else f"{line.text}…" for line in self.rig.out(LineHeard)]

    def part(self) -> None:
        """The daemon ends the call."""
        self.speak.part(BYE, "drained")


def test_a_goodbye_in_silence_is_heard_whole_and_then_the_call_ends(scope: LoopScope) -> None:
    """Uninterruptible, and End comes only when all of it was heard."""
    call = Call(scope, {})
    scope.pass_for(1)
    call.part()
    scope.pass_for(0.5)
    assert call.rig.out(End) == []
    assert call.rig.out(BotStartedSpeaking) == [BotStartedSpeaking(interruptible=False)]
    scope.pass_for(5)
    assert call.heard() == [BYE]
    assert call.rig.out(End) == [End("drained")]


def test_a_goodbye_cuts_what_is_being_said_and_the_brain_has_no_more_to_say(
    scope: LoopScope,
) -> None:
    """The brain is told that it was cut, and answers; nobody hears that."""
    script: dict[str, list[list[Action]]] = {
        "started": [[Say(LONG), Say("and on sunday")]],
        "spoken": [[Say("what else?"), HangUp("completed")]],
    }
    call = Call(scope, script)
    scope.pass_for(1.5)
    call.part()
    scope.pass_for(6)
    cut, goodbye = call.heard()
    assert cut.endswith("…")
    assert LONG.startswith(cut[:-1])
    assert goodbye == BYE
    assert call.rig.out(End) == [End("drained")]


def test_a_goodbye_is_said_into_the_callers_speech_and_keys(scope: LoopScope) -> None:
    """A caller who goes on talking, or presses a key, does not take the turn from it."""
    call = Call(scope, {"digit": [[Say("you pressed")]]})
    scope.pass_for(1)
    call.rig.feed(VadUserStartedSpeaking(60))
    call.part()
    scope.pass_for(0.5)
    call.rig.feed(InputDtmf("5"))
    scope.pass_for(5)
    assert call.heard() == [BYE]
    assert call.rig.out(End) == [End("drained")]


def test_an_agent_that_is_saying_its_own_goodbye_is_left_to_it(scope: LoopScope) -> None:
    """Its End is on the way: the call has an end, and a truer one."""
    call = Call(scope, {"started": [[Say(LONG), HangUp("completed")]]})
    scope.pass_for(1)
    call.part()
    scope.pass_for(6)
    assert call.heard() == [LONG]
    assert call.rig.out(End) == [End("completed")]


def test_a_voice_that_fails_ends_the_call_all_the_same(scope: LoopScope) -> None:
    """The line is lost, not the end."""
    call = Call(scope, {}, ScriptedVoice({BYE: [ProviderError("no")]}))
    call.part()
    scope.pass_for(1)
    assert call.heard() == []
    assert call.rig.out(End) == [End("drained")]


def test_a_second_goodbye_is_the_first(scope: LoopScope) -> None:
    """Told twice, said once."""
    call = Call(scope, {})
    call.part()
    call.part()
    scope.pass_for(5)
    assert call.heard() == [BYE]
    assert call.rig.out(End) == [End("drained")]
