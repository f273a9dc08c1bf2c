"""What one worker is to run, and how it says why it ended: the contract with the supervisor.

The supervisor forks; the child imports `workers.main` and calls `run(plan) -> int`, whose result is
the process's exit code. The child then

* binds `options.server.host`, `plan.port` with SO_REUSEPORT *and* SO_REUSEADDR (the port was
  reserved by the supervisor, so binding can fail only by a change of the machine);
* writes `READY_MARK` to `ready_fd` and closes it once it serves;
* watches `alive_fd`: end of file means that the supervisor is gone. It then drains by itself and
  ends with PARENT_GONE;
* drains on SIGTERM (no new calls; live ones finish within calls.drain_seconds) and ends all calls
  within calls.end_seconds on SIGINT. Both may come twice.

Standard input is /dev/null, and the worker is its own process group, so that a terminal's Ctrl-C
reaches the supervisor alone, which then decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from flowcatd.options import Options

READY_MARK = b"R"
MEDIA_PATH = "/telephony/ws/{provider}/{run_id}"
"""Where a carrier's media socket connects; `?agent=` names another agent than the default."""


class ExitCode(IntEnum):
    """Why a process of ours ended; the numbers are sysexits.h's where it has the meaning."""

    OK = 0
    """Everything asked for was done."""
    CRASHED = 1
    """Something raised that nothing expected; also what Python itself ends with."""
    BIND = 71
    """The address cannot be listened on (EX_OSERR): trying again at once would not help."""
    PARENT_GONE = 75
    """The supervisor vanished (EX_TEMPFAIL); the calls were drained."""
    CONFIG = 78
    """A setting, an agent or a provider row is wrong (EX_CONFIG)."""


POINTLESS = frozenset({ExitCode.BIND, ExitCode.CONFIG})
"""The codes after which the same worker would end the same way."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """One worker's orders."""

    slot: int
    """Which of the fleet's places it fills, from 0; a successor has the same."""
    cpu: int | None
    """The CPU it is pinned to, or None."""
    options: Options
    port: int
    """The reserved port: options.server.port, or what port 0 became."""
    ready_fd: int
    """Where to write READY_MARK."""
    alive_fd: int
    """Ends when the supervisor does."""
    config_where: str
    """The configuration's name for error messages."""
    agents_directory: Path
    records_directory: Path
    providers_directory: Path
    """Where an operator's own provider rows (*.toml) are; it need not exist."""
