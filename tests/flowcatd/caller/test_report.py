"""What a person reads and what a program gets."""

from __future__ import annotations

import msgspec

from flowcatd.caller.facts import (
    AgentSpoke,
    Answered,
    Line,
    Opened,
    Outcome,
    Rang,
    Spoke,
    Taken,
    Transferred,
)
from flowcatd.caller.report import Report
from flowcatd.caller.script import Turn
from flowcatd.sip_figures import MediaFigures

AGENT = Line("agent", "Which day?", 300, 1500, complete=True, rejected=False)
CALLER = Line("caller", "tuesday", 2300, 3100, complete=True, rejected=False)
ENDED = Outcome("agent", "completed", reached_end=True, close_code=1000)


def told(*events, coloured: bool = False) -> tuple[list[str], Report]:
    """The lines written for these events."""
    lines: list[str] = []
    report = Report(lines.append, coloured=coloured)
    for event in events:
        report.tell(event)
    return lines, report


def test_a_conversation_reads_like_one():
    """Times, sides, what was understood, and how long the answer took."""
    lines, _ = told(
        Opened("c1", "appointment"),
        AgentSpoke(0.3, 1.5, cut=False),
        AGENT,
        Spoke(62.25, 63.4, Turn("on Tuesday please")),
        CALLER,
        Answered(64.0, 580),
        Line("agent", "Tuesday.", 64000, 65000, complete=True, rejected=False),
        Line("agent", "What time?", 65000, 66000, complete=False, rejected=False),
    )
    assert lines == [
        "         call c1, agent appointment",
        "00:00.3  agent   Which day?",
        "01:02.2  caller  on Tuesday please",
        "                 understood: tuesday",
        "01:04.0  agent   Tuesday.  (after 0.58 s)",
        "01:05.0  agent   What time?  (cut off)",
    ]


def test_without_the_daemons_account_it_says_how_long_the_agent_spoke():
    """The ear hears voices, not words."""
    lines, _ = told(
        AgentSpoke(0.5, 2.8, cut=False),
        Spoke(3.5, 4.0, Turn("1 2", digits="12")),
        Answered(4.6, 600),
        AgentSpoke(4.6, 5.6, cut=True),
    )
    assert lines == [
        "00:00.5  agent   (speaks 2.3 s)",
        "00:03.5  caller  presses 1 2",
        "00:04.6  agent   (speaks 1.0 s)  (cut off, after 0.60 s)",
    ]


def test_a_rejected_utterance_is_shown_as_not_understood():
    """And its text, if any, is not."""
    lines, report = told(
        Spoke(1.0, 2.0, Turn("mumble")),
        Line("caller", "", 1000, 2000, complete=True, rejected=True),
    )
    assert lines[-1].strip() == "not understood"
    assert report.rows[0].understood == ""


def test_an_answer_that_was_interrupted_keeps_its_latency():
    """The line is told when it is over, and by then the caller has spoken again."""
    lines, _ = told(
        Opened("c1", "appointment"),
        Spoke(1.0, 2.0, Turn("tuesday")),
        Answered(2.7, 700),
        Spoke(3.0, 4.0, Turn("no, friday")),
        Line("agent", "", 2700, 3200, complete=False, rejected=False),
    )
    assert lines[-1] == "00:02.7  agent   …  (cut off, after 0.70 s)"


def test_what_was_understood_belongs_to_speech():
    """Keys are pressed; the daemon's account of words is not about them."""
    _, report = told(
        Spoke(1.0, 2.0, Turn("tuesday")), Spoke(2.5, 2.6, Turn("4", digits="4")), CALLER
    )
    assert [row.understood for row in report.rows] == ["tuesday", None]
    assert [row.keys for row in report.rows] == ["", "4"]


def test_an_echo_is_told_by_ear():
    """It has no lines for the daemon to tell of."""
    lines, _ = told(Opened("c1", "echo"), AgentSpoke(1.0, 2.0, cut=False))
    assert lines[-1] == "00:01.0  agent   (speaks 1.0 s)"


