"""Facts about the lines and keys of `flowcatd top`: they fit any terminal, and leave no worker out."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.control import CallEvent
from supervisor.report import columns_of
from supervisor.screen import SORTS, View, keys, press, render, room_for_rows
from tests.supervisor.toy_switchboard import fleet, gathered, snapshot, worker


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"q", ["quit"]),
        (b"\x1b", ["quit"]),
        (b"\x03", ["quit"]),
        (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1bOA", ["up"]),
        (b"\x1b[5~s\x1b[6~", ["page up", "sort", "page down"]),
        (b"p?", ["pause", "help"]),
        (b"\x1b[200~x\x1b[1;5C", []),
        (b"\xc3\xa9", []),
        (b"\x1b[", []),
    ],
)
def test_keys_have_names(data, names):
    """A sequence that means nothing here does nothing, Esc at its start included."""
    assert keys(data) == names


@given(st.lists(st.sampled_from(["up", "down", "page up", "page down", "first", "last", "sort"])))
def test_scrolling_stays_within_the_rows(pressed):
    """Whatever is pressed."""
    view = View()
    for key in pressed:
        view = press(view, key, rows=100, room=10)
        assert 0 <= view.scroll <= 90
        assert view.sort in SORTS


def test_the_sort_key_goes_round():
    """And comes back to the slots."""
    view, seen = View(), []
    for _ in SORTS:
        view = press(view, "sort", rows=1, room=1)
        seen.append(view.sort)
    assert sorted(seen) == sorted(SORTS)
    assert view.sort == "slot"


def picture_of(workers, events=3):
    """A fleet of so many, all heard twice."""
    lines = [worker(slot, calls=slot % 200) for slot in range(workers)]
    gathering = gathered(
        fleet(lines, last_reload="done"),
        *(snapshot(line, 1) for line in lines),
        *(snapshot(line, 2, started=line.slot, lags=[0.3]) for line in lines),
        *(
            CallEvent(event="ended", at_utc=1.0, slot=0, run_id="r" * 100, reason="completed")
            for _ in range(events)
        ),
    )
    return gathering.picture(0.0, 100.0)


@pytest.mark.parametrize("workers", [0, 1, 2, 5, 256])
@pytest.mark.parametrize("width", [0, 1, 4, 20, 40, 79, 80, 81, 132, 400])
@pytest.mark.parametrize("height", [0, 1, 2, 3, 5, 10, 24, 60, 300])
def test_a_frame_fits_its_terminal(workers, width, height):
    """Never a line too many, never a column too many, at any size, in colour."""
    picture = picture_of(workers)
    for view in (View(), View(scroll=10_000, is_paused=True), View(is_help=True)):
        lines = render(picture, view, width, height, colour=True)
        assert len(lines) == height
        assert all(columns_of(line) <= width for line in lines)


def shown_slots(lines):
    """Which workers' rows are on it."""
    return [int(found[1]) for line in lines if (found := re.match(r" *(\d+) ready", line))]


def test_at_80_by_24_everything_important_is_shown():
    """The size that every terminal has."""
    lines = render(picture_of(2), View(), 80, 24, colour=False)
    for title in ("SLOT", "STATE", "CALLS", "NEW/S", "LAG50", "LAG99", "GC", "CPU%", "OWN", "SH"):
        assert title in lines[2]
    assert shown_slots(lines) == [0, 1]
    assert "500" in lines[3]
    assert lines[5].split()[0] == "all"
    assert any(line.endswith("slot 0   completed, 0s, 0 turns") for line in lines)
    assert lines[-1].startswith("q quit")


def test_at_20_columns_slot_calls_and_lag_remain():
    """A column that does not fit is left out, not cut."""
    lines = render(picture_of(2), View(), 20, 10, colour=False)
    titles = next(line for line in lines if line.startswith("SLOT"))
    assert titles.split() == ["SLOT", "CALLS", "LAG99"]


