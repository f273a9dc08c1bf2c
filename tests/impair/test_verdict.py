"""The impairment suite's own parts: its ear finds delays, its clock runs off, its verdict sees each fault.

The suite itself runs for minutes: `make impair`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from tests.impair.chirps import EVERY, FRAME, Ear, growth_ms, said
from tests.impair.drifting import DriftingClock
from tests.impair.verdict import Figures, concealed_share, faults, table
from workers.clock import WorkerClock

FINE = Figures(
    name="1 +200 ppm",
    seconds=600.0,
    chirps=590,
    found=450,
    median=200.0,
    worst=260.0,
    growth=3.0,
    buffer=120.0,
    far_buffer=90.0,
    looks=59,
    pressed="159*",
    digits="159*",
    network_lost=1500,
    lost=1498,
    late=10,
    concealed=30_100,
    stretched=400,
    mos=3.9,
    ended_by="caller",
)


def test_a_call_as_it_must_be_has_no_fault():
    """And its line tells none."""
    assert faults(FINE) == []
    assert "BROKEN" not in table([FINE])
    assert concealed_share(FINE) == pytest.approx(30_100 / 30_200)


@pytest.mark.parametrize(
    "changed",
    [
        {"ended_by": "error"},
        {"found": 200},
        {"growth": 41.0},
        {"growth": -41.0},
        {"worst": 900.0},
        {"buffer": 201.0},
        {"far_buffer": 201.0},
        {"looks": 0},
        {"digits": "1599*"},
        {"digits": "15*"},
        {"pressed": "", "digits": ""},
        {"lost": 1300},
        {"concealed": 34_000},
        {"concealed": 26_000},
        {"mos": 2.5},
        {"mos": 4.4},
    ],
)
def test_whatever_breaks_a_bound_is_a_fault(changed: dict[str, object]):
    """One each, and the table says so."""
    broken = replace(FINE, **changed)
    assert len(faults(broken)) == 1
    assert "BROKEN" in table([broken])


def test_a_network_that_lost_nothing_is_a_fault():
    """Nothing was tested then, however well it went."""
    still = replace(FINE, network_lost=0, lost=0, late=0, concealed=0)
    assert "nothing was lost, so nothing was tested" in faults(still)


@pytest.mark.parametrize("delay", [0, 1, 777, 3200, 8000])
def test_the_ear_finds_every_delay_to_the_sample(delay: int):
    """Twelve seconds heard again, late by so many samples, with noise over it."""
    sound = b"".join(said(frame) for frame in range(12 * EVERY // FRAME))
    noise = np.random.default_rng(1).normal(0, 300, len(sound) // 2)
    late = np.concatenate((np.zeros(delay), np.frombuffer(sound, "<i2")))[: len(noise)] + noise
    ear = Ear()
    for at in range(0, len(late), FRAME):
        ear.hear(late[at : at + FRAME].astype("<i2").tobytes())
    assert ear.missed == 0
    assert len(ear.found) >= 9
    assert {round(ms * 8) for _, ms in ear.found} == {delay}


def test_the_ear_misses_what_was_not_there():
    """Silence has no chirps, and a chirp that is another's is none."""
    ear = Ear()
    for _ in range(6 * EVERY // FRAME):
        ear.hear(bytes(2 * FRAME))
    assert ear.found == []
    assert ear.missed >= 3
    swapped = Ear()
    for frame in range(6 * EVERY // FRAME):
        swapped.hear(said(frame + EVERY // FRAME))
    assert swapped.found == [] or min(ms for _, ms in swapped.found) >= 900


def test_a_delay_that_creeps_is_growth():
    """200 ppm unheeded for ten minutes."""
    found = [(float(second), 200 + 0.2 * second) for second in range(600)]
    assert growth_ms(found, 15.0) == pytest.approx(0.2 * (599 - 15))


async def test_a_drifting_clock_is_ahead_by_its_drift():
    """A clock 10 % fast says 55 ms when 50 have passed, and wakes when it says so."""
    clock = WorkerClock(asyncio.get_running_loop())
    fast = DriftingClock(clock, 100_000)
    begun, begun_fast = clock.now(), fast.now()
    rung = asyncio.Event()
    fast.wake(begun_fast + 0.055, rung.set)
    await asyncio.wait_for(rung.wait(), 5)
    passed, passed_fast = clock.now() - begun, fast.now() - begun_fast
    assert passed >= 0.0499
    assert passed_fast == pytest.approx(passed * 1.1, abs=0.002)
