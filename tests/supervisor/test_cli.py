"""Facts about the command line: lazy, one-line errors, exit codes; and `check` and `serve` for real."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import flowcatd
from supervisor.cli import COMMANDS

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(60)


def run(*words, cwd=ROOT, **environ):
    """`flowcatd WORDS`, as a process of its own."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from supervisor.cli import main; sys.exit(main())",
            *words,
        ],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "COLUMNS": "100", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


@pytest.fixture
def etc(tmp_path):
    """A directory with a good configuration in it."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "my.toml").write_text("[agents]\ndefault = 'echo'\n[server]\nport = 0\n")
    return tmp_path


def test_help_lists_every_command_and_the_exit_codes():
    """A newcomer's first look."""
    done = run("--help")
    assert done.returncode == 0
    for word in (*COMMANDS, "version", "exit codes", "71", "78"):
        assert word in done.stdout


def test_version_says_which():
    """And imports nothing of the rest."""
    assert run("version").stdout == f"flowcatd {flowcatd.__version__}\n"


def test_only_the_chosen_command_is_imported():
    """Help must be quick, and a broken caller must not keep the daemon from running."""
    code = (
        "import sys, contextlib\n"
        "from supervisor.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(sorted(set(sys.modules) & {'asyncio', 'aiohttp', 'structlog', 'yaml', 'zmq', 'numpy',"
        " 'supervisor.main', 'flowcatd.caller.cli'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [(), ("serv",), ("serve", "--prot", "1")])
def test_a_command_line_that_is_not_understood_exits_2(words):
    """With the usage, and no traceback."""
    done = run(*words)
    assert done.returncode == 2
    assert "usage: flowcatd" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        (
            "[server]\nprot = 1\n",
            (),
            "my.toml:2: server.prot: is not a setting, did you mean 'port'?",
        ),
        ("[log\n", (), "my.toml:1: is not TOML: Expected ']' at the end of a table declaration"),
        (
            "",
            ("--set", "server.prot=1"),
            "--set: server.prot: is not a setting, did you mean 'port'?",
        ),
        ("", (), "my.toml: agents.default: 'appointment' has no file in "),
        (
            "[server]\ntoken = 'env:NOT_SET_HERE'\n[agents]\ndefault = 'echo'\n",
            (),
            "env:NOT_SET_HERE: is empty or not set",
        ),
    ],
)
def test_serve_tells_a_wrong_configuration_in_one_line(etc, content, words, said):
    """Exit code 78, before anything is forked."""
    (etc / "my.toml").write_text(content)
    done = run("serve", "--config", "my.toml", *words, cwd=etc)
    assert done.returncode == 78
    assert done.stderr.startswith(f"flowcatd: {said}")
    assert done.stderr.count("\n") == 1


def test_serve_tells_a_taken_port_in_one_line(etc):
    """Exit code 71, with the way out."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run("serve", "--config", "my.toml", "--set", f"server.port={port}", cwd=etc)
    assert done.returncode == 71
    assert done.stderr.startswith(f"flowcatd: 127.0.0.1:{port} is taken by another program")
    assert "--set server.port=" in done.stderr
    assert done.stderr.count("\n") == 1


def test_check_says_that_the_shipped_configuration_is_good():
    """conf/ as it stands."""
    for name in ("flowcatd.toml", "bench.toml"):
        done = run("check", "--config", f"conf/{name}")
        assert (done.returncode, done.stdout) == (0, "configuration is good\n"), done.stderr


def test_check_collects_everything(etc):
    """Agents, default and secret together, each with its place; exit code 1."""
    (etc / "my.toml").write_text(
        "[agents]\ndefault = 'ecko'\n[server]\ntoken = 'file:/not/there'\n"
    )
    (etc / "agents/broken.yaml").write_text("name: broken\nstates: [\n")
    done = run("check", "--config", "my.toml", cwd=etc)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert any(line.startswith(f"flowcatd: {etc}/agents/broken.yaml:") for line in lines)
    assert any("agents.default: 'ecko' has no file" in line and "'echo'" in line for line in lines)
    assert any("file:/not/there: cannot be read" in line for line in lines)


def test_check_collects_every_mistake_of_the_settings(etc):
    """Not only the first."""
    (etc / "my.toml").write_text("[server]\nprot = 1\nport = 'x'\n")
    done = run("check", "--config", "my.toml", cwd=etc)
    assert len(done.stderr.splitlines()) == 2


def test_check_can_speak_json(etc):
    """For editors."""
    (etc / "my.toml").write_text("[server]\nprot = 1\n")
    done = run("check", "--json", "--config", "my.toml", cwd=etc)
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "good": False,
        "problems": [
            {
                "where": "my.toml:2",
                "key": "server.prot",
                "problem": "is not a setting, did you mean 'port'?",
            }
        ],
    }


def test_check_can_look_at_single_files(etc):
    """Whatever the configuration says."""
    (etc / "one.yaml").write_text("nonsense\n")
    (etc / "two.txt").write_text("")
    done = run("check", "one.yaml", "two.txt", "three.yaml", cwd=etc)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("flowcatd: one.yaml")
    assert (
        "two.txt: is neither an agent (*.yaml) nor provider rows or a trunk (*.toml)" in done.stderr
    )
    assert "three.yaml: cannot be read: No such file or directory" in done.stderr


def test_a_reader_that_goes_away_is_no_traceback(etc):
    """`flowcatd check | head -0`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", "from supervisor.cli import main; main()", "version"],
        cwd=etc,
        env={"PYTHONPATH": str(ROOT)},
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert "Traceback" not in done.stderr


@pytest.mark.scenario
def test_serve_serves_and_ends_well(etc):
    """The real daemon with real workers: ready, answering, ended by SIGINT with exit code 0."""
    words = ["serve", "--json", "--config", "my.toml", "--set", "workers.count=1"]
    words += ["--set", "sip.port=0"]
    words += ["--set", "speech.hearing=none", "--set", "speech.voice=none"]
    daemon = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from supervisor.cli import main; sys.exit(main())",
            *words,
        ],
        cwd=etc,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        ready = json.loads(daemon.stdout.readline() or "{}")
        with socket.create_connection(("127.0.0.1", ready["port"]), timeout=10) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        daemon.send_signal(signal.SIGINT)
        _, err = daemon.communicate(timeout=20)
        assert daemon.returncode == 0, err
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.communicate()


def test_check_remarks_on_words_that_the_recogniser_must_guess(tmp_path):
    """It is no mistake: the file is good, and the word is named."""
    agent = tmp_path / "w.yaml"
    agent.write_text(
        "name: w\ninitial_state: a\nstates:\n  a:\n    timeout: 5s\n    timeout_next: b\n"
        '    transitions: [{hears: ["flowcatd please", "yes"], target: b}]\n  b: {terminal: true}\n'
    )
    command = [sys.executable, "-c", "from supervisor.cli import main; raise SystemExit(main())"]
    done = subprocess.run(
        [*command, "check", str(agent)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0
    assert done.stderr.count("flowcatd: remark: ") == 1
    assert done.stderr.strip().endswith(": flowcatd")
