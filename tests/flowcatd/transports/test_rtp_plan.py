"""From what was agreed to what RTP does: numbers of both sides, codecs with a memory, clocks and rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowcatd.audio.g722 import available as has_g722
from flowcatd.audio.opus import available as has_opus
from flowcatd.errors import LocalError
from flowcatd.rtp.stream import Stream
from flowcatd.rtp.trouble import RtpError
from flowcatd.sip.attribute import Direction, Fingerprint, Format
from flowcatd.sip.session import (
    G722,
    OPUS,
    PCMA,
    PCMU,
    Codec,
    Dtls,
    Events,
    Incoming,
    Noise,
    Session,
)
from flowcatd.transports.rtp_plan import Codecs, Manners, chain_rate

MANNERS = Manners(wall_offset=5.0, cname=b"c")
FAR = ("192.0.2.1", 4000)


def session(codec: Codec = PCMU, *more: Codec, **changes: object) -> Session:
    """Agreed: this codec both ways, and that these may arrive, too."""
    heard = tuple(Incoming(each.format.payload, each) for each in (codec, *more))
    plain = Session(
        codec=codec,
        send_payload=codec.format.payload,
        incoming=heard,
        events=Events(101, (101,), codec.format.clock_hz, frozenset(range(16))),
        noise=None,
        ptime_ms=20,
        direction=Direction.SENDRECV,
        rtp=FAR,
        rtcp=("192.0.2.1", 4001),
        has_rtcp_mux=False,
        secrecy=None,
        fmtp="",
        held_by_us=False,
        held_by_them=False,
    )
    return replace(plain, **changes)


def test_each_side_has_its_own_numbers() -> None:
    """We send with theirs and are sent ours (RFC 3264 §6.1), events and noise as well."""
    agreed = session(
        send_payload=96,
        events=Events(97, (101, 102), 8000, frozenset(range(16))),
        noise=Noise(13, 98),
    )
    plan = Codecs().plan(agreed, MANNERS)
    out = plan.outbound
    assert (out.codec.payload_type, out.digits_type, out.noise_type) == (96, 97, 13)
    assert (plan.codecs[0].payload_type, plan.digits_type, plan.more_digits) == (0, 101, (102,))
    assert (plan.noise_type, plan.far, plan.far_rtcp) == (98, FAR, ("192.0.2.1", 4001))
    stream = Stream(plan, lambda bits: 1 << (bits - 1))
    stream.direct(0.0, sending=True, receiving=True)
    (data,) = stream.send(bytes(320))
    assert data[1] & 0x7F == 96


@pytest.mark.parametrize("codec", [PCMU, PCMA, G722, OPUS])
def test_what_does_not_change_compares_equal(codec: Codec) -> None:
    """So that a session refresh never empties a jitter buffer or forgets a decoder's past."""
    _need(codec)
    codecs = Codecs()
    assert codecs.plan(session(codec), MANNERS) == codecs.plan(session(codec), MANNERS)


def test_a_narrow_codec_beside_g722_is_brought_to_its_rate() -> None:
    """One stream has one rate; both may arrive."""
    _need(G722)
    plan = Codecs().plan(session(G722, PCMU, PCMA), MANNERS)
    assert [each.rate_hz for each in plan.codecs] == [16000] * 3
    assert {len(each.decode(bytes(160))) for each in plan.codecs} == {640}


def test_a_codec_of_another_clock_is_left_out() -> None:
    """Timestamps of two clocks make no sense together."""
    _need(OPUS)
    plan = Codecs().plan(session(PCMU, OPUS, PCMA), MANNERS)
    assert [each.name for each in plan.codecs] == ["PCMU", "PCMA"]


def test_opus_runs_at_16_khz_on_a_clock_of_48() -> None:
    """A frame goes round, and what is no packet is refused in the room's own words."""
    _need(OPUS)
    plan = Codecs().plan(session(OPUS, fmtp="maxaveragebitrate=12000;useinbandfec=0"), MANNERS)
    (codec,) = plan.codecs
    assert (codec.rate_hz, codec.clock_hz) == (16000, 48000)
    packet = codec.encode(bytes(640))
    assert (codec.ticks(packet), len(codec.decode(packet))) == (960, 640)
    with pytest.raises(RtpError):
        codec.decode(b"\xff" * 3)
    assert codec.recover is not None
    assert codec.conceal is not None
    assert len(codec.recover(packet, 320)) == len(codec.conceal(320)) == 640
    with pytest.raises(RtpError):
        codec.recover(b"", 320)


def test_milliseconds_that_were_made_up_stay_so_when_the_rate_changes() -> None:
    """They are counted in samples, and a call may go from 8 to 16 kHz."""
    _need(G722)
    codecs = Codecs()
    stream = Stream(codecs.plan(session(PCMU), MANNERS), lambda bits: 1 << (bits - 1))
    stream.direct(0.0, sending=True, receiving=True)
    for number in range(10):
        data = b"\x80\x00" + number.to_bytes(2, "big") + (160 * number).to_bytes(4, "big")
        stream.receive_datagram(data + b"\0\0\0\1" + b"\x90" * 160, FAR, number * 0.02)
        stream.pull(number * 0.02)
    for number in range(10, 20):
        stream.pull(number * 0.02)
    before = stream.figures().concealed_ms
    assert before > 0
    stream.signal(codecs.plan(session(G722), MANNERS))
    assert stream.figures().concealed_ms == before


