"""A stream as a whole: what a telephone line does to it, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import math
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from flowcatd.audio.g711 import pcm_to_mulaw
from flowcatd.errors import LocalError
from flowcatd.rtp.codec import PCMA, PCMU
from flowcatd.rtp.digits import KEYS, Digit, Pressed
from flowcatd.rtp.packet import Packet, build_packet, parse_packet
from flowcatd.rtp.rtcp import Block, Description, Goodbye, Report, build_rtcp, parse_rtcp
from flowcatd.rtp.sender import AHEAD, Outbound
from flowcatd.rtp.stream import Guard, Inactive, Left, Moved, Plan, Stream
from flowcatd.rtp.trouble import RtpError
from flowcatd.rtp.watchdog import Patience
from tests.laws import keeps_bounded_law, keeps_quiet_law

FAR = ("192.0.2.7", 40_000)
ELSEWHERE = ("198.51.100.9", 5004)
T0 = 1000.0
TICK = 0.02
PLAN = Plan((PCMU, PCMA), FAR, digits_type=101, noise_type=13, cname=b"leg")


def chance(seed: int) -> Callable[[int], int]:
    """Bits that a test can count on."""
    return random.Random(seed).getrandbits


def stream(plan: Plan = PLAN, seed: int = 1) -> Stream:
    """One leg."""
    return Stream(plan, chance(seed))


def voice(frames: int) -> list[bytes]:
    """Something periodic like a voice: 140 Hz with harmonics, rising and falling."""
    samples = []
    for n in range(160 * frames):
        t = n / 8000
        loud = 5000 * (1.2 + math.sin(2 * math.pi * 0.7 * t))
        wave = sum(math.sin(2 * math.pi * 140 * h * t) / h for h in range(1, 8))
        samples.append(int(loud * wave / 2.5))
    pcm = struct.pack(f"<{len(samples)}h", *samples)
    return [pcm[at : at + 320] for at in range(0, len(pcm), 320)]


VOICE = voice(50)


@dataclass
class Line:
    """What the way does to packets: a delay of its own for each, or None for loss."""

    way: Callable[[int, float], float | None]
    drift: float = 0.0
    """How much faster than ours the far end's clock runs."""
    ptime_ms: int = 20
    keys: dict[int, str] = field(default_factory=dict)
    """Pressed at these ticks."""

    def packets(self, frames: int) -> Iterator[tuple[float, int, bytes]]:
        """Arrivals in order: time, number of the packet, datagram; what is lost has none."""
        far = Stream(replace(PLAN, ptime_ms=self.ptime_ms), chance(7))
        far.direct(T0, sending=True, receiving=True)
        waiting: list[tuple[float, int, bytes]] = []
        number = 0
        for tick in range(frames):
            sent_at = T0 + tick * TICK / (1 + self.drift)
            if tick in self.keys:
                far.press(self.keys[tick])
            for data in far.send(VOICE[tick % len(VOICE)]):
                delay = self.way(number, sent_at)
                if delay is not None:
                    heapq.heappush(waiting, (sent_at + 0.03 + delay, number, data))
                number += 1
            # Nothing sent later than a second from here can overtake.
            while waiting and waiting[0][0] < sent_at:
                yield heapq.heappop(waiting)
        while waiting:
            yield heapq.heappop(waiting)


@dataclass
class Heard:
    """What came of it."""

    leg: Stream
    delays_ms: list[float]
    """The buffer's delay at each second."""
    events: list[object]


def listen(line: Line, seconds: float) -> Heard:
    """Play a line into a stream for so long, pulling every 20 ms; all drained to the end."""
    leg = stream()
    leg.direct(T0, sending=True, receiving=True)
    arrivals = line.packets(int(seconds / TICK))
    coming = next(arrivals, None)
    delays, events = [], []
    ticks = 0
    while coming is not None:
        now = T0 + 0.007 + ticks * TICK
        while coming is not None and coming[0] <= now:
            leg.receive_datagram(coming[2], FAR, coming[0])
            coming = next(arrivals, None)
        leg.wake(now)
        assert len(leg.pull(now)) == 320
        events += leg.events()
        leg.outgoing()
        ticks += 1
        if ticks % 50 == 0:
            delays.append(leg.figures().delay_ms)
    return Heard(leg, delays, events)


