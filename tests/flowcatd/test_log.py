"""Facts about log lines: the vocabulary is closed, private fields stay out, nothing ever raises."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flowcatd.log import EVENTS, drop_private

ROOT = Path(__file__).parents[2]
KNOWN = {name for name, _ in EVENTS}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}

PROGRAM = """
import sys
from flowcatd.log import configure, get_logger
from flowcatd.options import Log
log = get_logger()
configure(Log(level={level!r}, format={format!r}, private={private}), slot={slot})
{body}
"""


def said(body, *, level="info", form="json", private=False, slot=3, environ=None, stderr=None):
    """What a fresh process writes to standard error."""
    code = PROGRAM.format(level=level, format=form, private=private, slot=slot, body=body)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), **(environ or {})},
        stderr=stderr or subprocess.PIPE,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def _log_calls():
    for package in ("flowcatd", "workers", "supervisor"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in LEVELS
                    and isinstance(node.func.value, ast.Name | ast.Attribute)
                    and ast.unparse(node.func.value).lstrip("_").split(".")[-1].lstrip("_") == "log"
                ):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_log_call_uses_the_vocabulary():
    """An event that `EVENTS` does not explain, or that is put together, fails."""
    strangers = [
        f"{place}: {ast.unparse(node.args[0])}"
        for place, node in _log_calls()
        if not (
            node.args
            and all(
                isinstance(name, ast.Constant) and name.value in KNOWN
                for name in _names(node.args[0])
            )
        )
    ]
    assert strangers == []


def _names(argument):
    """An event's name, or the two of a choice."""
    return [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]


def test_the_look_at_log_calls_finds_some():
    """The test above is not passing for lack of calls."""
    assert sum(1 for _ in _log_calls()) > 5


def test_the_vocabulary_is_sorted_and_well_formed():
    """`noun.past_participle`, each once, each with its meaning."""
    names = [name for name, _ in EVENTS]
    assert names == sorted(set(names))
    assert [name for name in names if not re.fullmatch(r"[a-z]+\.[a-z_]+", name)] == []
    assert [name for name, meaning in EVENTS if len(meaning) < 10] == []


def test_a_json_line_is_one_object():
    """Time, level, worker and event come first, then the fields in their order."""
    line = json.loads(said("log.info('call.ended', call='a', n=1, path=sys.path.__class__)"))
    assert list(line) == ["at", "level", "slot", "event", "call", "n", "path"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["at"])
    assert (line["level"], line["slot"], line["event"]) == ("info", 3, "call.ended")


def test_the_supervisor_has_no_slot():
    """Its lines say so by leaving it out."""
    assert "slot" not in json.loads(said("log.info('fleet.served')", slot=None))


def test_a_text_line_reads_from_left_to_right():
    """Time, level, worker, event, fields; what has spaces is quoted, and nothing can fake a line."""
    body = "log.warning('call.ended', call='a', why='b c', evil='x\\n00:00 error', esc='\\x1b[2J')"
    line = said(body, form="text")
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3} warning w3    call\.ended         call=a why=\"b c\" "
        r"evil=\"x\\n00:00 error\" esc=\"\\u001b\[2J\"\n",
        line,
    )


@pytest.mark.parametrize("form", ["text", "json"])
def test_private_fields_are_dropped(form):
    """Nothing that callers said, pressed or are called stays, also not bound to the logger."""
    body = "log.bind(pii_a='canary1').error('call.failed', pii_b='canary2', call='kept')"
    line = said(body, form=form)
    assert "canary" not in line
    assert "pii_" not in line
    assert "kept" in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_private_fields_are_shown_on_request(form):
    """`log.private` is for a test line of one's own."""
    assert "canary" in said("log.info('call.ended', pii_x='canary')", form=form, private=True)


def test_an_event_without_private_fields_is_not_copied():
    """The common case costs a look."""
    event = {"event": "x"}
    assert drop_private(None, "info", event) is event


@pytest.mark.parametrize(
    ("level", "lines"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)]
)
def test_levels_filter(level, lines):
    """What is less important than the level is not written."""
    body = "for name in ('debug', 'info', 'warning', 'error'): getattr(log, name)('call.ended')"
    assert len(said(body, level=level).splitlines()) == lines


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_brings_its_traceback(form):
    """Also when it is handed over as a value."""
    body = "try: 1/0\nexcept Exception as error: caught = error\n"
    body += "log.error('call.failed', exc_info=caught)"
    line = said(body, form=form)
    assert "ZeroDivisionError" in line
    assert "Traceback" in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_somebody_elses_error_says_is_private(form):
    """Its places and kind are shown, its message only where `log.private` is; ours always is."""
    body = "from flowcatd.errors import LocalError\n"
    body += "words = 'thurs' + 'day'\n"  # not in the source line that a traceback shows
    body += "try: raise {}\nexcept Exception as error: log.error('call.failed', exc_info=error)"
    theirs, ours = body.format("KeyError(words)"), body.format("LocalError(words)")
    assert "KeyError" in said(theirs, form=form)
    assert "thursday" not in said(theirs, form=form)
    assert "thursday" in said(theirs, form=form, private=True)
    assert "thursday" in said(ours, form=form)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_value_makes_a_line_raise(form):
    """Half a surrogate, numbers beyond 64 bits, bytes, cyclic and foreign objects."""
    body = (
        "log.info('call.ended', a='\\udc80', b=2**80, c=b'x', d={1, 2}, e=object(), f=float('nan'))"
    )
    assert said(body, form=form).count("\n") == 1


def test_a_full_disk_loses_the_line_and_nothing_else():
    """/dev/full refuses every write; the program goes on."""
    with open("/dev/full", "w") as full:  # noqa: PTH123 a device, opened for its refusals
        said("log.info('call.ended')\nlog.info('call.ended')\nsys.stderr = None", stderr=full)


def test_the_journal_gets_priorities(tmp_path):
    """sd-daemon(3): `<4>` before a line is a warning."""
    path = tmp_path / "journal"
    with path.open("w") as stream:
        status = path.stat()
        said(
            "log.warning('call.ended')\nlog.error('call.ended')",
            environ={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
            stderr=stream,
        )
    first, second = path.read_text().splitlines()
    assert first.startswith('<4>{"at":')
    assert second.startswith('<3>{"at":')


def test_the_level_can_change_while_a_process_runs():
    """A logger that was used already, and assembled, follows; both ways."""
    body = (
        "from flowcatd.log import set_level\n"
        "log.debug('call.started', n=1)\nset_level('debug')\nlog.debug('call.started', n=2)\n"
        "set_level('error')\nlog.info('call.started', n=3)"
    )
    assert [json.loads(line)["n"] for line in said(body).splitlines()] == [2]
