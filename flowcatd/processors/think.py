"""Think: drives the call's brain. Frames become what happened; the brain's actions become frames.

The brain (`agent/brain.py`) is pure; this is its shell inside the chain. After everything it is
told, its actions are carried out in order and its one wake is set anew. The conversation's figures
(turns, rejected and missing answers, states visited, variables) are gathered by `on_moved` and read
from the brain when the call ends, however it ends.
"""

from __future__ import annotations

from collections.abc import Callable

from flowcatd.agent.brain import Action, Brain, CallHook, HangUp, Listen, Moved, Say, Transfer
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
from flowcatd.pipeline.processor import Processor, down, up
from flowcatd.pipeline.scope import Cancellable

ROUNDS = 100
"""Actions may make the brain act again at once (a hook that fails); this many times, no more."""


def _unmoved(_moved: Moved) -> None:
    """Nobody wants to know."""


class Think(Processor):
    """Asks the brain what to do next."""

    def __init__(
        self,
        brain: Brain,
        on_moved: Callable[[Moved], None] = _unmoved,
        *,
        is_resumed: bool = False,
    ) -> None:
        """`is_resumed` says that this brain has been in this call before, in another process."""
        super().__init__()
        self._brain = brain
        self._is_resumed = is_resumed
        self._on_moved = on_moved
        self._wake: Cancellable | None = None
        self._acting = False
        self._over = False

    @down(Start)
    def start(self, frame: Start) -> None:
        """The call is up: everybody behind knows it before the brain says its first word."""
        self.push(frame)
        if self._is_resumed:
            self._brain.resumed(self.scope.now())
        else:
            self._brain.started(self.scope.now())
        self._act()

    @down(Transcription)
    def heard(self, frame: Transcription) -> None:
        """The caller said something, or something that was not understood."""
        self.push(frame)
        self._brain.heard(frame.text, self.scope.now(), confidence=frame.confidence)
        self._act()

    @down(InputDtmf)
    def digit(self, frame: InputDtmf) -> None:
        """The caller pressed a key."""
        self.push(frame)
        self._brain.digit(frame.digit, self.scope.now())
        self._act()

    @down(UserStartedSpeaking)
    def speaking(self, frame: UserStartedSpeaking) -> None:
        """The caller is saying something: no need to wait for it any longer."""
        self.push(frame)
        self._brain.speaking(self.scope.now())
        self._act()

    @up(BotStoppedSpeaking)
    def spoken(self, frame: BotStoppedSpeaking) -> None:
        """What there was to say has been heard, or was cut off."""
        self.push_up(frame)
        if not self._over:
            self._brain.spoken(self.scope.now())
            self._act()

    @down(Cancel)
    def cancel(self, frame: Cancel) -> None:
        """The call is over: a line that this cuts off was not spoken, and leads nowhere."""
        self._over = True
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        self.push(frame)

    # --- the brain's actions ----------------------------------------------------------------------

    def _act(self) -> None:
        if self._acting:
            return  # a push below came back here; the loop above drains what it caused
        self._acting = True
        try:
            for _ in range(ROUNDS):
                epoch = self.epoch.value  # when these were decided; carrying out one may end it
                actions = self._brain.actions()
                if not actions:
                    break
                for action in actions:
                    self._carry_out(action, epoch)
            else:
                self.push_up(Failure("think", "the brain never came to rest"))
                self.push(End("agent_failed"))
        finally:
            self._acting = False
        self._arm()

    def _carry_out(self, action: Action, epoch: int) -> None:
        match action:
            case Say(text, voice, interruptible):
                self.push(TtsSpeak(epoch, text, voice, interruptible))
            case Listen(hearing):
                self.push_up(Expect(hearing.grammar, "\n".join(hearing.hints), hearing.language))
            case HangUp(reason):
                self.push(End(reason))
            case Transfer(target):
                self.push(HandOver(target))
            case CallHook(hook_id):
                self.push_up(Failure("think", "hooks are not available yet"))
                self._brain.hook_failed(hook_id, "unavailable", self.scope.now())
            case Moved():
                self._on_moved(action)

    def _arm(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        due = self._brain.wake_at()
        if due is not None:
            self._wake = self.scope.wake(due, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._brain.wake(self.scope.now())
        self._act()
