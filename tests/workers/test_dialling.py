"""Calls of ours, redirections and transfers: where they may go, and that each comes to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from flowcatd.errors import LocalError
from flowcatd.options import Calls
from flowcatd.sip.agent_event import CallEnded
from tests.scenarios.sip_phone import SipPhone, bound, sip_phone
from tests.workers.on_loop import until
from tests.workers.sip_worker import Setting, count_of, record_of, sip_worker, trunk, up
from workers.calls import NoPlaceError
from workers.dialling import DialError, Wish

NUMBER = "+4930123456"
RING = Calls(ring_seconds=0.5)


def towards(*phones: SipPhone, calls: Calls | None = None, most: int = 8) -> Setting:
    """A worker whose trunk leads to these."""
    ports = [each.port for each in phones]
    return Setting(trunks=[trunk(peers=ports)], calls=calls or Calls(), most_calls=most)


def reported(phone: SipPhone) -> list[bytes]:
    """The status lines that the phone was told of its transfers."""
    return [
        each.rpartition(b"\r\n\r\n")[2].split(b"\r\n")[0]
        for each in phone.received
        if each.startswith(b"NOTIFY")
    ]


# --- placing a call -------------------------------------------------------------------------------


async def test_a_call_of_ours_is_answered_and_heard(tmp_path: Path) -> None:
    """It leaves a record, with who was called, and nothing else."""
    async with sip_phone() as phone, sip_worker(tmp_path, towards(phone)) as worker:
        call_id = await worker.sip.dialling.place(Wish(NUMBER, variables={"colour": "blue"}))
        talk = await phone.rung()
        await until(lambda: talk.heard_at)
        assert worker.live() == (0, 1)
        phone.hang_up(talk)
        await worker.empty()
        record = await record_of(worker)
        assert (record["call_id"], record["sip"]["direction"]) == (call_id, "outbound")
        assert record["ended_by"] == "caller"


async def test_nobody_answers_for_longer_than_it_may_ring(tmp_path: Path) -> None:
    """It is cancelled, and the record says so."""
    async with sip_phone() as phone, sip_worker(tmp_path, towards(phone, calls=RING)) as worker:
        phone.answers = False
        await worker.sip.dialling.place(Wish(NUMBER))
        await until(lambda: count_of(phone, b"CANCEL"))
        await worker.empty()
        assert (await record_of(worker))["reason"] == "not_answered"


async def test_who_refuses_is_not_connected(tmp_path: Path) -> None:
    """The status stands in the record."""
    async with sip_phone() as phone, sip_worker(tmp_path, towards(phone)) as worker:
        phone.status = 486
        await worker.sip.dialling.place(Wish(NUMBER))
        await worker.empty()
        assert (await record_of(worker))["sip"]["status"] == 486


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        (Wish(NUMBER, agent="gone"), 404),
        (Wish(NUMBER, trunk="gone"), 404),
        (Wish(NUMBER, caller_id="+4930999999"), 403),
        (Wish("+1"), 484),
        (Wish("+4930"), 484),
    ],
)
async def test_what_may_not_be_is_not_placed(tmp_path: Path, wish: Wish, status: int) -> None:
    """And takes nobody's quota."""
    async with sip_phone() as phone, sip_worker(tmp_path, towards(phone)) as worker:
        with pytest.raises(DialError) as refused:
            await worker.sip.dialling.place(wish)
        assert refused.value.status == status
        await worker.empty()


async def test_a_call_without_a_place_is_not_placed(tmp_path: Path) -> None:
    """The quota is given back."""
    async with sip_phone() as phone, sip_phone() as caller:
        setting = towards(phone, most=1)
        async with sip_worker(tmp_path, setting) as worker:
            talk = await up(worker, caller)
            with pytest.raises(NoPlaceError):
                await worker.sip.dialling.place(Wish(NUMBER))
            assert worker.live() == (1, 0)
            caller.hang_up(talk)
            await worker.empty()


async def test_a_name_that_takes_long_gives_all_back_when_nobody_waits_any_more(
    tmp_path: Path,
) -> None:
    """Whoever asked went away: the quota of the trunk is not lost with them."""
    silent = bound()
    setting = Setting(trunks=[named()])
    async with sip_worker(tmp_path, setting) as worker:
        worker.ask(silent.getsockname()[1])
        asking = asyncio.ensure_future(worker.sip.dialling.place(Wish(NUMBER)))
        await until(lambda: worker.live() == (0, 1))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await worker.empty()
    silent.close()


