"""The earpiece: when what is sent is heard, and what of it is speech."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowcatd.caller.listener import (
    MARKS_LIMIT,
    QUEUE_SECONDS,
    AgentStarted,
    AgentStopped,
    Listener,
    MarkReached,
    audible_span,
)
from tests.flowcatd.caller.played import tone

RATE = 8000


def ear(*, returns_cleared_marks: bool = True) -> Listener:
    """An earpiece on a telephone line."""
    return Listener(RATE, returns_cleared_marks=returns_cleared_marks)


def at(ms: int) -> int:
    """The sample at this time."""
    return RATE * ms // 1000


def test_what_comes_at_once_is_heard_at_the_rate_of_the_clock():
    """A line sent in one piece plays as long as it is."""
    listener = ear()
    line = tone(1000)
    listener.push(line, 0)
    assert listener.play(at(250)) == line[: 2 * at(250)]
    assert listener.play(at(1000)) == line[2 * at(250) :]
    assert listener.play(at(1020)) == bytes(2 * at(20))


def test_a_piece_that_comes_in_silence_plays_at_once():
    """Between two frames of the clock, to the sample."""
    listener = ear()
    listener.push(tone(20), at(33))
    heard = listener.play(at(60))
    assert heard == bytes(2 * at(33)) + tone(20) + bytes(2 * at(7))


@given(
    pieces=st.lists(
        st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=300)), max_size=30
    ),
    steps=st.integers(1, 500),
)
def test_nothing_is_lost_doubled_or_reordered(pieces, steps):
    """Whatever arrives whenever is heard once, in order, never before it came, with only silence
    between.
    """
    listener = ear()
    position, sent, heard, earliest = 0, [], b"", []
    for gap, content in pieces:
        position += gap
        pcm = b"".join(bytes((byte or 1, 1)) for byte in content)
        listener.push(pcm, position)
        earliest += [position] * len(content)
        sent.append(pcm)
    total = sum(map(len, sent)) // 2
    for until in range(position, position + total + steps, steps):
        heard += listener.play(until)
    heard += listener.play(position + total + steps)
    samples = [heard[i : i + 2] for i in range(0, len(heard), 2)]
    places = [place for place, sample in enumerate(samples) if sample != b"\0\0"]
    assert b"".join(samples[place] for place in places) == b"".join(sent)
    assert all(place >= first for place, first in zip(places, earliest, strict=True))


def test_a_mark_comes_back_when_all_before_it_has_been_heard():
    """Not when it arrives, and not with the audio behind it."""
    listener = ear()
    listener.push(tone(100), 0)
    listener.mark("m", 0)
    listener.push(tone(100), 0)
    listener.play(at(90))
    assert MarkReached("m") not in listener.events()
    listener.play(at(100))
    assert MarkReached("m") in listener.events()


def test_a_mark_in_silence_comes_back_at_once():
    """There is nothing to wait for."""
    listener = ear()
    listener.mark("m", at(50))
    assert listener.events() == [MarkReached("m")]


def test_a_clear_silences_at_once_and_gives_the_marks_back():
    """As Twilio does it: a cleared mark comes back like a played one."""
    listener = ear()
    listener.push(tone(1000), 0)
    listener.mark("m", 0)
    listener.clear(at(300))
    assert listener.events() == [
        AgentStarted(0.0),
        MarkReached("m"),
        AgentStopped(0.0, 0.3, cut=True),
    ]
    assert listener.play(at(500))[2 * at(300) :] == bytes(2 * at(200))


def test_a_clear_swallows_the_marks_where_the_carrier_works_so():
    """As Plivo does it: only what was played comes back."""
    listener = ear(returns_cleared_marks=False)
    listener.push(tone(1000), 0)
    listener.mark("m", 0)
    listener.clear(at(300))
    listener.play(at(2000))
    assert not [event for event in listener.events() if isinstance(event, MarkReached)]


def test_a_clear_with_nothing_waiting_cuts_nothing():
    """The line had been heard to its end: it ends by its own silence."""
    listener = ear()
    listener.push(tone(300), 0)
    listener.clear(at(400))
    listener.play(at(1100))
    assert listener.events() == [AgentStarted(0.0), AgentStopped(0.0, 0.3, cut=False)]


def test_a_stretch_begins_and_ends_at_its_audible_samples():
    """To the sample, whatever the windows and the silence around it in the audio."""
    listener = ear()
    silence = bytes(2 * at(57))
    listener.push(silence + tone(300) + silence, 0)
    listener.play(at(1200))
    started, stopped = listener.events()
    assert started == AgentStarted(0.057)
    assert stopped == AgentStopped(0.057, 0.357, cut=False)


def test_a_pause_shorter_than_the_silence_asked_for_does_not_end_a_stretch():
    """Two sentences with half a second between them are one answer."""
    listener = ear()
    listener.push(tone(300) + bytes(2 * at(600)) + tone(300), 0)
    listener.play(at(1890))
    assert listener.events() == [AgentStarted(0.0)]
    listener.play(at(1910))
    assert listener.events() == [AgentStopped(0.0, 1.2, cut=False)]


def test_line_noise_is_no_speech():
    """What G.711 makes of silence is not the agent."""
    listener = ear()
    listener.push(tone(1000, level=100), 0)
    listener.play(at(2000))
    assert listener.events() == []
    assert listener.audible_seconds == 0


def test_a_full_queue_drops_what_comes_and_counts_it():
    """The earpiece is bounded in audio and in marks."""
    listener = ear()
    second = bytes(2 * RATE)
    for _ in range(QUEUE_SECONDS + 3):
        listener.push(second, 0)
    assert listener.overflowed == 3
    for _ in range(MARKS_LIMIT + 2):
        listener.mark("m", 0)
    assert listener.overflowed == 5


def test_the_audible_span_of_silence_is_empty():
    """There is nothing to begin with."""
    assert audible_span(bytes(100)) == (0, 0)
    assert audible_span(b"") == (0, 0)


def test_a_stretch_that_the_end_of_the_call_breaks_off_is_told():
    """Nobody waits for silence after a far end that has gone."""
    ear = Listener(8000, returns_cleared_marks=False)
    ear.push(tone(200), 0)
    ear.play(1600)
    started, *_ = ear.events()
    ear.finish()
    ear.finish()
    assert isinstance(started, AgentStarted)
    assert ear.events() == [AgentStopped(started.at, 0.2, cut=False)]
