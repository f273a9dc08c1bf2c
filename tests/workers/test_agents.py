"""The worker's agents: files by name, the built-in echo, and errors before anybody calls."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from flowcatd.agent.brain import Say
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


@pytest.mark.parametrize("snapshot", [b"", b"null", b"[1]", b'{"state": 7}'])
def test_a_snapshot_that_cannot_be_read_begins_anew_and_says_why(snapshot: bytes) -> None:
    """The record is told; the caller hears the first prompt."""
    restore = load_agents(SHIPPED, "appointment")["appointment"].restore_brain
    assert restore is not None
    restored = restore(snapshot, {}, 7.0)
    restored.brain.resumed(7.0)
    assert restored.problem
    assert [action for action in restored.brain.actions() if isinstance(action, Say)]


def test_an_agent_whose_file_has_changed_keeps_what_was_collected() -> None:
    """The state is gone: it begins again, with the variables, and the record says so."""
    agent = load_agents(SHIPPED, "appointment")["appointment"]
    assert agent.make_brain is not None
    assert agent.restore_brain is not None
    brain = agent.make_brain({})
    brain.started(0.0)
    brain.actions()
    kept = msgspec.to_builtins(brain.snapshot(0.0))
    same = agent.restore_brain(msgspec.json.encode(kept), {}, 7.0)
    assert same.problem == ""
    kept["state"], kept["variables"]["day"] = "gone", "monday"
    changed = agent.restore_brain(msgspec.json.encode(kept), {}, 7.0)
    assert "changed" in changed.problem
    assert changed.brain.variables()["day"] == "monday"
