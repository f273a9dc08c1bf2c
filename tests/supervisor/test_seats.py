"""Facts about seats: rows are given, freed, survive an exec's hand-over, and tell who hangs."""

from __future__ import annotations

import os

from supervisor.seats import Seats
from workers.load import ROWS_PER_SLOT, Standing


def test_seats_are_given_until_none_is_left():
    """As many as the table has rows, each once."""
    seats = Seats(1)
    given = [seats.take(0, 10, now=1.0) for _ in range(ROWS_PER_SLOT + 1)]
    assert given == [*range(ROWS_PER_SLOT), None]
    seats.free(2)
    assert seats.take(0, 10, now=2.0) == 2


def test_a_childs_row_is_seen_here():
    """The table is shared memory: what a forked process writes, the supervisor reads."""
    seats = Seats(1)
    seat = seats.take(0, 10, now=1.0)
    pid = os.fork()
    if pid == 0:
        seats.table.row(seat).calls(7)
        os._exit(0)
    os.waitpid(pid, 0)
    seats.seated(seat, pid)
    assert seats.load_of(pid).calls == 7
    last = seats.gone(pid)
    assert last.calls == 7
    assert seats.load_of(pid) is None
    assert list(seats.table) == []


def test_the_next_program_image_finds_everybody_in_their_seats():
    """Through the descriptor alone."""
    seats = Seats(2)
    seat = seats.take(1, 10, now=1.0)
    seats.seated(seat, os.getpid())
    seats.table.row(seat).calls(3)
    again = Seats(2, seats.descriptor)
    again.adopt()
    assert again.load_of(os.getpid()).calls == 3
    assert again.load_of(os.getpid()).slot == 1


def serving(seats, pid, tick):
    """A worker that serves and ticked last at `tick`."""
    seat = seats.take(0, 10, now=tick)
    seats.seated(seat, pid)
    seats.table.row(seat).standing(Standing.SERVING)
    seats.table.row(seat).ticked(tick, 0.0)
    return seat


def test_who_does_not_tick_is_hung_and_who_ticks_is_not():
    """The limit is counted from the last tick."""
    seats = Seats(2)
    still = serving(seats, 100, 10.0)
    serving(seats, 101, 10.0)
    assert seats.hung(10.0, 5.0, 1.0) == []
    for second in range(11, 15):
        seats.table.row(still).ticked(second, 0.0)
        assert seats.hung(second, 5.0, 1.0) == []
    assert seats.hung(15.1, 5.0, 1.0) == [101]


def test_a_supervisor_that_was_itself_stopped_blames_nobody():
    """After a suspension no tick is fresh; the next look, a second later, counts again."""
    seats = Seats(1)
    serving(seats, 100, 10.0)
    seats.hung(10.0, 5.0, 1.0)
    assert seats.hung(600.0, 5.0, 1.0) == []
    assert seats.hung(601.0, 5.0, 1.0) == [100]


def test_a_worker_that_is_still_starting_has_not_to_tick():
    """workers.ready_seconds is its limit."""
    seats = Seats(1)
    seat = seats.take(0, 10, now=10.0)
    seats.seated(seat, 100)
    seats.hung(99.0, 5.0, 1.0)
    assert seats.hung(100.0, 5.0, 1.0) == []


def test_who_ended_while_one_program_followed_another_leaves_the_seat_free():
    """Nobody will reap it again: its row must not stay taken for ever."""
    seats = Seats(1)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    seats.seated(seats.take(0, 10, now=1.0), pid)
    seats.take(0, 10, now=1.0)  # and a seat whose process was never forked
    again = Seats(1, seats.descriptor)
    again.adopt()
    assert list(again.table) == []


def test_a_gone_process_s_calls_are_not_counted_any_more():
    """By trunk, as by worker; nor are those of a process that was gone before an upgrade."""
    seats = Seats(1)
    seats.trunk_counts.enlist(["a"])
    counts = [seats.trunk_counts.of(seat) for seat in range(3)]
    for seat, pid in enumerate((4_000_001, 4_000_002)):  # beyond pid_max: nobody's
        assert seats.take(0, 10, 0.0) == seat
        seats.seated(seat, pid)
        counts[seat].add("a", inbound=False, change=2)
    seats.gone(4_000_001)
    assert counts[2].total("a", inbound=False) == 2
    again = Seats(1, seats.descriptor, seats.counts_descriptor)
    again.adopt()
    assert counts[2].total("a", inbound=False) == 0


def test_counts_of_another_layout_are_begun_anew():
    """Another version may count otherwise; nobody reads its words as ours."""
    descriptor = os.memfd_create("other")
    os.ftruncate(descriptor, 64)
    seats = Seats(1, counts_descriptor=descriptor)
    assert seats.trunk_counts.enlist(["a"]) == []
    assert os.fstat(seats.counts_descriptor).st_size > 64
