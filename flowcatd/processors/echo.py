"""Echo: the model of a cascaded call replaced by the shortest answer there is.

It stands where the brain stands, so a call with the echo agent runs the whole chain; what the
caller says comes back in the same turn of the loop. Used by `conf/bench.toml`.
"""

from __future__ import annotations

from flowcatd.frames import InputAudio, OutputAudio
from flowcatd.pipeline.processor import Processor, down


class Echo(Processor):
    """Says back what it hears."""

    @down(InputAudio)
    def audio(self, frame: InputAudio) -> None:
        """The same samples, towards the far end."""
        self.push(OutputAudio(self.epoch.value, frame.pcm, frame.rate_hz))
        self.push(frame)
