"""Facts about the operator's commands: what they say, what they ask, and their exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from flowcatd.control import (
    Answer,
    AskCalls,
    AskDrain,
    AskHangUp,
    AskLogLevel,
    AskReload,
    AskScale,
    AskStatus,
    AskTrunks,
    AskUpgrade,
    CallLine,
    Calls,
    Refused,
    Status,
    TrunkLine,
    TrunksAre,
)
from supervisor.cli import main
from tests.supervisor.toy_switchboard import fleet, toy, worker

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(60)


def answering(text, **facts):
    """A script: one last answer."""
    return lambda ask: [Answer(id=ask.id, text=text, **facts)]


def operate(board, *words):
    """`flowcatd WORDS` in this process; the exit code."""
    return main([*words, "--connect", board.endpoint])


def begin(board, *words):
    """The same as a process of its own."""
    code = "import sys; from supervisor.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words, "--connect", board.endpoint],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- status --------------------------------------------------------------------------------------


def test_status_shows_the_daemon_and_its_workers_and_exits_0(capsys):
    """All that a person asks first."""
    with toy() as board:
        assert operate(board, "status") == 0
    told = capsys.readouterr().out
    assert "flowcatd 1.2.3 is serving, up 1d03h, pid 4000100\n" in told
    for line in (
        "address  127.0.0.1:6210",
        "metrics  http://127.0.0.1:9464/metrics",
        "config   conf/flowcatd.toml, generation 1",
        "reload   none since the start",
        "calls    6 up, 400 places",
    ):
        assert f"  {line}\n" in told
    assert re.search(r"^ +0  4000000  ready +3/200  ▏·{11} +1\.2 ms ", told, re.MULTILINE)
    assert "\x1b" not in told
    assert "wrong" not in told


def test_status_says_what_is_wrong_and_what_to_do_and_exits_1(capsys):
    """For a person in words, for a script as the exit code."""
    ill = fleet([worker(0), worker(1, state="backing_off", pid=0)], last_reload="conf:3: no")
    with toy({AskStatus: lambda ask: [Status(id=ask.id, fleet=ill)]}) as board:
        assert operate(board, "status") == 1
        told = capsys.readouterr().out
        assert operate(board, "status", "--check") == 1
        short = capsys.readouterr().out
    assert "wrong: slot 1 serves nobody" in told
    assert "wrong: the last reload failed: conf:3: no" in told
    assert "flowcatd reload" in told
    assert len(short.splitlines()) == 2


def test_check_is_silent_when_all_is_well(capsys):
    """For cron."""
    with toy() as board:
        assert operate(board, "status", "--check") == 0
    assert capsys.readouterr().out == ""


def test_status_as_json_is_the_fleet_message(capsys):
    """With its type and version, on one line."""
    with toy() as board:
        assert operate(board, "status", "--json") == 0
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    facts = json.loads(told)
    assert (facts["type"], facts["v"], facts["slots"]) == ("fleet", 1, 2)
    assert facts["workers"][1]["pid"] == 4_000_001


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("status", "--check")])
def test_a_supervisor_that_has_not_reported_is_something_wrong(words, capsys):
    """The switchboard was just forked again."""
    with toy({AskStatus: lambda ask: [Status(id=ask.id)]}) as board:
        assert operate(board, *words) == 1
    told = capsys.readouterr()
    assert "the supervisor has not reported" in told.out + told.err


def test_status_knows_the_memory_of_workers_on_this_machine(capsys):
    """Of a child of the daemon's process, and of nobody who merely has its pid."""
    lines = [worker(0, pid=os.getpid())]
    for parent, shown in ((os.getppid(), r" ms +\d+M "), (os.getpid(), r" ms +1h06m ")):
        known = fleet(lines, pid=parent)
        with toy({AskStatus: lambda ask, known=known: [Status(id=ask.id, fleet=known)]}) as board:
            operate(board, "status")
        assert re.search(shown, capsys.readouterr().out)


# --- calls ---------------------------------------------------------------------------------------


def call(number, **changes):
    """One live call."""
    facts = {
        "call_id": f"c{number}",
        "run_id": "r" * 40,
        "carrier": "twilio",
        "agent": "appointment",
        "slot": 1,
        "state": "up",
        "seconds": 60.0 + number,
        "turns": 4,
    }
    return CallLine(**(facts | changes))


