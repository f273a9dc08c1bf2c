"""The processors of a call together: who is told what, and when, as caller and agent take turns."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from flowcatd.agent.brain import Action, HangUp, Say
from flowcatd.errors import ProviderError
from flowcatd.frames import (
    End,
    InputAudio,
    LineHeard,
    Start,
    Transcription,
    VadUserStartedSpeaking,
    VadUserStoppedSpeaking,
)
from flowcatd.options import Playout as PlayoutOptions
from flowcatd.options import Turns as TurnsOptions
from flowcatd.processors.figures import Figures
from flowcatd.processors.hear import Hear
from flowcatd.processors.playout import Playout
from flowcatd.processors.speak import Speak
from flowcatd.processors.think import Think
from flowcatd.processors.turns import Turns
from flowcatd.record import Identity, Ledger
from flowcatd.services import Final, SttEvent
from tests.builders import (
    RATE,
    LoopScope,
    Marks,
    Rig,
    ScriptedBrain,
    ScriptedEar,
    ScriptedVoice,
    Wire,
)


@pytest.fixture
def scope() -> Iterator[LoopScope]:
    """A call with a loop in virtual time."""
    with LoopScope() as made:
        yield made


class Call:
    """A whole chain, but for voice activity, which the test brings about."""

    def __init__(
        self,
        scope: LoopScope,
        script: dict[str, list[list[Action]]],
        voice: ScriptedVoice | None,
        *answers: SttEvent,
    ) -> None:
        self.scope = scope
        self.brain = ScriptedBrain(script)
        identity = Identity(call_id="c", carrier="test", agent="test", worker_slot=0)
        self.ledger = Ledger(identity, datetime(2026, 11, 20, tzinfo=UTC), scope.now())
        self.ear = ScriptedEar(scope, answers, 0.2)
        self.wire = Wire(scope, Marks.TWILIO, 0.05)
        options = TurnsOptions()
        hear = Hear(options, self.ledger.usage)
        hear.use(self.ear)
        self.ear.tell = hear.on_event
        stages = [
            Turns(options),
            hear,
            Think(self.brain),
            Speak(voice, self.ledger.usage),
            Playout(self.wire, PlayoutOptions()),
            Figures(self.ledger),
        ]
        self.rig = Rig(stages, scope)
        self.wire.feed = self.rig.feed
        self.media_ms = 0
        self.rig.feed(Start(RATE))

    def listen(self, seconds: float) -> None:
        """The caller's line, frame by frame."""
        for _ in range(round(seconds * 50)):
            self.rig.feed(InputAudio(bytes(320), RATE, self.media_ms))
            self.media_ms += 20
            self.scope.pass_for(0.02)

    def caller_speaks(self, seconds: float) -> None:
        """From here on; that they stopped is noticed later."""
        self.rig.feed(VadUserStartedSpeaking(60))
        self.listen(seconds + 0.45)
        self.rig.feed(VadUserStoppedSpeaking(450))

    def heard(self) -> list[str]:
        """The agent's lines, as far as they were heard."""
        return [line.text if line.complete else f"{line.text}…" for line in self.rig.out(LineHeard)]


def test_two_lines_and_a_goodbye_are_spoken_once_and_heard_before_the_end(
    scope: LoopScope,
) -> None:
    """The brain is told that it has spoken when all of it was heard."""
    call = Call(scope, {"started": [[Say("hello"), Say("there"), HangUp()]]}, ScriptedVoice())
    call.listen(5)
    assert call.brain.told == ["started", "spoken"]
    assert call.heard() == ["hello", "there"]
    assert call.rig.out(End) == [End("completed")]


def test_a_line_that_could_not_be_said_is_not_the_end_of_the_turn(scope: LoopScope) -> None:
    """The one that waits behind it is, and is slow to begin."""
    voice = ScriptedVoice(
        {"lost": [ProviderError("no")], "there": [1.0, b"\x00\x10\x00\xf0" * 800]}
    )
    call = Call(scope, {"started": [[Say("lost"), Say("there")]]}, voice)
    call.listen(0.9)
    assert call.brain.told == ["started"]
    call.listen(3)
    assert call.brain.told == ["started", "spoken"]
    assert call.heard() == ["there"]


def test_an_agent_without_a_voice_has_spoken_once_too(scope: LoopScope) -> None:
    """The conversation goes on by keypad."""
    call = Call(scope, {"started": [[Say("one"), Say("two")]]}, None)
    call.listen(0.1)
    assert call.brain.told == ["started", "spoken"]


def test_a_barge_in_from_first_sound_to_answer(scope: LoopScope) -> None:
    """Cut, told in this order, understood, answered, and measured."""
    line = "we are open on monday tuesday wednesday thursday and friday"
    script: dict[str, list[list[Action]]] = {
        "started": [[Say(line), Say("and on sunday")]],
        "heard": [[Say("tuesday it is"), HangUp()]],
    }
    call = Call(scope, script, ScriptedVoice(), Final("tuesday"))
    call.listen(1)
    call.caller_speaks(1)
    call.listen(5)
    assert call.brain.told == ["started", "spoken", "speaking", "heard tuesday", "spoken"]
    cut, answer = call.heard()
    assert line.startswith(cut.removesuffix("…"))
    assert cut.endswith("…")
    assert 2 <= len(cut.split()) <= 5
    assert answer == "tuesday it is"
    assert call.rig.out(End) == [End("completed")]
    assert (call.ledger.turns.user, call.ledger.turns.interruptions) == (1, 1)
    assert call.wire.clears == 1


def test_an_answer_while_the_caller_goes_on_yields_and_both_utterances_are_heard(
    scope: LoopScope,
) -> None:
    """The first words come while the second are being spoken; nothing of either is lost."""
    script: dict[str, list[list[Action]]] = {
        "heard": [[Say("one moment please")], [Say("all of it then"), HangUp()]]
    }
    call = Call(scope, script, ScriptedVoice(), Final("monday"), Final("or tuesday"))
    call.listen(1)
    call.caller_speaks(1)
    call.listen(0.1)
    call.caller_speaks(1)
    call.listen(5)
    assert [words.text for words in call.rig.out(Transcription)] == ["monday", "or tuesday"]
    assert call.heard() == ["all of it then"]
    assert call.rig.out(End) == [End("completed")]
