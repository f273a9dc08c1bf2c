"""Both sides of every row against each other: what one sends, the other understands exactly."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.carriers.events import Audio, Cleared, Digit, Encoding, MarkReached, Started, Stopped
from flowcatd.carriers.far_end import (
    PENDING_LIMIT,
    ClearAsked,
    DigitsAsked,
    FarEnd,
    MarkAsked,
    Notice,
)
from flowcatd.carriers.json_media import JsonMedia
from flowcatd.carriers.message import KEYS
from flowcatd.carriers.raw import RAW, raw
from flowcatd.carriers.table import PLIVO, ROWS, TWILIO
from flowcatd.errors import CarrierError, LocalError
from tests.laws import keeps_bounded_law, keeps_garbage_law, keeps_quiet_law

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
FORMATS = [(row, form) for row in (*ROWS, RAW) for form in row.formats]
ASKED = (Audio, MarkAsked, ClearAsked, DigitsAsked, Notice)


def _started(form, parameters=None) -> Started:
    call = ("call-1", "stream-1")
    return Started(*call, form.encoding, form.rate_hz, parameters or {})


def _pair(row, form) -> tuple[JsonMedia, FarEnd]:
    """A core and its far end, with the start exchanged and drained."""
    far = FarEnd(row, _started(form))
    core = raw(form.encoding, form.rate_hz) if row is RAW else JsonMedia(row)
    for text in far.start():
        core.receive_text(text, now=0.0)
    core.events()
    return core, far


def _to_core(core: JsonMedia, message: bytes) -> None:
    if core.audio_is_text:
        core.receive_text(message, now=0.0)
    else:
        core.receive_binary(message, now=0.0)


def _to_far_end(core: JsonMedia, far: FarEnd, message: bytes) -> None:
    if core.audio_is_text:
        far.receive_text(message)
    else:
        far.receive_binary(message)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_start_arrives_as_it_was_sent(row):
    """Ids, format and custom parameters survive, for every format of the row."""
    for form in row.formats:
        started = _started(form, {"token": "t-1", "agent": "front desk"})
        core = JsonMedia(row)
        for text in FarEnd(row, started).start():
            core.receive_text(text, now=0.0)
        assert core.events() == [started]
        assert core.started == started


@pytest.mark.parametrize(
    ("row", "form"), FORMATS, ids=lambda part: getattr(part, "name", getattr(part, "wire", ""))
)
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=330).map(lambda b: b + b), max_size=6),
    names=st.lists(TEXT, max_size=3),
    keys=st.text(sorted(KEYS), min_size=1, max_size=8),
)
def test_audio_marks_digits_and_clear_arrive_as_they_were_sent(row, form, chunks, names, keys):
    """Pair law, both directions."""
    core, far = _pair(row, form)
    for chunk in chunks:
        _to_core(core, far.audio(chunk))
        _to_far_end(core, far, core.audio(chunk))
    assert [event.payload for event in core.events()] == chunks
    assert far.events() == [Audio(chunk) for chunk in chunks]

    for name in names:
        far.receive_text(core.mark(name))
        core.receive_text(far.mark_played(name), now=0.0)
    assert far.events() == [MarkAsked(name) for name in names]
    assert core.events() == [MarkReached(name) for name in names]

    for key in keys:
        core.receive_text(far.digit(key), now=0.0)
    assert core.events() == [Digit(key) for key in keys]
    asked = core.digits(keys)
    if asked is not None:
        far.receive_text(asked)
    assert far.events() == ([] if asked is None else [DigitsAsked(keys)])

    far.receive_text(core.clear())
    assert far.events() == [ClearAsked()]
    answer = far.cleared()
    if answer is not None:
        core.receive_text(answer, now=0.0)
    assert core.events() == ([] if answer is None else [Cleared()])

    core.receive_text(far.stop(), now=0.0)
    assert core.events() == [Stopped("stop")]
    assert (core.ignored, far.ignored) == (0, 0)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_media_time_runs_with_the_samples(row):
    """Both clocks, the stream's and 1970's, give ms since the first sample."""
    for form in row.formats:
        core, far = _pair(row, form)
        width = 2 if form.encoding is Encoding.PCM else 1
        for _ in range(3):
            core.receive_text(far.audio(bytes(form.rate_hz // 50 * width)), now=0.0)
        assert [event.timestamp_ms for event in core.events()] == [0, 20, 40]


@given(fields=st.dictionaries(TEXT.filter(lambda key: key != "event"), TEXT | st.integers(0, 9)))
def test_a_notice_arrives_with_its_fields(fields):
    """Over a carrier's wire as over the plain one."""
    for row in (*ROWS, RAW):
        core, far = _pair(row, row.formats[0])
        far.receive_text(core.notice(fields))
        assert far.events() == [Notice(fields)]


@pytest.mark.parametrize("row", [*ROWS, RAW], ids=lambda row: row.name)
@given(text=st.text() | st.binary())
def test_any_text_of_the_daemon_gives_events_or_a_carrier_error(row, text):
    """Garbage law, from the other side."""
    _, far = _pair(row, row.formats[0])
    told = keeps_garbage_law(far, lambda: far.receive_text(text), CarrierError)
    assert all(isinstance(event, ASKED) for event in told)


def test_what_the_carrier_would_refuse_is_an_error():
    """Audio of ours that is broken must not look like silence in a test."""
    _, far = _pair(TWILIO, TWILIO.formats[0])
    for text in (
        b'{"event":"media","media":{"payload":"?"}}',
        b'{"event":"media"}',
        b'{"event":"mark"}',
        b'{"event":"mark","mark":{"name":""}}',
        b"[]",
        b" " * 70_000,
    ):
        with pytest.raises(CarrierError):
            far.receive_text(text)
    with pytest.raises(CarrierError):
        far.receive_binary(b"x")


def test_events_of_another_carrier_are_ignored_and_counted():
    """Plivo's clear means nothing to Twilio."""
    core, _ = _pair(PLIVO, PLIVO.formats[0])
    _, far = _pair(TWILIO, TWILIO.formats[0])
    far.receive_text(core.clear())
    assert (far.events(), far.ignored) == ([], 1)


def test_a_far_end_offers_only_formats_of_its_row():
    """Twilio carries nothing but µ-law at 8 kHz."""
    with pytest.raises(LocalError):
        FarEnd(TWILIO, Started("c", "s", Encoding.ALAW, 8000))


def test_a_message_that_the_carrier_lacks_cannot_be_sent():
    """A row may have no digits; then nobody can pretend that a key was pressed."""
    row = dataclasses.replace(TWILIO, name="toneless", dtmf=None)
    _, far = _pair(row, row.formats[0])
    with pytest.raises(LocalError, match="toneless"):
        far.digit("1")


def test_the_far_end_presses_only_keys():
    """One key at a time."""
    _, far = _pair(TWILIO, TWILIO.formats[0])
    for key in ("", "x", "12"):
        with pytest.raises(LocalError):
            far.digit(key)


def test_what_waits_at_the_far_end_is_bounded_and_quiet():
    """Bounded and quiet law."""
    core, far = _pair(TWILIO, TWILIO.formats[0])
    clear = core.clear()
    keeps_bounded_law(far, lambda: far.receive_text(clear), limit=PENDING_LIMIT)
    keeps_quiet_law(far)
