"""The four transaction machines of RFC 3261 §17, each one table; RFC 6026 is in them from the start.

  INVITE client      CALLING → PROCEEDING → COMPLETED (ACK sent) or ACCEPTED (2xx) → TERMINATED
  client             TRYING → PROCEEDING → COMPLETED → TERMINATED
  INVITE server      PROCEEDING → COMPLETED → CONFIRMED (ACK came), or ACCEPTED (2xx) → TERMINATED
  server             TRYING → PROCEEDING → COMPLETED → TERMINATED

A row is (state, what happened) → (next state, what to do, in order). What has no row is ignored and
counted: late provisional answers, strays, second thoughts of our own user. Timers are what happens,
too; which of them run is said by the doings. Leaving a state for another stops all of its timers but
those of `KEPT`, entering the row's doings starts the next ones.

Two rows are not the RFC's. A client INVITE that hears nothing for Timer C cancels itself and ends
64*T1 later (§9.1), and a server transaction that our own user never answers ends when its peer has
given up (Timer F of the other side), so that nothing stays for ever.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class State(Enum):
    """Where a transaction stands."""

    CALLING = auto()
    """An INVITE is sent, nothing has come."""
    TRYING = auto()
    """A request is sent or has come, nothing has been answered."""
    PROCEEDING = auto()
    """A provisional answer came or was sent; a server INVITE begins here."""
    COMPLETED = auto()
    """The final answer is there; repetitions are answered alike."""
    CONFIRMED = auto()
    """The ACK came; its repetitions are swallowed."""
    ACCEPTED = auto()
    """A 2xx to an INVITE came or was sent; the user handles the rest (RFC 6026)."""
    TERMINATED = auto()
    """Forgotten."""


class Turn(Enum):
    """What happens to a transaction."""

    PROVISIONAL = auto()
    """A 1xx came, or our user sends one."""
    SUCCESS = auto()
    """The same with a 2xx."""
    FAILURE = auto()
    """The same with 300 to 699."""
    REQUEST = auto()
    """The same request came again."""
    ACK = auto()
    ERROR = auto()
    """The transport cannot send."""
    CANCEL = auto()
    """Our user takes an INVITE back."""
    TIMER_A = auto()
    """Repeat the INVITE."""
    TIMER_B = auto()
    """Give up waiting for any answer to it."""
    TIMER_C = auto()
    """It rang too long."""
    TIMER_D = auto()
    """No more repetitions of a failure are expected."""
    TIMER_E = auto()
    """Repeat the request."""
    TIMER_F = auto()
    """Give up waiting for its final answer; at the server: the other side has."""
    TIMER_G = auto()
    """Repeat the failure."""
    TIMER_H = auto()
    """Give up waiting for the ACK."""
    TIMER_I = auto()
    """No more repetitions of the ACK are expected."""
    TIMER_J = auto()
    """No more repetitions of the request are expected."""
    TIMER_K = auto()
    """No more repetitions of the answer are expected."""
    TIMER_L = auto()
    """No more repetitions of an accepted INVITE are expected."""
    TIMER_M = auto()
    """No more 2xx, of this or another branch of a fork, are expected."""
    TIMER_TRYING = auto()
    """Our user takes his time: 100 (§17.2.1; for other requests than INVITE RFC 4320 §4.1)."""
    TIMER_GIVEN_UP = auto()
    """64*T1 after a CANCEL."""


class Do(Enum):
    """What a row has done."""

    SEND = auto()
    """The message in hand; kept for repetitions."""
    REPEAT = auto()
    """The message kept, if there is one."""
    TRYING = auto()
    """A 100 of our own."""
    ACKNOWLEDGE = auto()
    CANCEL = auto()
    TELL = auto()
    """The user gets the message."""
    TELL_TIMEOUT = auto()
    TELL_ERROR = auto()
    ARM_A = auto()
    ARM_B = auto()
    ARM_C = auto()
    ARM_D = auto()
    ARM_E = auto()
    ARM_E_T2 = auto()
    ARM_F = auto()
    ARM_G = auto()
    ARM_H = auto()
    ARM_I = auto()
    ARM_J = auto()
    ARM_K = auto()
    ARM_L = auto()
    ARM_M = auto()
    ARM_TRYING = auto()
    ARM_LATE = auto()
    ARM_GIVEN_UP = auto()


class Kind(Enum):
    """Which of the four."""

    INVITE_CLIENT = auto()
    CLIENT = auto()
    INVITE_SERVER = auto()
    SERVER = auto()

    @property
    def is_client(self) -> bool:
        """Whether we sent the request."""
        return self in {Kind.INVITE_CLIENT, Kind.CLIENT}


Row = tuple[State, tuple[Do, ...]]
Table = dict[tuple[State, Turn], Row]

_S, _T, _D = State, Turn, Do

BEGIN: Final[dict[Kind, Row]] = {
    Kind.INVITE_CLIENT: (_S.CALLING, (_D.SEND, _D.ARM_A, _D.ARM_B)),
    Kind.CLIENT: (_S.TRYING, (_D.SEND, _D.ARM_E, _D.ARM_F)),
    Kind.INVITE_SERVER: (_S.PROCEEDING, (_D.TELL, _D.ARM_TRYING)),
    Kind.SERVER: (_S.TRYING, (_D.TELL, _D.ARM_F, _D.ARM_LATE)),
}

INVITE_CLIENT: Final[Table] = {
    (_S.CALLING, _T.TIMER_A): (_S.CALLING, (_D.REPEAT, _D.ARM_A)),
    (_S.CALLING, _T.TIMER_B): (_S.TERMINATED, (_D.TELL_TIMEOUT,)),
    (_S.CALLING, _T.ERROR): (_S.TERMINATED, (_D.TELL_ERROR,)),
    (_S.CALLING, _T.PROVISIONAL): (_S.PROCEEDING, (_D.TELL, _D.ARM_C)),
    (_S.CALLING, _T.SUCCESS): (_S.ACCEPTED, (_D.TELL, _D.ARM_M)),
    (_S.CALLING, _T.FAILURE): (_S.COMPLETED, (_D.ACKNOWLEDGE, _D.TELL, _D.ARM_D)),
    (_S.PROCEEDING, _T.PROVISIONAL): (_S.PROCEEDING, (_D.TELL, _D.ARM_C)),
    (_S.PROCEEDING, _T.SUCCESS): (_S.ACCEPTED, (_D.TELL, _D.ARM_M)),
    (_S.PROCEEDING, _T.FAILURE): (_S.COMPLETED, (_D.ACKNOWLEDGE, _D.TELL, _D.ARM_D)),
    (_S.PROCEEDING, _T.ERROR): (_S.TERMINATED, (_D.TELL_ERROR,)),
    (_S.PROCEEDING, _T.TIMER_C): (_S.PROCEEDING, (_D.CANCEL, _D.ARM_GIVEN_UP)),
    (_S.PROCEEDING, _T.CANCEL): (_S.PROCEEDING, (_D.CANCEL, _D.ARM_GIVEN_UP)),
    (_S.PROCEEDING, _T.TIMER_GIVEN_UP): (_S.TERMINATED, (_D.TELL_TIMEOUT,)),
    (_S.COMPLETED, _T.FAILURE): (_S.COMPLETED, (_D.ACKNOWLEDGE,)),
    (_S.COMPLETED, _T.ERROR): (_S.TERMINATED, (_D.TELL_ERROR,)),
    (_S.COMPLETED, _T.TIMER_D): (_S.TERMINATED, ()),
    (_S.ACCEPTED, _T.SUCCESS): (_S.ACCEPTED, (_D.TELL,)),
    (_S.ACCEPTED, _T.TIMER_M): (_S.TERMINATED, ()),
}

CLIENT: Final[Table] = {
    (_S.TRYING, _T.TIMER_E): (_S.TRYING, (_D.REPEAT, _D.ARM_E)),
    (_S.TRYING, _T.TIMER_F): (_S.TERMINATED, (_D.TELL_TIMEOUT,)),
    (_S.TRYING, _T.ERROR): (_S.TERMINATED, (_D.TELL_ERROR,)),
    (_S.TRYING, _T.PROVISIONAL): (_S.PROCEEDING, (_D.TELL,)),
    (_S.TRYING, _T.SUCCESS): (_S.COMPLETED, (_D.TELL, _D.ARM_K)),
    (_S.TRYING, _T.FAILURE): (_S.COMPLETED, (_D.TELL, _D.ARM_K)),
    (_S.PROCEEDING, _T.TIMER_E): (_S.PROCEEDING, (_D.REPEAT, _D.ARM_E_T2)),
    (_S.PROCEEDING, _T.TIMER_F): (_S.TERMINATED, (_D.TELL_TIMEOUT,)),
    (_S.PROCEEDING, _T.ERROR): (_S.TERMINATED, (_D.TELL_ERROR,)),
    (_S.PROCEEDING, _T.PROVISIONAL): (_S.PROCEEDING, (_D.TELL,)),
    (_S.PROCEEDING, _T.SUCCESS): (_S.COMPLETED, (_D.TELL, _D.ARM_K)),
    (_S.PROCEEDING, _T.FAILURE): (_S.COMPLETED, (_D.TELL, _D.ARM_K)),
    (_S.COMPLETED, _T.TIMER_K): (_S.TERMINATED, ()),
}

INVITE_SERVER: Final[Table] = {
    (_S.PROCEEDING, _T.REQUEST): (_S.PROCEEDING, (_D.REPEAT,)),
    (_S.PROCEEDING, _T.TIMER_TRYING): (_S.PROCEEDING, (_D.TRYING,)),
    (_S.PROCEEDING, _T.PROVISIONAL): (_S.PROCEEDING, (_D.SEND,)),
    (_S.PROCEEDING, _T.SUCCESS): (_S.ACCEPTED, (_D.SEND, _D.ARM_L)),
    (_S.PROCEEDING, _T.FAILURE): (_S.COMPLETED, (_D.SEND, _D.ARM_G, _D.ARM_H)),
    (_S.PROCEEDING, _T.ERROR): (_S.PROCEEDING, (_D.TELL_ERROR,)),
    (_S.COMPLETED, _T.REQUEST): (_S.COMPLETED, (_D.REPEAT,)),
    (_S.COMPLETED, _T.TIMER_G): (_S.COMPLETED, (_D.REPEAT, _D.ARM_G)),
    (_S.COMPLETED, _T.TIMER_H): (_S.TERMINATED, (_D.TELL_TIMEOUT,)),
    (_S.COMPLETED, _T.ACK): (_S.CONFIRMED, (_D.ARM_I,)),
    (_S.COMPLETED, _T.ERROR): (_S.COMPLETED, (_D.TELL_ERROR,)),
    (_S.CONFIRMED, _T.ACK): (_S.CONFIRMED, ()),
    (_S.CONFIRMED, _T.REQUEST): (_S.CONFIRMED, ()),
    (_S.CONFIRMED, _T.TIMER_I): (_S.TERMINATED, ()),
    (_S.ACCEPTED, _T.REQUEST): (_S.ACCEPTED, ()),
    (_S.ACCEPTED, _T.SUCCESS): (_S.ACCEPTED, (_D.SEND,)),
    (_S.ACCEPTED, _T.ACK): (_S.ACCEPTED, (_D.TELL,)),
    (_S.ACCEPTED, _T.ERROR): (_S.ACCEPTED, (_D.TELL_ERROR,)),
    (_S.ACCEPTED, _T.TIMER_L): (_S.TERMINATED, ()),
}

SERVER: Final[Table] = {
    (_S.TRYING, _T.REQUEST): (_S.TRYING, ()),
    (_S.TRYING, _T.TIMER_TRYING): (_S.PROCEEDING, (_D.TRYING,)),
    (_S.TRYING, _T.PROVISIONAL): (_S.PROCEEDING, (_D.SEND,)),
    (_S.TRYING, _T.SUCCESS): (_S.COMPLETED, (_D.SEND, _D.ARM_J)),
    (_S.TRYING, _T.FAILURE): (_S.COMPLETED, (_D.SEND, _D.ARM_J)),
    (_S.TRYING, _T.ERROR): (_S.TERMINATED, (_D.TELL_ERROR,)),
    (_S.TRYING, _T.TIMER_F): (_S.TERMINATED, (_D.TELL_TIMEOUT,)),
    (_S.PROCEEDING, _T.REQUEST): (_S.PROCEEDING, (_D.REPEAT,)),
    (_S.PROCEEDING, _T.PROVISIONAL): (_S.PROCEEDING, (_D.SEND,)),
    (_S.PROCEEDING, _T.SUCCESS): (_S.COMPLETED, (_D.SEND, _D.ARM_J)),
    (_S.PROCEEDING, _T.FAILURE): (_S.COMPLETED, (_D.SEND, _D.ARM_J)),
    (_S.PROCEEDING, _T.ERROR): (_S.TERMINATED, (_D.TELL_ERROR,)),
    (_S.PROCEEDING, _T.TIMER_F): (_S.TERMINATED, (_D.TELL_TIMEOUT,)),
    (_S.COMPLETED, _T.REQUEST): (_S.COMPLETED, (_D.REPEAT,)),
    (_S.COMPLETED, _T.ERROR): (_S.TERMINATED, (_D.TELL_ERROR,)),
    (_S.COMPLETED, _T.TIMER_J): (_S.TERMINATED, ()),
}

TABLES: Final[dict[Kind, Table]] = {
    Kind.INVITE_CLIENT: INVITE_CLIENT,
    Kind.CLIENT: CLIENT,
    Kind.INVITE_SERVER: INVITE_SERVER,
    Kind.SERVER: SERVER,
}

KEPT: Final = frozenset({Turn.TIMER_E, Turn.TIMER_F, Turn.TIMER_GIVEN_UP})
"""Timers that survive the step to PROCEEDING: a provisional answer ends no request but an INVITE."""
FINISHED: Final = frozenset({State.COMPLETED, State.CONFIRMED, State.ACCEPTED})
"""States that only wait for repetitions: the first to go when there are too many transactions."""
