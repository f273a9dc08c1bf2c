"""The plain WebSocket: audio as binary messages, and a small JSON control protocol of our own.

For benchmarks, tests and anyone without a carrier. The stream is up as soon as the socket is; how a
sample travels stands in the address, `?encoding=mulaw&rate=8000` (these are the defaults):

    encoding   mulaw, alaw (G.711, RFC 3551 §4.5.14), pcm (signed 16-bit little-endian); mono
    rate       8000, 16000, 24000, 32000, 44100 or 48000, in Hz, the same in both directions

    direction       message                            meaning
    client → us     binary, 1 to 65536 bytes           the caller's voice; any size, also half a sample
    client → us     {"event":"dtmf","digit":"5"}       a key was pressed: 0-9 * # A-D
    client → us     {"event":"mark","name":"…"}        what we sent before that mark has been played
    client → us     {"event":"stop"}                   the caller hung up; closing the socket does too
    us → client     binary                             the agent's voice, up to a whole line at once
    us → client     {"event":"mark","name":"…"}        give this back once all before it is played
    us → client     {"event":"clear"}                  forget what is not played, its marks as well
    us → client     {"event":"flowcatd", …}            what was said and done, only for ?events=1

A client that plays nothing should still give marks back. Other events are ignored both ways.
"""

from __future__ import annotations

from flowcatd.carriers.events import Encoding, Started
from flowcatd.carriers.json_media import JsonMedia
from flowcatd.carriers.message import Slot
from flowcatd.carriers.table import Clock, Format, Row
from flowcatd.errors import CarrierError, nearest

RATES_HZ = (8000, 16000, 24000, 32000, 44100, 48000)
"""Those of which 20 ms are a whole number of samples and which telephones or browsers use."""

RAW = Row(
    name="raw",
    docs="flowcatd/carriers/raw.py",
    formats=tuple(Format(each, each, rate_hz) for each in Encoding for rate_hz in RATES_HZ),
    clock=Clock.STREAM,
    returns_cleared_marks=False,
    hello=None,
    start=None,
    media=None,
    dtmf={"event": "dtmf", "digit": Slot.DIGIT},
    mark={"event": "mark", "name": Slot.NAME},
    cleared=None,
    stop={"event": "stop"},
    send_media=None,
    send_mark={"event": "mark", "name": Slot.NAME},
    send_clear={"event": "clear"},
    send_digits=None,
)


def raw(encoding: Encoding, rate_hz: int, call_id: str = "") -> JsonMedia:
    """The core of a plain socket, which is up at once: its first event is Started."""
    return JsonMedia(RAW, Started(call_id, "raw", encoding, rate_hz))


def from_query(encoding: str | None, rate: str | None, call_id: str = "") -> JsonMedia:
    """The core for an address's query values, None where absent; CarrierError says what is allowed."""
    word = encoding if encoding is not None else "mulaw"
    if word not in list(Encoding):
        allowed = ", ".join(Encoding)
        hint = nearest(word[:20], Encoding)
        raise CarrierError(f"encoding must be one of {allowed}{hint}", 1008)
    for rate_hz in RATES_HZ:
        if (rate if rate is not None else "8000") == str(rate_hz):
            return raw(Encoding(word), rate_hz, call_id)
    raise CarrierError(f"rate must be one of {', '.join(map(str, RATES_HZ))} (Hz)", 1008)
