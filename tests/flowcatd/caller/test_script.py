"""The caller's patience, in virtual time: when a turn is begun and when the call is ended."""

from __future__ import annotations

import pytest

from flowcatd.caller.script import OUTLASTED, TURNS_LIMIT, Pace, Script, Turn
from flowcatd.errors import LocalError

ONE, TWO = Turn("one"), Turn("two")
PACE = Pace(greeting=4.0, patience=8.0, end_patience=20.0)


def greeted(*turns: Turn, **options: bool) -> Script:
    """A script that has heard a greeting from 0.5 to 2.5 s."""
    script = Script(turns, PACE, **options)
    script.agent_started(0.5)
    script.agent_stopped(0.5, 2.5, cut=False)
    return script


def test_nothing_is_said_before_the_agent_has_finished():
    """The caller waits for the end of the greeting."""
    script = Script([ONE], PACE)
    script.agent_started(0.5)
    assert script.next_turn(7.0) is None
    script.agent_stopped(0.5, 7.0, cut=False)
    assert script.next_turn(7.7) is ONE


def test_the_next_turn_waits_for_an_answer():
    """After a turn the agent owes an answer, and has given it when it falls silent again."""
    script = greeted(ONE, TWO)
    assert script.next_turn(3.2) is ONE
    assert script.next_turn(3.4) is None
    script.said(3.2, 4.2)
    assert script.next_turn(4.3) is None
    script.agent_started(4.9)
    assert script.next_turn(5.5) is None
    script.agent_stopped(4.9, 6.0, cut=False)
    assert script.next_turn(6.7) is TWO


def test_silence_of_both_is_broken_after_the_patience():
    """An agent that says nothing is spoken to all the same, at the beginning sooner than later."""
    script = Script([ONE, TWO], PACE)
    assert script.next_turn(3.99) is None
    assert script.next_turn(4.0) is ONE
    script.said(4.0, 5.0)
    assert script.next_turn(12.9) is None
    assert script.next_turn(13.0) is TWO


def test_an_interruption_is_said_into_the_line():
    """It comes the given time after the line became audible, and not before."""
    script = Script([Turn("stop", interrupt_after_ms=800)], PACE)
    assert script.next_turn(0.4) is None
    script.agent_started(0.5)
    assert script.next_turn(1.29) is None
    turn = script.next_turn(1.31)
    assert turn is not None
    assert turn.text == "stop"


def test_an_interruption_of_a_line_that_was_shorter_comes_after_it():
    """A line too short to be interrupted is simply answered."""
    script = Script([Turn("stop", interrupt_after_ms=5000)], PACE)
    script.agent_started(0.5)
    script.agent_stopped(0.5, 2.5, cut=False)
    assert script.next_turn(3.2) is not None


def test_the_same_line_is_not_interrupted_twice():
    """A second interruption waits for the next line."""
    again = Turn("again", interrupt_after_ms=100)
    script = Script([Turn("stop", interrupt_after_ms=100), again], PACE)
    script.agent_started(0.5)
    assert script.next_turn(0.7) is not None
    script.said(0.7, 1.0)
    assert script.next_turn(1.2) is None
    script.agent_stopped(0.5, 0.9, cut=True)
    script.agent_started(1.8)
    assert script.next_turn(2.0) is again


def test_a_line_that_was_cut_off_is_no_answer():
    """What we interrupted does not count as the answer to the interruption."""
    script = Script([Turn("stop", interrupt_after_ms=100), TWO], PACE)
    script.agent_started(0.5)
    assert script.next_turn(0.7) is not None
    script.said(0.7, 0.8)
    script.agent_stopped(0.5, 0.95, cut=True)
    assert script.next_turn(1.0) is None
    script.agent_started(1.6)
    script.agent_stopped(1.6, 2.2, cut=False)
    assert script.next_turn(2.9) is TWO


@pytest.mark.parametrize(("outlasts", "answered"), [(OUTLASTED - 0.1, False), (OUTLASTED, True)])
def test_a_line_that_goes_on_over_us_counts_once_it_outlasts_us(outlasts, answered):
    """Without a clear, only time tells a line that died away from one that went on."""
    script = Script([Turn("stop", interrupt_after_ms=100), TWO], PACE)
    script.agent_started(0.5)
    assert script.next_turn(0.7) is not None
    script.said(0.7, 1.0)
    script.agent_stopped(0.5, 1.0 + outlasts, cut=False)
    assert (script.next_turn(3.0) is TWO) is answered


def test_an_echo_is_an_answer():
    """What sets in while we speak and ends with us, as near as can be heard, answers us."""
    script = greeted(ONE, TWO)
    assert script.next_turn(3.2) is ONE
    script.agent_started(3.3)
    script.said(3.2, 4.2)
    script.agent_stopped(3.3, 4.15, cut=False)
    assert script.next_turn(5.0) is TWO


def test_what_ended_before_we_did_is_no_answer():
    """The agent's tail, noticed late, does not answer the turn that talked over it."""
    script = greeted(ONE, TWO)
    assert script.next_turn(3.2) is ONE
    script.agent_started(3.3)
    script.said(3.2, 5.2)
    script.agent_stopped(3.3, 5.0, cut=False)
    assert script.next_turn(5.8) is None


def test_the_caller_stays_after_its_last_turn_until_nothing_comes():
    """It is for the agent to end the call, but not for ever."""
    script = greeted()
    assert script.hang_up(22.4) is None
    wish = script.hang_up(22.5)
    assert wish is not None
    assert not wish.asked


def test_hang_up_ends_the_call_once_the_last_turn_was_answered():
    """Where it was asked for, the caller ends the call, and that is a good end."""
    script = greeted(ONE, hang_up=True)
    assert script.hang_up(3.1) is None
    assert script.next_turn(3.2) is ONE
    assert script.hang_up(3.3) is None
    script.said(3.2, 4.2)
    assert script.hang_up(4.3) is None
    script.agent_started(4.8)
    script.agent_stopped(4.8, 5.5, cut=False)
    wish = script.hang_up(6.2)
    assert wish is not None
    assert wish.asked


def test_an_eager_script_speaks_at_once_and_ends_when_it_is_closed():
    """Somebody who types decides when to speak and when to go."""
    script = Script((), PACE, eager=True)
    assert script.hang_up(60.0) is None
    script.add(ONE)
    assert script.next_turn(60.1) is ONE
    script.close()
    assert script.hang_up(60.2) is None
    script.said(60.1, 61.0)
    wish = script.hang_up(61.1)
    assert wish is not None
    assert wish.asked


def test_turns_beyond_the_limit_are_refused():
    """A script is bounded."""
    script = Script((), PACE, eager=True)
    for _ in range(TURNS_LIMIT):
        script.add(ONE)
    with pytest.raises(LocalError):
        script.add(ONE)
