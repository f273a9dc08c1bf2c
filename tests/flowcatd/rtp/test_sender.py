"""20 ms of PCM, or none, made into packets."""

from __future__ import annotations

import pytest

from flowcatd.errors import LocalError
from flowcatd.rtp.codec import PCMA, PCMU
from flowcatd.rtp.packet import parse_packet
from flowcatd.rtp.sender import AHEAD, Outbound, Sender, SenderState, carried_on

STATE = SenderState(7, 0xFFFE, 0xFFFFFF00, 0, 0)
PCM = bytes(320)


def test_numbers_and_time_wrap_on_the_wire_and_not_in_the_state() -> None:
    """RFC 3711 §3.3.1 wants the cycles of the sequence number."""
    sender = Sender(Outbound(PCMU), STATE)
    sent = [parse_packet(sender.send(PCM)[0]) for _ in range(4)]
    assert [packet.sequence for packet in sent] == [0xFFFE, 0xFFFF, 0, 1]
    assert [packet.timestamp for packet in sent] == [0xFFFFFF00, 0xFFFFFFA0, 0x40, 0xE0]
    assert sender.state == SenderState(7, 0x10002, 0x180, 4, 640)


def test_digits_take_the_place_of_audio() -> None:
    """While a key is down; in the pause after it audio goes on, with a marker."""
    sender = Sender(Outbound(PCMU, digits_type=101), STATE)
    sender.send(PCM)
    sender.digits.press("1")
    sent = [parse_packet(data) for _ in range(10) for data in sender.send(PCM)]
    assert [packet.payload_type for packet in sent] == [101] * 7 + [0] * 3
    assert [packet.marker for packet in sent] == [True] + [False] * 6 + [True, False, False]
    assert sent[7].timestamp == (0xFFFFFF00 + 8 * 160) & 0xFFFFFFFF


def test_digits_without_a_type_are_time_without_packets() -> None:
    """A codec change took telephone-event away while a key was down."""
    sender = Sender(Outbound(PCMU, digits_type=101), STATE)
    sender.digits.press("1")
    sender.send(PCM)
    sender.change(Outbound(PCMA))
    assert sender.send(PCM) == []


def test_the_end_of_talk_is_said_in_a_shorter_packet() -> None:
    """What did not fill one; it is not spoken again after the pause."""
    sender = Sender(Outbound(PCMU, ptime_ms=60), STATE)
    loud = b"\x11" * 320
    assert sender.send(loud) == []
    (data,) = sender.send(None)
    packet = parse_packet(data)
    assert (packet.timestamp, packet.payload) == (0xFFFFFF00, PCMU.encode(loud))
    assert sender.send(None) == []
    assert [sender.send(PCM) for _ in range(2)] == [[], []]
    packet = parse_packet(sender.send(PCM)[0])
    assert packet.timestamp == (0xFFFFFF00 + 3 * 160) & 0xFFFFFFFF
    assert packet.payload == b"\xff" * 480


def test_what_hold_cut_off_is_forgotten() -> None:
    """The half packet of before it is not spoken after it."""
    sender = Sender(Outbound(PCMU, ptime_ms=40), STATE)
    assert sender.send(b"\x11" * 320) == []
    sender.skip()
    sender.skip()
    assert sender.send(PCM) == []
    (data,) = sender.send(PCM)
    packet = parse_packet(data)
    assert packet.timestamp == (0xFFFFFF00 + 3 * 160) & 0xFFFFFFFF
    assert packet.payload == b"\xff" * 320


@pytest.mark.parametrize(("ptime_ms", "packets"), [(20, 50), (10, 100), (60, 17)])
def test_who_takes_over_leaves_room_for_what_nobody_wrote_down(ptime_ms, packets) -> None:
    """A second later: as many numbers as could have been sent, and some."""
    later = carried_on(STATE, Outbound(PCMU, ptime_ms), 1.0)
    assert later.index == STATE.index + packets + AHEAD
    assert later.timestamp == (STATE.timestamp + 8000) & 0xFFFFFFFF


def test_odd_packet_lengths_are_refused() -> None:
    """25 ms is nobody's."""
    with pytest.raises(LocalError):
        Sender(Outbound(PCMU, ptime_ms=25), STATE)
