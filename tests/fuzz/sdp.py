"""Damaged session descriptions, by the million: `python -m tests.fuzz.sdp --count N --seconds S`.

Each is a body of the corpus with bytes, lines and numbers changed, offered to a call of ours, then given
as an answer to an offer of ours. Nothing may come of it but an answer that we can read ourselves, or a
SipError. It ends after `count` bodies or `seconds`, whichever comes first; the seed that it prints
makes the same run again.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

from flowcatd.sip.attribute import Fingerprint
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.sdp import parse
from flowcatd.sip.session import Capabilities, Local, Secrecy
from flowcatd.sip.trouble import SipError

CORPUS = Path(__file__).parents[1] / "corpus" / "sdp"
LOCAL = Local("192.0.2.1", 10_000, fingerprint=Fingerprint("sha-256", ":".join(["0F"] * 32)))
PIECES = (
    *(
        b"0",
        b"-1",
        b"65536",
        b"4294967296",
        b"9" * 40,
        b"\xff",
        b"\0",
        b" ",
        b"\t",
        b"=",
        b":",
        b"/",
    ),
    *(b"\r", b"\n", b"\r\n", b"a=sendonly\n", b"c=IN IP4 0.0.0.0\n", b"c=IN IP6 ::\n", b"m=audio"),
    *(b"a=rtpmap:", b"a=fmtp:", b"a=crypto:1 ", b"a=setup:actpass\n", b"|1:4", b"\xc2\x85", b"%"),
)


def damaged(body: bytes, chance: random.Random) -> bytes:
    """The body with one to five changes."""
    data = bytearray(body)
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                data[at:at] = chance.choice(PIECES)
            case 2:
                del data[at : at + chance.randrange(1, 30)]
            case 3:
                lines = bytes(data).split(b"\n")
                lines.insert(chance.randrange(len(lines)), chance.choice(lines))
                data = bytearray(b"\n".join(lines))
            case _:
                lines = bytes(data).split(b"\n")
                one, other = (chance.randrange(len(lines)) for _ in range(2))
                lines[one], lines[other] = lines[other], lines[one]
                data = bytearray(b"\n".join(lines))
    return bytes(data)


def once(body: bytes, capabilities: Capabilities) -> str:
    """What came of it: answered, agreed, or the status of the error."""
    try:
        description = parse(body)
    except SipError as error:
        return str(error.status)
    if parse(str(description)) != description:
        raise AssertionError("what was read is not what is written")
    outcome = "488 twice"
    ours = Negotiation(capabilities, LOCAL, "1", bytes)
    for attempt in (_offer, _answer):
        try:
            attempt(ours, body)
            outcome = attempt.__name__.strip("_")
        except SipError as error:
            if error.status != 488:
                raise AssertionError(f"status {error.status}") from error
    return outcome


def _offer(ours: Negotiation, body: bytes) -> None:
    answer = ours.receive_offer(body)
    if ours.receive_offer(body) != answer or not parse(answer).media:
        raise AssertionError("the same offer has another answer")


def _answer(ours: Negotiation, body: bytes) -> None:
    parse(ours.offer())
    try:
        ours.receive_answer(body)
    except SipError:
        ours.withdraw()
        raise


def main(arguments: list[str]) -> int:
    """Run; 0 when nothing came up. What does comes up as its traceback, behind the seed and the body."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=10_000)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--seed", type=int, default=None)
    chosen = options.parse_args(arguments)
    seed = chosen.seed if chosen.seed is not None else random.randrange(2**32)
    sys.stdout.write(f"seed {seed}\n")
    chance = random.Random(seed)
    bodies = [path.read_bytes() for path in sorted(CORPUS.glob("*.sdp"))]
    outcomes: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(chosen.count):
        if time.monotonic() - began > chosen.seconds:
            break
        body = damaged(chance.choice(bodies), chance)
        secrecy = chance.choice(list(Secrecy))
        try:
            outcomes[once(body, Capabilities(secrecy=secrecy))] += 1
        except BaseException:
            sys.stdout.write(f"body {number}: {body!r}\n")
            raise
    seconds = time.monotonic() - began
    told = ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items()))
    sys.stdout.write(f"{outcomes.total()} bodies in {seconds:.1f} s: {told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
