"""Calls of ours, and transfers: asked for over HTTP or by REFER, refused where they may cost money.

The other side is a telephone of sip_phone.py in a carrier's place: the trunks lead to it.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from flowcatd.sip import digest
from flowcatd.sip.agent_event import Connected
from flowcatd.sip.digest import Gate, Judgement
from flowcatd.sip.event import Hop
from flowcatd.sip.message import Request, Response, build_response
from tests.scenarios.daemon import free_block, until
from tests.scenarios.sip_phone import Manner, SipPhone, Talk, sip_phone
from tests.scenarios.test_12_sip import until_heard
from tests.scenarios.test_13_sip_fleet import AGENTS, Fleet, fleet, parted, until_calls

pytestmark = pytest.mark.scenario

NUMBER = "+493012345678"
OUT = """
[trunk]
name = "{name}"
proxies = [{proxies}]
transport = "{transport}"
[account]
user = "us"
{account}
[identity]
caller_id = "+4930111111"
[outbound]
enabled = true
prefixes = ["+49", "+43", "+1"]
denied = ["+49180"]
{more}
"""
PACE = "calls_per_second = 100"
LOOPBACK = """
[trunk]
name = "loopback"
proxies = ["sip:127.0.0.1:{port}"]
[inbound]
sources = ["127.0.0.1"]
[identity]
caller_id = "+4930111111"
[outbound]
enabled = true
prefixes = ["+49"]
calls_per_second = 100
[[route]]
"""
MOVES = """
name: moves
initial_state: ask
states:
  ask:
    on_enter: [{type: play_tts, params: {text: "Press one."}}]
    transitions:
      - digits: "[0-9]"
        target: away
    timeout: 30s
  away:
    on_enter: [{type: transfer, params: {target: "+493087654321"}}]
    terminal: true
"""


def out(*ports: int, name: str = "out", transport: str = "udp", **more: str) -> str:
    """A trunk file that leads to these ports; `more` are `account` lines, and `more` of outbound."""
    return OUT.format(
        name=name,
        proxies=", ".join(f'"sip:127.0.0.1:{port}"' for port in ports),
        transport=transport,
        account=more.get("account", ""),
        more=more.get("more", PACE),
    )


async def ask(
    place: Fleet, to: str = NUMBER, *, headers: dict[str, str] | None = None, **order: Any
) -> tuple[int, dict[str, Any]]:
    """POST /v1/calls: status and body."""
    url = f"{place.daemon.url.replace('ws://', 'http://')}/v1/calls"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json={"to": to, **order}, headers=headers) as response,
    ):
        body = await response.json(content_type=None)
        return response.status, body | {"retry": response.headers.get("Retry-After", "")}


async def record_of(place: Fleet, call: str) -> dict[str, Any]:
    """The record of a call by its call id."""
    path = place.daemon.records / f"{call}.json"
    await until(path.exists, f"the record of {call}")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


@asynccontextmanager
async def called(
    tmp_path: Path, *settings: str, manner: Manner | None = None, **trunk: str
) -> AsyncIterator[tuple[Fleet, SipPhone]]:
    """A daemon whose one outbound trunk leads to one telephone."""
    async with (
        sip_phone(manner) as phone,
        fleet(tmp_path, *settings, out=out(phone.port, **trunk)) as place,
    ):
        yield place, phone


# --- the way out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
async def test_a_call_of_ours_rings_is_answered_and_heard(tmp_path: Path, transport: str) -> None:
    """202 at once; the callee rings, answers, hears itself, hangs up; the record says outbound."""
    manner = Manner(transport=transport)
    async with called(tmp_path, manner=manner, transport=transport.lower()) as (place, phone):
        phone.answers = False
        status, body = await ask(place, variables={"order": "4711"})
        assert status == 202, body
        talk = await phone.rung()
        phone.answer(talk)
        await until_heard(talk, 25)
        assert talk.invited is not None
        assert talk.invited.request.from_.uri.user == "+4930111111"
        phone.hang_up(talk)
        record = await record_of(place, body["call_id"])
    assert (record["ended_by"], record["reason"]) == ("caller", "caller_hung_up")
    sip = record["sip"]
    assert (sip["trunk"], sip["direction"], sip["transport"]) == ("out", "outbound", transport)
    assert sip["media"]["packets_in"] > 20


async def test_an_agent_that_calls_is_pressed_keys_and_hangs_up(tmp_path: Path) -> None:
    """Keys by RTP event and by INFO; the agent's end is a BYE of ours."""
    digits = (f"agents.directory={AGENTS}", "agents.default=digits")
    async with called(tmp_path, *digits) as (place, phone):
        status, body = await ask(place, agent="digits")
        assert status == 202, body
        talk = await phone.rung()
        await until(lambda: talk.has(Connected) and talk.stream is not None, "the answer")
        assert talk.stream is not None
        talk.stream.press("4")
        await until(lambda: bool(turns(place, "second")), "the second question")
        phone.inform(talk, "7")
        await until(lambda: talk.ended is not None, "the agent's end")
        assert talk.ended is not None
        assert talk.ended.by_peer
        record = await record_of(place, body["call_id"])
    assert record["reason"] == "completed"
    assert (record["variables"]["one"], record["variables"]["two"]) == ("4", "7")


