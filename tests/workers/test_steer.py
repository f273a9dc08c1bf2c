"""Who owns a call: the same answer everywhere, few moves, bounded loads, never a call too many."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.load import WORDS, Load, LoadTable, Standing
from workers.steer import (
    DIAL_KEY,
    STALE_SECONDS,
    Stamp,
    Steering,
    choose,
    holder,
    is_request_line,
    key_of,
    mint_stamp,
    read_stamp,
    refusal,
    room,
)

NOW = 1000.0
WIDE = 100.0
"""A bound that never binds: what the hash alone says."""


def load(
    seat: int,
    slot: int | None = None,
    *,
    calls: int = 0,
    capacity: int = 1000,
    standing: Standing = Standing.SERVING,
    age: float = 10.0,
) -> Load:
    """A row; `age` is seconds since the fork."""
    return Load(
        seat=seat,
        pid=100 + seat,
        slot=seat if slot is None else slot,
        standing=standing,
        calls=calls,
        capacity=capacity,
        lag_us=0,
        tick_us=int(NOW * 1e6),
        since_us=int((NOW - age) * 1e6),
    )


def fleet(*calls: int, capacity: int = 1000) -> list[Load]:
    """One seat per slot, with so many calls each."""
    return [load(seat, calls=count, capacity=capacity) for seat, count in enumerate(calls)]


def owner(key: bytes, loads, bound: float = WIDE, passed=()) -> int | None:
    """Who takes it."""
    return choose(key, loads, bound=bound, now=NOW, passed=passed)


keys = st.binary(max_size=40)
slots = st.lists(st.integers(0, 255), min_size=1, max_size=12, unique=True)
standings = st.sampled_from([standing for standing in Standing if standing])
rows = st.lists(
    st.builds(
        lambda slot, calls, standing, age: (slot, calls, standing, age),
        st.integers(0, 4),
        st.integers(0, 6),
        standings,
        st.integers(1, 50),
    ),
    max_size=12,
).map(
    lambda each: [
        load(seat, slot, calls=calls, capacity=5, standing=standing, age=age)
        for seat, (slot, calls, standing, age) in enumerate(each)
    ]
)


# --- choosing -------------------------------------------------------------------------------------


@given(slots, st.integers(0, 255), keys)
def test_a_slot_that_comes_or_goes_moves_only_its_own_keys(numbers, extra, key):
    """A key is where it was, unless it went to the new slot; and comes back when that one goes."""
    before = [load(number) for number in numbers if number != extra]
    after = [*before, load(extra)]
    was, is_now = owner(key, before), owner(key, after)
    assert is_now in (was, extra)


@given(rows, keys, st.floats(1, 3), st.randoms())
def test_the_order_of_rows_decides_nothing(loads, key, bound, chance):
    """Any two workers that read the same rows decide the same."""
    shuffled = list(loads)
    chance.shuffle(shuffled)
    assert owner(key, loads, bound) == owner(key, shuffled, bound)
    assert refusal(loads) == refusal(shuffled)


def test_another_process_decides_the_same():
    """The hash does not depend on this process's salt."""
    program = (
        "from workers.load import Load, Standing\nfrom workers.steer import choose\n"
        "loads = [Load(n, 1, n, Standing.SERVING, 0, 9, 0, 10**9, 0) for n in range(7)]\n"
        "print([choose(b'k%d' % n, loads, bound=9, now=1000.0) for n in range(50)])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[2],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        for seed in ("1", "2")
    }
    here = [owner(b"k%d" % number, fleet(*[0] * 7)) for number in range(50)]
    assert said == {f"{here}\n"}


def test_keys_spread_over_all_slots():
    """8000 keys over 8 slots: each gets a fair share (5 standard deviations)."""
    loads = fleet(*[0] * 8)
    count = Counter(owner(b"run-%d" % number, loads) for number in range(8000))
    assert all(850 < count[seat] < 1150 for seat in range(8))


