"""`flowcatd top`: the daemon's figures, live in the terminal, once a second.

A SUB on the daemon's metrics socket feeds `picture.Gathering`; `screen.render` makes lines; this file owns the
terminal. It goes to the alternate screen without echo, line discipline or wrapping, and comes back
from there whatever happens: q, an exception, SIGTERM, SIGHUP, Ctrl-Z. A frame is one write, inside a
synchronised update where the terminal knows that (mode 2026), so nothing flickers. Sources: termios(3),
ECMA-48, xterm's ctlseqs (modes 7, 25, 1049). Without a terminal it prints one frame (`--once`), or JSON
lines (`--json`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Self

import msgspec
import zmq

from flowcatd.control import CONTROL_SOCKET, MESSAGE_MAX, METRICS_SOCKET, CallEvent, Fleet
from flowcatd.environment import wants_colour
from flowcatd.errors import LinkError, LinkTimeout
from flowcatd.metrics import Snapshot
from supervisor import screen
from supervisor.client import Where, add_client_arguments, connect, locate, open_socket
from supervisor.operate import Code
from supervisor.picture import Gathering, Picture
from supervisor.report import columns_of, speakable

_TOPICS = (b"metrics.", b"fleet", b"call.")
_TICK = 1.0
# Two snapshots of every worker, a second apart, and a little.
_FIRST_SECONDS = 3.0
# The rest of an escape sequence follows its first byte within this, over a slow line too.
_ESCAPE_MS = 100
# Messages taken before the screen is looked after again: 256 workers' and their calls'.
_BURST = 2000

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[?2026l\x1b[?7h\x1b[?25h\x1b[?1049l"
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

_EPILOG = """\
--connect is the metrics endpoint here: control.metrics_tcp, or ipc://…/metrics.sock

exit codes:
  0    you quit, or the frame is printed
  69   nobody publishes there
  78   the configuration, the endpoint or a key is wrong
  129, 130, 143   ended by SIGHUP, SIGINT, SIGTERM; the terminal is as it was
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `flowcatd top`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="print one frame and end")
    how.add_argument("--json", action="store_true", help="print one JSON line per second")
    add_client_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Watch until told to end; the result is the exit code."""
    try:
        feed = Feed(_metrics(locate(args, METRICS_SOCKET)))
    except LinkError as error:
        sys.stderr.write(f"flowcatd: {error}\n")
        return Code.NOBODY
    try:
        if args.json:
            return _print_lines(feed, args.timeout)
        if args.once or not (sys.stdin.isatty() and sys.stdout.isatty()):
            return _print_frame(feed, args.timeout)
        return _watch(feed)
    except LinkError as error:
        sys.stderr.write(f"flowcatd: {error}\n")
        return Code.NOBODY
    except _Ended as ended:
        return 128 + ended.number
    finally:
        feed.close()


def _metrics(where: Where) -> Where:
    """Whoever names the control socket means the one beside it."""
    endpoint = where.endpoint
    if endpoint.startswith("ipc://") and endpoint.endswith(f"/{CONTROL_SOCKET}"):
        return Where(endpoint.removesuffix(CONTROL_SOCKET) + METRICS_SOCKET, where.keys)
    return where


# --- what comes in -------------------------------------------------------------------------------


class Feed:
    """The subscription, and what was gathered from it."""

    def __init__(self, where: Where) -> None:
        """Subscribed; whether anybody publishes there shows later."""
        self.gathering = Gathering(where.endpoint, time.monotonic())
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.link = open_socket(self._context, zmq.SUB, where)
        try:
            for topic in _TOPICS:
                self.link.subscribe(topic)
            connect(self.link, where)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give everything back."""
        self.link.close(linger=0)
        self._context.term()

    def take(self) -> None:
        """Everything that has arrived, up to a burst's worth."""
        for _ in range(_BURST):
            try:
                topic, *parts = self.link.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = decode(topic, parts)
            if message is not None:
                self.gathering.receive(message, time.monotonic())

    def picture(self) -> Picture:
        """How things stand now."""
        return self.gathering.picture(time.monotonic(), time.time())

    def wait_until_known(self, timeout: float) -> None:
        """Heard of everybody, so that there are rates; raises LinkTimeout when nothing comes."""
        start = time.monotonic()
        while not self.gathering.is_complete:
            passed = time.monotonic() - start
            if self.gathering.has_heard and passed > min(timeout, _FIRST_SECONDS):
                return
            if passed > timeout:
                raise LinkTimeout(
                    f"nothing is published at {self.gathering.where}; is flowcatd running? "
                    "with another configuration or port give --config/--set or --connect; "
                    "over tcp it is control.metrics_tcp, with keys that the daemon knows"
                )
            self.link.poll(100)
            self.take()


