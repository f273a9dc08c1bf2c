"""The jitter buffer: packets in as they come, audio out in order, 20 ms at a time when asked.

Time. A packet's *transit* is its arrival less its timestamp, in ticks. The least transit of the last
WINDOW blocks of a second is the fastest way there is; what a packet took beyond it is its jitter. What
is played at a time lies some *delay* behind the fastest way, and whatever jitter stays under the delay
is not heard. So the *target* is the second highest jitter in the window (of 500 packets: the 99.8th
percentile; the one worst packet is forgiven) and MARGIN_MS, never above the ceiling. A sender whose clock
is off moves the fastest way along, so drift needs no words of its own.

Acting. A packet must be there at the tick in which its first sample is played, which with `held` audio
before it is earlier than the sample. What counts against the target is therefore the delay at the tick.
It moves by whole `grid` steps (what ticks and packets have in common, mostly 20 ms), the rest is
`spare`: delay that protects from nothing. `get` tells by `wish` how many ticks are too many (or,
negative, too few); who has the PCM takes out or puts in a pitch period (`stretch`). A talkspurt begins
at the first tick beyond the target. Beyond the ceiling packets are dropped, so that a backlog never
becomes delay.

What is missing. With later packets at hand a hole is LOST when sequence numbers are missing, and
SILENCE when none are (the sender said nothing, or digits). With nothing at hand it is EMPTY: late,
lost or the end of talk, which only the next packet tells; time that passed so is taken off a hole
found later, and off nothing when the packet was merely late. After PATIENCE_MS of it the talkspurt is over.

A timestamp that goes back, or jumps without the time having passed, begins a new timeline: it is
laid behind the old one, as the sequence numbers say, and the way is measured anew.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from flowcatd.errors import LocalError
from flowcatd.media import PTIME_MS
from flowcatd.rtp.sequence import nearest32

WINDOW = 10
"""Blocks of a second that jitter is measured over: long enough for a burst to be expected again."""
MARGIN_MS = 10
"""Beyond the jitter measured, for the unsteadiness of our own ticks; also the least delay."""
SLACK_MS = 5
"""So far below the target is left alone, half the margin; a grid step above that is one too many."""
SPARE_MS = 3
"""Less of it is not worth a splice: the shortest pitch period."""
HURRY_MS = 40
"""So far above the target is corrected at once, less must last for STEADY pieces."""
STEADY = 5
PATIENCE_MS = 100
"""After this long without a packet the talkspurt is over; concealment has faded at 60."""
FASTER_MS = 100
"""No way becomes this much shorter at once: it was the timestamp that jumped."""
SLOWER_MS = 1000
"""No network holds packets back for longer: the sender's timestamps stood still (RFC 3264 hold)."""
MAX_PACKETS = 128
"""More cannot wait: 200 ms of 10 ms packets, six times."""

_SEEN = 256
"""Sequence numbers remembered: 5 s, and above MAX_MISORDER."""


class Gap(StrEnum):
    """Why there is nothing to play."""

    IDLE = "idle"
    """Nothing was ever heard, or nothing for so long that talk has ended."""
    EMPTY = "empty"
    """Nothing is at hand: late, lost, or the end of talk."""
    LOST = "lost"
    """It was sent and did not come in time."""
    SILENCE = "silence"
    """The sender sent nothing."""


class Piece(msgspec.Struct, gc=False):
    """One packet's payload in its place."""

    sequence: int
    """Extended."""
    timestamp: int
    """As on the wire; within the buffer, on the buffer's own timeline."""
    ticks: int
    """How long it lasts; 0 for a description of noise (RFC 3389)."""
    payload_type: int
    payload: bytes


class Hole(msgspec.Struct, frozen=True, gc=False):
    """Nothing to play for so long."""

    kind: Gap
    ticks: int


@dataclass(frozen=True, slots=True)
class JitterOptions:
    """The limits of the delay that the buffer adds."""

    initial_ms: int = 40
    """Until two seconds have been measured, never less than this."""
    ceiling_ms: int = 200
    """Never more than this, whatever comes."""


