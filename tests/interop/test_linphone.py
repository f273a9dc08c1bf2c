"""linphone calls the daemon and is called by it: a telephone that states a media address it has not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.interop.linphone import linphone
from tests.interop.place import NUMBER, OUTBOUND, Answerer, answerer
from tests.interop.programs import needs
from tests.interop.sound import listen

pytestmark = [
    pytest.mark.interop,
    pytest.mark.scenario,
    pytest.mark.asyncio(loop_scope="module"),
    needs("linphonec"),
]

UP = "Media streams established"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def far(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Answerer]:
    """One daemon with the echo agent."""
    async with answerer(tmp_path_factory.mktemp("linphone") / "daemon") as one:
        yield one


async def test_linphone_hears_itself_presses_holds_and_hangs_up(
    far: Answerer, tmp_path: Path
) -> None:
    """A call out of linphone: its own tone comes back, two keys are taken, hold and resume work."""
    before = 0 if far.daemon is None else len(far.records())
    async with linphone(tmp_path / "phone") as phone:
        phone.tell(f"call {far.uri()}")
        await phone.says(UP)
        await phone.program.until(lambda: _bytes(phone.heard) > 150_000, "a second and a half")
        phone.tell("7")
        phone.tell("*")
        phone.tell("pause")
        await phone.says("is now paused")
        phone.tell("resume")
        await phone.says(UP, 2)
        phone.tell("terminate")
        await phone.says("ended (No error)")
    assert listen(phone.heard).pure > 1.0, listen(phone.heard)
    if far.daemon is not None:
        record = await far.new_record(before)
        assert (record["ended_by"], far.keys(record)) == ("caller", "7*")


@pytest.mark.long
async def test_we_call_linphone(tmp_path: Path) -> None:
    """POST /v1/calls: linphone answers by itself, and hangs up."""
    async with linphone(tmp_path / "phone", answers=True) as phone:
        trunk = OUTBOUND.format(proxy=f"127.0.0.1:{phone.port}", transport="udp")
        async with answerer(tmp_path / "daemon", trunks={"outbound": trunk}) as far:
            await far.place(NUMBER)
            await phone.says(UP)
            await phone.program.until(lambda: _bytes(phone.heard) > 24_000, "a second and a half")
            phone.tell("terminate")
            await phone.says("ended (No error)")
            record = await far.new_record(0)
    assert (record["sip"]["direction"], record["ended_by"]) == ("outbound", "caller")
    assert listen(phone.heard).pure > 0.5


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
