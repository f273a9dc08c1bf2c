"""Recording: samples stand where media time puts them, whatever the order they came in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.audio.wav import parse_wav
from flowcatd.errors import LocalError
from flowcatd.recording import (
    CHUNKS,
    PAYLOAD_MAX,
    SPANS_MAX,
    Leg,
    Recording,
    interleave,
    stereo_header,
)

RATE = 8000


def samples(first: int, count: int) -> bytes:
    """`count` different samples, none of them silent."""
    return b"".join(((first + n) % 30_000 + 1).to_bytes(2, "little") for n in range(count))


def model_of(sound: dict[int, bytes], first: int, count: int) -> bytes:
    """What a leg of one sample a cell would hold."""
    return b"".join(sound.get(n, b"\0\0") for n in range(first, first + count))


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("place"), st.integers(-20, 400), st.integers(0, 60)),
        st.tuples(st.just("clear"), st.integers(0, 400), st.just(0)),
        st.tuples(st.just("take"), st.integers(0, 90), st.just(0)),
    ),
    max_size=40,
)


@given(OPERATIONS)
def test_a_leg_agrees_with_a_cell_per_sample(operations: list[tuple[str, int, int]]) -> None:
    """Placing, clearing and taking in any order give what a dictionary of samples gives."""
    window = 300
    leg = Leg(1000, window)
    sound: dict[int, bytes] = {}
    base = refused = sounded = 0
    for serial, (what, where, count) in enumerate(operations):
        if what == "place":
            pcm = samples(serial * 100, count)
            leg.place(where, pcm)
            for n in range(count):
                if base <= where + n < base + window:
                    sound.setdefault(where + n, pcm[2 * n : 2 * n + 2])
                else:
                    refused += 1
        elif what == "clear":
            assert leg.clear(where) == max(0, sounded - where)
            sound = {n: value for n, value in sound.items() if n < max(where, base)}
        else:
            assert leg.take(where) == model_of(sound, base, where)
            base += where
            sounded = max([sounded, *(n + 1 for n in sound if n < base)])
        assert leg.refused == refused
    assert leg.end == max([base, *(n + 1 for n in sound)])
    assert leg.take(window + 100) == model_of(sound, base, window + 100)


@given(st.data())
def test_any_order_of_pieces_gives_the_same_recording(data: st.DataObject) -> None:
    """Pieces with gaps between them, shuffled over both legs, are one recording."""
    lengths = data.draw(st.lists(st.tuples(st.integers(2, 50), st.integers(1, 400)), max_size=12))
    pieces: list[tuple[str, int, bytes]] = []
    at_ms = 0
    for serial, (gap_ms, count) in enumerate(lengths):
        at_ms += gap_ms
        leg = data.draw(st.sampled_from(["caller", "agent"]))
        pieces.append((leg, at_ms, samples(serial * 500, count)))
        at_ms += -(-count // 8)

    def record(order: list[tuple[str, int, bytes]]) -> bytes:
        recording = Recording(RATE, hold_ms=1000, ahead_ms=5000)
        for leg, media_ms, pcm in order:
            getattr(recording, leg).put(media_ms, pcm)
        return b"".join(recording.finish(at_ms))

    ends = [media_ms * 8 + len(pcm) // 2 for _, media_ms, pcm in pieces]
    stereo = bytearray(4 * max(ends, default=0))
    for leg, media_ms, pcm in pieces:
        for n in range(len(pcm) // 2):
            at = (media_ms * 8 + n) * 4 + (2 if leg == "agent" else 0)
            stereo[at : at + 2] = pcm[2 * n : 2 * n + 2]
    assert record(data.draw(st.permutations(pieces))) == bytes(stereo)


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_pieces_that_follow_each_other_leave_no_seam(rate_hz: int) -> None:
    """Media times in whole milliseconds do not tear apart a stream whose pieces are not."""
    leg = Leg(rate_hz, 60_000)
    count, whole, at = rate_hz // 80 + 1, b"", 0
    for serial in range(200):
        pcm = samples(serial * 7, count)
        leg.put(at * 1000 // rate_hz, pcm)
        whole += pcm
        at += count
    assert leg.take(at) == whole


def test_a_stream_that_runs_slow_is_put_back_in_its_place() -> None:
    """Snapping to the piece before never moves a sample by more than a millisecond."""
    leg = Leg(RATE, 60_000)
    for frame in range(2000):  # every piece is a sample short: 0.6 % slow, 250 ms in all
        leg.put(frame * 20, b"\1\0" * 159)
        assert abs(leg.end - (frame * 160 + 159)) <= 8


def test_the_piece_that_came_first_stays() -> None:
    """A late repetition with other samples changes nothing."""
    leg = Leg(RATE, 1000)
    leg.place(100, b"\1\0" * 10)
    leg.place(95, b"\2\0" * 20)
    assert leg.take(120)[95 * 2 :] == b"\2\0" * 5 + b"\1\0" * 10 + b"\2\0" * 5 + bytes(10)


def test_half_a_sample_is_left_out() -> None:
    """An odd byte at the end of a piece shifts nothing."""
    leg = Leg(RATE, 1000)
    leg.place(0, b"\1\0\2")
    leg.place(1, b"\3\0")
    assert leg.take(3) == b"\1\0\3\0\0\0"


def test_stretches_are_bounded() -> None:
    """More separate stretches than are kept apart cost memory no further, and no sample."""
    leg = Leg(RATE, 2_000_000)
    for n in range(SPANS_MAX + 50):
        leg.place(3 * n, b"\1\0")
    assert len(leg._spans) == SPANS_MAX
    assert leg.take(6) == b"\1\0\0\0\0\0" * 2
    leg.place(3 * SPANS_MAX - 2, b"\2\0")
    assert leg.end == 3 * (SPANS_MAX + 49) + 1


def test_what_was_cleared_is_not_recorded() -> None:
    """The agent's unheard rest goes, what it says next comes, the caller is untouched."""
    recording = Recording(RATE, hold_ms=4000, ahead_ms=10_000)
    recording.caller.put(0, b"\5\0" * RATE)
    recording.agent.put(0, b"\1\0" * RATE)
    assert recording.agent.clear(recording.agent.sample_at(250)) == 0
    recording.agent.put(500, b"\2\0" * 2000)
    whole = b"".join(recording.finish(1000))
    silence = b"\0\0"
    right = b"\1\0" * 2000 + silence * 2000 + b"\2\0" * 2000 + silence * 2000
    assert whole == interleave(b"\5\0" * RATE, right)


