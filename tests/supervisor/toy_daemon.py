"""A real supervisor with toy workers, for the tests beside it: `python toy_daemon.py KIND [key=value …]`.

Real forks, signals, pipes and exit codes; only what a worker does is chosen by KIND:

    good     serves, ends well when told to or when the supervisor is gone
    deaf     serves, and ignores both orders
    silent   never says that it serves
    config   raises ConfigError     raise    raises something else     interrupt   is killed by SIGINT
    twice    exits with code 3, but is good from the third fork on
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

from flowcatd import log
from flowcatd.errors import ConfigError
from supervisor.config import open_config
from supervisor.main import Daemon
from supervisor.process import Children, now
from supervisor.reserve import reserve
from workers.plan import READY_MARK, ExitCode, WorkerPlan


def work(kind: str, plan: WorkerPlan) -> int:
    """A worker's life."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    start = _STARTS.get(kind)
    if start is not None and (code := start()):
        return code
    if kind != "silent":
        os.write(plan.ready_fd, READY_MARK)
    while True:
        due, _, _ = select.select([wake_read, plan.alive_fd], [], [])
        if plan.alive_fd in due:
            Path("orphaned").write_text(str(plan.slot))
            return ExitCode.PARENT_GONE
        os.read(wake_read, 64)
        if kind != "deaf":
            return ExitCode.OK


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


def main() -> int:
    """Serve as `flowcatd serve` does."""
    kind, *overrides = sys.argv[1:]
    config = open_config(None, ["server.port=0", "workers.count=2", *overrides])
    log.configure(config.options.log, slot=None)
    reservation = reserve(config.options.server.host, config.options.server.port)
    daemon = Daemon(
        config, reservation, Children(), lambda plan: work(kind, plan), begun=now(), as_json=True
    )
    return daemon.run()


if __name__ == "__main__":
    sys.exit(main())
