"""The caller over SIP, with real sockets and in real time."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from flowcatd.audio import g722, opus
from flowcatd.caller import sip_handset
from flowcatd.caller.facts import Answered, CallerEvent, Rang, Spoke, Taken, Transferred
from flowcatd.caller.person import Person
from flowcatd.caller.script import Pace, Script, Turn
from flowcatd.caller.sip_address import resolve
from flowcatd.caller.sip_handset import Manner
from flowcatd.caller.sip_phone import SipPhone
from flowcatd.errors import LinkRefused
from flowcatd.sip.agent_event import Cause
from flowcatd.sip.attribute import Direction
from flowcatd.sip.digest import Secret
from flowcatd.sip.session import G722, PCMU
from tests.flowcatd.caller.answering import Habits, answering
from tests.flowcatd.caller.played import tone

LIMIT = 20.0


def turn(text: str, ms: int = 200, rate_hz: int = 8000, **changes: object) -> Turn:
    """A turn that is audible throughout."""
    return Turn(text, tone(ms, rate_hz=rate_hz), ms / 1000, **changes)


class Calling:
    """A phone with a script, ready to call."""

    def __init__(
        self,
        address: str,
        *turns: Turn,
        codec: str = "",
        secret: Secret | None = None,
        **how: float,
    ) -> None:
        target = resolve(address, codec)
        self.events: list[CallerEvent] = []
        self.said: list[bytes] = []
        self.heard: list[bytes] = []
        self.person = Person(
            target.rate_hz,
            Script(turns, Pace(patience=2.0, end_patience=2.0)),
            quiet_ms=150,
            on_frame=self._keep,
        )
        manner = Manner(how.get("seconds", LIMIT), how.get("hold_after"), how.get("hold", 3.0))
        self.phone = SipPhone(target, self.person, manner, tell=self.events.append, secret=secret)

    def _keep(self, said: bytes, heard: bytes) -> None:
        self.said.append(said)
        self.heard.append(heard)

    async def call(self) -> None:
        """From the INVITE to the end."""
        async with asyncio.timeout(LIMIT + 5):
            await self.phone.call()

    def all(self, kind: type) -> list:
        """Every event of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_call_is_placed_talked_and_ended_by_the_agent(transport):
    """INVITE, ringing, sound both ways, the agent's BYE: a conversation that reached its end."""
    async with answering() as there:
        calling = Calling(there.address(transport=transport), turn("one"))
        await calling.call()
        await asyncio.wait_for(there.over.wait(), LIMIT)
        assert there.transports == {transport.upper()}
        assert there.methods.count("INVITE") == 1
        assert there.loud_frames >= 8
    outcome = calling.person.outcome
    assert (outcome.ended_by, outcome.reason, outcome.reached_end) == ("agent", "completed", True)
    (taken,) = calling.all(Taken)
    assert (taken.codec, taken.transport) == ("PCMU", transport.upper())
    assert calling.all(Rang) == [Rang(180)]
    (answer,) = [event.ms for event in calling.all(Answered)]
    assert 200 <= answer < 1000
    figures = calling.phone.figures
    assert figures is not None
    assert figures.packets_in > 20
    assert figures.lost == 0
    assert figures.mos > 4.0


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_the_agents_goodbye_is_answered_before_the_line_is_closed(transport):
    """Else it would say it again and again, to nobody."""
    async with answering(Habits(lines=("goodbye",))) as there:
        await Calling(there.address(transport=transport)).call()
        async with asyncio.timeout(2.0):
            while len(there.agent):  # noqa: ASYNC110 the user agent has no event of it
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("codec", "name", "rate_hz"),
    [
        ("pcmu", "PCMU", 8000),
        ("pcma", "PCMA", 8000),
        pytest.param(
            *("g722", "G722", 16_000),
            marks=pytest.mark.skipif(not g722.available(), reason=g722.MISSING),
        ),
        pytest.param(
            *("opus", "opus", 16_000),
            marks=pytest.mark.skipif(not opus.available(), reason=opus.MISSING),
        ),
    ],
)
async def test_every_codec_carries_both_voices(codec, name, rate_hz):
    """At its own rate, from the caller's turn to the frames on the tape."""
    async with answering(Habits(line_ms=400)) as there:
        calling = Calling(there.address(), turn("one", rate_hz=rate_hz), codec=codec)
        await calling.call()
        assert there.loud_frames >= 8
        assert there.sessions[0].codec.format.name == name
    assert calling.person.outcome.reached_end
    assert {len(frame) for frame in calling.heard} == {rate_hz // 50 * 2}
    assert calling.person.listener.audible_seconds > 0.6


async def test_keys_travel_as_telephone_events():
    """RFC 4733, in order, each once; the agent answers them like speech."""
    async with answering(Habits(lines=("hello", "a", "b", "goodbye"))) as there:
        calling = Calling(there.address(), Turn("1 # 5", digits="1#5"))
        await calling.call()
        assert (there.keys, there.keys_by_info) == ("1#5", "")
    assert calling.person.outcome.reached_end


async def test_keys_travel_by_info_where_rtp_cannot_carry_them():
    """Some gateways take nothing else."""
    habits = Habits(lines=("hello", "a", "goodbye"), has_events=False)
    async with answering(habits) as there:
        calling = Calling(there.address(), Turn("4 2", digits="42"))
        await calling.call()
        assert (there.keys, there.keys_by_info) == ("", "42")
    assert calling.person.outcome.reached_end


async def test_a_script_that_was_said_hangs_up_in_good_order():
    """Our BYE, with its answer."""
    async with answering(Habits(ends=False)) as there:
        calling = Calling(there.address(), turn("one"))
        await calling.call()
        await asyncio.wait_for(there.over.wait(), LIMIT)
        assert there.methods[-1] == "BYE"
        assert (there.ends[0].by_peer, there.ends[0].cause) == (True, Cause("Q.850", 16))
    assert "neither spoke nor ended" in calling.person.outcome.reason
    assert not calling.person.outcome.reached_end


async def test_ctrl_c_hangs_up():
    """While the call is up: a BYE."""
    async with answering(Habits(ends=False)) as there:
        calling = Calling(there.address())
        call = asyncio.create_task(calling.call())
        await asyncio.wait_for(there.up.wait(), LIMIT)
        calling.phone.interrupt()
        await call
        await asyncio.wait_for(there.over.wait(), LIMIT)
        assert there.methods[-1] == "BYE"
    assert calling.phone.interrupted
    assert calling.person.outcome.reason == "interrupted"


async def test_ctrl_c_while_it_rings_takes_the_call_back():
    """A CANCEL, and nobody is rung up any longer."""
    async with answering(Habits(rings=True)) as there:
        calling = Calling(there.address())
        call = asyncio.create_task(calling.call())
        async with asyncio.timeout(LIMIT):
            while not calling.all(Rang):  # noqa: ASYNC110 the phone's own state has no event
                await asyncio.sleep(0.01)
        calling.phone.interrupt()
        await call
        await asyncio.wait_for(there.over.wait(), LIMIT)
        assert "CANCEL" in there.methods
        assert there.ends[0].status == 487


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "lets nobody in"),
        (404, "nobody of this name"),
        (480, "nobody can answer"),
        (486, "busy"),
        (488, "codecs"),
        (503, "no room"),
        (603, "does not want"),
        (699, "SIP 699"),
    ],
)
async def test_a_refusal_is_told_by_its_meaning(status, words):
    """In a sentence, with the number for whoever wants to look it up."""
    async with answering(Habits(refuses=status)) as there:
        with pytest.raises(LinkRefused, match=words) as raised:
            await Calling(there.address()).call()
        assert f"SIP {status}" in str(raised.value)