def test_what_the_agent_had_still_to_play_is_cut_at_the_end() -> None:
    """A call that ends while a line plays is recorded up to there."""
    recording = Recording(RATE, hold_ms=4000, ahead_ms=10_000)
    recording.agent.put(0, b"\1\0" * RATE)
    assert b"".join(recording.finish(300)) == interleave(bytes(4800), b"\1\0" * 2400)


def test_what_the_agent_says_is_held_back_until_it_can_no_longer_be_taken_back() -> None:
    """From its first sound on nothing is handed on for the hold; what stands before it is."""
    recording = Recording(RATE, hold_ms=4000, ahead_ms=10_000)
    recording.caller.put(0, b"\5\0" * 5 * RATE)
    recording.agent.put(500, b"\1\0" * 100)
    assert recording.advance(4400) == [interleave(b"\5\0" * 4000, bytes(8000))]
    assert recording.advance(4500) == []
    (block,) = recording.advance(4640)
    assert block == interleave(b"\5\0" * 800, b"\1\0" * 100 + bytes(1400))
    # Nothing of the agent is left, so the caller's past is final to where the caller has come.
    assert sum(map(len, recording.advance(5060))) == 4 * 44 * 800
    assert recording.seconds == 5.0


def test_a_silent_callers_time_is_not_final_before_the_hold() -> None:
    """A connection that stalls may yet bring what belongs there; after the hold it is too late."""
    recording = Recording(RATE, hold_ms=4000, ahead_ms=10_000)
    recording.caller.put(0, b"\5\0" * RATE)
    assert sum(map(len, recording.advance(3000))) == 4 * RATE
    recording.caller.put(1000, b"\6\0" * RATE)
    assert recording.advance(3000) == [interleave(b"\6\0" * RATE, bytes(2 * RATE))]
    assert recording.advance(7000) == [bytes(4 * RATE)]
    assert recording.caller.refused == 0


def test_silence_is_one_object_for_all_calls() -> None:
    """A call in which nobody speaks costs no block of its own."""
    recordings = [Recording(RATE, hold_ms=4000, ahead_ms=10_000) for _ in range(2)]
    for recording in recordings:
        recording.caller.put(0, bytes(320))
    blocks = [recording.advance(5000) for recording in recordings]
    assert blocks[0][0] is blocks[1][0]
    assert blocks[0] == [bytes(4 * RATE)]


PIECES = st.lists(
    st.tuples(
        st.integers(0, 60), st.booleans(), st.booleans(), st.integers(-200, 600), st.booleans()
    ),
    max_size=80,
)


