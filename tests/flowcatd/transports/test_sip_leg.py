"""The SIP leg end to end: two telephones in one process, over real RTP sockets and a real pacer."""

from __future__ import annotations

import asyncio

import pytest

from flowcatd.audio.g722 import available as has_g722
from flowcatd.audio.level import rms
from flowcatd.audio.opus import available as has_opus
from flowcatd.frames import (
    BotStartedSpeaking,
    BotStoppedSpeaking,
    End,
    Hold,
    InputAudio,
    InputDtmf,
    LineHeard,
    OutputDtmf,
    Transfer,
)
from flowcatd.pipeline.chain import interrupt
from flowcatd.record import Reason
from flowcatd.rtp.watchdog import Patience
from flowcatd.sip.agent_event import CallEnded
from flowcatd.sip.session import CODECS, Capabilities, Secrecy
from tests.flowcatd.transports.phones import House, Phone, sound
from tests.workers.on_loop import on_worker_loop, until


def only(*names: str, **more: object) -> Capabilities:
    """What a phone with these codecs can do."""
    return Capabilities(codecs=tuple(CODECS[name] for name in names), **more)


PCMU = only("pcmu")


@on_worker_loop
async def test_a_line_arrives_to_the_last_sample_and_is_then_told_as_heard() -> None:
    """PCMU, 1.01 s: every byte, in order, without a gap; marks make the truth of what was heard."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        said = sound(1010)
        near.say("hello", said)
        await until(lambda: near.told(LineHeard))
        await until(lambda: said in far.heard)
        (line,) = near.told(LineHeard)
        assert line.complete
        assert 1000 <= line.end_ms - line.start_ms <= 1040
        assert near.leg.figures().media.packets_out >= 50


@on_worker_loop
async def test_a_call_runs_from_the_invite_to_the_record() -> None:
    """Who hangs up, how, and what the record says of it, at both ends."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        near.say("bye", sound(200))
        near.feed(End("completed"))
        mine, theirs = await near.outcome, await far.outcome
        assert (mine.reason, theirs.reason) == (Reason.COMPLETED, Reason.CALLER_HUNG_UP)
        await until(lambda: any(isinstance(each, CallEnded) for each in near.events))
        sip = near.call.ledger.sip
        assert (sip.trunk, sip.direction, sip.transport) == ("test", "outbound", "UDP")
        assert (sip.status, sip.codec, sip.srtp) == (200, "PCMU", "")
        assert sip.ladder[0] == "0.000 → INVITE 1 +body"
        assert any(line.endswith("→ BYE 2") for line in sip.ladder)
        assert sip.media.lost == 0
        assert sip.media.packets_in > 0
        theirs = far.call.ledger.sip
        assert (theirs.direction, theirs.cause) == ("inbound", "Q.850 16")
        assert theirs.media.mos > 4


@on_worker_loop
async def test_an_interruption_silences_the_far_end_at_once() -> None:
    """What waits in the leg is forgotten: no more than two packets follow."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        near.say("a long line", sound(3000))
        await until(lambda: rms(far.heard[-1600:]) > 500)
        before = near.leg.figures().media.packets_out
        interrupt(near.ears)
        await until(lambda: near.told(LineHeard))
        (line,) = near.told(LineHeard)
        assert not line.complete
        assert near.told(BotStoppedSpeaking)[0].interrupted
        await until(lambda: rms(far.heard[-1600:]) < 100)
        loud = near.leg.figures().media.packets_out - before
        assert loud <= 30  # comfort noise follows, once a second


@on_worker_loop
async def test_keys_arrive_once_by_rtp() -> None:
    """telephone-event, agreed by default."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        near.feed(OutputDtmf(0, "159#"))
        await until(lambda: len(far.seen(InputDtmf)) == 4)
        await asyncio.sleep(0.3)
        assert [each.digit for each in far.seen(InputDtmf)] == list("159#")


