"""Facts about what status and calls look like: what is called wrong, and cells that keep their width."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.control import TrunkLine, TrunksAre
from flowcatd.log import EVENTS
from supervisor import report
from supervisor.report import bar, draw, duration, fit, plain, size, speakable, troubles
from tests.supervisor.toy_switchboard import fleet, worker


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({}, []),
        ({"workers": [worker(0), worker(1, state="hung")]}, ["slot 1 serves nobody"]),
        ({"workers": [worker(0)]}, ["slot 1 serves nobody: it has no process"]),
        (
            {"workers": [worker(0), worker(1, state="backing_off", pid=0)]},
            ["slot 1 serves nobody: no process, backing off"],
        ),
        ({"workers": [worker(0)], "state": "draining"}, []),
        (
            {"workers": [worker(0), worker(1, state="retiring"), worker(1, seat=2)]},
            [],
        ),
        (
            {"workers": [worker(0), worker(1, shedding=True, lag_ms=80)]},
            ["slot 1 takes no new calls: its loop is 80 ms late"],
        ),
        (
            {"workers": [worker(0, calls=200), worker(1, calls=200)]},
            ["every worker is full"],
        ),
        ({"last_reload": "done"}, []),
        ({"last_reload": "agents: x"}, ["the last reload failed: agents: x"]),
    ],
)
def test_what_is_wrong_is_found(changed, wrong):
    """And what is on its way is not taken for it."""
    found = troubles(fleet(**({"slots": 2} | changed)))
    assert len(found) == len(wrong)
    assert all(one.wrong.startswith(text) for one, text in zip(found, wrong, strict=True))
    assert all(one.remedy for one in found)


def test_another_version_installed_is_noted():
    """An upgrade that was forgotten is no fault, and worth a line."""
    told = report.render_status(fleet(restarts=1), {}, "1.3.0", colour=False)
    assert "note:  flowcatd 1.3.0 is installed and 1.2.3 is running" in told
    assert "1 worker was lost unasked" in told


def test_calls_on_workers_that_were_taken_away_are_noted_after_a_scale_too():
    """A scale leaves the generation as it is; their calls go on all the same."""
    leaving = [worker(0), worker(1, state="retiring", calls=1)]
    told = report.render_status(fleet(leaving, slots=1), {}, "1.2.3", colour=False)
    assert "note:  1 call finishes on workers that were replaced or taken away\n" in told


def test_events_that_are_named_are_ones_that_are_logged():
    """Whoever is sent to the log must find there what is named."""
    ill = fleet([worker(0)], slots=2, restarts=1)
    told = report.render_status(ill, {}, "1.2.3", colour=False)
    named = set(re.findall(r"worker\.[a-z_]+", told))
    assert named == {"worker.lost", "worker.failed"}
    assert named <= {name for name, _ in EVENTS}


def test_memory_has_a_column_only_where_it_is_known():
    """On another machine a worker's process cannot be looked at."""
    assert "MEMORY" not in report.render_status(fleet(), {}, "1.2.3", colour=False)
    known = report.render_status(fleet(), {4_000_000: 2**20}, "1.2.3", colour=False)
    assert "MEMORY" in known
    assert " - " in known.splitlines()[-1]


def test_a_failed_reload_is_told_once():
    """Its reasons may be many lines long."""
    told = report.render_status(fleet(last_reload="x:3: no"), {}, "1.2.3", colour=False)
    assert "  reload   failed, see below\n" in told
    assert told.count("x:3: no") == 1


words = st.text(max_size=30)


@given(words, st.integers(0, 40), st.booleans())
def test_a_cell_has_exactly_its_width(text, width, right):
    """Whatever is in it: wide, combining, or meant for the terminal."""
    assert report.columns_of(fit(text, width, right=right)) == width
    assert fit(text, width).isprintable()


