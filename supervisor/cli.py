"""The command `flowcatd`: one row per sub-command, each imported only when it was chosen.

A sub-command is a module with `add_arguments(parser)` and `run(args) -> int`. What a person can put
right is told in one line on standard error; a traceback means a bug.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

import flowcatd
from flowcatd.errors import ConfigError, FlowcatdError
from workers.plan import ExitCode

COMMANDS = {
    "serve": ("supervisor.main", "run the daemon"),
    "check": ("supervisor.check", "say whether configuration, agents and providers are good"),
    "status": ("supervisor.operate", "say how the daemon is, and what is wrong with it"),
    "calls": ("supervisor.operate", "list the calls that are up"),
    "trunks": ("supervisor.operate", "show the SIP trunks, and what is wrong with them"),
    "ladder": ("supervisor.ladder", "show what went to and fro in one call over SIP"),
    "top": ("supervisor.top", "watch the daemon: workers, calls, lag, memory"),
    "hangup": ("supervisor.operate", "end one call"),
    "drain": ("supervisor.operate", "take no new calls, let the live ones finish, then end"),
    "reload": ("supervisor.operate", "read the configuration again, without losing a call"),
    "upgrade": ("supervisor.operate", "become the flowcatd that is installed now"),
    "scale": ("supervisor.operate", "have this many workers"),
    "log-level": ("supervisor.operate", "write log lines from this level up"),
    "bridge": ("supervisor.bridge", "serve a daemon's figures to Prometheus, from anywhere"),
    "keys": ("supervisor.curve", "make the keys that tcp endpoints need"),
    "install": ("supervisor.install", "make systemd run this flowcatd"),
    "call": ("flowcatd.caller.cli", "place a call to a running daemon, and show it"),
    "demo": ("supervisor.demo", "show the pipeline, or check an echo over a WebSocket"),
}
"""Name to module and meaning."""

_EPILOG = """\
exit codes (call, demo and what talks to a running daemon tell their own):
  0    all was done; for serve: it was told to end
  1    check: something is wrong; serve: its workers failed to start, or a bug
  2    the command line was not understood
  71   the address cannot be listened on
  78   the configuration is wrong
  130  interrupted before anything was running

`flowcatd COMMAND --help` tells more.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; the result is the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parse(words)
        if args.command == "version":
            sys.stdout.write(f"flowcatd {flowcatd.__version__}\n")
            return ExitCode.OK
        code: int = importlib.import_module(COMMANDS[args.command][0]).run(args)
    except FlowcatdError as error:
        sys.stderr.write(f"flowcatd: {error}\n")
        return ExitCode.CONFIG if isinstance(error, ConfigError) else ExitCode.CRASHED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output went away, as in `flowcatd check | head`.
        sys.stderr.close()
        return ExitCode.CRASHED
    return code


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="flowcatd",
        description="Voice agents on the telephone and in the browser, on your own machines.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in words if not word.startswith("-")), "")
    for name, (module, meaning) in COMMANDS.items():
        sub = commands.add_parser(name, help=meaning, description=meaning)
        if name == chosen:
            importlib.import_module(module).add_arguments(sub)
    commands.add_parser("version", help="say which flowcatd this is")
    return parser.parse_args(words)
