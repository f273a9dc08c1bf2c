"""Notices: what a client that asked is told of the conversation."""

from __future__ import annotations

from collections.abc import Mapping

from flowcatd.frames import Frame, InputDtmf, InterimTranscription, LineHeard, Transcription
from flowcatd.processors.notices import Notices
from tests.builders import Rig, VirtualScope


def tell(*frames: Frame) -> tuple[list[Mapping[str, object]], Rig]:
    """What is told of these, and the chain."""
    told: list[Mapping[str, object]] = []
    rig = Rig([Notices(told.append)], VirtualScope())
    for frame in frames:
        rig.feed(frame)
    return told, rig


def test_both_sides_are_told_as_they_were_heard() -> None:
    """The agent as far as it got, the caller understood or not."""
    told, _ = tell(
        LineHeard("Which", 100, 400, complete=False),
        Transcription(0, "tuesday", 0.9, 500, 900),
        Transcription(0, "", 0.0, 1000, 1100),
    )
    assert told == [
        {
            "type": "transcript",
            "role": "agent",
            "text": "Which",
            "start_ms": 100,
            "end_ms": 400,
            "complete": False,
            "rejected": False,
        },
        {
            "type": "transcript",
            "role": "caller",
            "text": "tuesday",
            "start_ms": 500,
            "end_ms": 900,
            "complete": True,
            "rejected": False,
        },
        {
            "type": "transcript",
            "role": "caller",
            "text": "",
            "start_ms": 1000,
            "end_ms": 1100,
            "complete": True,
            "rejected": True,
        },
    ]


def test_everything_goes_on_and_keys_are_told_to_nobody() -> None:
    """Nor what may be taken back."""
    frames = [
        InputDtmf("1"),
        InterimTranscription(0, "tue"),
        Transcription(0, "tuesday", 1.0, 0, 1),
    ]
    told, rig = tell(*frames)
    assert [notice["text"] for notice in told] == ["tuesday"]
    assert rig.tail == frames


def test_under_overload_nothing_is_told_and_everything_goes_on() -> None:
    """Who only looks on is given up first."""
    told: list[Mapping[str, object]] = []
    overloaded = [True]
    rig = Rig([Notices(told.append, lambda: overloaded[0])], VirtualScope())
    frames = [Transcription(0, "tuesday", 1.0, 0, 1), LineHeard("Which", 0, 1, complete=True)]
    for frame in frames:
        rig.feed(frame)
    assert told == []
    assert rig.tail == frames
    overloaded[0] = False
    rig.feed(frames[0])
    assert [notice["text"] for notice in told] == ["tuesday"]
