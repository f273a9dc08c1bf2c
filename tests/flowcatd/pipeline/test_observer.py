"""Observers: what they see, and that they cost nothing when there are none."""

from __future__ import annotations

import pytest

from flowcatd.frames import Frame, InputAudio, InputDtmf, TtsSpeak
from flowcatd.pipeline.observer import Tally
from flowcatd.pipeline.parallel import Parallel
from flowcatd.pipeline.processor import Processor, down
from tests.builders import Recording, Rig, VirtualScope


class Diary:
    """Writes every hop down."""

    def __init__(self) -> None:
        self.hops: list[tuple[str, str, str, bool]] = []

    def saw(self, frame: Frame, source: str, target: str, *, downstream: bool) -> None:
        """One hop."""
        self.hops.append((type(frame).__name__, source, target, downstream))


class Keys(Processor):
    """Handles keys only."""

    @down(InputDtmf)
    def key(self, frame: InputDtmf) -> None:
        """Hand on."""
        self.push(frame)


def test_an_observer_sees_each_hop_between_those_who_want_the_frame() -> None:
    """Those who do not are no hop."""
    rig = Rig([Keys(), Recording(), Keys()], VirtualScope())
    diary = Diary()
    rig.chain.observe(diary)
    rig.feed(InputAudio(b"", 8000, 0))
    rig.feed(InputDtmf("1"))
    rig.feed_up(InputDtmf("2"))
    assert diary.hops == [
        ("InputAudio", "head", "recording", True),
        ("InputDtmf", "head", "keys", True),
        ("InputDtmf", "keys", "recording", True),
        ("InputDtmf", "recording", "keys", True),
        ("InputDtmf", "tail", "recording", False),
    ]


def test_an_observer_sees_a_frame_before_its_handler_does() -> None:
    """So what it writes is in the order of what happened."""
    diary = Diary()
    when_handled: list[int] = []

    class Late(Processor):
        @down(InputDtmf)
        def key(self, frame: InputDtmf) -> None:
            """Look into the diary."""
            when_handled.append(len(diary.hops))
            self.push(frame)

    rig = Rig([Late(), Late()], VirtualScope())
    rig.chain.observe(diary)
    rig.feed(InputDtmf("1"))
    assert when_handled == [1, 2]


def test_branches_are_observed_too() -> None:
    """The Parallel is a hop, and so is everybody in it."""
    rig = Rig([Parallel([Keys()], [Recording()])], VirtualScope())
    tally = Tally()
    rig.chain.observe(tally)
    rig.feed(InputDtmf("1"))
    assert tally.counts == {
        ("parallel", "InputDtmf"): 1,
        ("keys", "InputDtmf"): 1,
        ("recording", "InputDtmf"): 1,
    }
    assert rig.tail == [InputDtmf("1")]


def test_data_of_an_old_epoch_is_not_seen() -> None:
    """It reaches nobody."""
    recording = Recording()
    rig = Rig([recording], VirtualScope())
    tally = Tally()
    rig.chain.observe(tally)
    recording.epoch.value = 1
    rig.feed(TtsSpeak(0, "old"))
    rig.feed(TtsSpeak(1, "new"))
    assert tally.counts == {("recording", "TtsSpeak"): 1}
    assert rig.chain.stale == 1


def test_without_observers_a_hop_is_the_bare_handler() -> None:
    """Before one was attached and after the last was detached; data has its gate, nothing else."""
    recording = Recording()
    rig = Rig([recording], VirtualScope())
    entry = rig.chain._row.entry_down
    assert entry[InputAudio] == recording.see
    rig.chain.observe(Tally(), Diary())
    assert entry[InputAudio] != recording.see
    rig.chain.observe()
    assert entry[InputAudio] == recording.see


def test_observers_can_be_changed_while_a_frame_travels() -> None:
    """The frame under way arrives once, and the next one is seen."""
    tally = Tally()

    class Attaching(Processor):
        @down(InputDtmf)
        def key(self, frame: InputDtmf) -> None:
            """Attach, then hand on."""
            rig.chain.observe(tally)
            self.push(frame)

    rig = Rig([Attaching(), Keys()], VirtualScope())
    rig.feed(InputDtmf("1"))
    rig.feed(InputDtmf("2"))
    assert rig.tail == [InputDtmf("1"), InputDtmf("2")]
    assert tally.counts == {("attaching", "InputDtmf"): 1, ("keys", "InputDtmf"): 2}


def test_an_observer_that_raises_ends_its_call_like_a_processor() -> None:
    """The error comes out where the frame went in."""

    class Broken:
        def saw(self, frame: Frame, source: str, target: str, *, downstream: bool) -> None:
            """Fail."""
            raise ValueError(f"{type(frame).__name__} {source} {target} {downstream}")

    rig = Rig([Recording()], VirtualScope())
    rig.chain.observe(Broken())
    with pytest.raises(ValueError, match="InputDtmf head recording True"):
        rig.feed(InputDtmf("1"))
