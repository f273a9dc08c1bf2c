"""`flowcatd call`: place a call to a running daemon, and show the conversation.

A `ws://` address is called as a carrier would, over its WebSocket; a `sip:` address as a telephone would.

The turns are the `--say`, `--wav` and `--digits` in the order they are given, or the demo for the
shipped agent, or what is typed with `--interactive`. Exit codes are for scripts: see STATUS below.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from flowcatd import log
from flowcatd.caller import address as where
from flowcatd.caller import sip_address as over_sip
from flowcatd.caller.address import Address
from flowcatd.caller.handset import Handset
from flowcatd.caller.keyboard import Keyboard
from flowcatd.caller.listener import QUIET_MS
from flowcatd.caller.person import Person
from flowcatd.caller.phone import Phone
from flowcatd.caller.recorded import recording_of
from flowcatd.caller.report import Report
from flowcatd.caller.script import DEMO, TURNS_LIMIT, Script
from flowcatd.caller.sip_address import SipAddress
from flowcatd.caller.sip_handset import Manner
from flowcatd.caller.sip_phone import SipPhone
from flowcatd.caller.tape import Tape
from flowcatd.caller.turns import Kind, Wish, check, make_turn, typed
from flowcatd.caller.voice import VOICE, open_voice
from flowcatd.carriers.catalogue import carrier_names
from flowcatd.carriers.events import Started
from flowcatd.carriers.far_end import FarEnd
from flowcatd.environment import reveal, wants_colour
from flowcatd.errors import ConfigError, FlowcatdError, LinkRefused
from flowcatd.options import Log
from flowcatd.options import Secret as Reference
from flowcatd.services import Voice
from flowcatd.sip.digest import Secret

SECONDS_LIMIT = 3600.0

Keep = Callable[[bytes, bytes], None] | None
"""Where each 20 ms of both sides goes."""

_FOR_WS = ("carrier", "agent")
_FOR_SIP = ("codec", "user", "password_env", "hold_after")
"""Options that make sense for one kind of address only."""


class Status(IntEnum):
    """The exit codes."""

    REACHED_END = 0
    """The agent completed the conversation (or you hung up, where you asked to)."""
    NOT_REACHED = 1
    """The call was up, and ended in another way."""
    NOT_CONNECTED = 2
    """There was nobody to talk to."""
    BAD_ARGUMENTS = 3
    """The command line, a file or a voice will not do."""
    INTERRUPTED = 130
    """Ctrl-C; hung up in good order."""


_EPILOG = """\
examples:
  flowcatd call                                   books an appointment with the shipped agent
  flowcatd call --say "tuesday at nine" --say yes --record heard.wav
  flowcatd call --say "make it friday" --interrupt-after 800
  flowcatd call --interactive                     type what to say; keys as digits; Ctrl-D hangs up
  flowcatd call sip:                              the same over SIP, to port 5060 of this machine
  flowcatd call "sip:100@192.0.2.7;transport=tcp" --codec g722 --digits 1

exit codes:
  0    the agent completed the conversation; also an end you asked for (--hang-up, Ctrl-D)
  1    the conversation did not reach its end
  2    nobody answered, or the call was refused
  3    the arguments will not do
  130  interrupted; hung up in good order
"""


class _Append(argparse.Action):
    """Collects --say, --wav and --digits into one list, in the order they stand."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 argparse's shape
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """One more wish."""
        kind = Kind(str(option_string).lstrip("-"))
        namespace.wishes = [*namespace.wishes, Wish(kind, str(values))]


