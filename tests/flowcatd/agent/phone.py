"""A caller for tests: drives a brain in virtual time as `processors/think.py` would.

A conversation is a list of turns, each a short text:

    > tuesday at nine    the caller says it, over the prompt if one is still playing
    ?                    the caller says something that nothing expected explains
    # 12                 the caller presses these keys
    ~ 7.5                nothing happens for so many seconds; a prompt takes one of them
    ...                  the prompt is heard to its end
    ! {"data": {}}       the oldest hook answers
    ! x                  the oldest hook fails
"""

from __future__ import annotations

import json

from flowcatd.agent.brain import Action, CallHook, Say
from flowcatd.agent.dialog import DialogBrain

PROMPT_SECONDS = 1.0


class Phone:
    """One call: the brain, the time, and whether a prompt is playing."""

    def __init__(self, brain: DialogBrain, *, now: float = 0.0) -> None:
        self.brain = brain
        self.now = now
        self.is_playing = False
        self.hooks: list[int] = []

    def start(self) -> list[Action]:
        """Answer the call."""
        self.brain.started(self.now)
        return self.drain()

    def drain(self) -> list[Action]:
        """Take the actions as the driver does."""
        actions = self.brain.actions()
        self.is_playing |= any(isinstance(action, Say) for action in actions)
        self.hooks += [action.hook_id for action in actions if isinstance(action, CallHook)]
        return actions

    def turn(self, text: str) -> list[Action]:
        """Do one turn of a conversation and give the actions it led to."""
        if text == "...":
            return self.hear_out()
        kind, rest = text[0], text[1:].strip()
        if kind == "~":
            return self.wait(float(rest))
        if kind == "#":
            return [action for key in rest for action in self.press(key)]
        if kind == "!":
            return self.answer(rest)
        return self.say(rest)

    def say(self, text: str) -> list[Action]:
        """Speak, for a second; what is playing is cut off when it may be."""
        self.now += 0.5
        self.brain.speaking(self.now)
        actions = self.hear_out() if self.is_playing else []
        self.now += 1.0
        self.brain.heard(text, self.now)
        return actions + self.drain()

    def press(self, key: str) -> list[Action]:
        """Press one key."""
        self.now += 0.2
        self.brain.digit(key, self.now)
        return self.drain()

    def answer(self, text: str) -> list[Action]:
        """Let the oldest hook answer, or fail."""
        self.now += 0.1
        hook = self.hooks.pop(0)
        if text == "x":
            self.brain.hook_failed(hook, "refused", self.now)
        else:
            self.brain.hook_result(hook, json.loads(text), self.now)
        return self.drain()

    def hear_out(self) -> list[Action]:
        """Hear what is playing to its end."""
        self.now += PROMPT_SECONDS
        self.is_playing = False
        self.brain.spoken(self.now)
        return self.drain()

    def wait(self, seconds: float) -> list[Action]:
        """Let time pass, with every wake the brain asks for, and prompts ending in between."""
        until, actions = self.now + seconds, []
        while True:
            due = self.brain.wake_at()
            if self.is_playing and self.now + PROMPT_SECONDS <= until:
                actions += self.hear_out()
            elif due is not None and due <= until:
                self.now = max(due, self.now)
                self.brain.wake(self.now)
                actions += self.drain()
            else:
                self.now = until
                return actions
