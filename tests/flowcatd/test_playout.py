"""The playout clock: what was heard of what was sent, by marks and by time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowcatd.media import PTIME_MS
from flowcatd.playout import (
    MARK_GRACE_MS,
    MARKS_OPEN,
    Backlog,
    Heard,
    PlayoutClock,
    Stretch,
    cut,
)

LEAD = 240
T0 = 5000.0


def clock(*, has_marks: bool = False, lead_ms: int = LEAD) -> PlayoutClock:
    """A clock whose stream began at T0."""
    made = PlayoutClock(lead_ms, has_marks=has_marks)
    made.start(T0)
    return made


def at(ms: int) -> float:
    """The time this long after the stream began."""
    return T0 + ms / 1000


def say(made: PlayoutClock, text: str, frames: int, now: float) -> str | None:
    """A whole line, sent at once; the mark to send."""
    made.line_started(text)
    for _ in range(frames):
        made.sent(now)
    return made.line_stopped()


# --- media time ----------------------------------------------------------------------------------


@given(st.floats(0, 1e8), st.integers(0, 100_000_000))
def test_a_place_on_media_time_comes_back_as_it_went(origin: float, ms: int) -> None:
    """Who is woken at `at(ms)` reads `ms`, not one less, and need not be woken again at once."""
    made = PlayoutClock(LEAD, has_marks=False)
    made.start(origin)
    assert made.media_ms(made.at(ms)) == ms


def test_media_time_stands_at_zero_before_the_stream_begins() -> None:
    """Nothing has been heard then either."""
    made = PlayoutClock(LEAD, has_marks=False)
    assert (made.media_ms(123.0), made.heard_ms(123.0), made.drained(123.0)) == (0, 0, True)


# --- sending -------------------------------------------------------------------------------------


@given(st.integers(20, 2000), st.lists(st.integers(0, 500), max_size=60))
def test_sending_stays_within_the_lead_and_never_overlaps(lead_ms: int, pauses: list[int]) -> None:
    """Frames lie one after the other, at most the lead and one frame ahead of time."""
    made = clock(lead_ms=lead_ms)
    now_ms, end_ms = 0, 0
    for pause in pauses:
        now_ms += pause
        for _ in range(5):
            if not made.may_send(at(now_ms)):
                assert made.media_ms(made.send_at()) > now_ms
                assert made.may_send(made.send_at())
                break
            start_ms = made.sent(at(now_ms))
            assert start_ms == max(end_ms, now_ms)
            end_ms = start_ms + PTIME_MS
            assert end_ms <= now_ms + lead_ms + PTIME_MS


def test_a_line_lies_where_its_frames_lie() -> None:
    """It begins with its first frame, which may wait for the line before."""
    made = clock()
    say(made, "one", 10, at(100))
    say(made, "two", 5, at(120))
    assert made.heard(at(1000)) == [
        Heard("one", 100, 300, complete=True),
        Heard("two", 300, 400, complete=True),
    ]


def test_a_line_without_a_frame_leaves_no_trace() -> None:
    """There is nothing that could be heard of it."""
    made = clock(has_marks=True)
    assert say(made, "silent", 0, at(0)) is None
    assert made.quiet
    assert made.line_stopped() is None


def test_a_line_is_stopped_once() -> None:
    """The second time changes nothing and asks for no mark."""
    made = clock(has_marks=True)
    assert say(made, "one", 5, at(0)) == "line-1"
    made.sent(at(0))
    assert made.line_stopped() is None
    assert made.heard(at(100 + MARK_GRACE_MS)) == [Heard("one", 0, 100, complete=True)]


# --- hearing by time -----------------------------------------------------------------------------


def test_without_marks_time_decides() -> None:
    """A frame is heard when its time is over."""
    made = clock()
    say(made, "hello", 10, at(0))
    assert made.heard(at(199)) == []
    assert made.heard_at() == made.at(200)
    assert made.heard(at(200)) == [Heard("hello", 0, 200, complete=True)]
    assert made.heard(at(300)) == []
    assert made.drained(at(200))


def test_a_line_still_being_sent_is_never_complete() -> None:
    """However long ago its last frame was played."""
    made = clock()
    made.line_started("hello")
    made.sent(at(0))
    assert made.heard(at(60_000)) == []
    assert made.heard_at() is None
    assert not made.drained(at(60_000))


# --- hearing by marks ----------------------------------------------------------------------------


def test_a_line_with_a_mark_is_heard_when_the_mark_returns() -> None:
    """Not when its time is over."""
    made = clock(has_marks=True)
    mark = say(made, "hello", 10, at(0))
    assert mark is not None
    assert made.heard(at(200)) == []
    assert made.heard_ms(at(700)) == 199
    assert made.mark_played(mark, at(700))
    assert made.heard(at(700)) == [Heard("hello", 0, 200, complete=True)]
    assert made.lag_ms == 500


def test_the_lag_a_mark_taught_delays_what_time_decides() -> None:
    """The next line, where no mark is awaited yet, plays that much later."""
    made = clock(has_marks=True)
    mark = say(made, "one", 10, at(0))
    assert mark is not None
    made.mark_played(mark, at(350))
    made.line_started("two")
    for _ in range(10):
        made.sent(at(400))
    assert made.heard_ms(at(500)) == 350


def test_a_lost_mark_delays_hearing_by_its_grace_only() -> None:
    """Then time decides again."""
    made = clock(has_marks=True)
    say(made, "hello", 10, at(0))
    due = made.heard_at()
    assert due == made.at(200 + MARK_GRACE_MS)
    assert made.heard(at(200 + MARK_GRACE_MS - 1)) == []
    assert made.heard(at(200 + MARK_GRACE_MS)) == [Heard("hello", 0, 200, complete=True)]


def test_a_mark_stands_for_those_before_it_that_were_lost() -> None:
    """They come back in order, so an older one that is missing holds nothing up any longer."""
    made = clock(has_marks=True)
    lost = say(made, "one", 50, at(0))
    second = say(made, "two", 50, at(0))
    assert lost is not None
    assert second is not None
    assert made.mark_played(second, at(2000))
    assert [heard.text for heard in made.heard(at(2000))] == ["one", "two"]
    say(made, "three", 50, at(2000))
    assert made.heard_ms(at(2400)) == 2400
    assert not made.mark_played(lost, at(2500))


def test_lost_marks_do_not_use_up_the_marks_of_a_call() -> None:
    """Every second one lost, and marks still work after many times the limit."""
    made = clock(has_marks=True)
    for index in range(4 * MARKS_OPEN):
        now = at(1000 * index)
        mark = say(made, "line", 5, now)
        assert mark is not None
        if index % 2:
            assert made.mark_played(mark, now + 0.1)


def test_marks_that_never_return_are_bounded() -> None:
    """From the limit on no more are asked for, and time decides."""
    made = clock(has_marks=True)
    marks = [say(made, "line", 1, at(0)) for _ in range(MARKS_OPEN + 5)]
    assert marks[MARKS_OPEN:] == [None] * 5
    assert len(made.heard(at(60_000))) == MARKS_OPEN + 5


def test_a_mark_that_is_none_of_ours_proves_nothing() -> None:
    """Neither an unknown one nor one that comes twice."""
    made = clock(has_marks=True)
    mark = say(made, "hello", 10, at(0))
    assert mark is not None
    assert not made.mark_played("line-99", at(50))
    assert made.heard_ms(at(50)) == 50
    assert made.mark_played(mark, at(250))
    assert not made.mark_played(mark, at(900))
    assert made.lag_ms == 50


def test_a_late_mark_takes_nothing_back() -> None:
    """What was heard by time stays heard, though the mark teaches a longer lag."""
    made = clock(has_marks=True)
    mark = say(made, "hello", 10, at(0))
    made.line_started("more")
    for _ in range(200):
        made.sent(at(0))
    late = at(200 + MARK_GRACE_MS + 700)
    before = made.heard_ms(late)
    assert mark is not None
    made.mark_played(mark, late)
    assert made.heard_ms(late) >= before


# --- clearing ------------------------------------------------------------------------------------


def test_a_clear_cuts_the_line_under_way_and_forgets_the_others() -> None:
    """What follows begins where hearing ended, or now."""
    made = clock()
    say(made, "abcd efgh", 10, at(0))
    say(made, "never heard", 10, at(0))
    assert made.cleared(at(120)) == (120, [Heard("abcd", 0, 120, complete=False)])
    assert made.quiet
    assert made.end_ms == 120
    assert made.sent(at(150)) == 150


def test_a_clear_tells_the_lines_that_were_heard_first() -> None:
    """A line that was complete is complete."""
    made = clock()
    say(made, "one", 5, at(0))
    say(made, "two", 5, at(0))
    assert made.cleared(at(100)) == (100, [Heard("one", 0, 100, complete=True)])


def test_what_of_a_line_had_not_left_counts_as_not_heard() -> None:
    """A second of four was heard, though all that was sent was heard."""
    made = clock()
    made.line_started("aaaa bbbb cccc dddd")
    for _ in range(50):
        made.sent(at(0))
    _, lines = made.cleared(at(1000), unsent_ms=3000)
    assert lines == [Heard("aaaa", 0, 1000, complete=False)]


def test_a_line_still_being_made_is_taken_for_as_long_as_its_letters() -> None:
    """A voice that stalls after its first second has not said the rest."""
    made = clock()
    text = "word " * 20
    made.line_started(text)
    for _ in range(50):
        made.sent(at(0))
    _, lines = made.cleared(at(5000), made=False)
    assert len(lines) == 1
    assert 1 <= len(lines[0].text.split()) <= 4


def test_a_mark_that_a_clear_overtook_proves_nothing() -> None:
    """Twilio returns it at once; it was not played, and teaches no lag."""
    made = clock(has_marks=True)
    mark = say(made, "hello there", 50, at(0))
    assert mark is not None
    made.cleared(at(300))
    assert not made.mark_played(mark, at(310))
    assert (made.heard_ms(at(310)), made.lag_ms) == (300, 0)


# --- cutting -------------------------------------------------------------------------------------


@given(st.text(max_size=80), st.integers(0, 10_000), st.integers(0, 5000), st.integers(0, 15_000))
def test_a_cut_gives_a_prefix_of_the_words(text: str, start: int, length: int, heard: int) -> None:
    """Whatever the text and the times."""
    kept = cut(text, start, start + length, heard).split()
    assert kept == text.split()[: len(kept)]


@given(
    st.lists(st.text("abcdefgh", min_size=1, max_size=9), min_size=1, max_size=12),
    st.integers(1, 5000),
    st.integers(0, 5000),
    st.integers(0, 5000),
)
def test_a_cut_grows_with_what_was_heard(words: list[str], length: int, a: int, b: int) -> None:
    """From nothing to all of it."""
    text, first, second = " ".join(words), min(a, b), max(a, b)
    shorter, longer = cut(text, 0, length, first), cut(text, 0, length, second)
    assert longer.startswith(shorter)
    assert cut(text, 0, length, 0) == ""
    assert cut(text, 0, length, length) == text


@pytest.mark.parametrize(("heard", "kept"), [(440, ""), (460, "four"), (940, "four")])
def test_a_word_counts_when_it_has_ended(heard: int, kept: str) -> None:
    """Two words of four letters and a space share a second, half a letter is forgiven."""
    assert cut("four five", 0, 1000, heard) == kept


# --- everything at once --------------------------------------------------------------------------


class Playing(RuleBasedStateMachine):
    """Any order of sending, lines, marks, clears and time."""

    @initialize(has_marks=st.booleans(), lead_ms=st.integers(20, 1000))
    def begin(self, has_marks: bool, lead_ms: int) -> None:  # noqa: FBT001 hypothesis names it
        """A stream begins."""
        self.clock = clock(has_marks=has_marks, lead_ms=lead_ms)
        self.now_ms = 0
        self.heard_ms = 0
        self.end_ms = 0
        self.marks: list[str] = []
        self.cleared_marks: list[str] = []
        self.started: list[str] = []
        self.told: list[Heard] = []
        self.open = False

    @rule(ms=st.integers(0, 3000))
    def time_passes(self, ms: int) -> None:
        """Some time."""
        self.now_ms += ms

    @rule(frames=st.integers(1, 40))
    def send(self, frames: int) -> None:
        """As much as the lead allows."""
        for _ in range(frames):
            if not self.clock.may_send(at(self.now_ms)):
                break
            start_ms = self.clock.sent(at(self.now_ms))
            assert start_ms >= self.end_ms, "it overlaps what was sent before"
            assert start_ms >= self.now_ms
            self.end_ms = start_ms + PTIME_MS

    @precondition(lambda self: not self.open)
    @rule()
    def line_begins(self) -> None:
        """The next line."""
        text = f"line {len(self.started)} of the agent"
        self.started.append(text)
        self.clock.line_started(text)
        self.open = True

    @precondition(lambda self: self.open)
    @rule()
    def line_ends(self) -> None:
        """Its end; a mark may be wanted."""
        self.open = False
        heard_ms = self.clock.heard_ms(at(self.now_ms))
        mark = self.clock.line_stopped()
        # A mark not back yet says that the last sample it stands for has not been heard.
        self.heard_ms = min(self.heard_ms, self.clock.heard_ms(at(self.now_ms)))
        assert heard_ms - self.heard_ms <= 1
        if mark is not None:
            assert mark not in self.marks + self.cleared_marks
            self.marks.append(mark)

    @precondition(lambda self: self.marks)
    @rule(lost=st.integers(0, 2))
    def mark_returns(self, lost: int) -> None:
        """The next one, or one after it when some were lost."""
        del self.marks[: min(lost, len(self.marks) - 1)]
        self.clock.mark_played(self.marks.pop(0), at(self.now_ms))
        assert 0 <= self.clock.lag_ms <= MARK_GRACE_MS

    @precondition(lambda self: self.cleared_marks)
    @rule()
    def cleared_mark_returns(self) -> None:
        """It proves nothing."""
        before = (self.clock.heard_ms(at(self.now_ms)), self.clock.lag_ms)
        assert not self.clock.mark_played(self.cleared_marks.pop(), at(self.now_ms))
        assert (self.clock.heard_ms(at(self.now_ms)), self.clock.lag_ms) == before

    @rule()
    def tell(self) -> None:
        """Drain what was heard."""
        self.told.extend(self.clock.heard(at(self.now_ms)))

    @rule(unsent_ms=st.integers(0, 2000), made=st.booleans())
    def clear(self, unsent_ms: int, made: bool) -> None:  # noqa: FBT001 hypothesis names it
        """The caller takes the turn."""
        position, lines = self.clock.cleared(at(self.now_ms), unsent_ms=unsent_ms, made=made)
        assert self.heard_ms <= position <= self.end_ms
        self.told.extend(lines)
        self.end_ms = self.heard_ms = position
        self.cleared_marks, self.marks, self.open = self.marks, [], False
        assert self.clock.quiet

    @invariant()
    def heard_never_goes_back_and_never_exceeds_what_was_sent(self) -> None:
        """But for clears, which have their own check."""
        heard_ms = self.clock.heard_ms(at(self.now_ms))
        assert self.heard_ms <= heard_ms <= self.end_ms == self.clock.end_ms
        self.heard_ms = heard_ms

    @invariant()
    def lines_are_told_once_and_in_order(self) -> None:
        """Each as it was begun, whole or a prefix of it, one after the other on media time."""
        whole = [heard.text for heard in self.told if heard.complete]
        assert len(whole) == len(set(whole))
        assert [self.started.index(text) for text in whole] == sorted(
            self.started.index(text) for text in whole
        )
        assert all(any(text.startswith(heard.text) for text in self.started) for heard in self.told)
        for before, after in zip(self.told, self.told[1:], strict=False):
            assert before.start_ms < before.end_ms <= after.start_ms < after.end_ms


TestPlaying = Playing.TestCase


# --- what waits ----------------------------------------------------------------------------------

FRAME = 8


def emptied(backlog: Backlog[str]) -> list[bytes | str]:
    """All that waits, as it leaves."""
    left: list[bytes | str] = []
    while (first := backlog.first) is not None:
        if isinstance(first, Stretch):
            left.append(backlog.take_frame(first))
        else:
            backlog.take()
            left.append(first)
    return left


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(["a", "b"]))))
def test_what_waits_leaves_in_whole_frames_and_in_its_order(steps: list[bytes | str]) -> None:
    """Every byte once, filled up before what stands between; the size is what leaves."""
    backlog: Backlog[str] = Backlog(FRAME)
    wanted: list[bytes | str] = []
    sound = b""
    for step in [*steps, "end"]:
        if isinstance(step, bytes):
            backlog.put(step)
            sound += step
            continue
        backlog.fill()
        backlog.stand(step)
        sound = sound.ljust(-(-len(sound) // FRAME) * FRAME, b"\0")
        wanted += [sound[at : at + FRAME] for at in range(0, len(sound), FRAME)] + [step]
        sound = b""
    size = backlog.size
    frames, made = backlog.until_between()
    left = emptied(backlog)
    assert left == wanted
    assert size == len(wanted)
    assert made
    assert isinstance(wanted[frames], str)
    assert backlog.size == 0


def test_a_line_that_waits_is_the_object_it_came_as() -> None:
    """Two calls that say it hold one copy between them."""
    line = bytes(range(100)) * FRAME
    for _ in range(2):
        backlog: Backlog[str] = Backlog(FRAME)
        backlog.put(line)
        assert isinstance(backlog.first, Stretch)
        assert backlog.first.pcm is line


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.integers(0, 30))
def test_what_is_too_much_is_left_out_at_the_end(sizes: list[int], most: int) -> None:
    """Exactly what is beyond the limit, and what stands before the audio stays."""
    backlog: Backlog[str] = Backlog(FRAME)
    backlog.stand("line")
    sound = bytes(index % 251 for index in range(sum(sizes) * FRAME))
    at = 0
    for size in sizes:
        backlog.put(sound[at : at + size * FRAME])
        at += size * FRAME
    assert backlog.trim(most) is (1 + sum(sizes) > most)
    left = emptied(backlog)
    assert left[0] == "line"
    kept = min(sum(sizes), max(0, most - 1))
    assert b"".join(each for each in left[1:] if isinstance(each, bytes)) == sound[: kept * FRAME]
