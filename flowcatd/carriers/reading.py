"""Control messages of one row, read: an object in, the event that it means out.

Stateless. Whether an event is due (a digit before the start, a second start) is decided by the core
in `json_media.py`; this file knows only where the row's templates put their values. Media are read
there too, by type and fast; one that ends up here was malformed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

from flowcatd.carriers import message as wire
from flowcatd.carriers.events import CarrierEvent, Cleared, Digit, MarkReached, Started, Stopped
from flowcatd.carriers.message import Path, Slot, Template
from flowcatd.carriers.table import Format, Row
from flowcatd.errors import CarrierError

Message = Mapping[str, object]


class Reading:
    """One row, seen from the side that receives what the carrier sends."""

    def __init__(self, row: Row) -> None:
        """Walks the row's templates once; see `reading_of`."""
        self.row = row
        self.start: dict[Slot, Path] = _paths(row.start)
        self.digit: Path | None = wire.find(row.dtmf, Slot.DIGIT)
        self.name: Path | None = wire.find(row.mark, Slot.NAME)
        self._meanings: dict[str, _Meaning] = {}
        for column, meaning in _MEANINGS.items():
            template: Template | None = getattr(row, column)
            if template is not None:
                self._meanings[str(template["event"])] = meaning

    def read(self, message: Message) -> tuple[CarrierEvent, ...] | None:
        """What it means, which may be nothing; None when its event is not one of the row's.

        Raises CarrierError when a field that the event needs is missing or wrong.
        """
        event = message.get("event")
        if not isinstance(event, str):
            raise CarrierError("a message without its event", 1007)
        meaning = self._meanings.get(event)
        return None if meaning is None else meaning(self, message)


@cache
def reading_of(row: Row) -> Reading:
    """The reading of a row, made once: rows are constants, so this cache is as long as the table."""
    return Reading(row)


def _hello(_reading: Reading, _message: Message) -> tuple[CarrierEvent, ...]:
    return ()


def _start(reading: Reading, message: Message) -> tuple[CarrierEvent, ...]:
    paths = reading.start
    form = _format(reading, message)
    parameters = wire.at(message, paths.get(Slot.PARAMETERS, paths.get(Slot.HEADERS)))
    started = Started(
        call_id=wire.read_text(message, paths.get(Slot.CALL), "call id"),
        stream_id=wire.read_text(message, paths.get(Slot.STREAM), "stream id"),
        encoding=form.encoding,
        rate_hz=form.rate_hz,
        parameters=wire.read_parameters(parameters),
    )
    return (started,)


def _format(reading: Reading, message: Message) -> Format:
    """The format that a start announces, as far as its template has places for it."""
    offered = reading.row.formats
    if Slot.ENCODING in reading.start:
        word = wire.read_text(message, reading.start[Slot.ENCODING], "encoding")
        word = word.partition(";")[0].strip().lower()
        offered = tuple(form for form in offered if form.wire == word)
    if Slot.RATE in reading.start:
        rate = wire.at(message, reading.start[Slot.RATE])
        if rate is None:
            raise CarrierError("a message without its sample rate", 1007)
        # Some carriers write the number as text.
        offered = tuple(form for form in offered if rate in (form.rate_hz, str(form.rate_hz)))
    if not offered:
        allowed = ", ".join(f"{form.wire} at {form.rate_hz} Hz" for form in reading.row.formats)
        raise CarrierError(f"a start whose format is none of {allowed}", 1008)
    return offered[0]


def _media(_reading: Reading, _message: Message) -> tuple[CarrierEvent, ...]:
    raise CarrierError("a media message without a payload in base64", 1007)


def _dtmf(reading: Reading, message: Message) -> tuple[CarrierEvent, ...] | None:
    digit = wire.read_text(message, reading.digit, "digit").upper()
    return (Digit(digit),) if digit in wire.KEYS else None


def _mark(reading: Reading, message: Message) -> tuple[CarrierEvent, ...]:
    return (MarkReached(wire.read_text(message, reading.name, "mark's name")),)


def _cleared(_reading: Reading, _message: Message) -> tuple[CarrierEvent, ...]:
    return (Cleared(),)


def _stop(_reading: Reading, _message: Message) -> tuple[CarrierEvent, ...]:
    return (Stopped("stop"),)


def _paths(template: Template | None) -> dict[Slot, Path]:
    found = ((slot, wire.find(template, slot)) for slot in Slot)
    return {slot: path for slot, path in found if path is not None}


_Meaning = Callable[[Reading, Message], tuple[CarrierEvent, ...] | None]

_MEANINGS: Final[dict[str, _Meaning]] = {
    "hello": _hello,
    "start": _start,
    "media": _media,
    "dtmf": _dtmf,
    "mark": _mark,
    "cleared": _cleared,
    "stop": _stop,
}
"""The columns of a row that a carrier sends."""
