#!/usr/bin/env python3
# ruff: noqa: T201, S603 - a script, for a terminal; runs the tools of .venv
"""Every check in one order, for a person and for CI alike: stops at the first failure, prints times.

    format · lint · types · house · pure, and speech beside it · rest

House is the structure of the code, pure needs no loop, socket or process, speech is recognition of
people (neither minds a busy machine), rest is everything else, slow scenarios last.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"

HOUSE = ("tests/test_house.py",)
PURE = (
    "tests/flowcatd/test_options.py",
    "tests/flowcatd/test_settings.py",
    "tests/flowcatd/agent",
    "tests/flowcatd/audio",
    "tests/flowcatd/carriers",
    "tests/flowcatd/providers",
    "tests/flowcatd/rtp",
    "tests/flowcatd/sip",
    "tests/supervisor/test_exposition.py",
    "tests/supervisor/test_fleet.py",
    "tests/supervisor/test_routing.py",
    "tests/workers/test_steer.py",
)
SPEECH = ("tests/human_speech",)
REST = tuple(f"--ignore={path}" for path in (*HOUSE, *PURE, *SPEECH))
STEPS = (
    ("format", (("ruff", "format", "--check", "."),)),
    ("lint", (("ruff", "check", "."),)),
    ("types", (("mypy",),)),
    ("house", (("pytest", "-q", *HOUSE),)),
    ("pure", (("pytest", "-q", *PURE), ("pytest", "-q", "-p", "no:cacheprovider", *SPEECH))),
    ("rest", (("pytest", "-q", *REST),)),
)
"""Name to the commands that run at the same time."""


def main() -> int:
    """Run the steps."""
    begun = time.monotonic()
    for name, commands in STEPS:
        print(f"--- {name}", flush=True)
        since = time.monotonic()
        running = [subprocess.Popen([BIN / word, *words], cwd=ROOT) for word, *words in commands]
        codes = [process.wait() for process in running]
        seconds = time.monotonic() - since
        if any(codes):
            print(f"--- {name} failed after {seconds:.1f} s", flush=True)
            return 1
        print(f"--- {name} {seconds:.1f} s", flush=True)
    print(f"--- all good in {time.monotonic() - begun:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