@given(st.integers(1, 8), st.integers(1, 200), st.floats(1, 2), st.randoms())
@settings(max_examples=60, deadline=None)
def test_no_slot_ever_carries_more_than_its_bound(count, arrivals, bound, chance):
    """Calls that come one by one leave every slot at or under ceil(bound x average)."""
    loads = fleet(*[0] * count)
    for number in range(arrivals):
        seat = owner(b"%d" % chance.getrandbits(64), loads, bound)
        loads[seat] = replace(loads[seat], calls=loads[seat].calls + 1)
        most = ceil(Fraction(str(bound)) * (number + 1) / count)
        assert max(each.calls for each in loads) <= most


@given(rows, keys, st.floats(1, 3), st.sets(st.integers(0, 12), max_size=4))
def test_whoever_is_chosen_could_take_it(loads, key, bound, passed):
    """A chosen seat serves, is not passed, and has room; nobody is chosen only if nobody has room."""
    able = {each.seat for each in loads if each.seat not in passed and room(each.seat, loads) > 0}
    seat = owner(key, loads, bound, passed)
    assert (seat in able) if able else (seat is None)


def test_a_slot_over_the_bound_is_passed_over_in_ring_order():
    """The next in the key's own order takes it, and not the least burdened."""
    empty = fleet(0, 0, 0, 0)
    key = b"some call"
    first = owner(key, empty)
    second = owner(key, [each for each in empty if each.seat != first])
    counts = [1, 1, 1, 1]
    counts[first] = 8
    assert owner(key, fleet(*counts), 1.25) == second


def test_when_all_with_room_are_over_the_bound_the_least_burdened_takes_it():
    """A small worker that is full lowers the average, and nobody is refused for it."""
    loads = [load(0, calls=0, capacity=0), load(1, calls=9), load(2, calls=7)]
    assert owner(b"any", loads, 1.0) == 2


@pytest.mark.parametrize(
    "standing", [Standing.STARTING, Standing.SHEDDING, Standing.DRAINING, Standing.EMPTY]
)
def test_who_does_not_serve_is_passed_over(standing):
    """Only SERVING takes calls."""
    loads = [load(0, standing=standing), load(1)]
    assert {owner(b"%d" % number, loads) for number in range(50)} == {1}
    assert owner(b"any", loads[:1]) is None


def test_who_does_not_tick_is_passed_over():
    """A seat whose timer last rang longer ago than STALE_SECONDS may be hung."""
    hung = replace(load(0), tick_us=int((NOW - STALE_SECONDS - 0.01) * 1e6))
    late = replace(load(0), tick_us=int((NOW - STALE_SECONDS + 0.01) * 1e6))
    assert owner(b"any", [hung]) is None
    assert owner(b"any", [late]) == 0


def test_while_a_worker_is_replaced_exactly_one_of_the_two_owns_the_slot():
    """The older one until it drains, whatever else it does; then the successor."""
    for standing in (Standing.SERVING, Standing.SHEDDING, Standing.STARTING):
        both = [load(0, 0, age=90, standing=standing), load(1, 0, age=1)]
        assert room(1, both) == 0
        assert owner(b"any", both) == (0 if standing is Standing.SERVING else None)
    both = [load(0, 0, age=90, standing=Standing.DRAINING), load(1, 0, age=1)]
    assert owner(b"any", both) == 1
    assert room(0, both) == 0


def test_calls_of_a_retiring_process_count_against_its_slot():
    """The successor gets what the slot has left, and grows as the predecessor empties."""
    old, new = load(0, 0, calls=7, capacity=10, standing=Standing.DRAINING), load(1, 0, capacity=10)
    assert room(1, [old, new]) == 3
    assert room(1, [old, replace(new, calls=3)]) == 0
    assert owner(b"any", [old, replace(new, calls=3)]) is None
    assert room(1, [replace(old, calls=2), replace(new, calls=3)]) == 5


