"""What a leg asks of its dialog: at once, or a LocalError that says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowcatd.errors import LocalError
from flowcatd.sip.agent_event import Cause
from tests.scenarios.sip_phone import sip_phone
from tests.workers.on_loop import until
from tests.workers.sip_worker import Setting, SipWorker, count_of, sip_worker, trunk, up
from workers.held import Held
from workers.sip_line import HeldLine

NUMBER = "+4930123456"


def only(worker: SipWorker) -> Held:
    """The only call there is."""
    (held,) = worker.telephony._held.values()
    return held


async def test_a_key_goes_by_info(tmp_path: Path) -> None:
    """And is heard as one."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone:
        talk = await up(worker, phone)
        HeldLine(worker.telephony, only(worker)).press("5")
        await until(lambda: talk.digits == "5")
        phone.hang_up(talk)
        await worker.empty()


async def test_a_call_is_hung_up_with_its_cause(tmp_path: Path) -> None:
    """Once; a second time nothing happens."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone:
        talk = await up(worker, phone)
        line = HeldLine(worker.telephony, only(worker))
        line.hang_up(Cause("Q.850", 16))
        line.hang_up(None)
        await until(lambda: talk.ended is not None)
        assert talk.ended is not None
        assert talk.ended.cause == Cause("Q.850", 16)
        assert count_of(phone, b"BYE") == 1
        await worker.empty()


async def test_what_is_over_can_do_nothing(tmp_path: Path) -> None:
    """A key and a transfer are errors of ours, hanging up is none."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone:
        talk = await up(worker, phone)
        line = HeldLine(worker.telephony, only(worker))
        phone.hang_up(talk)
        await worker.empty()
        for ask in (lambda: line.press("1"), lambda: line.refer("sip:x@example.net")):
            with pytest.raises(LocalError):
                ask()
        line.hang_up(None)
        line.changed()


@pytest.mark.parametrize(
    ("target", "is_taken"),
    [
        (NUMBER, True),
        ("sip:x@example.net", True),
        ("sip:", False),
        ("sip:a b@c", False),
        ("+1900", False),
        ("", False),
    ],
)
async def test_a_transfer_goes_where_it_may(tmp_path: Path, target: str, is_taken: bool) -> None:  # noqa: FBT001 a row of the table
    """A number as the trunk dials it, a URI as it is; anything else is an error that says so."""
    async with sip_phone() as phone:
        setting = Setting(trunks=[trunk(peers=[phone.port])])
        async with sip_worker(tmp_path, setting) as worker:
            talk = await up(worker, phone)
            line = HeldLine(worker.telephony, only(worker))
            if is_taken:
                line.refer(target)
                await until(lambda: phone.referred)
                assert str(phone.referred[0].target).startswith(("sip:x@", f"sip:{NUMBER}@"))
            else:
                with pytest.raises(LocalError):
                    line.refer(target)
            phone.hang_up(talk)
            await worker.empty()
