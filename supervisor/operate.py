"""What an operator tells a running daemon: status, calls, trunks, hangup, drain, reload, upgrade …

Each is one row of `_COMMANDS`. The daemon does the work and tells how it goes, one line each; whoever
interrupts the waiting interrupts nothing else. A connection that breaks while we wait (the switchboard
is replaced by an upgrade, say) loses answers but not the job, so how that ended is then read from the
status instead. Exit codes are for scripts and stand in `--help`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

import msgspec
import psutil

import flowcatd
from flowcatd.control import (
    Answer,
    Ask,
    AskCalls,
    AskDrain,
    AskHangUp,
    AskLogLevel,
    AskReload,
    AskScale,
    AskStatus,
    AskTrunks,
    AskUpgrade,
    Calls,
    Fleet,
    Level,
    Status,
    TrunkLine,
    TrunksAre,
)
from flowcatd.environment import wants_colour
from flowcatd.errors import ControlError, LinkClosed, LinkError
from supervisor import report
from supervisor.client import Operator, add_client_arguments, locate

LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")

# How long a daemon may be gone while it becomes another: an exec, and a switchboard's start.
_AWAY_SECONDS = 15.0
# Between two looks at a daemon whose own answers do not tell.
_LOOK_SECONDS = 0.5
# No drain, reload or scale takes longer; calls.drain_seconds and workers.retire_seconds end there too.
_LONGEST_SECONDS = 2 * 86_400.0


class Code(IntEnum):
    """The exit codes; numbers above 64 are sysexits.h's."""

    DONE = 0
    """All is well, or it was done."""
    WRONG = 1
    """Something is wrong, or it was not done."""
    NOBODY = 69
    """Nobody answers (EX_UNAVAILABLE)."""
    PROTOCOL = 76
    """It answers, and not in words that we understand: another version (EX_PROTOCOL)."""
    INTERRUPTED = 130
    """Ctrl-C; the daemon goes on with what it was told."""


_EPILOG = """\
exit codes:
  0    all is well, or it was done
  1    status, trunks: something is wrong; else: the daemon could not do it, or there was nothing to do
  2    the command line was not understood
  69   nobody answers there, or not in time
  76   another version of flowcatd answers
  78   the configuration, the endpoint or a key is wrong
  130  interrupted; the daemon goes on with what it was told
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command this parser is for."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    _COMMANDS[parser.prog.split()[-1]].arguments(parser)
    add_client_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; the result is one of Code."""
    try:
        with Operator(locate(args), timeout=args.timeout) as operator:
            return _COMMANDS[args.command].act(operator, args)
    except LinkError as error:
        return _fail(Code.NOBODY, str(error))
    except ControlError as error:
        return _fail(Code.PROTOCOL, str(error))


def _fail(code: Code, text: str) -> Code:
    sys.stdout.flush()
    sys.stderr.write(f"flowcatd: {report.plain(text)}\n")
    return code


def _say(text: str) -> None:
    """To standard output now, whoever reads it."""
    sys.stdout.write(report.speakable(text, sys.stdout.encoding))
    sys.stdout.flush()


def _line(text: str) -> None:
    _say(report.plain(text) + "\n")


def _json(message: msgspec.Struct | dict[str, object]) -> None:
    sys.stdout.write(msgspec.json.encode(message).decode() + "\n")


# --- questions -----------------------------------------------------------------------------------


def _status(operator: Operator, args: argparse.Namespace) -> Code:
    fleet = _fleet(operator)
    trunks = [] if fleet is None else _trunks_of(operator)
    wrong = [*report.troubles(fleet), *report.trunk_troubles(trunks)]
    code = Code.WRONG if wrong else Code.DONE
    colour = wants_colour(sys.stdout)
    if args.json:
        if fleet is None:
            return _fail(code, wrong[0].wrong)
        _json(msgspec.to_builtins(fleet) | {"trunks": msgspec.to_builtins(trunks)})
    elif args.check:
        _say(report.render_troubles(fleet, trunks, colour=colour))
    else:
        memory = memory_of(fleet) if operator.where.endpoint.startswith("ipc://") else {}
        _say(report.render_status(fleet, memory, flowcatd.__version__, trunks, colour=colour))
    return code


def _trunks_of(operator: Operator) -> list[TrunkLine]:
    """The trunks, as far as they are known: how the fleet is does not depend on them."""
    with suppress(LinkError, ControlError):  # an older daemon has never heard of trunks
        reply = operator.ask(AskTrunks(id=operator.next_id()))
        return reply.trunks if isinstance(reply, TrunksAre) else []
    return []