def turns(place: Fleet, state: str) -> list[Path]:
    """Journals of agents in this state."""
    journals = (place.daemon.records / "journal").rglob("*")
    return [path for path in journals if path.is_file() and f'"{state}"' in path.read_text()]


@pytest.mark.parametrize(
    ("status", "reason"), [(486, "refused"), (603, "refused"), (480, "not_answered")]
)
async def test_a_callee_that_refuses_is_named_in_the_record(
    tmp_path: Path, status: int, reason: str
) -> None:
    """The INVITE's answer is the record's status, and the place is free again."""
    async with called(tmp_path, "workers.count=1") as (place, phone):
        phone.status = status
        got, body = await ask(place)
        assert got == 202
        record = await record_of(place, body["call_id"])
        await until_calls(place, 0)
    assert (record["reason"], record["sip"]["status"]) == (reason, status)


async def test_a_call_that_nobody_takes_is_given_up(tmp_path: Path) -> None:
    """CANCEL after calls.ring_seconds; the telephone stops ringing."""
    async with called(tmp_path, "workers.count=1", "calls.ring_seconds=5") as (place, phone):
        phone.answers = False
        _, body = await ask(place)
        talk = await phone.rung()
        begun = time.monotonic()
        await until(lambda: talk.ended is not None, "the CANCEL")
        assert 4 < time.monotonic() - begun < 9
        assert talk.ended is not None
        assert (talk.ended.by_peer, talk.ended.status) == (True, 487)
        record = await record_of(place, body["call_id"])
    assert record["reason"] == "not_answered"


async def test_a_redirection_is_followed_to_where_we_may_call_and_nowhere_else(
    tmp_path: Path,
) -> None:
    """302 to an allowed number rings there; to a forbidden one the call is refused."""
    async with called(tmp_path, "workers.count=1") as (place, phone), sip_phone() as other:
        phone.status = 302
        phone.fields = (("Contact", f"<sip:+493099000@127.0.0.1:{other.port}>"),)
        _, body = await ask(place)
        talk = await other.rung()
        await until_heard(talk, 10)
        other.hang_up(talk)
        record = await record_of(place, body["call_id"])
        assert record["reason"] == "caller_hung_up"
        phone.fields = (("Contact", f"<sip:+491805555@127.0.0.1:{other.port}>"),)
        _, body = await ask(place)
        record = await record_of(place, body["call_id"])
        assert (record["reason"], record["sip"]["status"]) == ("refused", 302)
        assert len(other.talks) == 1


async def test_a_carrier_that_wants_our_password_gets_it(tmp_path: Path) -> None:
    """401, then again with credentials; a wrong password is refused, and not tried for ever."""
    (tmp_path / "right").write_text("opensesame")
    (tmp_path / "wrong").write_text("guessed")
    async with sip_phone(Manner(admit=challenger("us", "opensesame"))) as phone:
        right = out(phone.port, account=f'password = "file:{tmp_path}/right"')
        wrong = out(phone.port, name="wrong", account=f'password = "file:{tmp_path}/wrong"')
        async with fleet(tmp_path, "workers.count=1", out=right, wrong=wrong) as place:
            _, body = await ask(place, trunk="out")
            talk = await phone.rung()
            await until_heard(talk, 10)
            phone.hang_up(talk)
            record = await record_of(place, body["call_id"])
            assert record["reason"] == "caller_hung_up"
            before = len(phone.received)
            _, body = await ask(place, trunk="wrong")
            record = await record_of(place, body["call_id"])
            assert (record["reason"], record["sip"]["status"]) == ("refused", 403)
            assert sum(each.startswith(b"INVITE") for each in phone.received[before:]) == 2