@on_worker_loop
async def test_on_hold_nothing_is_said_and_afterwards_the_line_goes_on() -> None:
    """A line that a hold cuts in two is heard whole, and late by the hold."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        said = sound(1000)
        near.say("the line", said)
        await until(lambda: near.told(BotStartedSpeaking))
        await until(lambda: rms(far.heard[-1600:]) > 500)
        house.far.do("hold", far.number)
        await until(lambda: near.seen(Hold))
        out = near.leg.figures().media.packets_out
        count = len(near.seen(InputAudio))
        await until(lambda: len(near.seen(InputAudio)) > count + 30)
        assert near.leg.figures().media.packets_out <= out + 1
        assert not near.told(LineHeard)
        heard_by_then = len(far.heard.lstrip(b"\0"))
        house.far.do("hold", far.number, held=False)
        await until(lambda: near.told(LineHeard))
        assert near.told(LineHeard)[0].complete
        assert [each.held for each in near.seen(Hold)] == [True, False]
        await until(lambda: said[-1600:] in far.heard)  # what comes before it has no other place
        assert near.leg.figures().media.packets_out - out >= (len(said) - heard_by_then) // 320 - 10
        assert not near.outcome.done()


@on_worker_loop
async def test_a_held_call_outlives_the_patience_with_silence() -> None:
    """The stream's watchdog and the call's both know that silence is right on hold."""
    async with House(PCMU, PCMU, patience=Patience(0.4, 0.4)) as house:
        near, far = await house.connect()
        house.far.do("hold", far.number)
        await until(lambda: near.seen(Hold))
        count = len(near.seen(InputAudio))
        await until(lambda: len(near.seen(InputAudio)) > count + 50)
        assert not near.outcome.done()


@on_worker_loop
async def test_a_far_end_that_falls_silent_is_lost() -> None:
    """Not held, and no packet: the call ends, with the reason in words."""
    quiet = only("pcmu", has_comfort_noise=False)
    async with House(quiet, quiet, patience=Patience(0.4, 0.4)) as house:
        near, far = await house.connect()
        far.leg._wire.close()
        outcome = await near.outcome
        assert outcome.reason is Reason.SOCKET_LOST
        assert "no media" in outcome.error


@on_worker_loop
async def test_a_silent_agent_is_heard_to_be_there() -> None:
    """Without comfort noise, silence is sent: a far end that gets nothing would hang up."""
    quiet = only("pcmu", has_comfort_noise=False)
    async with House(quiet, quiet) as house:
        near, far = await house.connect()
        await until(lambda: far.leg.figures().media.packets_in > 20)
        assert not any(near.heard)


@pytest.mark.parametrize("name", ["pcma", "g722", "opus"])
def test_every_codec_carries_sound_both_ways(name: str) -> None:
    """At the rate that suits it."""
    if (name == "g722" and not has_g722()) or (name == "opus" and not has_opus()):
        pytest.skip(f"{name} is not installed")

    @on_worker_loop
    async def run() -> None:
        async with House(only(name), only(name)) as house:
            near, far = await house.connect()
            rate_hz = 8000 if name == "pcma" else 16000
            assert far.seen(InputAudio)[0].rate_hz == rate_hz
            loud = (b"\x00\x20" * 8 + b"\x00\xe0" * 8) * (rate_hz // 32)
            near.say("one", loud)
            far.say("two", loud)
            await until(lambda: near.told(LineHeard) and far.told(LineHeard))
            for end in (near, far):
                assert sum(rms(each.pcm) > 3000 for each in end.seen(InputAudio)) >= 20
                assert end.leg.figures().codec.lower() == name

    run()


@on_worker_loop
async def test_sdes_protects_the_media() -> None:
    """The same byte-exact line, through SRTP; the record names the suite."""
    secret = only("pcmu", secrecy=Secrecy.SDES)
    async with House(secret, secret) as house:
        near, far = await house.connect()
        said = sound(400)
        near.say("hush", said)
        await until(lambda: said in far.heard)
        assert near.leg.figures().srtp == "AES_CM_128_HMAC_SHA1_80"
        assert far.leg.figures().media.bad == 0


@on_worker_loop
async def test_a_change_of_rate_is_bridged() -> None:
    """The chain keeps the rate it began with when the codec becomes a wider one."""
    if not has_g722():
        pytest.skip("g722 is not installed")
    async with House(PCMU, only("pcmu", "g722")) as house:
        near, far = await house.connect()
        wide = only("g722")
        for phone, end in ((house.near, near), (house.far, far)):
            phone.agent.negotiation(end.number)._capabilities = wide
        house.far.do("re_offer", far.number)
        await until(lambda: near.leg.figures().codec == "G722" == far.leg.figures().codec)
        loud = (b"\x00\x20" * 8 + b"\x00\xe0" * 8) * 250
        near.say("one", loud)
        await until(lambda: near.told(LineHeard))
        await until(lambda: sum(rms(each.pcm) > 3000 for each in far.seen(InputAudio)) >= 20)
        assert {each.rate_hz for each in far.seen(InputAudio)} == {8000}
        assert {len(each.pcm) for each in far.seen(InputAudio)} == {320}


@on_worker_loop
async def test_a_transfer_that_is_taken_ends_the_call_as_transferred() -> None:
    """After the line before it was heard; NOTIFY says 200."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        near.say("one moment", sound(200))
        near.feed(Transfer("sip:sales@192.0.2.9"))
        near.feed(End("transferred"))
        await until(lambda: _referral(house.far) is not None)
        assert near.told(LineHeard)
        assert not near.outcome.done()
        house.far.do("report_refer", far.number, _referral(house.far), 200)
        assert (await near.outcome).reason is Reason.TRANSFERRED


