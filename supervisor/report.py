"""How the daemon looks to a person: `status` and `calls` as text, and the cells such text is made of.

What is wrong is said in words, with what to do next: `troubles` is that judgement, and a script's too,
for `flowcatd status` exits with 1 when there is any. Nothing that arrives is trusted with the
terminal: run ids and agents are other people's words, so whatever does not print, an escape sequence
above all, is shown as a question mark (`plain`). Widths are terminal columns: an East Asian wide
character fills two (Unicode Standard Annex 11).

Pure; `supervisor/screen.py` makes the moving picture of `flowcatd top` out of the same cells.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flowcatd.control import Calls, Fleet, TrunkLine, TrunksAre, WorkerLine

_SGR = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "reverse": "7"}
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_EMPTY = "·"
_COLOUR = re.compile(r"\x1b\[\d+m")
_ASCII = str.maketrans(
    dict.fromkeys("▏▎▍▌▋▊▉█", "#")
    | {"·": ".", "…": "~", "─": "-", "│": "|", "►": ">", "◄": "<", "→": ">", "←": "<"}
)

STATE_STYLES = {
    **dict.fromkeys(("ready", "serving"), "green"),
    **dict.fromkeys(("hung", "overdue", "stalled", "killed"), "red"),
}
"""Every other state is on its way from one to another, and yellow."""
_TAKES_CALLS = "ready"
_REPLACED = "retiring"
_NOT_REGISTERED = "failed"
_LEAVING = frozenset({"draining", "stopping"})
"""States of the fleet in which a slot without a worker is as it should be."""


# --- cells ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of a line; `style` is a word of _SGR, or empty."""

    text: str
    style: str = ""


def plain(text: str) -> str:
    """The text with everything that a terminal would obey, or that has no width, replaced."""
    if text.isascii() and text.isprintable():
        return text
    composed = unicodedata.normalize("NFC", text)
    return "".join(char if char.isprintable() and _columns(char) else "?" for char in composed)


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Exactly `width` columns of it: padded, or cut with `…` as the last."""
    text = plain(text)
    wide = columns_of(text)
    if wide > width:
        text, wide = _cut(text, width - 1)
        if width > 0:
            text, wide = text + "…", wide + 1
    padding = " " * (width - wide)
    return padding + text if right else text + padding


def paint(cell: Cell, *, colour: bool) -> str:
    """The cell as a terminal shows it."""
    if not colour or not cell.style or not cell.text.strip():
        return cell.text
    return f"\x1b[{_SGR[cell.style]}m{cell.text}\x1b[0m"


def draw(cells: Iterable[Cell], width: int, *, colour: bool) -> str:
    """One line of at most `width` columns, without blanks at its end."""
    drawn: list[Cell] = []
    left = width
    for cell in cells:
        text = plain(cell.text)
        wide = columns_of(text)
        if wide > left:
            text, wide = fit(text, left), left
        drawn.append(Cell(text, cell.style))
        left -= wide
        if left <= 0:
            break
    return "".join(paint(cell, colour=colour) for cell in drawn).rstrip()


def bar(part: float, whole: float, width: int) -> str:
    """How full it is, to an eighth of a column; something is never shown as nothing."""
    eighths = 0
    if whole > 0 and part > 0:
        eighths = max(1, min(width * 8, int(part / whole * width * 8)))
    full, rest = divmod(eighths, 8)
    text = "█" * full + (_EIGHTHS[rest] if rest else "")
    return (text + _EMPTY * width)[:width]


def duration(seconds: float) -> str:
    """`12s`, `4m12s`, `3h12m`, `2d04h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def size(amount: float) -> str:
    """`640K`, `182M`, `1.2G` of bytes, in powers of 1024; at most five characters."""
    kibi = amount / 1024
    if kibi < 1000:
        return f"{kibi:.0f}K"
    mebi = kibi / 1024
    return f"{mebi:.0f}M" if mebi < 1000 else f"{mebi / 1024:.1f}G"


def speakable(text: str, encoding: str | None) -> str:
    """The text for a stream of this encoding: bars of `#` where it has no blocks."""
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return text.translate(_ASCII).encode("ascii", "replace").decode()
    return text


