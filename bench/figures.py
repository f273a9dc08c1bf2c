"""bench/FIGURES.md: what benches print, with the machine, the versions, the commit and the command.

The page has parts, one per command that writes one (`python -m bench.micro --write`,
`python -m bench.fleet --write`); writing a part leaves the others as they are. Figures are never typed.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "bench" / "FIGURES.md"
TITLE = "# Figures"
LIBRARIES = ("aiohttp", "msgspec", "numpy", "uvloop")


def heading(command: str, cpus: str) -> str:
    """The first lines of a part: what was measured where; `cpus` says how many were used, and how."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"{TITLE}: {command}\n\n"
        f"Written by `python -m {command} --write`; not typed.\n\n"
        f"- commit {described.stdout.strip()}, {datetime.now(UTC):%Y-%m-%d}\n"
        f"- {cpu_name()}, {cpus}; load {os.getloadavg()[0]:.1f}\n"
        f"- Python {platform.python_version()}, {libraries}\n"
    )


def section(command: str, printed: str) -> str:
    """One bench and what it printed."""
    return f"## python -m {command}\n\n```\n{printed.strip()}\n```\n"


def write(command: str, sections: Sequence[str], page: Path = PAGE) -> None:
    """Put the part of this command into the page; `sections` begin with its heading."""
    parts = parts_of(page.read_text(encoding="utf-8") if page.exists() else "")
    parts[command] = "\n".join(sections)
    page.write_text(
        "\n".join(part.rstrip() + "\n" for _, part in sorted(parts.items(), reverse=True))
    )


def parts_of(text: str) -> dict[str, str]:
    """The parts of a page by the command that wrote each."""
    parts: dict[str, str] = {}
    for part in f"\n{text}".split(f"\n{TITLE}: ")[1:]:
        parts[part.split("\n", 1)[0].strip()] = f"{TITLE}: {part}"
    return parts


def cpu_name() -> str:
    """What the kernel calls the CPU."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
