"""The agents this worker can run: dialog files by name, and the echo that is built in.

Files are read and checked once, when the worker starts; a wrong one keeps the worker from serving,
so that nobody's call finds out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flowcatd.agent.brain import Brain
from flowcatd.agent.dialog import DialogBrain
from flowcatd.agent.dialog_file import load_dialog
from flowcatd.errors import ConfigError, nearest

ECHO = "echo"
"""The agent without a brain: what it hears comes back."""


@dataclass(frozen=True, slots=True)
class Agent:
    """Somebody who can answer a call."""

    name: str
    make_brain: Callable[[dict[str, str]], Brain] | None
    """A new brain for a call, given its session values; None is the echo."""
    voice: str = ""
    """The voice the agent asks for; empty takes the configured one."""


def load_agents(directory: Path, default: str) -> dict[str, Agent]:
    """Every agent file of the directory; ConfigError when one is wrong or the default is missing."""
    agents = {ECHO: Agent(ECHO, None)}
    for path in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
        agent = _load(path)
        agents[path.stem] = agent
    if default not in agents:
        problem = f"there is no agent '{default}' in {directory}{nearest(default, agents)}"
        raise ConfigError("agents", problem, key="agents.default")
    return agents


def _load(path: Path) -> Agent:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read: {error}") from error
    dialog = load_dialog(text, str(path))

    def make_brain(session: dict[str, str]) -> Brain:
        return DialogBrain(dialog, session)

    return Agent(path.stem, make_brain, dialog.voice)