def uniform(seed: int, *, loss: float = 0.05, jitter: float = 0.04) -> Callable[..., float | None]:
    """Each packet for itself; so much jitter reorders them too."""
    dice = random.Random(seed)
    return lambda _number, _at: None if dice.random() < loss else dice.random() * jitter


def bursty(seed: int, *, loss: float = 0.05, jitter: float = 0.04) -> Callable[..., float | None]:
    """Held back and let go together, every second or so; a tenth of the packets is overtaken."""
    dice = random.Random(seed)
    held_until = 0.0
    next_hold = T0

    def way(_number: int, at: float) -> float | None:
        nonlocal held_until, next_hold
        if at >= next_hold:
            held_until = at + jitter
            next_hold = at + dice.uniform(0.2, 2.0)
        if dice.random() < loss:
            return None
        if at < held_until:
            return held_until - at
        return dice.uniform(0.02, jitter) if dice.random() < 0.1 else 0.0

    return way


MINUTES = 600
"""Seconds: the issue's ten minutes."""


@pytest.mark.parametrize("way", [uniform, bursty])
@pytest.mark.parametrize("drift", [200e-6, 0.0, -200e-6])
def test_ten_bad_minutes_add_no_delay_and_conceal_what_was_lost(way, drift) -> None:
    """5 % loss, 40 ms jitter, reordering, 200 ppm: the delay stays, holes are as long as the loss."""
    heard = listen(Line(way(3), drift), MINUTES)
    figures, delays = heard.leg.figures(), heard.delays_ms
    assert max(delays) <= 40 + 10 + 2 * 20  # the jitter, the margin, a tick and a splice
    assert 40 <= sum(delays) / len(delays) <= 70
    early, late = delays[20:140], delays[-120:]
    assert abs(sum(late) / len(late) - sum(early) / len(early)) < 5
    assert figures.lost > 1000
    assert abs(figures.concealed_ms - 20 * figures.lost) <= 20
    assert figures.late == figures.discarded == 0
    assert abs(figures.lengthened_ms - figures.shortened_ms + drift * MINUTES * 1000) <= 30


@pytest.mark.parametrize("way", [uniform, bursty])
@pytest.mark.parametrize("drift", [200e-6, -200e-6])
def test_every_digit_of_ten_bad_minutes_is_told_once(way, drift) -> None:
    """768 keys through loss, jitter, reordering and drift: each once, in order, as long as pressed."""
    keys = {100 + 600 * turn: KEYS[:16] for turn in range(48)}
    heard = listen(Line(way(5), drift, keys=keys), MINUTES)
    digits = [event for event in heard.events if isinstance(event, Digit)]
    pressed = [event.key for event in heard.events if isinstance(event, Pressed)]
    assert "".join(digit.key for digit in digits) == "".join(pressed) == KEYS[:16] * 48
    assert {digit.duration_ms for digit in digits} <= {60, 80, 100}
    assert sum(digit.duration_ms == 100 for digit in digits) >= 760
    assert max(heard.delays_ms) <= 90


def test_a_good_line_is_heard_soon() -> None:
    """Without jitter the delay falls to the margin and less than a tick."""
    heard = listen(Line(lambda _number, _at: 0.0), 30)
    assert heard.delays_ms[-1] <= 30
    assert heard.leg.figures().concealed_ms == 0


@pytest.mark.parametrize("ptime_ms", [10, 20, 30, 40, 60])
def test_packets_of_any_length_are_heard_whole(ptime_ms) -> None:
    """Loss is concealed as long as it lasted, whatever a packet holds."""
    way = uniform(9, loss=0.03, jitter=0.03)
    heard = listen(Line(way, 100e-6, ptime_ms=ptime_ms), 60)
    figures = heard.leg.figures()
    assert figures.lost > 10
    assert abs(figures.concealed_ms - ptime_ms * figures.lost) <= max(20, ptime_ms)
    assert figures.late == 0
    assert max(heard.delays_ms) <= 110