class _Interrupt(argparse.Action):
    """Makes the wish before it an interruption."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002 argparse's shape
    ) -> None:
        """Change the last wish."""
        if not namespace.wishes or not isinstance(values, int):
            parser.error("--interrupt-after stands behind the turn that it is about")
        *before, last = namespace.wishes
        namespace.wishes = [*before, Wish(last.kind, last.value, values)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `flowcatd call`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.error = lambda message: _exit(parser, message)  # type: ignore[method-assign]  # 2, argparse's, means that nobody answered
    add = parser.add_argument
    add(
        "address",
        nargs="?",
        metavar="URL",
        help=f"where to call (default {where.DEFAULT}); `sip:` alone is {over_sip.DEFAULT}",
    )
    add("--url", help="the same, as an option")
    add("--carrier", choices=carrier_names(), default="", help="whose wire to speak")
    add("--agent", default="", metavar="NAME", help="who is to answer")
    add(
        "--codec",
        default="",
        choices=[name for name in over_sip.OFFERS if name],
        help="sip: what to offer (default pcmu and pcma)",
    )
    add("--user", default="", metavar="NAME", help="sip: who calls, and answers a challenge")
    add("--password-env", default="", metavar="VARIABLE", help="sip: where its password stands")
    add("--hold-after", type=_seconds, metavar="S", help="sip: hold the agent for 3 s after S s")
    parser.set_defaults(wishes=[])
    add("--say", action=_Append, metavar="TEXT", help="say this; may be given again")
    add("--wav", action=_Append, metavar="FILE", help="play this file")
    add("--digits", action=_Append, metavar="KEYS", help="press these keys")
    add(
        "--interrupt-after",
        action=_Interrupt,
        type=_whole(0, 600_000),
        metavar="MS",
        help="say the turn before this option MS after the agent began its line",
    )
    add("--interactive", action="store_true", help="say what is typed")
    add(
        "--voice",
        default="",
        metavar="NAME",
        help=f"who speaks for you (default {VOICE}; the demo lines are recordings)",
    )
    add("--record", type=Path, metavar="FILE", help="keep both sides as a stereo WAV file")
    add(
        "--answer-silence-ms",
        type=_whole(100, 10_000),
        default=QUIET_MS,
        metavar="MS",
        help="silence after which the agent has finished (default %(default)s)",
    )
    add(
        "--timeout",
        type=_seconds,
        default=120.0,
        metavar="S",
        help="the longest the call may take, in seconds (default %(default)g)",
    )
    add("--hang-up", action="store_true", help="hang up once the last turn was answered")
    add("--json", action="store_true", help="print one JSON object at the end and nothing else")


def _exit(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    parser.exit(Status.BAD_ARGUMENTS, f"{parser.prog}: {message} (--help tells more)\n")


def run(args: argparse.Namespace) -> int:
    """Place the call; the result is the exit code."""
    log.configure(Log(level="warning"), slot=None)
    try:
        target = _target(args)
        wishes = args.wishes
        if not wishes and not args.interactive:
            wishes = [
                Wish(Kind.SAY, text, recording=None if args.voice else recording_of(text))
                for text in DEMO
            ]
        for wish in wishes:
            check(wish)
        if len(wishes) > TURNS_LIMIT:
            raise ConfigError("--say", f"more than {TURNS_LIMIT} turns")
        return asyncio.run(_call(args, target, wishes))
    except LinkRefused as error:
        return _refuse(args, error, Status.NOT_CONNECTED)
    except (FlowcatdError, OSError) as error:
        return _refuse(args, error, Status.BAD_ARGUMENTS)
    except KeyboardInterrupt:
        return Status.INTERRUPTED


def _target(args: argparse.Namespace) -> Address | SipAddress:
    """Where to call; ConfigError for an address that cannot be, or options of the other kind."""
    address = args.url or args.address or where.DEFAULT
    is_sip = over_sip.is_sip(address)
    for option in _FOR_WS if is_sip else _FOR_SIP:
        if getattr(args, option):
            reason = (
                "is for ws:// addresses: over SIP the trunk's routes say who answers"
                if is_sip
                else "is for sip: addresses"
            )
            raise ConfigError(f"--{option.replace('_', '-')}", reason)
    if is_sip:
        return over_sip.resolve(address, args.codec)
    run_id = f"call-{secrets.token_hex(6)}"
    return where.resolve(address, carrier=args.carrier, agent=args.agent, run_id=run_id)


def _refuse(args: argparse.Namespace, error: Exception, status: Status) -> Status:
    if args.json:
        _print(msgspec.json.encode({"reached_end": False, "error": str(error)}).decode())
    sys.stderr.write(f"flowcatd call: {error}\n")
    return status


async def _call(
    args: argparse.Namespace, target: Address | SipAddress, wishes: Sequence[Wish]
) -> int:
    speaks = args.interactive or any(
        wish.kind is Kind.SAY and wish.recording is None for wish in wishes
    )
    async with AsyncExitStack() as stack:
        voice = await stack.enter_async_context(open_voice(args.voice)) if speaks else None
        turns = [await make_turn(wish, target.rate_hz, voice) for wish in wishes]
        tape = None
        if args.record is not None:
            tape = stack.enter_context(Tape(args.record, target.rate_hz))
        script = Script(turns, eager=args.interactive, hang_up=args.hang_up)
        report = Report(
            (lambda _line: None) if args.json else _print, coloured=wants_colour(sys.stdout)
        )
        keep = tape.add if tape is not None else None
        if isinstance(target, SipAddress):
            phone, person = _telephone(args, target, script, keep, report)
        else:
            phone, person = _carrier(args, target, script, keep, report)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, phone.interrupt)
        if args.interactive:
            await stack.enter_async_context(_typing(script, target.rate_hz, voice))
        await phone.call()
    if isinstance(phone, SipPhone):
        report.media = phone.figures
    return _tell_end(args, phone, person, report)


def _carrier(
    args: argparse.Namespace, target: Address, script: Script, keep: Keep, report: Report
) -> tuple[Phone | SipPhone, Person]:
    """A carrier's end of a WebSocket, and who talks there."""
    call_id, stream_id = f"CA{secrets.token_hex(16)}", f"MZ{secrets.token_hex(16)}"
    started = Started(call_id, stream_id, target.encoding, target.rate_hz)
    far = FarEnd(target.row, started)
    handset = Handset(far, script, quiet_ms=args.answer_silence_ms, on_frame=keep)
    report.begin(target.shown, target.row.name)
    return Phone(target, handset, seconds=args.timeout, tell=report.tell), handset.person