def test_the_figures_hold_everything_for_a_program():
    """Turns of both sides in order, latencies, and how it ended."""
    _, report = told(
        Opened("c1", "appointment"),
        AGENT,
        Spoke(2.0, 3.0, Turn("on Tuesday please")),
        CALLER,
        Answered(3.6, 600),
    )
    assert report.figures(ENDED, heard_seconds=1.23456, unsaid=1) == {
        "call_id": "c1",
        "turns": [
            {
                "role": "agent",
                "text": "Which day?",
                "start_ms": 300,
                "end_ms": 1500,
                "answer_ms": None,
                "understood": None,
                "keys": "",
                "complete": True,
            },
            {
                "role": "caller",
                "text": "on Tuesday please",
                "start_ms": 2000,
                "end_ms": 3000,
                "answer_ms": 600,
                "understood": "tuesday",
                "keys": "",
                "complete": True,
            },
        ],
        "unsaid": 1,
        "answer_ms": [600],
        "heard_seconds": 1.235,
        "ended_by": "agent",
        "reason": "completed",
        "reached_end": True,
        "close_code": 1000,
    }


def test_the_summary_names_end_and_latency():
    """Median and worst."""
    events = []
    for ms in (400, 700, 500):
        events += [Spoke(2.0, 3.0, Turn("x")), Answered(3.6, ms)]
    lines, report = told(*events)
    report.finish(ENDED, heard_seconds=12.34, unsaid=0)
    assert lines[-2] == "the agent ended the call: completed"
    assert lines[-1] == (
        "3 turns said; agent heard for 12.3 s; 3 answered, after 0.50 s (median), 0.70 s (max)"
    )


def test_a_missed_end_says_why():
    """And how much was left to say."""
    lines, report = told()
    outcome = Outcome("caller", "the call took longer than 5 s")
    report.finish(outcome, heard_seconds=0.0, unsaid=2)
    assert lines[-2].endswith("did not reach its end: the call took longer than 5 s (caller)")
    assert "2 turns left unsaid" in lines[-1]


def test_colours_are_for_terminals():
    """Plain otherwise."""
    event = Spoke(1.0, 2.0, Turn("yes"))
    assert "\x1b[" not in told(event)[0][0]
    assert "\x1b[1mcaller\x1b[0m" in told(event, coloured=True)[0][0]


SOUND = MediaFigures(
    packets_in=500,
    packets_out=490,
    octets_out=78_400,
    lost=7,
    late=2,
    duplicates=0,
    discarded=0,
    foreign=0,
    bad=0,
    sources=1,
    jitter_ms=12.5,
    delay_ms=60.0,
    concealed_ms=180,
    background_ms=0,
    shortened_ms=0,
    lengthened_ms=0,
    round_trip_ms=31.0,
    remote_loss=None,
    remote_jitter_ms=None,
    r=74.0,
    mos=3.78,
)


def test_a_call_over_sip_says_how_it_came_about_and_that_no_words_are_known():
    """Ringing, who took it with what, and a transfer that was wanted."""
    lines, report = told(
        Rang(180), Rang(183), Rang(199), Taken(0.12, "PCMU", "UDP", "abc"), Transferred()
    )
    assert [line.strip() for line in lines[:3]] == [
        "it rings",
        "something is played",
        "it says 199",
    ]
    assert "taken after 0.12 s, PCMU over UDP" in lines[3]
    assert "not told over SIP" in lines[3]
    assert "hand the call over; refused" in lines[4]
    assert report.call_id == "abc"


def test_the_sound_has_a_word_and_the_way_to_the_daemons_side():
    """Only where this caller knows: a WebSocket loses nothing."""
    lines, report = told(Taken(0.1, "PCMU", "UDP", "abc"))
    report.media = SOUND
    report.finish(ENDED, heard_seconds=1.0, unsaid=0)
    assert lines[-2].startswith("sound: MOS 3.8 (fair), 500 packets came, 7 lost, 2 late")
    assert lines[-2].endswith("round trip 31.0 ms")
    assert lines[-1] == "flowcatd ladder abc shows the daemon's side of it"
    figures = report.figures(ENDED, heard_seconds=1.0, unsaid=0)
    assert figures["media"] == msgspec.to_builtins(SOUND)
    assert "media" not in told()[1].figures(ENDED, heard_seconds=1.0, unsaid=0)


def test_a_call_in_which_nothing_came_is_not_called_good():
    """A score of no packets is no score."""
    lines, report = told()
    report.media = msgspec.structs.replace(SOUND, packets_in=0, mos=4.41)
    report.finish(ENDED, heard_seconds=0.0, unsaid=0)
    assert lines[-2] == "sound: nothing came, not a single packet"
