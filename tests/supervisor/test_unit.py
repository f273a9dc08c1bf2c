"""Facts about what is shipped for systemd: it says what the daemon does, and systemd understands it.

The arithmetic and the paths are checked anywhere. Where systemd's own tools are installed, they have
the last word about the syntax and about how closed the service is.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flowcatd.environment import SYSTEM_RUNTIME
from flowcatd.options import Options
from supervisor.client import CONTROL_SOCKET, Where, locate
from supervisor.doors import BACKLOG
from supervisor.holdings import PATIENCE_SECONDS
from supervisor.install import TEMPLATE_BIN, USER
from workers.load import ROWS_PER_SLOT
from workers.plan import POINTLESS, ExitCode

SHIPPED = Path(__file__).parents[2] / "systemd"
UNIT = (SHIPPED / "flowcatd.service").read_text()
MOST_EXPOSURE = 20
"""systemd-analyze's tenths: 2.0 of 10; below 5.0 it says OK."""
THREADS = 10
"""A worker has a loop, ZeroMQ's two, and a resolver's few."""


def settings(unit: str) -> dict[str, list[str]]:
    """Every directive with its values, in order; comments and sections left out."""
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


SETTINGS = settings(UNIT)


def only(key: str) -> str:
    """The one value of a directive."""
    (value,) = SETTINGS[key]
    return value


def tool(name: str) -> str:
    """The path of one of systemd's tools, or the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed here")
    return path


@pytest.fixture
def installed(tmp_path):
    """The unit with a command that exists, as systemd's tools want it."""
    command = tmp_path / "bin" / "flowcatd"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    unit = tmp_path / "flowcatd.service"
    unit.write_text(UNIT.replace(TEMPLATE_BIN, f"{command.parent}/"))
    return unit


def test_systemd_waits_longer_than_a_drain_takes():
    """Live calls, their goodbye, their teardown, journals that wait, and the fleet's own patience."""
    calls, workers = Options().calls, Options().workers
    drain = calls.drain_seconds + calls.goodbye_seconds + calls.end_seconds
    assert int(only("TimeoutStopSec")) > drain + calls.resume_seconds + 2 * workers.stop_seconds


def test_systemd_waits_longer_than_a_start_takes():
    """A worker that crashes once at its start is tried again; a whole fleet is replaced at 3 s each."""
    workers = Options().workers
    seconds = int(only("TimeoutStartSec"))
    assert seconds > 2 * workers.ready_seconds + workers.restart_cap_seconds
    assert seconds > 3 * workers.most


def test_the_exit_codes_that_end_all_trying_are_ours():
    """What is pointless for a worker is pointless for the daemon."""
    assert {int(code) for code in only("RestartPreventExitStatus").split()} == set(POINTLESS)
    assert "ExecStartPre" not in SETTINGS


def test_a_whole_fleet_in_a_reload_is_below_the_task_limit():
    """Every seat taken, each with its speech helpers."""
    options = Options()
    helpers = options.speech.hearing_helpers + options.speech.speaking_helpers
    processes = options.workers.most * ROWS_PER_SLOT * (1 + helpers)
    assert int(only("TasksMax")) > processes * THREADS


def test_only_our_own_user_may_enter_the_runtime_directory():
    """`runtime.take_runtime` refuses another mode; records are for the group, and for nobody else."""
    assert only("RuntimeDirectoryMode") == "0700"
    assert int(only("StateDirectoryMode"), 8) & 0o007 == 0
    assert int(only("UMask"), 8) & 0o007 == 0o007
    assert {only(f"{kind}Directory") for kind in ("State", "Runtime", "Logs", "Configuration")} == {
        "flowcatd"
    }


def test_the_death_of_the_supervisor_does_not_kill_the_calls():
    """With another KillMode systemd kills the workers; nothing keeps the new daemon waiting."""
    assert only("KillMode") == "process"
    assert "ExecStopPost" not in SETTINGS


def test_new_callers_are_answered_soon_after_the_death_of_the_supervisor():
    """The pause before a restart is a fraction of the time for which the port may be waited for."""
    (number,) = re.findall(r"^(\d+)ms$", only("RestartSec"))
    assert int(number) / 1000 < PATIENCE_SECONDS / 2