def test_a_passed_seat_is_not_replaced_by_its_own_successor():
    """A slot that could not take the call is passed as a whole."""
    loads = [load(0, 0, age=90), load(1, 0, age=1), load(2, 2)]
    assert owner(b"any", loads, passed=(0,)) == 2
    assert owner(b"any", loads, passed=(0, 2)) is None


@pytest.mark.parametrize(
    ("loads", "why"),
    [
        ([], "draining"),
        ([load(0, standing=Standing.DRAINING)], "draining"),
        ([load(0, standing=Standing.STARTING)], "draining"),
        ([load(0, calls=5, capacity=5)], "full"),
        ([load(0, calls=5, capacity=5), load(1, standing=Standing.DRAINING)], "full"),
        ([load(0, calls=5, capacity=5, standing=Standing.SHEDDING)], "full"),
        ([load(0, calls=5, capacity=5), load(1, standing=Standing.SHEDDING)], "overloaded"),
        ([load(0, standing=Standing.SHEDDING)], "overloaded"),
    ],
)
def test_a_refusal_says_why(loads, why):
    """The word that the metrics count it under."""
    assert refusal(loads) == why


# --- exact capacity -------------------------------------------------------------------------------


class Worker:
    """One worker of the simulation: it sees the table as it was some steps ago."""

    def __init__(self, seat: int, table: LoadTable) -> None:
        self.seat = seat
        self.table = table
        self.row = table.row(seat)
        self.view = list(table)
        self.steering = Steering(seat, self, self.promise, 1.25, lambda: NOW)
        self.calls = 0

    def __iter__(self):
        """What it believes."""
        return iter(self.view)

    def look(self) -> None:
        """Read the table anew."""
        self.view = list(self.table)

    def promise(self, _connection: object) -> bool:
        """The exact check, on the table as it is."""
        if room(self.seat, self.table) < 1:
            return False
        self.calls += 1
        self.row.calls(self.calls)
        return True


LINE = "GET /telephony/ws/raw/{} HTTP/1.1\r"


class Simulation:
    """Calls come one after the other, and take their steps in any order."""

    def __init__(self, chance: random.Random, slots: int, capacity: int) -> None:
        self.chance = chance
        self.slots = slots
        self.capacity = capacity
        self.table = LoadTable([0] * (slots * 2 * WORDS))
        self.workers: dict[int, Worker] = {}
        self.coming: list[int] = []
        self.leaving: list[int] = []
        for slot in range(slots):
            self.sit(slot, slot, NOW - 100 + slot)

    def sit(self, seat: int, slot: int, at: float) -> None:
        """A process that serves."""
        row = self.table.row(seat)
        row.sit(slot=slot, capacity=self.capacity, now=at)
        row.standing(Standing.SERVING)
        row.ticked(NOW, 0.0)
        self.workers[seat] = Worker(seat, self.table)

    def churn(self) -> None:
        """Some look at the table; one may be replaced."""
        if self.coming and self.chance.random() < 0.1:
            slot = self.coming.pop()
            self.sit(self.slots + slot, slot, NOW - 1)
            self.leaving.append(slot)
        if self.leaving and self.chance.random() < 0.1:
            self.workers[self.leaving.pop(0)].row.standing(Standing.DRAINING)
        for worker in self.workers.values():
            if self.chance.random() < 0.3:
                worker.look()

    def run(self, arrivals: int) -> tuple[int, int]:
        """How many were admitted and refused."""
        moving: list[tuple[str, int | None, tuple[int, ...]]] = [
            (f"call-{number}", None, ()) for number in range(arrivals)
        ]
        refused = 0
        while moving:
            self.churn()
            name, seat, passed = moving.pop(self.chance.randrange(len(moving)))
            here = self.workers[self.chance.choice(list(self.workers)) if seat is None else seat]
            before = here.calls
            line = LINE.format(name).encode()
            way = here.steering.decide(line, passed, name, given=seat is not None)
            assert len(way.passed) <= self.table.seats
            if way.seat is not None:
                moving.append((name, way.seat, way.passed))
            elif here.calls == before:
                refused += 1
            self.check()
        return sum(worker.calls for worker in self.workers.values()), refused

    def check(self) -> None:
        """The law."""
        for slot in range(self.slots):
            taken = sum(each.calls for each in self.table if each.slot == slot)
            assert taken <= self.capacity, "a slot admitted more than its capacity"


