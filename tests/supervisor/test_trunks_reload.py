"""Facts about trunks in a running daemon: read before the fork, and again without replacing anybody."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from flowcatd.control import AskReload, encode
from tests.supervisor.toys import answers_to

pytestmark = pytest.mark.timeout(30)


def write(directory: Path, name: str, rest: str = "") -> None:
    """A trunk file."""
    place = directory / "trunks.d"
    place.mkdir(exist_ok=True)
    (place / f"{name}.toml").write_text(f'[trunk]\nname = "{name}"\n{rest}')


def learned(directory: Path, how: str, count: int) -> list[dict]:
    """What workers learned of trunks, once `count` of them did so."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        file = directory / "trunks.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        found = [line for line in map(json.loads, lines) if line["how"] == how]
        if len(found) >= count:
            return found
        time.sleep(0.01)
    raise AssertionError(f"fewer than {count} workers learned of trunks by {how}: {found}")


def asked(daemon, directory: Path, id_: str) -> dict:
    """The last answer to a reload that an operator asks for; the toy board sends it when it hears us."""
    (directory / f"ask{id_}.json").write_bytes(encode(AskReload(id=id_)))
    return answers_to(daemon, directory, id_)[-1]


def test_workers_are_given_the_trunks_and_count_together(toy, tmp_path):
    """In the plan, with counts that all of them share."""
    write(tmp_path, "b")
    write(tmp_path, "a", "enabled = false\n")
    daemon = toy("good")
    daemon.ready()
    lines = learned(tmp_path, "plan", 2)
    assert [line["trunks"] for line in lines] == [["b"], ["b"]]
    assert sorted(line["calls"]["b"] for line in lines) == [1, 2]
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_a_reload_of_trunks_alone_replaces_nobody(toy, tmp_path):
    """Every worker hears SIGHUP, lives on, and knows and counts the new ones; so does one forked later."""
    write(tmp_path, "a")
    write(tmp_path, "b")
    daemon = toy("good", "log.level=debug")
    daemon.until("worker.counted", 2)
    before = daemon.workers()
    write(tmp_path, "c")
    write(tmp_path, "b", "options_seconds = 0\n[inbound]\ncalls_per_second = 3\n")
    (tmp_path / "trunks.d/a.toml").unlink()
    answer = asked(daemon, tmp_path, "r")
    assert answer["ok"]
    assert answer["text"] == "trunks: 1 added, 1 changed, 1 removed; no worker replaced"
    told = learned(tmp_path, "told", 2)
    assert {line["pid"] for line in told} == set(before) == set(daemon.workers())
    assert [line["trunks"] for line in told] == [["b", "c"]] * 2
    assert sorted(line["calls"]["c"] for line in told) == [1, 2]
    os.kill(before[0], signal.SIGKILL)
    daemon.until("worker.counted")
    later = learned(tmp_path, "plan", 3)[-1]
    assert later["trunks"] == ["b", "c"]
    assert later["calls"]["c"] == 2  # the dead worker's call is gone, the other's is there
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0
    assert daemon.events("fleet.reloaded") == []


def test_a_hangup_does_the_same(toy, tmp_path):
    """SIGHUP of the supervisor is a reload; a comment is a change of files and of no trunk."""
    write(tmp_path, "a")
    daemon = toy("good")
    daemon.ready()
    before = daemon.workers()
    write(tmp_path, "a", "# why\n")
    daemon.send(signal.SIGHUP)
    assert "0 added, 0 changed, 0 removed" in daemon.until("trunks.changed")["what"]
    assert {line["pid"] for line in learned(tmp_path, "told", 2)} == set(before)
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_a_wrong_trunk_is_refused_and_nothing_changes(toy, tmp_path):
    """With file, line and key; the next good reload is compared with what is in force."""
    write(tmp_path, "a")
    daemon = toy("good")
    daemon.ready()
    before = daemon.workers()
    write(tmp_path, "a", '[[route]]\nagent = "ekho"\n')
    answer = asked(daemon, tmp_path, "r")
    assert not answer["ok"]
    assert "trunks.d/a.toml:4: route[1].agent: 'ekho' is not an agent" in answer["text"]
    assert "did you mean 'echo'" in answer["text"]
    write(tmp_path, "a", '[[route]]\nagent = "echo"\n')
    answer = asked(daemon, tmp_path, "s")
    assert answer["text"] == "trunks: 0 added, 1 changed, 0 removed; no worker replaced"
    assert len(learned(tmp_path, "told", 2)) == 2
    assert daemon.workers() == before
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_whatever_else_changed_too_replaces_the_workers(toy, tmp_path):
    """And the new ones are given the trunks."""
    (tmp_path / "toy.toml").write_text("[calls]\nper_worker = 7\n")
    write(tmp_path, "a")
    daemon = toy("good")
    daemon.ready()
    before = set(daemon.workers())
    (tmp_path / "toy.toml").write_text("[calls]\nper_worker = 8\n")
    write(tmp_path, "b")
    assert "generation 2" in asked(daemon, tmp_path, "r")["text"]
    assert [line["trunks"] for line in learned(tmp_path, "plan", 4)[2:]] == [["a", "b"]] * 2
    assert {line["pid"] for line in learned(tmp_path, "plan", 4)[2:]}.isdisjoint(before)
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_a_worker_that_starts_is_told_once_it_serves(toy, tmp_path):
    """Before, it would die of the signal; afterwards it has what was changed meanwhile."""
    write(tmp_path, "a")
    daemon = toy("late", "log.level=debug")
    daemon.until("worker.counted", 2)
    newborn = set(daemon.workers())
    victim = next(line["pid"] for line in learned(tmp_path, "plan", 2) if line["slot"] == 0)
    os.kill(victim, signal.SIGKILL)
    daemon.until("worker.lost")
    newborn = learned(tmp_path, "plan", 3)[-1]["pid"]
    write(tmp_path, "b")
    daemon.send(signal.SIGHUP)
    daemon.until("trunks.changed")
    (other,) = learned(tmp_path, "told", 1)
    assert other["pid"] != newborn
    (tmp_path / "go").touch()
    daemon.until("worker.counted")
    assert learned(tmp_path, "told", 2)[-1] | {"calls": 0} == {
        "slot": 0,
        "pid": newborn,
        "how": "told",
        "trunks": ["a", "b"],
        "calls": 0,
    }
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0
    assert len(daemon.events("worker.lost")) == 1


def test_a_worker_that_does_not_listen_is_left_alone(toy, tmp_path):
    """Those of a former version would die of the signal, with their calls."""
    daemon = toy("older")
    daemon.ready()
    before = daemon.workers()
    write(tmp_path, "a")
    assert asked(daemon, tmp_path, "r")["ok"]
    assert daemon.workers() == before
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0
    assert daemon.events("worker.lost") == []


def test_trunks_change_in_place_only_when_all_workers_are_of_one_configuration(toy, tmp_path):
    """After a reload that was aborted half-way the next one replaces everybody."""
    daemon = toy("halting", "log.level=debug")
    daemon.until("worker.counted", 2)
    daemon.send(signal.SIGHUP)  # slot 0 is replaced, slot 1's successor fails
    daemon.until("fleet.reload_failed")
    write(tmp_path, "a")
    daemon.send(signal.SIGHUP)
    daemon.until("fleet.reload_failed")
    assert daemon.events("trunks.changed") == []
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0
