"""The recogniser's process: pocketsphinx under a grammar, several utterances at a time.

`python -m flowcatd.links.sphinx_helper`, with its worker's socket as standard input. One blocking
loop takes messages in order; audio is searched as it comes, so that only a few milliseconds are
left when the utterance ends. Each open utterance needs a decoder (31 MB); they are made when first
needed, up to MOST_DECODERS; an utterance beyond that waits with its audio until one is free.

A grammar alone accepts anything: the search finds the nearest sentence. So each grammar gets a
garbage path of single phones and noise beside it, entered at a cost (GARBAGE) that was chosen on
human speech: what prefers phones to every sentence was none of them. And what holds no voiced sound
at all (a cough, a knock) was no word. pocketsphinx gives no posterior for a grammar, so confidence
is 1. Cepstral means start from those of telephone speech and follow the caller (`channel`); a
quiet utterance is raised first, so that its level does not shift them.

Figures: dependencies.md §6 and tests/human_speech. API: https://pocketsphinx.readthedocs.io
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections import OrderedDict, deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pocketsphinx import Config, Decoder, get_model_path

from flowcatd.links.helper_wire import (
    MOST_BYTES,
    Audio,
    Begin,
    Finish,
    Guessed,
    Heard,
    Hint,
    Message,
    Prepare,
    Ready,
    Stop,
    Trouble,
    Unpacker,
    pack,
)

RATE_HZ = 16_000
"""The bundled model knows no other."""
Samples = npt.NDArray[np.float64]
MOST_DECODERS = 6
MOST_GRAMMARS = 32
"""Compiled grammars kept per decoder; the least used is dropped."""
MOST_AUDIO_BYTES = 60 * RATE_HZ * 2
"""Audio of one utterance; what comes after a minute is ignored."""

GARBAGE = 1e-12
"""What the garbage path weighs. Of 54 off-topic human utterances 1e-12 rejects 52, 1e-14 to 1e-16
49, while 53 of 55 in-grammar ones are kept by each; below 1e-28 the search drops the path."""
_NOISE = 1e-2  # a path of the model's noise units only: bursts and tones, never taken by words
_CHANNEL = "45,27,-37,42,-26,2,10.5,-28,20,-14,1,7.5,-13"
# Cepstral means of speech after 8 kHz µ-law: the model's own are those of a studio, and cost the
# first words of each call.
_ON_THE_PHONE = {"yes": ("Y AH Z", "Y EH Z")}
# Words that lose their last sound above 4 kHz and would otherwise be taken for garbage.
_TAPS = 129  # 60 dB down from 4.4 kHz, 4 ms late
_LEVEL = 1_250.0  # quieter loud frames are raised to this. 20 dB down, 53 of 80 phrases are then
# understood, and 73 at their usual level; 1,500 gives 57 and 72
_MOST_GAIN = 30.0
_FRAME = RATE_HZ // 50  # 20 ms
_LOUD_FRAMES = 6  # the loudest, of which the level is the mean: no click of 20 ms makes a level
_CLEAN = 1e-3  # a noise floor 30 dB under the speech needs no gate
_HUSHED = 1e-5  # of the loud frames' energy: what a gate leaves of pauses
_HANG = 2  # frames on either side of what is loud: soft consonants
_HELD = RATE_HZ * 600 // 1000  # heard before the gain is chosen: the pre-roll and a first syllable
_HINT_BYTES = RATE_HZ * 2 * 300 // 1000  # a hint at most every 300 ms of audio

_VOICED_FRAMES = 3  # of 20 ms: the shortest vowel of "six" is longer
_VOICED = 0.45  # autocorrelation at the pitch: noise stays below 0.3, vowels are above 0.6
_QUIET = 0.05  # of the loudest frame's energy: quieter frames are not judged

NICENESS = 5
"""The worker's audio goes first."""

PHONES = (
    *("AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH"),
    *("IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH"),
    *("UH", "UW", "V", "W", "Y", "Z", "ZH"),
)
"""The phones of the CMU dictionary, without stress."""

