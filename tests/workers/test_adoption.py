"""What a worker that died has left: taken up where that can be, hung up where it cannot; never a crash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowcatd.journal import NOTHING, Journal, decode, encode
from flowcatd.options import Calls
from tests.scenarios.sip_phone import SipPhone, Talk, bound, sip_phone
from tests.workers.on_loop import until
from tests.workers.sip_worker import Setting, SipWorker, killed, sip_worker, trunk, up
from workers.adoption import Kept, read_kept


async def left_behind(
    tmp_path: Path, phone: SipPhone, calls: int = 1
) -> tuple[Setting, list[Talk]]:
    """Calls whose worker has died, and the setting of whoever follows it."""
    setting = Setting(journal=True)
    async with killed(tmp_path, setting) as worker:
        talks = [await up(worker, phone) for _ in range(calls)]
        setting = replace(setting, port=worker.port, rtp_low=worker.low)
    assert not any(talk.ended for talk in talks)
    return setting, talks


def journals(tmp_path: Path) -> list[Path]:
    """All there are."""
    return sorted((tmp_path / "records" / "journal" / "calls").glob("*/*"))


def rewrite(tmp_path: Path, change: Callable[[Journal], Journal]) -> None:
    """Each journal, changed."""
    for path in journals(tmp_path):
        path.write_bytes(encode(change(decode(path.read_bytes()))))


def with_kept(**changes: Any) -> Callable[[Journal], Journal]:
    """The journal with another leg."""

    def change(journal: Journal) -> Journal:
        kept = read_kept(journal)
        assert kept is not None
        raw = msgspec.Raw(msgspec.json.encode(msgspec.structs.replace(kept, **changes)))
        return msgspec.structs.replace(journal, leg=raw)

    return change


async def until_heard(talk: Talk) -> None:
    """Sound comes again."""
    heard = len(talk.heard_at)
    await until(lambda: len(talk.heard_at) > heard + 10)


async def hung_up(talk: Talk, worker: SipWorker) -> None:
    """The far end hears that it is over, and nothing is left here."""
    await until(lambda: talk.ended is not None)
    assert talk.ended is not None
    assert talk.ended.by_peer
    await worker.empty()


async def test_calls_go_on_and_end_as_others(tmp_path: Path) -> None:
    """Same stream, same dialog; afterwards nothing is left, and each has one record."""
    async with sip_phone() as phone:
        setting, talks = await left_behind(tmp_path, phone, 2)
        async with sip_worker(tmp_path, setting) as worker:
            assert worker.live() == (2, 0)
            for talk in talks:
                await until_heard(talk)
                assert talk.stream is not None
                assert talk.stream.figures().sources == 1
            assert len(worker.table) == 2
            for talk in talks:
                phone.hang_up(talk)
            await worker.empty()
            assert worker.record(0)["resumed"] == worker.record(1)["resumed"] == 1
            await until(lambda: not journals(tmp_path))


async def test_a_call_may_be_taken_up_twice(tmp_path: Path) -> None:
    """Its journal is written again by who took it up."""
    async with sip_phone() as phone:
        setting, (talk,) = await left_behind(tmp_path, phone)
        async with killed(tmp_path, setting):
            await until_heard(talk)
        async with sip_worker(tmp_path, setting) as worker:
            await until_heard(talk)
            phone.hang_up(talk)
            await worker.empty()
            assert worker.record()["resumed"] == 2


async def test_the_line_goes_on_before_the_conversation(tmp_path: Path) -> None:
    """While speech starts the port is open; who goes without having begun leaves nothing."""
    async with sip_phone() as phone:
        setting, _ = await left_behind(tmp_path, phone)
        worker = SipWorker(tmp_path, setting)
        try:
            await worker.sip.adopt(worker.store.journals)
            assert len(worker.sip.adoption) == 1
            assert worker.ports == 1
        finally:
            await worker.close()
        assert worker.ports == 0
        assert len(worker.sip.premises.pacer) == 0


async def test_a_call_whose_agent_is_gone_is_hung_up(tmp_path: Path) -> None:
    """And the worker serves: the next one is taken."""
    async with sip_phone() as phone:
        setting, (talk,) = await left_behind(tmp_path, phone)
        rewrite(
            tmp_path,
            lambda journal: msgspec.structs.replace(
                journal, identity=msgspec.structs.replace(journal.identity, agent="gone")
            ),
        )
        async with sip_worker(tmp_path, setting) as worker:
            await hung_up(talk, worker)
            phone.hang_up(await up(worker, phone))
            await worker.empty()


async def test_a_call_whose_trunk_is_gone_goes_on(tmp_path: Path) -> None:
    """Whoever removed it wants no new calls; its count ends with it."""
    async with sip_phone() as phone:
        setting, (talk,) = await left_behind(tmp_path, phone)
        setting = replace(setting, trunks=[trunk(name="other")])
        async with sip_worker(tmp_path, setting) as worker:
            await until_heard(talk)
            assert worker.live("house") == (1, 0)
            phone.hang_up(talk)
            await worker.empty()
            assert worker.live("house") == (0, 0)


async def test_a_call_whose_codec_is_gone_is_hung_up(tmp_path: Path) -> None:
    """The trunk has another one by now."""
    async with sip_phone() as phone:
        setting, (talk,) = await left_behind(tmp_path, phone)
        only = trunk(routes='[media]\ncodecs = ["pcma"]\n[[route]]\nagent = "echo"\n')
        async with sip_worker(tmp_path, replace(setting, trunks=[only])) as worker:
            assert worker.ports == 0
            assert not worker.sip.adoption._waiting
            await worker.empty()
        assert talk.ended is None or talk.ended.by_peer


async def test_a_call_whose_port_is_taken_is_hung_up(tmp_path: Path) -> None:
    """The other ones go on."""
    async with sip_phone() as phone:
        setting, (lost, kept) = await left_behind(tmp_path, phone, 2)
        taken = bound(port=setting.rtp_low)
        async with sip_worker(tmp_path, setting) as worker:
            await until(lambda: lost.ended is not None)
            await until_heard(kept)
            phone.hang_up(kept)
            await worker.empty()
        taken.close()


@pytest.mark.parametrize("changes", [{"port": 70_000}, {"port": -2}])
async def test_a_journal_that_makes_no_sense_stops_nobody(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """The slot would die of it at every start."""
    async with sip_phone() as phone:
        setting, (talk,) = await left_behind(tmp_path, phone)
        rewrite(tmp_path, with_kept(**changes))
        async with sip_worker(tmp_path, setting) as worker:
            await hung_up(talk, worker)


@pytest.mark.parametrize(("name", "value"), [("transport", "SCTP"), ("target", "sip:")])
async def test_a_dialog_that_makes_no_sense_stops_nobody(
    tmp_path: Path, name: str, value: str
) -> None:
    """Nobody can be told; the other calls of the slot go on, and orphans close this one."""
    async with sip_phone() as phone:
        setting, (lost, kept) = await left_behind(tmp_path, phone, 2)
        spoilt: list[str] = []

        def spoil(journal: Journal) -> Journal:
            leg = read_kept(journal)
            assert leg is not None
            if leg.port != setting.rtp_low:
                return journal
            dialog = msgspec.structs.replace(leg.call.dialog, **{name: value})
            spoilt.append(name)
            return with_kept(call=msgspec.structs.replace(leg.call, dialog=dialog))(journal)

        rewrite(tmp_path, spoil)
        assert spoilt == [name]
        async with sip_worker(tmp_path, setting) as worker:
            await until_heard(kept)
            phone.hang_up(kept)
            await worker.empty()
        assert lost.ended is None


async def test_a_leg_of_another_version_is_no_leg(tmp_path: Path) -> None:
    """Nothing can be said to the far end; orphans close the record."""
    async with sip_phone() as phone:
        setting, _ = await left_behind(tmp_path, phone)
        rewrite(
            tmp_path,
            lambda journal: msgspec.structs.replace(journal, leg=msgspec.Raw(b'{"other":1}')),
        )
        async with sip_worker(tmp_path, setting) as worker:
            assert not worker.left()


async def test_a_call_of_another_kind_has_no_leg(tmp_path: Path) -> None:
    """As of a media socket."""
    async with sip_phone() as phone:
        await left_behind(tmp_path, phone)
        (path,) = journals(tmp_path)
        journal = decode(path.read_bytes())
        assert isinstance(read_kept(journal), Kept)
        assert read_kept(msgspec.structs.replace(journal, leg=NOTHING)) is None


async def test_what_is_old_is_nobodys_line_any_more(tmp_path: Path) -> None:
    """A daemon that comes back an hour later sends nothing to an address that is another's by now."""
    async with sip_phone() as phone:
        setting, (talk,) = await left_behind(tmp_path, phone)
        rewrite(
            tmp_path,
            lambda journal: msgspec.structs.replace(
                journal, written_at_utc=journal.written_at_utc - timedelta(hours=1)
            ),
        )
        async with sip_worker(tmp_path, setting) as worker:
            assert not worker.left()
            assert talk.ended is None


async def test_who_resumes_nothing_adopts_nothing_and_hangs_up(tmp_path: Path) -> None:
    """calls.resume_seconds = 0: the call is closed as lost, once, and its far end hears it."""
    async with sip_phone() as phone:
        setting, (talk,) = await left_behind(tmp_path, phone)
        async with sip_worker(tmp_path, replace(setting, calls=Calls(resume_seconds=0))) as worker:
            worker.orphans.begin()
            await hung_up(talk, worker)
            await until(lambda: any(worker.records.glob("*.json")))
            assert worker.record()["reason"] == "worker_lost"


async def test_a_call_of_a_slot_that_does_not_come_back_is_hung_up_by_a_fellow(
    tmp_path: Path,
) -> None:
    """A BYE in its dialog, and the record."""
    async with sip_phone() as phone:
        setting, (talk,) = await left_behind(tmp_path, phone)
        elsewhere = replace(setting, calls=Calls(resume_seconds=0.1), slot=1, port=0, rtp_low=0)
        async with sip_worker(tmp_path, elsewhere) as worker:
            assert not worker.left()
            worker.orphans.begin()
            await hung_up(talk, worker)
            await until(lambda: any(worker.records.glob("*.json")))
            assert worker.record()["reason"] == "worker_lost"
