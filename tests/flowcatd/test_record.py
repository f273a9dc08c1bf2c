"""The call record: what a ledger was told, as a document."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.record import (
    ENDED_BY,
    LIST_MAX,
    PROBLEMS_MAX,
    TEXT_MAX,
    CallRecord,
    Identity,
    Ledger,
    LedgerState,
    Outcome,
    Reason,
    new_call_id,
    render,
    rfc3339,
)

AT = datetime(2026, 11, 20, 21, 5, 2, 345_678, UTC)
DONE = Outcome(reason=Reason.COMPLETED)


def ledger(now: float = 1000.0) -> Ledger:
    """A call that begins at AT."""
    identity = Identity(
        call_id="20261120T210502Z-3f9c2a1b", carrier="twilio", agent="appointment", worker_slot=1
    )
    return Ledger(identity, AT, now)


def test_a_whole_call_becomes_this_document() -> None:
    """Every field stands in the JSON under its name, with what the ledger was told."""
    call = ledger()
    call.answered(1000.5, carrier_call_id="CA1", stream_id="MZ1")
    call.answered(1009.0, carrier_call_id="CA2", stream_id="MZ2")
    call.turns.user, call.turns.bot, call.turns.digits = 2, 3, 4
    call.moved(1003.25, "ask_day", "ask_time", "heard")
    for latency_ms in (300, 100, 200, 900):
        call.responded(latency_ms)
    call.problem("recording", "ENOSPC")
    call.problem("recording", "ENOSPC")
    call.usage.providers["stt"] = "pocketsphinx"
    call.audio_seconds.caller = 9.5
    call.files.recording = "a.wav"
    record = call.finish(
        1010.0, Outcome(reason=Reason.CARRIER_STOPPED, close_code=1000), variables={"day": "monday"}
    )
    assert json.loads(render(record)) == {
        "record": 1,
        "call_id": "20261120T210502Z-3f9c2a1b",
        "run_id": "",
        "carrier": "twilio",
        "carrier_call_id": "CA1",
        "stream_id": "MZ1",
        "agent": "appointment",
        "worker_slot": 1,
        "started_at_utc": "2026-11-20T21:05:02.345Z",
        "answered_at_utc": "2026-11-20T21:05:02.845Z",
        "ended_at_utc": "2026-11-20T21:05:12.345Z",
        "duration_seconds": 10.0,
        "talk_seconds": 9.5,
        "ended_by": "carrier",
        "reason": "carrier_stopped",
        "error": "",
        "close_code": 1000,
        "turns": {
            "user": 2,
            "bot": 3,
            "interruptions": 0,
            "digits": 4,
            "no_match": 0,
            "no_input": 0,
        },
        "latency": {"count": 4, "p50_ms": 200, "max_ms": 900, "turns_ms": [300, 100, 200, 900]},
        "audio_seconds": {"caller": 9.5, "agent": 0.0},
        "usage": {
            "stt_audio_seconds": 0.0,
            "stt_utterances": 0,
            "stt_failures": 0,
            "tts_characters": 0,
            "tts_audio_seconds": 0.0,
            "tts_cache_hits": 0,
            "tts_failures": 0,
            "providers": {"stt": "pocketsphinx"},
        },
        "variables": {"day": "monday"},
        "states": [
            {"source": "ask_day", "target": "ask_time", "event": "heard", "at_seconds": 3.25}
        ],
        "files": {"recording": "a.wav", "transcript": "", "later_recordings": []},
        "problems": [{"where": "recording", "reason": "ENOSPC", "times": 2}],
        "leftovers": [],
        "resumed": 0,
        "sip": None,
    }


def test_a_record_reads_back_as_it_was() -> None:
    """Rendering and decoding are inverse."""
    record = ledger().finish(1001.0, DONE, leftovers=["task hear"])
    assert msgspec.json.decode(render(record), type=CallRecord) == record


def test_a_call_that_never_began_has_no_answer() -> None:
    """Without a stream there is no answer, no talk and no latency, but a record all the same."""
    record = ledger().finish(1005.0, Outcome(reason=Reason.NEVER_STARTED))
    assert record.answered_at_utc is None
    assert record.talk_seconds == 0.0
    assert record.duration_seconds == 5.0
    assert (record.latency.p50_ms, record.latency.max_ms) == (None, None)


def test_a_ledger_goes_on_in_another_process() -> None:
    """Through JSON, on another clock and four seconds later: the same record, and it goes on counting."""
    before = ledger()
    before.answered(1000.5, carrier_call_id="CA1", stream_id="MZ1")
    before.turns.user, before.audio_seconds.caller, before.usage.tts_characters = 2, 9.5, 40
    before.files.recording = "a.wav"
    before.moved(1003.25, "ask_day", "ask_time", "heard")
    for latency_ms in (300, 100):
        before.responded(latency_ms)
    before.problem("recording", "ENOSPC")
    kept = msgspec.json.decode(msgspec.json.encode(before.snapshot(1010.0)), type=LedgerState)
    after = Ledger.restored(before.identity, kept, 50.0, 4.0)
    assert after.answered_at == pytest.approx(36.5)
    for each, offset in ((before, 0.0), (after, 964.0)):
        each.answered(1016.0 - offset, carrier_call_id="CA2")
        each.moved(1015.0 - offset, "ask_time", "done", "heard")
        each.responded(200)
        each.problem("recording", "ENOSPC")
        each.turns.user += 1
    one, other = before.finish(1016.0, DONE), after.finish(52.0, DONE)
    assert other == one
    assert render(other) == render(one)


def test_a_break_that_a_clock_makes_negative_is_none() -> None:
    """The wall clock was set back while nobody carried the call: no time passed, none came back."""
    kept = ledger().snapshot(1010.0)
    after = Ledger.restored(ledger().identity, kept, 50.0, -3600.0)
    assert after.finish(50.0, DONE).duration_seconds == 10.0


def test_every_reason_has_somebody_who_ended_the_call() -> None:
    """The table is complete."""
    assert set(ENDED_BY) == set(Reason)


def test_a_record_does_not_grow_with_the_call() -> None:
    """Lists stop at their limits, texts are cut, and the figures go on counting."""
    call = ledger()
    for n in range(LIST_MAX + 500):
        call.responded(n)
        call.moved(1000.0 + n, "a", "b", "heard")
        call.problem("stt", f"problem {n}")
    call.answered(1000.0, carrier_call_id="x" * 10_000)
    record = call.finish(
        9000.0,
        Outcome(reason=Reason.AGENT_FAILED, error="e" * 10_000),
        variables={f"name {n}": "v" * 10_000 for n in range(LIST_MAX + 1)},
        leftovers=(f"task {n}" for n in range(10_000)),
    )
    assert len(record.latency.turns_ms) == len(record.states) == len(record.variables) == LIST_MAX
    assert (record.latency.count, record.latency.max_ms) == (LIST_MAX + 500, LIST_MAX + 499)
    assert len(record.problems) == len(record.leftovers) == PROBLEMS_MAX
    assert len(record.error) == len(record.carrier_call_id) == TEXT_MAX
    assert max(len(value) for value in record.variables.values()) == TEXT_MAX


def test_a_known_problem_is_still_counted_when_the_list_is_full() -> None:
    """The limit is on different problems."""
    call = ledger()
    for n in range(PROBLEMS_MAX + 10):
        call.problem("stt", str(n))
    call.problem("stt", "0")
    assert call.finish(1001.0, DONE).problems[0].times == 2


@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=50))
def test_half_of_the_turns_were_no_slower_than_the_median(latencies: list[int]) -> None:
    """p50 is one of the values, with at least half of them at or below it and at or above it."""
    call = ledger()
    for latency_ms in latencies:
        call.responded(latency_ms)
    median = call.finish(1001.0, DONE).latency.p50_ms
    assert median in latencies
    assert 2 * sum(value <= median for value in latencies) >= len(latencies)
    assert 2 * sum(value >= median for value in latencies) >= len(latencies)


def test_wall_times_are_given_in_utc() -> None:
    """A time in another zone is the same instant; one without a zone is refused."""
    zone = timezone(timedelta(hours=5, minutes=30))
    assert rfc3339(AT.astimezone(zone)) == "2026-11-20T21:05:02.345Z"
    with pytest.raises(LocalError):
        rfc3339(AT.replace(tzinfo=None))


def test_call_ids_say_when() -> None:
    """A call id is the second in UTC and the token."""
    assert new_call_id(AT, "3f9c2a1b") == "20261120T210502Z-3f9c2a1b"


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 the zone is the next argument
    st.integers(1, 10**9),
)
def test_call_ids_sort_by_time(at_utc: datetime, later_seconds: int) -> None:
    """A call that began a second later sorts after, whatever the tokens."""
    later = at_utc + timedelta(seconds=later_seconds)
    assert new_call_id(at_utc, "zzzzzzzz") < new_call_id(later, "00000000")


@pytest.mark.parametrize("token", ["", "abc", "3F9C2A1B", "../../../x", "a" * 33, "3f9c 2a1b"])
def test_a_token_must_fit_a_file_name(token: str) -> None:
    """Short, long and unsafe tokens are refused."""
    with pytest.raises(LocalError):
        new_call_id(AT, token)