@given(PIECES)
def test_handing_on_early_changes_no_sample(
    steps: list[tuple[int, bool, bool, int, bool]],
) -> None:
    """A recording drained at every step is the one that was kept to the end, clears included."""
    drained = Recording(1000, hold_ms=400, ahead_ms=1000)
    kept = Recording(1000, hold_ms=1_000_000, ahead_ms=1_000_000)
    blocks: list[bytes] = []
    now = caller_ms = sent_ms = 0
    for serial, (passed, speaks, says, back, clears) in enumerate(steps):
        now += passed
        stalled = passed > 50  # what the caller says now comes in one go later
        if speaks and not stalled:
            caller_ms = max(caller_ms, now - 300)
            while caller_ms < now:
                for recording in (drained, kept):
                    recording.caller.put(caller_ms, samples(serial * 40, 20))
                caller_ms += 20
        if says:
            sent_ms = max(sent_ms, now)
            for recording in (drained, kept):
                recording.agent.put(sent_ms, samples(serial * 77, 20))
            sent_ms += 20
        if clears:
            heard = max(min(now - max(0, back), sent_ms), now - 400)
            for recording in (drained, kept):
                recording.agent.clear(heard)
            sent_ms = min(sent_ms, heard)
        blocks += drained.advance(now)
    blocks += drained.finish(now)
    whole = b"".join(kept.finish(now))
    assert b"".join(blocks).ljust(len(whole), b"\0") == whole.ljust(len(b"".join(blocks)), b"\0")
    assert drained.caller.refused == drained.agent.refused == 0


def test_memory_is_bounded_when_the_clock_stands_still() -> None:
    """Audio that claims to be far ahead is refused and counted, not kept."""
    leg = Leg(RATE, 10_000)
    for second in range(20):
        leg.put(second * 1000, b"\1\0" * RATE)
    assert leg.end == 10 * RATE
    assert leg.refused == 10 * RATE


def test_a_recording_needs_a_rate() -> None:
    """No rate is a bug of ours."""
    with pytest.raises(LocalError):
        Recording(0, hold_ms=0, ahead_ms=0)


@given(st.lists(st.tuples(st.integers(-32768, 32767), st.integers(-32768, 32767)), max_size=50))
def test_a_wav_reader_finds_both_legs(pairs: list[tuple[int, int]]) -> None:
    """Header and blocks make a file whose left is the caller and whose right is the agent."""
    left = b"".join(a.to_bytes(2, "little", signed=True) for a, _ in pairs)
    right = b"".join(b.to_bytes(2, "little", signed=True) for _, b in pairs)
    both = interleave(left, right)
    wav = parse_wav(stereo_header(RATE, len(both)) + both)
    assert (wav.rate_hz, wav.channels, wav.pcm) == (RATE, 2, both)
    assert both[0::4] + both[1::4] == left[0::2] + left[1::2]
    assert both[2::4] + both[3::4] == right[0::2] + right[1::2]


def test_the_header_keeps_its_length_beyond_what_riff_can_say() -> None:
    """A payload of more than 4 GiB is marked as of unknown size."""
    header = stereo_header(RATE, PAYLOAD_MAX + 4)
    assert len(header) == len(stereo_header(RATE, 0)) == len(stereo_header(RATE, PAYLOAD_MAX))
    assert header[-4:] == b"\xff\xff\xff\xff"


def test_the_latest_pieces_are_the_objects_they_came_as() -> None:
    """Whoever else keeps them, as the pre-roll does, shares them."""
    leg = Leg(RATE, 5000)
    pieces = [bytes([number + 1]) * 320 for number in range(CHUNKS)]
    for number, piece in enumerate(pieces):
        leg.put(20 * number, piece)
    assert all(kept is piece for kept, piece in zip(leg._chunks, pieces, strict=True))


def test_what_waits_for_long_is_few_objects() -> None:
    """Four seconds of both legs are no four hundred small blocks."""
    leg = Leg(RATE, 5000)
    pieces = [bytes([number + 1]) * 320 for number in range(200)]
    for number, piece in enumerate(pieces):
        leg.put(20 * number, piece)
    assert len(leg._chunks) <= CHUNKS + 200 // CHUNKS
    assert leg.size == 200 * 320
    assert leg.take(100 * 160 + 7) == b"".join(pieces)[: 100 * 320 + 14]
    assert leg.take(100 * 160 - 7) == b"".join(pieces)[100 * 320 + 14 :]
    assert leg.is_silent
