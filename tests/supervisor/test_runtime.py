"""Facts about the runtime directory: ours alone, one daemon at a time, refused with a reason."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flowcatd.environment import runtime_directories
from flowcatd.errors import LinkRefused
from supervisor.runtime import sweep, take_runtime


@pytest.fixture
def directory():
    """A short path that does not exist yet."""
    parent = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    yield parent / "run"
    shutil.rmtree(parent)


def test_it_is_made_closed_to_others(directory):
    """Mode 0700, whatever the umask."""
    os.close(take_runtime(directory))
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_second_daemon_is_told_that_it_is_in_use(directory):
    """Also from another process; and not after the first has died."""
    lock = take_runtime(directory)
    with pytest.raises(LinkRefused, match="in use by another flowcatd"):
        take_runtime(directory)
    os.close(lock)
    program = f"from supervisor.runtime import *; take_runtime(Path({str(directory)!r}))"
    subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=30, cwd=Path(__file__).parents[2]
    )
    os.close(take_runtime(directory))


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777])
def test_one_that_others_can_enter_is_refused(directory, mode):
    """Whoever may write there could command the daemon."""
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(LinkRefused, match="0700"):
        take_runtime(directory)


def test_a_link_in_its_place_is_refused(directory):
    """Somebody else may have put it there."""
    elsewhere = directory.parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    directory.symlink_to(elsewhere)
    with pytest.raises(LinkRefused, match="no directory"):
        take_runtime(directory)


def test_a_path_too_long_for_sockets_is_refused_by_name(directory):
    """Before any socket fails with an error that says nothing."""
    with pytest.raises(LinkRefused, match=r"control\.directory"):
        take_runtime(directory / ("x" * 100))


def test_sockets_of_a_killed_daemon_are_swept_and_nothing_else(directory):
    """The lock and an operator's own file stay."""
    lock = take_runtime(directory)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(directory / "control.sock"))
    (directory / "note.txt").write_text("mine")
    sweep(directory)
    assert sorted(entry.name for entry in directory.iterdir()) == ["lock", "note.txt"]
    os.close(lock)


def test_where_it_is_looked_for():
    """The setting alone; else systemd's; else per user and port; operators look at /run/flowcatd last."""
    assert runtime_directories("/a/b", 1, environ={}) == [Path("/a/b")]
    assert runtime_directories("", 1, environ={"RUNTIME_DIRECTORY": "/run/x:/run/y"}) == [
        Path("/run/x")
    ]
    found = runtime_directories("", 6210, environ={"XDG_RUNTIME_DIR": "/run/user/5"})
    assert found[0] == Path("/run/user/5/flowcatd-6210")
    assert found[1].name == f"flowcatd-{os.getuid()}-6210"
    assert found[-1] == Path("/run/flowcatd")