def test_a_stall_becomes_no_lasting_delay() -> None:
    """Two seconds held back and let go at once: above the ceiling is dropped, the rest caught up."""

    def way(_number: int, at: float) -> float:
        stalled = T0 + 20 <= at < T0 + 22
        return T0 + 22 - at if stalled else 0.0

    heard = listen(Line(way), 60)
    assert max(heard.delays_ms) <= 200
    assert heard.delays_ms[-1] <= 30
    assert heard.leg.figures().discarded > 80


def test_a_clean_voice_comes_out_as_it_went_in() -> None:
    """What nothing happened to is not touched."""
    leg = stream()
    far = stream(seed=2)
    out, sent = b"", b""
    for tick in range(100):
        now = T0 + tick * TICK
        for data in far.send(VOICE[tick % 50]):
            leg.receive_datagram(data, FAR, now)
        sent += PCMU.decode(pcm_to_mulaw(VOICE[tick % 50]))
        if tick >= 3:
            out += leg.pull(now)
    assert sent[:3200] in out


# --- whom we hear --------------------------------------------------------------------------------


def feed(leg: Stream, far: Stream, ticks: int, now: float, addr=FAR) -> float:
    """So many ticks of a perfect line; the time after it."""
    for tick in range(ticks):
        for data in far.send(VOICE[tick % 50]):
            leg.receive_datagram(data, addr, now)
        leg.pull(now)
        now += TICK
    return now


def test_another_ssrc_is_heard_with_its_second_packet() -> None:
    """A new source of the same address needs no signalling; one forged packet is not one."""
    leg, far, other = stream(), stream(seed=2), stream(seed=3)
    now = feed(leg, far, 50, T0)
    leg.receive_datagram(other.send(VOICE[0])[0], FAR, now)
    assert leg.figures().sources == 1
    now = feed(leg, other, 50, now)
    figures = leg.figures()
    assert (figures.sources, figures.lost) == (2, 0)
    assert figures.concealed_ms <= 40


def test_digits_with_an_ssrc_of_their_own_are_heard_and_audio_goes_on() -> None:
    """Some gateways send telephone-event from elsewhere in the box."""
    leg, far, pad = stream(), stream(seed=2), stream(seed=3)
    now = feed(leg, far, 50, T0)
    pad.press("7")
    for _ in range(12):
        for data in pad.send(None):
            leg.receive_datagram(data, FAR, now)
        now = feed(leg, far, 1, now)
    assert Digit("7", 100) in leg.events()
    assert leg.figures().sources == 1
    assert leg.figures().concealed_ms == 0


def test_a_key_that_is_down_when_the_source_changes_is_told_once() -> None:
    """Its end never comes; the audio of another SSRC goes on, and keys of that one are its own."""
    leg, far, other = stream(), stream(seed=2), stream(seed=3)
    now = feed(leg, far, 50, T0)
    far.press("5")
    now = feed(leg, far, 3, now)
    now = feed(leg, other, 50, now)
    other.press("6")
    now = feed(leg, other, 20, now)
    leg.wake(now)
    told = [each for each in leg.events() if isinstance(each, Digit)]
    assert [each.key for each in told] == ["5", "6"]
    assert told[1] == Digit("6", 100)


def test_a_restart_of_numbers_and_time_is_heard_without_signalling() -> None:
    """Music on hold: the same SSRC begins its sequence numbers and timestamps anew."""
    leg, far = stream(), stream(seed=2)
    now = feed(leg, far, 50, T0)
    for tick in range(100):
        kind, voice = PCMU.payload_type, pcm_to_mulaw(VOICE[tick % 50])
        ssrc = far.snapshot(now).sender.ssrc
        again = build_packet(Packet(kind, False, 9 + tick, 77 + 160 * tick, ssrc, voice))
        leg.receive_datagram(again, FAR, now)
        leg.pull(now)
        now += TICK
    assert leg.figures().concealed_ms <= 100
    assert leg.figures().delay_ms <= 60
    assert leg.pull(now) != bytes(320)