def test_calls_are_a_table_oldest_first(capsys):
    """With run ids cut, because they are as long as their database likes."""
    answer = [call(1), call(2, run_id="short", resumed=1)]
    with toy({AskCalls: lambda ask: [Calls(id=ask.id, calls=answer)]}) as board:
        assert operate(board, "calls") == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["CALL", "RUN", "CARRIER"]
    assert [row.split()[0] for row in rows] == ["c2", "c1"]
    assert rows[0].split()[-1] == "1"
    assert "r" * 23 + "…" in rows[1]


def test_no_calls_says_so(capsys):
    """An empty page would be a question."""
    with toy({AskCalls: lambda ask: [Calls(id=ask.id, calls=[])]}) as board:
        assert operate(board, "calls") == 0
    assert capsys.readouterr().out == "no calls are up\n"


def test_slots_that_did_not_answer_are_named_and_exit_1(capsys):
    """A list that is not whole must not look whole."""
    with toy({AskCalls: lambda ask: [Calls(id=ask.id, calls=[], missing=[1, 3])]}) as board:
        assert operate(board, "calls") == 1
    assert "slot 1, 3" in capsys.readouterr().out


def test_calls_that_did_not_fit_are_counted(capsys):
    """Some thousand fit; who has more must know that there are more."""
    with toy({AskCalls: lambda ask: [Calls(id=ask.id, calls=[call(1)], left_off=7)]}) as board:
        assert operate(board, "calls") == 0
    assert "and 7 more" in capsys.readouterr().out


def test_calls_as_json_are_the_message(capsys):
    """For programs."""
    with toy({AskCalls: lambda ask: [Calls(id=ask.id, calls=[call(1)])]}) as board:
        assert operate(board, "calls", "--json") == 0
    assert json.loads(capsys.readouterr().out)["calls"][0]["call_id"] == "c1"


def test_a_call_over_sip_shows_its_way_and_its_trunk(capsys):
    """Columns that no other call needs, so they are there only with one."""
    over_sip = call(1, carrier="sip", direction="outbound", trunk="office")
    with toy({AskCalls: lambda ask: [Calls(id=ask.id, calls=[over_sip, call(2)])]}) as board:
        operate(board, "calls")
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[2:6] == ["CARRIER", "WAY", "TRUNK", "AGENT"]
    assert rows[1].split()[2:5] == ["sip", "outbound", "office"]
    with toy({AskCalls: lambda ask: [Calls(id=ask.id, calls=[call(2)])]}) as board:
        operate(board, "calls")
    assert "TRUNK" not in capsys.readouterr().out


# --- trunks --------------------------------------------------------------------------------------

WELL = TrunkLine(name="office", registration="registered", expires_seconds=300.0, alive=True)
LOST = TrunkLine(name="carrier", registration="failed", failures=2)


def trunks(*lines, missing=()):
    """What a daemon with these trunks answers."""
    return {AskTrunks: lambda ask: [TrunksAre(id=ask.id, trunks=list(lines), missing=[*missing])]}


def test_trunks_are_a_table_and_all_is_well_with_0(capsys):
    """Name, registration, health, live calls."""
    with toy(trunks(WELL)) as board:
        assert operate(board, "trunks") == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["TRUNK", "REGISTERED", "EXPIRES", "ANSWERS", "IN", "OUT"]
    assert row.split() == ["office", "yes", "5m00s", "yes", "0", "0"]


@pytest.mark.parametrize("script", [trunks(WELL, LOST), trunks(WELL, missing=[1])])
@pytest.mark.parametrize("words", [("trunks",), ("trunks", "--json")])
def test_a_trunk_in_trouble_or_a_silent_worker_exit_1(script, words, capsys):
    """For scripts, in either form."""
    with toy(script) as board:
        assert operate(board, *words) == 1
    capsys.readouterr()


def test_no_trunks_says_where_they_are_written(capsys):
    """An empty page would be a question."""
    with toy(trunks()) as board:
        assert operate(board, "trunks") == 0
    assert "trunks.d" in capsys.readouterr().out


