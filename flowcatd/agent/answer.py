"""What a hook asks for in its answer: actions, checked like those of a file.

An answer comes from the customer's backend, so its texts are taken as they are, never as templates;
an action that is not known, or lacks what it needs, is left out, as is what stands beyond sixteen.
"""

from __future__ import annotations

from collections.abc import Mapping

from flowcatd.agent.functions import text_of
from flowcatd.agent.script import NEEDED, Kind, Step
from flowcatd.agent.template import Template

MAX_STEPS = 16
"""Actions in one answer."""


def steps_of(actions: object) -> list[Step]:
    """Give the actions of an answer's `actions` list."""
    listed = actions[:MAX_STEPS] if isinstance(actions, list) else []
    return [step for item in listed if (step := _maybe_step(item)) is not None]


def _maybe_step(item: object) -> Step | None:
    if not isinstance(item, Mapping) or item.get("type") not in list(Kind):
        return None
    kind, given = Kind(item["type"]), item.get("params")
    params = {
        str(name): Template(text, (text,))
        for name, value in (given.items() if isinstance(given, Mapping) else ())
        if (text := text_of(value))
    }
    return Step(kind, params, 0) if all(name in params for name in NEEDED.get(kind, ())) else None
