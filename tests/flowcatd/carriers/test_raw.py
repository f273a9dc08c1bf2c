"""The plain socket: any cut of the audio is the same audio, and the address is read strictly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.carriers.events import Audio, Encoding, Started
from flowcatd.carriers.message import MESSAGE_LIMIT
from flowcatd.carriers.raw import RATES_HZ, from_query, raw
from flowcatd.errors import CarrierError
from tests.laws import keeps_chunking_law, keeps_garbage_law, keeps_quiet_law


@pytest.mark.parametrize("encoding", list(Encoding))
@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 1000), max_size=5))
def test_audio_does_not_depend_on_how_it_was_cut(encoding, data, cuts):
    """Chunking law: only half a PCM sample at the very end is not heard."""

    def run(pieces):
        core = raw(encoding, 16000)
        core.events()
        for piece in pieces:
            core.receive_binary(piece, now=0.0)
        heard = [event.payload for event in core.events()]
        assert encoding is not Encoding.PCM or all(len(payload) % 2 == 0 for payload in heard)
        return b"".join(heard)

    whole = keeps_chunking_law(run, data, cuts)
    assert whole == (data[: len(data) & ~1] if encoding is Encoding.PCM else data)


@given(text=st.text() | st.binary())
def test_any_control_text_gives_events_or_a_carrier_error(text):
    """Garbage law."""
    core = raw(Encoding.PCM, 8000)
    keeps_garbage_law(core, lambda: core.receive_text(text, now=0.0), CarrierError)


def test_the_stream_is_up_at_once():
    """Started waits from the first moment, once."""
    core = raw(Encoding.ALAW, 8000, "call-1")
    assert core.events() == [Started("call-1", "raw", Encoding.ALAW, 8000)]
    keeps_quiet_law(core)


def test_audio_leaves_as_it_is():
    """A binary message is the payload and nothing else."""
    core = raw(Encoding.PCM, 8000)
    assert not core.audio_is_text
    assert core.audio(b"\x01\x02") == b"\x01\x02"


def test_a_binary_message_over_the_limit_is_refused():
    """64 KiB are taken whole, one byte more earns 1009."""
    core = raw(Encoding.MULAW, 8000)
    core.events()
    core.receive_binary(bytes(MESSAGE_LIMIT), now=0.0)
    assert core.events() == [Audio(bytes(MESSAGE_LIMIT))]
    with pytest.raises(CarrierError) as caught:
        core.receive_binary(bytes(MESSAGE_LIMIT + 1), now=0.0)
    assert caught.value.close_code == 1009
    assert core.closed


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_every_allowed_address_is_understood(encoding, rate_hz):
    """Encoding and rate reach Started as they were written."""
    (started,) = from_query(str(encoding), str(rate_hz)).events()
    assert (started.encoding, started.rate_hz) == (encoding, rate_hz)


@pytest.mark.parametrize("word", ["", "MULAW", "ulaw", "opus", "mulaw "])
def test_another_encoding_is_told_what_is_allowed(word):
    """The error lists every encoding."""
    with pytest.raises(CarrierError, match="one of mulaw, alaw, pcm"):
        from_query(word, "8000")


def test_a_misspelt_encoding_is_told_the_nearest():
    """`ulaw` is what others call it."""
    with pytest.raises(CarrierError, match="did you mean 'mulaw'"):
        from_query("ulaw", None)


@pytest.mark.parametrize(
    "rate", ["", "8k", "08000", "8000.0", "-8000", "7999", "96000", "\uff18000"]
)
def test_another_rate_is_told_what_is_allowed(rate):
    """The error lists every rate."""
    with pytest.raises(CarrierError, match="8000, 16000, 24000, 32000, 44100, 48000"):
        from_query("pcm", rate)