_DECODERS: tuple[tuple[bytes, msgspec.json.Decoder[Fleet | Snapshot | CallEvent]], ...] = (
    (b"metrics.", msgspec.json.Decoder(Snapshot)),
    (b"call.", msgspec.json.Decoder(CallEvent)),
    (b"fleet", msgspec.json.Decoder(Fleet)),
)


def decode(topic: bytes, parts: list[bytes]) -> Fleet | Snapshot | CallEvent | None:
    """What was published, or None for what is not ours or of another version."""
    if len(parts) != 1 or len(parts[0]) > MESSAGE_MAX:
        return None
    for start, decoder in _DECODERS:
        if topic.startswith(start):
            with suppress(msgspec.DecodeError, RecursionError):
                return decoder.decode(parts[0])
    return None


# --- without a terminal --------------------------------------------------------------------------


def _print_frame(feed: Feed, timeout: float) -> Code:
    feed.wait_until_known(timeout)
    picture = feed.picture()
    width = shutil.get_terminal_size((100, 24)).columns
    height = len(picture.rows) + 16
    colour = wants_colour(sys.stdout)
    lines = screen.render(picture, screen.View(), width, height, colour=colour)[:-1]
    text = "\n".join(lines).rstrip() + "\n"
    sys.stdout.write(speakable(text, sys.stdout.encoding))
    return Code.DONE


def _print_lines(feed: Feed, timeout: float) -> int:
    feed.wait_until_known(timeout)
    with _told_to_end():
        due = time.monotonic()
        while True:
            sys.stdout.write(msgspec.json.encode(feed.picture()).decode() + "\n")
            sys.stdout.flush()
            due = max(due + _TICK, time.monotonic())
            while (left := due - time.monotonic()) > 0:
                feed.link.poll(max(1, int(left * 1000)))
                feed.take()


# --- in the terminal -----------------------------------------------------------------------------


class _Ended(BaseException):
    """A signal told us to end. Not an Exception, so that nothing on its way takes it for one."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


@contextmanager
def _told_to_end() -> Iterator[None]:
    """Inside, the signals that end a program raise _Ended, once."""

    def end(number: int, _: FrameType | None) -> None:
        for other in _ENDING:
            signal.signal(other, signal.SIG_IGN)
        raise _Ended(number)

    before = {number: signal.signal(number, end) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _resizes() -> Iterator[int]:
    """A descriptor that becomes readable when the terminal has another size (signal(7): SIGWINCH)."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.signal(signal.SIGWINCH, lambda *_: None)
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGWINCH, before)
        os.close(reading)
        os.close(writing)