def test_what_tells_of_a_killed_daemon_is_there_when_its_successor_starts():
    """Without the old sockets it would not wait for the port, and end for good with 71."""
    assert only("RuntimeDirectoryPreserve") == "restart"
    assert ExitCode.BIND in POINTLESS


def test_every_command_is_of_the_same_installation():
    """The directory is one word in the file, so that installing is one replacement."""
    commands = [
        value.lstrip("-") for key in SETTINGS if key.startswith("Exec") for value in SETTINGS[key]
    ]
    assert len(commands) == 2
    assert [line for line in commands if not line.startswith(TEMPLATE_BIN)] == []
    assert UNIT.count("/opt/") == len(commands)


def test_flowcatd_understands_what_systemd_says_to_it():
    """The command lines of the unit are ones that the parser takes."""
    from supervisor.cli import _parse

    serve, reload = (_parse(only(line).split()[1:]) for line in ("ExecStart", "ExecReload"))
    assert (serve.command, serve.config) == ("serve", Path("/etc/flowcatd/flowcatd.toml"))
    assert reload.command == "reload"


def test_a_spoilt_configuration_is_refused_by_the_daemon_and_not_by_the_messenger():
    """`systemctl reload` finds the socket without reading what it asks the daemon to read."""
    from supervisor.cli import _parse

    words = only("ExecReload").replace("%t", "/run").split()[1:]
    assert "--config" not in words
    endpoint = f"ipc://{SYSTEM_RUNTIME / CONTROL_SOCKET}"
    assert locate(_parse(words)) == Where(endpoint)
    assert Path("/run") / only("RuntimeDirectory") == SYSTEM_RUNTIME


def test_the_user_is_the_one_that_is_made():
    """sysusers.d(5): `u name id gecos home shell`."""
    (line,) = [
        line
        for line in (SHIPPED / "flowcatd.sysusers").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert line.split()[:2] == ["u", only("User")]
    assert only("User") == only("Group") == USER
    assert f"/var/lib/{only('StateDirectory')}" in line


def test_the_kernel_keeps_its_hands_off_our_ports_and_grants_our_queue():
    """The drop-in says the numbers that the defaults and the doors say."""
    text = (SHIPPED / "90-flowcatd.conf").read_text()
    kernel = {
        key.strip(): value.strip()
        for key, value in re.findall(r"^([a-z_.0-9]+) *=(.*)$", text, re.MULTILINE)
    }
    reserved: set[int] = set()
    for part in kernel["net.ipv4.ip_local_reserved_ports"].split(","):
        low, _, high = part.partition("-")
        reserved |= set(range(int(low), int(high or low) + 1))
    options = Options()
    assert {options.server.port, options.metrics.port, 5060} <= reserved
    assert set(range(options.rtp.low, options.rtp.high + 1)) <= reserved
    assert int(kernel["net.core.somaxconn"]) >= BACKLOG
    assert int(kernel["net.core.rmem_max"]) > 212_992, "the kernel's own default"
    assert len(kernel) == 3


def test_every_directive_is_given_once_unless_lists_add_up():
    """A second line of the same name would silently win."""
    assert {key for key, values in SETTINGS.items() if len(values) > 1} == {"SystemCallFilter"}


def test_systemd_finds_nothing_wrong_with_the_unit(installed):
    """`systemd-analyze verify` also knows which directives there are."""
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", str(installed)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_calls_the_service_closed(installed):
    """The exposure that `systemd-analyze security` counts is at most 2.0."""
    done = subprocess.run(
        [
            *(tool("systemd-analyze"), "security", "--offline=true", "--no-pager"),
            *(f"--threshold={MOST_EXPOSURE}", str(installed)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
    assert " OK " in done.stdout.splitlines()[-1]


def test_systemd_makes_our_user(tmp_path):
    """`systemd-sysusers` reads the line and writes an account without a shell."""
    (tmp_path / "etc").mkdir()
    subprocess.run(
        [tool("systemd-sysusers"), f"--root={tmp_path}", str(SHIPPED / "flowcatd.sysusers")],
        capture_output=True,
        check=True,
        timeout=60,
    )
    (account,) = (tmp_path / "etc" / "passwd").read_text().splitlines()
    assert account.startswith(f"{USER}:")
    assert account.endswith(":/var/lib/flowcatd:/usr/sbin/nologin")
