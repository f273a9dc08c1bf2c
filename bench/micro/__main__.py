"""Every micro-benchmark in one go: `python -m bench.micro [--write]`.

Each runs in a process of its own, pinned to the last CPU where the machine lets us, so that one
does not warm another's caches. `--write` keeps what they print in bench/FIGURES.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from bench.figures import ROOT, heading, section, write

BENCHES = (
    *("pipeline", "echo_chain", "carriers", "audio", "dialog", "speech", "collector"),
    *("rtp", "codec", "pacer", "sip_leg"),
)
COMMAND = "bench.micro"


def main() -> int:
    """Run them, print what they say, and keep it if asked to."""
    parser = argparse.ArgumentParser(prog=f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the figures in bench/FIGURES.md")
    is_kept = parser.parse_args().write
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[-1]})
    page = [heading(COMMAND, f"{len(cpus)} CPUs, pinned to one")]
    for name in BENCHES:
        print(f"--- {name}", flush=True)
        command = [sys.executable, "-m", f"{COMMAND}.{name}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        print(done.stdout or done.stderr, flush=True)
        if done.returncode:
            return done.returncode
        page.append(section(f"{COMMAND}.{name}", done.stdout))
    if is_kept:
        write(COMMAND, page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
