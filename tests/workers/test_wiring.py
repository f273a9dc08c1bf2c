"""A call that outlives its worker: real processes, real sockets, and SIGKILL between two keys.

And one that does not: what is told of it, and that nothing of it stays in memory.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flowcatd import log as logging
from flowcatd.audio.wav import parse_wav
from flowcatd.call import Call
from flowcatd.carriers.events import Encoding, Started
from flowcatd.frames import InputAudio, InputDtmf
from flowcatd.links.disk import Disk
from flowcatd.options import Log
from flowcatd.record import CallRecord, Identity, Outcome, Reason
from tests.workers.one_worker import options_of
from tests.workers.processes import AGENTS, call, journals, knows, until, worker, written
from workers.agents import Agent, load_agents
from workers.clock import WorkerClock
from workers.parts import Parts
from workers.speech import Speech
from workers.wiring import Wiring, identity_of, open_store


async def test_a_call_whose_worker_is_killed_goes_on_in_another(tmp_path: Path) -> None:
    """Same name, one record, what was said before and after, and it is asked where it was."""
    records = tmp_path / "records"
    async with worker(records, 0) as first, worker(records, 1) as second:
        async with call(first, "R1", "digits") as caller:
            await caller.press("4")
            await until(knows(records, '"state":"second"', '"one":"4"'), "the journal")
            name = journals(records)[0].name.split(".")[0]
            await first.kill()
        async with call(second, "R1", "digits") as caller:
            await until(lambda: second.log("call.resumed"), "the resumption")
            await caller.press("7")
            assert await caller.ended() == 1000
        await until(lambda: written(records), "the record")
        await until(lambda: not journals(records), "the end of the journal")
    (record,) = written(records)
    assert record["call_id"] == name
    assert record["variables"] == {"one": "4", "two": "7"}
    assert (record["reason"], record["resumed"]) == ("completed", 1)
    assert record["worker_slot"] == 1
    assert [move["target"] for move in record["states"]] == ["first", "second", "done"]
    assert record["turns"]["digits"] == 2
    (problem,) = record["problems"]
    assert problem["where"] == "worker"
    assert problem["reason"].startswith("worker lost, resumed after ")
    transcript = json.loads((records / record["files"]["transcript"]).read_text())
    keys = [entry for entry in transcript["entries"] if entry.get("kind") == "digit"]
    assert [entry["text"] for entry in keys] == ["4", "7"]
    assert keys[0]["start_ms"] < keys[1]["start_ms"]


async def test_an_echo_goes_on_and_its_second_recording_is_named(tmp_path: Path) -> None:
    """No brain, no words: the call is the same, and both files can be played."""
    records = tmp_path / "records"
    async with worker(records, 0) as first, worker(records, 1) as second:
        async with call(first, "E", "echo") as caller:
            for _ in range(120):  # beyond the recorder's first block
                assert await caller.echo()
            await until(lambda: any(records.glob("*.wav")), "the recording")
            await first.kill()
        async with call(second, "E", "echo") as caller:
            assert await caller.echo()
        (record,) = await until(lambda: written(records), "the record")
    assert record["resumed"] == 1
    assert record["reason"] == "caller_hung_up"
    files = record["files"]
    assert files["recording"] in ("", f"{record['call_id']}.wav")
    assert files["later_recordings"] == [f"{record['call_id']}-2.wav"]
    for name in (*files["later_recordings"], files["recording"]):
        assert parse_wav((records / name).read_bytes()).channels == 2


async def test_a_call_of_a_living_worker_is_nobody_elses(tmp_path: Path) -> None:
    """A static address is used by many: two calls at once are two calls."""
    records = tmp_path / "records"
    async with worker(records, 0) as first, worker(records, 1) as second:
        async with call(first, "same", "echo") as one, call(second, "same", "echo") as other:
            assert await one.echo()
            await until(lambda: journals(records), "the first journal")
            assert await other.echo()
        await until(lambda: len(written(records)) == 2, "both records")
    assert [record["resumed"] for record in written(records)] == [0, 0]


async def test_a_call_taken_up_by_two_is_one_calls_and_a_new_one(tmp_path: Path) -> None:
    """The rename lets one win; the other connection begins afresh."""
    records = tmp_path / "records"
    async with (
        worker(records, 0) as first,
        worker(records, 1) as second,
        worker(records, 2) as third,
    ):
        async with call(first, "R", "digits") as caller:
            await caller.press("4")
            await until(knows(records, '"state":"second"'), "the journal")
            await first.kill()
        async with call(second, "R", "digits") as one, call(third, "R", "digits") as other:
            await until(
                lambda: len(second.log("call.answered") + third.log("call.answered")) == 2,
                "both answered",
            )
            await one.press("1")
            await other.press("1")
        await until(lambda: len(written(records)) == 2, "both records")
    assert sorted(record["resumed"] for record in written(records)) == [0, 1]
    assert sorted(record["variables"]["one"] for record in written(records)) == ["1", "4"]


async def test_a_call_may_lose_two_workers(tmp_path: Path) -> None:
    """It is written down under its new keeper at once."""
    records = tmp_path / "records"
    async with (
        worker(records, 0) as first,
        worker(records, 1) as second,
        worker(records, 2) as third,
    ):
        async with call(first, "R", "digits") as caller:
            await caller.press("4")
            await until(knows(records, '"state":"second"'), "the journal")
            await first.kill()
        async with call(second, "R", "digits"):
            await until(knows(records, '"resumed":1'), "the journal")
            await second.kill()
        async with call(third, "R", "digits") as caller:
            await until(lambda: third.log("call.resumed"), "the resumption")
            await caller.press("5")
            assert await caller.ended() == 1000
        (record,) = await until(lambda: written(records), "the record")
    assert record["resumed"] == 2
    assert record["variables"] == {"one": "4", "two": "5"}


class Wire:
    """A far end that presses a key, says a word of silence, and hangs up."""

    has_marks = False
    lead_ms = 0
    notices = False

    def notice(self, _fields: Mapping[str, object]) -> None:
        """It did not ask."""

    def send_audio(self, _pcm: bytes) -> None:
        """It does not listen."""

    def send_mark(self, _name: str) -> None:
        """It knows none."""

    def send_clear(self) -> None:
        """Nothing to forget."""

    def send_digits(self, _digits: str) -> None:
        """It presses its own."""

    def transfer(self, _target: str) -> bool:
        """Nor does it go anywhere."""
        return False

    async def read(self, call: Call) -> Outcome:
        """The caller's part."""
        feed = call.started(Started("CA1", "MZ1", Encoding.PCM, 8000))
        for number in range(5):
            feed(InputAudio(bytes(320), 8000, 20 * number))
        feed(InputDtmf("4"))
        await asyncio.sleep(0)
        return Outcome(reason=Reason.CARRIER_STOPPED)

    async def close(self, _outcome: Outcome) -> int:
        """Closed."""
        return 1000