@given(st.randoms(), st.integers(1, 5), st.integers(1, 6), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_exactly_capacity_calls_are_admitted_when_more_come(chance, slots, capacity, more):
    """However late workers see each other: every place is given away, and none twice."""
    arrivals = slots * capacity + more
    admitted, refused = Simulation(chance, slots, capacity).run(arrivals)
    # A view that is late shows more room than there is, never less, because nobody hangs up here.
    assert (admitted, refused) == (slots * capacity, more)


@given(st.randoms(), st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_no_slot_is_ever_over_capacity_while_processes_are_replaced(chance, slots, capacity):
    """Predecessor and successor of a slot together never hold more than its capacity."""
    simulation = Simulation(chance, slots, capacity)
    simulation.coming = list(range(slots))
    admitted, refused = simulation.run(3 * slots * capacity)
    assert admitted <= slots * capacity
    assert admitted + refused == 3 * slots * capacity


def test_a_worker_that_was_chosen_takes_it_whatever_it_would_choose_itself():
    """Two workers that see the table a moment apart do not send a call to and fro."""
    loads = fleet(50, 0, 0)
    line = LINE.format("x").encode()
    taken: list[object] = []

    def promise(connection: object) -> bool:
        taken.append(connection)
        return True

    steering = Steering(0, loads, promise, 1.0, lambda: NOW)
    assert steering.decide(line, (), "fresh", given=False).seat in (1, 2)
    assert steering.decide(line, (), "given", given=True).seat is None
    assert taken == ["given"]


def test_who_has_no_room_names_itself_and_passes_on():
    """The next one is told not to send it back."""
    steering = Steering(0, fleet(0, 0), lambda _: False, WIDE, lambda: NOW)
    way = steering.decide(LINE.format("x").encode(), (), "c", given=True)
    assert (way.seat, way.passed) == (1, (0,))
    way = steering.decide(LINE.format("x").encode(), (1,), "c", given=True)
    assert (way.seat, way.passed) == (None, (1, 0))


def test_what_is_no_call_is_served_where_it_came_in():
    """Pages and health checks need no place."""
    steering = Steering(0, fleet(0, 0), lambda _: pytest.fail("no place"), WIDE, lambda: NOW)
    assert steering.decide(b"GET /healthz HTTP/1.1\r", (), "c", given=False).seat is None


# --- request lines --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b"GET /telephony/ws/twilio/r1 HTTP/1.1\r", b"ws\0twilio\0r1"),
        (b"GET /telephony/ws/twilio/r1 HTTP/1.1\r\n", b"ws\0twilio\0r1"),
        (b"GET /telephony/ws/twilio/r1?agent=echo HTTP/1.1", b"ws\0twilio\0r1"),
        (b"GET /telephony/ws/twilio/%721 HTTP/1.1", b"ws\0twilio\0r1"),
        (b"GET /telephony/ws/raw/a%2Fb HTTP/1.0", b"ws\0raw\0a/b"),
        (b"GET /telephony/ws/raw/" + b"x" * 200 + b" HTTP/1.1", b"ws\0raw\0" + b"x" * 128),
        (b"GET http://h.example/telephony/ws/raw/r HTTP/1.1", b"ws\0raw\0r"),
        (b"GET /telephony/ws/raw/%C3%A9 HTTP/1.1", "ws\0raw\0é".encode()),
        (b"GET /telephony/ws/raw/%ff HTTP/1.1", "ws\0raw\0�".encode()),
    ],
)
def test_a_media_socket_is_known_by_provider_and_run_id(line, key):
    """However it is spelled; the run id is cut where the call's own is."""
    assert key_of(line) == key


