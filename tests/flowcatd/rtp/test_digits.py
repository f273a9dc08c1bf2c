"""Keys pressed: RFC 4733, and senders that only nearly keep to it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.rtp.digits import (
    KEYS,
    MOST_EVENTS,
    MOST_KEYS,
    TIMEOUT,
    Digit,
    DigitReader,
    DigitWriter,
    EventPacket,
    Pressed,
    build_event,
)
from flowcatd.rtp.trouble import RtpError
from tests.laws import keeps_bounded_law, keeps_garbage_law, keeps_quiet_law

TICK = 0.02


def pressed(
    keys: str, tone_ms: int = 100, pause_ms: int = 100, *, clock_hz: int = 8000, start: int = 0
) -> list[EventPacket | None]:
    """What a writer sends, by tick, until it is done."""
    writer = DigitWriter(clock_hz)
    writer.press(keys, tone_ms, pause_ms)
    sent = []
    timestamp = start
    while writer.busy:
        sent.append(writer.tick(timestamp & 0xFFFFFFFF))
        timestamp += clock_hz // 50
    return sent


def read(sent: list[EventPacket | None], *, clock_hz: int = 8000) -> list[Pressed | Digit]:
    """What a reader makes of it, 20 ms apart, and of half a second after it."""
    reader = DigitReader(clock_hz)
    now = 50.0
    for packet in sent:
        if packet is not None:
            reader.receive(packet.payload, packet.timestamp, now, marker=packet.marker)
        now += TICK
        reader.wake(now)
    reader.wake(now + 0.5)
    return reader.events()


def digits(events: list[Pressed | Digit]) -> list[Digit]:
    """Those that ended."""
    return [event for event in events if isinstance(event, Digit)]


# --- what is written -----------------------------------------------------------------------------


def test_a_press_is_written_as_the_rfc_says() -> None:
    """§2.5.1: a marker first, one timestamp, growing durations, the end three times."""
    sent = pressed("5", start=1000)
    packets = [packet for packet in sent if packet is not None]
    assert [packet.marker for packet in packets] == [True] + [False] * 6
    assert {packet.timestamp for packet in packets} == {1000}
    assert {packet.payload[0] for packet in packets} == {5}
    durations = [int.from_bytes(packet.payload[2:], "big") for packet in packets]
    assert durations == [160, 320, 480, 640, 800, 800, 800]
    assert [packet.payload[1] >> 7 for packet in packets] == [0, 0, 0, 0, 1, 1, 1]
    assert len(sent) == 10


@given(st.text(KEYS, min_size=1, max_size=8), st.integers(1, 20), st.integers(3, 20))
def test_what_is_written_is_read(keys: str, tone: int, pause: int) -> None:
    """Every key once, in order, repeated keys too, with the duration it was held."""
    sent = pressed(keys, 20 * tone, 20 * pause, start=0xFFFFF000)
    events = read(sent)
    assert digits(events) == [Digit(key, 20 * tone) for key in keys]
    assert [event.key for event in events if isinstance(event, Pressed)] == list(keys)


@pytest.mark.parametrize(("clock_hz", "tone_ms"), [(8000, 20_000), (48_000, 5000), (48_000, 1366)])
def test_a_long_press_is_one_press(clock_hz, tone_ms) -> None:
    """§2.5.1.3: segments of 0xFFFF ticks, markers only on the first."""
    sent = pressed("#", tone_ms, clock_hz=clock_hz, start=0xFFFFFF00)
    packets = [packet for packet in sent if packet is not None]
    assert (
        len({packet.timestamp for packet in packets}) == 1 + tone_ms * clock_hz // 1000 // 0x10000
    )
    assert sum(packet.marker for packet in packets) == 1
    assert read(sent, clock_hz=clock_hz)[1:] == [Digit("#", tone_ms)]


def test_keys_that_wait_can_be_taken_back() -> None:
    """What is down is let go properly."""
    writer = DigitWriter(8000)
    assert writer.tick(0) is None
    writer.press("123")
    sent = [writer.tick(0)]
    writer.cancel()
    timestamp = 160
    while writer.busy:
        sent.append(writer.tick(timestamp))
        timestamp += 160
    assert read(sent)[1:] == [Digit("1", 100)]
    writer.press("45")
    writer.cancel()
    assert not writer.busy


@pytest.mark.parametrize(
    ("keys", "tone_ms", "pause_ms"),
    [("x", 100, 100), ("1" * (MOST_KEYS + 1), 100, 100), ("1", 10, 100), ("1", 100, 40)],
)
def test_what_cannot_be_pressed_is_refused(keys, tone_ms, pause_ms) -> None:
    """Unknown keys, too many, too short, without room for the ends."""
    with pytest.raises(LocalError):
        DigitWriter(8000).press(keys, tone_ms, pause_ms)


# --- what is read --------------------------------------------------------------------------------


@given(st.randoms(use_true_random=False), st.text(KEYS[:16], min_size=1, max_size=12))
def test_any_one_packet_of_a_press_is_enough(dice: random.Random, keys: str) -> None:
    """All others lost, markers too: every key once, in order."""
    sent = pressed(keys)
    kept: list[EventPacket | None] = [None] * len(sent)
    for turn in range(len(keys)):
        places = [at for at in range(10 * turn, 10 * turn + 10) if sent[at] is not None]
        at = dice.choice(places)
        packet = sent[at]
        kept[at] = EventPacket(packet.payload, packet.timestamp, marker=False)
    assert "".join(digit.key for digit in digits(read(kept))) == keys


def test_a_lost_end_is_a_time_out() -> None:
    """The press ends TIMEOUT after its last packet, as long as was heard."""
    reader = DigitReader(8000)
    assert reader.wake_at() is None
    reader.receive(build_event(11, 480, end=False), 0, 7.0)
    assert reader.events() == [Pressed("#")]
    assert reader.wake_at() == 7.0 + TIMEOUT
    reader.wake(7.0 + TIMEOUT / 2)
    assert reader.events() == []
    reader.wake(7.0 + TIMEOUT)
    assert reader.events() == [Digit("#", 60)]
    reader.receive(build_event(11, 800, end=True), 0, 7.0 + 2 * TIMEOUT)
    assert reader.events() == []


def test_packets_of_an_older_press_are_late() -> None:
    """Reordered behind the next press; long after, they are a sender that began anew."""
    reader = DigitReader(8000)
    reader.receive(build_event(1, 800, end=True), 0, 0.0)
    reader.receive(build_event(2, 160, end=False), 1600, 0.2)
    reader.receive(build_event(1, 800, end=True), 0, 0.21)
    reader.receive(build_event(2, 800, end=True), 1600, 0.3)
    assert digits(reader.events()) == [Digit("1", 100), Digit("2", 100)]
    reader.receive(build_event(1, 800, end=True), 0, 9.0)
    assert digits(reader.events()) == [Digit("1", 100)]


def test_a_timestamp_that_moves_within_a_press_is_one_press() -> None:
    """A gateway that takes the audio's timestamp for each packet."""
    reader = DigitReader(8000)
    for step in range(1, 6):
        end = step == 5
        reader.receive(build_event(4, 160 * step, end=end), 160 * step, 0.02 * step)
    assert reader.events() == [Pressed("4"), Digit("4", 100)]


