"""Calls over SIP in a fleet: any worker receives, one owns; workers are killed, replaced and resized.

Two workers, telephones of sip_phone.py, trunks of each test's own. What may not be heard is counted by
the telephone: packets that never came, sound that it had to make up, time without any.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from flowcatd.sip.agent_event import CallEnded, CallTerms, Connected, Media
from tests.scenarios.daemon import Daemon, free_block, running, until
from tests.scenarios.sip_phone import Manner, SipPhone, Talk, sip_phone
from tests.scenarios.test_07_fleet import operate, slots_of
from tests.scenarios.test_12_sip import until_heard

pytestmark = pytest.mark.scenario

AGENTS = Path(__file__).parents[1] / "corpus" / "agents"
LOOPBACK = """
[trunk]
name = "loopback"
[inbound]
sources = ["127.0.0.1"]
calls_per_second = 1000
[[route]]
"""


@dataclass
class Fleet:
    """A daemon with SIP."""

    daemon: Daemon
    port: int
    trunks: Path

    def uri(self, user: str = "anyone") -> str:
        """Whom to call."""
        return f"sip:{user}@127.0.0.1:{self.port}"

    def pids(self) -> dict[int, int]:
        """Slot to the process that serves it last."""
        return {line["slot"]: line["pid"] for line in self.daemon.log("worker.started")}

    async def slot_of(self, phone: SipPhone, talk: Talk) -> int:
        """Who has the call."""
        return (await slots_of(self.daemon))[phone.agent.call_id(talk.number)]

    async def record(self, phone: SipPhone, call_id: str) -> dict[str, Any]:
        """The record of a call by its Call-ID."""
        del phone
        return await self.daemon.record_of(call_id)


def write_trunks(directory: Path, **files: str) -> None:
    """Each word is a file."""
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.toml").write_text(text)


@asynccontextmanager
async def fleet(tmp_path: Path, *settings: str, **trunks: str) -> AsyncIterator[Fleet]:
    """Two workers, both there."""
    port, directory = free_block(1), tmp_path / "trunks"
    write_trunks(directory, **({"loopback": LOOPBACK} | trunks))
    said = (f"sip.port={port}", f"sip.trunks={directory}", "workers.count=2", "workers.most=4")
    kept = ("records.record=true", "records.journal=true")
    async with running(tmp_path, *said, *kept, *settings) as daemon:
        wanted = 1 if "workers.count=1" in settings else 2
        await until(lambda: len(daemon.log("worker.started")) == wanted, "the workers")
        yield Fleet(daemon, port, directory)


async def calls_on_both(place: Fleet, phone: SipPhone, least: int = 1) -> dict[int, list[Talk]]:
    """Calls, as many as it takes until each worker has `least`; by slot."""
    owners: dict[int, list[Talk]] = {}
    for _ in range(24):
        talk = await phone.call(place.uri())
        assert talk.ended is None, talk.ended
        owners.setdefault(await place.slot_of(phone, talk), []).append(talk)
        if len(owners) == 2 and min(len(each) for each in owners.values()) >= least:
            break
    assert set(owners) == {0, 1}
    for talks in owners.values():
        for talk in talks:
            await until_heard(talk, 10)
    return owners


async def changed(phone: SipPhone, talk: Talk, *, held: bool) -> None:
    """Hold or resume, done."""
    before = talk.count(Media)
    phone.hold(talk, held=held)
    await until(lambda: talk.count(Media) > before, "hold or resume")


async def parted(phone: SipPhone, *talks: Talk) -> list[str]:
    """Hang up, and be told that it is over; the Call-IDs."""
    names = [phone.agent.call_id(talk.number) for talk in talks]
    for talk in talks:
        phone.hang_up(talk)
    await until(lambda: all(talk.ended for talk in talks), "the ends")
    return names


async def killed(place: Fleet, slot: int) -> None:
    """Kill -9, and the slot serves again."""
    before = len(place.daemon.log("worker.started"))
    os.kill(place.pids()[slot], signal.SIGKILL)
    await until(lambda: len(place.daemon.log("worker.started")) > before, "the next worker")


def nothing_missed(*talks: Talk) -> None:
    """No packet of these calls was lost, and hardly any sound had to be made up."""
    for talk in talks:
        assert talk.ended is None
        assert talk.stream is not None
        figures = talk.stream.figures()
        assert (figures.lost, figures.sources) == (0, 1)
        assert figures.concealed_ms <= 40


# --- whose is it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
async def test_the_calls_of_one_telephone_have_both_workers_and_each_hears_its_own(
    tmp_path: Path, transport: str
) -> None:
    """From one address, over one connection: ACK, re-INVITE, INFO and BYE of every call reach its owner."""
    async with fleet(tmp_path) as place, sip_phone(Manner(transport=transport)) as phone:
        owners = await calls_on_both(place, phone, 2)
        talks = [talk for each in owners.values() for talk in each]
        for talk in talks:
            await changed(phone, talk, held=True)
            await changed(phone, talk, held=False)
            phone.inform(talk, "5")
        await until(lambda: len(answered(phone, "INFO")) == len(talks), "answers to INFO")
        assert {each[:11] for each in answered(phone, "INFO")} == {b"SIP/2.0 200"}
        for talk in talks:
            await until_heard(talk, 10)
        assert len(phone.pipes) == (transport == "TCP")
        names = await parted(phone, *talks)
        records = [await place.record(phone, name) for name in names]
    assert {record["ended_by"] for record in records} == {"caller"}
    assert {record["sip"]["transport"] for record in records} == {transport}
    assert {record["sip"]["ladder"][-1].split(" ", 1)[1] for record in records} == {"→ 200 BYE 5"}


def answered(phone: SipPhone, method: str) -> list[bytes]:
    """The final answers that the phone got to its requests of this method."""
    what = re.compile(rf"\ncseq: *\d+ {method}\r".encode(), re.IGNORECASE)
    return [
        each
        for each in phone.received
        if each.startswith(b"SIP/2.0") and each[8:9] != b"1" and what.search(each)
    ]


# --- how many -------------------------------------------------------------------------------------


async def test_a_storm_at_the_limit_gives_exactly_as_many_calls_and_503_to_the_rest(
    tmp_path: Path,
) -> None:
    """60 INVITEs at once for 20 places: 20 calls, 40 times 503 with Retry-After, twice; one call hears all."""
    async with (
        fleet(tmp_path, "calls.per_worker=10") as place,
        sip_phone() as phone,
        sip_phone() as other,
    ):
        bystander = await other.call(place.uri())
        await until_heard(bystander, 10)
        for _ in range(2):
            talks = [phone.dial(place.uri()) for _ in range(60)]
            await until(lambda: all(talk.has(Connected) or talk.ended for talk in talks), "answers")  # noqa: B023
            up = [talk for talk in talks if talk.ended is None]
            assert len(up) == 19
            refused = {(each.status, each.retry_after) for talk in talks if (each := talk.ended)}
            assert refused == {(503, 5)}
            assert sorted((await slots_of(place.daemon)).values()) == [0] * 10 + [1] * 10
            await parted(phone, *up)
            await until_calls(place, 1)
        assert bystander.ended is None
        assert bystander.lost == 0
    assert place.daemon.log("loop.raised") == []


async def until_calls(place: Fleet, count: int) -> None:
    """Wait until so many calls are up."""
    for _ in range(60):
        if len(await slots_of(place.daemon)) == count:
            return
    raise AssertionError(f"there are not {count} calls")


async def test_without_a_free_port_a_call_is_refused_and_nothing_else_happens(
    tmp_path: Path,
) -> None:
    """Two pairs: the third call gets 503 with Retry-After; after a hang-up there is room again."""
    low = free_block(4)
    settings = ("workers.count=1", "workers.most=1", f"rtp.low={low}", f"rtp.high={low + 3}")
    async with fleet(tmp_path, *settings) as place, sip_phone() as phone:
        talks = [await phone.call(place.uri()) for _ in range(2)]
        third = await phone.call(place.uri())
        assert third.ended is not None
        assert (third.ended.status, third.ended.retry_after) == (503, 5)
        for talk in talks:
            await until_heard(talk, 10)
        await parted(phone, talks[0])
        await until_calls(place, 1)
        again = await phone.call(place.uri())
        assert again.ended is None
        await until_heard(again, 10)
    assert place.daemon.log("worker.lost") == []
    assert place.daemon.log("loop.raised") == []


# --- workers come and go --------------------------------------------------------------------------


async def test_a_daemon_that_drains_refuses_new_calls_and_ends_the_live_one_with_a_reason(
    tmp_path: Path,
) -> None:
    """SIGTERM: 503 for who calls now; who talks may go on for a while, then BYE says why."""
    async with fleet(tmp_path, "calls.drain_seconds=1.5") as place, sip_phone() as phone:
        talk = await phone.call(place.uri())
        await until_heard(talk, 10)
        place.daemon.tell(signal.SIGTERM)
        await until(lambda: len(place.daemon.log("worker.drained")) == 2, "both workers to drain")
        late = await phone.call(place.uri())
        assert late.ended is not None
        assert (late.ended.status, late.ended.retry_after) == (503, 5)
        heard = len(talk.heard_at)
        await until(lambda: talk.ended is not None, "the end")
        assert len(talk.heard_at) > heard + 20
        assert talk.ended is not None
        assert talk.ended.by_peer
        assert talk.ended.cause is not None
        assert (talk.ended.cause.protocol, talk.ended.cause.code) == ("SIP", 503)
        record = await place.record(phone, call_ids(phone)[0])
        assert await asyncio.wait_for(place.daemon.process.wait(), 10) == 0
    assert record["reason"] == "drained"


def call_ids(phone: SipPhone) -> list[str]:
    """The Call-IDs of the phone's calls, in order."""
    found: dict[str, None] = {}
    for each in phone.sent:
        if each.startswith(b"INVITE"):
            line = next(x for x in each.decode().splitlines() if x.lower().startswith("call-id:"))
            found[line.partition(":")[2].strip()] = None
    return list(found)


