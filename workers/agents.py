"""The agents this worker can run: dialog files by name, and the echo that is built in.

Files are read and checked once, when the worker starts; a wrong one keeps the worker from serving,
so that nobody's call finds out.

An agent can also go on with a call of a worker that died (`restore_brain`), if need be by a file that
has changed since: what no longer fits is begun again, with what the caller had said kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flowcatd.agent.brain import Brain
from flowcatd.agent.dialog import DialogBrain
from flowcatd.agent.dialog_file import load_dialog
from flowcatd.agent.position import Snapshot
from flowcatd.agent.script import Dialog
from flowcatd.errors import ConfigError, LocalError, nearest

ECHO = "echo"
"""The agent without a brain: what it hears comes back."""


Session = dict[str, str]


@dataclass(frozen=True, slots=True)
class Restored:
    """A brain that has been in this call before; tell it `resumed`."""

    brain: Brain
    problem: str = ""
    """Why it has to begin again; empty when it need not."""


@dataclass(frozen=True, slots=True)
class Agent:
    """Somebody who can answer a call."""

    name: str
    make_brain: Callable[[Session], Brain] | None
    """A new brain for a call, given its session values; None is the echo."""
    voice: str = ""
    """The voice the agent asks for; empty takes the configured one."""
    restore_brain: Callable[[bytes, Session, float], Restored] | None = None
    """A brain from the JSON of its snapshot, session values and now; None where make_brain is."""


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

    def make_brain(session: Session) -> Brain:
        return DialogBrain(dialog, session)

    def restore_brain(snapshot: bytes, session: Session, now: float) -> Restored:
        return _restore(dialog, snapshot, session, now)

    return Agent(path.stem, make_brain, dialog.voice, restore_brain)


def _restore(dialog: Dialog, snapshot: bytes, session: Session, now: float) -> Restored:
    try:
        known = msgspec.json.decode(snapshot, type=Snapshot)
    except msgspec.MsgspecError:
        return Restored(DialogBrain(dialog, session), "its place in the dialog cannot be read")
    try:
        return Restored(DialogBrain.restore(dialog, known, now, session))
    except LocalError:
        brain = DialogBrain.anew(dialog, known.variables, session)
        return Restored(brain, "the dialog has changed: its place in it is no longer there")