def test_several_events_in_one_packet_follow_each_other() -> None:
    """§2.5.1.5."""
    reader = DigitReader(8000)
    payload = b"".join(build_event(code, 800, end=True) for code in (1, 1, 2))
    reader.receive(payload, 0, 0.0)
    assert digits(reader.events()) == [Digit("1", 100), Digit("1", 100), Digit("2", 100)]


def test_the_same_key_twice_in_one_burst_is_two_presses() -> None:
    """A stalled network gives both at once, without markers; their timestamps differ."""
    reader = DigitReader(8000)
    for start in (0, 1600):
        for duration in (160, 480, 800):
            reader.receive(build_event(5, duration, end=False), start, 9.0)
    for start in (0, 1600, 1600, 1600):
        reader.receive(build_event(5, 800, end=True), start, 9.0)
    reader.wake(9.0 + TIMEOUT)
    assert digits(reader.events()) == [Digit("5", 100), Digit("5", 100)]


def test_the_same_key_again_ends_one_whose_ends_were_all_lost() -> None:
    """Before its time-out: the new timestamp says so."""
    reader = DigitReader(8000)
    reader.receive(build_event(7, 160, end=False), 0, 0.02)
    reader.receive(build_event(7, 640, end=False), 0, 0.08)
    reader.receive(build_event(7, 160, end=False), 1600, 0.22)
    reader.receive(build_event(7, 800, end=True), 1600, 0.3)
    assert digits(reader.events()) == [Digit("7", 80), Digit("7", 100)]


