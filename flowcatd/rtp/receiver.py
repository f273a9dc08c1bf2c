"""The hearing half of a stream: packets of one source in, 20 ms of PCM out at every tick.

It asks the jitter buffer for what comes next until 20 ms are there, and makes of it what is heard:
payloads are decoded, holes concealed (by the codec where it can: Opus), silences filled with the
background, and where the buffer wishes for less or more delay a pitch period is taken out or put in.
Every hole is filled for exactly as long as it lasts; `Heard` counts in samples what was done and why.

A tick that needs nothing special decodes one payload and slices one history.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowcatd.errors import LocalError
from flowcatd.rtp.codec import MAX_PTIME_MS, Codec
from flowcatd.rtp.comfort import NoiseGenerator, parse_noise
from flowcatd.rtp.conceal import Concealer
from flowcatd.rtp.jitter import Gap, Hole, Jitter, JitterOptions, Piece
from flowcatd.rtp.stretch import lengthen, shorten
from flowcatd.rtp.trouble import RtpError

STUBBORN = 3
"""Pieces without a period, after which the next is cut where it is: a third of a second."""
QUIET_RMS = 60
"""As quiet as this, or twice the background, may be cut anywhere: -55 dBFS."""


@dataclass(slots=True)
class Heard:
    """What was done to fill the ticks, in samples unless it says otherwise."""

    concealed: int = 0
    """Made up for what was lost or late, or recovered."""
    recovered: int = 0
    """Of those, had back from the packet behind the hole."""
    background: int = 0
    """Made up where the sender said nothing."""
    shortened: int = 0
    lengthened: int = 0
    undecodable: int = 0
    """Payloads that their decoder refused."""
    runs: int = 0
    """Holes concealed, however long each."""


class Receiver:
    """What is heard of one source."""

    def __init__(
        self, codecs: tuple[Codec, ...], noise_type: int | None, options: JitterOptions, start: int
    ) -> None:
        """All `codecs` share one clock and one rate; `noise_type` is comfort noise's payload type."""
        first = codecs[0]
        if any((c.clock_hz, c.rate_hz) != (first.clock_hz, first.rate_hz) for c in codecs):
            raise LocalError("codecs of one stream must share their clock and rate")
        self._codecs = {codec.payload_type: codec for codec in codecs}
        self._noise_type = noise_type
        self._clock, self._rate = first.clock_hz, first.rate_hz
        self._longest = self._clock * MAX_PTIME_MS // 1000
        self._want = first.frame_bytes
        self.jitter = Jitter(first.clock_hz, options)
        self._noise = NoiseGenerator(start)
        self._concealer = Concealer(first.rate_hz, self._noise)
        self._held = b""
        self._last: Codec | None = None
        """Of the piece that was played last."""
        self._is_concealing = False
        self._refusals = 0
        self._skipped = 0
        self.heard = Heard()

    def knows(self, payload_type: int) -> bool:
        """Whether this is a payload that we can hear."""
        return payload_type in self._codecs or payload_type == self._noise_type

    def push(self, sequence: int, timestamp: int, kind: int, payload: bytes, now: float) -> None:
        """One packet; RtpError when its payload is none of its type."""
        codec = self._codecs.get(kind)
        ticks = codec.ticks(payload) if codec is not None else 0
        if (codec is not None and ticks <= 0) or ticks > self._longest or not payload:
            raise RtpError(f"a payload of {len(payload)} bytes that lasts {ticks} ticks")
        self.jitter.push(Piece(sequence, timestamp, ticks, kind, payload), now)

    def pull(self, now: float) -> bytes:
        """The next 20 ms, s16le mono."""
        pcm, want = self._held, self._want
        # It ends: every turn takes a piece from a bounded buffer or fills at least one sample.
        while len(pcm) < want:
            held = len(pcm) // 2 * self._clock / self._rate if pcm else 0
            got = self.jitter.get(now, held)
            more = self._fill(got) if type(got) is Hole else self._play(got, len(pcm))  # type: ignore[arg-type]  # the other kind
            pcm = pcm + more if pcm else more
        if len(pcm) == want:
            self._held = b""
            return pcm
        self._held = pcm[want:]
        return pcm[:want]

    def successor(
        self, codecs: tuple[Codec, ...], noise_type: int | None, options: JitterOptions
    ) -> Receiver:
        """A receiver for other codecs that goes on counting where this one stood."""
        made = Receiver(codecs, noise_type, options, 0)
        made.heard = self.heard
        old, new = self.jitter, made.jitter
        new.late, new.duplicates, new.discarded = old.late, old.duplicates, old.discarded
        made._skipped = new.discarded  # one of us
        return made

    def reset(self) -> None:
        """Another source speaks; what is decoded is played out first."""
        self.jitter.reset()
        self._noise.noise = None

    def _play(self, piece: Piece, held: int) -> bytes:
        """What a payload sounds like; nothing for a description of noise."""
        codec = self._codecs.get(piece.payload_type)
        if codec is None:
            self._describe(piece.payload)
            return b""
        try:
            pcm = codec.decode(piece.payload)
        except RtpError:
            self.heard.undecodable += 1
            return self._conceal(piece.ticks)
        self._last, self._is_concealing = codec, False
        jitter, concealer = self.jitter, self._concealer
        if jitter.discarded != self._skipped:
            self._skipped = jitter.discarded
            concealer.skip()
        if concealer.concealing:
            pcm = concealer.rejoin(pcm)
        concealer.heard(pcm)
        return self._corrected(pcm, held) if jitter.wish else pcm

    def _fill(self, hole: Hole) -> bytes:
        if hole.kind is Gap.LOST or hole.kind is Gap.EMPTY:
            return self._conceal(hole.ticks)
        samples = hole.ticks * self._rate // self._clock
        self.heard.background += samples
        self._is_concealing = False
        return self._concealer.silence(samples)

    def _conceal(self, ticks: int) -> bytes:
        samples = ticks * self._rate // self._clock
        self.heard.concealed += samples
        self.heard.runs += not self._is_concealing
        self._is_concealing = True
        return self._made_up(samples) or self._concealer.conceal(samples)

    def _made_up(self, samples: int) -> bytes:
        """What the codec itself puts in place of a loss; nothing when it has no way, or not for so much."""
        codec = self._last
        # Once the sound has been carried on by us, the decoder's memory is of something else.
        if codec is None or codec.conceal is None or self._concealer.concealing:
            return b""
        if samples * 400 % self._rate:
            return b""
        pcm = self._recovered(codec, samples) or codec.conceal(samples)
        self._concealer.passed(pcm)
        return pcm

    def _recovered(self, codec: Codec, samples: int) -> bytes:
        following = self.jitter.following
        if codec.recover is None or following is None:
            return b""
        if self._codecs.get(following.payload_type) is not codec:
            return b""
        try:
            pcm = codec.recover(following.payload, samples)
        except RtpError:
            return b""
        self.heard.recovered += samples
        return pcm

    def _describe(self, payload: bytes) -> None:
        try:
            self._noise.describe(parse_noise(payload))
        except RtpError:
            self.heard.undecodable += 1

    def _corrected(self, pcm: bytes, held: int) -> bytes:
        """The piece a period shorter or longer, as the jitter buffer wishes, if it has one to give."""
        wish = self.jitter.wish * self._rate // self._clock
        concealer = self._concealer
        quiet = concealer.loudness < max(QUIET_RMS, 2 * concealer.floor)
        quiet = quiet or self._refusals >= STUBBORN
        if wish > 0:
            made = shorten(pcm, self._rate, wish, quiet=quiet)
            if made is not None and held + len(made) < self._want and not self.jitter.ready:
                return pcm  # its successor would be wanted in this tick, and is not at hand
        else:
            made = lengthen(pcm, self._rate, max(-wish, self._rate // 100), quiet=quiet)
        if made is None:
            self._refusals += 1
            return pcm
        self._refusals = 0
        self.heard.shortened += max(0, len(pcm) - len(made)) // 2
        self.heard.lengthened += max(0, len(made) - len(pcm)) // 2
        return made
