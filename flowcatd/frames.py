"""The closed set of frames: what can travel along a call's chain.

Three classes, which decide scheduling and survival:

  system    overtakes everything that waits, and survives an interruption
  data      ordered; belongs to an epoch and is dropped when an interruption has ended that epoch
  control   ordered; survives an interruption

Frames are immutable values. Audio is signed 16-bit little-endian mono PCM in `bytes` and carries
its rate always. A processor may forward a frame it was given, or push another; it never changes one.

They are msgspec structs rather than dataclasses because one is made per 20 ms per direction: a
frozen struct costs 0.1 µs and, with gc=False, nothing to the garbage collector.

An embedder's own frame subclasses SystemFrame, DataFrame or ControlFrame and is routed like ours.
"""

from __future__ import annotations

import msgspec


class Frame(msgspec.Struct, frozen=True, gc=False):
    """The root; a frame is one of the three classes below."""


class SystemFrame(Frame, frozen=True, gc=False):
    """Overtakes; survives interruption."""


class DataFrame(Frame, frozen=True, gc=False):
    """Ordered; dropped once its epoch is over."""

    epoch: int
    """The call's epoch when the work behind this frame began."""


class ControlFrame(Frame, frozen=True, gc=False):
    """Ordered; survives interruption."""


# --- system ------------------------------------------------------------------------------------


class Start(SystemFrame, frozen=True, gc=False):
    """The first frame of a call: what both directions carry."""

    rate_hz: int
    """The transport's sample rate; audio inside the chain is at this rate unless it says otherwise."""


class Cancel(SystemFrame, frozen=True, gc=False):
    """End now: nothing that waits is played or said."""

    reason: str


class Interruption(SystemFrame, frozen=True, gc=False):
    """The caller took the turn: data of epochs before `epoch` is over."""

    epoch: int


class InputAudio(SystemFrame, frozen=True, gc=False):
    """20 ms of the caller."""

    pcm: bytes
    rate_hz: int
    media_ms: int
    """Where the first sample stands on the call's media time, in ms since the stream began."""


class InputDtmf(SystemFrame, frozen=True, gc=False):
    """The caller pressed a key: 0-9, *, #, A-D."""

    digit: str


class VadUserStartedSpeaking(SystemFrame, frozen=True, gc=False):
    """Voice activity began `start_ms` before now."""

    start_ms: int


class VadUserStoppedSpeaking(SystemFrame, frozen=True, gc=False):
    """Voice activity ended `stop_ms` before now."""

    stop_ms: int


class UserStartedSpeaking(SystemFrame, frozen=True, gc=False):
    """The caller's turn began, as turn-taking decided; their speech set in `start_ms` before now."""

    start_ms: int


class UserStoppedSpeaking(SystemFrame, frozen=True, gc=False):
    """The caller's turn ended, as turn-taking decided; their last word was `stop_ms` before now."""

    stop_ms: int


class BotStartedSpeaking(SystemFrame, frozen=True, gc=False):
    """The first sample of the agent's turn left; comes again when `interruptible` changes in it."""

    interruptible: bool


class BotStoppedSpeaking(SystemFrame, frozen=True, gc=False):
    """Nothing of the agent's turn is left to be heard; `interrupted` if it was cut off."""

    interrupted: bool


class MarkPlayed(SystemFrame, frozen=True, gc=False):
    """The carrier's playout passed a mark of ours."""

    name: str


class SentAudio(SystemFrame, frozen=True, gc=False):
    """Agent audio that left for the far end, with its place on the call's media time.

    System class: the recorder must see it even when an interruption follows at once.
    """

    pcm: bytes
    rate_hz: int
    media_ms: int


class PlayoutCleared(SystemFrame, frozen=True, gc=False):
    """Agent audio from this media time on was never heard."""

    media_ms: int


class LineHeard(SystemFrame, frozen=True, gc=False):
    """One line of the agent, as far as it was heard: the truth for history and transcript."""

    text: str
    start_ms: int
    end_ms: int
    complete: bool


class Failure(SystemFrame, frozen=True, gc=False):
    """Something a call survives went wrong (a provider, a disk); travels up to the call's record."""

    where: str
    reason: str


class Hold(SystemFrame, frozen=True, gc=False):
    """The far end put the call on hold, or took it back: while it is held nobody hears the agent."""

    held: bool


class TransferFailed(SystemFrame, frozen=True, gc=False):
    """The far end did not take the call over that it was asked to."""

    reason: str


# --- data --------------------------------------------------------------------------------------


class Transcription(DataFrame, frozen=True, gc=False):
    """What the caller said; empty text is speech that was rejected."""

    text: str
    confidence: float
    start_ms: int
    end_ms: int


class InterimTranscription(DataFrame, frozen=True, gc=False):
    """What the caller seems to be saying; may be taken back."""

    text: str


class TtsSpeak(DataFrame, frozen=True, gc=False):
    """A line to be said."""

    text: str
    voice: str = ""
    interruptible: bool = True


class TtsAudio(DataFrame, frozen=True, gc=False):
    """A piece of the line being said, at the call's rate, any length."""

    pcm: bytes
    rate_hz: int


class OutputAudio(DataFrame, frozen=True, gc=False):
    """Audio for the far end that is no line (an echo, a tone, a file), at the call's rate."""

    pcm: bytes
    rate_hz: int


class OutputDtmf(DataFrame, frozen=True, gc=False):
    """Keys to press towards the far end."""

    digits: str


# --- control -----------------------------------------------------------------------------------


class TtsStarted(ControlFrame, frozen=True, gc=False):
    """The audio that follows, up to TtsStopped, is this line."""

    text: str
    interruptible: bool


class TtsStopped(ControlFrame, frozen=True, gc=False):
    """The line is complete, or `failed` and as long as it got."""

    failed: bool = False


class Expect(ControlFrame, frozen=True, gc=False):
    """What the caller may sensibly say from now on: `grammar` and `hints` as in services.Hearing."""

    grammar: str
    hints: str
    language: str


class Transfer(ControlFrame, frozen=True, gc=False):
    """Hand the caller over to `target` once everything said so far has been heard."""

    target: str


class End(ControlFrame, frozen=True, gc=False):
    """Nothing more will be said: hang up once all of it has been heard."""

    reason: str
