"""Facts about `flowcatd top` as a program: in a terminal that it gives back, and without one."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from flowcatd.control import encode
from supervisor.cli import main
from supervisor.report import columns_of
from supervisor.top import Terminal, decode
from tests.supervisor.toy_switchboard import fleet, publisher, runtime, snapshot, worker

ROOT = Path(__file__).parents[2]
CODE = "import sys; from supervisor.cli import main; sys.exit(main())"
ENTER = b"\x1b[?1049h\x1b[?25l\x1b[?7l"
LEAVE = b"\x1b[?7h\x1b[?25h\x1b[?1049l"

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("topic", "parts"),
    [
        (b"fleet", [b"{}"]),
        (b"fleet", []),
        (b"fleet", [b"{}", b"{}"]),
        (b"metrics.0", [b"\xff"]),
        (b"call.ended", [b"[" * 5000]),
        (b"call.ended", [b" " * (1024 * 1024 + 1)]),
        (b"other", [encode(fleet())]),
        (b"fleet", [encode(fleet()).replace(b'"v":1', b'"v":2')]),
    ],
)
def test_what_is_not_ours_is_passed_over(topic, parts):
    """Anything may be published by a future flowcatd."""
    assert decode(topic, parts) is None


def test_what_is_ours_is_read():
    """By its topic."""
    assert decode(b"fleet", [encode(fleet())]) == fleet()
    made = snapshot(worker(3), 1)
    assert decode(b"metrics.3", [encode(made)]) == made


# --- in a terminal -------------------------------------------------------------------------------


class Screen:
    """A terminal with `flowcatd top` in it."""

    def __init__(self, directory, *, width=80, height=24, **environ):
        """`environ` is added to a plain one."""
        self.master, self.slave = pty.openpty()
        self.resize(width, height)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        # A process group of its own, so that Ctrl-Z stops it and not the tests.
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, "top", "--connect", f"ipc://{directory}/metrics.sock"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "TERM": "xterm", "PYTHONUTF8": "1", **environ},
            stdin=self.slave,
            stdout=self.slave,
            stderr=subprocess.PIPE,
            process_group=0,
        )

    def resize(self, width, height):
        """As a window does it."""
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def press(self, data):
        """On the keyboard."""
        os.write(self.master, data)

    def wait_for(self, wanted, *, since=0):
        """Until this was written; returns how much had been written then."""
        deadline = time.monotonic() + 20
        while wanted not in self.seen[since:]:
            assert time.monotonic() < deadline, self.seen[-3000:]
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65536)
        return len(self.seen)

    def end(self):
        """The exit code, once everything it wrote is read."""
        deadline = time.monotonic() + 20
        while self.process.poll() is None or select.select([self.master], [], [], 0)[0]:
            assert time.monotonic() < deadline, self.seen[-3000:]
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536)
        return self.process.returncode

    def is_restored(self):
        """The screen it left, and the terminal's settings."""
        return (
            self.seen.startswith(ENTER)
            and self.seen.endswith(LEAVE)
            and termios.tcgetattr(self.slave) == self.before
        )

    def frames(self, since=0):
        """Each frame as its lines."""
        found = re.findall(rb"\x1b\[\?2026h\x1b\[H(.*?)\x1b\[\?2026l", self.seen[since:], re.DOTALL)
        return [frame.decode().replace("\x1b[K", "").split("\r\n") for frame in found]

    def close(self):
        """Nothing remains of it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self.process.stderr.close()
        for end in (self.master, self.slave):
            if end is not None:
                os.close(end)


@pytest.fixture(scope="module")
def directory():
    """Where two workers publish, ten times as fast as in life."""
    with runtime() as path, publisher(path, 2):
        yield path


@pytest.fixture
def screen(directory):
    """A running top that shows the workers."""
    opened = Screen(directory)
    opened.wait_for(b"LATELY")
    yield opened
    opened.close()


@pytest.mark.parametrize("key", [b"q", b"\x1b", b"\x03"])
def test_a_key_quits_and_the_terminal_is_as_it_was(screen, key):
    """The screen before it, the cursor, wrapping, echo and line discipline."""
    assert termios.tcgetattr(screen.slave) != screen.before
    screen.press(key)
    assert screen.end() == 0
    assert screen.is_restored()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_and_the_terminal_is_as_it_was(screen, number):
    """With the exit code a shell gives for that signal."""
    screen.process.send_signal(number)
    assert screen.end() == 128 + number
    assert screen.is_restored()


def test_an_exception_leaves_the_terminal_as_it_was():
    """A bug must not cost the person the shell."""
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        terminal = Terminal(slave, slave, "utf-8")
        with pytest.raises(ZeroDivisionError), terminal:
            terminal.show(["x" * (1 // (termios.tcgetattr(slave) == before))], 80)
        assert termios.tcgetattr(slave) == before
        written = b""
        while not written.endswith(LEAVE):  # a terminal gives what it has, in pieces
            written += os.read(master, 1000)
    finally:
        os.close(master)
        os.close(slave)


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(screen):
    """Stopped as a shell expects, and drawn anew afterwards."""
    screen.press(b"\x1a")
    at = screen.wait_for(LEAVE)
    assert os.WIFSTOPPED(os.waitpid(screen.process.pid, os.WUNTRACED)[1])
    assert termios.tcgetattr(screen.slave) == screen.before
    screen.process.send_signal(signal.SIGCONT)
    screen.wait_for(ENTER, since=at - len(LEAVE))
    screen.press(b"q")
    assert screen.end() == 0
    assert screen.is_restored()


def test_a_window_that_vanishes_ends_it(directory):
    """No process stays behind a closed window."""
    screen = Screen(directory)
    try:
        screen.wait_for(b"LATELY")
        os.close(screen.slave)
        os.close(screen.master)
        screen.master = screen.slave = None
        assert screen.process.wait(15) in {0, 1}
    finally:
        screen.close()


def test_a_resized_window_gets_a_frame_that_fits(screen):
    """At once, not with the next second."""
    at = len(screen.seen)
    screen.resize(40, 8)
    screen.process.send_signal(signal.SIGWINCH)
    screen.wait_for(b"\x1b[?2026l", since=at)
    screen.press(b"q")
    screen.end()
    last = screen.frames()[-1]
    assert len(last) == 8
    assert all(columns_of(line) <= 40 for line in last)


def test_help_and_pause_are_shown(screen):
    """And back."""
    at = len(screen.seen)
    screen.press(b"?")
    at = screen.wait_for(b"longest garbage collection pause", since=at)
    screen.press(b"?p")
    at = screen.wait_for(b"PAUSED", since=at)
    screen.press(b"p")
    screen.wait_for(b"LATELY", since=at)


def test_every_frame_is_whole_and_its_figures_move(screen):
    """A headline first, the keys last, and the daemon's uptime goes on."""
    for _ in range(3):
        screen.wait_for(b"\x1b[?2026l", since=len(screen.seen))
    screen.press(b"q")
    screen.end()
    frames = screen.frames()
    assert all(len(frame) == 24 for frame in frames)
    assert len({frame[0] for frame in frames}) > 2


