"""What the fleet is told, and what it orders: the values that go in and out of `fleet.py`.

Events are what happened, or what the operator wants; whoever holds the processes feeds them to
`Fleet.receive`. Actions come back and are carried out in order: some are to be done (`Fork`,
`Signal`, `OpenDoor`, `CloseDoor`), the others only to be told (to the log, the operator, systemd).
A slot is a place in the fleet, from 0; a generation is which configuration a worker runs.

Nothing here decides or does anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from flowcatd.options import Options

# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forked:
    """A Fork was done."""

    slot: int
    pid: int


@dataclass(frozen=True, slots=True)
class ForkFailed:
    """A Fork was not possible: no memory, no process, no seat left."""

    slot: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker serves."""

    pid: int


@dataclass(frozen=True, slots=True)
class Hung:
    """A worker's media timer has not rung for workers.hung_seconds; may be said again and again."""

    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A process is gone: by `code`, or by `signal` when that is not 0."""

    pid: int
    code: int
    signal: int = 0


class Asked(Enum):
    """What the operator, or systemd, wants."""

    DRAIN = auto()
    """No new calls; live ones finish."""
    STOP = auto()
    """End now; asked again, at once."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Replace all workers, one by one; the configuration was found good. `Reloaded` follows."""

    generation: int
    """Of the new configuration; never used before."""
    options: Options


@dataclass(frozen=True, slots=True)
class Resize:
    """Have this many workers. `Resized` follows."""

    slots: int


@dataclass(frozen=True, slots=True)
class ReadTrunks:
    """Whoever has calls, or takes them, is to read the trunks again; who starts, once it serves."""


Event = Forked | ForkFailed | Ready | Hung | Exited | Asked | Reload | Resize | ReadTrunks


# --- actions: to be done -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fork:
    """Start a worker for this slot with this configuration; `Forked` or `ForkFailed` must follow."""

    slot: int
    generation: int = 1


@dataclass(frozen=True, slots=True)
class Signal:
    """Send this signal."""

    pid: int
    number: int


@dataclass(frozen=True, slots=True)
class OpenDoor:
    """From now on the slot is to be given new connections; a Fork follows."""

    slot: int


@dataclass(frozen=True, slots=True)
class CloseDoor:
    """From now on the slot is to be given no new connections; what waits there is still taken."""

    slot: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Nobody is left: end with this code."""

    code: int


# --- actions: to be told -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """A worker serves, `seconds` after its fork."""

    slot: int
    pid: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Serving:
    """For the first time every worker serves."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone unasked; its successor comes in `again_seconds`. Without pid: no fork."""

    slot: int
    pid: int
    how: str
    again_seconds: float


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker is gone otherwise than it was asked to, and is not replaced: nobody needs it."""

    slot: int
    pid: int
    how: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """A worker is gone, as asked."""

    slot: int
    pid: int
    how: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A reload came one step further."""

    text: str


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A reload is over: an empty `problem` is good, any other says why it was refused or aborted."""

    generation: int
    """The one that was asked for."""
    problem: str


@dataclass(frozen=True, slots=True)
class Resized:
    """A resize is over: an empty `problem` is good, any other says what is wrong with it."""

    slots: int
    """The number that was asked for."""
    problem: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No more attempts; Finished with `code` follows when all are gone."""

    reason: str
    code: int


Action = (
    Fork
    | Signal
    | OpenDoor
    | CloseDoor
    | Finished
    | Started
    | Serving
    | Lost
    | Gone
    | Stopped
    | Progress
    | Reloaded
    | Resized
    | GiveUp
)
