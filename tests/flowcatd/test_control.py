"""Control messages: what is encoded is decoded, one direction is not another, garbage has its code."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd import control
from flowcatd.control import (
    MESSAGE_MAX,
    VERSION,
    AskScale,
    AskStatus,
    Fleet,
    Reader,
    TrunkLine,
    encode,
    id_of,
    merge_trunks,
    worker_identity,
)
from flowcatd.errors import ControlError

DIRECTIONS = {
    name: getattr(control, name) for name in ("Ask", "Reply", "Order", "Report", "FromSupervisor")
}
KINDS = sorted(
    {kind for union in DIRECTIONS.values() for kind in typing.get_args(union)},
    key=lambda kind: kind.__name__,
)
SAMPLES = {
    str: "a",
    int: 1,
    float: 1.5,
    bool: True,
}


def sample(kind: type) -> msgspec.Struct:
    """A message of this kind with every required field filled."""
    values = {}
    for field in msgspec.structs.fields(kind):
        if not field.required:
            continue
        if field.name == "level":
            values[field.name] = "info"
        elif typing.get_origin(field.type) is list:
            values[field.name] = []
        else:
            bare = typing.get_args(field.type)[0] if typing.get_args(field.type) else field.type
            values[field.name] = SAMPLES[bare]
    return kind(**values)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_is_encoded_is_decoded_in_its_own_direction_only(direction):
    """A kind of another direction is garbage there."""
    reader = Reader(DIRECTIONS[direction])
    mine = typing.get_args(DIRECTIONS[direction])
    for kind in KINDS:
        message = sample(kind)
        if kind in mine:
            assert reader.decode(encode(message)) == message
        else:
            with pytest.raises(ControlError) as caught:
                reader.decode(encode(message))
            assert caught.value.code == "garbage"


def test_no_two_kinds_have_the_same_name_on_the_wire():
    """Nor do an ask and its answer."""
    tags = [kind.__struct_config__.tag for kind in KINDS]
    assert len(set(tags)) == len(tags) == 28


def test_every_message_says_its_version():
    """Also when it is the only thing it says."""
    assert msgspec.json.decode(encode(AskStatus(id="")))["v"] == VERSION


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"type":"status","v":2,"id":"1"}', "version"),
        (b'{"type":"dance","v":"1","id":"1"}', "version"),
        (b'{"type":"dance","v":1,"id":"1"}', "garbage"),
        (b'{"type":"scale","v":1,"id":"1","count":257}', "garbage"),
        (b'{"type":"hangup","v":1,"id":"1","call":""}', "garbage"),
        (encode(AskStatus(id="1")) + b" " * MESSAGE_MAX, "size"),
        (b'{"type":"status","id":"' + b"a" * 65 + b'"}', "garbage"),
        (b"[" * 100_000, "garbage"),
        (b"", "garbage"),
    ],
)
def test_what_is_refused_has_its_code(data, code):
    """An old message is told apart from rubbish, so that its sender knows what to do."""
    with pytest.raises(ControlError) as caught:
        Reader(control.Ask).decode(data)
    assert caught.value.code == code


def test_fields_that_a_newer_side_adds_are_passed_over():
    """As long as the version is the same."""
    data = b'{"type":"scale","v":1,"id":"1","count":3,"when":"now"}'
    assert Reader(control.Ask).decode(data) == AskScale(id="1", count=3)


def test_a_refused_message_still_has_its_id_if_one_can_be_read():
    """So that the refusal finds who waits for it."""
    assert id_of(b'{"type":"dance","v":9,"id":"7"}') == "7"
    for data in (b"", b"7", b'{"id":7}', b'{"id":"' + b"a" * 65 + b'"}', b"[" * 100_000):
        assert id_of(data) == ""
    assert id_of(b'{"id":"7"}' + b" " * MESSAGE_MAX) == ""


@given(st.one_of(st.binary(), st.text().map(str.encode), st.builds(bytes)))
def test_garbage_law(data):
    """Any bytes give a message or a ControlError, in every direction, and an id or none."""
    for union in DIRECTIONS.values():
        try:
            Reader(union).decode(data)
        except ControlError as error:
            assert error.code in {"garbage", "version", "size"}  # noqa: PT017 either is good
    assert len(id_of(data)) <= 64


def test_an_identity_is_a_workers_own():
    """Seat and pid, so that a successor in the same seat is somebody else."""
    assert worker_identity(3, 77) == b"worker.3.77"


def test_a_fleet_of_the_largest_size_fits_into_a_message():
    """256 slots with four processes each."""
    line = control.WorkerLine(
        seat=1023,
        slot=255,
        pid=4_000_000,
        state="retiring",
        generation=1000,
        seconds=100000.123456,
        calls=100_000,
        capacity=100_000,
        lag_ms=1000.123456,
        shedding=True,
    )
    fleet = msgspec.structs.replace(sample(Fleet), workers=[line] * 1024)
    assert len(encode(fleet)) < MESSAGE_MAX / 4


TRUNKS = st.lists(
    st.builds(
        TrunkLine,
        name=st.sampled_from(["a", "b"]),
        registration=st.sampled_from(["", "off", "registered"]),
        expires_seconds=st.sampled_from([0.0, 30.0, 60.0]),
        failures=st.integers(0, 3),
        alive=st.sampled_from([None, False, True]),
        inbound=st.integers(0, 9),
        outbound=st.integers(0, 9),
    ),
    max_size=6,
)


def test_only_a_trunks_tender_knows_its_registration():
    """What the other workers say of it counts for live calls alone."""
    tender = TrunkLine(
        name="a", registration="registered", expires_seconds=50.0, failures=1, alive=True, inbound=2
    )
    other = TrunkLine(name="a", inbound=3, outbound=1)
    for lines in ([tender, other], [other, tender], [other, tender, other]):
        (merged,) = merge_trunks(lines)
        assert merged == msgspec.structs.replace(tender, inbound=3, outbound=1)


@given(TRUNKS, TRUNKS)
def test_trunks_are_merged_in_any_order_of_answers(some, more):
    """Piece by piece as answers come or all at once: one line per trunk, sorted, and the same facts."""
    whole = merge_trunks([*some, *more])
    assert [line.name for line in whole] == sorted({line.name for line in (*some, *more)})
    for lines in (merge_trunks([*merge_trunks(some), *more]), merge_trunks([*more, *some])):
        for one, other in zip(whole, lines, strict=True):
            assert (one.alive, one.inbound, one.outbound) == (
                other.alive,
                other.inbound,
                other.outbound,
            )
            assert bool(one.registration) == bool(other.registration)
            assert one.expires_seconds == other.expires_seconds or not one.registration


def test_a_call_of_an_older_worker_has_neither_direction_nor_trunk():
    """Old and new workers live side by side during an upgrade."""
    data = (
        b'{"call_id":"c","run_id":"","carrier":"raw","agent":"echo","slot":0,"state":"up",'
        b'"seconds":1.0,"turns":0}'
    )
    line = msgspec.json.decode(data, type=control.CallLine)
    assert (line.direction, line.trunk) == ("", "")