def test_opus_sends_no_packet_length_that_it_does_not_have() -> None:
    """30 ms are no Opus frame."""
    _need(OPUS)
    assert Codecs().plan(session(OPUS, ptime_ms=30), MANNERS).outbound.ptime_ms == 20
    assert Codecs().plan(session(OPUS, ptime_ms=40), MANNERS).outbound.ptime_ms == 40


def test_a_lost_opus_packet_is_had_back_where_the_far_end_corrects_errors() -> None:
    """Two calls' codecs, end to end over a lossy line: less than half of what making up gets wrong."""
    _need(OPUS)
    assert _wrong("useinbandfec=1") < _wrong("") / 2


def _wrong(fmtp: str) -> float:
    """Every tenth packet is lost: how far what is heard instead is mostly from it, as a share of it."""
    far = Stream(Codecs().plan(session(OPUS, fmtp=fmtp), MANNERS), lambda bits: bits)
    far.direct(0.0, sending=True, receiving=True)
    ends = [Stream(Codecs().plan(session(OPUS), MANNERS), lambda bits: 2 * bits) for _ in range(2)]
    heard: list[list[bytes]] = [[], []]
    for number in range(400):
        now = number * 0.02
        (data,) = far.send(_voice(number))
        for end, sound in zip(ends, heard, strict=True):
            if end is ends[0] or number < 50 or number % 10:
                end.receive_datagram(data, FAR, now)
            sound.append(end.pull(now))
    assert ends[1].figures().concealed_ms == 35 * 20
    clean, lossy = (
        np.array([np.frombuffer(pcm, "<i2") for pcm in sound], float) for sound in heard
    )
    lost = range(52, 400, 10)  # two ticks later it would have been heard
    return float(
        np.median([np.sum((lossy - clean)[at] ** 2) / np.sum(clean[at] ** 2) for at in lost])
    )


def _voice(number: int) -> bytes:
    """20 ms of a buzz whose pitch wanders."""
    time = (np.arange(320) + 320 * number) / 16_000
    phase = 2 * np.pi * (140 * time - 40 / 4.4 * np.cos(4.4 * time))
    loud = 0.5 + 0.5 * np.sin(19.5 * time)
    sound = sum(np.sin(phase * turn) / turn for turn in range(1, 12))
    return (sound * loud * 5000).astype("<i2").tobytes()


def test_an_encoder_does_without_error_correction_that_nobody_asked_for() -> None:
    """RFC 7587 §6.1: no fmtp at all is useinbandfec=0, from the first packet on."""
    _need(OPUS)
    sizes = []
    for fmtp in ("", "useinbandfec=1"):
        (codec,) = Codecs().plan(session(OPUS, fmtp=fmtp), MANNERS).codecs
        sizes.append([len(codec.encode(_voice(number))) for number in range(50)])
    assert sizes[0] != sizes[1]


def test_events_that_the_far_end_does_not_name_are_not_sent() -> None:
    """RFC 4733 §2.5.1.1."""
    agreed = session(events=Events(101, (101,), 8000, frozenset({0, 1, 70})))
    assert Codecs().plan(agreed, MANNERS).outbound.events == {0, 1}


def test_events_count_in_the_clock_that_was_agreed() -> None:
    """Opus beside telephone-event/8000, as some phones have it: 100 ms are 800, not 4800."""
    _need(OPUS)
    agreed = session(OPUS, events=Events(101, (101,), 8000, frozenset(range(16))))
    stream = Stream(Codecs().plan(agreed, MANNERS), lambda bits: 1 << (bits - 1))
    stream.direct(0.0, sending=True, receiving=True)
    stream.press("5")
    sent = [data for _ in range(8) for data in stream.send(None)]
    durations = [int.from_bytes(data[14:16], "big") for data in sent if data[1] & 0x7F == 101]
    assert max(durations) == 800


def test_nobody_gets_reports_who_wants_none() -> None:
    """RFC 3556; nor where RTCP would need a handshake of its own."""
    dtls = Dtls(True, (Fingerprint("sha-256", ":".join(["00"] * 32)),))
    plans = [
        Codecs().plan(each, MANNERS)
        for each in (
            session(rtcp=None),
            session(secrecy=dtls),
            session(secrecy=dtls, has_rtcp_mux=True, rtcp=FAR),
            session(),
        )
    ]
    assert [plan.has_reports for plan in plans] == [False, False, True, True]
    stream = Stream(plans[0], lambda bits: 1 << (bits - 1))
    stream.say_goodbye(1.0)
    assert stream.outgoing() == []


def test_an_unknown_codec_is_our_own_error() -> None:
    """It was never offered."""
    with pytest.raises(LocalError):
        chain_rate(session(Codec(Format(18, "G729", 8000), 8000)))


def _need(codec: Codec) -> None:
    if codec is G722 and not has_g722():
        pytest.skip("g722 is not installed")
    if codec is OPUS and not has_opus():
        pytest.skip("libopus is not installed")