def _fleet(operator: Operator) -> Fleet | None:
    reply = operator.ask(AskStatus(id=operator.next_id()))
    if not isinstance(reply, Status):
        raise ControlError("garbage", "flowcatd answered something else than was asked")
    return reply.fleet


def memory_of(fleet: Fleet | None) -> dict[int, int]:
    """Resident bytes by pid, of those workers that are processes of this machine."""
    found = {}
    for line in fleet.workers if fleet is not None else ():
        with suppress(psutil.Error, ValueError):
            process = psutil.Process(line.pid)
            # In another container the same pid is somebody else.
            if fleet is not None and process.ppid() == fleet.pid:
                found[line.pid] = process.memory_info().rss
    return found


def _calls(operator: Operator, args: argparse.Namespace) -> Code:
    reply = operator.ask(AskCalls(id=operator.next_id()))
    if not isinstance(reply, Calls):
        raise ControlError("garbage", "flowcatd answered something else than was asked")
    if args.json:
        _json(reply)
    else:
        _say(report.render_calls(reply, colour=wants_colour(sys.stdout)))
    return Code.WRONG if reply.missing else Code.DONE


def _trunks(operator: Operator, args: argparse.Namespace) -> Code:
    reply = operator.ask(AskTrunks(id=operator.next_id()))
    if not isinstance(reply, TrunksAre):
        raise ControlError("garbage", "flowcatd answered something else than was asked")
    if args.json:
        _json(reply)
    else:
        _say(report.render_trunks(reply, colour=wants_colour(sys.stdout)))
    return Code.WRONG if reply.missing or report.trunk_troubles(reply.trunks) else Code.DONE


# --- commands ------------------------------------------------------------------------------------


def _hang_up(operator: Operator, args: argparse.Namespace) -> Code:
    return _once(operator, AskHangUp(id=operator.next_id(), call=args.call))


def _log_level(operator: Operator, args: argparse.Namespace) -> Code:
    return _once(operator, AskLogLevel(id=operator.next_id(), level=args.level))


def _reload(operator: Operator, args: argparse.Namespace) -> Code:
    return _job(operator, AskReload(id=operator.next_id()), args, "reload")


def _upgrade(operator: Operator, args: argparse.Namespace) -> Code:
    return _job(operator, AskUpgrade(id=operator.next_id()), args, "upgrade")


def _scale(operator: Operator, args: argparse.Namespace) -> Code:
    return _job(operator, AskScale(id=operator.next_id(), count=args.count), args, "scale")


def _drain(operator: Operator, args: argparse.Namespace) -> Code:
    question = AskDrain(id=operator.next_id())
    if not args.wait:
        return _begin(operator, question, "drain")
    try:
        return _follow_to_the_end(operator, question)
    except KeyboardInterrupt:
        return _interrupted("drain")


def _follow_to_the_end(operator: Operator, question: AskDrain) -> Code:
    """A drained daemon is gone, so a broken connection is no fault."""
    with suppress(LinkClosed):
        for answer in operator.follow(question):
            if answer.done and not answer.ok:
                return _result(answer)
            _line(answer.text)
    return _see_it_end(operator)


def _once(operator: Operator, question: Ask) -> Code:
    """Ask, say the answer, and that is the result."""
    reply = operator.ask(question)
    while isinstance(reply, Answer) and not reply.done:
        _line(reply.text)
        reply = operator.first(question.id)
    if not isinstance(reply, Answer):
        raise ControlError("garbage", "flowcatd answered something else than was asked")
    return _result(reply)


def _result(answer: Answer) -> Code:
    if answer.ok:
        _line(answer.text)
        return Code.DONE
    return _fail(Code.WRONG, answer.text)


def _job(operator: Operator, question: Ask, args: argparse.Namespace, name: str) -> Code:
    """Something that takes its time: say how it goes, up to the end."""
    if not args.wait:
        return _begin(operator, question, name)
    try:
        return _follow(operator, question)
    except KeyboardInterrupt:
        return _interrupted(name)


def _follow(operator: Operator, question: Ask) -> Code:
    try:
        for answer in operator.follow(question):
            if answer.done:
                return _result(answer)
            _line(answer.text)
    except LinkClosed as error:
        _line(f"{error}; looking at how it goes on")
    return _look_on(operator, question)


def _begin(operator: Operator, question: Ask, name: str) -> Code:
    """Ask, and only see that it was read: the daemon answers a later question after it."""
    after = operator.next_id()
    operator.send(question)
    operator.send(AskStatus(id=after))
    reply = operator.first(question.id, after)
    if isinstance(reply, Answer) and reply.done:
        return _result(reply)
    _line(f"{name} is asked for; `flowcatd status` shows how far it is")
    return Code.DONE


