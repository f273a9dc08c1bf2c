"""`flowcatd serve`: read the configuration, take what is needed, and run the daemon's loop.

    SIGINT   end now; once more: at once       SIGTERM  drain, then end
    SIGHUP   reload (on a terminal: end now)   SIGUSR2  become the flowcatd that is installed now

The configuration is checked before anything is taken, everything that can be taken is taken before
anything is forked, and what workers share is imported last, so that a mistake costs one line.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import socket
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import flowcatd
from flowcatd.carriers.catalogue import carrier_names
from flowcatd.environment import records_directory, upgrade_descriptor, wants_colour
from flowcatd.errors import ConfigError, LinkRefused
from flowcatd.log import configure as configure_log
from supervisor import upgrade
from supervisor.banner import Reached, render_json, render_text, sip_uri
from supervisor.check import check_files, print_problems
from supervisor.config import Config, add_config_arguments, open_config, with_trunks
from supervisor.daemon import Daemon
from supervisor.exchange import Exchange
from supervisor.holdings import Holdings, StillHeldError, restore, take
from supervisor.preload import preload
from supervisor.process import age, now
from supervisor.program import Program
from supervisor.reload import changed, read_again
from supervisor.sip_ports import lacking
from workers.plan import ExitCode, WorkerPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `flowcatd serve`."""
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="say ready as one line of JSON")
    # Asked by a running daemon of another version, before it becomes this one.
    parser.add_argument("--can-take-over", type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Serve until told to end; the result is the exit code."""
    _hold_standard_streams()
    begun = now() - age()
    descriptor = upgrade_descriptor()
    config = open_config(args.config, args.overrides)
    configure_log(config.options.log, slot=None)
    if problems := check_files(config):
        print_problems(problems)
        return ExitCode.CONFIG
    config = with_trunks(config)
    if args.can_take_over is not None:
        return _could_take_over(config, args.can_take_over)
    handed = None if descriptor is None else upgrade.receive(descriptor)
    try:
        holdings = take(config.options) if handed is None else restore(handed.kept, config.options)
    except LinkRefused as error:
        sys.stderr.write(f"flowcatd: {error}\n")
        return ExitCode.CRASHED if isinstance(error, StillHeldError) else ExitCode.BIND
    try:
        preload()
        exchange = Exchange(
            holdings.children, partial(_switch, config, holdings), _switchboard_keeps(holdings)
        )
        if handed is not None:
            _adopt(exchange, *handed.switchboard)
        program = Program(
            work=_work,
            prepare=_prepare,
            read_again=partial(read_again, args.config, args.overrides),
            words=tuple(_words(args)),
            begun=begun if handed is None else handed.begun,
            say_ready=partial(_say_ready, holdings, as_json=args.json),
        )
        return Daemon(config, holdings, exchange, program, handed).run()
    finally:
        holdings.close()


def _work(plan: WorkerPlan) -> int:
    # Only the child may import what owns loops and sockets.
    from workers.main import run as run_worker  # noqa: PLC0415

    return run_worker(plan)


def _prepare(config: Config) -> Mapping[str, Any]:
    """The agents, read once for all workers and frozen with everything else they share."""
    from workers.agents import load_agents  # noqa: PLC0415

    agents = load_agents(config.agents_directory, config.options.agents.default)
    gc.collect()
    gc.freeze()
    return agents


def _switch(
    config: Config, holdings: Holdings, supervisor_fd: int, ready_fd: int, alive_fd: int
) -> int:
    from supervisor.switchboard import SwitchboardPlan  # noqa: PLC0415
    from supervisor.switchboard import run as run_switchboard  # noqa: PLC0415

    return run_switchboard(
        SwitchboardPlan(
            runtime_directory=holdings.runtime,
            supervisor_fd=supervisor_fd,
            alive_fd=alive_fd,
            ready_fd=ready_fd,
            metrics_fd=None if holdings.metrics is None else holdings.metrics.fileno(),
            options=config.options,
            config_directory=config.directory,
        )
    )


def _switchboard_keeps(holdings: Holdings) -> list[int]:
    return [] if holdings.metrics is None else [holdings.metrics.fileno()]


def _adopt(exchange: Exchange, pid: int, line: int) -> None:
    if pid:
        exchange.adopt(None if line < 0 else socket.socket(fileno=line), pid, now())


def _could_take_over(config: Config, version: int) -> int:
    """Everything that a start needs was imported and read by now; the state is shown on stdin."""
    if version not in upgrade.READABLE:
        sys.stdout.write(
            f"flowcatd {flowcatd.__version__} cannot take over from the one that runs: restart it\n"
        )
        return ExitCode.CONFIG
    handed = upgrade.read_state(os.dup(0))
    problems = changed(config, handed.fixed)
    problems += [
        ConfigError(config.where, "cannot be opened while the daemon runs; restart it", key=key)
        for key in lacking(config.options.sip, handed.kept.sip)
        if key not in {problem.key for problem in problems}
    ]
    if problems:
        sys.stdout.write("; ".join(map(str, problems)) + "\n")
        return ExitCode.CONFIG
    preload()
    sys.stdout.write(f"flowcatd {flowcatd.__version__}\n")
    return ExitCode.OK


def _hold_standard_streams() -> None:
    """Started without one of them, the next file that is opened would be taken for it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            _fill(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _fill(descriptor: int) -> None:
    """Let it lead nowhere."""
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != descriptor:
        os.dup2(nothing, descriptor)
        os.close(nothing)


def _words(args: argparse.Namespace) -> list[str]:
    """The arguments again, for the next program image."""
    words = [] if args.config is None else ["--config", str(args.config)]
    for override in args.overrides:
        words += ["--set", override]
    return [*words, *(["--json"] if args.json else [])]


def _say_ready(
    holdings: Holdings, config: Config, workers: int, seconds: float, *, as_json: bool
) -> None:
    options = config.options
    kept = options.records.recording or options.records.transcript or options.records.record
    reached = Reached(
        version=flowcatd.__version__,
        host=options.server.host,
        port=holdings.port,
        public_url=options.server.public_url,
        carriers=carrier_names(),
        workers=workers,
        agent=options.agents.default,
        records=str(records_directory(options.records.directory)) if kept else "",
        command=sys.argv[0],
        seconds=seconds,
        pid=os.getpid(),
        metrics=holdings.metrics_address,
        control=f"ipc://{holdings.runtime}/control.sock",
        sip=sip_uri(options.sip),
        has_softphones=_takes_softphones(config),
    )
    text = (
        render_json(reached) if as_json else render_text(reached, coloured=wants_colour(sys.stdout))
    )
    say(text)


def _takes_softphones(config: Config) -> bool:
    """Whether somebody on this machine may call without a password."""
    return any(
        trunk.routes
        and not trunk.inbound.digest
        and any(each.is_loopback for each in trunk.networks)
        for trunk in config.trunks.values()
    )


def say(text: str) -> None:
    """Write to standard output; whoever started us may have stopped reading."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        # What could not be written would be tried again at each flush, up to the last.
        _fill(1)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
