"""Fixtures of the supervisor's tests."""

from __future__ import annotations

import os
import signal

import pytest

from tests.supervisor.toys import Toy


@pytest.fixture
def toy(tmp_path):
    """Starts toy supervisors, and ends by pid what a failed test left."""
    made = []

    def start(kind, *overrides, **environ):
        made.append(Toy(tmp_path, kind, *overrides, **environ))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            for pid in [*one.pids(), one.process.pid]:
                os.kill(pid, signal.SIGKILL)
            one.process.communicate()
