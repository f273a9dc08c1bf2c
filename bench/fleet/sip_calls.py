"""Short calls by SIP and RTP for the soak: each says its frames, hears them again, and hangs up.

Between the two lies a jitter buffer, which is free to bring its delay nearer to its target: it takes a period
out of a piece, or puts one in, and afterwards nothing lies where it lay. So a frame has come back when
PROOF bytes of it are found anywhere in what was heard. A call is right when it heard at least ALIKE of its
frames (a splice may cost one, and a packet that this machine was late with another), no frame of
anybody else's, and its BYE was answered 200.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import uvloop

from bench.fleet.sip_far_ends import SipFarEnds, sip_far_ends
from bench.peers.rtp_load import PACKET_SECONDS
from bench.peers.sip_caller import NotAnsweredError

ALIKE = 8
"""Of the ten frames of a call."""
PROOF = 25
"""A sixth of a frame; it repeats itself every five bytes."""
BACK_SECONDS = 0.5
"""After the last was said, so long until they must have come back."""
OK = 200
_WORD = 5
"""Bytes of which a stamped frame is made, over and over."""


@dataclass(slots=True)
class Met:
    """What the callers met."""

    wrong: list[str] = field(default_factory=list)
    """A call each, and why."""
    busy: int = 0
    """How often there was no room, and the caller called again."""


async def one_call(ends: SipFarEnds, said: Sequence[bytes]) -> str:
    """What was not as it must be; nothing is right."""
    heard: list[bytes] = []
    own, all_back = set(said), asyncio.Event()

    def hear(frame: bytes) -> None:
        heard.append(frame)
        if own.issubset(heard):
            all_back.set()

    phone = await ends.ring(hear)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number, frame in enumerate(said, 1):
        ends.say(phone, frame)
        await asyncio.sleep(begun + number * PACKET_SECONDS - loop.time())
    with suppress(TimeoutError):
        async with asyncio.timeout(BACK_SECONDS):
            await all_back.wait()
    return fault(said, heard, await ends.part(phone))


def fault(said: Sequence[bytes], heard: Sequence[bytes], is_over: int) -> str:
    """What was not as it must be of a call that heard this, and whose BYE got this status."""
    sound, words = b"".join(heard), {word_of(frame) for frame in said}
    back = sum(frame[:PROOF] in sound for frame in said)
    is_strange = any(word_of(frame) not in words for frame in heard if word_of(frame))
    checks = {
        f"heard {back} of its frames, {len(heard)} in all": back < min(ALIKE, len(said)),
        "heard somebody else": is_strange,
        f"its BYE was answered {is_over}": is_over != OK,
    }
    return ", ".join(what for what, is_wrong in checks.items() if is_wrong)


def word_of(frame: bytes) -> bytes:
    """What a stamped frame says over and over, wherever it begins; nothing for any other sound.

    Concealment repeats what it heard, so it may say the same word from another letter on.
    """
    word = frame[:_WORD]
    is_stamped = frame == word * (len(frame) // _WORD) and len(set(word)) > 1
    return min(word[at:] + word[:at] for at in range(_WORD)) if is_stamped else b""


async def sip_calls(
    port: int, said: Sequence[Sequence[bytes]], at_once: int, told: Callable[[int], None]
) -> Met:
    """A call for each of `said`, so many at once.

    Each caller has ports of its own: the kernel spreads SIP over the workers by address pair.
    """
    numbers = iter(range(len(said)))
    met = Met()

    async def caller() -> None:
        async with sip_far_ends(port) as ends:
            for number in numbers:
                try:
                    why = await one_call(ends, said[number])
                except NotAnsweredError as error:
                    why = str(error)
                met.wrong += [why] if why else []
                told(number)
            met.busy += ends.refusals.busy

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return met


def run(
    port: int, said: Sequence[Sequence[bytes]], at_once: int, told: Callable[[int], None]
) -> Met:
    """The same on a loop of its own."""
    return uvloop.run(sip_calls(port, said, at_once, told))