def test_ends_that_come_again_after_the_next_press_began_change_nothing() -> None:
    """Neither of another key nor of the same, and neither length is touched."""
    reader = DigitReader(8000)
    for code, start, now in ((1, 0, 0.0), (1, 1600, 0.2), (2, 3200, 0.4)):
        reader.receive(build_event(code, 160, end=False), start, now)
        if start:
            reader.receive(build_event(1, 9999, end=True), start - 1600, now + 0.01)
        reader.receive(build_event(code, 800, end=True), start, now + 0.08)
    assert digits(reader.events()) == [Digit("1", 100), Digit("1", 100), Digit("2", 100)]


def test_no_duration_and_unknown_events_are_nothing() -> None:
    """§2.3.5; modem tones (32 and up) are other people's."""
    reader = DigitReader(8000)
    reader.receive(build_event(1, 0, end=True), 0, 0.0)
    reader.receive(build_event(36, 800, end=True), 0, 0.0)
    assert reader.events() == []


def test_what_is_no_tone_has_no_volume() -> None:
    """RFC 4733 §2.3.4: a flash says 0."""
    assert [build_event(code, 800, end=True)[1] & 0x3F for code in (0, 15, 16)] == [10, 10, 0]


def test_the_next_segment_of_a_press_that_was_given_up_is_no_press() -> None:
    """RFC 4733 §2.5.2.2: the network held its breath while a key was down; one key, told once."""
    reader = DigitReader(8000)
    reader.receive(build_event(5, 65_000, end=False), 0, 50.0, marker=True)
    reader.wake(50.0 + TIMEOUT)
    for number in range(1, 4):
        at = 51.0 + number * TICK
        reader.receive(build_event(5, 160 * number, end=number == 3), 0xFFFF, at)
    reader.wake(60.0)
    assert [event.key for event in digits(reader.events())] == ["5"]
    reader.receive(build_event(5, 160, end=True), 0x1FFFE, 61.0, marker=True)
    assert [event.key for event in digits(reader.events())] == ["5"]


def test_a_flash_is_heard() -> None:
    """Event 16."""
    assert digits(read(pressed("!"))) == [Digit("!", 100)]


def test_another_source_begins_anew() -> None:
    """What was down is let go; its timestamps are no longer compared."""
    reader = DigitReader(8000)
    reader.receive(build_event(1, 800, end=False), 90_000, 0.0)
    reader.reset()
    reader.receive(build_event(2, 800, end=True), 5, 0.1)
    assert digits(reader.events()) == [Digit("1", 100), Digit("2", 100)]
    reader.reclock(16_000)
    reader.receive(build_event(3, 800, end=True), 5, 0.2)
    assert digits(reader.events()) == [Digit("3", 50)]


@given(st.lists(st.tuples(st.binary(max_size=12), st.integers(0, 0xFFFFFFFF)), max_size=10))
def test_garbage_is_presses_or_an_rtp_error(payloads: list[tuple[bytes, int]]) -> None:
    """And the reader goes on."""
    reader = DigitReader(8000)
    for payload, timestamp in payloads:
        keeps_garbage_law(
            reader, lambda p=payload, t=timestamp: reader.receive(p, t, 0.0), RtpError
        )


def test_digits_not_drained_are_said_to_be() -> None:
    """Bounded and quiet laws."""
    reader = DigitReader(8000)
    state = {"timestamp": 0}

    def one() -> None:
        state["timestamp"] += 1600
        reader.receive(build_event(1, 800, end=True), state["timestamp"], 0.0)

    keeps_bounded_law(reader, one, limit=MOST_EVENTS)
    keeps_quiet_law(reader)
