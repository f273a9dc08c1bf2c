"""Calls that come in: let in, turned away, taken over, and what is left of them: nothing."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flowcatd.record import Reason
from flowcatd.sip.agent_event import CallNumber, Texted
from flowcatd.sip.event import Hop
from flowcatd.sip.session import PCMA, Capabilities, Secrecy
from tests.scenarios.sip_phone import Manner, SipPhone, Talk, bound, sip_phone
from tests.workers.on_loop import until
from tests.workers.sip_worker import ROUTE, Setting, SipWorker, count_of, sip_worker, trunk, up
from workers.telephony import ROUNDS

if TYPE_CHECKING:
    from flowcatd.sip.dialog import Dialog


def dialog_of(phone: SipPhone, talk: Talk) -> Dialog:
    """The phone's side of a call."""
    dialog = phone.agent._desk.call(talk.number).dialog
    assert dialog is not None
    return dialog


def replaces(phone: SipPhone, talk: Talk) -> str:
    """What names a call of the phone's to the worker."""
    key = dialog_of(phone, talk).key
    return f"{key.call_id};to-tag={key.remote_tag};from-tag={key.local_tag}"


async def refusal(worker: SipWorker, phone: SipPhone, user: str = "anyone") -> int:
    """The status that a call gets, which is refused."""
    talk = await phone.call(f"sip:{user}@127.0.0.1:{worker.port}")
    assert talk.ended is not None
    return talk.ended.status


async def test_a_call_leaves_nothing(tmp_path: Path) -> None:
    """In, heard, out."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone:
        talk = await up(worker, phone)
        assert worker.live() == (1, 0)
        phone.hang_up(talk)
        await worker.empty()
        assert worker.record()["ended_by"] == "caller"
        assert worker.told.begun == worker.told.over


async def test_what_we_end_has_the_answer_to_our_bye_in_its_ladder(tmp_path: Path) -> None:
    """The record waits for it, a moment."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone:
        await up(worker, phone)
        worker.table.end_all(Reason.DRAINED)
        await worker.empty()
        assert worker.record()["sip"]["ladder"][-1].endswith("← 200 BYE 1")


async def test_an_agent_that_is_gone_refuses_its_calls_only(tmp_path: Path) -> None:
    """A route may name an agent that this worker was not started with: the next call is taken."""
    routes = '[[route]]\nnumber = "7"\nagent = "gone"\n[[route]]\nagent = "echo"\n'
    setting = Setting(trunks=[trunk(routes=routes)])
    async with sip_worker(tmp_path, setting) as worker, sip_phone() as phone:
        assert await refusal(worker, phone, "7") == 503
        await worker.empty()
        phone.hang_up(await up(worker, phone))
        await worker.empty()


async def test_who_is_full_says_when_to_come_again(tmp_path: Path) -> None:
    """503 with Retry-After, and the quota of the trunk is given back."""
    async with (
        sip_worker(tmp_path, Setting(most_calls=1)) as worker,
        sip_phone() as phone,
        sip_phone() as other,
    ):
        talk = await up(worker, phone)
        assert await refusal(worker, other) == 503
        assert any(b"\r\nRetry-After: " in each for each in other.received)
        assert worker.refused == ["full"]
        assert worker.live() == (1, 0)
        phone.hang_up(talk)
        await worker.empty()


async def test_no_port_is_no_place(tmp_path: Path) -> None:
    """Port exhaustion is a 503; the place and the quota are given back."""
    async with sip_worker(tmp_path, Setting(pairs=1)) as worker, sip_phone() as phone:
        taken = bound(port=worker.low + 1)
        assert await refusal(worker, phone) == 503
        assert worker.refused == ["full"]
        taken.close()
        await worker.empty()
        phone.hang_up(await up(worker, phone))
        await worker.empty()