class Jitter:
    """The packets of one source, waiting to be heard."""

    def __init__(self, clock_hz: int, options: JitterOptions) -> None:
        if not PTIME_MS <= options.initial_ms <= options.ceiling_ms:
            raise LocalError("a jitter buffer's delay begins at 20 ms and ends at its ceiling")
        self._clock = clock_hz
        self._ms = clock_hz // 1000
        self._options = options
        self._step = self._ms * PTIME_MS
        self._holes = {kind: Hole(kind, self._step) for kind in Gap}
        self._queue: deque[Piece] = deque()
        self._seen = array("q", [-1]) * _SEEN
        self._way = _Way(self._ms, options)
        self._offset = 0
        self._latest: Piece | None = None
        """The piece of the highest sequence number."""
        self._playing = False
        self._after_noise = False
        self._noted = -1
        """The highest sequence number of a packet that is not ours."""
        self._next = 0
        """The timestamp after what was played last."""
        self._played = -1
        """The sequence number of what was played last."""
        self._owed = 0
        """Ticks that passed while nothing was at hand."""
        self._lost_run = 0
        """Ticks told as LOST since the last piece."""
        self._steady = 0
        """For how many pieces on end the delay was not as it should be."""
        self._grid = self._step
        self._lap = 0
        """How much earlier than at its tick a packet of less than a tick is taken."""
        self.wish = 0
        """Ticks to take out of what was just got, or, negative, to put in."""
        self.delay = 0.0
        """Of the last piece behind the fastest way, in ticks."""
        self.late = self.duplicates = self.discarded = self.timelines = 0
        """Packets that came too late, came twice, were dropped by the ceiling; new timelines."""

    # --- what we are told ----------------------------------------------------------------------

    def note(self, sequence: int) -> None:
        """A packet with this number came that is not for this buffer: a digit, in place of audio."""
        self._seen[sequence % _SEEN] = sequence
        self._noted = max(self._noted, sequence)

    def push(self, piece: Piece, now: float) -> bool:
        """Put a piece in its place; false when it is of no use any more."""
        sequence = piece.sequence
        if self._seen[sequence % _SEEN] == sequence:
            self.duplicates += 1
            return False
        self._seen[sequence % _SEEN] = sequence
        latest = self._latest
        if latest is None:
            timestamp = piece.timestamp
            self._way.begin(now * self._clock - timestamp, now)
        else:
            timestamp = nearest32(latest.timestamp - self._offset, piece.timestamp) + self._offset
            placed = self._place(piece, timestamp, latest, now)
            if placed is None:
                self.late += 1
                return False
            timestamp = placed
        piece.timestamp = timestamp
        if latest is None or sequence > latest.sequence:
            self._latest = piece
        if self._played >= 0 and timestamp + (piece.ticks >> 1) < self._next:
            self.late += 1
            return False
        self._insert(piece)
        return True

    def reset(self) -> None:
        """Another source speaks: nothing kept is of any use. What was measured stays the start."""
        self._queue.clear()
        self._seen = array("q", [-1]) * _SEEN
        self._latest = None
        self._offset = 0
        self._playing = False
        self._played = self._noted = -1
        self._after_noise = False
        self._owed = self._lost_run = self._steady = 0

    # --- what we want --------------------------------------------------------------------------

    def get(self, now: float, held: float = 0.0) -> Piece | Hole:
        """What comes next, where `held` ticks of audio already wait to be played before it."""
        self.wish = 0
        if not self._queue:
            return self._nothing()
        piece = self._queue[0]
        at = now * self._clock + held
        if not self._playing:
            due = piece.timestamp + self._way.least + self._way.target + self._lap
            if now * self._clock < due:
                kind = Gap.SILENCE if self._played >= 0 else Gap.IDLE
                # Whole ticks, or what completes one: the talkspurt begins with nothing held.
                return (
                    Hole(kind, self._step - int(held) % self._step) if held else self._holes[kind]
                )
            self._playing = True
            self._owed = self._lost_run = 0
        elif piece.timestamp - self._next > self._ms * 5:
            # None: all of it has passed, or a talkspurt begins; once more, that settles which.
            return self._hole(piece) or self.get(now, held)
        return self._take(at, held)

    @property
    def target(self) -> float:
        """The delay to be kept, in ticks."""
        return self._way.target

    @property
    def ready(self) -> bool:
        """Whether what follows what was last got is at hand."""
        return bool(self._queue) and self._queue[0].timestamp - self._next <= self._ms * 5

    @property
    def following(self) -> Piece | None:
        """What will be got next, if it is at hand and nothing is missing before it."""
        return self._queue[0] if self.ready else None

    @property
    def waiting(self) -> int:
        """How many packets are kept."""
        return len(self._queue)

    # --- order -----------------------------------------------------------------------------------

    def _place(self, piece: Piece, timestamp: int, latest: Piece, now: float) -> int | None:
        """Where on our timeline the piece lies; None when it is from an older one."""
        way = self._way
        transit = now * self._clock - timestamp
        steps = piece.sequence - latest.sequence
        strange = not -FASTER_MS * self._ms <= transit - way.least <= SLOWER_MS * self._ms
        if steps < 0:
            if strange:
                return None
        elif strange or timestamp < latest.timestamp:
            behind = latest.timestamp + latest.ticks + (steps - 1) * piece.ticks
            self._offset += behind - timestamp
            self.timelines += 1
            way.begin(now * self._clock - behind, now)
            return behind
        elif not self._playing and self._played >= 0 and transit - way.least > way.target:
            # Talk begins again on a longer way, or on a clock that stood still: nothing is lost by
            # measuring it anew, and if it was one slow packet the next one shows the way.
            way.begin(transit, now)
            return timestamp
        way.measure(transit, now)
        return timestamp

    def _insert(self, piece: Piece) -> None:
        queue = self._queue
        if len(queue) >= MAX_PACKETS:
            queue.popleft()
            self.discarded += 1
        if not queue or piece.timestamp >= queue[-1].timestamp:
            queue.append(piece)
            return
        at = len(queue) - 1
        while at and queue[at - 1].timestamp > piece.timestamp:
            at -= 1
        queue.insert(at, piece)

    # --- playing ---------------------------------------------------------------------------------

    def _nothing(self) -> Hole:
        if not self._playing:
            return self._holes[Gap.SILENCE if self._after_noise else Gap.IDLE]
        if self._after_noise or self._noted > self._played:
            self._playing = False
            self._after_noise = True
            return self._holes[Gap.SILENCE]
        self._owed += self._step
        if self._owed >= PATIENCE_MS * self._ms:
            self._playing = False
        return self._holes[Gap.EMPTY]

    def _hole(self, piece: Piece) -> Hole | None:
        """What fills the time before `piece`; None when it is due, or a talkspurt begins with it."""
        gap = piece.timestamp - self._next
        if self._owed:
            passed = min(gap, self._owed)
            self._next += passed
            self._lost_run += passed
            gap -= passed
            self._owed = 0
            if gap <= self._ms * 5:
                return None
        missing = self._missing(piece.sequence) * max(piece.ticks, 1) - self._lost_run
        if self._after_noise or missing <= 0 or gap > self._options.ceiling_ms * self._ms:
            self._playing = False
            return None
        ticks = min(self._step, gap)
        self._next += ticks
        self._lost_run += ticks
        return self._holes[Gap.LOST] if ticks == self._step else Hole(Gap.LOST, ticks)

    def _missing(self, before: int) -> int:
        """How many packets between the last played and this one never came."""
        seen = self._seen
        first = max(self._played + 1, before - _SEEN + 1)
        unseen = sum(1 for number in range(first, before) if seen[number % _SEEN] != number)
        return unseen + first - self._played - 1

    def _take(self, at: float, held: float) -> Piece:
        """The first piece, or, beyond the ceiling, the first that brings the delay to its target."""
        queue = self._queue
        least, target, ms = self._way.least, self._way.target, self._ms
        piece = queue.popleft()
        delay = at - piece.timestamp - least
        if delay > self._options.ceiling_ms * ms:
            while queue and delay > target:
                self.discarded += 1
                piece = queue.popleft()
                delay = at - piece.timestamp - least
        self._next = piece.timestamp + piece.ticks
        self._played = piece.sequence
        self._owed = self._lost_run = 0
        self._after_noise = not piece.ticks
        self.delay = delay
        if piece.ticks:
            self._judge(piece.ticks, delay - target, held)
        return piece

    def _judge(self, ticks: int, over: float, held: float) -> None:
        """Whether the delay is as it should be, and what is to be done if it has not been."""
        ms = self._ms
        if ticks % self._grid or self._step % self._grid or ticks < self._grid:
            self._grid = math.gcd(ticks, self._step)
            self._lap = self._step - self._grid
        spare = held % self._grid
        over -= spare + self._lap
        if over < -SLACK_MS * ms or over > self._grid - SLACK_MS * ms + ms:
            want = over
        elif spare > SPARE_MS * ms:
            want = spare
        else:
            self._steady = 0
            return
        self._steady += 1
        if self._steady > STEADY or over > HURRY_MS * ms:
            self._steady = 0
            self.wish = int(want)


