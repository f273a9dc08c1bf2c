"""The journal of one call: what another process needs to go on with it. Pure.

A live call writes one at every turn, always whole, never as a list of changes: whoever finds the file
of a worker that was killed has all there is. It is JSON by msgspec. The parts that only one room
understands stand in it as that room's own JSON (`brain`, `transcript`); the rest is typed here.

A file's name says whose it is and who keeps it, so that a directory can be understood without opening
anything, and a call be taken over by one rename:

    calls/<key_of(carrier, run_id)>/<call id>.<life>        life = <slot>-<pid>-<token>

It holds what people said. It is never logged, nor is any part of it but the call's id.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from flowcatd.errors import FlowcatdError
from flowcatd.record import TEXT_MAX, AudioSeconds, Files, Identity, LedgerState, Turns
from flowcatd.services import Usage

VERSION = 1
"""Raised when an older reader would misread it; there is no reading of other versions."""

PERIOD_SECONDS = 5.0
"""How old a journal of a quiet call may become before it is written again."""

SPARING_PERIODS = 4
"""How many of these a worker that is late for its audio makes one."""

BAD = ".bad"
"""The end of a name that was moved aside, because nobody could read the file."""

NOTHING = msgspec.Raw(b"null")
"""A part that the call does not have."""

_NAME = re.compile(r"([0-9]{8}T[0-9]{6}Z-[0-9a-z]{8,32})\.([0-9]+-[0-9]+-[0-9a-z]{4,32})")


class JournalError(FlowcatdError):
    """This is no journal that we can read."""


class Media(msgspec.Struct, frozen=True, kw_only=True):
    """The wire, and what was being heard on it."""

    encoding: str
    rate_hz: int
    at_ms: int = 0
    """The call's media time."""
    heard: list[tuple[str, int, int]] = []
    """The agent's lines under way as far as they were heard: words, start and end in ms."""


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """One call at one moment."""

    journal: int = VERSION
    identity: Identity
    written_at_utc: datetime
    session: dict[str, str]
    """What the agent's templates read."""
    ledger: LedgerState
    media: Media
    variables: dict[str, str] = {}
    """What has been collected, as the record would say it."""
    brain: msgspec.Raw = NOTHING
    """The brain's snapshot; null for the echo."""
    transcript: msgspec.Raw = NOTHING
    """A list of `processors/transcript.Entry`; null when none is kept."""
    leg: msgspec.Raw = NOTHING
    """Of a call over SIP: what `transports/sip_leg.py` needs to go on; null elsewhere. It holds keys."""

    @property
    def carrier_call_id(self) -> str:
        """The carrier's own name for the call; empty where it has none."""
        return self.ledger.carrier_call_id


class Name(NamedTuple):
    """A journal file's name, understood."""

    call_id: str
    life: str

    def __str__(self) -> str:
        return f"{self.call_id}.{self.life}"


def encode(journal: Journal) -> bytes:
    """The file."""
    return msgspec.json.encode(journal)


def decode(data: bytes) -> Journal:
    """A file's meaning; JournalError, which repeats nothing of it, for garbage and other versions."""
    try:
        journal = msgspec.json.decode(data, type=Journal)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise JournalError("not a journal, or of another version") from error
    if journal.journal != VERSION or journal.written_at_utc.tzinfo is None:
        raise JournalError("not a journal, or of another version")
    if journal.ledger.started_at_utc.tzinfo is None:
        raise JournalError("not a journal, or of another version")
    return journal


def key_of(carrier: str, run_id: str) -> str:
    """The directory of the calls that may come back under this identity."""
    return hashlib.sha256(f"{carrier}\n{run_id}".encode(errors="replace")).hexdigest()[:32]


def parse_name(name: str) -> Name | None:
    """Whose file this is; None for one that is not a journal."""
    found = _NAME.fullmatch(name)
    return Name(found[1], found[2]) if found else None


def may_resume(journal: Journal, identity: Identity, now_utc: datetime, patience: float) -> bool:
    """Whether a connection with this identity, call id apart, is this call coming back in time.

    `patience` is calls.resume_seconds; 0 never. A quiet call's journal may have been that old when its
    worker died. The carrier's call id is compared by `is_same_call`,
    once the carrier has said it.
    """
    theirs = journal.identity
    age = (now_utc - journal.written_at_utc).total_seconds()
    return (
        patience > 0
        and age <= patience + SPARING_PERIODS * PERIOD_SECONDS
        and (theirs.carrier, theirs.run_id, theirs.agent)
        == (identity.carrier, identity.run_id, identity.agent)
    )


def is_same_call(journal: Journal, carrier_call_id: str) -> bool:
    """Whether the carrier's own name for the call is the same; a plain socket has none."""
    return journal.carrier_call_id == carrier_call_id[:TEXT_MAX]


def unreadable(call_id: str) -> Journal:
    """What is known of a call whose journal nobody can read: when it began, and that it was lost."""
    stamp = call_id.partition("-")[0]
    try:
        at_utc = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        at_utc = datetime(1970, 1, 1, tzinfo=UTC)
    identity = Identity(call_id=call_id, carrier="", agent="", worker_slot=-1)
    blank = LedgerState(
        started_at_utc=at_utc,
        elapsed=0.0,
        turns=Turns(),
        audio_seconds=AudioSeconds(),
        usage=Usage(),
        files=Files(),
    )
    return Journal(
        identity=identity,
        written_at_utc=at_utc,
        session={},
        ledger=blank,
        media=Media(encoding="", rate_hz=0),
    )
