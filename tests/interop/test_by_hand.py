"""What no telephone does on purpose: messages by hand, in an order and a number of our own choosing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from bench.peers.sip_caller import Message, NotAnsweredError, SipCaller
from tests.interop.place import Answerer, answerer

pytestmark = [
    pytest.mark.interop,
    pytest.mark.scenario,
    pytest.mark.asyncio(loop_scope="module"),
]

WAIT_SECONDS = 5.0
MEDIA_PORT = 9
"""Discard: nothing of ours listens there."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def far(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Answerer]:
    """One daemon with the echo agent for all of them."""
    async with answerer(tmp_path_factory.mktemp("by_hand") / "daemon") as one:
        yield one


@pytest.fixture
def caller(far: Answerer) -> Iterator[SipCaller]:
    """Somebody who calls it."""
    one = SipCaller(far.target.host, far.target.port, far.target.user)
    yield one
    one.close()


def final(method: str):
    """The final answer to this method."""
    return lambda message: message.status >= 200 and message.fields.get("cseq", "").endswith(method)


async def ask(caller: SipCaller, wanted, seconds: float = WAIT_SECONDS) -> Message | None:
    """Wait in a thread; the daemon's log is read in the loop meanwhile."""
    return await asyncio.to_thread(caller.wait, wanted, seconds)


@pytest.mark.parametrize("number", range(5))
async def test_a_cancel_at_the_heels_of_its_invite_leaves_no_call(
    caller: SipCaller, number: int
) -> None:
    """Either 487, or the 200 was first and the call is there to be hung up; the CANCEL is 200 or 481."""
    placed = caller.invite(MEDIA_PORT)
    caller.cancel(placed)
    answers: dict[str, Message] = {}

    def both(message: Message) -> bool:
        for method in ("INVITE", "CANCEL"):
            if final(method)(message):
                answers[method] = message
        return len(answers) == 2

    assert await ask(caller, both) is not None, f"{answers} {number}"
    assert answers["CANCEL"].status in {200, 481}
    status = answers["INVITE"].status
    assert status in {200, 487}
    if status == 487:
        with pytest.raises(NotAnsweredError):
            caller.acknowledge(placed, answers["INVITE"])
    else:
        caller.acknowledge(placed, answers["INVITE"])
        assert await asyncio.to_thread(caller.hang_up, placed) == 200


async def test_a_cancel_after_the_answer_does_not_end_the_call(caller: SipCaller) -> None:
    """RFC 3261 §9.2: it has no effect any more; the call is up until its BYE."""
    placed = await asyncio.to_thread(caller.call, MEDIA_PORT)
    caller.cancel(placed)
    answer = await ask(caller, final("CANCEL"))
    assert answer is not None
    assert answer.status in {200, 481}
    assert not placed.is_over
    assert await asyncio.to_thread(caller.hang_up, placed) == 200


async def test_an_invite_that_comes_again_is_the_same_call(
    far: Answerer, caller: SipCaller
) -> None:
    """Three copies of one INVITE: one tag in all answers, and one record."""
    if far.daemon is None:
        pytest.skip("only the daemon tells of its records")
    placed = caller.invite(MEDIA_PORT)
    caller.send(caller.last)
    caller.send(caller.last)
    answers: list[Message] = []

    def three(message: Message) -> bool:
        answers.extend([message] if final("INVITE")(message) else [])
        return len(answers) == 3

    assert await ask(caller, three) is not None, answers
    assert {answer.status for answer in answers} == {200}
    assert len({answer.fields["to"] for answer in answers}) == 1
    assert len({answer.body for answer in answers}) == 1
    caller.acknowledge(placed, answers[0])
    assert await asyncio.to_thread(caller.hang_up, placed) == 200
    await far.record(placed.call_id)
    mine = [record for record in far.records() if record["run_id"] == placed.call_id]
    assert len(mine) == 1


async def test_a_bye_from_somebody_else_ends_nothing(far: Answerer, caller: SipCaller) -> None:
    """The right Call-ID with a wrong tag is 481, and the call goes on."""
    placed = await asyncio.to_thread(caller.call, MEDIA_PORT)
    stranger = SipCaller(far.target.host, far.target.port)
    try:
        bye = caller.request(placed, "BYE", placed.target)
        stranger.send(bye.replace(f"tag={placed.tag}", "tag=guessed"))
        answer = await ask(stranger, final("BYE"), 2.0)
        assert answer is None or answer.status == 481
    finally:
        stranger.close()
    assert await asyncio.to_thread(caller.hang_up, placed) == 200


async def test_a_thousand_datagrams_of_noise_disturb_no_call(caller: SipCaller) -> None:
    """What is no SIP is dropped or refused, and the call beside it is hung up as ever."""
    placed = await asyncio.to_thread(caller.call, MEDIA_PORT)
    for number in range(1000):
        caller.send(f"NOISE {number} \r\nVia: {'x' * (number % 300)}\r\n\r\n")
    assert not placed.is_over
    assert await asyncio.to_thread(caller.hang_up, placed) == 200
