"""The whole error tree: whose fault it is, and what to answer.

    FlowcatdError
    ├── ConfigError      a setting is wrong; names file, key, what is allowed, the nearest known key
    ├── LocalError       we were asked for something illegal in this state: a bug of ours or a caller's
    ├── PeerError        the other side broke the protocol; carries the answer to give
    │   ├── CarrierError     a carrier's media socket; the answer is a WebSocket close code (RFC 6455 §7.4)
    │   ├── SipError         a SIP message or description (flowcatd/sip/trouble.py); carries the answer's status
    │   ├── RtpError         a media packet (flowcatd/rtp/trouble.py); it is dropped and counted
    │   └── ControlError     an operator's or worker's message; the answer is `Refused` with its code
    ├── LinkError        the network or a helper process, not the meaning
    │   ├── LinkRefused      nobody there, or not let in
    │   ├── LinkTimeout      a deadline passed
    │   └── LinkClosed       it was there, and went away
    ├── ProviderError    the provider said no; retrying the same request will not help
    └── CapacityError    admission refused; carries the seconds after which to try again

A pure room raises one kind of PeerError for anything that came from outside, and LocalError for
misuse. Errors carry values and build their text once. No secret, transcript, number or raw payload
ever stands in one: a length, a type or a few leading bytes in hex are enough.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FlowcatdError(Exception):
    """The root; never raised itself."""


class ConfigError(FlowcatdError):
    """A setting, an agent file or a provider row is wrong."""

    def __init__(self, where: str, problem: str, *, key: str = "") -> None:
        """`where` is the file (with line where known), `key` the dotted key, `problem` the sentence."""
        self.where = where
        self.key = key
        self.problem = problem
        super().__init__(f"{where}: {key}: {problem}" if key else f"{where}: {problem}")


class LocalError(FlowcatdError):
    """We were asked for something that this state does not allow."""


class PeerError(FlowcatdError):
    """The other side broke its protocol."""


class CarrierError(PeerError):
    """A carrier's media socket sent what its protocol forbids; `close_code` is the answer."""

    def __init__(self, problem: str, close_code: int) -> None:
        """`close_code` is from RFC 6455 §7.4.1: 1003 wrong type, 1007 bad payload, 1008 policy."""
        self.problem = problem
        self.close_code = close_code
        super().__init__(problem)


class ControlError(PeerError):
    """A control message that is not understood; `code` is garbage, version, size or busy."""

    def __init__(self, code: str, problem: str) -> None:
        """`problem` repeats nothing of the message but what is safe to show."""
        self.code = code
        self.problem = problem
        super().__init__(problem)


class LinkError(FlowcatdError):
    """The connection failed, whatever it was to carry."""


class LinkRefused(LinkError):  # noqa: N818 the family name stands in the base
    """Nobody answered, or we were not let in."""


class LinkTimeout(LinkError):  # noqa: N818 the family name stands in the base
    """A deadline passed."""


class LinkClosed(LinkError):  # noqa: N818 the family name stands in the base
    """The other end went away."""


class ProviderError(FlowcatdError):
    """A provider refused; the message is safe to log."""


class CapacityError(FlowcatdError):
    """No room for one more call; `retry_after` seconds is what the caller is told."""

    def __init__(self, problem: str, retry_after: int) -> None:
        """`retry_after` is in whole seconds, as Retry-After wants it."""
        self.retry_after = retry_after
        super().__init__(problem)


def nearest(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the closest known word, or an empty string when none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else ""
