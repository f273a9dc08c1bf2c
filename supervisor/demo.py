"""`flowcatd demo`: what a call is made of, shown without a telephone and without a daemon.

    pipeline   frames through real processors in this process: counts, an interruption, µs per frame
    ws-echo    stamped frames over a WebSocket to an echo and back: every one of them checked

Both end with 0 only if everything that went in came out as it should.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

import msgspec

from flowcatd.errors import ConfigError, LinkRefused
from supervisor import demo_echo, demo_pipeline

NOBODY = 2
"""The exit code when nobody answers, as in `flowcatd call`."""
BAD_ARGUMENTS = 3
"""The exit code for a command line that will not do."""
SECONDS_LIMIT = 600

_EPILOG = """\
exit codes:
  0    everything came back as it should
  1    something did not
  2    nobody answered
  3    the arguments will not do
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The demos and their options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    demos = parser.add_subparsers(dest="demo", metavar="DEMO", required=True)
    pipeline = demos.add_parser("pipeline", help="frames through processors, in this process")
    _add_common(pipeline, 10, "of audio; it takes milliseconds")
    echo = demos.add_parser("ws-echo", help="stamped frames over a WebSocket and back")
    _add_common(echo, 5, "how long to send")
    ends = echo.add_mutually_exclusive_group(required=True)
    ends.add_argument("--loopback", action="store_true", help="to an echo server of its own")
    ends.add_argument(
        "--connect",
        default="",
        metavar="URL",
        help="to a flowcatd, as ws://127.0.0.1:6210/telephony/ws/raw/x?agent=echo",
    )
    for each in (parser, pipeline, echo):
        _refuse_with_3(each)


def run(args: argparse.Namespace) -> int:
    """Run the demo; the result is the exit code."""
    if args.demo == "pipeline":
        result = demo_pipeline.run(args.seconds)
        return _show(args, demo_pipeline.figures(result), lambda: demo_pipeline.render(result))
    try:
        outcome = demo_echo.run(args.connect, args.seconds)
    except (LinkRefused, ConfigError) as error:
        sys.stderr.write(f"flowcatd demo: {error}\n")
        return NOBODY if isinstance(error, LinkRefused) else BAD_ARGUMENTS
    return _show(args, demo_echo.figures(outcome), lambda: demo_echo.render(outcome))


def _show(
    args: argparse.Namespace, figures: Mapping[str, object], render: Callable[[], str]
) -> int:
    text = msgspec.json.encode(figures).decode() if args.json else render()
    sys.stdout.write(f"{text}\n")
    return 0 if figures["ok"] else 1


def _add_common(parser: argparse.ArgumentParser, seconds: int, meaning: str) -> None:
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=seconds,
        metavar="N",
        help=f"{meaning} (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _seconds(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= SECONDS_LIMIT):
        raise argparse.ArgumentTypeError(f"must be whole seconds from 1 to {SECONDS_LIMIT}")
    return int(text)


def _refuse_with_3(parser: argparse.ArgumentParser) -> None:
    def refuse(message: str) -> NoReturn:
        parser.exit(BAD_ARGUMENTS, f"{parser.prog}: {message} (--help tells more)\n")

    parser.error = refuse  # type: ignore[method-assign]  # argparse's own code, 2, is taken
