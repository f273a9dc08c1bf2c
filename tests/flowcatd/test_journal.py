"""The journal as a value: what is written can be read, what cannot is refused, and whose a file is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.journal import (
    PERIOD_SECONDS,
    SPARING_PERIODS,
    Journal,
    JournalError,
    Media,
    Name,
    decode,
    encode,
    is_same_call,
    key_of,
    may_resume,
    parse_name,
    unreadable,
)
from flowcatd.record import Identity, Ledger

SLACK = PERIOD_SECONDS * SPARING_PERIODS
AT = datetime(2026, 11, 20, 21, 5, 2, 345_678, UTC)
IDENTITY = Identity(
    call_id="20261120T210502Z-3f9c2a1b", run_id="R", carrier="raw", agent="a", worker_slot=1
)


def journal(**changes: object) -> Journal:
    """A call after ten seconds."""
    ledger = Ledger(IDENTITY, AT, 0.0)
    ledger.answered(0.5, carrier_call_id="CA1")
    made = Journal(
        identity=IDENTITY,
        written_at_utc=AT + timedelta(seconds=10),
        session={"name": "Zoë"},
        ledger=ledger.snapshot(10.0),
        media=Media(encoding="mulaw", rate_hz=8000, heard=[("we are", 1, 20)]),
        variables={"day": "monday"},
        brain=msgspec.Raw(b'{"state":"ask"}'),
        transcript=msgspec.Raw(b"[]"),
    )
    return msgspec.structs.replace(made, **changes)


def test_what_is_written_is_read() -> None:
    """Every part of it, the opaque ones byte by byte."""
    read = decode(encode(journal()))
    assert bytes(read.brain) == b'{"state":"ask"}'
    assert bytes(read.transcript) == b"[]"
    assert encode(read) == encode(journal())
    assert (read.carrier_call_id, read.ledger.resumed) == ("CA1", 0)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_garbage_is_no_journal(data: bytes) -> None:
    """JournalError and nothing else."""
    with pytest.raises(JournalError):
        decode(data)


@given(st.integers(0, 2000))
def test_half_a_journal_is_none(size: int) -> None:
    """Wherever it was cut off."""
    whole = encode(journal())
    with pytest.raises(JournalError):
        decode(whole[: min(size, len(whole) - 1)])


@pytest.mark.parametrize("changes", [{"journal": 2}, {"written_at_utc": AT.replace(tzinfo=None)}])
def test_another_version_and_a_time_without_a_zone_are_refused(changes: dict[str, object]) -> None:
    """By the same error; the call is then closed by its name alone."""
    with pytest.raises(JournalError):
        decode(encode(journal(**changes)))


@pytest.mark.parametrize(
    ("changes", "seconds", "patience", "may"),
    [
        ({}, 10, 20, True),
        ({}, 20 + SLACK, 20, True),
        ({}, 21 + SLACK, 20, False),
        ({}, 0, 0, False),
        ({}, -3600, 20, True),
        ({"run_id": "other"}, 1, 20, False),
        ({"carrier": "twilio"}, 1, 20, False),
        ({"agent": "b"}, 1, 20, False),
        ({"call_id": "another", "worker_slot": 7}, 1, 20, True),
    ],
)
def test_a_connection_is_a_call_coming_back_by_identity_and_in_time(
    changes: dict[str, object], seconds: float, patience: float, *, may: bool
) -> None:
    """Carrier, run id and agent; neither the worker nor the call id, which is made anew."""
    identity = msgspec.structs.replace(IDENTITY, **changes)
    now = journal().written_at_utc + timedelta(seconds=seconds)
    assert may_resume(journal(), identity, now, patience) is may


def test_the_carriers_own_name_must_be_the_same() -> None:
    """Another call on the same address is another call."""
    assert is_same_call(journal(), "CA1")
    assert not is_same_call(journal(), "CA2")
    assert not is_same_call(journal(), "")


@pytest.mark.parametrize(
    "name",
    ["", ".x.part", "20261120T210502Z-3f9c2a1b", "20261120T210502Z-3f9c2a1b.0-1-abcd.bad", "a.b"],
)
def test_what_is_no_journal_is_left_alone(name: str) -> None:
    """By its name alone."""
    assert parse_name(name) is None


def test_a_name_says_whose_it_is() -> None:
    """And comes back as it went."""
    name = "20261120T210502Z-3f9c2a1b.0-4711-abcd"
    assert parse_name(name) == Name("20261120T210502Z-3f9c2a1b", "0-4711-abcd")
    assert str(parse_name(name)) == name


@given(st.text(), st.text(), st.text(), st.text())
def test_a_directory_is_of_one_identity(a: str, b: str, c: str, d: str) -> None:
    """Safe for a file system whatever a run id holds, and equal only for equal ones."""
    carrier, other = a.replace("\n", ""), c.replace("\n", "")
    assert key_of(carrier, b).isalnum()
    assert (key_of(carrier, b) == key_of(other, d)) == ((carrier, b) == (other, d))


@pytest.mark.parametrize(
    ("call_id", "year"), [("20261120T210502Z-3f9c2a1b", 2026), ("99999999T999999Z-3f9c2a1b", 1970)]
)
def test_a_call_known_by_name_only_has_a_record_too(call_id: str, year: int) -> None:
    """Its beginning stands in its name."""
    known = unreadable(call_id)
    assert known.identity.call_id == call_id
    assert known.ledger.started_at_utc.year == year