class Watching:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def started(self, identity: Identity) -> None:
        """One."""
        self.told.append(("started", identity.call_id))

    def answered(self, identity: Identity) -> None:
        """Two."""
        self.told.append(("answered", identity.call_id))

    def resumed(self, identity: Identity) -> None:
        """Or this."""
        self.told.append(("resumed", identity.call_id))

    def ended(self, record: CallRecord) -> None:
        """Three."""
        self.told.append(("ended", record.call_id))

    def unkept(self) -> None:
        """Four."""
        self.told.append(("unkept", ""))


class Bench:
    """A wiring on this loop."""

    def __init__(self, disk: Disk, records: Path, slot: int) -> None:
        logging.configure(Log(level="error", format="json"), slot=slot)
        options = options_of(20.0)
        self.watch = Watching()
        self.store = open_store(options.records, disk, records, slot)
        self.agents = load_agents(AGENTS, "echo")
        ears = Speech(options.speech, Path("none"), ())
        clock = WorkerClock(asyncio.get_running_loop())
        self.wiring = Wiring(options, clock, ears, self.store, self.watch)
        self.slot = slot
        self.count = 0
        self.crashed = False

    async def open(self, agent: Agent) -> Parts:
        """A call."""
        self.count += 1
        identity = identity_of(
            run_id="R",
            carrier="twilio",
            agent=agent.name,
            slot=self.slot,
            token=f"{self.count:08d}",
        )
        return self.wiring.open(Wire(), agent, identity, await self.wiring.look(identity))

    def crash(self) -> None:
        """What the kernel does with the lock of a killed worker."""
        self.crashed = True
        assert self.store.journals is not None
        os.close(self.store.journals._lock)

    async def live(self, parts: Parts) -> None:
        """All of it."""
        await self.wiring.keep(parts, await parts.call.run(Wire()))


