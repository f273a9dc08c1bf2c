"""What one worker is to run, and how it says why it ended: the contract with the supervisor.

The supervisor forks; the child imports `workers.main` and calls `run(plan) -> int`, whose result is
the process's exit code. The child then

* accepts from `door_fd`, its slot's own listening socket in the SO_REUSEPORT group (made by the
  supervisor, which keeps a copy: connections wait in it while one process follows another);
* writes `READY_MARK` to `ready_fd` and closes it once it serves;
* sits in `seat`: row of the load table, and name of its sockets in the runtime directory;
* lets its media timer tick in that row; who does not tick for workers.hung_seconds is killed;
* watches `alive_fd`: end of file means that the supervisor is gone. It then drains by itself and
  ends with PARENT_GONE;
* on SIGUSR1 retires (no new calls; live ones finish within workers.retire_seconds), on SIGTERM
  drains (the same within calls.drain_seconds; what is left hears calls.goodbye), on SIGINT ends all
  calls within calls.end_seconds. Each may come twice, and a later one may be more urgent;
* on SIGHUP reads the trunks again, once it serves (before, nobody sends it one);
* on SIGUSR2 writes the traceback of every thread to standard error, whatever it is stuck in.

Standard input is /dev/null, and the worker is its own process group, so that a terminal's Ctrl-C
reaches the supervisor alone, which then decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from flowcatd.options import Options
from flowcatd.sip.trunk import Trunk
from workers.load import LoadTable
from workers.trunk_counts import TrunkCounts

READY_MARK = b"R"
MEDIA_PATH = "/telephony/ws/{provider}/{run_id}"
"""Where a carrier's media socket connects; `?agent=` names another agent than the default."""

DIAL_PATH = "/v1/calls"
"""Where a call of ours is asked for, by POST."""

RUN_ID_LIMIT = 128
"""Characters; a run id is a key of somebody's database, not a document."""


def hand_over_path(runtime: Path, seat: int) -> Path:
    """Where the process in this seat takes connections from its fellows."""
    return runtime / f"seat-{seat}.sock"


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
    seat: int
    """Its row in the load table; no two living processes have the same."""
    generation: int
    """Which configuration this is: 1 is the one the daemon started with."""
    load: LoadTable
    """The shared table."""
    cpu: int | None
    """The CPU it is pinned to, or None."""
    options: Options
    port: int
    """The reserved port: options.server.port, or what port 0 became."""
    door_fd: int
    """The slot's listening socket."""
    sip_doors: Mapping[str, int]
    """The slot's SIP sockets by name: udp, tcp, tls over IPv4, and udp6, tcp6, tls6."""
    ready_fd: int
    """Where to write READY_MARK."""
    alive_fd: int
    """Ends when the supervisor does."""
    runtime_directory: Path
    """Where the sockets between processes are."""
    agents: Mapping[str, Any]
    """Name to workers.agents.Agent, read before the fork."""
    records_directory: Path
    providers_directory: Path
    """Where an operator's own provider rows (*.toml) are; it need not exist."""
    trunk_counts: TrunkCounts = field(default_factory=TrunkCounts.alone)
    """Live calls per trunk, of all processes: shared memory like `load`."""
    trunks: Mapping[str, Trunk] = field(default_factory=dict)
    """Name to trunk, read before the fork; SIGHUP means that they are to be read again."""
    trunks_directory: Path = Path("trunks.d")
    """Where they are read from."""
    config_directory: Path = Path()
    """Where relative paths of the settings start."""