def test_a_timestamp_that_jumps_makes_no_silence_and_no_delay() -> None:
    """Forward or back, with sequence numbers going on: the sound goes on too."""
    for jump in (8_000_000, -8_000_000, 3000, -3000):
        leg, far = stream(), stream(seed=2)
        now = feed(leg, far, 100, T0)
        for tick in range(100):
            packet = parse_packet(far.send(VOICE[tick % 50])[0])
            moved = (packet.timestamp + jump) & 0xFFFFFFFF
            moved_packet = Packet(0, False, packet.sequence, moved, packet.ssrc, packet.payload)
            leg.receive_datagram(build_packet(moved_packet), FAR, now)
            leg.pull(now)
            now += TICK
        figures = leg.figures()
        assert (figures.late, figures.lost, figures.discarded) == (0, 0, 0)
        assert figures.concealed_ms <= 20
        assert figures.delay_ms <= 60


@pytest.mark.parametrize("pause", [0.3, 0.7, 5.0])
def test_a_clock_that_stood_still_costs_its_pause_and_nothing_after(pause) -> None:
    """Some far ends stop their timestamps on hold; jitter after it is borne as before it."""
    leg, far = stream(), stream(seed=2)
    now = feed(leg, far, 500, T0)
    for _ in range(int(pause / TICK)):
        leg.pull(now)
        now += TICK
    dice = random.Random(1)
    coming = [
        (now + tick * TICK + dice.random() * 0.025, tick, data)
        for tick in range(1000)
        for data in far.send(VOICE[tick % 50])
    ]
    coming.sort()
    for _ in range(990):
        while coming and coming[0][0] <= now:
            leg.receive_datagram(coming[0][2], FAR, coming.pop(0)[0])
        leg.pull(now)
        now += TICK
    figures = leg.figures()
    assert figures.concealed_ms <= 120
    assert (figures.late, figures.discarded) == (0, 0)
    assert figures.delay_ms <= 75


def test_silence_suppressed_is_background_not_loss() -> None:
    """Sequence numbers go on and timestamps tell of the pause: nothing is concealed but its start."""
    leg, far = stream(), stream(seed=2)
    now = T0
    for _ in range(5):
        now = feed(leg, far, 50, now)
        for _ in range(50):
            for data in far.send(None):
                leg.receive_datagram(data, FAR, now)
            leg.pull(now)
            now += TICK
    figures = leg.figures()
    assert figures.concealed_ms == 0
    assert figures.background_ms >= 4000
    assert figures.lost == figures.late == 0


# --- what we send --------------------------------------------------------------------------------


def test_time_goes_on_in_silence_and_talk_begins_with_a_marker() -> None:
    """RFC 3550 §5.1, RFC 3551 §4.1; sequence numbers count packets only."""
    leg = stream(replace(PLAN, noise_type=None))
    first = parse_packet(leg.send(VOICE[0])[0])
    second = parse_packet(leg.send(VOICE[1])[0])
    assert leg.send(None) == []
    third = parse_packet(leg.send(VOICE[2])[0])
    assert [first.marker, second.marker, third.marker] == [True, False, True]
    assert [(p.timestamp - first.timestamp) & 0xFFFFFFFF for p in (second, third)] == [160, 480]
    assert third.sequence - first.sequence == 2


def test_comfort_noise_announces_a_silence_and_again_each_second() -> None:
    """Only where it was negotiated."""
    leg = stream()
    leg.send(VOICE[0])
    kinds = [parse_packet(data).payload_type for _ in range(101) for data in leg.send(None)]
    assert kinds == [13, 13, 13]


@pytest.mark.parametrize(("ptime_ms", "sizes"), [(10, {80}), (30, {240}), (40, {320}), (60, {480})])
def test_packets_are_cut_as_agreed(ptime_ms, sizes) -> None:
    """Timestamps follow each other without a gap."""
    leg = stream(replace(PLAN, ptime_ms=ptime_ms))
    sent = [parse_packet(data) for tick in range(12) for data in leg.send(VOICE[tick])]
    assert {len(packet.payload) for packet in sent} == sizes
    apart = {b.timestamp - a.timestamp for a, b in itertools.pairwise(sent)}
    assert apart == sizes
    assert b"".join(packet.payload for packet in sent) == b"".join(map(pcm_to_mulaw, VOICE[:12]))