@asynccontextmanager
async def bench(records: Path, slot: int = 0) -> AsyncIterator[Bench]:
    """A wiring that is given back."""
    disk = Disk()
    made = Bench(disk, records, slot)
    yield made
    assert await disk.close(30)
    if not made.crashed:
        made.store.close()


async def test_what_a_call_goes_through_is_told(tmp_path: Path) -> None:
    """Started, answered, ended; and no journal is left."""
    async with bench(tmp_path) as made:
        parts = await made.open(made.agents["digits"])
        name = parts.call.id
        await made.live(parts)
    assert made.watch.told == [("started", name), ("answered", name), ("ended", name)]
    assert journals(tmp_path) == []
    assert list((tmp_path / "journal" / "lives").iterdir()) == []
    (record,) = written(tmp_path)
    assert record["resumed"] == 0


async def test_nothing_of_an_ended_call_survives_a_collection(tmp_path: Path) -> None:
    """The call, its words, its brain, its processors."""
    async with bench(tmp_path) as made:
        for agent in ("echo", "digits"):
            parts = await made.open(made.agents[agent])
            living = [weakref.ref(parts.call), weakref.ref(parts.transcript)]
            await made.live(parts)
            living += [weakref.ref(each) for each in (parts.brain, parts.playout) if each]
            del parts
            gc.collect()
            assert [each() for each in living] == [None] * len(living)


# CPython 3.12 keeps every interned string for ever, and its pathlib interns the parts of paths: the
# names of a call's files. 3.11 and 3.13 do not.
LEFT_BYTES = 800 if sys.version_info[:2] == (3, 12) else 200


async def test_many_short_calls_leave_memory_as_it_was(tmp_path: Path) -> None:
    """A hundred to warm up, then four hundred: next to nothing stays of each."""
    async with bench(tmp_path) as made:

        async def some(count: int) -> int:
            for _ in range(count // 10):
                parts = [await made.open(made.agents[name]) for name in ("digits", "echo") * 5]
                await asyncio.gather(*map(made.live, parts))
            made.watch.told.clear()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = await some(100)
            assert await some(400) - before < 400 * LEFT_BYTES
        finally:
            tracemalloc.stop()


class Listing:
    """Writes down who is listed under which name."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def add(self, call: Call) -> None:
        """Listed."""
        self.told.append(("add", call.id))

    def remove(self, call: Call) -> None:
        """Not any more."""
        self.told.append(("remove", call.id))


@pytest.mark.parametrize(("carrier_call_id", "is_same"), [("CA1", True), ("CA2", False)])
async def test_a_carriers_call_comes_back_under_the_carriers_own_name_for_it(
    tmp_path: Path, carrier_call_id: str, *, is_same: bool
) -> None:
    """The same run id and another CallSid is another call; who lists calls is told of the new name."""
    started = Started("CA1", "MZ1", Encoding.MULAW, 8000, {"caller": "Ann", "x": "1"})
    again = Started(carrier_call_id, "MZ2", Encoding.PCM, 16_000, {"x": "2"})
    async with bench(tmp_path, 1) as first, bench(tmp_path, 2) as second:
        parts = await first.open(first.agents["digits"])
        older = parts.call.id
        parts.call.started(started)(InputDtmf("4"))
        await until(knows(tmp_path, '"state":"second"'), "the journal")
        first.crash()
        parts = await second.open(second.agents["digits"])
        parts.listing = Listing()
        newer = parts.call.id
        feed = parts.call.started(again)
        feed(InputDtmf("5"))
        assert parts.call.variables() == {
            "one": "4" if is_same else "5",
            "two": "5" if is_same else "",
        }
        if is_same:
            assert parts.listing.told == [("remove", newer), ("add", older)]
            assert second.watch.told == [("started", newer), ("resumed", older)]
            assert parts.session == {"call_id": older, "caller": "Ann", "x": "2"}
        else:
            assert parts.listing.told == []
            assert second.watch.told == [("started", newer), ("answered", newer)]
            assert parts.session == {"call_id": newer, "x": "2"}


async def test_a_record_that_the_disk_refuses_is_told_and_the_call_ends(tmp_path: Path) -> None:
    """A file lies where the directory should be: nothing can be written there."""
    async with bench(tmp_path) as made:
        parts = await made.open(made.agents["echo"])
        made.wiring._records = tmp_path / "file"
        (tmp_path / "file").write_text("in the way")
        await made.live(parts)
    assert ("unkept", "") in made.watch.told
    assert made.watch.told[-1][0] == "ended"
