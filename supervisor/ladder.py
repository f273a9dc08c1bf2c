"""`flowcatd ladder CALL`: what went to and fro in one call over SIP, and what became of its sound.

    time        them                        us
    0.000 s      │── INVITE 1 +body ────────►│
    0.004 s      │◄──────── 200 INVITE 1 ────│

A live call is asked of the daemon; of one that has ended the record tells, so that needs no daemon. CALL
is a call id, which is the record's file name, or a run id, which over SIP is the Call-ID: then records
are looked through, the newest first. Nothing shown here holds a number, an address or a word that was
said: that is how the figures are made (`flowcatd/sip/ladder.py`, `record.SipFigures`).

`render` and what is below it are pure. The words for the opinion score are those of ITU-T G.107 annex B:
from 4.0 users are satisfied, from 3.6 some are not, below that many.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from flowcatd.control import AskCalls, AskLadder, CallLine, Calls, LadderIs
from flowcatd.environment import records_directory, wants_colour
from flowcatd.errors import ConfigError, ControlError, FlowcatdError, LinkError
from flowcatd.sip_figures import MediaFigures, SipFigures
from supervisor.client import Operator, add_client_arguments, locate
from supervisor.config import open_config
from supervisor.operate import Code
from supervisor.report import Cell, draw, duration, plain, speakable, words

RECORDS_MOST: Final = 20_000
"""Records that are looked through for a run id, the newest first: a week at two calls a minute."""
RECORD_BYTES: Final = 4 * 1024 * 1024
"""No record is longer."""
INSTALLED: Final = Path("/var/lib/flowcatd")
"""Where systemd's StateDirectory= is; the daemon knows it from an environment we do not have."""
NAME_MAX: Final = 128
"""A run id is cut there, a Call-ID with it."""
GOOD_MOS: Final = 4.0
FAIR_MOS: Final = 3.6

_CALL_ID: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-z]{8,32}")
_STEP: Final = re.compile(
    r"(?P<at>\d+\.\d+) (?P<arrow>[→←]) (?P<what>(?:(?P<status>\d{3}) )?\S+ \d+)(?P<body> \+body)?"
)
_COLUMNS: Final = 34
"""Between the two sides: the longest method with its status, CSeq and body fit."""
_KEPT_FIRST: Final = 32
"""Behind so many steps those are missing that were not kept (flowcatd/sip/ladder.py)."""
_UNCUT: Final = 100_000
"""Columns: a terminal may wrap what a person must read."""
_STYLES: Final = {"1": "dim", "2": "green", "3": "yellow", "4": "red", "5": "red", "6": "red"}
_CHALLENGES: Final = frozenset({"401", "407"})
"""Failures that are part of the game."""

_EPILOG = """\
CALL is a call id, or a run id, which over SIP is the Call-ID of the call.

exit codes:
  0    the ladder is shown
  1    there is no such call, or it is not over SIP
  69   it is not among the records, and nobody answers who could know a live one
  76   another version of flowcatd answers
  78   the configuration, the endpoint or a key is wrong
"""


# --- the command ---------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `flowcatd ladder`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("call", metavar="CALL", help="a call id, or a run id (the SIP Call-ID)")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    parser.add_argument(
        "--directory", metavar="DIR", type=Path, help="where the records of ended calls are"
    )
    add_client_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Find the call and show it; the result is one of operate.Code."""
    name = args.call[:NAME_MAX]
    directories = _directories(args)
    found = by_call_id(directories, name)
    missed: FlowcatdError | Calls | None = None
    if found is None:
        found, missed = _ask(args, name)
    if found is None:
        found = by_run_id(directories, name)
    if found is None:
        return _nothing(name, directories, missed)
    if found.sip is None:
        return _fail(Code.WRONG, f"call {found.call_id} was not over SIP but over {found.carrier}")
    if args.json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        text = render(found, found.sip, colour=wants_colour(sys.stdout))
        sys.stdout.write(speakable(text, sys.stdout.encoding))
    return Code.DONE


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One call; fields of `record.CallRecord` by their names there, empty where it still goes on."""

    call_id: str
    run_id: str = ""
    carrier: str = ""
    agent: str = ""
    started_at_utc: str = ""
    duration_seconds: float = 0.0
    reason: str = ""
    """Empty while the call is up."""
    sip: SipFigures | None = None


def _fail(code: Code, text: str) -> Code:
    sys.stderr.write(f"flowcatd: {plain(text)}\n")
    return code