@pytest.mark.parametrize(
    "line", [b"POST /v1/calls HTTP/1.1\r", b"POST http://h.example/v1/calls?x=1 HTTP/1.1"]
)
def test_a_wish_for_a_call_goes_to_whoever_has_room(line):
    """It has no identity yet, so all of them have one key, and the loads decide."""
    assert key_of(line) == DIAL_KEY


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET /v1/calls HTTP/1.1",
        b"POST /v1/calls/x HTTP/1.1",
        b"GET / HTTP/1.1\r",
        b"GET /telephony/ws/twilio HTTP/1.1",
        b"GET /telephony/ws/twilio/ HTTP/1.1",
        b"GET /telephony/ws//r HTTP/1.1",
        b"GET /telephony/ws/twilio/r/more HTTP/1.1",
        b"POST /telephony/ws/twilio/r HTTP/1.1",
        b"GET /telephony/ws/twilio/r HTTP/2.0",
        b"GET  /telephony/ws/twilio/r HTTP/1.1",
        b"GET /telephony/ws/twilio/r",
        b"GET telephony/ws/twilio/r HTTP/1.1",
        b"GET /telephony/ws/twilio/\xe9 HTTP/1.1",
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_everything_else_has_no_owner(line):
    """Pages, other methods and what is malformed are answered by whoever has them."""
    assert key_of(line) is None


@given(st.binary(max_size=300))
def test_no_request_line_whatever_raises(line):
    """Any bytes are a key or none."""
    for each in (line, b"GET " + line + b" HTTP/1.1", b"GET /telephony/ws/" + line + b" HTTP/1.1"):
        key = key_of(each)
        assert key is None or (key.startswith((b"ws\0", DIAL_KEY)) and is_request_line(each))


# --- stamps ---------------------------------------------------------------------------------------

TOKEN = set("abcdefghijklmnopqrstuvwxyz0123456789-.")


@given(
    st.integers(0, 255),
    st.integers(0, 1023),
    st.integers(0, 2**50),
    st.text(max_size=20),
    st.text(max_size=20),
)
def test_a_stamp_is_read_wherever_it_stands(slot, seat, since_us, before, after):
    """In a tag, behind a branch's magic cookie, in a user, in capitals."""
    minted = mint_stamp(replace(load(seat, slot), since_us=since_us))
    assert set(minted) <= TOKEN
    expected = Stamp(slot, seat, since_us)
    assert read_stamp(f"z9hG4bK{minted}0a1b") == expected
    assert read_stamp(minted.upper()) == expected
    assert read_stamp(f"{before} {minted}{after}") == expected


@given(st.text(max_size=60), st.integers(0, 255), st.integers(0, 99999))
def test_what_others_mint_is_no_stamp(text, slot, check):
    """Any text is read without harm; one that looks like a stamp lacks the checksum."""
    assert read_stamp(text) is None
    minted = mint_stamp(load(3, slot))
    words, _, found = minted[:-1].rpartition(".")
    forged = f"{check % 65536:04x}"
    if forged != found:
        assert read_stamp(f"{words}.{forged}-") is None


def test_a_stamp_leads_to_its_minter_as_long_as_that_lives():
    """Draining or not: the calls it has are its own."""
    old = load(0, 2, age=90, standing=Standing.DRAINING)
    loads = [old, load(1, 2, age=1), load(3, 3)]
    stamp = read_stamp(mint_stamp(old))
    assert holder(stamp, loads) == 0
    assert holder(stamp, loads[1:]) == 1


def test_a_seat_with_somebody_else_in_it_is_not_the_minter():
    """The slot's present process adopts, and not who happens to sit where the minter sat."""
    gone = load(0, 2, age=90)
    stamp = read_stamp(mint_stamp(gone))
    loads = [load(0, 7, age=1), load(4, 2, age=1)]
    assert holder(stamp, loads) == 4
    assert holder(stamp, loads[:1]) is None
    starting = replace(loads[1], standing=Standing.STARTING)
    assert holder(stamp, [starting]) is None
