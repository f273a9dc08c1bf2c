"""The recogniser's process: pocketsphinx under a grammar, several utterances at a time.

`python -m flowcatd.links.sphinx_helper`, with its worker's socket as standard input. One blocking
loop takes messages in order; audio is searched as it comes, so that only a few milliseconds are
left when the utterance ends. Each open utterance needs a decoder (31 MB); they are made when first
needed, up to MOST_DECODERS; an utterance beyond that waits with its audio until one is free.

A grammar alone accepts anything: the search finds the nearest sentence. So each grammar gets a
garbage path of single phones and noise beside it, entered at a cost (GARBAGE). A sentence that wins
all the same is believed. One that loses gets a second look: the utterance is searched once more
without the garbage, and its sentence is believed if, per frame, phones explained the sound hardly
better (MARGIN). A cost per utterance cannot do that: in two seconds phones gain twice what they gain
in one. Both searches score against all of the model's sounds (compallsen), or their scores could
not be compared. And what holds no voiced sound at all (a cough, a knock) was no word. pocketsphinx
gives no posterior for a grammar, so confidence is 1. Cepstral means start from those of telephone speech and follow the caller (`channel`); a
quiet utterance is raised first, so that its level does not shift them.

Figures: dependencies.md §6 and tests/human_speech. API: https://pocketsphinx.readthedocs.io
"""

from __future__ import annotations

import math
import os
import re
import socket
import sys
from collections import OrderedDict, deque
from collections.abc import Callable

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
from flowcatd.links.sphinx_sound import RATE_HZ, Narrow, is_voiced

MOST_DECODERS = 6
MOST_GRAMMARS = 32
"""Compiled grammars kept per decoder; the least used is dropped."""
MOST_AUDIO_BYTES = 60 * RATE_HZ * 2
"""Audio of one utterance; what comes after a minute is ignored."""

GARBAGE = 1e-12
"""What the garbage path weighs; below 1e-28 the search drops it."""
MARGIN = 6.3
"""Acoustic score per frame, in the model's units, by which phones may beat a sentence. Chosen on
tests/human_speech: of 67 human utterances in the grammar 67 are understood, of 54 off-topic ones 51
rejected; 7 rejects 49, and 5.5 hears 66."""
_SECOND_LOOK_BYTES = 6 * RATE_HZ * 2
# Longer utterances are not searched again: no state of a dialog expects that much, and the others'
# audio waits meanwhile (0.1 s at the most).
_NOISE = 1e-2  # a path of the model's noise units only: bursts and tones, never taken by words
_CHANNEL = "45,27,-37,42,-26,2,10.5,-28,20,-14,1,7.5,-13"
# Cepstral means of speech after 8 kHz µ-law: the model's own are those of a studio, and cost the
# first words of each call.
_ON_THE_PHONE = {"yes": ("Y AH Z", "Y EH Z")}
# Words that lose their last sound above 4 kHz and would otherwise be taken for garbage.
_HINT_BYTES = RATE_HZ * 2 * 300 // 1000  # a hint at most every 300 ms of audio


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


def garbage_grammar(body: str, *, garbage: bool = True) -> str:
    """Complete a grammar body by its header and by the paths for noise and for what is not in it."""
    phones = " | ".join(f"gx{phone.lower()}" for phone in (*PHONES, "nsn", "spn"))
    inner = re.sub(r"public\s+(<utterance>)", r"\1", body, count=1)
    inner = re.sub(r"<[^>]*>|[^<]+", lambda part: _lowered(part.group()), inner)
    return (
        "#JSGF V1.0;\ngrammar flowcatd;\n"
        f"public <gxtop> = /{1 - _NOISE:g}/ <utterance> | /{_NOISE:g}/ <gxnoise>+"
        f"{f' | /{GARBAGE:g}/ <gxany> <gxany>+' if garbage else ''};\n"
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


def _again(name: str) -> str:
    """The search for a second look, beside the first."""
    return f"{name}-again"


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
                compallsen=True,
                loglevel="FATAL",
            )
        )
        self._free_model = f"{model}/en-us.lm.bin"
        self._grammars: OrderedDict[str, str] = OrderedDict()
        self._made = 0
        for phone in PHONES:
            self._decoder.add_word(f"gx{phone.lower()}", phone, update=False)
        self._narrow = Narrow()
        self._searched = bytearray()
        self._search_name = ""
        self._channel = _CHANNEL
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
            self._decoder.add_jsgf_string(_again(name), garbage_grammar(grammar, garbage=False))
        else:
            self._decoder.add_lm_file(name, self._free_model)
        self._grammars[grammar] = name
        if len(self._grammars) > MOST_GRAMMARS:
            oldest_grammar, oldest = self._grammars.popitem(last=False)
            self._decoder.remove_search(oldest)
            if oldest_grammar:
                self._decoder.remove_search(_again(oldest))
        return len(guessed)

    def begin(self, grammar: str, channel: str) -> None:
        """An utterance begins under this grammar."""
        self.prepare(grammar)
        self._search_name = self._grammars[grammar] if grammar else ""
        self._channel = channel or _CHANNEL
        self._decoder.activate_search(self._grammars[grammar])
        self._decoder.set_cmn(self._channel)
        self._decoder.start_utt()
        self._narrow = Narrow()
        self._searched = bytearray()

    def push(self, pcm: bytes) -> None:
        """Search on."""
        self._search(self._narrow.push(pcm))

    def _search(self, pcm: bytes) -> None:
        if pcm:
            self._decoder.process_raw(pcm)
            if len(self._searched) <= _SECOND_LOOK_BYTES:
                self._searched += pcm

    def text(self) -> str:
        """What it is so far; empty when it is none of the grammar's sentences."""
        hypothesis = self._decoder.hyp()
        words = hypothesis.hypstr if hypothesis is not None else ""
        return "" if words.startswith("gx") else re.sub(r"\(\d+\)", "", words)

    def end(self) -> tuple[str, str]:
        """Give what was said, and the caller's channel as it is estimated now."""
        self._search(self._narrow.flush())
        self._decoder.end_utt()
        text, channel = self.text(), str(self._decoder.get_cmn(False))
        return text or self._second_look(), channel

    def stop(self) -> None:
        """Nobody wants to know."""
        self._decoder.end_utt()

    def _second_look(self) -> str:
        """The sentence that lost to the garbage, if it lost by little; else nothing."""
        frames, phones = self._decoder.n_frames(), self._score()
        if not (self._search_name and frames and len(self._searched) <= _SECOND_LOOK_BYTES):
            return ""
        self._decoder.activate_search(_again(self._search_name))
        self._decoder.set_cmn(self._channel)
        self._decoder.start_utt()
        self._decoder.process_raw(bytes(self._searched))
        self._decoder.end_utt()
        text = self.text()
        return text if text and phones - self._score() < MARGIN * frames else ""

    def _score(self) -> float:
        """The acoustic score of the best path, in the model's units (its logarithm's base is 1.0001)."""
        segments = self._decoder.seg() or ()
        return sum(math.log(max(each.ascore, 1e-300)) for each in segments) / math.log(1.0001)


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
            utterance.ear.stop()
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
