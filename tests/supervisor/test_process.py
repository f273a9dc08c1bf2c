"""Facts about what happens before the fork, and about the supervisor's clock.

What forks, signals and reaping do is shown by real daemons in test_main.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from supervisor.process import age, now

ROOT = Path(__file__).parents[2]


def test_preloading_starts_nothing():
    """One thread, no loop, no numpy (whose library starts threads), and frozen objects to share."""
    code = (
        "import gc, os, sys\n"
        "from supervisor.process import preload\n"
        "preload()\n"
        "print(len(os.listdir('/proc/self/task')), gc.get_freeze_count() > 10_000,"
        " *sorted(set(sys.modules) & {'asyncio', 'numpy', 'aiohttp', 'zmq', 'uvloop'}))\n"
        "print(all(name in sys.modules for name in"
        " ('flowcatd.carriers.json_media', 'flowcatd.agent.dialog', 'flowcatd.frames')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "1 True\nTrue\n"


def test_the_age_is_that_of_the_process():
    """It grows with the clock, and this process is older than a moment and younger than a day."""
    first, at = age(), now()
    assert 0.05 < first < 86_400
    assert abs((age() - first) - (now() - at)) < 0.05