async def test_a_refusal_says_when_to_try_again():
    """Retry-After is meant for the caller."""
    habits = Habits(refuses=503, fields=(("Retry-After", "7"),))
    async with answering(habits) as there:
        with pytest.raises(LinkRefused, match="try again in 7 s"):
            await Calling(there.address()).call()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_port_where_nobody_listens_is_told_at_once(transport):
    """Not after the half minute that SIP itself would wait."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(LinkRefused, match="is the daemon running"):
            await Calling(f"sip:x@127.0.0.1:{port};transport={transport}").call()
    assert time.monotonic() - began < sip_handset.FIRST_SECONDS


async def test_somebody_who_never_answers_is_given_up():
    """A port that swallows everything: after FIRST_SECONDS."""
    async with answering(Habits(is_deaf=True)) as there:
        began = time.monotonic()
        with pytest.raises(LinkRefused, match="nobody answers at"):
            await Calling(there.address()).call()
    assert sip_handset.FIRST_SECONDS <= time.monotonic() - began < sip_handset.FIRST_SECONDS + 3


async def test_a_host_that_does_not_exist_is_told():
    """`.invalid` never does (RFC 2606)."""
    with pytest.raises(LinkRefused, match=r"no host nobody\.invalid|is the daemon running"):
        await Calling("sip:x@nobody.invalid").call()


async def test_nobody_takes_the_call_within_the_time():
    """It rings and rings: taken back, and told."""
    async with answering(Habits(rings=True)) as there:
        with pytest.raises(LinkRefused, match=r"nobody took the call within 0\.5 s"):
            await Calling(there.address(), seconds=0.5).call()
        await asyncio.wait_for(there.over.wait(), LIMIT)
        assert "CANCEL" in there.methods


async def test_a_call_longer_than_its_time_is_ended():
    """By us."""
    async with answering(Habits(ends=False)) as there:
        calling = Calling(there.address(), seconds=1.0)
        await calling.call()
        assert calling.person.outcome.reason == "the call took longer than 1 s"


async def test_a_password_opens_the_door():
    """The challenge is answered, and the call goes on as any."""
    async with answering(Habits(password="sesame")) as there:
        calling = Calling(there.address(), turn("one"), secret=Secret("alice", "sesame"))
        await calling.call()
        assert there.methods.count("INVITE") == 2
    assert calling.person.outcome.reached_end


@pytest.mark.parametrize("secret", [None, Secret("alice", "open")])
async def test_without_the_right_password_it_says_what_is_wanted(secret):
    """Once, without hammering."""
    async with answering(Habits(password="sesame")) as there:
        with pytest.raises(LinkRefused, match="--password-env"):
            await Calling(there.address(), secret=secret).call()
        assert there.methods.count("INVITE") == (1 if secret is None else 2)


@pytest.mark.parametrize(
    ("cause", "reached"),
    [
        (None, True),
        (Cause("Q.850", 16), True),
        (Cause("Q.850", 38, "network out of order"), False),
        (Cause("SIP", 503), False),
    ],
)
async def test_the_reason_of_a_bye_tells_a_good_end_from_a_bad_one(cause, reached):
    """RFC 3326; a BYE without one is a good one."""
    async with answering(Habits(lines=("goodbye",), cause=cause)) as there:
        calling = Calling(there.address())
        await calling.call()
    outcome = calling.person.outcome
    assert outcome.reached_end is reached
    if cause is not None and not reached:
        assert f"{cause.protocol} {cause.code}" in outcome.reason
        assert cause.text in outcome.reason


async def test_codecs_that_do_not_fit_are_a_refusal():
    """488, and what to do about it."""
    async with answering(Habits(codecs=(PCMU,))) as there:
        with pytest.raises(LinkRefused, match="--codec chooses another"):
            await Calling(there.address(), codec="pcma").call()


@pytest.mark.skipif(not g722.available(), reason=g722.MISSING)
async def test_a_wide_codec_is_never_answered_by_a_narrow_one():
    """What is said was made for 16 kHz, so nothing else is offered beside it."""
    async with answering(Habits(codecs=(PCMU, G722))) as there:
        calling = Calling(there.address(), turn("one", rate_hz=16_000), codec="g722")
        await calling.call()
        assert there.sessions[0].codec == G722


async def test_the_agent_is_held_and_taken_back():
    """Two re-INVITEs, and the conversation goes on behind them."""
    async with answering(Habits(lines=("a", "b"), ends=False)) as there:
        calling = Calling(there.address(), turn("one"), seconds=4.0, hold_after=0.3, hold=0.4)
        await calling.call()
        directions = [session.direction for session in there.sessions]
    assert directions == [Direction.SENDRECV, Direction.RECVONLY, Direction.SENDRECV]
    assert len(calling.all(Spoke)) == 1


async def test_a_transfer_is_told_and_refused():
    """The call goes on with the agent that was called."""
    async with answering(Habits(lines=("a", "b"), transfers=True)) as there:
        calling = Calling(there.address(), turn("one"))
        await calling.call()
        assert there.referrals == [603]
    assert calling.all(Transferred) == [Transferred()]
    assert calling.person.outcome.reached_end


async def test_a_connection_that_is_cut_is_no_end():
    """The daemon's process died in the middle."""
    async with answering(Habits(ends=False)) as there:
        calling = Calling(there.address(transport="tcp"))
        call = asyncio.create_task(calling.call())
        await asyncio.wait_for(there.up.wait(), LIMIT)
        there.drop()
        await call
    assert calling.person.outcome.reason == "the connection was lost"
    assert not calling.person.outcome.reached_end


async def test_frames_go_out_in_real_time():
    """50 a second by the wall clock, while the call is up."""
    async with answering(Habits(ends=False)) as there:
        calling = Calling(there.address(), seconds=1.5)
        await calling.call()
        assert there.wire is not None
    figures = calling.phone.figures
    assert figures is not None
    assert 65 <= figures.packets_out <= 78
    assert len(calling.said) >= 65


async def test_a_call_comes_to_a_caller_who_talks_already():
    """It is busy: one telephone, one call."""
    async with answering(Habits(ends=False)) as there:
        calling = Calling(there.address())
        call = asyncio.create_task(calling.call())
        await asyncio.wait_for(there.up.wait(), LIMIT)
        line = calling.phone._line
        assert line is not None
        disturbing = Calling(f"sip:caller@127.0.0.1:{line.local[1]}")
        with pytest.raises(LinkRefused, match="it is busy"):
            await disturbing.call()
        calling.phone.interrupt()
        await call
    assert calling.person.outcome.reason == "interrupted"