def test_on_hold_nothing_is_sent_and_time_goes_on() -> None:
    """The far end said sendonly or inactive."""
    leg = stream()
    first = parse_packet(leg.send(VOICE[0])[0])
    leg.direct(T0, sending=False, receiving=True)
    assert leg.send(VOICE[1]) == []
    leg.direct(T0, sending=True, receiving=True)
    assert parse_packet(leg.send(VOICE[2])[0]).timestamp == first.timestamp + 320 & 0xFFFFFFFF


def test_keys_are_refused_where_the_far_end_takes_none() -> None:
    """Without telephone-event in the answer there is INFO, or tones."""
    with pytest.raises(LocalError, match="telephone-event"):
        stream(replace(PLAN, digits_type=None)).press("1")


def test_a_stream_goes_on_in_another_process() -> None:
    """Same SSRC, later numbers, and the far end hears no other source; so does our lock."""
    leg, far = stream(), stream(seed=2)
    feed(leg, far, 50, T0)
    feed(far, leg, 50, T0)
    left = leg.snapshot(T0 + 1)
    taken = Stream.taken_up(PLAN, left, chance(99), T0 + 1.5)
    packet = parse_packet(taken.send(VOICE[0])[0])
    assert packet.ssrc == left.sender.ssrc
    assert packet.sequence == (left.sender.index + 25 + AHEAD) & 0xFFFF
    assert packet.timestamp == (left.sender.timestamp + 25 * 160) & 0xFFFFFFFF
    assert taken.destination == FAR
    feed(far, taken, 50, T0 + 1.52)
    assert far.figures().sources == 1
    taken.receive_datagram(far.send(VOICE[0])[0], ELSEWHERE, T0 + 1.6)
    assert taken.figures().foreign == 1
    taken.receive_datagram(far.send(VOICE[0])[0], FAR, T0 + 1.6)
    assert taken.figures().packets_in == 1


# --- reports and silence -------------------------------------------------------------------------


def test_reports_measure_the_way_there_and_back() -> None:
    """Two legs report to each other over 60 ms each way: both learn of it, and of the loss."""
    one, two = stream(), stream(seed=2)
    for leg in (one, two):
        leg.direct(T0, sending=True, receiving=True)
    waiting: list[tuple[float, Stream, bytes]] = []
    for tick in range(1500):
        now = T0 + tick * TICK
        for at, leg, data in list(waiting):
            if at <= now:
                leg.receive_rtcp(data, FAR, now)
                waiting.remove((at, leg, data))
        for leg, other in ((one, two), (two, one)):
            for number, data in enumerate(leg.send(VOICE[tick % 50])):
                if (tick + number) % 10:
                    other.receive_datagram(data, FAR, now)
            leg.pull(now)
            leg.wake(now)
            waiting += [(now + 0.06, other, out.data) for out in leg.outgoing()]
    figures = one.figures()
    assert figures.round_trip_ms == pytest.approx(120, abs=25)
    assert figures.remote_loss == pytest.approx(0.1, abs=0.02)
    assert 1.0 < figures.mos < 4.4


def test_a_goodbye_goes_out_and_is_told() -> None:
    """It is the last report's companion."""
    one, two = stream(), stream(seed=2)
    feed(two, one, 10, T0)
    feed(one, two, 10, T0)
    one.say_goodbye(T0 + 1)
    (bye,) = one.outgoing()
    assert bye.addr == (FAR[0], FAR[1] + 1)
    kinds = [type(packet) for packet in parse_rtcp(bye.data)]
    assert kinds == [Report, Description, Goodbye]
    two.receive_rtcp(bye.data, (FAR[0], 9), T0 + 1)
    assert Left() in two.events()


def test_reports_share_the_port_where_agreed() -> None:
    """RFC 5761: RTCP on the RTP port is RTCP, and ours goes there too."""
    plan = replace(PLAN, mux=True)
    leg, far = stream(plan), stream(seed=2)
    feed(leg, far, 10, T0)
    ssrc = far.snapshot(T0).sender.ssrc
    leg.receive_datagram(build_rtcp([Goodbye((ssrc,))]), FAR, T0)
    leg.send(VOICE[0])
    leg.say_goodbye(T0)
    assert Left() in leg.events()
    assert leg.outgoing()[0].addr == FAR


