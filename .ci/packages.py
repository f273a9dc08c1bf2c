#!/usr/bin/env python3
# ruff: noqa: T201, S603 - a script, for a terminal; runs apt-get with fixed words
"""Debian packages that some tests want: installed when we may, otherwise what will be skipped is said.

Voices of the synthesisers and recordings of human speech come from Debian's own archive. Only root on
a Debian-like system installs anything, and within bounded time; a failure here skips tests, it does
not fail them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = {
    "flite": (
        lambda: shutil.which("flite"),
        "tests of the flite voices, and of what callers say in them",
    ),
    "espeak-ng": (lambda: shutil.which("espeak-ng"), "tests of Debian's espeak-ng voice"),
    "faketime": (
        lambda: any(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")),
        "tests of a wall clock that jumps",
    ),
    "sip-tester": (lambda: shutil.which("sipp"), "tests of the SIP port against SIPp"),
    "baresip-core": (lambda: shutil.which("baresip"), "tests of calls with baresip"),
    "linphone-cli": (lambda: shutil.which("linphonec"), "tests of calls with linphone"),
    "kamailio": (
        lambda: shutil.which("kamailio", path="/usr/sbin:/usr/bin"),
        "tests of trunks that register at Kamailio, and of pyVoIP's calls through it",
    ),
    "sox": (lambda: shutil.which("sox"), "tests that judge audio by another program"),
    "libopus0": (
        lambda: any(Path("/usr/lib").glob("*/libopus.so.0")),
        "tests of the Opus codec",
    ),
    "multimon-ng": (
        lambda: shutil.which("multimon-ng"),
        "tests of keypad tones by another program",
    ),
    "pocketsphinx-testdata": (
        lambda: Path("/usr/share/pocketsphinx/test/data").is_dir(),
        "tests of recognition on human speech",
    ),
}
"""Package to whether it is here, and what is skipped without it."""
PATIENCE_SECONDS = 180


def main() -> int:
    """Install what is missing, where that is ours to do."""
    missing = [name for name, (is_here, _) in PACKAGES.items() if not is_here()]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"packages: installing {' '.join(missing)}", flush=True)
        install(missing)
        missing = [name for name, (is_here, _) in PACKAGES.items() if not is_here()]
    for name in missing:
        print(f"packages: without Debian's {name} these are skipped: {PACKAGES[name][1]}")
    return 0


def install(names: "list[str]") -> None:
    """By apt-get, which may fail."""
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    word = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=30", "-o", "Acquire::Retries=1"]
    for words in ([*word, "update"], [*word, "install", "--no-install-recommends", "-y", *names]):
        try:
            done = subprocess.run(
                words,
                env=environ,
                stdout=subprocess.DEVNULL,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"packages: {error}")
            return
        if done.returncode:
            print(f"packages: {' '.join(words)} failed")
            return


if __name__ == "__main__":
    sys.exit(main())
