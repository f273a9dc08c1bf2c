"""A worker that cannot serve says why in one line, and with the exit code that fits."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
from pathlib import Path
from flowcatd.options import Agents, Log, Options, Speech
from workers.main import run
from workers.plan import WorkerPlan
alive, _ours = os.pipe()
_theirs, ready = os.pipe()
options = Options(
    agents=Agents(default={agent!r}), speech=Speech(hearing="none", voice="none"),
    log=Log(format="json"),
)
agents = Path("conf/agents")
plan = WorkerPlan(0, None, options, {port}, ready, alive, "test", agents, agents, agents)
sys.exit(run(plan))
"""


@pytest.mark.parametrize(
    ("agent", "code", "why"),
    [("echo", 71, "cannot listen on 127.0.0.1:"), ("ecko", 78, "did you mean 'echo'")],
)
def test_a_worker_that_cannot_serve_says_why(agent: str, code: int, why: str) -> None:
    """A port that somebody else took meanwhile, and an agent that there is not."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        program = PROGRAM.format(agent=agent, port=taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == code, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) == 1
    assert why in lines[0]["why"]
