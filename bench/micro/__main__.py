"""Every micro-benchmark in one go: `python -m bench.micro [--write]`.

Each runs in a process of its own, pinned to the last CPU where the machine lets us, so that one
does not warm another's caches. `--write` keeps what they print, with the machine, the versions, the
commit and the command, in bench/FIGURES.md; figures are never typed by hand.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHES = ("pipeline", "echo_chain", "carriers", "audio", "dialog", "speech", "collector")
LIBRARIES = ("aiohttp", "msgspec", "numpy", "uvloop")


def main() -> int:
    """Run them, print what they say, and keep it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the figures in bench/FIGURES.md")
    write = parser.parse_args().write
    page = [heading()]
    for name in BENCHES:
        print(f"--- {name}", flush=True)
        command = [sys.executable, "-m", f"bench.micro.{name}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        print(done.stdout or done.stderr, flush=True)
        if done.returncode:
            return done.returncode
        page.append(f"## python -m bench.micro.{name}\n\n```\n{done.stdout.strip()}\n```\n")
    if write:
        (ROOT / "bench" / "FIGURES.md").write_text("\n".join(page))
    return 0


def heading() -> str:
    """What was measured where."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[-1]})
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        "# Figures\n\n"
        "Written by `python -m bench.micro --write`; not typed.\n\n"
        f"- commit {commit}, {datetime.now(UTC):%Y-%m-%d}\n"
        f"- {cpu_name()}, {len(cpus)} CPUs, pinned to one; load {os.getloadavg()[0]:.1f}\n"
        f"- Python {platform.python_version()}, {libraries}\n"
    )


def cpu_name() -> str:
    """What the kernel calls the CPU."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
