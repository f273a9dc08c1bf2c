"""Facts about `flowcatd ladder`: which call is meant, what is shown of it, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.control import AskCalls, AskLadder, CallLine, Calls, LadderIs, Refused
from flowcatd.sip.ladder import LAST_MAX, Ladder
from flowcatd.sip.message import build_response, parse_message
from flowcatd.sip_figures import MediaFigures, SipFigures
from supervisor import ladder
from supervisor.cli import main
from supervisor.ladder import Shown, grade, render
from supervisor.report import columns_of
from tests.supervisor.toy_switchboard import runtime, toy

CALL = "20261121T031500Z-3f9c2a1b"
CALL_ID = "a84b4c76e66710@caller.example"
MEDIA = MediaFigures(
    packets_in=997,
    packets_out=990,
    octets_out=158_400,
    lost=3,
    late=1,
    duplicates=0,
    discarded=0,
    foreign=0,
    bad=0,
    sources=1,
    jitter_ms=1.25,
    delay_ms=40.0,
    concealed_ms=60,
    background_ms=0,
    shortened_ms=0,
    lengthened_ms=0,
    round_trip_ms=12.5,
    remote_loss=0.004,
    remote_jitter_ms=None,
    r=91.0,
    mos=4.36,
)
SIP = SipFigures(
    trunk="loopback",
    status=200,
    codec="PCMU",
    media=MEDIA,
    ladder=[
        "0.000 ← INVITE 1 +body",
        "0.001 → 401 INVITE 1",
        "0.002 ← ACK 1",
        "0.010 ← INVITE 2 +body",
        "0.014 → 200 INVITE 2 +body",
        "0.020 ← ACK 2",
        "12.500 → BYE 1",
        "12.501 ← 200 BYE 1",
    ],
)
ENDED = {
    "record": 1,
    "call_id": CALL,
    "run_id": CALL_ID,
    "carrier": "sip",
    "agent": "appointment",
    "started_at_utc": "2026-11-21T03:15:00.000Z",
    "duration_seconds": 12.5,
    "reason": "completed",
    "sip": msgspec.to_builtins(SIP),
}
LINE = CallLine(
    call_id=CALL,
    run_id=CALL_ID,
    carrier="sip",
    agent="appointment",
    slot=0,
    state="up",
    seconds=61.0,
    turns=2,
    direction="inbound",
    trunk="loopback",
)

INVITE = (
    b"INVITE sip:anyone@192.0.2.1 SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK1\r\n"
    b"From: <sip:+15550100@192.0.2.9>;tag=secret\r\nTo: <sip:anyone@192.0.2.1>\r\n"
    b"Call-ID: c\r\nCSeq: 1 INVITE\r\nContent-Type: application/sdp\r\nContent-Length: 4\r\n\r\nv=0\r"
)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A records directory with one call over SIP, one over a WebSocket, and rubbish."""
    (tmp_path / f"{CALL}.json").write_text(json.dumps(ENDED))
    other = ENDED | {"call_id": "20261121T031400Z-00000000", "run_id": "call-1", "carrier": "raw"}
    del other["sip"]
    (tmp_path / f"{other['call_id']}.json").write_text(json.dumps(other))
    (tmp_path / "20261121T031600Z-11111111.json").write_text("{")
    (tmp_path / "notes.json").write_text(json.dumps(ENDED | {"run_id": "notes"}))
    return tmp_path


def show(call: str, records: Path, *words: str, board: object = None) -> int:
    """`flowcatd ladder CALL …` in this process; without a board nobody answers."""
    with runtime() as nowhere:
        where = board.endpoint if board is not None else f"ipc://{nowhere}/control.sock"  # type: ignore[attr-defined]
        told = ("--directory", str(records), "--connect", where, "--timeout", "2")
        return main(["ladder", call, *told, *words])


def live(sip: SipFigures | None, *lines: CallLine, missing: tuple[int, ...] = ()) -> dict:
    """What a daemon with these calls answers."""
    return {
        AskLadder: lambda ask: [LadderIs(id=ask.id, sip=sip, missing=list(missing))],
        AskCalls: lambda ask: [Calls(id=ask.id, calls=list(lines), missing=list(missing))],
    }


