"""The core's laws and limits, beyond what the transcripts of `test_contract.py` show."""

from __future__ import annotations

import json
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcatd.carriers.events import Audio, Cleared, Digit, Encoding, MarkReached, Started, Stopped
from flowcatd.carriers.far_end import FarEnd
from flowcatd.carriers.json_media import PENDING_LIMIT, JsonMedia
from flowcatd.carriers.message import MESSAGE_LIMIT
from flowcatd.carriers.table import PLIVO, ROWS, TWILIO, Format
from flowcatd.errors import CarrierError, LocalError
from tests.laws import keeps_bounded_law, keeps_garbage_law, keeps_quiet_law

EVENTS = (Started, Audio, Digit, MarkReached, Cleared, Stopped)
EVENT_NAMES = st.sampled_from(
    ["connected", "start", "media", "dtmf", "mark", "stop", "playedStream", "clearedAudio", "?"]
)
FIELDS = st.sampled_from(
    ["start", "media", "dtmf", "mark", "name", "digit", "payload", "timestamp", "track"]
)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(FIELDS, below, max_size=4),
    max_leaves=8,
)
MESSAGES = st.builds(
    lambda event, body: json.dumps({"event": event, **body}),
    EVENT_NAMES,
    st.dictionaries(FIELDS, VALUES, max_size=4),
)


def _started(form: Format) -> Started:
    return Started("call-1", "stream-1", form.encoding, form.rate_hz, {"agent": "a"})


def _up(row=TWILIO) -> JsonMedia:
    core = JsonMedia(row)
    for text in FarEnd(row, _started(row.formats[0])).start():
        core.receive_text(text, now=0.0)
    core.events()
    return core


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@given(text=st.text() | st.binary() | MESSAGES)
def test_any_text_gives_events_or_a_carrier_error(row, up, text):
    """Garbage law, text: also for messages that nearly make sense, before and after the start."""
    core = _up(row) if up else JsonMedia(row)
    told = keeps_garbage_law(core, lambda: core.receive_text(text, now=1.0), CarrierError)
    assert all(isinstance(event, EVENTS) for event in told)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@given(data=st.binary())
def test_any_binary_is_refused_with_1003(row, data):
    """These carriers speak text only."""
    core = _up(row)
    with pytest.raises(CarrierError) as caught:
        core.receive_binary(data, now=1.0)
    assert caught.value.close_code == 1003


@given(timestamp=st.none() | NUMBERS | st.text() | st.integers().map(str))
def test_no_timestamp_can_end_a_call(timestamp):
    """A media time is an extra: any number or text gives a time in range or none."""
    core = _up()
    message = {"event": "media", "media": {"payload": "//8A", "timestamp": timestamp}}
    core.receive_text(json.dumps(message), now=1.0)
    (audio,) = core.events()
    assert audio.timestamp_ms is None or 0 <= audio.timestamp_ms < 1 << 40


@pytest.mark.parametrize(
    "text", [b"[" * 60_000, b'{"a":' * 13_000, b'{"event":"x","a":' + b"[" * 60_000]
)
def test_deep_nesting_is_a_carriers_mistake(text):
    """No message within the limit can exhaust the stack."""
    core = _up()
    with pytest.raises(CarrierError) as caught:
        core.receive_text(text, now=1.0)
    assert caught.value.close_code == 1007


@pytest.mark.parametrize("kind", [str, bytes])
def test_a_message_over_the_limit_is_refused_unread(kind):
    """One byte more than 64 KiB earns 1009."""
    for size, outcome in ((MESSAGE_LIMIT, 1007), (MESSAGE_LIMIT + 1, 1009)):
        text = "x" * size
        with pytest.raises(CarrierError) as caught:
            _up().receive_text(text if kind is str else text.encode(), now=1.0)
        assert caught.value.close_code == outcome


def test_nothing_of_a_message_stands_in_the_error():
    """Digits, names and payloads must not reach a log, not even by way of a traceback."""
    for text in (
        '{"event":"start","start":{"streamSid":"sekret","callSid":5}}',
        '{"event":"start","start":{"mediaFormat":{"encoding":"sekret","sampleRate":8000}}}',
        '{"event":"media","media":{"payload":"sekret!"}}',
        '{"event":"dtmf","dtmf":{"digit":["sekret"]}}',
        '{"event":"sekret',
        '"sekret"',
    ):
        core = JsonMedia(TWILIO)
        with pytest.raises(CarrierError) as caught:
            core.receive_text(text, now=1.0)
        error = caught.value
        assert "sekret" not in "".join(traceback.format_exception(error))
        assert error.__context__ is None or error.__suppress_context__


def test_undrained_events_are_bounded():
    """Bounded law: a shell that never drains is told so, and memory stays where it is."""
    core = _up()
    text = b'{"event":"media","media":{"payload":"//8A"}}'
    keeps_bounded_law(core, lambda: core.receive_text(text, now=1.0), limit=PENDING_LIMIT)


def test_draining_twice_gives_nothing():
    """Quiet law."""
    core = _up()
    core.receive_text(b'{"event":"media","media":{"payload":"//8A"}}', now=1.0)
    keeps_quiet_law(core)


def test_the_core_knows_when_the_carrier_was_last_heard():
    """Whoever watches for a dead stream reads it here."""
    core = _up()
    core.receive_text(b'{"event":"whatever"}', now=41.5)
    assert core.active_at == 41.5


def test_wishes_before_the_start_are_our_mistake():
    """Without a stream id there is nothing to say."""
    core = JsonMedia(TWILIO)
    for wish in (lambda: core.audio(b"x"), lambda: core.mark("1"), core.clear):
        with pytest.raises(LocalError):
            wish()


@pytest.mark.parametrize("keys", ["", "12x", "1 2"])
def test_only_keys_of_a_telephone_can_be_pressed(keys):
    """The error does not repeat them."""
    with pytest.raises(LocalError) as caught:
        _up(PLIVO).digits(keys)
    assert "12" not in str(caught.value)


def test_a_row_with_a_start_message_takes_none_from_us():
    """Started comes from the wire or from the caller, never from both."""
    with pytest.raises(LocalError):
        JsonMedia(TWILIO, _started(TWILIO.formats[0]))


def test_what_a_carrier_can_do_is_told_beforehand():
    """Both shipped carriers have marks and clear, and carry audio as text."""
    for row in ROWS:
        core = JsonMedia(row)
        assert (core.has_marks, core.has_clear, core.audio_is_text) == (True, True, True)


def test_a_notice_is_our_event_with_its_fields():
    """The event name cannot be taken over by a field."""
    text = _up().notice({"line": "hello", "event": "media"})
    assert json.loads(text) == {"event": "flowcatd", "line": "hello"}


@settings(max_examples=50)
@given(payload=st.binary(max_size=2000), encoding=st.sampled_from(Encoding))
def test_audio_is_valid_json_with_the_payload_in_it(payload, encoding):
    """The pre-rendered halves and the middle make one message, for every format of a row."""
    for row in ROWS:
        for form in row.formats:
            if form.encoding is not encoding:
                continue
            core, far = JsonMedia(row), FarEnd(row, _started(form))
            for text in far.start():
                core.receive_text(text, now=0.0)
            far.receive_text(core.audio(payload))
            assert far.events() == [Audio(payload)]