@given(st.lists(words, max_size=5), st.integers(0, 40))
def test_a_line_is_never_wider_than_asked(texts, width):
    """With colours, which have no width."""
    line = draw([report.Cell(text, "red") for text in texts], width, colour=True)
    assert report.columns_of(line) <= width


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 30))
def test_a_bar_is_as_wide_as_asked_and_shows_something_for_something(part, whole, width):
    """One call of many is not none."""
    drawn = bar(part, whole, width)
    assert len(drawn) == width
    assert (drawn == "·" * width) == (part == 0 or whole == 0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (59.9, "59s"), (252, "4m12s"), (11_520, "3h12m"), (187_200, "2d04h")],
)
def test_durations_are_short(seconds, text):
    """Two units at most."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0K"),
        (640 * 1024, "640K"),
        (182 * 2**20, "182M"),
        (2**30, "1.0G"),
        (1023 * 2**20, "1.0G"),
    ],
)
def test_sizes_are_short(amount, text):
    """Five characters at most."""
    assert size(amount) == text


def test_a_terminal_without_blocks_gets_bars_of_ascii():
    """LANG=C is what a service's shell has."""
    assert speakable("█▌··", "ascii") == "##.."
    assert speakable("█▌··", "utf-8") == "█▌··"


def test_plain_words_stay_as_they_are():
    """Umlauts and ideographs are words."""
    assert plain("Rezeption für 東京") == "Rezeption für 東京"


def test_what_has_no_width_is_shown_as_a_question_mark():
    """An accent that is written apart is put together first."""
    assert plain("caf\u0065\u0301 \u200bx\u202e") == "caf\u00e9 ?x?"


def test_a_wide_character_that_is_cut_leaves_a_blank():
    """Half of one cannot be shown."""
    assert fit("東京駅", 4) == "東… "


def test_a_fleet_without_workers_says_so():
    """Right after the start."""
    told = report.render_status(fleet([]), {}, "1.2.3", colour=False)
    assert "there are no workers" in told
    assert "0 up, no places" in told


def test_calls_on_replaced_workers_are_noted():
    """Why there are more processes than slots."""
    old = worker(0, seat=5, state="retiring", calls=40)
    told = report.render_status(
        fleet([worker(0, generation=2), old], slots=1, generation=2), {}, "1.2.3", colour=False
    )
    assert "note:  40 calls finish on workers that were replaced or taken away\n" in told


# --- trunks --------------------------------------------------------------------------------------

TRUNKS = [
    TrunkLine(name="carrier", registration="failed", failures=3, alive=False, outbound=2),
    TrunkLine(name="loopback", inbound=1),
    TrunkLine(name="office", registration="registered", expires_seconds=300.0, alive=True),
]


def test_a_trunk_that_is_not_registered_or_dead_is_wrong():
    """In words and with what to do; one that nobody tends or asks is not."""
    found = report.trunk_troubles(TRUNKS)
    assert [one.wrong for one in found] == [
        "trunk carrier is not registered: 3 attempts in a row failed",
        "trunk carrier does not answer our OPTIONS",
    ]
    assert all(one.remedy for one in found)


def test_status_has_a_table_of_trunks_only_where_there_are_some():
    """And what is wrong with them stands with everything else that is."""
    assert "TRUNK" not in report.render_status(fleet(), {}, "1.2.3", colour=False)
    told = report.render_status(fleet(), {}, "1.2.3", TRUNKS, colour=False)
    rows = {words[0]: words[1:] for line in told.splitlines() if (words := line.split())}
    assert rows["carrier"] == ["no", "3", "no", "0", "2"]
    assert rows["loopback"] == ["-", "-", "1", "0"]
    assert rows["office"] == ["yes", "5m00s", "yes", "0", "0"]
    assert "wrong: trunk carrier is not registered" in told


def test_a_word_for_a_registration_that_is_new_is_shown_as_it_is():
    """A newer daemon may know more of them."""
    answer = TrunksAre(id="", trunks=[TrunkLine(name="t", registration="registering")])
    assert "registering" in report.render_trunks(answer, colour=False)