def test_a_call_that_has_ended_needs_no_daemon(records, capsys):
    """Its record is found by its call id."""
    assert show(CALL, records) == 0
    told = capsys.readouterr().out
    assert f"call {CALL}  inbound over UDP, trunk loopback, agent appointment\n" in told
    assert "2026-11-21T03:15:00.000Z, 12s: completed\n" in told
    for words in (
        "codec     PCMU, not encrypted",
        "heard     997 packets, 3 lost (0.3 %), 1 too late",
        "made up   0.06 s in place of what was lost",
        "sent      990 packets, 158400 bytes of sound; the far end misses 0.4 %",
        "timing    jitter 1.2 ms, our buffer adds 40 ms, round trip 12.5 ms",
        "quality   MOS 4.36, good (R 91)",
    ):
        assert f"  {words}\n" in told
    assert "strangers" not in told
    assert "\x1b" not in told


def test_a_message_of_theirs_points_to_us_and_one_of_ours_to_them(records, capsys):
    """They stand on the left; all rungs are equally wide, whatever is written on them."""
    show(CALL, records)
    rungs = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert len(rungs) == len(SIP.ladder)
    for rung, step in zip(rungs, SIP.ladder, strict=True):
        at, arrow, what = step.split(" ", 2)
        assert rung.strip().startswith(f"{at} s ")
        assert f" {what} " in rung
        assert ("►│" in rung, "│◄" in rung) == (arrow == "←", arrow == "→")
    assert {columns_of(rung) for rung in rungs} == {columns_of(rungs[0])}


def test_a_live_call_is_asked_of_the_daemon(records, capsys):
    """By call id or run id; what there is so far is told as such."""
    with toy(live(SIP, LINE)) as board:
        for name in (CALL_ID, "20261121T031500Z-99999999"):
            assert show(name, records, board=board) == 0
        assert {ask.call for ask in board.asked if isinstance(ask, AskLadder)} == {
            CALL_ID,
            "20261121T031500Z-99999999",
        }
    told = capsys.readouterr().out
    assert "it is up, since 1m01s" in told
    assert "sound so far" in told


def test_a_call_that_ended_is_found_by_its_call_id_header_too(records, capsys):
    """When the daemon does not have it, and also when there is no daemon."""
    with toy(live(None)) as board:
        assert show(CALL_ID, records, board=board) == 0
    assert show(CALL_ID, records) == 0
    assert capsys.readouterr().out.count(f"call {CALL} ") == 2


def test_a_long_call_id_is_cut_as_the_daemon_cuts_it(records, capsys):
    """A run id has 128 characters at most."""
    long = "x" * 300
    path = records / f"{CALL}.json"
    path.write_text(json.dumps(ENDED | {"run_id": long[:128]}))
    assert show(long, records) == 0
    assert CALL in capsys.readouterr().out


def test_json_is_one_object(records, capsys):
    """With the ladder and the figures as they stand in the record."""
    assert show(CALL, records, "--json") == 0
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    facts = json.loads(told)
    assert (facts["call_id"], facts["reason"]) == (CALL, "completed")
    assert facts["sip"] == msgspec.to_builtins(SIP)


def test_a_call_that_nobody_knows_is_told_with_what_to_do(records, capsys):
    """The list of live calls, and where records were looked for."""
    with toy(live(None)) as board:
        assert show("nonesuch", records, board=board) == 1
    told = capsys.readouterr().err
    assert told.startswith("flowcatd: no such call; `flowcatd calls` lists those that are up")
    assert str(records) in told


def test_a_worker_that_did_not_answer_may_have_it(records, capsys):
    """So that nobody takes silence for an answer."""
    with toy(live(None, missing=(2,))) as board:
        assert show("nonesuch", records, board=board) == 1
    assert "but worker 2 did not answer" in capsys.readouterr().err


def test_without_a_daemon_and_a_record_nobody_can_tell(records, capsys):
    """Exit code 69, as for every command that finds nobody."""
    assert show("nonesuch", records) == 69
    assert "no flowcatd answers" in capsys.readouterr().err