@on_worker_loop
@pytest.mark.parametrize("status", [603, 486])
async def test_a_transfer_that_is_refused_is_the_agents_failure(status: int) -> None:
    """At once by the far end, or later by whom it called."""
    async with House(PCMU, PCMU) as house:
        near, far = await house.connect()
        house.far.referred = 603 if status == 603 else 202
        near.feed(Transfer("sip:sales@192.0.2.9"))
        near.feed(End("transferred"))
        if status != 603:
            await until(lambda: _referral(house.far) is not None)
            house.far.do("report_refer", far.number, _referral(house.far), status)
        assert (await near.outcome).reason is Reason.AGENT_FAILED
        assert near.told(End) == [End("transfer_failed")]


def _referral(phone: Phone) -> int | None:
    found = [each.reference for each in phone.told if type(each).__name__ == "Referred"]
    return found[0] if found else None


@on_worker_loop
async def test_media_prove_a_call_up_whose_ack_is_lost() -> None:
    """The caller speaks: the agent does not wait for the ACK, and goes on when it comes late."""
    async with House(PCMU, PCMU) as house:
        house.drops = lambda _phone, data: data.startswith(b"ACK")
        near = house.near.dial(house.far)
        await until(lambda: house.hears(near))
        far = next(iter(house.far.calls.values()))
        near.say("hello?", sound(200))
        await until(lambda: far.seen(InputAudio))
        house.drops = lambda _phone, _data: False
        await until(lambda: any(type(each).__name__ == "Connected" for each in far.events))
        assert not far.outcome.done()


@on_worker_loop
async def test_a_call_of_ours_that_nobody_answers_is_given_up() -> None:
    """No answer within the ring time: not answered, and the ports come back."""
    async with House(PCMU, PCMU, start_seconds=0.3) as house:
        house.drops = lambda _phone, _data: True
        near = house.near.dial(house.far)
        assert (await near.outcome).reason is Reason.NOT_ANSWERED
        assert near.call.ledger.sip.status == 0
