"""A worker that cannot serve says why in one line, and with the exit code that fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowcatd.links.open import available_engines

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, socket, sys
from pathlib import Path
from flowcatd.options import Log, Options, Speech
from workers.agents import load_agents
from workers.load import LoadTable, WORDS
from workers.main import run
from workers.plan import WorkerPlan
alive, ours = os.pipe()
if {orphan!r}:
    os.close(ours)
_theirs, ready = os.pipe()
door = socket.create_server(("127.0.0.1", 0))
options = Options(speech=Speech(hearing={hearing!r}, voice="none"), log=Log(format="json"))
here = Path({here!r})
sys.exit(run(WorkerPlan(
    slot=0, seat=0, generation=1, load=LoadTable([0] * WORDS), cpu=None, options=options, port=1,
    door_fd=door.fileno(), sip_doors={{}}, ready_fd=ready, alive_fd=alive,
    runtime_directory=here / {runtime!r}, agents=load_agents(Path("conf/agents"), "echo"),
    records_directory=here, providers_directory=here,
)))
"""


def live(tmp_path: Path, **chosen: object) -> subprocess.CompletedProcess[str]:
    """A worker's whole life."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(here=str(tmp_path), **chosen)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("hearing", "runtime", "code", "why"),
    [("none", "nowhere", 1, "No such file"), ("nobody", ".", 78, "nobody")],
)
def test_a_worker_that_cannot_serve_says_why(
    tmp_path: Path, hearing: str, runtime: str, code: int, why: str
) -> None:
    """Without its runtime directory it may be tried again; with a wrong setting it may not."""
    done = live(tmp_path, hearing=hearing, runtime=runtime, orphan=False)
    assert done.returncode == code, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["worker.failed"]
    assert why in lines[0]["why"]


@pytest.mark.skipif("pocketsphinx" not in available_engines(), reason="needs the `speech` extra")
def test_an_order_during_the_start_ends_it(tmp_path: Path) -> None:
    """Its speech helper is not up yet and its parent is gone: it never serves, and says whose end it is."""
    done = live(tmp_path, hearing="auto", runtime=".", orphan=True)
    assert done.returncode == 75, done.stderr
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events[0] == "worker.orphaned"
    assert "worker.started" not in events
    assert "worker.failed" not in events