def test_no_color_means_none(directory):
    """no-color.org; and with colours there are some."""
    for environ, coloured in (({"NO_COLOR": "1"}, False), ({}, True)):
        screen = Screen(directory, **environ)
        try:
            screen.wait_for(b"LATELY")
            screen.press(b"q")
            screen.end()
        finally:
            screen.close()
        assert bool(re.search(rb"\x1b\[\d+m", screen.seen)) == coloured


# --- without one ---------------------------------------------------------------------------------


def test_once_prints_one_frame_with_rates(directory, capsys):
    """For a report or a pipe; complete as soon as every worker was heard twice."""
    assert main(["top", "--once", "--connect", f"ipc://{directory}/metrics.sock"]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    rows = [line.split() for line in told.splitlines() if line.lstrip()[:2] in {"0 ", "1 "}]
    assert [row[1] for row in rows] == ["ready", "ready"]
    assert all("2.0" in row for row in rows)


def test_json_is_a_line_per_second_until_told_to_end(directory):
    """The control socket's name will do: the metrics are beside it."""
    words = ["top", "--json", "--connect", f"ipc://{directory}/control.sock"]
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
    first, second = lines
    assert 0.5 < second["at_utc"] - first["at_utc"] < 3
    assert [row["slot"] for row in second["rows"]] == [0, 1]
    assert second["total"]["new_per_second"] == pytest.approx(4.0)
    assert second["fleet"]["state"] == "serving"


def test_nobody_there_exits_69(tmp_path, capsys):
    """With a way on."""
    words = ["top", "--once", "--timeout", "0.3", "--connect", f"ipc://{tmp_path}/metrics.sock"]
    assert main(words) == 69
    assert "is flowcatd running?" in capsys.readouterr().err