def _interrupted(name: str) -> Code:
    sys.stderr.write(f"\nflowcatd: no longer waiting; the {name} goes on (`flowcatd status`)\n")
    return Code.INTERRUPTED


def _look_on(operator: Operator, question: Ask) -> Code:
    """How a job ended whose answers are lost: the fleet's own state tells."""
    for fleet in _looks(operator):
        failed = fleet.last_reload not in {"", "done"}
        match question:
            case AskScale(count=count) if fleet.slots != count:
                return _result(Answer(id="", text=f"{fleet.slots} workers, not {count}", ok=False))
            case AskReload() | AskUpgrade() if failed and fleet.state == "serving":
                return _result(Answer(id="", text=fleet.last_reload, ok=False))
        if fleet.state == "serving" and not report.troubles(fleet):
            workers = "1 worker serves" if fleet.slots == 1 else f"{fleet.slots} workers serve"
            return _result(Answer(id="", text=f"done: {workers}"))
    return _fail(Code.NOBODY, "flowcatd went away and did not come back")


def _see_it_end(operator: Operator) -> Code:
    """The live calls of a daemon that drains, as they become fewer, and then its end."""
    last = ""
    pid = 0
    for fleet in _looks(operator, away=0.0):
        pid = fleet.pid
        calls = sum(line.calls for line in fleet.workers)
        text = "1 call is up" if calls == 1 else f"{calls} calls are up"
        workers = len(fleet.workers)
        text += ", 1 worker" if workers == 1 else f", {workers} workers"
        if text != last:
            _line(text)
        last = text
    if operator.where.endpoint.startswith("ipc://") and not _is_gone_soon(pid):
        return _fail(Code.WRONG, f"flowcatd answers no more, and its process {pid} is still there")
    _line("flowcatd has ended")
    return Code.DONE


def _is_gone_soon(pid: int) -> bool:
    """Whether the process ends: it goes on for a moment after its last answer."""
    deadline = time.monotonic() + _AWAY_SECONDS
    with suppress(psutil.Error, ValueError):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
    return True


def _looks(operator: Operator, *, away: float = _AWAY_SECONDS) -> Iterator[Fleet]:
    """The daemon's state now and then, until it has been gone for `away` seconds."""
    start = seen = time.monotonic()
    where, timeout = operator.where, 2.0
    while time.monotonic() - start < _LONGEST_SECONDS:
        try:
            # A fresh connection each time: an old one would wait for a socket that is no more.
            with Operator(where, timeout=timeout) as again:
                fleet = _fleet(again)
            seen = time.monotonic()
            if fleet is not None:
                yield fleet
        except LinkError:
            if time.monotonic() - seen >= away:
                return
        time.sleep(_LOOK_SECONDS)


# --- the table -----------------------------------------------------------------------------------


def _json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    _json_argument(parser)
    parser.add_argument(
        "--check", action="store_true", help="show only what is wrong, nothing when all is well"
    )


def _call_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("call", metavar="CALL", type=_call_name, help="a call id, or a run id")


def _wait_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-wait", dest="wait", action="store_false", help="ask, and do not wait for the end"
    )


def _scale_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("count", metavar="N", type=_count, help="how many workers, 1 to 256")
    _wait_argument(parser)


def _level_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("level", metavar="LEVEL", choices=LEVELS, help=", ".join(LEVELS))


def _count(word: str) -> int:
    count = int(word)
    if not 1 <= count <= 256:
        raise argparse.ArgumentTypeError("must lie between 1 and 256")
    return count


def _call_name(word: str) -> str:
    if not 1 <= len(word) <= 128:
        raise argparse.ArgumentTypeError("must have 1 to 128 characters")
    return word


@dataclass(frozen=True, slots=True)
class _Command:
    arguments: Callable[[argparse.ArgumentParser], None]
    act: Callable[[Operator, argparse.Namespace], Code]


_COMMANDS = {
    "status": _Command(_status_arguments, _status),
    "calls": _Command(_json_argument, _calls),
    "trunks": _Command(_json_argument, _trunks),
    "hangup": _Command(_call_argument, _hang_up),
    "drain": _Command(_wait_argument, _drain),
    "reload": _Command(_wait_argument, _reload),
    "upgrade": _Command(_wait_argument, _upgrade),
    "scale": _Command(_scale_arguments, _scale),
    "log-level": _Command(_level_argument, _log_level),
}