async def test_an_offer_that_leaves_nothing_is_refused_and_forgotten(tmp_path: Path) -> None:
    """488; ports, place and quota are given back."""
    pcma = Manner(capabilities=Capabilities(codecs=(PCMA,), secrecy=Secrecy.OFF))
    only = trunk(routes='[media]\ncodecs = ["pcmu"]\n' + ROUTE)
    async with sip_worker(tmp_path, Setting(trunks=[only])) as worker, sip_phone(pcma) as phone:
        assert await refusal(worker, phone) == 488
        assert worker.refused == ["not_understood"]
        await worker.empty()


async def test_a_number_that_no_route_takes_is_404(tmp_path: Path) -> None:
    """And costs nothing."""
    only = trunk(routes='[[route]]\nnumber = "7"\nagent = "echo"\n')
    async with sip_worker(tmp_path, Setting(trunks=[only])) as worker, sip_phone() as phone:
        assert await refusal(worker, phone) == 404
        assert worker.refused == ["not_allowed"]
        await worker.empty()


async def test_who_drains_takes_no_call_and_keeps_those_it_has(tmp_path: Path) -> None:
    """503 for a new one, and the old one is heard."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone, sip_phone() as other:
        talk = await up(worker, phone)
        worker.table.draining = True
        assert await refusal(worker, other) == 503
        heard = len(talk.heard_at)
        await until(lambda: len(talk.heard_at) > heard + 5)
        phone.hang_up(talk)
        await worker.empty()


async def test_a_conversation_goes_on_over_the_call_that_replaces_its_own(tmp_path: Path) -> None:
    """RFC 3891: the first is hung up, one record, and the ports of both are given back."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone, sip_phone() as other:
        first = await up(worker, phone)
        second = await up(worker, other, replaces=replaces(phone, first))
        await until(lambda: first.ended is not None)
        assert worker.live() == (1, 0)
        assert len(worker.table) == 1
        (line,) = worker.table.lines(0.0)
        figures = worker.sip.figures(line.call_id)
        assert figures is not None
        assert any("INVITE" in step for step in figures.ladder)
        other.hang_up(second)
        await worker.empty()
        assert len(worker.told.over) == 1
        assert worker.record()["ended_by"] == "caller"


async def test_a_call_that_replaces_another_needs_no_place_of_its_own(tmp_path: Path) -> None:
    """The worker that is full keeps it, although a fellow has room: the conversation is here."""
    setting = Setting(most_calls=1)
    async with sip_worker(tmp_path, setting) as worker, sip_phone() as phone, sip_phone() as other:
        first = await up(worker, phone)
        worker.fellow()
        user = dialog_of(phone, first).target.user
        second = await up(worker, other, user, replaces=replaces(phone, first))
        assert not worker.given
        other.hang_up(second)
        await worker.empty()


async def test_who_is_full_passes_a_call_to_a_fellow(tmp_path: Path) -> None:
    """What has room elsewhere is not refused here; what came here once stays here."""
    setting = Setting(most_calls=1)
    async with sip_worker(tmp_path, setting) as worker, sip_phone() as phone, sip_phone() as other:
        first = await up(worker, phone)
        worker.fellow()
        nobody = bound()
        other.dial(f"sip:x@127.0.0.1:{nobody.getsockname()[1]}")
        worker.telephony.receive(other.sent[0], Hop("UDP", "127.0.0.1", other.port))
        nobody.close()
        assert worker.given
        assert worker.refused == []
        phone.hang_up(first)
        await worker.empty()


async def test_a_replacement_of_a_conversation_that_has_none_is_hung_up(tmp_path: Path) -> None:
    """A call of ours for a transfer has no conversation yet: nobody sits in silence for its sake."""
    async with sip_phone() as target, sip_phone() as phone, sip_phone() as other:
        target.answers = False
        setting = Setting(trunks=[trunk(peers=[target.port])])
        async with sip_worker(tmp_path, setting) as worker:
            talk = await up(worker, phone)
            phone.refer(talk, "sip:+4930123456@example.net")
            ringing = await target.rung()
            await until(lambda: count_of(phone, b"NOTIFY") == 1)
            assert ringing.invited is not None
            asked = ringing.invited.request
            tag = target.agent._desk.call(ringing.number).tag
            text = f"{asked.call_id};to-tag={asked.from_.tag};from-tag={tag}"
            late = await other.call(f"sip:x@127.0.0.1:{worker.port}", replaces=text)
            await until(lambda: late.ended is not None)
            phone.hang_up(talk)
            await until(lambda: talk.ended is not None)
            target.hang_up(ringing)
            await worker.empty()