async def test_reloads_and_resizes_are_heard_by_nobody(tmp_path: Path) -> None:
    """Old calls stay where they are without a gap, new ones go to the new workers, none is refused."""
    async with fleet(tmp_path) as place, sip_phone() as phone, sip_phone() as other:
        owners = await calls_on_both(place, phone)
        old = [talk for each in owners.values() for talk in each]
        stop = asyncio.Event()
        stream = asyncio.create_task(short_calls(place, other, stop))
        before = place.pids()
        try:
            for words in (("reload",), ("scale", "1"), ("scale", "2")):
                code, said = await operate(place.daemon, *words)
                assert code == 0, said
        finally:
            stop.set()
        ends = await stream
        assert len(ends) >= 5
        assert [each for each in ends if each.by_peer or each.status != 200] == []
        nothing_missed(*old)
        for talk in old:
            await changed(phone, talk, held=True)
            await changed(phone, talk, held=False)
            await until_heard(talk, 10)
        new = await phone.call(place.uri())
        await until_heard(new, 10)
        assert not set(before.values()) & set(place.pids().values())
        names = await parted(phone, *old, new)
        records = [await place.record(phone, name) for name in names]
    assert {record["ended_by"] for record in records} == {"caller"}
    assert {record["resumed"] for record in records} == {0}
    assert place.daemon.log("worker.lost") == []


