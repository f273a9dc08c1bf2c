"""What went to and fro in one call, for `flowcatd ladder`: bounded, and nothing private in it.

A step is a direction, a time and a method or status with its CSeq. No address, number or body is ever
noted, so a ladder may be shown, logged and kept. The first steps of a call say most, and so do the
last: when there are too many, those in the middle go, and how many went is counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from flowcatd.sip.message import Message, Request, Response

FIRST_MAX = 32
"""A call's beginning with challenges, provisional answers and PRACKs fits twice."""
LAST_MAX = 96
"""The rest of it: an hour of session refreshes both ways, and the end."""


@dataclass(frozen=True, slots=True)
class Step:
    """One message."""

    now: float
    is_ours: bool
    """Whether we sent it."""
    what: str
    """`INVITE` or `200 INVITE`."""
    cseq: int
    has_body: bool

    def __str__(self) -> str:
        arrow = "→" if self.is_ours else "←"
        return f"{self.now:.3f} {arrow} {self.what} {self.cseq}{' +body' if self.has_body else ''}"


class Ladder:
    """The steps of one call."""

    def __init__(self) -> None:
        self.dropped = 0
        """Steps from the middle that are gone."""
        self._first: list[Step] = []
        self._last: deque[Step] = deque(maxlen=LAST_MAX)

    def note(self, message: Message, now: float, *, is_ours: bool) -> None:
        """One more message."""
        step = Step(now, is_ours, _word(message), message.cseq.number, bool(message.body))
        if len(self._first) < FIRST_MAX:
            self._first.append(step)
            return
        if len(self._last) == LAST_MAX:
            self.dropped += 1
        self._last.append(step)

    def __iter__(self) -> Iterator[Step]:
        """In order of time."""
        yield from self._first
        yield from self._last

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._first) + len(self._last)


def _word(message: Message) -> str:
    method = message.cseq.method if len(message.cseq.method) <= 16 else "?"
    if isinstance(message, Response):
        return f"{message.status} {method}"
    assert isinstance(message, Request)
    return method
