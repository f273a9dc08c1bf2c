"""Which worker owns a call: consistent hashing with bounded loads, over the slots of the fleet.

Every worker decides by itself, from the load table, and all come to the same answer as long as they
see the same table. Each slot weighs a key with one hash (rendezvous hashing); the heaviest slot owns
it, and the others follow by weight: that is the key's own *ring order*. Rendezvous and no ring of
virtual nodes, because a slot that comes or goes then moves exactly its own keys, a slot that is full
spreads its overflow over all others instead of over one neighbour, and there is nothing to tune; it
costs a hash per slot, once per call. The bound is Mirrokni, Thorup and Zadimoghaddam's (SODA 2018):
no slot takes more than `bound` times the average while another has room for less.

Exact capacity rests on two rules. A slot's only seat that may admit is its *head*: the oldest that
is not draining, even while that one sheds or starts, so no two processes ever fill one slot at the
same time. And what it may admit is the capacity less the calls of *all* the slot's seats (`room`).
The table may be read late: who is chosen asks its own `room` again, and passes on what it cannot
take with its seat in `passed`. So every hop names one seat more, and a connection comes to an end.

`now` is monotonic seconds. The hash is blake2b: the same in every process, run and version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from math import ceil
from typing import Final
from urllib.parse import unquote_to_bytes

from workers.load import Load, Standing
from workers.plan import DIAL_PATH, MEDIA_PATH, RUN_ID_LIMIT

STALE_SECONDS = 2.0
"""A seat whose media timer has not rung for this long is passed over: it may be hung."""

_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.[01]\r?\n?")
"""A request line (RFC 9112 §3), with nothing but visible ASCII in its target."""
DIAL_KEY: Final = b"dial"
_PREFIX: Final = MEDIA_PATH.partition("{")[0].encode()
_STAMP = re.compile(r"fc-([0-9a-f]{1,3})\.([0-9a-f]{1,4})\.([0-9a-f]{1,16})\.([0-9a-f]{4})-")


@dataclass(slots=True)
class _Slot:
    """What one slot's seats come to."""

    head: Load
    """The one seat that may admit, now or once it serves again."""
    calls: int = 0
    """Of all its seats."""

    @property
    def room(self) -> int:
        """Places left."""
        return max(0, self.head.capacity - self.calls)


def _slots(loads: Iterable[Load]) -> dict[int, _Slot]:
    """Every slot that has a head; a slot of which all seats are draining has none."""
    slots: dict[int, _Slot] = {}
    calls: dict[int, int] = {}
    for load in loads:
        if load.standing is Standing.EMPTY:
            continue
        calls[load.slot] = calls.get(load.slot, 0) + load.calls
        if load.standing is Standing.DRAINING:
            continue
        known = slots.get(load.slot)
        if known is None:
            slots[load.slot] = _Slot(load)
        elif (load.since_us, load.seat) < (known.head.since_us, known.head.seat):
            known.head = load
    for number, slot in slots.items():
        slot.calls = calls[number]
    return slots


def _is_member(head: Load, now: float) -> bool:
    return head.standing is Standing.SERVING and now - head.tick_us / 1e6 <= STALE_SECONDS


def _weight(slot: int, key: bytes) -> bytes:
    return blake2b(slot.to_bytes(4, "big") + key, digest_size=8).digest()


def choose(
    key: bytes,
    loads: Iterable[Load],
    *,
    bound: float,
    now: float,
    passed: Collection[int] = (),
) -> int | None:
    """The seat that owns the call with this key, or None when nobody takes it.

    `bound` is how many times the average a slot may carry, `passed` are seats that could not take it.
    """
    members = {number: slot for number, slot in _slots(loads).items() if _is_member(slot.head, now)}
    if not members:
        return None
    total = sum(slot.calls for slot in members.values()) + 1
    # In fractions: 1.1 * 10 / 1 is a little more than 11 in floating point, and its ceiling 12.
    most = ceil(Fraction(str(bound)) * total / len(members))
    able = [
        number for number, slot in members.items() if slot.room and slot.head.seat not in passed
    ]
    able.sort(key=lambda number: (_weight(number, key), number), reverse=True)
    for number in able:
        if members[number].calls < most:
            return members[number].head.seat
    # All that are left carry more than their share: the least burdened, in ring order.
    least = min(able, key=lambda number: members[number].calls, default=None)
    return None if least is None else members[least].head.seat


def tender(key: bytes, loads: Iterable[Load], now: float) -> int | None:
    """The one seat that does a thing with this key for the whole daemon, or None when nobody serves."""
    return find_tender(key, heads(loads, now))


def heads(loads: Iterable[Load], now: float) -> dict[int, int]:
    """Slot to the seat of its head, of those that serve or shed; who does not tick is passed over."""
    return {
        number: slot.head.seat
        for number, slot in _slots(loads).items()
        if slot.head.standing in (Standing.SERVING, Standing.SHEDDING)
        and now - slot.head.tick_us / 1e6 <= STALE_SECONDS
    }


def find_tender(key: bytes, heads: Mapping[int, int]) -> int | None:
    """As `tender`, for whoever asks about many keys at a time."""
    slot = max(heads, key=lambda number: (_weight(number, key), number), default=None)
    return None if slot is None else heads[slot]


def room(seat: int, loads: Iterable[Load]) -> int:
    """How many more calls this seat may admit now: none unless it is its slot's head and serves."""
    for slot in _slots(loads).values():
        if slot.head.seat == seat:
            return slot.room if slot.head.standing is Standing.SERVING else 0
    return 0