def test_status_tells_of_trunks_in_every_form(capsys):
    """As text, for cron and for programs; one that is lost is something wrong."""
    with toy(trunks(LOST)) as board:
        assert operate(board, "status") == 1
        assert "wrong: trunk carrier is not registered" in capsys.readouterr().out
        assert operate(board, "status", "--check") == 1
        assert "trunk carrier" in capsys.readouterr().out
        assert operate(board, "status", "--json") == 1
        assert json.loads(capsys.readouterr().out)["trunks"][0]["name"] == "carrier"


def test_status_of_a_daemon_that_knows_no_trunks_is_told_all_the_same(capsys):
    """One of before refuses the question, one that is busy does not answer it in time."""
    refused = {AskTrunks: lambda ask: [Refused(id=ask.id, code="garbage", text="Invalid value")]}
    for script, patience in ((refused, "5"), ({AskTrunks: []}, "0.3")):
        with toy(script) as board:
            assert operate(board, "status", "--timeout", patience) == 0
        assert "is serving" in capsys.readouterr().out


def test_other_peoples_words_cannot_command_the_terminal(capsys):
    """A run id comes from a URL; an escape sequence in it is shown, not obeyed."""
    evil = call(1, run_id="\x1b]0;x\x07\x9b2J", agent="a\nb")
    with toy({AskCalls: lambda ask: [Calls(id=ask.id, calls=[evil])]}) as board:
        operate(board, "calls")
    told = capsys.readouterr().out
    assert not set(told) & {"\x1b", "\x07", "\x9b"}
    assert told.count("\n") == 2


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "question"),
    [
        (("hangup", "c1"), AskHangUp(id="", call="c1")),
        (("log-level", "debug"), AskLogLevel(id="", level="debug")),
        (("drain", "--no-wait"), AskDrain(id="")),
        (("reload",), AskReload(id="")),
        (("upgrade",), AskUpgrade(id="")),
        (("scale", "4"), AskScale(id="", count=4)),
    ],
)
@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_a_command_asks_its_question_and_says_the_answer(words, question, ok, code, capsys):
    """Exit 0 when it was done; otherwise 1, and the reason on standard error."""
    with toy({type(question): answering("so it is", ok=ok)}) as board:
        assert operate(board, *words) == code
        asked = board.asked[0]
    told = capsys.readouterr()
    assert (told.out if ok else told.err).endswith("so it is\n")
    assert msgspec.structs.replace(asked, id="") == question


def test_progress_is_told_as_it_comes_and_the_result_last(capsys):
    """One line each."""

    def script(ask):
        return [
            Answer(id=ask.id, text="slot 0 is replaced", done=False),
            Answer(id=ask.id, text="slot 1 is replaced", done=False),
            Answer(id=ask.id, text="2 workers serve generation 2"),
        ]

    with toy({AskReload: script}) as board:
        assert operate(board, "reload") == 0
    assert capsys.readouterr().out.splitlines() == [
        "slot 0 is replaced",
        "slot 1 is replaced",
        "2 workers serve generation 2",
    ]


def test_no_wait_comes_back_once_the_daemon_has_read_it(capsys):
    """It may go on for an hour."""
    with toy({AskScale: lambda ask: [Answer(id=ask.id, text="begun", done=False)]}) as board:
        assert operate(board, "scale", "3", "--no-wait") == 0
        assert [type(ask) for ask in board.asked] == [AskScale, AskStatus]
    assert "scale is asked for" in capsys.readouterr().out


def test_no_wait_tells_a_refusal_that_comes_at_once(capsys):
    """A configuration that is wrong is known in no time."""
    with toy({AskReload: answering("no", ok=False)}) as board:
        assert operate(board, "reload", "--no-wait") == 1
    assert capsys.readouterr().err == "flowcatd: no\n"


def test_interrupting_the_waiting_leaves_the_daemon_at_its_job():
    """Exit 130, and it is said that the job goes on."""
    with toy({AskReload: lambda ask: [Answer(id=ask.id, text="begun", done=False)]}) as board:
        waiting = begin(board, "reload")
        assert waiting.stdout.readline() == "begun\n"
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=20)
        assert [type(ask) for ask in board.asked] == [AskReload]
    assert (waiting.returncode, out) == (130, "")
    assert "the reload goes on" in err