class _Way:
    """How long packets take: the least and the two highest transits, over a window of blocks."""

    __slots__ = (
        "_best",
        "_blocks",
        "_ceiling",
        "_floor",
        "_high",
        "_initial",
        "_margin",
        "_roll_at",
        "_second",
        "_top",
        "_worst",
        "least",
        "target",
    )

    def __init__(self, ms: int, options: JitterOptions) -> None:
        self._floor = self._margin = MARGIN_MS * ms
        self._initial = options.initial_ms * ms
        self._ceiling = (options.ceiling_ms - PTIME_MS) * ms
        self.least = 0.0
        """The fastest way, as a transit."""
        self.target = float(self._initial)
        """The delay to be kept, in ticks."""
        self._blocks: deque[tuple[float, float, float]] = deque(maxlen=WINDOW - 1)
        self._roll_at = 0.0
        self._best = self._top = self._high = 0.0
        self._worst = self._second = 0.0

    def begin(self, transit: float, now: float) -> None:
        """Measure anew from this packet on, with the jitter known so far until two seconds passed."""
        self._initial = max(self._initial, int(self.target))
        self._blocks.clear()
        self._roll_at = now + 1.0
        self.least = self._best = self._top = self._high = self._worst = self._second = transit
        self._aim()

    def measure(self, transit: float, now: float) -> None:
        """One packet's transit."""
        if now >= self._roll_at:
            self._roll(transit, now)
        elif transit < self._best:
            self._best = transit
            if transit < self.least:
                self.least = transit
                self._aim()
        if transit > self._high:
            if transit > self._top:
                self._high = self._top
                self._top = transit
            else:
                self._high = transit
            if transit > self._second:
                if transit > self._worst:
                    self._second = self._worst
                    self._worst = transit
                else:
                    self._second = transit
                self._aim()

    def _roll(self, transit: float, now: float) -> None:
        blocks = self._blocks
        blocks.append((self._best, self._top, self._high))
        self._roll_at = now + 1.0
        self._best = self._top = self._high = transit
        self.least = min(transit, *(best for best, _, _ in blocks))
        highest = sorted(
            [transit, *(top for _, top, _ in blocks), *(high for _, _, high in blocks)]
        )
        self._worst, self._second = highest[-1], highest[-2]
        if len(blocks) == 2:
            self._initial = self._floor
        self._aim()

    def _aim(self) -> None:
        wanted = self._second - self.least + self._margin
        self.target = min(max(wanted, self._initial), self._ceiling)
