"""Offer and answer (RFC 3264, RFC 6337): what both ends of a call agree to do with one audio stream.

    state      what it means                                        how it is left
    SETTLED    nobody's offer is open; `session` is what holds      `offer`, `receive_offer`
    OFFERED    ours is open                                         `receive_answer`, `withdraw`

`receive_offer` offers and answers in one step, so theirs is never open. Nothing changes when it, or
`receive_answer`, raises: what was agreed holds on. A provisional answer (183 without 100rel) gives a
session and leaves the offer open, because the final answer need not be the same.

What stays the same through a call: our o= but for its version, which grows by one whenever the text
differs from our last and never otherwise (§8); the number and order of m= lines; what a payload type
stands for (§8.3.2), whoever used it first; our keys; the codec, as long as it is on offer.
Of several audio streams the first usable one is taken; all others, and what is no audio, get port 0.

Hold is ours and theirs apart (RFC 6337 §5.3): we offer what *we* want, whatever they hold, and answer
theirs flipped, cut by what we want. Where the descriptions are at odds with RFC 3264 but their
meaning is plain (a direction that was not offered, AVP for AVPF), the common part is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto

import msgspec

from flowcatd.errors import LocalError
from flowcatd.sip import answer, build, reach
from flowcatd.sip.attribute import Direction
from flowcatd.sip.sdp import Description, Origin, parse
from flowcatd.sip.session import Capabilities, Local, Session
from flowcatd.sip.trouble import SipError


class State(Enum):
    """Whose move it is."""

    SETTLED = auto()
    OFFERED = auto()