def challenger(user: str, password: str) -> Any:
    """What a carrier's door does: who has no credentials is asked, who has wrong ones is refused."""
    known = {user: password}
    gate = Gate(
        digest.Terms("carrier"), secrets.token_bytes(32), lambda: secrets.token_bytes(8), known.get
    )

    def admit(request: Request, _hop: Hop, now: float) -> Response | None:
        verdict = gate.judge(request, now)
        if verdict.judgement is Judgement.PASSED:
            return None
        if verdict.judgement is Judgement.WRONG:
            return build_response(request, 403, tag=secrets.token_hex(4))
        response = build_response(request, 401, tag=secrets.token_hex(4))
        gate.challenge(response, now)
        return response

    return admit


async def test_a_dead_carrier_costs_a_record_and_a_second_one_takes_the_call(
    tmp_path: Path,
) -> None:
    """503 or nobody there: refused; where a second address stands it is tried; no such name: 503 at once."""
    async with sip_phone(Manner(transport="TCP")) as phone, sip_phone() as full:
        full.status = 503
        dead = free_block(1)
        trunks = {
            "dead": out(dead, name="dead", transport="tcp"),
            "full": out(full.port, name="full"),
            "two": out(dead, phone.port, name="two", transport="tcp"),
            "lost": out(1, name="lost").replace("127.0.0.1:1", "no-such-host.invalid"),
        }
        async with fleet(tmp_path, "workers.count=1", **trunks) as place:
            for name in ("dead", "full"):
                status, body = await ask(place, trunk=name)
                assert status == 202
                record = await record_of(place, body["call_id"])
                assert record["reason"] == "refused", name
            status, body = await ask(place, trunk="two")
            assert status == 202
            await until_heard(await phone.rung(), 10)
            status, body = await ask(place, trunk="lost")
            assert (status, body["retry"]) == (503, "5")
            await until_calls(place, 1)


# --- what may not be --------------------------------------------------------------------------------


async def test_what_could_cost_money_is_refused_before_the_first_packet(tmp_path: Path) -> None:
    """Denied, risky, foreign, no number, a number not ours, too many, too fast; and the telephone is silent."""
    few = out(9, name="few", more="most_calls = 1\ncalls_per_second = 100")
    slow = out(9, name="slow", more="calls_per_second = 1")
    async with sip_phone() as phone:
        phone.answers = False
        trunks = {"out": out(phone.port), "few": few.replace(":9", f":{phone.port}"), "slow": slow}
        async with fleet(tmp_path, "workers.count=1", **trunks) as place:
            for number, status in (
                ("+4918055555", 403),
                ("+18765551234", 403),
                ("+33142685300", 403),
                ("4930123456", 400),
                ("+49", 400),
                ("sip:+4930123@evil.example", 400),
                (f"{NUMBER}\r\nX: y", 400),
                ("+49301234567890123456", 400),
            ):
                got, body = await ask(place, number, trunk="out")
                assert got == status, (number, body)
                assert number not in str(body)
            assert (await ask(place, caller_id="+4930999"))[0] == 403
            assert (await ask(place, trunk="nowhere"))[0] == 404
            assert (await ask(place, agent="nobody"))[0] == 404
            assert (await ask(place, password="x"))[0] == 400
            assert phone.talks == {}
            assert (await ask(place, trunk="few"))[0] == 202
            status, body = await ask(place, trunk="few")
            assert (status, body["retry"]) == (503, "5")
            said = [(await ask(place, trunk="slow"))[0] for _ in range(6)]
            assert said.count(202) in {1, 2}
            assert set(said) == {202, 503}


async def test_a_page_in_somebodys_browser_may_not_call(tmp_path: Path) -> None:
    """Another origin, a form, a text, no JSON: 403, 415, 400; our own origin may."""
    async with called(tmp_path, "workers.count=1") as (place, phone):
        here = place.daemon.url.replace("ws://", "http://")
        assert (await ask(place, headers={"Origin": "https://evil.example"}))[0] == 403
        assert (await ask(place, headers={"Origin": "null"}))[0] == 403
        async with aiohttp.ClientSession() as session:
            text = f'{{"to": "{NUMBER}"}}'
            for kind, status in (
                ("text/plain", 415),
                ("application/x-www-form-urlencoded", 415),
                ("multipart/form-data", 415),
            ):
                headers = {"Content-Type": kind}
                async with session.post(f"{here}/v1/calls", data=text, headers=headers) as got:
                    assert got.status == status
            headers = {"Content-Type": "application/json"}
            async with session.post(f"{here}/v1/calls", data="{", headers=headers) as got:
                assert got.status == 400
        assert phone.talks == {}
        assert (await ask(place, headers={"Origin": here}))[0] == 202