def refusal(loads: Iterable[Load]) -> str:
    """Why nobody takes a call, in the words of metrics.REFUSALS: full, draining or overloaded."""
    heads = [
        slot
        for slot in _slots(loads).values()
        if slot.head.standing in (Standing.SERVING, Standing.SHEDDING)
    ]
    if not heads:
        return "draining"
    # Whoever has room and does not take it is late with what it has.
    return "overloaded" if any(slot.room for slot in heads) else "full"


# --- connections ----------------------------------------------------------------------------------


def is_request_line(line: bytes) -> bool:
    """Whether this begins an HTTP/1 request; anything else is answered without being understood."""
    return _REQUEST.fullmatch(line) is not None


def key_of(request_line: bytes) -> bytes | None:
    """The identity of the call that a request line names or asks for, None for any other request.

    Provider and run id, percent-decoded, the run id cut where everybody cuts it: two spellings of
    one identity have one owner. A call of ours that is asked for has no identity yet: all of those
    have one key, so that the loads alone decide who places it.
    """
    match = _REQUEST.fullmatch(request_line)
    if match is None or match[1] not in {b"GET", b"POST"}:
        return None
    target = match[2]
    if not target.startswith(b"/"):  # absolute-form, as proxies send it (RFC 9112 §3.2.2)
        _scheme, slashes, rest = target.partition(b"://")
        target = b"/" + rest.partition(b"/")[2] if slashes else b""
    path = re.split(rb"[?#]", target, maxsplit=1)[0]
    if match[1] == b"POST":
        return DIAL_KEY if path == DIAL_PATH.encode() else None
    words = path.removeprefix(_PREFIX).split(b"/") if path.startswith(_PREFIX) else []
    if len(words) != 2 or not all(words):
        return None
    provider, run_id = (unquote_to_bytes(word) for word in words)
    run_id = run_id.decode(errors="replace")[:RUN_ID_LIMIT].encode()
    return b"ws\0" + provider + b"\0" + run_id


@dataclass(frozen=True, slots=True)
class Way:
    """Where a connection goes."""

    seat: int | None
    """The owner, or None: it is served here, be it with a refusal."""
    passed: tuple[int, ...]
    """The seats that could not take it."""


class Steering:
    """One worker's decisions about connections; `decide` is what its door asks."""

    def __init__(
        self,
        seat: int,
        loads: Iterable[Load],
        promise: Callable[[object], bool],
        bound: float,
        clock: Callable[[], float],
    ) -> None:
        """`promise` takes a place for a connection if there is one, `clock` is monotonic seconds."""
        self._seat = seat
        self._loads = loads
        self._promise = promise
        self._bound = bound
        self._clock = clock

    def decide(
        self, request_line: bytes, passed: tuple[int, ...], connection: object, *, given: bool
    ) -> Way:
        """Who serves this connection; `given` means that a fellow chose us.

        A given one is taken whenever there is room, whatever our own view of the loads: two workers
        that see the table a moment apart would otherwise send it to and fro. What is served here
        without a promise is refused there, with the reason, unless a place was freed meanwhile.
        """
        key = key_of(request_line)
        if key is None:
            return Way(None, passed)
        if given:
            if self._promise(connection):
                return Way(None, passed)
            passed = (*passed, self._seat)
        while True:
            seat = choose(key, self._loads, bound=self._bound, now=self._clock(), passed=passed)
            if seat != self._seat:
                return Way(seat, passed)
            if self._promise(connection):
                return Way(None, passed)
            passed = (*passed, seat)


# --- SIP ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which process minted a tag, a branch or a Contact's user."""

    slot: int
    seat: int
    since_us: int


def mint_stamp(load: Load) -> str:
    """`fc-2.9.5f3c….a1b2-`: what this process puts in front of each tag, and into branches and users.

    Only characters that a token and a SIP URI's user both allow unescaped (RFC 3261 §25.1), and no
    capitals, since tokens are compared without regard to case. The last word is a checksum: what
    others mint is hardly ever taken for ours.
    """
    words = f"{load.slot:x}.{load.seat:x}.{load.since_us:x}"
    return f"fc-{words}.{_check(words)}-"


def read_stamp(text: str) -> Stamp | None:
    """The stamp in a tag, branch or user, wherever it stands in it; None when there is none of ours."""
    for match in _STAMP.finditer(text.lower()):
        slot, seat, since, check = match.groups()
        if check == _check(f"{slot}.{seat}.{since}"):
            return Stamp(int(slot, 16), int(seat, 16), int(since, 16))
    return None


def holder(stamp: Stamp, loads: Iterable[Load]) -> int | None:
    """The seat to which a message with this stamp goes: its minter, else who adopts, else None.

    The minter as long as it lives, draining or not; after it, the head of its slot.
    """
    rows = list(loads)
    for load in rows:
        is_minter = (load.slot, load.seat, load.since_us) == (
            stamp.slot,
            stamp.seat,
            stamp.since_us,
        )
        if is_minter and load.standing is not Standing.EMPTY:
            return load.seat
    slot = _slots(rows).get(stamp.slot)
    adopts = slot is not None and slot.head.standing is not Standing.STARTING
    return slot.head.seat if slot is not None and adopts else None


def _check(words: str) -> str:
    return blake2b(words.encode(), digest_size=2, person=b"fc-stamp").hexdigest()
