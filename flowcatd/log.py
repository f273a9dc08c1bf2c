"""Log lines: an event name from a fixed vocabulary, and fields.

    log = get_logger()
    log.info("call.answered", call=call_id, carrier="twilio")

Names are `noun.past_participle` and stand in `EVENTS` with their meaning; a test fails on a call
that uses another. Info is one line per change of a call's or worker's state; a warning is for the
operator to act on; an error means that we broke a promise. What callers say, press or are called
may only stand in fields whose key begins with `pii_`: they are dropped unless `log.private`.

Lines go to standard error: text on a terminal, JSON elsewhere, with the `<6>` prefix journald turns
into a priority when stderr is the journal (sd-daemon(3)). A line that cannot be written is lost,
because a full disk or a closed terminal must not end a call. Loggers are assembled at their first
use and kept, so a level that is filtered out costs half a microsecond; `configure` and `set_level`
make them forget that, so both may come at any time, and `configure` must come again after a fork.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from flowcatd.environment import is_journal, wants_colour
from flowcatd.errors import FlowcatdError
from flowcatd.options import Log

EVENTS: tuple[tuple[str, str], ...] = (
    ("bridge.heard", "the metrics bridge gets figures from its daemon"),
    ("bridge.silenced", "nothing came from the daemon for ten seconds"),
    ("call.abandoned", "a call whose worker died was closed in its record: nobody came back"),
    ("call.answered", "a call is up: media flows"),
    ("call.ended", "a call is over and its record complete"),
    ("call.failed", "a call ended by a fault of ours; the traceback stands beside it"),
    ("call.invited", "an INVITE was let in"),
    ("call.leaked", "something of a call was still there five seconds after its end"),
    ("call.refused", "a call was turned away: no room, or not allowed"),
    ("call.resumed", "a call goes on after its worker died"),
    ("call.started", "a media connection named its call"),
    ("call.troubled", "something went wrong that the call survives; its record names it too"),
    ("call.unadopted", "a call over SIP whose worker died could not be taken up; it is hung up"),
    ("carrier.broken", "a carrier's socket broke its protocol and was closed"),
    ("connection.handed_over", "a connection went to the worker that its call belongs to"),
    ("connection.refused", "a connection was turned away before it became a call"),
    ("control.failed", "a control message raised; the others are answered"),
    ("control.refused", "a control message was not understood"),
    ("dns.failed", "a question to the DNS raised; what is known serves on"),
    ("dns.unconfigured", "the machine's resolver configuration cannot be read"),
    ("door.choked", "accepting pauses: there are no descriptors"),
    ("fellow.lost", "another worker's line broke its protocol, or took nothing in time"),
    ("fellow.refused", "somebody who is no worker of ours wanted to hand something over"),
    ("fleet.finished", "the last worker is gone; the daemon ends"),
    ("fleet.fork_failed", "a worker could not be started; it is tried again"),
    ("fleet.given_up", "starting workers again would not help; the daemon ends"),
    ("fleet.progressed", "a reload, scale or upgrade came one step further"),
    ("fleet.reload_failed", "a reload was begun and could not be finished"),
    ("fleet.reload_refused", "a reload or upgrade was refused; nothing changed"),
    ("fleet.reloaded", "all workers run the new configuration"),
    ("fleet.served", "all workers answer"),
    ("fleet.told", "the operator, or systemd, asked for something"),
    ("fleet.upgraded", "the supervisor becomes the program that is installed now"),
    ("helper.lost", "a speech process went away and is replaced"),
    ("helper.started", "a speech process is ready"),
    ("journal.broken", "a call's journal could not be read and was moved aside"),
    ("journal.refused", "journals cannot be kept; calls do not survive their worker"),
    ("keys.read", "who may connect over tcp was read anew"),
    ("load.shed", "what a worker gives up for lack of time changed"),
    ("loop.lagged", "a worker's loop stood still for longer than audio allows"),
    ("loop.raised", "something raised outside of any call"),
    ("peer.unreached", "a SIP connection could not be made"),
    ("record.lost", "what remains of a call could not be written"),
    ("switchboard.given_up", "the switchboard cannot serve, and why"),
    ("switchboard.lost", "the process of control and metrics is gone and is replaced"),
    ("switchboard.renewed", "the process of control and metrics ended as asked; a new one follows"),
    ("switchboard.started", "the switchboard serves"),
    ("switchboard.troubled", "something was dropped, not bound or not read; counted by kind"),
    ("trunk.found", "a trunk answers OPTIONS again, or does not any more"),
    ("trunk.limited", "part of a trunk does not work, and why"),
    ("trunk.lost", "a trunk's registration ran out"),
    ("trunk.refused", "a trunk's registration failed; it is tried again"),
    ("trunk.registered", "a trunk's registrar knows where we are"),
    ("trunk.unregistered", "a trunk's registration was taken back"),
    ("trunk.unresolved", "a trunk's name leads nowhere now"),
    ("trunks.changed", "the trunks were read again"),
    ("trunks.refused", "the trunks are wrong; the old ones stay"),
    ("trunks.uncounted", "there are more trunks than are counted over all workers"),
    ("worker.calls_lost", "a worker died with calls; what can be resumed will be"),
    ("worker.counted", "the supervisor knows that a worker serves"),
    ("worker.drained", "a worker takes no new calls and waits for its last ones"),
    ("worker.failed", "a worker could not serve, and why"),
    ("worker.gone", "a worker that was on its way out ended otherwise than it was asked to"),
    ("worker.lost", "a worker is gone unasked and will be replaced"),
    ("worker.orphaned", "a worker's supervisor is gone; it drains and ends"),
    ("worker.reaped", "a worker's process is gone, as asked"),
    ("worker.retired", "a worker was replaced; it finishes its calls and ends"),
    ("worker.started", "a worker serves"),
    ("worker.stopped", "a worker has given everything back and ends"),
    ("worker.told", "a worker was told to end at once"),
)
"""Every event there is, sorted by name, with its meaning."""

_PRIVATE = "pii_"
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
# Syslog's numbers, as sd-daemon(3) writes them before a line.
_PRIORITIES = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31;1"}
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+@")

_loggers: list[Any] = []
"""One per room of this process, for as long as it lives."""

Processor = Callable[[WrappedLogger, str, EventDict], EventDict]


def get_logger() -> FilteringBoundLogger:
    """A logger for this room, made at its first use; `bind(call=…)` gives one with fields fixed."""
    logger = structlog.get_logger()
    _loggers.append(logger)
    return cast("FilteringBoundLogger", logger)


def set_level(level: str) -> None:
    """From now on the least important line of this process has this level."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]))
    _forget()