# --- transfers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_attended", [False, True], ids=["blind", "attended"])
async def test_a_telephone_hands_its_call_over_and_the_conversation_goes_on(
    tmp_path: Path, *, is_attended: bool
) -> None:
    """REFER, with Replaces or without: we call the second telephone, the first one is told and hung up."""
    async with sip_phone() as first, sip_phone() as second:
        loopback = LOOPBACK.format(port=second.port)
        async with fleet(tmp_path, "workers.count=1", loopback=loopback) as place:
            talk = await first.call(place.uri())
            await until_heard(talk, 10)
            name = first.agent.call_id(talk.number)
            asked: Talk | None = None
            if is_attended:
                asked = await first.call(f"sip:{NUMBER}@127.0.0.1:{second.port}")
            first.refer(talk, f"sip:{NUMBER}@127.0.0.1:{second.port}", asked)
            newer = await second.rung(int(is_attended))
            await until_heard(newer, 25)
            await until(lambda: talk.ended is not None, "the end of the first call")
            assert talk.transfers[-1] == 200
            assert talk.ended is not None
            assert talk.ended.by_peer
            if asked is not None:
                await until(lambda: asked.ended is not None, "the end of the question")
            await until_calls(place, 1)
            second.hang_up(newer)
            record = await place.daemon.record_of(name)
            await until_calls(place, 0)
    assert record["reason"] == "caller_hung_up"


async def test_who_hangs_up_once_a_transfer_was_accepted_leaves_the_conversation_to_the_other(
    tmp_path: Path,
) -> None:
    """REFER, 202, BYE, while the second telephone still rings: the agent waits for it, as on hold."""
    async with sip_phone() as first, sip_phone() as second:
        second.answers = False
        loopback = LOOPBACK.format(port=second.port)
        async with fleet(tmp_path, "workers.count=1", loopback=loopback) as place:
            talk = await first.call(place.uri())
            await until_heard(talk, 10)
            name = first.agent.call_id(talk.number)
            first.refer(talk, f"sip:{NUMBER}@127.0.0.1:{second.port}")
            newer = await second.rung()
            first.hang_up(talk)
            await until(lambda: talk.ended is not None, "the end of the first call")
            second.answer(newer)
            await until_heard(newer, 25)
            await until_calls(place, 1)
            second.hang_up(newer)
            record = await place.daemon.record_of(name)
            await until_calls(place, 0)
    assert record["reason"] == "caller_hung_up"


async def test_a_transfer_to_where_we_may_not_call_is_refused_and_the_call_goes_on(
    tmp_path: Path,
) -> None:
    """603 for a number that the trunk may not call; a busy one is told by NOTIFY."""
    async with sip_phone() as first, sip_phone() as second:
        second.status = 486
        loopback = LOOPBACK.format(port=second.port)
        async with fleet(tmp_path, "workers.count=1", loopback=loopback) as place:
            talk = await first.call(place.uri())
            await until_heard(talk, 10)
            first.refer(talk, f"sip:+3312345678@127.0.0.1:{second.port}")
            await until(lambda: talk.transfers == [603], "the refusal")
            first.refer(talk, f"sip:{NUMBER}@127.0.0.1:{second.port}")
            await until(lambda: talk.transfers[-1] == 486, "how it went")
            await until_heard(talk, 10)
            await parted(first, talk)


@pytest.mark.parametrize(("status", "reason"), [(200, "transferred"), (486, "agent_failed")])
async def test_an_agent_transfers_its_caller(tmp_path: Path, status: int, reason: str) -> None:
    """REFER at the telephone with the number as the trunk dials it; what NOTIFY says is the record's."""
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / "moves.yaml").write_text(MOVES)
    async with sip_phone() as phone:
        loopback = LOOPBACK.format(port=phone.port)
        settings = (f"agents.directory={agents}", "agents.default=moves", "workers.count=1")
        async with fleet(tmp_path, *settings, loopback=loopback) as place:
            talk = await phone.call(place.uri())
            name = phone.agent.call_id(talk.number)
            phone.inform(talk, "1")
            await until(lambda: bool(phone.referred), "the REFER")
            assert phone.referred[0].target.user == "+493087654321"
            phone.answer_refer(phone.referred[0], 180, status)
            await until(lambda: talk.ended is not None, "the end")
            record = await place.daemon.record_of(name)
    assert record["reason"] == reason
