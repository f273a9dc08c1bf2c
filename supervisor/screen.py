"""How `flowcatd top` looks: a picture and a view in, lines of text out; and what its keys mean.

    View        what the person chose: order, scroll, pause, help
    keys        bytes of a terminal to names; press: the view after one of them
    render      (picture, view, width, height) to lines: never more than `height`, none over `width`

A column that finds no room is left out, least important first; nothing is ever wrapped. More workers
than lines are scrolled through, and the line of totals stays.

Pure: the figures are `supervisor/picture.py`'s, the terminal is `supervisor/top.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flowcatd.control import CallEvent
from supervisor.picture import SILENT_SECONDS, Figures, Picture
from supervisor.report import Cell, bar, draw, duration, fit, places, size, state_style, words

_EVENT_LINES = 6
_EVENT_COLUMNS = 8
_CALL_COLUMNS = 26  # a call id is as long
_CHROME_LINES = 3  # the headline, the columns' titles, the keys

# --- what the person chose -----------------------------------------------------------------------

SORTS: dict[str, Callable[[Figures], float]] = {
    "slot": lambda row: row.slot or 0,
    "calls": lambda row: -row.calls,
    "new": lambda row: -(row.new_per_second or 0),
    "lag": lambda row: -(row.lag_p99_ms or 0),
    "cpu": lambda row: -(row.cpu_percent or 0),
    "memory": lambda row: -(row.own_bytes or 0),
}
"""Orders, in the order that the key goes through them; the most comes first."""


@dataclass(frozen=True, slots=True)
class View:
    """How the picture is looked at."""

    sort: str = "slot"
    scroll: int = 0
    """How many rows are above the first that is shown."""
    is_paused: bool = False
    is_help: bool = False


_KEYS = {
    b"q": "quit",
    b"Q": "quit",
    b"\x1b": "quit",
    b"\x03": "quit",
    b"\x1a": "suspend",
    b"s": "sort",
    b"p": "pause",
    b" ": "pause",
    b"?": "help",
    b"h": "help",
    b"\x0c": "redraw",
    b"k": "up",
    b"j": "down",
    **dict.fromkeys((b"\x1b[A", b"\x1bOA"), "up"),
    **dict.fromkeys((b"\x1b[B", b"\x1bOB"), "down"),
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    **dict.fromkeys((b"\x1b[H", b"\x1bOH", b"\x1b[1~", b"g"), "first"),
    **dict.fromkeys((b"\x1b[F", b"\x1bOF", b"\x1b[4~", b"G"), "last"),
}


def keys(data: bytes) -> list[str]:
    """What was pressed, by name; keys that mean nothing here are left out."""
    pressed = []
    while data:
        key = data[: _key_length(data)]
        data = data[len(key) :]
        if (name := _KEYS.get(key)) is not None:
            pressed.append(name)
    return pressed


def _key_length(data: bytes) -> int:
    """An escape sequence ends with its final byte (ECMA-48 §5.4); everything else is one byte."""
    if data[:1] != b"\x1b" or data[1:2] not in {b"[", b"O"}:
        return 1
    for at in range(2, len(data)):
        if 0x40 <= data[at] <= 0x7E:
            return at + 1
    return len(data)


def press(view: View, key: str, *, rows: int, room: int) -> View:
    """The view after a key, when `room` of `rows` rows are shown."""
    names = list(SORTS)
    last = max(0, rows - room)
    moves = {"up": -1, "down": 1, "page up": -max(1, room), "page down": max(1, room)}
    moves |= {"first": -rows, "last": rows}
    if key in moves:
        return replace(view, scroll=min(last, max(0, min(view.scroll, last) + moves[key])))
    match key:
        case "sort":
            at = (names.index(view.sort) + 1) % len(names)
            return replace(view, sort=names[at], scroll=0)
        case "pause":
            return replace(view, is_paused=not view.is_paused)
        case "help":
            return replace(view, is_help=not view.is_help)
    return view


# --- lines ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    width: int
    importance: int
    """1 is left out last."""
    cell: Callable[[Figures], Cell]
    right: bool = True


def _number(value: float | None, form: str = "{:.0f}", *, warn: float = math.inf) -> Cell:
    if value is None:
        return Cell("-", "dim")
    style = "yellow" if value > warn else ""
    return Cell(">5s" if math.isinf(value) else form.format(value), style)


def _late(value: float | None) -> Cell:
    """Red when a carrier's buffer has run dry, yellow when a frame is late."""
    cell = _number(value)
    if value is None or value <= 20:
        return cell
    return Cell(cell.text, "red" if value > 60 else "yellow")


def _bytes(value: float | None) -> Cell:
    return Cell("-", "dim") if value is None else Cell(size(value))


