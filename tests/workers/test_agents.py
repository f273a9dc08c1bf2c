"""The worker's agents: files by name, the built-in echo, and errors before anybody calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowcatd.errors import ConfigError
from workers.agents import load_agents

SHIPPED = Path(__file__).parents[2] / "conf" / "agents"


def test_the_shipped_agents_load_and_each_call_gets_its_own_brain() -> None:
    """Two calls of one agent share nothing that either can change."""
    agents = load_agents(SHIPPED, "appointment")
    make_brain = agents["appointment"].make_brain
    assert make_brain is not None
    first, second = make_brain({}), make_brain({})
    first.started(0.0)
    assert first.actions()
    assert second.actions() == []
    assert agents["echo"].make_brain is None


def test_a_missing_default_names_the_nearest(tmp_path: Path) -> None:
    """A worker without its default agent does not serve."""
    with pytest.raises(ConfigError, match="did you mean 'echo'"):
        load_agents(tmp_path, "ecko")


def test_a_broken_file_names_itself(tmp_path: Path) -> None:
    """File and line, before the first call."""
    (tmp_path / "bad.yaml").write_text("name: bad\ninitial_state: nowhere\nstates: {}\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_agents(tmp_path, "echo")
