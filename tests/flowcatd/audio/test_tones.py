"""In-band keys: what is sent is Q.23's, what is found is within Q.24's tolerances, and speech is no key.

The signals of the tolerance tests are made here, sample by sample, and go through µ-law, at any phase
and any place in a frame; the seeds are fixed. Two independent programs, sox and multimon-ng, are asked
too where they are installed.
"""

from __future__ import annotations

import shutil
import subprocess
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.audio.g711 import mulaw_to_pcm, pcm_to_mulaw
from flowcatd.audio.resample import Resampler, resample_whole
from flowcatd.audio.tones import COLUMNS_HZ, KEYS, RATES_HZ, ROWS_HZ, KeyFinder, amplitude, press
from flowcatd.errors import LocalError
from tests.human_speech.recordings import FOLDER, MISSING
from tests.laws import keeps_chunking_law

TRIES = 48
"""Signals per tolerance: each key thrice, at any phase."""
KEY_TEXT = st.text(KEYS, max_size=6)

needs_sox = pytest.mark.skipif(not shutil.which("sox"), reason="sox is not installed")
needs_multimon = pytest.mark.skipif(
    not shutil.which("multimon-ng"), reason="multimon-ng is not installed"
)
needs_flite = pytest.mark.skipif(not shutil.which("flite"), reason="flite is not installed")
needs_humans = pytest.mark.skipif(not FOLDER.is_dir(), reason=MISSING)