async def short_calls(place: Fleet, phone: SipPhone, stop: asyncio.Event) -> list[CallEnded]:
    """One after another, each until it was heard."""
    ends: list[CallEnded] = []
    while not stop.is_set():
        talk = await phone.call(place.uri())
        if talk.ended is None:
            await until_heard(talk, 3)
            await parted(phone, talk)
        assert talk.ended is not None
        ends.append(talk.ended)
    return ends


# --- a worker dies --------------------------------------------------------------------------------


async def test_a_killed_worker_is_missed_for_less_than_a_second_and_the_other_not_at_all(
    tmp_path: Path,
) -> None:
    """Kill -9, twice in a row: same ports and SSRC; re-INVITE and an operator's BYE work afterwards."""
    async with fleet(tmp_path) as place, sip_phone() as phone:
        owners = await calls_on_both(place, phone, 2)
        mine, others = owners[0], owners[1]
        for talk in mine:
            await until_heard(talk, 50)
        ports = [talk.session and talk.session.rtp for talk in mine]
        for turn in (1, 2):
            await killed(place, 0)
            for talk in mine:
                await until_heard(talk, 30)
                assert talk.worst_gap() < 1.0, f"{talk.worst_gap():.2f} s, kill {turn}"
                assert talk.stream is not None
                assert talk.stream.figures().sources == 1
        nothing_missed(*others)
        for talk in mine:
            await changed(phone, talk, held=True)
            await changed(phone, talk, held=False)
            await until_heard(talk, 10)
        assert [talk.session and talk.session.rtp for talk in mine] == ports
        names = [phone.agent.call_id(talk.number) for talk in mine]
        code, said = await operate(place.daemon, "hangup", names[0])
        assert code == 0, said
        await until(lambda: mine[0].ended is not None, "the daemon's BYE")
        assert mine[0].ended is not None
        assert mine[0].ended.by_peer
        await parted(phone, *mine[1:], *others)
        records = [await place.record(phone, name) for name in names]
    assert {record["resumed"] for record in records} == {2}
    assert records[0]["reason"] == "cancelled"
    assert len(place.daemon.log("worker.lost")) == 2