def _bar_of(row: Figures, width: int) -> Cell:
    full = bool(row.capacity) and row.calls >= row.capacity
    return Cell(bar(row.calls, row.capacity, width), "red" if full else "green")


_BAR = "LOAD"
_BAR_MOST = 24
_COLUMNS = (
    _Column("SLOT", 4, 1, lambda row: Cell("all" if row.slot is None else str(row.slot))),
    _Column("STATE", 8, 3, lambda row: Cell(words(row.state), state_style(row.state)), right=False),
    _Column("CALLS", 9, 2, lambda row: Cell(places(row.calls, row.capacity))),
    _Column(_BAR, 7, 8, lambda row: _bar_of(row, 7), right=False),
    _Column("NEW/S", 5, 7, lambda row: _number(row.new_per_second, "{:.1f}")),
    _Column("LAG50", 5, 10, lambda row: _late(row.lag_p50_ms)),
    _Column("LAG99", 5, 4, lambda row: _late(row.lag_p99_ms)),
    _Column("GC", 4, 11, lambda row: _number(row.gc_ms, "{:.3g}", warn=20)),
    _Column("CPU%", 5, 5, lambda row: _number(row.cpu_percent, warn=90)),
    _Column("RSS", 5, 9, lambda row: _bytes(row.rss_bytes)),
    _Column("OWN", 5, 6, lambda row: _bytes(row.own_bytes)),
    _Column("FD", 4, 13, lambda row: _number(row.descriptors)),
    _Column("SH", 2, 12, lambda row: _number(row.shedding, warn=0)),
    _Column("PID", 7, 14, lambda row: Cell(str(row.pid or ""))),
    _Column("UP", 6, 15, lambda row: Cell(duration(row.seconds) if row.pid else "")),
    _Column("GEN", 3, 16, lambda row: Cell(str(row.generation or ""))),
)

_HELP = """\
calls   live calls / places of this worker           load    the same as a bar
new/s   calls begun per second                       cpu%    of one CPU
lag50, lag99  how late the loop was, in ms: half of the time, and 99 % of it, was not above this
gc      longest garbage collection pause, in ms      sh      shedding: 0 is nothing, 3 the most
rss     resident memory                              own     what is not shared with other workers
fd      open descriptors                             gen     which configuration it runs

Rates, lag and cpu are of the last second.

q, Esc, Ctrl-C   quit             s   next order        p, space   pause the picture
arrows, PgUp, PgDn, Home, End     scroll                ?, h       this page, and back
"""


def render(picture: Picture, view: View, width: int, height: int, *, colour: bool) -> list[str]:
    """The whole frame; blank lines stand where there is less to say."""
    lines = _help(height) if view.is_help else _lines(picture, view, width, height)
    return [draw(line, max(0, width), colour=colour) for line in lines[: max(0, height)]]


def room_for_rows(picture: Picture, height: int) -> int:
    """How many workers are shown at once."""
    return _heights(picture, height)[0]