def test_drain_waits_for_the_end_and_counts_the_calls_down():
    """So that a script may go on with what needs the port."""
    left = [fleet([worker(0, calls=calls)], state="draining") for calls in (2, 1, 1, 0)]

    def state(ask):
        return [Status(id=ask.id, fleet=left.pop(0) if len(left) > 1 else left[0])]

    with toy({AskDrain: answering("draining"), AskStatus: state}) as board:
        waiting = begin(board, "drain")
        told = [waiting.stdout.readline() for _ in range(4)]
        board.stop()
        rest, err = waiting.communicate(timeout=30)
    assert [line.split(",")[0].strip() for line in told] == [
        "draining",
        "2 calls are up",
        "1 call is up",
        "0 calls are up",
    ]
    assert (rest, err, waiting.returncode) == ("flowcatd has ended\n", "", 0)


@pytest.mark.parametrize(("outcome", "code"), [("done", 0), ("it did not start", 1)])
def test_an_upgrade_that_replaces_the_switchboard_is_seen_to_its_end(outcome, code):
    """The answers are lost with the connection; the fleet's own state tells how it went."""
    states = [fleet(state="reloading"), fleet(last_reload=outcome)]

    def state(ask):
        return [Status(id=ask.id, fleet=states.pop(0) if len(states) > 1 else states[0])]

    script = {AskUpgrade: lambda ask: [Answer(id=ask.id, text="begun", done=False)]}
    with toy(script | {AskStatus: state}) as board:
        waiting = begin(board, "upgrade")
        assert waiting.stdout.readline() == "begun\n"
        board.stop()
        again = type(board)(board.directory, {AskStatus: state}, None)
        try:
            out, err = waiting.communicate(timeout=30)
        finally:
            again.stop()
    assert waiting.returncode == code
    assert ("done: 2 workers serve" in out) if code == 0 else (outcome in err)


# --- what goes wrong -----------------------------------------------------------------------------


def test_nobody_there_exits_69(tmp_path, capsys):
    """EX_UNAVAILABLE, and one line."""
    start = time.monotonic()
    assert main(["status", "--connect", f"ipc://{tmp_path}/none"]) == 69
    assert time.monotonic() - start < 5
    told = capsys.readouterr().err
    assert told.startswith("flowcatd: no flowcatd answers at ipc://")
    assert told.count("\n") == 1


def test_no_answer_in_time_exits_69(capsys):
    """It is there, and hangs."""
    with toy({AskStatus: []}) as board:
        assert operate(board, "status", "--timeout", "0.2") == 69
    assert "did not answer within 0.2 s" in capsys.readouterr().err


def test_another_version_exits_76(capsys):
    """EX_PROTOCOL."""
    with toy({AskStatus: [Refused(code="version", text="", speaks=9)]}) as board:
        assert operate(board, "status") == 76
    assert "version 9" in capsys.readouterr().err


def test_a_wrong_endpoint_exits_78(capsys):
    """EX_CONFIG."""
    assert main(["status", "--connect", "http://x"]) == 78
    assert "--connect" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("scale",),
        ("scale", "0"),
        ("scale", "257"),
        ("scale", "many"),
        ("log-level", "loud"),
        ("hangup",),
        ("hangup", ""),
        ("hangup", "x" * 129),
    ],
)
def test_what_cannot_be_asked_is_refused_by_the_command_line(words, capsys):
    """Exit 2, with the usage."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_tells_the_exit_codes(capsys):
    """A script's author looks here."""
    for command in ("status", "reload", "top"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        told = capsys.readouterr().out
        assert "exit codes:" in told
        assert "  69 " in told


def test_commands_do_not_wait_for_each_other():
    """Two operators at one daemon."""
    with toy({AskCalls: lambda ask: [0.3, Calls(id=ask.id, calls=[])]}) as board:
        codes = []
        asking = [
            threading.Thread(target=lambda: codes.append(operate(board, "calls"))) for _ in "ab"
        ]
        for one in asking:
            one.start()
        for one in asking:
            one.join(10)
    assert codes == [0, 0]
