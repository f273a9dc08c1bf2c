"""A real supervisor with toy workers, for the tests beside it: `python toy_daemon.py KIND [key=value …]`.

Real forks, signals, pipes and exit codes; only what a worker does is chosen by KIND:

    good     serves, ends well when told to or when the supervisor is gone
    stuck    serves, and its media timer does not ring
    second   good as the first process of a slot, and fails to start as its successor
    deaf     serves, and ignores both orders
    silent   never says that it serves
    config   raises ConfigError     raise    raises something else     interrupt   is killed by SIGINT
    halting  slot 1 serves once, and fails to start from then on
    older    good, and does not listen to SIGHUP, as workers of a former version
    late     good; the second process of slot 0 serves only when a file `go` is there
    silenced good, and whoever reads standard output goes away before it serves
    twice    exits with code 3, but is good from the third fork on
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from flowcatd import log
from flowcatd.errors import ConfigError
from supervisor.config import Config, open_config, with_trunks
from supervisor.daemon import Daemon
from supervisor.exchange import Exchange
from supervisor.holdings import take
from supervisor.main import say
from supervisor.process import now
from supervisor.program import Program
from supervisor.reload import read_again
from workers.load import Standing
from workers.plan import READY_MARK, ExitCode, WorkerPlan
from workers.trunks import read_trunks


def work(kind: str, plan: WorkerPlan) -> int:
    """A worker's life."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    heard = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2}
    if kind not in {"late", "older"}:
        heard.add(signal.SIGHUP)
    for number in heard:
        signal.signal(number, lambda *_: None)
    note_trunks(plan, "plan", plan.trunks)
    start = _STARTS.get(kind)
    if start is not None and (code := start()):
        return code
    if code := begin(kind, plan):
        return code
    while True:
        due, _, _ = select.select([wake_read, plan.alive_fd], [], [])
        if plan.alive_fd in due:
            Path("orphaned").write_text(str(plan.slot))
            return ExitCode.PARENT_GONE
        numbers = os.read(wake_read, 64)
        if signal.SIGHUP in numbers:
            note_trunks(plan, "told", read_trunks(plan.trunks_directory))
        if kind != "deaf" and set(numbers) - {signal.SIGUSR2, signal.SIGHUP}:
            return ExitCode.OK


def begin(kind: str, plan: WorkerPlan) -> int:
    """A start as its kind has it; the code to end with, or 0 for serving."""
    if kind == "halting" and plan.slot == 1 and _is_second():
        return 3
    if kind == "second" and plan.generation > 1:
        return ExitCode.CONFIG
    if kind == "stuck":
        plan.load.row(plan.seat).standing(Standing.SERVING)
    if kind == "late":
        wait_for_go(plan.slot)
        signal.signal(signal.SIGHUP, lambda *_: None)
    if kind != "silent":
        os.write(plan.ready_fd, READY_MARK)
    return 0


def note_trunks(plan: WorkerPlan, how: str, trunks: Iterable[str]) -> None:
    """One line for each time that a worker learns of trunks; it has a call over each from then on."""
    counts = plan.trunk_counts.of(plan.seat)
    line = {
        "slot": plan.slot,
        "pid": os.getpid(),
        "how": how,
        "trunks": sorted(trunks),
        "calls": {name: counts.add(name, inbound=True, change=1) for name in trunks},
    }
    with Path("trunks.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def wait_for_go(slot: int) -> None:
    """Serve late, if this is the second process of slot 0."""
    if slot or not _is_second():
        return
    while not Path("go").exists():
        time.sleep(0.01)


def _is_second() -> bool:
    seen = Path("served")
    was_there = seen.exists()
    seen.touch()
    return was_there


def _be_wrong() -> int:
    raise ConfigError("toy.toml:1", "is wrong", key="toy.key")


def _raise() -> int:
    raise RuntimeError("toy")


def _be_interrupted() -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    return 0


def _fail_twice() -> int:
    forks = len(list(Path().glob("fork*")))
    Path(f"fork{forks}").touch()
    return 3 if forks < 2 else 0


_STARTS = {
    "config": _be_wrong,
    "raise": _raise,
    "interrupt": _be_interrupted,
    "twice": _fail_twice,
}


def say_ready(config: Config, workers: int, seconds: float) -> None:
    """One line for the test."""
    ready = {"event": "ready", "port": config.options.server.port, "workers": workers}
    say(json.dumps(ready | {"seconds": seconds}) + "\n")


def prepare(_config: Config) -> dict[str, object]:
    """One line each time that agents are read."""
    with Path("prepared").open("a") as file:
        file.write("1\n")
    return {}


def silence() -> None:
    """From now on standard output is a pipe that nobody reads."""
    read, write = os.pipe()
    os.dup2(write, 1)
    os.close(read)
    os.close(write)


def board(supervisor_fd: int, ready_fd: int, _alive_fd: int) -> int:
    """A switchboard without sockets: what it is told it writes to a file, what it reads there it asks."""
    os.write(ready_fd, READY_MARK)
    line = socket.socket(fileno=supervisor_fd)
    for ask in sorted(Path().glob("ask*.json")):
        line.send(ask.read_bytes())
    with Path("told.jsonl").open("ab") as told:
        while data := line.recv(1 << 20):
            told.write(data + b"\n")
            told.flush()
            for ask in sorted(Path().glob("ask*.json")):
                line.send(ask.read_bytes())
                ask.unlink()
    return 0


def main() -> int:
    """Serve as `flowcatd serve` does."""
    kind, *overrides = sys.argv[1:]
    if kind == "silenced":
        silence()
    file = Path("toy.toml") if Path("toy.toml").exists() else None
    runtime = tempfile.mkdtemp(prefix="fc-", dir="/tmp")
    overrides = [
        *(
            "server.port=0",
            "metrics.port=0",
            "sip.port=0",
            "workers.count=2",
            "agents.default=echo",
        ),
        *(f"control.directory={runtime}", *overrides),
    ]
    config = with_trunks(open_config(file, overrides))
    log.configure(config.options.log, slot=None)
    holdings = take(config.options)
    program = Program(
        work=lambda plan: work(kind, plan),
        prepare=prepare,
        read_again=partial(read_again, file, overrides),
        words=(),
        begun=now(),
        say_ready=say_ready,
    )
    try:
        return Daemon(config, holdings, Exchange(holdings.children, board, ()), program).run()
    finally:
        holdings.close()
        shutil.rmtree(runtime)


if __name__ == "__main__":
    sys.exit(main())