async def test_a_call_that_is_held_while_its_worker_dies_comes_back(tmp_path: Path) -> None:
    """Silent before and after the kill, as hold wants it; resumed, it is heard."""
    settings = ("workers.count=1",)
    async with fleet(tmp_path, *settings) as place, sip_phone() as phone:
        talk = await phone.call(place.uri())
        await until_heard(talk, 25)
        await changed(phone, talk, held=True)
        await killed(place, 0)
        silent_since = len(talk.heard_at)
        await until(lambda: bool(place.daemon.log("call.resumed")), "the call to be taken up")
        await changed(phone, talk, held=False)
        await until_heard(talk, 25)
        assert talk.heard_at[silent_since] - talk.heard_at[silent_since - 1] > 0.1
        names = await parted(phone, talk)
        record = await place.record(phone, names[0])
    assert (record["resumed"], record["ended_by"]) == (1, "caller")


async def test_an_agents_conversation_goes_on_from_its_state_in_the_next_worker(
    tmp_path: Path,
) -> None:
    """One figure before the kill, one after: the record has both, and the agent says goodbye by BYE."""
    digits = (f"agents.directory={AGENTS}", "agents.default=digits", "workers.count=1")
    async with fleet(tmp_path, *digits) as place, sip_phone() as phone:
        timer = CallTerms(session_seconds=90, refresher="us", timer="ask")
        talk = phone.dial(place.uri(), terms=timer)
        await until(lambda: talk.has(Connected), "an answer")
        name = phone.agent.call_id(talk.number)
        await until_state(place, name, "first")
        assert talk.stream is not None
        talk.stream.press("4")
        await until_state(place, name, "second")
        await killed(place, 0)
        await until(lambda: bool(place.daemon.log("call.resumed")), "the call to be taken up")
        phone.refresh(talk)
        await until(lambda: len(answered(phone, "INVITE")) == 2, "the session to be refreshed")
        assert b"session-expires: 90" in answered(phone, "INVITE")[-1].lower()
        talk.stream.press("7")
        await until(lambda: talk.ended is not None, "the agent's end")
        assert talk.ended is not None
        assert talk.ended.by_peer
        record = await place.record(phone, name)
    assert (record["reason"], record["resumed"]) == ("completed", 1)
    assert (record["variables"]["one"], record["variables"]["two"]) == ("4", "7")


async def until_state(place: Fleet, name: str, state: str) -> None:
    """Wait until the agent is there."""
    journals = place.daemon.records / "journal"
    await until(
        lambda: any(
            f'"{state}"' in path.read_text() for path in journals.rglob("*") if path.is_file()
        ),
        f"{name} in {state}",
    )


async def test_a_call_whose_slot_does_not_come_back_is_hung_up_by_somebody(tmp_path: Path) -> None:
    """Its worker was scaled away and dies: BYE with a reason, a record; within resume_seconds and a few more."""
    async with fleet(tmp_path, "calls.resume_seconds=1") as place, sip_phone() as phone:
        owners = await calls_on_both(place, phone)
        talk = owners[1][0]
        name = phone.agent.call_id(talk.number)
        pid = place.pids()[1]
        code, said = await operate(place.daemon, "scale", "1")
        assert code == 0, said
        os.kill(pid, signal.SIGKILL)
        await until(lambda: talk.ended is not None, "the BYE", 10)
        assert talk.ended is not None
        assert talk.ended.by_peer
        assert talk.ended.cause is not None
        record = await place.record(phone, name)
    assert record["reason"] == "worker_lost"


# --- trunks, and what operators see ---------------------------------------------------------------