class Terminal:
    """The person's terminal, borrowed: `with` gives it back as it was."""

    def __init__(self, keyboard: int, display: int, encoding: str) -> None:
        """`keyboard` and `display` are the descriptors of one terminal."""
        self.keyboard = keyboard
        self._display = display
        self._encoding = encoding
        self._before = termios.tcgetattr(keyboard)

    def __enter__(self) -> Self:
        """Ours."""
        try:
            self.enter()
        except BaseException:
            self.leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """The person's again, even when the terminal is gone meanwhile."""
        self.leave()

    def enter(self) -> None:
        """The alternate screen, keys as they are pressed, Ctrl-C and Ctrl-Z too."""
        tty.setraw(self.keyboard, termios.TCSAFLUSH)
        self.write(_ENTER)

    def leave(self) -> None:
        """As it was."""
        try:
            self._restore()
        except _Ended:
            # The signal came in the middle of it; a second one cannot.
            self._restore()
            raise

    def _restore(self) -> None:
        with suppress(OSError):
            self.write(_LEAVE)
        with suppress(termios.error):
            termios.tcsetattr(self.keyboard, termios.TCSANOW, self._before)

    def suspend(self) -> None:
        """Ctrl-Z: stop as a shell expects it, and go on when told to (termios(3), ISIG)."""
        self.leave()
        os.kill(0, signal.SIGTSTP)
        self.enter()

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            found = os.get_terminal_size(self._display)
        except OSError:
            return 80, 24
        # Serial lines say 0 when they do not know.
        return found.columns or 80, found.lines or 24

    def show(self, lines: list[str], width: int) -> None:
        """A whole frame, in place of the one before."""
        # After the last column the cursor stands still upon it: erasing would take that character.
        rows = "\r\n".join(f"{line}\x1b[K" if columns_of(line) < width else line for line in lines)
        self.write(f"\x1b[?2026h\x1b[H{rows}\x1b[?2026l")

    def write(self, text: str) -> None:
        """All of it; one system call when the terminal takes it."""
        data = speakable(text, self._encoding).encode(self._encoding, "replace")
        while data:
            data = data[os.write(self._display, data) :]

    def read(self) -> bytes:
        """What was pressed; empty when the terminal is gone. A lone Esc waits for what may follow."""
        try:
            data = os.read(self.keyboard, 1024)
            if data.endswith(b"\x1b") and zmq.select([self.keyboard], [], [], _ESCAPE_MS / 1e3)[0]:
                data += os.read(self.keyboard, 1024)
        except OSError:
            return b""
        return data


def _watch(feed: Feed) -> int:
    # No buffer of Python's may stand between a frame and the terminal.
    keyboard, display = sys.stdin.fileno(), sys.stdout.fileno()
    colour = wants_colour(sys.stdout)
    sys.stdout.flush()
    try:
        with (
            _told_to_end(),
            _resizes() as resized,
            Terminal(keyboard, display, sys.stdout.encoding) as terminal,
        ):
            return _Watch(feed, terminal, colour=colour).run(resized)
    except OSError as error:
        sys.stderr.write(f"flowcatd: the terminal went away: {error.strerror}\n")
        return Code.WRONG


class _Watch:
    """The loop: messages, keys, sizes, and a frame once a second and after each key."""

    def __init__(self, feed: Feed, terminal: Terminal, *, colour: bool) -> None:
        self._feed = feed
        self._terminal = terminal
        self._colour = colour
        self._view = screen.View()
        self._picture = feed.picture()

    def run(self, resized: int) -> Code:
        """Until a key or a signal ends it."""
        poller = zmq.Poller()
        for source in (self._feed.link, self._terminal.keyboard, resized):
            poller.register(source, zmq.POLLIN)
        self._draw()
        due = time.monotonic() + _TICK / 4
        while True:
            ready = dict(poller.poll(max(0, int((due - time.monotonic()) * 1000) + 1)))
            self._feed.take()
            if self._terminal.keyboard in ready and not self._press(self._terminal.read()):
                return Code.DONE
            if resized in ready:
                os.read(resized, 1024)
                self._draw()
            if time.monotonic() >= due:
                due = max(due + _TICK, time.monotonic())
                if not self._view.is_paused:
                    self._picture = self._feed.picture()
                self._draw()

    def _press(self, data: bytes) -> bool:
        """Do what the keys say; False when they say to quit, or there is no keyboard any more."""
        if not data:
            return False
        for key in screen.keys(data):
            if key == "quit":
                return False
            if key == "suspend":
                self._terminal.suspend()
            room = screen.room_for_rows(self._picture, self._terminal.size()[1])
            self._view = screen.press(self._view, key, rows=len(self._picture.rows), room=room)
        self._draw()
        return True

    def _draw(self) -> None:
        width, height = self._terminal.size()
        self._terminal.show(
            screen.render(self._picture, self._view, width, height, colour=self._colour), width
        )
