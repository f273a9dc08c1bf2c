"""Facts about the running supervisor: real forks, real signals, toy workers (toy_daemon.py)."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from flowcatd.control import AskScale, encode
from tests.supervisor.toys import ROOT, TOY, answers_to

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_order_ends_all_workers_and_the_exit_code_is_0(toy, number):
    """Ctrl-C and kill are both clean ends."""
    daemon = toy("good")
    assert daemon.ready()["workers"] == 2
    workers = daemon.workers()
    daemon.send(number)
    assert daemon.end() == 0
    assert len(workers) == 2
    assert len(daemon.events("worker.reaped")) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_killed_worker_is_replaced(toy):
    """The fleet is whole again, and the other worker is the same process."""
    daemon = toy("good", "log.level=debug")
    daemon.until("worker.counted", 2)
    victim, other = daemon.workers()
    os.kill(victim, signal.SIGKILL)
    lost = daemon.until("worker.lost")
    assert (lost["how"], lost["again_seconds"]) == ("signal 9", 0.1)
    daemon.until("worker.counted")
    replaced = set(daemon.workers())
    assert len(replaced) == 2
    assert other in replaced
    assert victim not in replaced
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_workers_notice_that_the_supervisor_is_gone(toy, tmp_path):
    """Even SIGKILL of the supervisor leaves no orphan behind."""
    daemon = toy("good")
    daemon.ready()
    deaths = [os.pidfd_open(pid) for pid in daemon.workers()]
    daemon.send(signal.SIGKILL)
    assert daemon.end() == -signal.SIGKILL
    for death in deaths:
        assert select.select([death], [], [], 10)[0] == [death]
        os.close(death)
    assert (tmp_path / "orphaned").exists()


def test_deaf_workers_are_killed(toy):
    """Told, asked again by a second signal, gone."""
    daemon = toy("deaf")
    daemon.ready()
    daemon.send(signal.SIGINT)
    daemon.until("fleet.told")
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0
    assert [line["how"] for line in daemon.events("worker.reaped")] == ["signal 9", "signal 9"]


def test_a_drain_has_its_limit(toy):
    """drain, goodbye, end and stop seconds pass, then SIGINT, then SIGKILL."""
    calls = [f"calls.{name}_seconds=0.1" for name in ("drain", "goodbye", "end")]
    daemon = toy("deaf", *calls, "workers.stop_seconds=0.1")
    daemon.ready()
    daemon.send(signal.SIGTERM)
    assert daemon.end() == 0
    assert [line["how"] for line in daemon.events("worker.reaped")] == ["signal 9", "signal 9"]


def test_a_worker_that_never_serves_is_killed_and_given_up_on(toy):
    """Three attempts, then a clear end."""
    daemon = toy("silent", "workers.ready_seconds=0.2")
    assert daemon.end() == 1
    assert "failed 3 times to start: it was not ready within 0.2 s" in daemon.rest
    assert daemon.process.stdout.closed


def test_a_wrong_configuration_ends_at_once(toy):
    """One line with file and key, no traceback, no second attempt, exit code 78."""
    daemon = toy("config", "workers.count=1")
    assert daemon.end() == 78
    assert "flowcatd: toy.toml:1: toy.key: is wrong\n" in daemon.rest
    assert "Traceback" not in daemon.rest
    assert len(daemon.events("worker.lost")) == 1


def test_an_unexpected_error_shows_its_traceback(toy):
    """A bug must not hide, and is no reason to try for ever."""
    daemon = toy("raise", "workers.count=1")
    assert daemon.end() == 1
    assert daemon.rest.count("RuntimeError: toy") == 3


def test_a_worker_killed_before_it_listens_to_signals_dies_of_them(toy):
    """Handlers are reset in the child, so its death is its own and not taken for an order."""
    daemon = toy("interrupt", "workers.count=1")
    assert daemon.end() == 1
    assert {line["how"] for line in daemon.events("worker.lost")} == {"signal 2"}
    assert daemon.events("fleet.told") == []


def test_a_hiccup_at_the_start_is_survived(toy):
    """Two failures, then serving."""
    daemon = toy("twice", "workers.count=1")
    assert daemon.ready()["workers"] == 1
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0
    assert len(daemon.events("worker.lost")) == 2


def test_each_worker_leads_its_own_process_group(toy):
    """A terminal's Ctrl-C reaches the supervisor alone."""
    daemon = toy("good")
    daemon.ready()
    assert [os.getpgid(pid) for pid in daemon.workers()] == daemon.workers()
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_workers_hold_nothing_of_the_supervisor_s(toy):
    """Standard streams, two pipe ends, its own door, the load table, and the toy's own pipe."""
    daemon = toy("good")
    daemon.ready()
    for pid in daemon.workers():
        held = {int(fd.name): str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        assert held[0] == os.devnull
        assert len([link for link in held.values() if link.startswith("socket:")]) == 1
        assert len([link for link in held.values() if "flowcatd-load" in link]) == 1
        assert len([fd for fd in held if fd > 2]) == 6
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_pinned_workers_stay_on_one_cpu_each(toy):
    """workers.pin_cpus gives slot n the n-th CPU of those allowed."""
    daemon = toy("good", "workers.pin_cpus=true")
    daemon.ready()
    cpus = sorted(os.sched_getaffinity(0))
    wanted = [{cpus[slot % len(cpus)]} for slot in range(2)]
    assert [os.sched_getaffinity(pid) for pid in daemon.workers()] == wanted
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_hangup_without_a_terminal_replaces_every_worker(toy):
    """SIGHUP is reload: two new processes, the old ones end well, and the fleet says so."""
    daemon = toy("good")
    daemon.ready()
    before = set(daemon.workers())
    daemon.send(signal.SIGHUP)
    assert daemon.until("fleet.told")["command"] == "reload"
    assert daemon.until("fleet.reloaded")["generation"] == 2
    daemon.until("worker.reaped", 2 - len(daemon.events("worker.reaped")))
    assert set(daemon.workers()).isdisjoint(before)
    assert daemon.events("worker.lost") == []
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_a_bad_new_configuration_is_refused_and_the_old_one_stays(toy, tmp_path):
    """Nobody is replaced, the log says what is wrong, and a good one is taken afterwards."""
    (tmp_path / "toy.toml").write_text("[calls]\nper_worker = 7\n")
    daemon = toy("good")
    daemon.ready()
    before = daemon.workers()
    (tmp_path / "toy.toml").write_text("[calls]\nper_worker = -1\n")
    daemon.send(signal.SIGHUP)
    assert "per_worker" in daemon.until("fleet.reload_refused")["why"]
    assert daemon.workers() == before
    (tmp_path / "toy.toml").write_text("[server]\nhost = '127.0.0.2'\n")
    daemon.send(signal.SIGHUP)
    assert "server.host: cannot change" in daemon.until("fleet.reload_refused")["why"]
    assert daemon.workers() == before
    (tmp_path / "toy.toml").write_text("[calls]\nper_worker = 9\n")
    daemon.send(signal.SIGHUP)
    daemon.until("fleet.reloaded")
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_workers_that_cannot_run_the_new_configuration_leave_the_old_ones_serving(toy):
    """The first successor is the canary: it fails, the reload is given up, nobody is lost."""
    daemon = toy("second")
    daemon.ready()
    before = daemon.workers()
    daemon.send(signal.SIGHUP)
    assert daemon.until("fleet.reload_failed")["why"]
    assert daemon.workers() == before
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_a_reload_that_wants_another_number_of_workers_gets_it(toy, tmp_path):
    """workers.count is a setting like others; here it is not on the command line."""
    (tmp_path / "toy.toml").write_text("[workers]\nrestart_cap_seconds = 10\n")
    daemon = toy("good")
    daemon.ready()
    (tmp_path / "ask1.json").write_bytes(encode(AskScale(id="s", count=3)))
    answers = answers_to(daemon, tmp_path, "s")
    assert answers[-1]["ok"]
    assert len(daemon.workers()) == 3
    (tmp_path / "ask2.json").write_bytes(encode(AskScale(id="t", count=1)))
    assert answers_to(daemon, tmp_path, "t")[-1]["ok"]
    daemon.until("worker.reaped", 2)
    assert len(daemon.workers()) == 1
    (tmp_path / "ask3.json").write_bytes(encode(AskScale(id="u", count=99)))
    refused = answers_to(daemon, tmp_path, "u")[-1]
    assert not refused["ok"]
    assert "workers.most" in refused["text"]
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_a_worker_whose_media_timer_stopped_is_killed_and_replaced(toy):
    """Its process answers signals and lives; its tick is what counts."""
    daemon = toy("stuck", "workers.hung_seconds=1", "workers.count=1")
    daemon.ready()
    first = daemon.workers()
    assert "hung" in daemon.until("worker.lost")["how"]
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0
    assert not Path(f"/proc/{first[0]}").exists()


def test_a_switchboard_that_is_killed_comes_back_and_no_worker_notices(toy):
    """Control and metrics are a process of their own."""
    daemon = toy("good")
    daemon.ready()
    workers = daemon.workers()
    board = next(pid for pid in daemon.pids() if pid not in workers)
    os.kill(board, signal.SIGKILL)
    assert daemon.until("switchboard.lost")["how"] == "signal 9"
    deadline = time.monotonic() + 10
    while len(daemon.pids()) < 3 or daemon.workers() != workers:  # newborn, it still holds all
        assert time.monotonic() < deadline
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_systemd_is_told(toy, tmp_path):
    """READY with a status, signs of life, STOPPING."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        daemon = toy("good", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="100000")
        heard = []
        while not any(message.startswith("READY=1\n") for message in heard):
            heard.append(systemd.recv(4096).decode())
        assert "STATUS=2 workers serve" in heard[-1]
        while heard[-1] != "WATCHDOG=1":
            heard.append(systemd.recv(4096).decode())
        daemon.send(signal.SIGTERM)
        while not heard[-1].startswith("STOPPING=1\n"):
            heard.append(systemd.recv(4096).decode())
    assert daemon.end() == 0


def test_a_reader_that_went_away_is_no_reason_to_end(toy):
    """Nobody reads standard output: it serves, replaces a lost worker, and ends well."""
    daemon = toy("silenced", "log.level=debug")
    daemon.until("worker.counted", 2)
    os.kill(daemon.workers()[0], signal.SIGKILL)
    daemon.until("worker.counted")
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_agents_of_the_configuration_in_force_are_kept_however_often_a_reload_fails(toy, tmp_path):
    """A lost worker is forked with what its fellows have, not with what lies on the disk by now."""
    daemon = toy("second", "log.level=debug")
    daemon.ready()
    for _ in range(3):
        daemon.send(signal.SIGHUP)
        daemon.until("fleet.reload_failed")
    os.kill(daemon.workers()[0], signal.SIGKILL)
    daemon.until("worker.counted")
    assert (tmp_path / "prepared").read_text() == "1\n1\n1\n1\n"
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def waiting(port):
    """How many connections wait at each listening socket of a port (proc_net_tcp(5))."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [row for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port]
    return sorted(int(row[4].split(":")[1], 16) for row in listening)


def test_callers_do_not_wait_for_a_worker_that_cannot_be_had(toy):
    """While one slot fails again and again, all new connections go to the other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    daemon = toy("halting", f"server.port={port}", "workers.restart_cap_seconds=20")
    daemon.ready()
    os.kill(max(daemon.workers()), signal.SIGKILL)
    while daemon.until("worker.lost")["again_seconds"] < 0.5:
        pass
    callers = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(40)]
    assert waiting(port) == [0, 40]
    for caller in callers:
        caller.close()
    daemon.send(signal.SIGINT)
    assert daemon.end() == 0


def test_a_closed_terminal_ends_the_daemon(tmp_path):
    """On a terminal SIGHUP means that its window is gone."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, str(TOY), "good"])
    said = b""
    while b'"ready"' not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