def test_a_call_over_something_else_has_no_ladder(records, capsys):
    """Whether it is up or over, the carrier is named."""
    with toy(live(None, msgspec.structs.replace(LINE, carrier="twilio"))) as board:
        assert show(CALL_ID, records.parent / "none", board=board) == 1
    assert "is up, not over SIP but over twilio" in capsys.readouterr().err
    assert show("20261121T031400Z-00000000", records) == 1
    assert "was not over SIP but over raw" in capsys.readouterr().err


def test_a_daemon_that_does_not_know_ladders_says_so(records, capsys):
    """One of before; what it refuses is told with its reason."""
    answers = {AskLadder: lambda ask: [Refused(id=ask.id, code="garbage", text="Invalid value")]}
    with toy(answers) as board:
        assert show("nonesuch", records, board=board) == 76
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "*"])
def test_a_name_is_never_a_path(records, name, capsys):
    """Whatever is typed, no file but a record is opened."""
    assert ladder.by_call_id([records], name) is None
    assert show(name, records) == 69
    capsys.readouterr()


def test_steps_that_were_not_kept_are_counted_where_they_are_missing():
    """Between the first and the last ones, as the user agent's own ladder drops them."""
    noted = Ladder()
    request = parse_message(INVITE)
    noted.note(request, 5.0, is_ours=False)
    answer = build_response(request, 200)
    for _ in range(400):
        noted.note(answer, 6.0, is_ours=True)
    sip = SipFigures(trunk="t", ladder=[str(step) for step in noted], ladder_dropped=noted.dropped)
    told = render(Shown(call_id="c"), sip, colour=False).splitlines()
    at = next(n for n, line in enumerate(told) if "not kept" in line)
    assert f"… {401 - 32 - LAST_MAX} steps" in told[at]
    assert len([line for line in told[:at] if "│" in line]) == 32
    assert len([line for line in told[at:] if "│" in line]) == LAST_MAX
    assert "192.0.2.9" not in "".join(told)


def test_colours_tell_success_from_failure_and_challenges_are_none():
    """Green, red; yellow for what is part of the game."""
    steps = ["0.0 → 200 INVITE 1", "0.0 → 486 INVITE 1", "0.0 → 407 INVITE 1", "0.0 → 180 INVITE 1"]
    told = render(Shown(call_id="c"), SipFigures(trunk="t", ladder=steps), colour=True)
    for code, word in (("32", "200"), ("31", "486"), ("33", "407"), ("2", "180")):
        assert f"\x1b[{code}m {word} INVITE 1 \x1b[0m" in told


@pytest.mark.parametrize(
    ("mos", "word"),
    [(4.41, "good"), (4.0, "good"), (3.99, "fair"), (3.6, "fair"), (3.59, "poor"), (1.0, "poor")],
)
def test_an_opinion_score_has_a_word(mos, word):
    """ITU-T G.107 annex B's bounds."""
    assert grade(mos).word.startswith(word)


def test_a_call_that_heard_nothing_is_not_called_good():
    """The E-model knows nothing of a stream that never was."""
    silent = msgspec.structs.replace(MEDIA, packets_in=0, lost=0, mos=4.41)
    told = render(Shown(call_id="c"), SipFigures(trunk="t", media=silent), colour=False)
    assert "nothing: no packet came" in told
    assert "unknown, for nothing was heard" in told
    assert "MOS" not in told


def test_a_call_without_sound_and_steps_says_so():
    """It was refused, or is only beginning."""
    told = render(Shown(call_id="c", reason="refused"), SipFigures(trunk="t"), colour=False)
    assert "no sound went either way" in told
    assert "nothing was noted" in told
    assert "its INVITE came to nothing" in told


@given(st.lists(st.text(max_size=40), max_size=6), st.text(max_size=20))
def test_nothing_that_is_shown_commands_the_terminal(steps, trunk):
    """Whatever a record holds; a step that is not understood is shown as it is."""
    sip = SipFigures(trunk=trunk, ladder=steps)
    told = render(Shown(call_id="c"), sip, colour=False)
    assert all(line.isprintable() for line in told.split("\n"))
