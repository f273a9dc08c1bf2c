"""The load table: what one process writes, all others read, and seats come and go."""

from __future__ import annotations

import mmap
import os

import pytest

from workers.load import ROWS_PER_SLOT, WORDS, LoadTable, Standing, table_bytes


def table(workers: int = 2) -> LoadTable:
    """A table in plain memory."""
    return LoadTable([0] * (table_bytes(workers) // 8))


def test_a_new_table_has_a_free_seat_for_every_process_and_nobody_in_it():
    """As many rows as workers may have processes; none is read before somebody sits there."""
    loads = table(3)
    assert loads.seats == 3 * ROWS_PER_SLOT
    assert list(loads) == []
    assert loads.free_seat() == 0


def test_a_seat_says_who_sits_there():
    """What is written to a row is read back, in the units it is stored in."""
    loads = table()
    row = loads.row(5)
    row.sit(slot=1, capacity=10, now=12.5)
    row.pid(4711)
    row.standing(Standing.SERVING)
    row.calls(3)
    row.ticked(13.0, 0.004)
    (load,) = loads
    assert (load.seat, load.slot, load.pid, load.standing) == (5, 1, 4711, Standing.SERVING)
    assert (load.calls, load.capacity, load.lag_us) == (3, 10, 4000)
    assert (load.tick_us, load.since_us) == (13_000_000, 12_500_000)


def test_a_seat_that_was_left_is_free_again():
    """The next process finds nothing of the last one."""
    loads = table()
    loads.row(0).sit(slot=0, capacity=10, now=1.0)
    loads.row(0).calls(7)
    assert loads.free_seat() == 1
    loads.row(0).leave()
    assert list(loads) == []
    assert loads.free_seat() == 0
    loads.row(0).sit(slot=1, capacity=10, now=2.0)
    assert [load.calls for load in loads] == [0]


def test_all_seats_taken_is_said():
    """None, and not a row that belongs to somebody."""
    loads = table(1)
    for seat in range(loads.seats):
        loads.row(seat).sit(slot=0, capacity=1, now=1.0)
    assert loads.free_seat() is None


@pytest.mark.parametrize("seat", [-1, 8, 1000])
def test_a_seat_that_there_is_not_cannot_be_written(seat):
    """A wrong number would write a neighbour's row."""
    with pytest.raises(IndexError):
        table().row(seat)


def test_rows_do_not_touch_each_other():
    """Every word that a row writes lies in its own two cache lines."""
    words = [0] * (4 * WORDS)
    row = LoadTable(words).row(2)
    row.sit(slot=9, capacity=9, now=9.0)
    row.pid(9)
    row.calls(9)
    row.standing(Standing.DRAINING)
    row.ticked(9.0, 9.0)
    touched = {at // WORDS for at, word in enumerate(words) if word}
    assert touched == {2}


def test_another_process_reads_what_this_one_wrote_and_the_other_way_round():
    """The table is shared memory: no copy is made by a fork."""
    with mmap.mmap(-1, table_bytes(1)) as memory, memoryview(memory).cast("q") as words:
        loads = LoadTable(words)
        loads.row(0).sit(slot=0, capacity=5, now=1.0)
        loads.row(1).sit(slot=0, capacity=5, now=1.0)
        pid = os.fork()
        if pid == 0:
            loads.row(1).calls(loads.read(0).capacity - 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert loads.read(1).calls == 4
