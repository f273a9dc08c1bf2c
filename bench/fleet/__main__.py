"""What the fleet promises, measured on real daemons: `python -m bench.fleet [--write]`; some ten minutes.

Memory of workers and idle calls, and two soaks of ten thousand calls. `--write` keeps what they print in
bench/FIGURES.md, kept promises or not; the exit status says whether all were.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from bench.figures import ROOT, heading, section, write

BENCHES = ("memory --check", "soak", "soak --kept")
COMMAND = "bench.fleet"


def main() -> int:
    """Run them, print what they say, and keep it if asked to."""
    parser = argparse.ArgumentParser(prog=f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the figures in bench/FIGURES.md")
    is_kept = parser.parse_args().write
    page = [heading(COMMAND, f"{len(os.sched_getaffinity(0))} CPUs")]
    failed = False
    for bench in BENCHES:
        print(f"--- {bench}", flush=True)
        command = [sys.executable, "-m", *f"{COMMAND}.{bench}".split()]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, flush=True)
        failed |= done.returncode != 0
        page.append(section(f"{COMMAND}.{bench}", done.stdout))
    if is_kept:
        write(COMMAND, page)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
