"""Codecs described."""

from __future__ import annotations

import pytest

from flowcatd.rtp.codec import PCMA, PCMU


@pytest.mark.parametrize("codec", [PCMU, PCMA])
def test_g711_has_one_tick_per_octet(codec) -> None:
    """20 ms are 160 ticks, 160 octets and 320 bytes of PCM."""
    payload = codec.encode(bytes(codec.frame_bytes))
    assert codec.ticks(payload) == codec.step == len(payload) == 160
    assert len(codec.decode(payload)) == codec.frame_bytes == 320