def test_who_never_sent_anything_says_no_goodbye() -> None:
    """RFC 3550 §6.3.7: nobody knows of it; one report is enough to be known."""
    leg = stream()
    leg.direct(T0, sending=False, receiving=True)
    leg.say_goodbye(T0)
    assert leg.outgoing() == []
    leg.wake(T0 + 10)
    leg.wake(T0 + 20)
    leg.outgoing()
    leg.say_goodbye(T0 + 21)
    assert len(leg.outgoing()) == 1


def test_a_block_tells_only_of_what_came_since_the_last_one() -> None:
    """RFC 3550 §6.4: on hold a report has none."""
    leg, far = stream(), stream(seed=2)
    far.direct(T0, sending=True, receiving=True)
    leg.direct(T0, sending=True, receiving=True)
    feed(leg, far, 10, T0)
    blocks = []
    for now in (T0 + 10, T0 + 20, T0 + 30):
        leg.send(VOICE[0])
        leg.say_goodbye(now)
        blocks += [parse_rtcp(sent.data)[0].blocks for sent in leg.outgoing()]
    assert [len(each) for each in blocks] == [1, 0, 0]


def test_who_meets_its_own_ssrc_takes_another_once() -> None:
    """RFC 3550 §8.2: goodbye to the old one, counts from nothing, and a mirror is not run away from."""
    leg = stream()
    was = leg.snapshot(T0).sender.ssrc
    heard = []
    for tick in range(20):
        for data in leg.send(VOICE[tick]):
            heard.append(parse_packet(data).ssrc)
            leg.receive_datagram(data, FAR, T0 + tick * TICK)
        leg.pull(T0 + tick * TICK)
    (bye,) = leg.outgoing()
    report, _, goodbye = parse_rtcp(bye.data)
    assert (report.ssrc, report.packets, goodbye) == (was, 1, Goodbye((was,)))
    assert heard[0] == was
    assert len(set(heard[1:])) == 1
    assert heard[1] != was
    leg.say_goodbye(T0 + 1)
    report, *_ = parse_rtcp(leg.outgoing()[0].data)
    assert (report.ssrc, report.packets, report.octets) == (heard[1], 19, 19 * 160)
    assert leg.figures().packets_out == 20
    assert leg.figures().packets_in >= 18


def test_a_report_under_our_ssrc_is_a_collision_too() -> None:
    """RFC 3550 §8.2: a block about us is none."""
    leg = stream()
    leg.send(VOICE[0])
    was = leg.snapshot(T0).sender.ssrc
    about = Block(was, 0, 0, 0, 0, 0, 0)
    leg.receive_rtcp(build_rtcp([Report(9, (about,))]), FAR, T0)
    assert leg.snapshot(T0).sender.ssrc == was
    leg.receive_rtcp(build_rtcp([Report(was)]), FAR, T0)
    assert leg.snapshot(T0).sender.ssrc != was


def test_only_events_that_the_far_end_named_are_sent() -> None:
    """RFC 4733 §2.5.1.1; INFO or tones are left for others."""
    plan = replace(PLAN, sends=Outbound(PCMU, digits_type=101, events=frozenset(range(12))))
    leg = stream(plan)
    leg.press("1#")
    with pytest.raises(LocalError, match="no event"):
        leg.press("1A")


def test_silence_on_the_wire_is_told_once_and_not_on_hold() -> None:
    """Hold suspends it, and what comes puts it off."""
    leg = stream(replace(PLAN, patience=Patience(30.0, 20.0)))
    leg.wake(T0 + 1000)
    assert leg.events() == []
    leg.direct(T0, sending=True, receiving=True)
    leg.wake(T0 + 29)
    assert leg.events() == []
    feed(leg, stream(seed=2), 5, T0 + 29.5)
    leg.direct(T0 + 30, sending=True, receiving=False)
    leg.wake(T0 + 500)
    assert leg.events() == [Moved(FAR)]
    leg.direct(T0 + 500, sending=True, receiving=True)
    leg.wake(T0 + 519)
    assert leg.events() == []
    leg.wake(T0 + 520)
    leg.wake(T0 + 521)
    assert leg.events() == [Inactive(20.0)]