# How English letters mostly sound, longest first at each place; a guess, and counted as one.
_LETTERS = dict(
    pair.split("=")
    for line in (
        "tion=SH AH N, sion=ZH AH N, ough=AO, eigh=EY, igh=AY, tch=CH, sch=SH, ch=CH, sh=SH, th=TH",
        "ph=F, gh=G, ck=K, ng=NG, qu=K W, wh=W, kn=N, wr=R, dg=JH, ee=IY, ea=IY, oo=UW, ou=AW",
        "ow=OW, oi=OY, oy=OY, ai=EY, ay=EY, au=AO, aw=AO, ie=IY, ei=AY, oa=OW, er=ER, ir=ER, ur=ER",
        "ar=AA R, or=AO R, ss=S, ll=L, a=AE, b=B, c=K, d=D, e=EH, f=F, g=G, h=HH, i=IH, j=JH, k=K",
        "l=L, m=M, n=N, o=AA, p=P, q=K, r=R, s=S, t=T, u=AH, v=V, w=W, x=K S, y=IY, z=Z, é=EY, è=EH",
        "ä=EH, ö=ER, ü=UW, ß=S",
    )
    for pair in line.split(", ")
)
_LONGEST_LETTERS = 4


def garbage_grammar(body: str) -> str:
    """Complete a grammar body by its header and by the path for what is not in it."""
    phones = " | ".join(f"gx{phone.lower()}" for phone in (*PHONES, "nsn", "spn"))
    inner = re.sub(r"public\s+(<utterance>)", r"\1", body, count=1)
    inner = re.sub(r"<[^>]*>|[^<]+", lambda part: _lowered(part.group()), inner)
    return (
        "#JSGF V1.0;\ngrammar flowcatd;\n"
        f"public <gxtop> = /{1 - _NOISE:g}/ <utterance> | /{GARBAGE:g}/ <gxany> <gxany>+"
        f" | /{_NOISE:g}/ <gxnoise>+;\n"
        f"<gxany> = {phones};\n<gxnoise> = gxnsn | gxspn;\n{inner}\n"
    )


def _lowered(part: str) -> str:
    return part if part.startswith("<") else part.lower()  # the dictionary is in small letters


def grammar_words(body: str) -> set[str]:
    """Give the words that a grammar body can put together, in small letters."""
    plain = re.sub(r"<[^>]*>|/[^/]*/|\{[^}]*\}", " ", body)
    plain = re.sub(r"[\[\]()|*+=;\"]", " ", plain)
    return {word.lower() for word in plain.split() if word != "public"}


def guess(word: str) -> str:
    """Give phones for a word that stands in no dictionary, letter by letter."""
    phones: list[str] = []
    at = 0
    letters = re.sub(r"e$", "", word) if len(word) > 3 else word  # a last e is mostly silent
    while at < len(letters):
        for size in range(_LONGEST_LETTERS, 0, -1):
            sound = _LETTERS.get(letters[at : at + size])
            if sound is not None and len(letters[at : at + size]) == size:
                phones.append(sound)
                at += size
                break
        else:
            at += 1  # a digit or a sign has no sound
    return " ".join(phones) or "AH"


