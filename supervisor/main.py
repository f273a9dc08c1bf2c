"""`flowcatd serve`: drain events, let the fleet decide, do it.

The supervisor reads and checks the configuration, takes the listening address, preloads what all
workers share, and then only waits: for signals, for workers, for the fleet's next wake, for
systemd's watchdog. It never touches a call. Should it die, its workers notice, drain and end.

    SIGINT   end now; once more: at once          SIGTERM  drain, then end
    SIGHUP   on a terminal as SIGINT (its window was closed), otherwise nothing yet
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import assert_never

from flowcatd import __version__
from flowcatd.carriers.catalogue import carrier_names
from flowcatd.environment import notify_socket, records_directory, wants_colour, watchdog_seconds
from flowcatd.errors import LinkRefused
from flowcatd.log import configure as configure_log
from flowcatd.log import get_logger
from supervisor.banner import Reached, render_json, render_text
from supervisor.check import check_files, print_problems
from supervisor.config import Config, add_config_arguments, open_config
from supervisor.fleet import (
    Action,
    Asked,
    Exited,
    Finished,
    Fleet,
    Fork,
    Forked,
    ForkFailed,
    GiveUp,
    Lost,
    Ready,
    Serving,
    Signal,
    Started,
    Stopped,
)
from supervisor.process import Children, Told, age, now, preload
from supervisor.reserve import Reservation, reserve
from supervisor.systemd import notify
from workers.plan import ExitCode, WorkerPlan

Work = Callable[[WorkerPlan], int]

log = get_logger()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `flowcatd serve`."""
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="say ready as one line of JSON")


def run(args: argparse.Namespace) -> int:
    """Serve until told to end; the result is the exit code."""
    begun = now() - age()
    config = open_config(args.config, args.overrides)
    configure_log(config.options.log, slot=None)
    if problems := check_files(config):
        print_problems(problems)
        return ExitCode.CONFIG
    server = config.options.server
    try:
        reservation = reserve(server.host, server.port)
    except LinkRefused as error:
        sys.stderr.write(f"flowcatd: {error}\n")
        return ExitCode.BIND
    preload()
    children = Children()
    try:
        return Daemon(config, reservation, children, _work, begun=begun, as_json=args.json).run()
    finally:
        children.close()
        reservation.close()


def _work(plan: WorkerPlan) -> int:
    # Only the child may import what owns loops and sockets.
    from workers.main import run as run_worker  # noqa: PLC0415

    return run_worker(plan)


class Daemon:
    """The loop around the fleet."""

    def __init__(
        self,
        config: Config,
        reservation: Reservation,
        children: Children,
        work: Work,
        *,
        begun: float,
        as_json: bool,
    ) -> None:
        """`work` is a worker's life in its child; `begun` is when the start began, as `now` tells."""
        self._work = work
        self._config = config
        self._reservation = reservation
        self._children = children
        self._begun = begun
        self._as_json = as_json
        self._cpus = sorted(os.sched_getaffinity(0))
        self._workers = config.options.workers.count or len(self._cpus)
        self._fleet = Fleet(self._workers, config.options, now())
        self._commands = {signal.SIGINT: Asked.STOP, signal.SIGTERM: Asked.DRAIN}
        if sys.stdin is not None and sys.stdin.isatty():
            self._commands[signal.SIGHUP] = Asked.STOP
        self._systemd = notify_socket()
        self._pulse = watchdog_seconds() / 2

    def run(self) -> int:
        """Until the last worker is gone; the result is the exit code."""
        self._fleet.wake(now())
        while True:
            while actions := self._fleet.actions():
                for action in actions:
                    self._act(action)
                    if isinstance(action, Finished):
                        return action.code
            for news in self._children.wait(self._patience()):
                self._tell(news)
            self._fleet.wake(now())
            if self._pulse:
                notify(self._systemd, "WATCHDOG=1")

    def _patience(self) -> float | None:
        """Seconds until there is something to do without being told."""
        due = self._fleet.wake_at()
        waits = [max(0.0, due - now())] if due is not None else []
        waits += [self._pulse] if self._pulse else []
        return min(waits, default=None)

    def _tell(self, news: Exited | Ready | Told) -> None:
        if not isinstance(news, Told):
            self._fleet.receive(news, now())
            return
        name = signal.Signals(news.number).name
        command = self._commands.get(signal.Signals(news.number))
        log.info("fleet.told", signal=name, command=command.name.lower() if command else "nothing")
        if command is not None:
            notify(self._systemd, "STOPPING=1", f"STATUS={command.name.lower()} since {name}")
            self._fleet.receive(command, now())

    def _act(self, action: Action) -> None:
        match action:
            case Fork(slot):
                self._fleet.receive(self._fork(slot), now())
            case Signal(pid, number):
                self._children.send(pid, number)
            case Started(slot, pid, seconds):
                log.debug("worker.counted", worker=slot, pid=pid, seconds=round(seconds, 3))
            case Serving():
                self._say_ready()
            case Lost(slot, pid, how, again):
                log.warning("worker.lost", worker=slot, pid=pid, how=how, again_seconds=again)
            case Stopped(slot, pid, how):
                log.info("worker.reaped", worker=slot, pid=pid, how=how)
            case GiveUp(reason, code):
                log.error("fleet.given_up", reason=reason, code=code)
                notify(self._systemd, "STOPPING=1", f"STATUS={reason}")
            case Finished(code):
                log.info("fleet.finished", code=code)
            case _:
                assert_never(action)

    def _fork(self, slot: int) -> Forked | ForkFailed:
        cpu = None
        if self._config.options.workers.pin_cpus:
            cpu = self._cpus[slot % len(self._cpus)]

        def live(ready_fd: int, alive_fd: int) -> int:
            self._reservation.close()
            return self._work(self._plan(slot, cpu, ready_fd, alive_fd))

        return self._children.fork(slot, live, cpu=cpu)

    def _plan(self, slot: int, cpu: int | None, ready_fd: int, alive_fd: int) -> WorkerPlan:
        return WorkerPlan(
            slot=slot,
            cpu=cpu,
            options=self._config.options,
            port=self._reservation.port,
            ready_fd=ready_fd,
            alive_fd=alive_fd,
            config_where=self._config.where,
            agents_directory=self._config.agents_directory,
            records_directory=records_directory(self._config.options.records.directory),
            providers_directory=self._config.providers_directory,
        )

    def _say_ready(self) -> None:
        options = self._config.options
        kept = options.records.recording or options.records.transcript or options.records.record
        reached = Reached(
            version=__version__,
            host=options.server.host,
            port=self._reservation.port,
            public_url=options.server.public_url,
            carriers=carrier_names(),
            workers=self._workers,
            agent=options.agents.default,
            records=str(records_directory(options.records.directory)) if kept else "",
            command=sys.argv[0],
            seconds=now() - self._begun,
            pid=os.getpid(),
        )
        log.info("fleet.served", workers=self._workers, port=self._reservation.port)
        text = (
            render_json(reached)
            if self._as_json
            else render_text(reached, coloured=wants_colour(sys.stdout))
        )
        # Whoever started us may have stopped reading; the calls do not depend on it.
        with contextlib.suppress(OSError):
            sys.stdout.write(text)
            sys.stdout.flush()
        notify(
            self._systemd,
            "READY=1",
            f"STATUS={self._workers} workers serve",
            f"MAINPID={reached.pid}",
        )