def named() -> object:
    """A trunk that has a name which is nobody's."""
    return trunk(
        '[trunk]\nname = "house"\nproxies = ["sip:slow.example.net"]\n'
        '[inbound]\nsources = ["127.0.0.1"]\n'
        '[outbound]\nenabled = true\nprefixes = ["+"]\n[[route]]\nagent = "echo"\n'
    )


async def test_a_name_that_takes_longer_than_the_worker_serves(tmp_path: Path) -> None:
    """It drains meanwhile: no call begins, whatever the name turns out to be."""
    silent = bound()
    async with sip_worker(tmp_path, Setting(trunks=[named()])) as worker:
        worker.ask(silent.getsockname()[1])
        asking = asyncio.ensure_future(worker.sip.dialling.place(Wish(NUMBER)))
        await until(lambda: worker.live() == (0, 1))
        worker.table.draining = True
        with pytest.raises((DialError, NoPlaceError)):
            await asyncio.wait_for(asking, 15)
        await worker.empty()
    silent.close()


async def test_an_address_that_does_not_answer_is_followed_by_the_next(tmp_path: Path) -> None:
    """503 at the first, the call goes on at the second (RFC 3263 §4.3)."""
    async with sip_phone() as first, sip_phone() as second:
        first.status = 503
        async with sip_worker(tmp_path, towards(first, second)) as worker:
            await worker.sip.dialling.place(Wish(NUMBER))
            talk = await second.rung()
            await until(lambda: talk.heard_at)
            second.hang_up(talk)
            await worker.empty()


# --- redirections ---------------------------------------------------------------------------------


async def redirected(tmp_path: Path, contacts: Sequence[str], *, is_followed: bool) -> None:
    """A 302 with these contacts, where {port} is another phone's."""
    async with sip_phone() as first, sip_phone() as second:
        first.status = 302
        first.fields = tuple(("Contact", each.format(port=second.port)) for each in contacts)
        async with sip_worker(tmp_path, towards(first)) as worker:
            await worker.sip.dialling.place(Wish(NUMBER))
            if is_followed:
                talk = await second.rung()
                await until(lambda: talk.heard_at)
                second.hang_up(talk)
            await worker.empty()
            assert bool(second.talks) == is_followed
            assert (await record_of(worker))["sip"]["status"] == (200 if is_followed else 302)


async def test_a_redirection_is_followed_where_the_number_may_be_called(tmp_path: Path) -> None:
    """The first that may be."""
    contacts = ["<sip:+1@127.0.0.1:{port}>;q=1", "<sip:+4930654321@127.0.0.1:{port}>;q=0.5"]
    await redirected(tmp_path, contacts, is_followed=True)


async def test_a_redirection_to_a_number_that_may_not_be_called_is_the_end(tmp_path: Path) -> None:
    """Whoever answers our calls does not choose whom we pay for."""
    await redirected(tmp_path, ["<sip:+1900@127.0.0.1:{port}>"], is_followed=False)


# --- transfers ------------------------------------------------------------------------------------


async def test_a_conversation_goes_on_with_whom_it_was_referred_to(tmp_path: Path) -> None:
    """The one who asked is told and hung up; one record; the ports of both are given back."""
    async with sip_phone() as phone, sip_phone() as target:
        setting = towards(target)
        async with sip_worker(tmp_path, setting) as worker:
            talk = await up(worker, phone)
            phone.refer(talk, f"sip:{NUMBER}@example.net")
            newer = await target.rung()
            await until(lambda: newer.heard_at)
            await until(lambda: talk.ended is not None)
            assert reported(phone) == [b"SIP/2.0 100 Trying", b"SIP/2.0 200 OK"]
            assert worker.live() == (0, 1)
            (line,) = worker.table.lines(0.0)
            assert worker.sip.figures(line.call_id) is not None
            target.hang_up(newer)
            await worker.empty()
            assert len(worker.told.over) == 1
            ((_, remain),) = worker.ended
            assert remain is not None
            assert remain.is_released()


async def test_a_transfer_to_where_we_may_not_call_is_declined(tmp_path: Path) -> None:
    """603, and the call goes on."""
    async with sip_phone() as phone, sip_phone() as target:
        setting = towards(target)
        async with sip_worker(tmp_path, setting) as worker:
            talk = await up(worker, phone)
            phone.refer(talk, "sip:+1900@example.net")
            await until(lambda: talk.transfers == [603])
            assert talk.ended is None
            assert worker.live() == (1, 0)
            phone.hang_up(talk)
            await worker.empty()


