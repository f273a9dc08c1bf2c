"""Figures: what happened in the call, counted for its record.

A tap at the tail of the chain. The one figure that people feel is measured here: from the caller's
last word (the end of their turn, less the silence that ended it) to the first frame of the agent.
"""

from __future__ import annotations

from flowcatd.frames import (
    BotStartedSpeaking,
    BotStoppedSpeaking,
    InputAudio,
    InputDtmf,
    Interruption,
    SentAudio,
    Transcription,
    UserStartedSpeaking,
    UserStoppedSpeaking,
)
from flowcatd.media import PTIME_MS
from flowcatd.pipeline.processor import Processor, down
from flowcatd.record import Ledger


class Figures(Processor):
    """Writes the call's counts into its ledger."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._last_word: float | None = None
        self._frames_in = 0
        self._frames_out = 0
        # A call that was taken up again has seconds already.
        self._caller_seconds = ledger.audio_seconds.caller
        self._agent_seconds = ledger.audio_seconds.agent

    @down(InputAudio)
    def caller(self, frame: InputAudio) -> None:
        """One frame of the caller."""
        self._frames_in += 1
        self.push(frame)

    @down(SentAudio)
    def agent(self, frame: SentAudio) -> None:
        """One frame of the agent."""
        self._frames_out += 1
        self.push(frame)

    @down(UserStartedSpeaking)
    def turn_began(self, frame: UserStartedSpeaking) -> None:
        """The caller speaks again: an answer to what they said before would no longer be one."""
        self._ledger.turns.user += 1
        self._last_word = None
        self.push(frame)

    @down(UserStoppedSpeaking)
    def turn_ended(self, frame: UserStoppedSpeaking) -> None:
        """The caller waits from here on."""
        self._last_word = self.scope.now() - frame.stop_ms / 1000
        self.push(frame)

    @down(BotStartedSpeaking)
    def answered(self, frame: BotStartedSpeaking) -> None:
        """The agent's first frame is about to leave."""
        if self._last_word is not None:
            self._ledger.responded(int((self.scope.now() - self._last_word) * 1000))
            self._last_word = None
        self.push(frame)

    @down(BotStoppedSpeaking)
    def said(self, frame: BotStoppedSpeaking) -> None:
        """A turn of the agent is over, said in full or not."""
        self._ledger.turns.bot += 1
        self.push(frame)

    @down(Interruption)
    def interrupted(self, frame: Interruption) -> None:
        """The caller took the turn."""
        self._ledger.turns.interruptions += 1
        self.push(frame)

    @down(InputDtmf)
    def digit(self, frame: InputDtmf) -> None:
        """A key; which one is not ours to keep."""
        self._ledger.turns.digits += 1
        self.push(frame)

    @down(Transcription)
    def heard(self, frame: Transcription) -> None:
        """Speech that was not understood counts."""
        if not frame.text:
            self._ledger.turns.no_match += 1
        self.push(frame)

    def hand_in(self) -> None:
        """Bring the ledger's seconds up to date: frames are counted here, since they come often."""
        seconds = self._ledger.audio_seconds
        seconds.caller = round(self._caller_seconds + self._frames_in * PTIME_MS / 1000, 3)
        seconds.agent = round(self._agent_seconds + self._frames_out * PTIME_MS / 1000, 3)

    async def close(self) -> None:
        """Hand in the seconds."""
        self.hand_in()
