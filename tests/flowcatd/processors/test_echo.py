"""Echo: what the caller says comes back in the same call."""

from __future__ import annotations

from flowcatd.frames import InputAudio, OutputAudio
from flowcatd.processors.echo import Echo
from tests.builders import Rig, VirtualScope


def test_the_same_samples_go_out_and_the_callers_frame_goes_on() -> None:
    """The same object, not a copy, in the epoch of now, before the push returns."""
    echo = Echo()
    rig = Rig([echo], VirtualScope())
    pcm = bytes(range(64))
    heard = InputAudio(pcm, 8000, 40)
    rig.feed(heard)
    echo.epoch.value = 3
    rig.feed(heard)
    assert rig.tail == [OutputAudio(0, pcm, 8000), heard, OutputAudio(3, pcm, 8000), heard]
    assert rig.out(OutputAudio)[0].pcm is pcm