def pair(
    key: str,
    rate_hz: int,
    ms: float,
    *,
    dbm0: tuple[float, float] = (-10.0, -10.0),
    off: tuple[float, float] = (0.0, 0.0),
    phases: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """One key's tones: levels, relative frequency errors and phases of the low and the high one."""
    number = KEYS.index(key)
    at = 2 * np.pi * np.arange(round(rate_hz * ms / 1000)) / rate_hz
    hertz = (ROWS_HZ[number // 4], COLUMNS_HZ[number % 4])
    return sum(
        amplitude(level) * np.sin(at * hz * (1 + error) + phase)
        for level, hz, error, phase in zip(dbm0, hertz, off, phases, strict=True)
    )


def found(samples: np.ndarray, rate_hz: int, *, noise_rms: float = 0.0, lead: int = 0) -> str:
    """The keys in these samples after some quiet, on a µ-law line, in frames of 20 ms."""
    hush = np.random.default_rng(lead)
    around = (np.zeros(rate_hz // 20 + lead), np.zeros(rate_hz // 5))
    line = np.concatenate((around[0], samples, around[1]))
    line += hush.normal(0, noise_rms, len(line))
    pcm = np.rint(line).clip(-32_768, 32_767).astype("<i2").tobytes()
    return in_frames(mulaw_to_pcm(pcm_to_mulaw(pcm)), rate_hz)


def in_frames(pcm: bytes, rate_hz: int) -> str:
    """All keys of a stream pushed as a call does it."""
    finder = KeyFinder(rate_hz)
    size = rate_hz // 50 * 2
    return "".join(finder.push(pcm[at : at + size]) for at in range(0, len(pcm), size))


def share(rate_hz: int, signal, want=lambda key: key, **line) -> float:
    """How many of TRIES signals give what is wanted, 0 to 1; `signal` gets a key and phases."""
    chance = np.random.default_rng(24)
    right = 0
    for number in range(TRIES):
        key = KEYS[number % 16]
        phases = tuple(chance.uniform(0, 2 * np.pi, 2))
        lead = int(chance.integers(0, rate_hz // 50))
        right += found(signal(key, phases), rate_hz, lead=lead, **line) == want(key)
    return right / TRIES


@pytest.fixture(params=RATES_HZ)
def rate_hz(request) -> int:
    """Each rate that keys are found at."""
    return request.param


@pytest.mark.parametrize("off", [0.015, -0.015])
@pytest.mark.parametrize("which", [0, 1])
def test_a_tone_within_one_and_a_half_percent_is_taken(rate_hz, off, which):
    """Either tone, up or down (Q.24)."""
    errors = (off, 0.0) if which == 0 else (0.0, off)
    assert share(rate_hz, lambda k, p: pair(k, rate_hz, 40, off=errors, phases=p)) == 1


@pytest.mark.parametrize("off", [0.035, -0.035])
@pytest.mark.parametrize("which", [0, 1])
def test_a_tone_three_and_a_half_percent_off_is_refused(rate_hz, off, which):
    """However long it lasts: it is somebody's voice, or another system's signal."""
    errors = (off, 0.0) if which == 0 else (0.0, off)
    silent = share(
        rate_hz, lambda k, p: pair(k, rate_hz, 500, off=errors, phases=p), want=lambda _key: ""
    )
    assert silent == 1


def test_forty_milliseconds_are_a_key_and_twenty_three_are_none(rate_hz):
    """Wherever in the frames it lies."""
    assert share(rate_hz, lambda k, p: pair(k, rate_hz, 40, phases=p)) == 1
    brief = share(rate_hz, lambda k, p: pair(k, rate_hz, 23, phases=p), want=lambda _key: "")
    assert brief == 1


@pytest.mark.parametrize("twist_db", [4.0, -8.0])
def test_twist_is_taken(rate_hz, twist_db):
    """The high tone 4 dB above the low one, and 8 dB below it."""
    levels = (-12.0, -12.0 + twist_db)
    assert share(rate_hz, lambda k, p: pair(k, rate_hz, 40, dbm0=levels, phases=p)) == 1


@pytest.mark.parametrize("twist_db", [9.0, -14.0])
def test_a_pair_as_uneven_as_vowels_is_refused(rate_hz, twist_db):
    """What no telephone sends is no key."""
    levels = (-16.0, -16.0 + twist_db)
    refused = share(
        rate_hz, lambda k, p: pair(k, rate_hz, 200, dbm0=levels, phases=p), lambda _key: ""
    )
    assert refused == 1


@pytest.mark.parametrize("dbm0", [-4.0, -16.5, -29.0])
def test_levels_of_twenty_five_decibels_are_taken(rate_hz, dbm0):
    """From the loudest pair that does not clip down."""
    assert share(rate_hz, lambda k, p: pair(k, rate_hz, 40, dbm0=(dbm0, dbm0), phases=p)) == 1


def test_tones_too_weak_to_be_meant_are_refused(rate_hz):
    """Crosstalk at -45 dBm0."""
    weak = (-45.0, -45.0)
    silent = share(rate_hz, lambda k, p: pair(k, rate_hz, 200, dbm0=weak, phases=p), lambda _k: "")
    assert silent == 1


def test_keys_are_heard_above_noise_with_everything_else_at_its_limit(rate_hz):
    """15 dB of signal to noise, 1.5 % off, 4 dB of twist, 40 ms."""
    level = np.sqrt(np.mean(pair("5", rate_hz, 1000, dbm0=(-14, -10)) ** 2))
    heard = share(
        rate_hz,
        lambda k, p: pair(k, rate_hz, 40, dbm0=(-14, -10), off=(0.015, -0.015), phases=p),
        noise_rms=float(level) * 10 ** (-15 / 20),
    )
    assert heard == 1


def test_a_break_of_ten_milliseconds_makes_no_second_key(rate_hz):
    """The tone goes on behind it."""

    def broken(key, phases):
        tone = pair(key, rate_hz, 150, phases=phases)
        tone[rate_hz * 60 // 1000 : rate_hz * 70 // 1000] = 0
        return tone

    assert share(rate_hz, broken) == 1


def test_a_pause_of_forty_milliseconds_parts_equal_keys(rate_hz):
    """`11` is not `1`."""

    def twice(key, phases):
        tone = pair(key, rate_hz, 40, phases=phases)
        return np.concatenate((tone, np.zeros(rate_hz * 40 // 1000), tone))

    assert share(rate_hz, twice, want=lambda key: 2 * key) == 1


def test_a_key_after_another_without_a_pause_is_found(rate_hz):
    """Some devices slur them."""
    line = np.concatenate((pair("1", rate_hz, 80), pair("9", rate_hz, 80)))
    assert found(line, rate_hz) == "19"


def test_a_key_held_for_long_is_one_key(rate_hz):
    """And `held` says that it is down, and that it is up again."""
    finder = KeyFinder(rate_hz)
    tone = np.rint(pair("7", rate_hz, 2000)).astype("<i2").tobytes()
    assert finder.push(tone) == "7"
    assert finder.held == "7"
    assert finder.push(bytes(rate_hz // 50 * 4)) == ""
    assert finder.held == ""


@given(KEY_TEXT, st.sampled_from(RATES_HZ), st.integers(40, 120), st.integers(40, 120))
def test_what_is_pressed_is_found(keys, rate_hz, on_ms, off_ms):
    """Our own tones, of any length that the standards allow."""
    assert in_frames(press(keys, rate_hz, on_ms=on_ms, off_ms=off_ms), rate_hz) == keys


@given(st.text(KEYS, min_size=1, max_size=3), st.lists(st.integers(0, 5_000), max_size=8))
def test_the_cuts_of_the_stream_do_not_matter(keys, cuts):
    """One piece, sample by sample, or any pieces give the same keys."""
    samples = np.frombuffer(press(keys, 8_000, on_ms=60, off_ms=60), "<i2")
    # One character per sample, because a sample is what may not be cut.
    line = "".join(map(chr, samples.astype(int) + 40_000))

    def run(pieces):
        finder = KeyFinder(8_000)
        heard = [finder.push((codes(piece) - 40_000).astype("<i2").tobytes()) for piece in pieces]
        return "".join(heard)

    assert keeps_chunking_law(run, line, cuts) == keys


def codes(text: str) -> np.ndarray:
    """The numbers of the characters."""
    return np.array([ord(each) for each in text], int)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_the_tones_are_those_of_the_recommendation(rate_hz):
    """Within 0.1 % in frequency, the high one 2 dB above the low one, no step at either end."""
    for key in KEYS:
        pcm = press(key, rate_hz, on_ms=1000, off_ms=40)
        samples = np.frombuffer(pcm, "<i2").astype(float)
        tone = samples[:rate_hz]
        spectrum = np.abs(np.fft.rfft(tone * np.hanning(len(tone))))
        edge = 1075
        low, high = int(spectrum[:edge].argmax()), edge + int(spectrum[edge:].argmax())
        number = KEYS.index(key)
        assert abs(low / ROWS_HZ[number // 4] - 1) < 0.001
        assert abs(high / COLUMNS_HZ[number % 4] - 1) < 0.001
        assert 20 * np.log10(spectrum[high] / spectrum[low]) == pytest.approx(2.0, abs=0.1)
        assert np.abs(np.diff(tone[:3])).max() < amplitude(-6.0) / 4
        assert not samples[rate_hz:].any()


def test_what_is_no_key_is_a_local_error():
    """So are half a sample, a flood of keys, and a rate that has to be resampled first."""
    for keys in ("x", "1 2", "1" * 65):
        with pytest.raises(LocalError, match="keys"):
            press(keys, 8_000)
    with pytest.raises(LocalError, match="48000"):
        KeyFinder(48_000)
    with pytest.raises(LocalError, match="3 bytes"):
        KeyFinder(8_000).push(b"abc")


def test_keys_at_48_khz_are_found_behind_the_calls_own_resampler():
    """As a browser's call would."""
    down = Resampler(48_000, 16_000, primed=True)
    pcm = press("0#9", 48_000, on_ms=60, off_ms=60)
    pieces = (down.push(pcm[at : at + 1920]) for at in range(0, len(pcm), 1920))
    assert in_frames(b"".join(pieces), 16_000) == "0#9"


@given(st.integers(0, 2**32 - 1), st.integers(0, 32_767), st.sampled_from(RATES_HZ))
def test_noise_is_no_key(seed, level, rate_hz):
    """A second of it, at any level, clipped or not."""
    hush = np.random.default_rng(seed).normal(0, level, rate_hz)
    assert in_frames(hush.clip(-32_768, 32_767).astype("<i2").tobytes(), rate_hz) == ""


@needs_humans
def test_human_speech_is_no_key():
    """All recordings, loud and soft, on the telephone: not one false key."""
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix not in {".wav", ".raw"}:
            continue
        raw = path.read_bytes()
        if path.suffix == ".wav":
            with wave.open(str(path)) as reader:
                raw = reader.readframes(reader.getnframes())
        for gain in (1.0, 0.25):
            samples = np.frombuffer(raw, "<i2") * gain
            narrow = resample_whole(samples.astype("<i2").tobytes(), 16_000, 8_000)
            assert in_frames(mulaw_to_pcm(pcm_to_mulaw(narrow)), 8_000) == "", path.name


@needs_flite
@pytest.mark.parametrize("voice", ["slt", "kal16"])
def test_a_synthetic_voice_is_no_key(voice, tmp_path):
    """A minute or two of a monotonous one, whose pitch hardly glides."""
    text = "zero one two three four five six seven eight nine, pound, star. who are you? " * 12
    spoken = tmp_path / "spoken.wav"
    subprocess.run(["flite", "-voice", voice, "-t", text, "-o", spoken], check=True, timeout=60)
    with wave.open(str(spoken)) as reader:
        rate_hz, pcm = reader.getframerate(), reader.readframes(reader.getnframes())
    narrow = resample_whole(pcm, rate_hz, 8_000)
    assert len(narrow) > 16_000 * 30
    assert in_frames(mulaw_to_pcm(pcm_to_mulaw(narrow)), 8_000) == ""


@needs_multimon
@pytest.mark.parametrize("ms", [40, 100])
def test_another_program_finds_our_keys(ms):
    """multimon-ng, which knows nothing of ours."""
    pcm = bytes(4000) + press(KEYS + "11", 8_000, on_ms=ms, off_ms=60) + bytes(4000)
    done = subprocess.run(
        ["multimon-ng", "-q", "-t", "raw", "-a", "DTMF", "-"],
        input=resample_whole(pcm, 8_000, 22_050),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.decode().replace("DTMF: ", "").split() == list(KEYS + "11")


@needs_sox
def test_we_find_another_programs_keys(tmp_path):
    """Tones that sox made."""
    for number, key in enumerate(KEYS):
        made = tmp_path / "key.raw"
        tones = ["sine", str(ROWS_HZ[number // 4]), "sine", str(COLUMNS_HZ[number % 4])]
        form = ["-r", "8000", "-b", "16", "-e", "signed", "-t", "raw"]
        command = ["sox", "-n", *form, made, "synth", "0.05", *tones, "remix", "1,2", "gain", "-9"]
        command += ["pad", "0.1", "0.1"]
        subprocess.run(command, check=True, timeout=60)
        assert in_frames(made.read_bytes(), 8_000) == key