async def test_a_transfer_to_who_is_busy_is_told_and_the_call_goes_on(tmp_path: Path) -> None:
    """486 by NOTIFY."""
    async with sip_phone() as phone, sip_phone() as target:
        target.status = 486
        async with sip_worker(tmp_path, towards(target)) as worker:
            talk = await up(worker, phone)
            phone.refer(talk, f"sip:{NUMBER}@example.net")
            await until(lambda: talk.transfers[-1:] == [486])
            heard = len(talk.heard_at)
            await until(lambda: len(talk.heard_at) > heard + 5)
            phone.hang_up(talk)
            await worker.empty()


async def test_a_transfer_rings_no_longer_than_a_call_may(tmp_path: Path) -> None:
    """Then it is cancelled, the one who asked is told, and their call goes on."""
    async with sip_phone() as phone, sip_phone() as target:
        target.answers = False
        async with sip_worker(tmp_path, towards(target, calls=RING)) as worker:
            talk = await up(worker, phone)
            phone.refer(talk, f"sip:{NUMBER}@example.net")
            await until(lambda: count_of(target, b"CANCEL"))
            await until(lambda: talk.transfers[-1:] == [487])
            assert worker.live() == (1, 0)
            phone.hang_up(talk)
            await worker.empty()


async def test_a_conversation_that_waits_for_who_will_not_answer_is_over(tmp_path: Path) -> None:
    """Who asked for the transfer hangs up while it rings, and then whom it was to go to refuses."""
    async with sip_phone() as phone, sip_phone() as target:
        target.answers = False
        async with sip_worker(tmp_path, towards(target)) as worker:
            talk = await up(worker, phone)
            phone.refer(talk, f"sip:{NUMBER}@example.net")
            ringing = await target.rung()
            phone.hang_up(talk)
            await until(lambda: talk.ended is not None)
            assert ringing.ended is None
            target.hang_up(ringing)
            await worker.empty()


async def test_nobody_is_called_for_a_conversation_that_is_over(tmp_path: Path) -> None:
    """Who asked hangs up while we look for the target's address."""
    silent = bound()
    setting = Setting(trunks=[named()])
    async with sip_phone() as phone, sip_worker(tmp_path, setting) as worker:
        worker.ask(silent.getsockname()[1])
        talk = await up(worker, phone)
        phone.refer(talk, f"sip:{NUMBER}@example.net")
        await until(lambda: worker.live() == (1, 1))
        phone.hang_up(talk)
        await worker.empty(within=15)
    silent.close()


async def test_two_transfers_of_one_call_leave_one_conversation(tmp_path: Path) -> None:
    """The first to answer has it, the other one is given up."""
    async with sip_phone() as phone, sip_phone() as target:
        target.answers = False
        async with sip_worker(tmp_path, towards(target)) as worker:
            talk = await up(worker, phone)
            for last in "12":
                phone.refer(talk, f"sip:+493012345{last}@example.net")
            first, second = await target.rung(0), await target.rung(1)
            target.answer(second)
            await until(lambda: second.heard_at)
            await until(lambda: first.ended is not None)
            target.hang_up(second)
            await worker.empty()
            assert len(worker.told.over) == 1


async def test_a_worker_that_closes_leaves_no_transfer(tmp_path: Path) -> None:
    """Its port is closed, and nothing wakes any more."""
    async with sip_phone() as phone, sip_phone() as target:
        target.answers = False
        async with sip_worker(tmp_path, towards(target)) as worker:
            talk = await up(worker, phone)
            phone.refer(talk, f"sip:{NUMBER}@example.net")
            await target.rung()
        assert worker.ports == 0


async def test_the_target_of_an_agents_transfer_is_vetted(tmp_path: Path) -> None:
    """As a call of ours would be."""
    async with sip_phone() as phone, sip_worker(tmp_path, towards(phone)) as worker:
        dialling = worker.sip.dialling
        assert dialling.target("house", NUMBER).user == NUMBER
        for name, number in (("house", "+1900"), ("gone", NUMBER)):
            with pytest.raises(LocalError):
                dialling.target(name, number)


async def test_an_end_that_nobody_asked_about_is_no_error(tmp_path: Path) -> None:
    """Of a call that we hold no more."""
    async with sip_worker(tmp_path) as worker:
        worker.telephony._events.append(CallEnded(99, True, 200))  # type: ignore[arg-type]
        worker.telephony.settle()
        await worker.empty()