def _heights(picture: Picture, height: int) -> tuple[int, bool, bool, int]:
    """Rows; whether there is room for the total and for the second headline; lines of events."""
    left = height - _CHROME_LINES
    total = left >= 3 and len(picture.rows) > 1
    second = left >= 6
    left -= total + second
    events = min(_EVENT_LINES, len(picture.events) + 2, left // 3) if left >= 9 else 0
    events = events if picture.events else 0
    # What the workers leave over is the events'.
    events = max(events, min(len(picture.events) + 2, left - len(picture.rows))) if events else 0
    return max(1, left - events), total, second, events


def _lines(picture: Picture, view: View, width: int, height: int) -> list[list[Cell]]:
    room, total, second, events = _heights(picture, height)
    rows = sorted(picture.rows, key=lambda row: (SORTS[view.sort](row), row.slot or 0))
    scroll = min(view.scroll, max(0, len(rows) - room))
    shown = rows[scroll : scroll + room]
    columns = _choose_columns(width)
    lines = [_headline(picture)]
    if second:
        lines.append(_second_line(picture))
    lines.append(_titles(columns, view.sort))
    lines += [_row(columns, row) for row in shown]
    if total and picture.total is not None:
        lines.append(
            [Cell(cell.text, cell.style or "bold") for cell in _row(columns, picture.total)]
        )
    if events:
        lines += [[], [Cell("LATELY", "dim")]]
        lines += [_event(event, picture.at_utc) for event in picture.events[: events - 2]]
    lines += [[]] * (height - 1 - len(lines))
    return [*lines[: max(0, height - 1)], _footer(view, len(rows), scroll, len(shown))]


def _choose_columns(width: int) -> list[_Column]:
    """The most important that fit; the bar takes what is left over."""
    chosen: list[_Column] = []
    left = width + 1
    for column in sorted(_COLUMNS, key=lambda column: column.importance):
        if column.width + 1 <= left or not chosen:
            chosen.append(column)
            left -= column.width + 1
    wide = min(_BAR_MOST, 7 + max(0, left))
    return [
        replace(column, width=wide, cell=lambda row: _bar_of(row, wide))
        if column.title == _BAR
        else column
        for column in _COLUMNS
        if column in chosen
    ]


def _titles(columns: Sequence[_Column], sort: str) -> list[Cell]:
    sorted_by = {"slot": "SLOT", "calls": "CALLS", "new": "NEW/S", "lag": "LAG99", "cpu": "CPU%"}
    marked = {**sorted_by, "memory": "OWN"}[sort]
    line = []
    for column in columns:
        text = fit(column.title, column.width, right=column.right)
        line += [Cell(text, "bold" if column.title == marked else "dim"), Cell(" ")]
    return line[:-1]


def _row(columns: Sequence[_Column], row: Figures) -> list[Cell]:
    line = []
    for column in columns:
        cell = column.cell(row)
        line += [Cell(fit(cell.text, column.width, right=column.right), cell.style), Cell(" ")]
    return line[:-1]


def _headline(picture: Picture) -> list[Cell]:
    if picture.silent_seconds > SILENT_SECONDS:
        waited = duration(picture.silent_seconds)
        return [Cell(f"nothing heard for {waited} from {picture.where}: is it running?", "red")]
    fleet, total = picture.fleet, picture.total
    if fleet is None:
        return [Cell(f"waiting for flowcatd at {picture.where}", "yellow")]
    line = [
        Cell("flowcatd", "bold"),
        Cell(f" {fleet.version}  "),
        Cell(fleet.state, state_style(fleet.state)),
        Cell(f"  up {duration(fleet.uptime_seconds)}"),
    ]
    if total is not None:
        line.append(Cell(f"  {total.calls} of {total.capacity} calls"))
        line += [Cell(f"  {total.new_per_second:.1f} new/s")] if total.new_per_second else []
        line += [Cell(f"  cpu {total.cpu_percent:.0f}%")] if total.cpu_percent is not None else []
    return line


def _second_line(picture: Picture) -> list[Cell]:
    fleet = picture.fleet
    if fleet is None:
        return []
    bad = fleet.last_reload not in {"", "done"}
    return [
        Cell(f"{fleet.address}  {fleet.slots} slots  generation {fleet.generation}", "dim"),
        Cell(f"  {fleet.restarts} lost", "yellow" if fleet.restarts else "dim"),
        Cell(
            f"  reload: {fleet.last_reload}" if fleet.last_reload else "", "red" if bad else "dim"
        ),
        Cell(f"  metrics {fleet.metrics_address}" if fleet.metrics_address else "", "dim"),
    ]


def _event(event: CallEvent, at_utc: float) -> list[Cell]:
    """No word or number of a caller is in it: how it went, and which call."""
    style = {"refused": "red", "resumed": "yellow"}.get(event.event, "")
    line = [
        Cell(fit(duration(at_utc - event.at_utc), 6, right=True), "dim"),
        Cell("  " + fit(event.event, _EVENT_COLUMNS), style),
        Cell("  " + fit(event.run_id or event.call_id, _CALL_COLUMNS)),
        Cell(f"  slot {event.slot:<3} ", "dim"),
    ]
    went = [words(event.reason)] if event.reason else []
    if event.event == "ended":
        went += [] if event.ended_by in event.reason else [f"by {event.ended_by}"]
        turns = "1 turn" if event.turns == 1 else f"{event.turns} turns"
        went += [duration(event.seconds), turns]
    who = "  ".join(
        word for word in (event.carrier, event.direction, event.trunk, event.agent) if word
    )
    return [*line, Cell(", ".join(went) + "  " if went else "", style), Cell(who, "dim")]


def _footer(view: View, rows: int, scroll: int, shown: int) -> list[Cell]:
    line = [Cell("PAUSED  ", "yellow")] if view.is_paused else []
    if shown < rows:
        line.append(Cell(f"{scroll + 1}-{scroll + shown} of {rows}  ", "bold"))
    return [*line, Cell(f"q quit  s order: {view.sort}  p pause  arrows scroll  ? help", "dim")]


def _help(height: int) -> list[list[Cell]]:
    lines: list[list[Cell]] = [[Cell(line)] for line in _HELP.splitlines()]
    lines += [[]] * (height - 1 - len(lines))
    return [*lines[: max(0, height - 1)], [Cell("? back  q quit", "dim")]]