def test_a_stream_wakes_for_whatever_is_due_first() -> None:
    """Nothing before it begins, then a report, a silence, or a press without an end."""
    leg, far = stream(), stream(seed=2)
    assert leg.wake_at() is None
    leg.direct(T0, sending=True, receiving=True)
    assert T0 < leg.wake_at() <= T0 + 30
    far.press("1")
    feed(leg, far, 2, T0 + 1)
    assert leg.wake_at() <= T0 + 1 + TICK + 0.25


def test_without_anywhere_to_go_reports_are_not_made() -> None:
    """No SDP yet and no packet; RTCP of strangers is foreign."""
    leg = stream(replace(PLAN, far=None))
    leg.send(VOICE[0])
    leg.say_goodbye(T0)
    leg.receive_rtcp(build_rtcp([Goodbye((1,))]), FAR, T0)
    assert leg.outgoing() == leg.events() == []
    assert leg.figures().foreign == 1
    taken = Stream.taken_up(PLAN, leg.snapshot(T0), chance(5), T0 + 1)
    assert taken.snapshot(T0).locked is None


def test_reports_not_sent_are_said_to_be() -> None:
    """The bounded law for what goes out."""
    leg = stream()
    leg.send(VOICE[0])
    for _ in range(64):
        leg.say_goodbye(T0)
    with pytest.raises(LocalError, match="reports"):
        leg.say_goodbye(T0)


# --- what comes from outside ---------------------------------------------------------------------


def test_rubbish_is_dropped_and_counted() -> None:
    """Formats broken, types unknown, payloads empty: one count each, no sound, no exception."""
    leg, far = stream(), stream(seed=2)
    now = feed(leg, far, 10, T0)
    for data in (
        b"",
        b"\x80",
        bytes(12),
        bytes(5000),
        b"\x80\x7f" + bytes(40),
        b"\x80\x65" + bytes(11),
    ):
        leg.receive_datagram(data, FAR, now)
    ssrc = far.snapshot(now).sender.ssrc
    leg.receive_datagram(build_packet(Packet(0, False, 5, 0, ssrc, b"")), FAR, now)
    leg.receive_rtcp(b"\x80\xc8\x00\x01", FAR, now)
    assert leg.bad >= 7


def test_what_does_not_authenticate_is_dropped() -> None:
    """The guard's refusal is a bad datagram; what it passes is heard, what we send it seals."""

    def unseal(data: bytes) -> bytes:
        if not data.endswith(b"!"):
            raise RtpError("not sealed")
        return data[:-1]

    def seal(data: bytes) -> bytes:
        return data + b"!"

    guard = Guard(seal, unseal, seal, unseal)
    leg, far = Stream(PLAN, chance(1), guard), Stream(PLAN, chance(2), guard)
    plain = stream(seed=3)
    feed(leg, far, 10, T0)
    leg.receive_datagram(plain.send(VOICE[0])[0], FAR, T0)
    leg.receive_rtcp(build_rtcp([Goodbye((1,))]), FAR, T0)
    assert (leg.figures().packets_in, leg.bad) == (10, 2)
    leg.send(VOICE[0])
    leg.say_goodbye(T0)
    assert leg.outgoing()[0].data.endswith(b"!")


def test_a_change_of_codec_goes_on_counting() -> None:
    """re-INVITE: the new codec is heard and sent, sums and SSRC stay."""
    leg, far = stream(), stream(seed=2)
    now = feed(leg, far, 50, T0)
    before = leg.snapshot(now).sender
    plan = replace(PLAN, codecs=(PCMA,))
    leg.signal(plan)
    far.signal(plan)
    feed(leg, far, 50, now)
    figures = leg.figures()
    assert (figures.packets_in, figures.bad) == (100, 0)
    packet = parse_packet(leg.send(VOICE[0])[0])
    assert (packet.payload_type, packet.ssrc) == (8, before.ssrc)


def test_events_not_drained_are_said_to_be() -> None:
    """Bounded and quiet laws, with an address that moves with every signalling."""
    leg = stream()
    state = {"port": 5000}

    def feed_one() -> None:
        state["port"] += 1
        addr = ("192.0.2.7", state["port"])
        leg.signal(replace(PLAN, far=addr))
        leg.receive_datagram(stream(seed=2).send(VOICE[0])[0], addr, T0)

    keeps_bounded_law(leg, feed_one, limit=128)
    keeps_quiet_law(leg)
