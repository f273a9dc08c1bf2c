"""What was lost, made up."""

from __future__ import annotations

import numpy as np
import pytest

from flowcatd.audio.level import rms
from flowcatd.rtp.comfort import Noise, NoiseGenerator
from flowcatd.rtp.conceal import GONE_MS, Concealer


def voice(samples: int, hz: float = 120.0, rate_hz: int = 8000) -> np.ndarray:
    """Harmonics of a steady voice."""
    t = np.arange(samples) / rate_hz
    wave = sum(np.sin(2 * np.pi * hz * h * t + h) / h for h in range(1, 6))
    return np.rint(6000 * wave).astype("<i2")


def primed(
    sound: np.ndarray, noise: NoiseGenerator | None = None, rate_hz: int = 8000
) -> Concealer:
    """One that has heard this much, 20 ms at a time."""
    made = Concealer(rate_hz, noise or NoiseGenerator())
    step = rate_hz // 50
    for at in range(0, len(sound), step):
        made.heard(sound[at : at + step].tobytes())
    return made


def samples(pcm: bytes) -> np.ndarray:
    """As numbers."""
    return np.frombuffer(pcm, "<i2").astype(float)


@pytest.mark.parametrize("hz", [75.0, 120.0, 190.0, 290.0])
@pytest.mark.parametrize("rate_hz", [8000, 16_000])
def test_a_lost_frame_of_voice_is_nearly_what_was_said(hz, rate_hz) -> None:
    """20 ms are made up at 10 dB above the error or better."""
    step = rate_hz // 50
    sound = voice(step * 6, hz, rate_hz)
    concealer = primed(sound[: step * 5], rate_hz=rate_hz)
    made = samples(concealer.conceal(step))
    said = sound[step * 5 :].astype(float)
    error = made - said
    assert 10 * np.log10((said @ said) / (error @ error)) > 10


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_the_joints_do_not_click(frames) -> None:
    """Into the hole, within it and out of it no step is much larger than the voice's own."""
    sound = voice(160 * (6 + frames))
    concealer = primed(sound[:800])
    pcm = sound[:800].tobytes()
    for _ in range(frames):
        pcm += concealer.conceal(160)
    assert concealer.concealing
    pcm += concealer.rejoin(sound[160 * (5 + frames) :].tobytes())
    assert not concealer.concealing
    own = np.abs(np.diff(sound.astype(float))).max()
    assert np.abs(np.diff(samples(pcm))).max() < 1.6 * own


def test_a_long_hole_fades_into_the_background() -> None:
    """Within 60 ms nothing of the voice is left; what remains is as loud as its description."""
    noise = NoiseGenerator()
    noise.describe(Noise(50))
    concealer = primed(voice(800), noise)
    loud = [rms(concealer.conceal(160)) for _ in range(6)]
    assert loud[0] > loud[1] > loud[2] > loud[3]
    assert loud[GONE_MS // 20 :] == pytest.approx([104] * 3, rel=0.25)


def test_the_background_is_what_was_quietest() -> None:
    """Without a description it is learnt, and used in a silence too."""
    quiet = np.random.default_rng(2).normal(0, 40, 160 * 20).astype("<i2")
    concealer = primed(np.concatenate((quiet, voice(800))))
    assert rms(concealer.silence(160)) == pytest.approx(40, rel=0.3)


def test_nothing_heard_is_nothing_made_up() -> None:
    """A hole before any sound, and after too little of it, is silence."""
    concealer = Concealer(8000, NoiseGenerator())
    assert concealer.conceal(160) == bytes(320)
    concealer = primed(voice(160))
    assert concealer.conceal(160) == bytes(320)
    assert len(concealer.rejoin(voice(160).tobytes())) == 320


def test_pieces_of_any_size_are_concealed() -> None:
    """Ten milliseconds and odd counts come out as long as asked."""
    concealer = primed(voice(800))
    assert [len(concealer.conceal(n)) for n in (80, 1, 37, 160, 480)] == [160, 2, 74, 320, 960]


def test_a_skip_is_joined_like_a_hole() -> None:
    """Where the buffer jumped, what follows is faded in."""
    sound = voice(1600)
    concealer = primed(sound[:800])
    concealer.skip()
    jumped = sound[843:1003].tobytes()
    joined = concealer.rejoin(jumped)
    assert joined != jumped
    own = np.abs(np.diff(sound.astype(float))).max()
    assert np.abs(np.diff(samples(sound[:800].tobytes() + joined))).max() < 1.6 * own


def test_a_skip_before_any_sound_changes_nothing() -> None:
    """There is nothing to fade from."""
    concealer = Concealer(8000, NoiseGenerator())
    concealer.skip()
    concealer.skip()
    pcm = voice(160).tobytes()
    assert concealer.rejoin(pcm) == pcm


def test_a_hole_that_is_over_keeps_nothing_of_it() -> None:
    """However it ends: by a good piece, by a silence, or by what a decoder made up."""
    sound = voice(160 * 6)
    piece = sound[:160].tobytes()
    fresh = primed(sound)
    for end in (fresh.rejoin, fresh.passed, lambda _: fresh.silence(160)):
        fresh.conceal(160)
        assert fresh._known.nbytes + fresh._cycle.nbytes > 3000
        end(piece)
        assert fresh._known.nbytes + fresh._cycle.nbytes == 0