def _telephone(
    args: argparse.Namespace, target: SipAddress, script: Script, keep: Keep, report: Report
) -> tuple[Phone | SipPhone, Person]:
    """A telephone for SIP, and who talks into it."""
    person = Person(target.rate_hz, script, quiet_ms=args.answer_silence_ms, on_frame=keep)
    manner = Manner(args.timeout, args.hold_after)
    report.begin(target.shown, "a telephone")
    phone = SipPhone(target, person, manner, tell=report.tell, secret=_secret(args))
    return phone, person


def _secret(args: argparse.Namespace) -> Secret | None:
    """What answers a challenge; a user without a password is only a name."""
    if not args.user:
        return None
    password = ""
    if args.password_env:
        password = reveal(Reference(f"env:{args.password_env}"))
    return Secret(args.user, password)


def _tell_end(
    args: argparse.Namespace, phone: Phone | SipPhone, person: Person, report: Report
) -> Status:
    outcome = person.outcome
    heard_seconds, unsaid = person.listener.audible_seconds, person.script.remaining
    if args.json:
        figures = report.figures(outcome, heard_seconds=heard_seconds, unsaid=unsaid)
        _print(msgspec.json.encode(figures).decode())
    else:
        report.finish(outcome, heard_seconds=heard_seconds, unsaid=unsaid)
    if phone.interrupted:
        return Status.INTERRUPTED
    return Status.REACHED_END if outcome.reached_end else Status.NOT_REACHED


@asynccontextmanager
async def _typing(script: Script, rate_hz: int, voice: Voice | None) -> AsyncIterator[None]:
    """While this is open, typed lines become turns."""
    lines: asyncio.Queue[Wish | None] = asyncio.Queue()

    def on_line(line: str) -> None:
        wish = typed(line)
        if wish is not None and lines.qsize() + script.remaining < TURNS_LIMIT:
            lines.put_nowait(wish)

    async def work() -> None:
        while (wish := await lines.get()) is not None:
            try:
                script.add(await make_turn(wish, rate_hz, voice))
            except FlowcatdError as error:
                sys.stderr.write(f"flowcatd call: {error}\n")
        script.close()

    keyboard = Keyboard(sys.stdin.fileno(), on_line, lambda: lines.put_nowait(None))
    task = asyncio.create_task(work(), name="typed lines")
    keyboard.start()
    try:
        yield
    finally:
        keyboard.stop()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _whole(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number within these bounds."""

    def read(text: str) -> int:
        if not (text.isdecimal() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}")
        return int(text)

    return read


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= SECONDS_LIMIT:
        raise argparse.ArgumentTypeError(f"must be seconds from 0.1 to {SECONDS_LIMIT:g}")
    return seconds
