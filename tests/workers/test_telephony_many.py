"""Calls of every kind, in whatever order things happen to them: afterwards nothing of any is left."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowcatd.errors import FlowcatdError
from flowcatd.options import Calls
from flowcatd.record import Reason
from flowcatd.sip.agent_event import Connected
from tests.scenarios.sip_phone import SipPhone, Talk, sip_phone
from tests.workers.on_loop import until
from tests.workers.sip_worker import Setting, SipWorker, sip_worker, trunk
from workers.dialling import Wish

NUMBER = "+4930123456"
KINDS = (
    *("call", "call", "hang up", "hold", "resume", "refer", "replace", "place", "pause", "pause"),
    *("target rings", "target answers", "target takes", "target hangs up", "end", "busy", "key"),
)
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 7)), min_size=3, max_size=14)


class Chaos:
    """One worker, one who calls, one who is called."""

    def __init__(self, worker: SipWorker, phone: SipPhone, target: SipPhone) -> None:
        self.worker, self.phone, self.target = worker, phone, target

    def talk(self, phone: SipPhone, nth: int, *, is_up: bool = True) -> Talk | None:
        """One of the phone's calls that are not over."""
        found = [
            each
            for each in phone.talks.values()
            if each.ended is None and (each.has(Connected) or not is_up)
        ]
        return found[nth % len(found)] if found else None

    async def step(self, kind: str, nth: int) -> None:
        """One thing happens, if it can."""
        phone, target, worker = self.phone, self.target, self.worker
        mine, theirs = self.talk(phone, nth), self.talk(target, nth, is_up=False)
        match kind:
            case "call":
                phone.dial(f"sip:x@127.0.0.1:{worker.port}")
            case "place":
                await worker.sip.dialling.place(Wish(NUMBER))
            case "pause":
                await asyncio.sleep(0.01 * nth)
            case "target rings" | "target answers":
                target.answers, target.status = kind == "target answers", 0
            case "busy":
                target.status = 486
            case "end":
                self.end(nth)
            case "target takes" if theirs is not None and not theirs.has(Connected):
                target.answer(theirs)
            case "target hangs up" if theirs is not None:
                target.hang_up(theirs)
            case _ if mine is not None:
                self.change(kind, mine)

    def end(self, nth: int) -> None:
        """The worker ends one of its calls, in one of two ways."""
        lines = self.worker.table.lines(0.0)
        found = self.worker.table.find(lines[nth % len(lines)].call_id) if lines else None
        if found is not None and nth % 2:
            found.fail(FlowcatdError("by chance"))
        elif found is not None:
            found.say_goodbye("")

    def change(self, kind: str, talk: Talk) -> None:
        """Something within a call."""
        phone = self.phone
        match kind:
            case "hang up":
                phone.hang_up(talk)
            case "hold" | "resume":
                phone.hold(talk, held=kind == "hold")
            case "refer":
                phone.refer(talk, f"sip:{NUMBER}@example.net")
            case "key":
                phone.inform(talk, "5")
            case "replace":
                dialog = phone.agent._desk.call(talk.number).dialog
                assert dialog is not None
                key = dialog.key
                text = f"{key.call_id};to-tag={key.remote_tag};from-tag={key.local_tag}"
                phone.dial(f"sip:x@127.0.0.1:{self.worker.port}", replaces=text)


async def live(steps: list[tuple[str, int]], directory: Path) -> None:
    """A worker's life with these steps."""
    calls = Calls(ring_seconds=1.0, silence_seconds=3.0, end_seconds=2.0)
    async with sip_phone() as phone, sip_phone() as target:
        setting = Setting(trunks=[trunk(peers=[target.port])], most_calls=4, calls=calls, pairs=8)
        async with sip_worker(directory, setting) as worker:
            chaos = Chaos(worker, phone, target)
            for kind, nth in steps:
                # A phone may not do everything at any time, and a worker may have no room.
                with contextlib.suppress(FlowcatdError):
                    await chaos.step(kind, nth)
                    await asyncio.sleep(0)
            target.answers, target.status = False, 486
            await until(lambda: not _unanswered(phone), 5.0)
            for each in (phone, target):
                for talk in list(each.talks.values()):
                    if talk.ended is None:
                        each.hang_up(talk)
            worker.table.end_all(Reason.DRAINED)
            await worker.empty(within=10.0)
            assert sorted(worker.told.begun) == sorted(worker.told.over)
            for _, remain in worker.ended:
                assert remain is not None
                assert remain.is_released()


def _unanswered(phone: SipPhone) -> bool:
    return any(each.ended is None and not each.has(Connected) for each in phone.talks.values())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_nothing_is_left_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """Ports, places, quotas, tasks, beats, calls of the user agent: all are as at the start."""
    with tempfile.TemporaryDirectory(prefix="fc-") as directory:
        asyncio.run(live(steps, Path(directory)))