def columns_of(line: str) -> int:
    """How many columns a drawn line fills; its colours fill none."""
    return sum(map(_columns, _COLOUR.sub("", line)))


def state_style(state: str) -> str:
    """The colour of a worker's or the fleet's state."""
    return STATE_STYLES.get(state, "yellow")


def words(state: str) -> str:
    """A state as a person reads it."""
    return state.replace("_", " ")


def places(calls: int, capacity: int) -> str:
    """`3/200`, or the calls alone of a worker that takes no more."""
    return f"{calls}/{capacity}" if capacity else str(calls)


def _columns(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _cut(text: str, width: int) -> tuple[str, int]:
    """As much of the beginning as fits, and its columns."""
    wide = 0
    for at, char in enumerate(text):
        if wide + _columns(char) > max(0, width):
            return text[:at], wide
        wide += _columns(char)
    return text, wide


# --- what is wrong -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that an operator should act upon."""

    wrong: str
    remedy: str


def troubles(fleet: Fleet | None) -> list[Trouble]:
    """Everything that is wrong, most urgent first; empty when all is well."""
    if fleet is None:
        return [
            Trouble(
                "the supervisor has not reported to its switchboard yet",
                "ask again in a second; if it stays so, read the log",
            )
        ]
    found = [] if fleet.state in _LEAVING else _unfilled(fleet)
    serving = [line for line in fleet.workers if line.state == _TAKES_CALLS]
    found += [
        Trouble(
            f"slot {line.slot} takes no new calls: its loop is {line.lag_ms:.0f} ms late",
            "give it fewer calls (calls.per_worker), or more CPUs and `flowcatd scale N`",
        )
        for line in serving
        if line.shedding
    ]
    if serving and all(line.capacity and line.calls >= line.capacity for line in serving):
        found.append(
            Trouble(
                "every worker is full: new callers are refused",
                "`flowcatd scale N` adds workers; calls.per_worker is what one takes",
            )
        )
    if fleet.last_reload not in {"", "done"}:
        found.append(
            Trouble(
                f"the last reload failed: {fleet.last_reload}",
                "the old configuration is still in force; correct the new one, try it with "
                "`flowcatd check`, then `flowcatd reload`",
            )
        )
    return found


def trunk_troubles(trunks: Iterable[TrunkLine]) -> list[Trouble]:
    """What is wrong with SIP trunks."""
    found = []
    for trunk in trunks:
        if trunk.registration == _NOT_REGISTERED:
            tries = "1 attempt" if trunk.failures == 1 else f"{trunk.failures} attempts"
            found.append(
                Trouble(
                    f"trunk {trunk.name} is not registered: {tries} in a row failed",
                    "it goes on trying; the log says what the registrar answered; nobody can call "
                    "in by this trunk meanwhile",
                )
            )
        if trunk.alive is False:
            found.append(
                Trouble(
                    f"trunk {trunk.name} does not answer our OPTIONS",
                    "no call of ours goes there until it does; look whether its host is up, and "
                    "whether a firewall lets us through",
                )
            )
    return found


def _unfilled(fleet: Fleet) -> list[Trouble]:
    by_slot: dict[int, list[WorkerLine]] = {}
    for line in fleet.workers:
        by_slot.setdefault(line.slot, []).append(line)
    found = []
    for slot in range(fleet.slots):
        lines = by_slot.get(slot, [])
        if any(line.state == _TAKES_CALLS for line in lines):
            continue
        known = ", ".join(
            f"pid {line.pid} is {line.state}" if line.pid else f"no process, {words(line.state)}"
            for line in lines
        )
        found.append(
            Trouble(
                f"slot {slot} serves nobody: {known or 'it has no process'}",
                "it should pass within seconds; if not, the log says why (worker.lost, worker.failed)",
            )
        )
    return found


def notes(fleet: Fleet, installed: str) -> list[str]:
    """What is good to know, and not wrong."""
    found = []
    if fleet.restarts:
        were = "worker was" if fleet.restarts == 1 else "workers were"
        found.append(
            f"{fleet.restarts} {were} lost unasked since the start; the log says why (worker.lost)"
        )
    if fleet.version != installed:
        found.append(
            f"flowcatd {installed} is installed and {fleet.version} is running; "
            "`flowcatd upgrade` brings the installed one up"
        )
    old = sum(line.calls for line in fleet.workers if line.state == _REPLACED)
    if old:
        calls = "1 call finishes" if old == 1 else f"{old} calls finish"
        found.append(f"{calls} on workers that were replaced or taken away")
    return found


# --- status and calls ----------------------------------------------------------------------------

_WORKERS = ("SLOT", "PID", "STATE", "CALLS", "", "LAG", "MEMORY", "UP", "GEN")
_CALLS = (
    *("CALL", "RUN", "CARRIER", "WAY", "TRUNK", "AGENT"),
    *("SLOT", "STATE", "TIME", "TURNS", "RESUMED"),
)
_TRUNKS = ("TRUNK", "REGISTERED", "EXPIRES", "FAILED", "ANSWERS", "IN", "OUT")
_RIGHT = frozenset(
    {
        *("SLOT", "PID", "CALLS", "LAG", "MEMORY", "UP", "GEN", "TIME", "TURNS", "RESUMED"),
        *("EXPIRES", "FAILED", "IN", "OUT"),
    }
)
_REGISTERED = {"": "-", "off": "not wanted", "registered": "yes", "failed": "no"}
"""How a registration is shown; any other word of it as it is."""
_REGISTERED_STYLES = {"registered": "green", "failed": "red", "": "dim", "off": "dim"}
_ANSWERS = {None: Cell("-", "dim"), True: Cell("yes", "green"), False: Cell("no", "red")}
_RELOADS = {"": "none since the start", "done": "done"}
_RUN_COLUMNS = 24
_NAME_COLUMNS = 20
_BAR_COLUMNS = 12


def render_status(
    fleet: Fleet | None,
    memory: Mapping[int, int],
    installed: str,
    trunks: Sequence[TrunkLine] = (),
    *,
    colour: bool,
) -> str:
    """The whole answer of `flowcatd status`; `memory` is bytes by pid, where it is known."""
    lines = [] if fleet is None else [*_status_head(fleet), [], *_worker_table(fleet, memory)]
    if trunks:
        lines += [[], *_trunk_table(trunks)]
    wrong = [*troubles(fleet), *trunk_troubles(trunks)]
    if wrong and lines:
        lines.append([])
    for trouble in wrong:
        lines += [
            [Cell("wrong: ", "red"), Cell(trouble.wrong, "bold")],
            [Cell(f"       {trouble.remedy}")],
        ]
    if fleet is not None and (known := notes(fleet, installed)):
        lines += [[], *([Cell("note:  ", "dim"), Cell(note)] for note in known)]
    return _page(lines, colour=colour)


def render_troubles(fleet: Fleet | None, trunks: Sequence[TrunkLine] = (), *, colour: bool) -> str:
    """Only what is wrong, one line each; empty when all is well."""
    found = [*troubles(fleet), *trunk_troubles(trunks)]
    return _page([[Cell(f"{one.wrong} ({one.remedy})", "red")] for one in found], colour=colour)


def render_calls(answer: Calls, *, colour: bool) -> str:
    """The table of `flowcatd calls`, oldest call first."""
    rows = [
        [
            Cell(call.call_id),
            Cell(fit(call.run_id, min(len(call.run_id), _RUN_COLUMNS))),
            Cell(call.carrier),
            Cell(call.direction),
            Cell(fit(call.trunk, min(len(call.trunk), _NAME_COLUMNS))),
            Cell(fit(call.agent, min(len(call.agent), _NAME_COLUMNS))),
            Cell(str(call.slot)),
            Cell(call.state),
            Cell(duration(call.seconds)),
            Cell(str(call.turns)),
            Cell(str(call.resumed) if call.resumed else ""),
        ]
        for call in sorted(answer.calls, key=lambda call: -call.seconds)
    ]
    lines = _table(_CALLS, rows) if rows else [[Cell("no calls are up")]]
    lines += _silent(answer.missing, "their calls are missing")
    if answer.left_off:
        lines.append([Cell(f"and {answer.left_off} more, too many for one answer", "yellow")])
    return _page(lines, colour=colour)


def render_trunks(answer: TrunksAre, *, colour: bool) -> str:
    """The table of `flowcatd trunks`, and below it what is wrong."""
    lines = [[Cell("there are no trunks; conf/trunks.d is where they are written")]]
    if answer.trunks:
        lines = _trunk_table(answer.trunks)
    for trouble in trunk_troubles(answer.trunks):
        lines += [
            [Cell("wrong: ", "red"), Cell(trouble.wrong, "bold")],
            [Cell(f"       {trouble.remedy}")],
        ]
    lines += _silent(answer.missing, "what they know of trunks is missing")
    return _page(lines, colour=colour)


def _silent(slots: Sequence[int], missing: str) -> list[list[Cell]]:
    """Who did not answer, as a line."""
    if not slots:
        return []
    return [[Cell(f"not answered in time, {missing}: slot {', '.join(map(str, slots))}", "red")]]


def _trunk_table(trunks: Iterable[TrunkLine]) -> list[list[Cell]]:
    rows = [
        [
            Cell(trunk.name),
            Cell(
                _REGISTERED.get(trunk.registration, trunk.registration),
                _REGISTERED_STYLES.get(trunk.registration, "yellow"),
            ),
            Cell(duration(trunk.expires_seconds) if trunk.expires_seconds else ""),
            Cell(str(trunk.failures) if trunk.failures else "", "yellow"),
            _ANSWERS[trunk.alive],
            Cell(str(trunk.inbound)),
            Cell(str(trunk.outbound)),
        ]
        for trunk in trunks
    ]
    return _table(_TRUNKS, rows)


def _status_head(fleet: Fleet) -> list[list[Cell]]:
    taken = sum(line.calls for line in fleet.workers)
    places = sum(line.capacity for line in fleet.workers if line.state == _TAKES_CALLS)
    metrics = fleet.metrics_address
    if metrics and "://" not in metrics:
        metrics = f"http://{metrics}/metrics"
    facts = (
        ("address", fleet.address),
        ("metrics", metrics or "not served here"),
        ("config", f"{fleet.config}, generation {fleet.generation}"),
        ("reload", _RELOADS.get(fleet.last_reload, "failed, see below")),
        ("calls", f"{taken} up, {places} places" if places else f"{taken} up, no places"),
    )
    first = [
        Cell(f"flowcatd {fleet.version}", "bold"),
        Cell(" is "),
        Cell(fleet.state, state_style(fleet.state)),
        Cell(f", up {duration(fleet.uptime_seconds)}, pid {fleet.pid}"),
    ]
    return [first, *([Cell(f"  {name:<9}", "dim"), Cell(text)] for name, text in facts)]


def _worker_table(fleet: Fleet, memory: Mapping[int, int]) -> list[list[Cell]]:
    rows = []
    # From another machine nobody's memory is known: the column is left out.
    unknown = "-" if memory else ""
    for line in sorted(fleet.workers, key=lambda line: (line.slot, line.seconds)):
        late = "red" if line.shedding else ""
        rows.append(
            [
                Cell(str(line.slot)),
                Cell(str(line.pid or "-")),
                Cell(words(line.state), state_style(line.state)),
                Cell(places(line.calls, line.capacity)),
                Cell(bar(line.calls, line.capacity, _BAR_COLUMNS)),
                Cell(f"{line.lag_ms:.1f} ms", late),
                Cell(size(memory[line.pid]) if line.pid in memory else unknown),
                Cell(duration(line.seconds)),
                Cell(str(line.generation)),
            ]
        )
    return _table(_WORKERS, rows) if rows else [[Cell("  there are no workers", "yellow")]]


def _table(titles: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[list[Cell]]:
    """Columns as wide as their widest cell, two blanks apart; empty columns are left out."""
    table = [[Cell(title, "dim") for title in titles], *rows]
    widths = [
        max((columns_of(plain(row[at].text)) for row in rows), default=0)
        for at in range(len(titles))
    ]
    return [
        [
            piece
            for cell, title, width in zip(row, titles, widths, strict=True)
            if width
            for piece in (
                Cell("  "),
                Cell(fit(cell.text, max(width, len(title)), right=title in _RIGHT), cell.style),
            )
        ]
        for row in table
    ]


def _page(lines: Iterable[Iterable[Cell]], *, colour: bool) -> str:
    # Not cut: a terminal may wrap what a person must read, and a pipe has no width.
    return "".join(f"{draw(line, 100_000, colour=colour)}\n" for line in lines)