def test_256_workers_are_scrolled_through_to_the_last():
    """Each is seen once on the way, page by page."""
    picture, view, seen = picture_of(256), View(), []
    room = room_for_rows(picture, 24)
    for _ in range(0, 256, room):
        lines = render(picture, view, 80, 24, colour=False)
        seen += shown_slots(lines)
        assert f"of {256}" in lines[-1]
        view = press(view, "page down", rows=256, room=room)
    assert sorted(set(seen)) == list(range(256))


@pytest.mark.parametrize(
    ("key", "view"),
    [
        ("sort", View(sort="calls")),
        ("pause", View(scroll=3, is_paused=True)),
        ("help", View(scroll=3, is_help=True)),
        ("first", View()),
        ("last", View(scroll=90)),
        ("redraw", View(scroll=3)),
    ],
)
def test_keys_change_what_they_say(key, view):
    """And nothing else, but that another order begins at its top."""
    assert press(View(scroll=3), key, rows=100, room=10) == view


def test_sorting_puts_the_most_first():
    """By new calls, the last slot of this picture."""
    lines = render(picture_of(5), View(sort="new"), 80, 24, colour=False)
    assert shown_slots(lines) == [4, 3, 2, 1, 0]


def test_without_colour_there_is_no_escape_sequence():
    """NO_COLOR means none at all in a line."""
    assert "\x1b" not in "".join(render(picture_of(3), View(), 80, 24, colour=False))
    assert "\x1b[" in "".join(render(picture_of(3), View(), 80, 24, colour=True))


def test_silence_is_told_in_the_headline():
    """A picture that stands still must not look like a calm daemon."""
    gathering = gathered(fleet(), now=10.0)
    (first, *_) = render(gathering.picture(20.0, 0.0), View(), 80, 24, colour=False)
    assert first == "nothing heard for 10s from ipc://x: is it running?"


def test_workers_are_shown_before_the_fleet_has_spoken():
    """Whoever subscribes hears snapshots within a second, and the fleet perhaps later."""
    picture = gathered(snapshot(worker(0), 1), snapshot(worker(1), 1)).picture(0.0, 0.0)
    assert [row.slot for row in picture.rows] == [0, 1]
    first, second, *_ = render(picture, View(), 80, 24, colour=False)
    assert (first, second) == ("waiting for flowcatd at ipc://x", "")


def test_what_happened_to_calls_stands_in_columns():
    """When, what, which call; then how it went, in words."""
    plain = CallEvent(event="ended", at_utc=98.0, slot=0, run_id="a", reason="caller_hung_up")
    ended = msgspec.structs.replace(plain, ended_by="caller", seconds=75.0, turns=1)
    timed = msgspec.structs.replace(ended, reason="too_long", ended_by="daemon", turns=12)
    refused = CallEvent(event="refused", at_utc=88.0, slot=31, run_id="b" * 20, reason="full")
    gathering = gathered(fleet(), ended, timed, refused)
    lines = render(gathering.picture(0.0, 100.0), View(), 100, 30, colour=False)
    at = lines.index("LATELY") + 1
    shown = lines[at : at + 3]
    assert shown == [
        f"   12s  refused   {'b' * 20:26}  slot 31  full",
        f"    2s  ended     {'a':26}  slot 0   too long, by daemon, 1m15s, 12 turns",
        f"    2s  ended     {'a':26}  slot 0   caller hung up, 1m15s, 1 turn",
    ]


def test_a_call_over_sip_that_ended_shows_its_way_and_its_trunk():
    """Beside carrier and agent; other calls have neither."""
    over_sip = CallEvent(
        event="ended",
        at_utc=98.0,
        slot=0,
        run_id="a",
        carrier="sip",
        agent="echo",
        direction="inbound",
        trunk="office",
    )
    gathering = gathered(fleet(), over_sip)
    lines = render(gathering.picture(0.0, 100.0), View(), 140, 30, colour=False)
    assert lines[lines.index("LATELY") + 1].endswith("sip  inbound  office  echo")