async def test_a_promise_that_ran_out_ends_the_call_and_leaves_nothing(tmp_path: Path) -> None:
    """The loop stood still for longer than it held, and the place is another's."""
    async with sip_worker(tmp_path, Setting(most_calls=1)) as worker, sip_phone() as phone:
        nobody = bound()
        talk = phone.dial(f"sip:x@127.0.0.1:{nobody.getsockname()[1]}")
        worker.telephony.receive(phone.sent[0], Hop("UDP", "127.0.0.1", phone.port))
        worker.table.expire(worker.clock.now() + 10)
        assert worker.table.promise("another")
        await until(lambda: talk.ended is not None)
        worker.table.release("another")
        await worker.empty()
        nobody.close()


async def test_a_caller_who_is_gone_at_once_leaves_nothing(tmp_path: Path) -> None:
    """The BYE is there before the call's own life has begun; it has a record all the same."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone:
        nobody = bound()
        nobody.setblocking(True)
        talk = phone.dial(f"sip:x@127.0.0.1:{nobody.getsockname()[1]}")
        hop = Hop("UDP", "127.0.0.1", phone.port)
        worker.telephony.receive(phone.sent[0], hop)
        await until(lambda: count_of(phone, b"SIP/2.0 200"))
        phone.hang_up(talk)
        await worker.empty()
        assert len(worker.told.over) == 1
        nobody.close()


async def test_ports_are_watched_after_a_call(tmp_path: Path) -> None:
    """What household is given says whether the ports of a call are closed, also of one taken over."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone, sip_phone() as other:
        first = await up(worker, phone)
        second = await up(worker, other, replaces=replaces(phone, first))
        held = [each for each in worker.telephony._held.values() if each.parts is not None]
        (held_one,) = held
        remain = held_one.remain
        assert not remain.is_released()
        other.hang_up(second)
        await worker.empty()
        ((_, told),) = worker.ended
        assert told is remain
        assert told.is_released()


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
async def test_calls_go_over_either_transport(tmp_path: Path, transport: str) -> None:
    """And leave nothing."""
    async with sip_worker(tmp_path) as worker, sip_phone(Manner(transport=transport)) as phone:
        phone.hang_up(await up(worker, phone, "x"))
        await worker.empty()


async def test_a_turn_hands_on_what_the_one_before_could_not(tmp_path: Path) -> None:
    """A thousand calls may lose their peer in one moment."""
    async with sip_worker(tmp_path) as worker:
        events = worker.telephony._events
        events.extend(Texted(CallNumber(0), b"") for _ in range(2 * ROUNDS + 1))
        worker.telephony.settle()
        assert events
        await worker.empty()


async def test_what_raises_while_a_call_begins_ends_that_call_only(tmp_path: Path) -> None:
    """It was answered by then: it is hung up, and the next one is taken."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone:
        worker.told.raises = True
        talk = phone.dial(f"sip:x@127.0.0.1:{worker.port}")
        await until(lambda: talk.ended is not None)
        worker.told.raises = False
        await worker.empty(within=3.0)
        phone.hang_up(await up(worker, phone))
        await worker.empty()


async def test_closing_ends_whatever_is_left(tmp_path: Path) -> None:
    """A worker that goes with a call: its ports are closed, its tasks are gone, its record is written."""
    async with sip_phone() as phone:
        async with sip_worker(tmp_path) as worker:
            await up(worker, phone)
        assert worker.ports == 0
        assert not worker.telephony._tasks
        assert worker.record()["reason"] == "drained"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", worker.low))
        await asyncio.sleep(0)
