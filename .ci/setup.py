#!/usr/bin/env python3
# ruff: noqa: T201, S603, S606, UP031, PLC0415 - a script for a terminal that runs fixed commands,
# and an interpreter too old for it must still be able to read it and say so
"""Make .venv what uv.lock says, once; and then, on request, become the daemon.

    setup.py [--extra NAME] [--group NAME]   set up, or do nothing when that was done
    setup.py --then PROGRAM [WORD …]  set up, then run .venv/bin/PROGRAM with these words

Only the standard library. uv does the work: the one on PATH, or one that pip puts into .boot, which
also works where the distribution manages the system's Python (PEP 668). Where uv cannot be had, venv
and pip do it, without the lock. A stamp in .venv holds what the set-up depended on, so that a second
run costs nothing.

On a terminal the daemon is made the foreground job by itself. Otherwise Ctrl-C would also hit make,
which then ends as interrupted however cleanly the daemon did.
"""

import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BOOT = ROOT / ".boot"
STAMP = VENV / "flowcatd-setup.json"
INPUTS = ("uv.lock", "pyproject.toml", ".ci/setup.py")
OLDEST, NEWEST = (3, 11), (3, 13)
PATIENCE_SECONDS = 1800


def main() -> int:
    """Set up; then run what was asked for."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        return say_wrong_python()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--extra", action="append", default=[])
    parser.add_argument("--group", action="append", default=[])
    parser.add_argument("--then", nargs=argparse.REMAINDER, default=[])
    args = parser.parse_args()
    begun = time.monotonic()
    before = read_stamp()
    wanted = {"speech", *args.extra, *([] if has_flite() else ["espeak"])}
    had = set(before.get("extras", [])), set(before.get("groups", []))
    if before.get("key") != key() or not (wanted <= had[0] and set(args.group) <= had[1]):
        # What another target asked for stays, so that `make run` and `make test` do not take turns.
        extras, groups = sorted(wanted | had[0]), sorted({*args.group} | had[1])
        say("setting up .venv with Python %d.%d.%d" % sys.version_info[:3])
        STAMP.unlink(missing_ok=True)
        install(extras, groups)
        done = {"key": key(), "extras": extras, "groups": groups}
        STAMP.write_text(json.dumps(done), encoding="utf-8")
        say(f"set up in {time.monotonic() - begun:.0f} s")
    return run(args.then) if args.then else 0


def install(extras: "list[str]", groups: "list[str]") -> None:
    """Fill .venv, by the first way that there is; ends the program when it fails."""
    tried = False
    for find_uv in (uv_on_path, uv_in_boot):
        uv = find_uv()
        if uv is None:
            continue
        tried = True
        if sync(uv, extras, groups):
            return
        say(f"{uv} could not do it")
    if tried:
        sys.exit("setup: stopped; the lines above say why")
    say(
        "uv cannot be had; trying venv and pip, with the newest versions instead of the locked ones"
    )
    install_by_pip(extras, groups)


def sync(uv: str, extras: "list[str]", groups: "list[str]") -> bool:
    """Whether uv brought .venv to what the lock says."""
    words = [uv, "sync", "--locked", "--inexact", "--project", str(ROOT)]
    words += [word for extra in extras for word in ("--extra", extra)]
    words += [word for group in groups for word in ("--group", group)]
    if not sys.stderr.isatty():
        words.append("--quiet")
    environ = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    environ.update(UV_PYTHON=own_python(), UV_SYSTEM_CERTS="1", UV_PROJECT_ENVIRONMENT=str(VENV))
    return succeeds(words, environ)


def uv_on_path() -> "str | None":
    """The uv that is there already."""
    return shutil.which("uv")


def uv_in_boot() -> "str | None":
    """A uv of our own, installed if need be."""
    uv = BOOT / "bin" / "uv"
    if not uv.exists():
        say("fetching uv into .boot")
        words = [own_python(), "-m", "pip", "install", "--quiet", "--target", str(BOOT), "uv"]
        if not succeeds([*words, "--disable-pip-version-check", "--root-user-action=ignore"]):
            return None
    return str(uv) if uv.exists() else None


def install_by_pip(extras: "list[str]", groups: "list[str]") -> None:
    """The way without uv; ends the program when it fails."""
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        known = tomllib.load(file)["dependency-groups"]
    tools = [tool for group in ("dev", *groups) for tool in known[group]]
    if not succeeds([own_python(), "-m", "venv", "--clear", str(VENV)]):
        sys.exit("setup: this Python has neither uv, pip nor venv; install one of them")
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    if not succeeds([*pip, "-e", f"{ROOT}[{','.join(extras)}]", *tools]):
        sys.exit("setup: pip could not do it either; the lines above say why")


def run(words: "list[str]") -> int:
    """Run a program of .venv in the foreground; its exit code is ours."""
    words = [str(VENV / "bin" / words[0]), *words[1:]]
    if not owns_terminal():
        sys.stdout.flush()
        os.execv(words[0], words)
    ours = os.getpgrp()
    # A process in the background that sets the terminal's foreground is stopped, unless it ignores it.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())
        # make could not be told that it is stopped, and nobody could bring it back.
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execv(words[0], words)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: os.kill(pid, number))
    _, status = os.waitpid(pid, 0)
    os.tcsetpgrp(0, ours)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def owns_terminal() -> bool:
    """Whether somebody at a terminal waits for us."""
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def has_flite() -> bool:
    """Whether Debian's flite is here, the better of the two offline voices."""
    try:
        ctypes.CDLL("libflite.so.1")
    except OSError:
        return False
    return True


def read_stamp() -> "dict":
    """What the last set-up left, or nothing."""
    try:
        return json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def key() -> "list":
    """What a set-up depends on: when it is the same again, there is nothing to do."""
    times = [(ROOT / name).stat().st_mtime_ns for name in INPUTS if (ROOT / name).exists()]
    return [own_python(), list(sys.version_info[:3]), str(ROOT), *times]


def own_python() -> str:
    """The interpreter itself, also when we run inside some virtual environment."""
    return getattr(sys, "_base_executable", None) or sys.executable


def succeeds(words: "list[str]", environ: "dict | None" = None) -> bool:
    """Whether a command ended well, within bounded time."""
    try:
        return (
            subprocess.run(words, env=environ, timeout=PATIENCE_SECONDS, check=False).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(str(error))
        return False


def say_wrong_python() -> int:
    """Which interpreter would do, and which are here."""
    names = ["python%d.%d" % (OLDEST[0], minor) for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    here = [name for name in names if shutil.which(name)]
    print(
        "setup: flowcatd needs Python 3.11, 3.12 or 3.13; this is %d.%d." % sys.version_info[:2],
        "Try: make PYTHON=%s" % here[0] if here else "None of them is on PATH.",
        file=sys.stderr,
    )
    return 1


def say(line: str) -> None:
    """One line of progress."""
    print(f"setup: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
