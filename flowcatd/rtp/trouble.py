"""The one error of this room: a packet that is not what its protocol says.

There is no answer to a bad datagram but dropping it, so the error carries only what was wrong.
`Stream` catches it and counts; nobody above sees one. It repeats lengths and types, never payload.
"""

from __future__ import annotations

from flowcatd.errors import PeerError


class RtpError(PeerError):
    """An RTP or RTCP packet, or a payload in one, breaks its format; the answer is to drop it."""
