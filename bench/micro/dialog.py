"""How many transitions a second does the dialog machine make? `python -m bench.micro.dialog`.

One process, one call at a time, every action drained as a driver does. Four kinds of turn: a key
in a menu, a phrase with slots, a condition of voicetyped's files, and whole calls of the shipped
appointment agent from greeting to goodbye. Each figure is the best of five rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from flowcatd.agent.brain import Moved
from flowcatd.agent.dialog import DialogBrain
from flowcatd.agent.dialog_file import load_dialog

TURNS = 20_000
APPOINTMENT = Path(__file__).parents[2] / "conf" / "agents" / "appointment.yaml"
PING_PONG = """
name: ping-pong
initial_state: ping
vocabulary:
  day: {Monday: monday, Tuesday: tuesday, Wednesday: wednesday}
states:
  ping: &menu
    on_enter: [{type: play_tts, params: {text: "Ping, and what now?"}}]
    transitions:
      - {digits: "1", target: pong}
      - {event: speech, hears: ["[on] <day> [please]"], target: pong}
      - {event: speech, condition: '{{ eq .Event "go on" }}', target: pong}
    timeout: 5s
    timeout_next: end
  pong:
    <<: *menu
    transitions:
      - {digits: "1", target: ping}
      - {event: speech, hears: ["[on] <day> [please]"], target: ping}
      - {event: speech, condition: '{{ eq .Event "go on" }}', target: ping}
  end: {terminal: true}
"""


def main() -> None:
    """Print a line per kind of turn."""
    brain = DialogBrain(load_dialog(PING_PONG, "ping-pong"))
    brain.started(0.0)
    _report("key in a menu", lambda: _turns(brain, lambda: brain.digit("1", 1.0)))
    _report(
        "phrase with a slot", lambda: _turns(brain, lambda: brain.heard("on tuesday please", 1.0))
    )
    _report("condition", lambda: _turns(brain, lambda: brain.heard("go on", 1.0)))
    dialog = load_dialog(APPOINTMENT.read_text(), APPOINTMENT.name)
    _report(
        "whole appointment calls", lambda: sum(_call(DialogBrain(dialog)) for _ in range(2_000))
    )
    start = time.perf_counter()
    for _ in range(5):
        load_dialog(APPOINTMENT.read_text(), APPOINTMENT.name)
    print(f"{'loading appointment.yaml':<26}{(time.perf_counter() - start) * 200:8.1f} ms")


def _turns(brain: DialogBrain, turn: Callable[[], None]) -> int:
    for _ in range(TURNS):
        turn()
        brain.actions()
        brain.spoken(2.0)
    return TURNS


def _call(brain: DialogBrain) -> int:
    moved = 0
    brain.started(0.0)
    for text in ("tuesday at nine please", "no thursday", "no", "make it friday", "yes please"):
        moved += sum(isinstance(action, Moved) for action in brain.actions())
        brain.spoken(1.0)
        brain.speaking(1.5)
        brain.heard(text, 2.0)
    return moved + sum(isinstance(action, Moved) for action in brain.actions())


def _report(name: str, work: Callable[[], int]) -> None:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        done = work()
        best = min(best, (time.perf_counter() - start) / done)
    print(f"{name:<26}{1 / best:12,.0f} transitions/s {best * 1e6:6.2f} us each")


if __name__ == "__main__":
    main()
