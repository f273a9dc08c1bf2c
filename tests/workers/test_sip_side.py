"""The SIP side as main sees it: its life, and what operators are told."""

from __future__ import annotations

from pathlib import Path

from tests.scenarios.sip_phone import sip_phone
from tests.workers.on_loop import until
from tests.workers.sip_worker import Setting, sip_worker, trunk, up
from workers.sip_side import installed_codecs

GOOD = '[trunk]\nname = "{name}"\n[inbound]\nsources = ["{source}"]\n[[route]]\nagent = "echo"\n'


def write(tmp_path: Path, **texts: str) -> None:
    """Trunk files."""
    place = tmp_path / "trunks.d"
    place.mkdir(exist_ok=True)
    for name, text in texts.items():
        (place / f"{name}.toml").write_text(text)


async def test_trunks_change_without_touching_a_call(tmp_path: Path) -> None:
    """One more trunk, and the one a call is over is gone: the call goes on and is counted out."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone:
        talk = await up(worker, phone)
        write(tmp_path, other=GOOD.format(name="other", source="192.0.2.1"))
        worker.sip.change()
        assert [line.name for line in worker.sip.trunk_lines()] == ["other"]
        heard = len(talk.heard_at)
        await until(lambda: len(talk.heard_at) > heard + 10)
        refused = await phone.call(f"sip:x@127.0.0.1:{worker.port}")
        assert refused.ended is not None
        assert refused.ended.status == 403
        phone.hang_up(talk)
        await worker.empty()


async def test_a_set_of_trunks_that_is_wrong_changes_nothing(tmp_path: Path) -> None:
    """The worker goes on with those it has."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone:
        write(tmp_path, wrong="[trunk]\nname = 1\n")
        worker.sip.change()
        assert [line.name for line in worker.sip.trunk_lines()] == ["house"]
        phone.hang_up(await up(worker, phone))
        await worker.empty()


async def test_operators_see_how_many_calls_a_trunk_has(tmp_path: Path) -> None:
    """In and out; nobody registers, nobody is asked whether it lives."""
    async with sip_phone() as phone:
        setting = Setting(trunks=[trunk(peers=[phone.port])])
        async with sip_worker(tmp_path, setting) as worker:
            talk = await up(worker, phone)
            (line,) = worker.sip.trunk_lines()
            assert (line.name, line.inbound, line.outbound) == ("house", 1, 0)
            assert (line.registration, line.alive, line.failures) == ("", None, 0)
            phone.hang_up(talk)
            await worker.empty()


async def test_figures_are_those_of_live_calls_only(tmp_path: Path) -> None:
    """By our own name of the call."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone:
        talk = await up(worker, phone)
        (line,) = worker.table.lines(0.0)
        figures = worker.sip.figures(line.call_id)
        assert figures is not None
        assert figures.media is not None
        assert (figures.trunk, figures.codec, figures.status) == ("house", "PCMU", 200)
        assert worker.sip.figures("nobody") is None
        phone.hang_up(talk)
        await worker.empty()
        assert worker.sip.figures(line.call_id) is None


async def test_who_stops_reads_nothing_new_and_keeps_its_calls(tmp_path: Path) -> None:
    """The shared port is somebody else's to read; ours end from a port of our own."""
    async with sip_worker(tmp_path) as worker, sip_phone() as phone:
        talk = await up(worker, phone)
        worker.sip.stop()
        worker.sip.leave_ports()
        heard = len(talk.heard_at)
        await until(lambda: len(talk.heard_at) > heard + 10)
        worker.table.say_goodbye("")
        await until(lambda: talk.ended is not None)
        await worker.empty()
        await worker.sip.leave()


def test_every_machine_has_g711() -> None:
    """The others are there or not."""
    assert {"pcmu", "pcma"} <= installed_codecs() <= {"pcmu", "pcma", "g722", "opus"}
