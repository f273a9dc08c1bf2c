#!/usr/bin/env python3
# ruff: noqa: T201, S603 - a script, for a terminal; runs the tools of .venv
"""Every check in one order, for a person and for CI alike: stops at the first failure, prints times.

    static   format, lint, types, and the house: the structure of the code
    beside   what waits runs beside what computes: pure rooms and speech, nicely; the shells of the
             supervisor, the workers and all the rest
    talking  calls in real time: four lanes of them beside each other leave two cores half idle
    alone    fleets, other people's telephones, and what is judged by its time or memory

A test belongs to the lane that names the nearest path above it; "rest" names `tests`, so a new file
is never on no list. Lanes that run beside others are heard when they are over.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
LIMIT_SECONDS = 900.0
"""Of a lane: beyond it something hangs where no limit of its own reaches it."""

PYTEST = (
    *("pytest", "-q", "-p", "no:cacheprovider", "--durations=5"),
    # What pytest-timeout cannot interrupt: the stacks of all threads, and the end.
    *("-o", "faulthandler_timeout=200", "-o", "faulthandler_exit_on_timeout=true"),
)

LANES: Mapping[str, Sequence[str]] = {
    "house": ("tests/test_house.py", "tests/test_lanes.py"),
    "pure": (
        "tests/flowcatd/agent",
        "tests/flowcatd/audio",
        "tests/flowcatd/carriers",
        "tests/flowcatd/pipeline",
        "tests/flowcatd/processors",
        "tests/flowcatd/providers",
        "tests/flowcatd/rtp",
        "tests/flowcatd/sip",
        "tests/flowcatd/test_options.py",
        "tests/flowcatd/test_playout.py",
        "tests/flowcatd/test_settings.py",
        "tests/supervisor/test_exposition.py",
        "tests/supervisor/test_fleet.py",
        "tests/supervisor/test_routing.py",
        "tests/workers/test_steer.py",
    ),
    "speech": ("tests/human_speech",),
    "supervisor": ("tests/supervisor",),
    "workers": ("tests/workers",),
    "calls": ("tests/flowcatd/caller", "tests/flowcatd/transports"),
    "rest": ("tests",),
    "spoken": (
        "tests/scenarios/test_03_operator.py",
        "tests/scenarios/test_04_spoken.py",
        "tests/scenarios/test_11_operator.py",
    ),
    "daemons": (
        "tests/scenarios/test_01_echo.py",
        "tests/scenarios/test_02_wrong_peers.py",
        "tests/scenarios/test_05_processes.py",
        "tests/scenarios/test_06_resume.py",
        "tests/scenarios/test_08_upgrade.py",
        "tests/scenarios/test_09_adversity.py",
    ),
    "telephones": ("tests/scenarios",),
    "alone": (
        "tests/flowcatd/links/test_open.py",
        "tests/flowcatd/pipeline/test_cost.py",
        "tests/interop",
        "tests/scenarios/test_07_fleet.py",
        "tests/scenarios/test_10_memory.py",
        "tests/scenarios/test_13_sip_fleet.py",
        "tests/workers/test_collector.py",
    ),
}
"""Name to what is run in it, but for what lies below and is another lane's."""
NICE = ("pure", "speech")
"""They only compute: whoever beside them waits for a moment gets it."""
STEPS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "static": {
        "format": ("ruff", "format", "--check", "."),
        "lint": ("ruff", "check", "."),
        "types": ("mypy",),
        "house": (),
    },
    "beside": dict.fromkeys(("supervisor", "workers", "rest", "pure", "speech"), ()),
    "talking": dict.fromkeys(("spoken", "telephones", "daemons", "calls"), ()),
    "alone": {"alone": ()},
}
"""Name to what runs at the same time, by name; without words it is a lane."""


def lane(name: str) -> tuple[str, ...]:
    """The words that run a lane."""
    own = LANES[name]
    others = [path for each, paths in LANES.items() if each != name for path in paths]
    below = [path for path in others if any(path.startswith(f"{mine}/") for mine in own)]
    return (*PYTEST, *own, *(f"--ignore={each}" for each in below))


def main() -> int:
    """Run the steps."""
    begun = time.monotonic()
    for step, commands in STEPS.items():
        print(f"--- {step}", flush=True)
        since = time.monotonic()
        is_good = run({name: words or lane(name) for name, words in commands.items()})
        verdict = "" if is_good else "failed after "
        print(f"--- {step} {verdict}{time.monotonic() - since:.1f} s", flush=True)
        if not is_good:
            return 1
    print(f"--- all good in {time.monotonic() - begun:.1f} s")
    return 0


def run(commands: Mapping[str, Sequence[str]]) -> bool:
    """All at once; whether all went well. One alone is heard while it runs."""
    begun = time.monotonic()
    running: dict[str, tuple[subprocess.Popen[bytes], IO[bytes] | None]] = {}
    for name, (word, *words) in commands.items():
        heard = tempfile.TemporaryFile() if len(commands) > 1 else None  # noqa: SIM115 told below
        nice = 15 if name in NICE else 0
        running[name] = (
            subprocess.Popen(
                [BIN / word, *words],
                cwd=ROOT,
                stdout=heard,
                stderr=heard and subprocess.STDOUT,
                preexec_fn=lambda nice=nice: os.nice(nice),  # noqa: PLW1509 there are no threads
            ),
            heard,
        )
    is_good = True
    while running:
        time.sleep(0.1)
        seconds = time.monotonic() - begun
        for name, (process, heard) in list(running.items()):
            if process.poll() is None and seconds < LIMIT_SECONDS:
                continue
            if process.poll() is None:
                process.kill()
                print(f"--- {name} hangs", flush=True)
            is_good &= process.wait() == 0
            del running[name]
            if heard is not None:
                tell(name, seconds, heard)
    return is_good


def tell(name: str, seconds: float, heard: IO[bytes]) -> None:
    """What one of several said, and how long it took."""
    heard.seek(0)
    sys.stdout.write(heard.read().decode(errors="replace"))
    heard.close()
    print(f"--- {name} was over after {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
