"""Mutated messages of real calls, in and out of order, into a user agent that lives on.

    python -m tests.fuzz.sip_agent --count 100000 --seconds 60 --seed 7

Two user agents talk; every message that one sends may reach the other changed, twice, late, or not at
all, and the users wish at random, each call on terms of its own. Now and then the process of one side
dies, and another takes its calls up from their snapshots; or a connection is lost, as every second seed
talks over TCP. Nothing may be raised, nothing may stay when all time has passed. The seed is printed;
the same seed gives the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from dataclasses import replace
from random import Random

import msgspec

from flowcatd.errors import CapacityError, LocalError
from flowcatd.sip.adopt import CallSnapshot
from flowcatd.sip.agent import UserAgent
from flowcatd.sip.agent_event import CallEnded, CallTerms, Cause, Terms
from flowcatd.sip.event import Hop
from flowcatd.sip.session import Capabilities, Local
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import parse_uri
from tests.flowcatd.sip.pair import Side, World
from tests.fuzz.sip import mutate

TERMS = Terms(session_seconds=90, ring_seconds=20.0, calls=50)


def terms_of(random: Random) -> CallTerms | None:
    """Terms of one call, none of its own now and then."""
    if random.random() < 0.3:
        return None
    return CallTerms(
        session_seconds=random.choice((0, 90, 120)),
        session_least=random.choice((90, 100)),
        refresher=random.choice(("auto", "us", "them")),
        reliable=random.choice(("off", "supported", "required")),
        timer=random.choice(("off", "accept", "ask")),
    )


def die(world: World, side: Side) -> None:
    """The process of a side is killed; another takes up what was written down."""
    numbers = list(side.agent._desk.calls)
    kept = [msgspec.json.encode(each) for each in map(side.agent.snapshot, numbers) if each]
    side.agent = UserAgent(side.mint, TERMS)
    side.calls.clear()
    for text in kept:
        snapshot = msgspec.json.decode(text, type=CallSnapshot)
        local = Local(side.hop.host, next(side.ports))
        side.calls.append(side.agent.restore(snapshot, Capabilities(), local, world.now))
    world.flush()


def lose(world: World, side: Side) -> None:
    """Nothing can be sent to the other side any more; over TCP it has another connection from then on."""
    other = world.other(side)
    lost = other.hop
    if lost.is_reliable:
        other.hop = replace(lost, connection=lost.connection + 1)
    side.do("receive_failure", lost)


def wish(world: World, side: Side, random: Random) -> None:
    """Something a user may want, whether it fits or not."""
    if not side.calls or random.random() < 0.2:
        side.call(f"sip:x@{world.other(side).hop.host}", terms=terms_of(random))
        return
    if random.random() < 0.03:
        die(world, side)
        return
    if random.random() < 0.03:
        lose(world, side)
        return
    number = random.choice(side.calls[-3:])
    verbs = {
        "hold": lambda: side.do("hold", number, held=random.random() < 0.5),
        "hang_up": lambda: side.do("hang_up", number, cause=Cause("Q.850", 16)),
        "refer": lambda: side.do("refer", number, parse_uri("sip:c@192.0.2.3")),
        "reject": lambda: side.do("reject", number, 486),
        "early": lambda: side.agent.ring(
            number, world.now, 183, side.negotiation(), terms_of(random)
        ),
        "answer": lambda: side.do("answer", number, side.negotiation(), terms=terms_of(random)),
    }
    verbs[random.choice(list(verbs))]()


def spoil(world: World, random: Random) -> None:
    """A message of the last ones, changed, to either side."""
    sender = random.choice((world.alice, world.bob))
    if not sender.sent:
        return
    original = bytes(random.choice(sender.sent[-8:]))
    others = [bytes(each) for each in sender.sent[-8:]]
    data = mutate(original, random, others) if random.random() < 0.8 else original
    receiver = random.choice((world.alice, world.bob))
    receiver.agent.receive(data, sender.hop, world.now)
    world.flush()


def run(count: int, seconds: float, seed: int) -> tuple[int, int]:
    """How many messages were spoilt, and how many calls ended."""
    random = Random(seed)
    world = World(seed, terms=TERMS)
    if seed % 2:
        for side in (world.alice, world.bob):
            side.hop = Hop("TCP", side.hop.host, 5060, 1)
    end = time.monotonic() + seconds
    tried = ended = 0
    while tried < count and time.monotonic() < end:
        world.loss = random.choice((0.0, 0.0, 0.3))
        world.bob.answers = random.random() < 0.7
        with contextlib.suppress(LocalError, CapacityError, SipError):
            wish(world, random.choice((world.alice, world.bob)), random)
        for _ in range(5):
            spoil(world, random)
            tried += 1
        world.run(random.choice((0.01, 0.5, 5.0)))
        for side in (world.alice, world.bob):
            ended += len(side.all(CallEnded))
            side.told.clear()
            del side.sent[:-8]
            del side.calls[:-8]
    # A call without a session timer is the media watchdog's to end.
    world.loss = 1.0
    for side in (world.alice, world.bob):
        for number in list(side.agent._desk.calls):
            side.do("hang_up", number)
    world.run(4000.0)
    for side in (world.alice, world.bob):
        assert len(side.agent) == 0, f"seed {seed}: {len(side.agent)} calls of {side.name} stay"
        assert len(side.agent._desk.transactions) == 0
        assert side.agent._desk.found == {}
        assert not side.agent._desk.call_ids
        assert side.agent._desk.transactions._at == {}
        assert side.agent._desk.sent == side.agent._desk.asked == {}
        assert side.agent._desk.transactions.kept_bytes == 0
    return tried, ended


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else time.time_ns() % 1_000_000
    sys.stdout.write(f"seed {seed}\n")
    tried, ended = run(asked.count, asked.seconds, seed)
    sys.stdout.write(
        f"seed {seed}: {tried} messages, {ended} calls ended, nothing raised or left\n"
    )


if __name__ == "__main__":
    main()
