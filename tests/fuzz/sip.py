"""Mutated SIP messages through parser, full parse, refusal, gate, framing and transactions.

    python -m tests.fuzz.sip --count 1000000 --seconds 600 --seed 7

Whatever comes in, nothing but SipError may come out; and what is accepted is read again from what we
write. The seed is printed, and with a failure the message; the same seed gives the same messages. The
seeds of the mutations are the torture corpora.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from random import Random

from flowcatd.sip.digest import Gate, Terms
from flowcatd.sip.event import Asked, Cancelled, Hop, Limits
from flowcatd.sip.framing import Stream, Whole
from flowcatd.sip.message import (
    Request,
    Response,
    build_response,
    check_fields,
    note_source,
    parse_message,
    refuse,
)
from flowcatd.sip.transaction import Transactions
from flowcatd.sip.trouble import SipError
from flowcatd.sip.vet import Abilities, find_objection

CORPUS = Path(__file__).parents[1] / "corpus" / "sip"
SPICE = (
    *(
        b"\r\n",
        b"\r\n\r\n",
        b"\n ",
        b" ",
        b"\t",
        b";",
        b",",
        b'"',
        b"<",
        b">",
        b"=",
        b":",
        b"\\",
        b"%",
    ),
    *(b"\0", b"\xff", b"[", b"]", b"::", b"@", b"?", b"*", b"-1", b"0", b"99999999999999999999"),
    *(
        b"SIP/2.0",
        b"INVITE",
        b"ACK",
        b"CANCEL",
        b"z9hG4bK",
        b"branch=",
        b"tag=",
        b"rport",
        b"Via: ",
    ),
    *(b"l: 0\r\n", b"Content-Length: 7\r\n", b"To: ", b"Require: ", b"Contact: *\r\n", b"self=1"),
    *(b'Authorization: Digest realm="r", ', b'username="u", nonce="n", uri="sip:a", response="0"'),
)
HOPS = (Hop("UDP", "192.0.2.1", 5060), Hop("TCP", "192.0.2.1", 5060, 1))
ABLE = Abilities(("INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER"))


def seeds() -> list[bytes]:
    """The corpus."""
    return [path.read_bytes() for path in sorted(CORPUS.rglob("*.sip"))]


def mutate(data: bytes, random: Random, others: list[bytes]) -> bytes:
    """One to six changes."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        at = random.randrange(len(changed) + 1)
        end = min(len(changed), at + random.choice((1, 2, 5, 20)))
        match random.randrange(7):
            case 0:
                changed[at:end] = b""
            case 1:
                changed[at:at] = random.choice(SPICE)
            case 2:
                changed[at:end] = random.choice(SPICE)
            case 3:
                changed[at:at] = changed[at:end] * random.choice((1, 2, 30))
            case 4:
                changed[at:end] = bytes(random.randrange(256) for _ in range(end - at))
            case 5:
                other = random.choice(others)
                start = random.randrange(len(other))
                changed[at:at] = other[start : start + 60]
            case _:
                lines = bytes(changed).split(b"\r\n")
                one, two = random.randrange(len(lines)), random.randrange(len(lines))
                lines[one], lines[two] = lines[two], lines[one]
                changed = bytearray(b"\r\n".join(lines))
    return bytes(changed)


class Target:
    """Everything that looks at a message before a call does."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.layer = Transactions(limits=Limits(transactions=200))
        terms = Terms("r", ("MD5", "SHA-256"), legacy=True)
        self.gate = Gate(terms, b"k", lambda: b"12345678", {"u": "p"}.get)
        self.now = 0.0
        self.accepted = 0

    def take(self, data: bytes) -> None:
        """One message; anything but SipError passes through."""
        self.now += 0.01
        try:
            message = parse_message(data)
        except SipError as error:
            self._must_be_readable(refuse(data, error))
            return
        self.accepted += 1
        again = parse_message(bytes(message))
        assert (again.call_id, again.cseq, again.body) == (
            message.call_id,
            message.cseq,
            message.body,
        )
        with contextlib.suppress(SipError):
            check_fields(message)
        if isinstance(message, Request):
            with contextlib.suppress(SipError):
                find_objection(message, ABLE)
            with contextlib.suppress(SipError):
                self.gate.judge(message, self.now)
            note_source(message, "192.0.2.1", 4000)
        self.carry(message)

    def carry(self, message: Request | Response) -> None:
        """Through the transactions, answered at random."""
        self.layer.receive(message, self.random.choice(HOPS), self.now)
        for event in self.layer.events():
            if isinstance(event, Asked | Cancelled) and self.random.random() < 0.7:
                status = self.random.choice((100, 180, 200, 404, 487))
                self.layer.respond(
                    event.id, build_response(event.request, status, tag="t"), self.now
                )
        due = self.layer.wake_at()
        if due is not None and due <= self.now:
            self.layer.wake(self.now)
            self.layer.events()
        for sent in self.layer.outgoing():
            parse_message(sent.data)

    def stream(self, data: bytes) -> None:
        """As a connection's bytes, in three pieces."""
        stream = Stream(opened=False)
        cut = sorted(self.random.randrange(len(data) + 1) for _ in range(2))
        with contextlib.suppress(SipError):
            for piece in (data[: cut[0]], data[cut[0] : cut[1]], data[cut[1] :]):
                stream.receive_bytes(piece, self.now)
        for event in stream.events():
            if isinstance(event, Whole):
                with contextlib.suppress(SipError):
                    parse_message(event.data)

    def _must_be_readable(self, answer: bytes | None) -> None:
        # It copies what was wrong, so reading it may fail too, but only as a message fails.
        if answer is not None:
            assert answer.startswith(b"SIP/2.0 ")
            with contextlib.suppress(SipError):
                parse_message(answer)


def run(count: int, seconds: float, seed: int) -> tuple[int, int]:
    """How many messages were tried, and how many of them accepted."""
    random = Random(seed)
    corpus = seeds()
    target = Target(random)
    end = time.monotonic() + seconds
    tried = 0
    while tried < count and time.monotonic() < end:
        data = mutate(random.choice(corpus), random, corpus)
        try:
            target.take(data)
            if tried % 10 == 0:
                target.stream(data)
        except BaseException:
            sys.stderr.write(f"seed {seed}, message {tried}: {data!r}\n")
            raise
        tried += 1
    return tried, target.accepted


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else time.time_ns() % 1_000_000
    since = time.monotonic()
    tried, accepted = run(asked.count, asked.seconds, seed)
    took = time.monotonic() - since
    sys.stdout.write(
        f"seed {seed}: {tried} messages, {accepted} accepted, {took:.1f} s, only SipError\n"
    )


if __name__ == "__main__":
    main()