def is_voiced(pcm: bytes) -> bool:
    """Whether any of it can have been a vowel: a pitch between 62 and 400 Hz, for 60 ms in all."""
    samples: npt.NDArray[np.float64] = np.frombuffer(pcm, "<i2").astype(np.float64)
    samples = samples[: len(samples) // 2 * 2].reshape(-1, 2).mean(axis=1)  # 8 kHz is enough
    count = (len(samples) - 320) // 160 + 1
    if count < _VOICED_FRAMES:
        return False
    frames = np.lib.stride_tricks.sliding_window_view(samples, 320)[::160]
    frames = frames - frames.mean(axis=1, keepdims=True)
    spectra = np.fft.rfft(frames, 1024, axis=1)
    correlation = np.fft.irfft(np.abs(spectra) ** 2, axis=1)
    energy = correlation[:, 0]
    loud = energy > max(_QUIET * float(energy.max()), 1.0)
    share = np.arange(320, 192, -1) / 320  # the overlap shrinks with the lag
    peak = (correlation[:, 20:128] / share[20:128]).max(axis=1) / np.maximum(energy, 1.0)
    return int(np.count_nonzero(loud & (peak > _VOICED))) >= _VOICED_FRAMES


def _low_pass() -> npt.NDArray[np.float64]:
    places = np.arange(_TAPS) - _TAPS // 2
    taps = np.sinc(places * (4_000 / (RATE_HZ / 2))) * np.kaiser(_TAPS, 8)
    return np.asarray(taps / taps.sum())


class Narrow:
    """One utterance's audio, cut to the telephone's band; raised when it is quiet.

    Callers then sound alike whatever brought them here, and what a short resampler leaves above
    4 kHz does not upset the spectrum. Level and noise floor are taken once, from the first 600 ms,
    and hold for the utterance: until then nothing comes out. On a noisy line the pauses are turned
    down, which garbage would otherwise explain better than silence does.
    """

    __slots__ = ("_before", "_gain", "_gate", "_held")

    _FILTER = _low_pass()

    def __init__(self) -> None:
        self._before = np.zeros(_TAPS - 1)
        self._held = bytearray()
        self._gain = 0.0
        self._gate: Gate | None = None

    def push(self, pcm: bytes) -> bytes:
        """What is ready: nothing for 600 ms, then all but the filter's 4 ms and the gate's 60."""
        if self._gain:
            return self._pass(_samples(pcm))
        self._held += pcm
        return self._open() if len(self._held) >= 2 * _HELD else b""

    def flush(self) -> bytes:
        """Give what is held back, now that the utterance is over."""
        opened = b"" if self._gain else self._open()
        return opened + (self._filtered(self._gate.flush()) if self._gate is not None else b"")

    def _open(self) -> bytes:
        held = _samples(bytes(self._held))
        self._held.clear()
        self._gain, quiet = levels(held[:_HELD])
        if quiet is not None:
            self._gate = Gate(*quiet)
        return self._pass(held)

    def _pass(self, samples: Samples) -> bytes:
        return self._filtered(samples if self._gate is None else self._gate.push(samples))

    def _filtered(self, samples: Samples) -> bytes:
        if not len(samples):
            return b""
        samples = np.concatenate([self._before, samples])
        self._before = samples[-(_TAPS - 1) :]
        kept = self._gain * np.convolve(samples, self._FILTER, "valid")
        return np.clip(kept, -32_768, 32_767).astype("<i2").tobytes()


def _samples(pcm: bytes) -> Samples:
    return np.frombuffer(pcm, "<i2").astype(np.float64)


def levels(samples: Samples) -> tuple[float, tuple[float, float] | None]:
    """Give the gain that raises these if they are quiet, and a gate's arguments if they are noisy."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    if not len(frames):
        return 1.0, None
    energy = np.sort(frames.var(axis=1))
    loud = max(float(energy[-_LOUD_FRAMES:].mean()), 1.0)
    floor = max(float(energy[len(energy) // 5]), 1e-3)
    gain = min(_MOST_GAIN, max(1.0, _LEVEL / loud**0.5))
    if floor < loud * _CLEAN:
        return gain, None
    return gain, (min(8 * floor, loud / 16), min(1.0, (loud * _HUSHED / floor) ** 0.5))


class Gate:
    """Turns down what is neither louder than `threshold` nor within 40 ms of it; 60 ms late."""

    __slots__ = ("_before", "_gain", "_hushed", "_rest", "_threshold")

    def __init__(self, threshold: float, hushed: float) -> None:
        """`threshold` is a frame's mean square, `hushed` what pauses are multiplied by."""
        self._threshold = threshold
        self._hushed = hushed
        self._rest: Samples = np.zeros(0)
        self._before = [False] * _HANG
        self._gain = hushed

    def push(self, samples: Samples) -> Samples:
        """Take samples, give those of whole frames whose successors are known."""
        self._rest = np.concatenate([self._rest, samples])
        return self._give(len(self._rest) // _FRAME - _HANG)

    def flush(self) -> Samples:
        """Give the rest, as if silence followed."""
        length = len(self._rest)
        count = -(-length // _FRAME)
        self._rest = np.concatenate([self._rest, np.zeros((count + _HANG) * _FRAME - length)])
        return self._give(count)[:length]

    def _give(self, count: int) -> Samples:
        if count <= 0:
            return np.zeros(0)
        frames = self._rest[: (count + _HANG) * _FRAME].reshape(-1, _FRAME)
        loud = [*self._before, *(bool(each) for each in frames.var(axis=1) > self._threshold)]
        gains = [1.0 if any(loud[at : at + 2 * _HANG + 1]) else self._hushed for at in range(count)]
        ramps = [
            np.linspace(start, end, _FRAME)
            for start, end in zip([self._gain, *gains], gains, strict=False)
        ]
        self._gain = gains[-1]
        self._before = loud[count : count + _HANG]
        self._rest = self._rest[count * _FRAME :]
        given: Samples = frames[:count].reshape(-1) * np.concatenate(ramps)
        return given


class Ear:
    """One decoder and the grammars it has compiled."""

    def __init__(self) -> None:
        model = f"{get_model_path()}/en-us"
        self._decoder = Decoder(
            Config(
                hmm=f"{model}/en-us",
                dict=f"{model}/cmudict-en-us.dict",
                lm=None,
                bestpath=False,  # the second pass costs 50 to 1,800 ms and gains nothing here
                loglevel="FATAL",
            )
        )
        self._free_model = f"{model}/en-us.lm.bin"
        self._grammars: OrderedDict[str, str] = OrderedDict()
        self._made = 0
        for phone in PHONES:
            self._decoder.add_word(f"gx{phone.lower()}", phone, update=False)
        self._narrow = Narrow()
        for word, sounds in _ON_THE_PHONE.items():
            for number, phones in enumerate(sounds, 2):
                self._decoder.add_word(f"{word}({number})", phones, update=False)
        self._decoder.add_word("gxspn", "+SPN+", update=False)
        self._decoder.add_word("gxnsn", "+NSN+", update=True)

    def prepare(self, grammar: str) -> int:
        """Compile it unless that was done before; the number of words that had to be guessed."""
        if grammar in self._grammars:
            self._grammars.move_to_end(grammar)
            return 0
        guessed = [
            word for word in sorted(grammar_words(grammar)) if not self._decoder.lookup_word(word)
        ]
        for word in guessed:
            self._decoder.add_word(word, guess(word), update=word == guessed[-1])
        self._made += 1
        name = f"g{self._made}"
        if grammar:
            self._decoder.add_jsgf_string(name, garbage_grammar(grammar))
        else:
            self._decoder.add_lm_file(name, self._free_model)
        self._grammars[grammar] = name
        if len(self._grammars) > MOST_GRAMMARS:
            _, oldest = self._grammars.popitem(last=False)
            self._decoder.remove_search(oldest)
        return len(guessed)

    def begin(self, grammar: str, channel: str) -> None:
        """An utterance begins under this grammar."""
        self.prepare(grammar)
        self._decoder.activate_search(self._grammars[grammar])
        self._decoder.set_cmn(channel or _CHANNEL)
        self._decoder.start_utt()
        self._narrow = Narrow()

    def push(self, pcm: bytes) -> None:
        """Search on."""
        self._search(self._narrow.push(pcm))

    def _search(self, pcm: bytes) -> None:
        if pcm:
            self._decoder.process_raw(pcm)

    def text(self) -> str:
        """What it is so far; empty when it is none of the grammar's sentences."""
        hypothesis = self._decoder.hyp()
        words = hypothesis.hypstr if hypothesis is not None else ""
        return "" if words.startswith("gx") else re.sub(r"\(\d+\)", "", words)

    def end(self) -> tuple[str, str]:
        """Give what was said, and the caller's channel as it is estimated now."""
        self._search(self._narrow.flush())
        self._decoder.end_utt()
        return self.text(), str(self._decoder.get_cmn(False))


class Utterance:
    """One open utterance: its audio, and the ear it has or waits for."""

    __slots__ = ("audio", "begin", "ear", "finished", "hint", "hinted_at")

    def __init__(self, begin: Begin) -> None:
        self.begin = begin
        self.audio = bytearray()
        self.ear: Ear | None = None
        self.finished = False
        self.hint = ""
        self.hinted_at = 0


class Recogniser:
    """Messages in, messages out."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._ears: list[Ear] = [Ear()]
        self._made = 1
        self._open: dict[int, Utterance] = {}
        self._waiting: deque[Utterance] = deque()

    def take(self, message: Message) -> None:
        """Do what the worker wants."""
        match message:
            case Prepare(grammar):
                self._prepare(grammar)
            case Begin():
                self._open[message.job] = utterance = Utterance(message)
                self._waiting.append(utterance)
                self._assign()
            case Audio(job, pcm):
                self._audio(job, pcm)
            case Finish(job) if job in self._open:
                utterance = self._open[job]
                utterance.finished = True
                if utterance.ear is not None:
                    self._answer(utterance)
            case Stop(job) if job in self._open:
                self._drop(self._open[job])
            case _:
                pass  # about an utterance that is over

    def _prepare(self, grammar: str) -> None:
        guessed = 0
        for ear in self._ears:
            try:
                guessed = max(guessed, ear.prepare(grammar))
            except (ValueError, RuntimeError):
                return  # whoever begins an utterance with it is told
        if guessed:
            self._send(Guessed(guessed))

    def _audio(self, job: int, pcm: bytes) -> None:
        utterance = self._open.get(job)
        if utterance is None or len(utterance.audio) + len(pcm) > MOST_AUDIO_BYTES:
            return
        utterance.audio += pcm
        ear = utterance.ear
        if ear is None:
            return
        ear.push(pcm)
        if len(utterance.audio) - utterance.hinted_at >= _HINT_BYTES:
            utterance.hinted_at = len(utterance.audio)
            text = ear.text()
            if text and text != utterance.hint:
                utterance.hint = text
                self._send(Hint(job, text))

    def _assign(self) -> None:
        """Give free ears to those that wait, in their order, with the audio they brought."""
        while self._waiting and (self._ears or self._made < MOST_DECODERS):
            utterance = self._waiting.popleft()
            if not self._ears:
                self._made += 1
                self._ears.append(Ear())
            ear = self._ears.pop()
            try:
                ear.begin(utterance.begin.grammar, utterance.begin.channel)
            except (ValueError, RuntimeError):
                self._ears.append(ear)
                del self._open[utterance.begin.job]
                reason = "the recogniser refused the grammar"
                self._send(Trouble(utterance.begin.job, reason, retryable=False))
                continue
            utterance.ear = ear
            if utterance.audio:
                ear.push(bytes(utterance.audio))
            if utterance.finished:
                self._answer(utterance)

    def _answer(self, utterance: Utterance) -> None:
        assert utterance.ear is not None
        text, channel = utterance.ear.end()
        if text and not is_voiced(bytes(utterance.audio)):
            text, channel = "", utterance.begin.channel
        seconds = len(utterance.audio) / (2 * RATE_HZ)
        job = utterance.begin.job
        self._send(Heard(job, text, 1.0 if text else 0.0, seconds, channel))
        self._forget(utterance)

    def _drop(self, utterance: Utterance) -> None:
        if utterance.ear is not None:
            utterance.ear.end()
        else:
            self._waiting.remove(utterance)
        self._forget(utterance)

    def _forget(self, utterance: Utterance) -> None:
        del self._open[utterance.begin.job]
        if utterance.ear is not None:
            self._ears.append(utterance.ear)
            utterance.ear = None
        self._assign()


def main() -> None:
    """Serve the worker until it is gone."""
    os.nice(NICENESS)
    line = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    unpacker = Unpacker()
    recogniser = Recogniser(lambda message: line.sendall(pack(message)))
    line.sendall(pack(Ready("pocketsphinx", RATE_HZ)))
    while data := line.recv(MOST_BYTES):
        for message in unpacker.feed(data):
            recogniser.take(message)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # the worker went first