def configure(options: Log, *, slot: int | None) -> None:
    """Set up logging for this process: `slot` is the worker's, None is the supervisor."""
    terminal = sys.stderr.isatty()
    as_text = options.format == "text" or (options.format == "auto" and terminal)
    processors: list[Any] = [_stamp(slot)]
    if options.private:
        processors.append(structlog.processors.format_exc_info)
    else:
        processors += [trace_without_values, drop_private]
    processors.append(_Text(coloured=wants_colour(sys.stderr)) if as_text else render_json)
    if is_journal(sys.stderr):
        processors.append(_prefix)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[options.level]),
        logger_factory=_Stderr,
        cache_logger_on_first_use=True,
    )
    _forget()


def _forget() -> None:
    """Make every logger assemble itself anew: structlog keeps the assembled one in `bind`."""
    for logger in _loggers:
        vars(logger).pop("bind", None)


def drop_private(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The event without its private fields."""
    if any(key.startswith(_PRIVATE) for key in event):
        return {key: value for key, value in event.items() if not key.startswith(_PRIVATE)}
    return event


def trace_without_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The traceback as places and the error's kind: another's message may hold what a caller said.

    Messages of our own errors are shown, since none ever holds such a thing (`errors.py`).
    """
    error = event.pop("exc_info", None)
    if isinstance(error, BaseException):
        places = "".join(traceback.format_tb(error.__traceback__))
        said = f": {error}" if isinstance(error, FlowcatdError) else ""
        event["exception"] = (
            f"Traceback (most recent call last):\n{places}{type(error).__name__}{said}"
        )
    return event


def render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """One JSON object: `at`, `level`, `slot`, `event`, then the fields."""
    try:
        return msgspec.json.encode(event, enc_hook=str).decode()
    except UnicodeEncodeError:
        # Half a surrogate pair, as file names may hold; a log line must never raise.
        return msgspec.json.encode({key: ascii(value) for key, value in event.items()}).decode()


class _Text:
    """One line for a person: time, level, worker, event, key=value."""

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> str:
        """The line; a traceback follows on lines of its own."""
        at, level, name = event.pop("at"), event.pop("level"), event.pop("event")
        slot, trace = event.pop("slot", None), event.pop("exception", "")
        who = "super" if slot is None else f"w{slot}"
        fields = " ".join(f"{key}={_quoted(value)}" for key, value in event.items())
        line = f"{at[11:23]} {level:<7} {who:<5} {name:<18} {fields}".rstrip()
        if self._coloured:
            line = (
                f"\x1b[2m{line[:12]}\x1b[0m \x1b[{_COLOURS[level]}m{line[13:20]}\x1b[0m{line[20:]}"
            )
        return f"{line}\n{trace}" if trace else line


class _Stderr:
    """Whatever standard error is at the moment of writing; never in the way of a call."""

    def __init__(self, *_names: object) -> None:
        """What structlog hands over is what `get_logger` was given: nothing."""

    def msg(self, line: str) -> None:
        """Write one line, at once and in one piece, or lose it.

        Past Python's buffer: what a closed terminal refused would wait there, and be the reason
        why an orderly end has exit status 120.
        """
        with contextlib.suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), f"{line}\n".encode(errors="backslashreplace"))

    debug = info = warning = error = critical = msg


def _stamp(slot: int | None) -> Processor:
    def stamp(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        head: EventDict = {"at": at, "level": method}
        if slot is not None:
            head["slot"] = slot
        head["event"] = event.pop("event")
        head.update(event)
        return head

    return stamp


def _prefix(_logger: WrappedLogger, method: str, line: str) -> str:
    return _PRIORITIES[method] + line


def _quoted(value: object) -> str:
    text = str(value)
    if text and _BARE.issuperset(text):
        return text
    return msgspec.json.encode(text.encode(errors="backslashreplace").decode()).decode()