async def test_trunks_come_change_and_go_while_their_daemon_runs(tmp_path: Path) -> None:
    """In place, on every worker, no process replaced; a wrong file changes nothing; calls go on."""
    other = LOOPBACK.replace("loopback", "other").replace("127.0.0.1", "127.0.0.2")
    async with (
        fleet(tmp_path) as place,
        sip_phone() as phone,
        sip_phone(Manner(host="127.0.0.2")) as stranger,
    ):
        pids = place.pids()
        live = await phone.call(place.uri())
        assert await said_to(stranger, place) == 403
        write_trunks(place.trunks, other=other)
        await reloaded(place, 0)
        for _ in range(4):
            assert await said_to(stranger, place) == 200
        write_trunks(place.trunks, other=other + '\nnumber = "12345"\n')
        await reloaded(place, 0)
        assert await said_to(stranger, place) == 404
        assert await said_to(stranger, place, "12345") == 200
        write_trunks(place.trunks, other=other + '\nnumbr = "12345"\n')
        await reloaded(place, 1)
        assert await said_to(stranger, place, "12345") == 200
        (place.trunks / "other.toml").unlink()
        await reloaded(place, 0)
        for _ in range(4):
            assert await said_to(stranger, place, "12345") == 403
        assert place.pids() == pids
        nothing_missed(live)
        await parted(phone, live)


async def reloaded(place: Fleet, code: int) -> None:
    """`flowcatd reload`, and both workers have done it when it is to do anything."""
    before = len(changed_by_workers(place))
    got, said = await operate(place.daemon, "reload")
    assert (got != 0) == (code != 0), said
    if not code:
        await until(lambda: len(changed_by_workers(place)) == before + 2, "both workers")


def changed_by_workers(place: Fleet) -> list[dict[str, Any]]:
    """The supervisor says it as well, without a slot."""
    return [line for line in place.daemon.log("trunks.changed") if "slot" in line]


async def said_to(phone: SipPhone, place: Fleet, user: str = "anyone") -> int:
    """What a call is answered; an answered one is hung up."""
    talk = await phone.call(place.uri(user))
    if talk.ended is None:
        await parted(phone, talk)
        return 200
    return talk.ended.status


async def test_operators_see_calls_over_sip(tmp_path: Path) -> None:
    """`calls`, `ladder`, `trunks` and /metrics of a daemon with one live call."""
    async with fleet(tmp_path) as place, sip_phone() as phone:
        talk = await phone.call(place.uri())
        await until_heard(talk, 25)
        name = phone.agent.call_id(talk.number)
        _, said = await operate(place.daemon, "calls", "--json")
        call = json.loads(said)["calls"][0]
        assert (call["carrier"], call["trunk"], call["direction"]) == ("sip", "loopback", "inbound")
        for key in (name, call["call_id"]):
            code, ladder = await operate(place.daemon, "ladder", key)
            assert code == 0, ladder
            assert all(word in ladder for word in ("INVITE 1", "200 INVITE 1", "ACK 1", "PCMU"))
        code, trunks = await operate(place.daemon, "trunks", "--json")
        assert code == 0
        line = json.loads(trunks)["trunks"][0]
        assert (line["name"], line["inbound"], line["outbound"]) == ("loopback", 1, 0)
        for name_, least in (
            ('flowcatd_sip_received_total{transport="udp"', 2),
            ('flowcatd_sip_sent_total{transport="udp"', 1),
        ):
            await until_metric(place, name_, least)
        await parted(phone, talk)
        await until_metric(place, 'flowcatd_sip_calls_total{direction="inbound"', 1)


async def until_metric(place: Fleet, name: str, least: float) -> None:
    """Wait until the rows of this beginning add up to so many."""
    url = f"http://{place.daemon.ready['metrics']}/metrics"
    total, text = -1.0, ""
    async with aiohttp.ClientSession() as session:
        for _ in range(50):
            async with session.get(url) as response:
                text = await response.text()
            rows = [line for line in text.splitlines() if line.startswith(name.rstrip('"'))]
            total = sum(float(row.rpartition(" ")[2]) for row in rows)
            if total >= least:
                return
            await asyncio.sleep(0.1)
    rows = [line for line in text.splitlines() if "sip" in line and not line.startswith("#")]
    raise AssertionError(f"{name} is {total}: {rows}")