def _nothing(name: str, directories: list[Path], missed: FlowcatdError | Calls | None) -> Code:
    """There is nothing to show: why, and where else to look."""
    places = " nor ".join(map(str, directories))
    if isinstance(missed, ControlError):
        return _fail(Code.PROTOCOL, str(missed))
    if isinstance(missed, FlowcatdError):
        return _fail(Code.NOBODY, f"no record of {name} is in {places}, and {missed}")
    up = _line_of(missed, name)
    if up is not None:
        return _fail(Code.WRONG, f"call {up.call_id} is up, not over SIP but over {up.carrier}")
    left = missed.missing if missed is not None else []
    but = f", but worker {', '.join(map(str, left))} did not answer" if left else ""
    return _fail(
        Code.WRONG,
        f"no such call{but}; `flowcatd calls` lists those that are up, and no record of it is in "
        f"{places} (--directory names another place)",
    )


def _line_of(calls: Calls | None, name: str) -> CallLine | None:
    lines = calls.calls if calls is not None else []
    return next((line for line in lines if name in {line.call_id, line.run_id}), None)


# --- a live call ---------------------------------------------------------------------------------


def _ask(args: argparse.Namespace, name: str) -> tuple[Shown | None, FlowcatdError | Calls | None]:
    """The live call; or None, and what there is instead: the calls that are up, or why nobody told."""
    try:
        with Operator(locate(args), timeout=args.timeout) as operator:
            reply = operator.ask(AskLadder(id=operator.next_id(), call=name))
            calls = operator.ask(AskCalls(id=operator.next_id()))
    except (LinkError, ControlError) as error:
        return None, error
    if not (isinstance(reply, LadderIs) and isinstance(calls, Calls)):
        return None, ControlError("garbage", "flowcatd answered something else than was asked")
    if reply.sip is None:
        return None, calls
    line = _line_of(calls, name)
    if line is None:  # it ended between the two questions
        return Shown(call_id=name, carrier="sip", sip=reply.sip), None
    return (
        Shown(
            call_id=line.call_id,
            run_id=line.run_id,
            carrier=line.carrier,
            agent=line.agent,
            duration_seconds=line.seconds,
            sip=reply.sip,
        ),
        None,
    )


# --- a call that has ended -----------------------------------------------------------------------


def _directories(args: argparse.Namespace) -> list[Path]:
    """Where records may be, best first."""
    if args.directory is not None:
        return [args.directory]
    try:
        setting = open_config(args.config, args.overrides).options.records.directory
    except ConfigError:
        setting = ""  # whoever asks of a call need not have a good configuration
    places = [records_directory(setting)]
    if not setting and INSTALLED.is_dir() and INSTALLED not in places:
        places.append(INSTALLED)
    return places


def by_call_id(directories: Iterable[Path], name: str) -> Shown | None:
    """The record of this call id."""
    if not _CALL_ID.fullmatch(name):
        return None
    read = (read_record(directory / f"{name}.json") for directory in directories)
    return next((found for found in read if found is not None), None)


def by_run_id(directories: Iterable[Path], name: str) -> Shown | None:
    """The latest record of this run id."""
    for directory in directories:
        for path in _newest_first(directory):
            found = read_record(path)
            if found is not None and found.run_id == name:
                return found
    return None


def _newest_first(directory: Path) -> Iterator[Path]:
    """Records by their names, which begin with the time."""
    try:
        paths = [path for path in directory.glob("*.json") if _CALL_ID.fullmatch(path.stem)]
    except OSError:
        return iter(())
    return iter(sorted(paths, reverse=True)[:RECORDS_MOST])


def read_record(path: Path) -> Shown | None:
    """What is shown of a record; None when there is none, or none of ours."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(RECORD_BYTES), type=Shown)
    except (OSError, msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


# --- how it looks --------------------------------------------------------------------------------


def render(shown: Shown, sip: SipFigures, *, colour: bool) -> str:
    """The whole page."""
    lines = [*_head(shown, sip), [], *_ladder(sip), [], *_media(sip, is_over=bool(shown.reason))]
    page = partial(draw, width=_UNCUT, colour=colour)
    return "".join(f"{page(line)}\n" for line in lines)


def _head(shown: Shown, sip: SipFigures) -> Iterator[list[Cell]]:
    yield [
        Cell(f"call {shown.call_id}", "bold"),
        Cell(f"  {sip.direction} over {sip.transport}, trunk {sip.trunk or '-'}"),
        Cell(f", agent {shown.agent}" if shown.agent else ""),
    ]
    lasted = duration(shown.duration_seconds)
    if not shown.reason:
        yield [Cell("  it is up", "green"), Cell(f", since {lasted}" if shown.agent else "")]
        return
    cause = f" ({sip.cause})" if sip.cause else ""
    answered = "" if sip.status == 200 else f", its INVITE came to {sip.status or 'nothing'}"
    yield [
        Cell(f"  {shown.started_at_utc}, {lasted}: {words(shown.reason)}{cause}{answered}"),
    ]


def _ladder(sip: SipFigures) -> Iterator[list[Cell]]:
    yield [Cell(f"{'time':>10}    {'them':<{_COLUMNS}}us", "dim")]
    if not sip.ladder:
        yield [Cell("            nothing was noted", "yellow")]
    for number, step in enumerate(sip.ladder):
        if sip.ladder_dropped and number == _KEPT_FIRST:
            yield [Cell(f"{'':12}… {sip.ladder_dropped} steps in between were not kept", "dim")]
        yield _rung(step)


def _rung(step: str) -> list[Cell]:
    """One message; what is not understood (a newer daemon's) is shown as it is."""
    found = _STEP.fullmatch(step)
    if found is None:
        return [Cell(f"{'':12}{step}")]
    status = found["status"] or ""
    style = "yellow" if status in _CHALLENGES else _STYLES.get(status[:1], "bold")
    text = f" {found['what']}{found['body'] or ''} "
    rest = "─" * max(0, _COLUMNS - 5 - len(text))
    ours = found["arrow"] == "→"
    before, after = ("◄" + rest, "──") if ours else ("──", rest + "►")
    return [
        Cell(f"{float(found['at']):8.3f} s  ", "dim"),
        Cell(f"  │{before}"),
        Cell(text, style),
        Cell(f"{after}│"),
    ]


def _media(sip: SipFigures, *, is_over: bool) -> Iterator[list[Cell]]:
    media = sip.media
    if media is None:
        yield [Cell("no sound went either way", "yellow")]
        return
    secrecy = f"encrypted ({sip.srtp})" if sip.srtp else "not encrypted"
    yield [Cell("sound" if is_over else "sound so far", "bold")]
    for name, text, style in (
        ("codec", f"{sip.codec or 'unknown'}, {secrecy}", ""),
        ("heard", _heard(media), "yellow" if media.lost + media.late else ""),
        ("made up", _made_up(media), ""),
        ("sent", _sent(media), ""),
        ("timing", _timing(media), ""),
        ("strangers", _strangers(media), "yellow"),
    ):
        if text:
            yield [Cell(f"  {name:<10}", "dim"), Cell(text, style)]
    yield _quality(media)


def _heard(media: MediaFigures) -> str:
    if not media.packets_in:
        return "nothing: no packet came"
    share = 100 * media.lost / max(1, media.packets_in + media.lost)
    parts = [f"{media.packets_in} packets", f"{media.lost} lost ({share:.1f} %)"]
    parts.append(f"{media.late} too late")
    parts += [f"{media.duplicates} twice"] if media.duplicates else []
    parts += [f"{media.discarded} thrown away to catch up"] if media.discarded else []
    parts += [f"{media.sources} sources in turn"] if media.sources > 1 else []
    return ", ".join(parts)


def _made_up(media: MediaFigures) -> str:
    parts = []
    if media.concealed_ms:
        parts.append(f"{media.concealed_ms / 1000:.2f} s in place of what was lost")
    if media.shortened_ms or media.lengthened_ms:
        parts.append(
            f"{media.shortened_ms} ms left out and {media.lengthened_ms} ms added to keep step"
        )
    return ", ".join(parts)


def _sent(media: MediaFigures) -> str:
    text = f"{media.packets_out} packets, {media.octets_out} bytes of sound"
    if media.remote_loss is not None:
        text += f"; the far end misses {100 * media.remote_loss:.1f} %"
    return text


def _timing(media: MediaFigures) -> str:
    parts = [f"jitter {media.jitter_ms:.1f} ms", f"our buffer adds {media.delay_ms:.0f} ms"]
    if media.round_trip_ms is not None:
        parts.append(f"round trip {media.round_trip_ms:.1f} ms")
    if media.remote_jitter_ms is not None:
        parts.append(f"jitter at the far end {media.remote_jitter_ms:.1f} ms")
    return ", ".join(parts)


def _strangers(media: MediaFigures) -> str:
    parts = [f"{media.foreign} packets from elsewhere, not heard"] if media.foreign else []
    parts += [f"{media.bad} that could not be read"] if media.bad else []
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Grade:
    """A word for an opinion score."""

    word: str
    style: str


def grade(mos: float) -> Grade:
    """What a mean opinion score means to those who talk."""
    if mos >= GOOD_MOS:
        return Grade("good", "green")
    if mos >= FAIR_MOS:
        return Grade("fair: some would complain", "yellow")
    return Grade("poor: many would complain", "red")


def _quality(media: MediaFigures) -> list[Cell]:
    name = Cell(f"  {'quality':<10}", "dim")
    if not media.packets_in:
        return [name, Cell("unknown, for nothing was heard", "red")]
    found = grade(media.mos)
    return [
        name,
        Cell(f"MOS {media.mos:.2f}, {found.word}", found.style),
        Cell(f" (R {media.r:.0f})"),
    ]
