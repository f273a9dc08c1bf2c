"""Calls whose worker died and that nobody took up: one record each, whoever is there to write it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from flowcatd.journal import key_of
from tests.workers.processes import call, journals, knows, until, worker, written


async def test_a_call_that_nobody_takes_up_is_closed_once_with_what_was_known(
    tmp_path: Path,
) -> None:
    """Three workers start together on the dead one's journal: one record, one transcript."""
    records = tmp_path / "records"
    async with worker(records, 0) as first, call(first, "R1", "digits") as caller:
        await caller.press("4")
        await until(knows(records, '"state":"second"'), "the journal")
        await first.kill()
    async with (
        worker(records, 1, 0.2) as second,
        worker(records, 2, 0.2) as third,
        worker(records, 3, 0.2) as fourth,
    ):
        (record,) = await until(lambda: written(records), "the record")
        await until(lambda: not journals(records), "the end of the journal")
        closed = [each.log("call.abandoned") for each in (second, third, fourth)]
    assert sum(map(len, closed)) == 1
    assert record["reason"] == "worker_lost"
    assert record["ended_by"] == "daemon"
    assert record["variables"] == {"one": "4", "two": ""}
    assert record["run_id"] == "R1"
    assert record["turns"]["digits"] == 1
    assert record["answered_at_utc"] is not None
    transcript = json.loads((records / record["files"]["transcript"]).read_text())
    assert [entry["text"] for entry in transcript["entries"]] == ["4"]
    assert len(list(records.glob("*.json"))) == 2
    assert list((records / "journal" / "calls").iterdir()) == []


async def test_many_calls_and_several_workers_make_one_record_each(tmp_path: Path) -> None:
    """Twenty calls of one dead worker, three that care: twenty records, none twice."""
    records = tmp_path / "records"
    async with worker(records, 0) as first, asyncio.TaskGroup() as group:
        stay = asyncio.Event()
        for number in range(20):
            group.create_task(_stay(first, f"R{number}", stay))
        await until(lambda: len(journals(records)) == 20, "all journals")
        await first.kill()
        stay.set()
    async with worker(records, 1, 0.2), worker(records, 2, 0.2), worker(records, 3, 0.2):
        await until(lambda: len(written(records)) == 20, "all records")
        await until(lambda: not journals(records), "the end of the journals")
    assert {record["run_id"] for record in written(records)} == {f"R{n}" for n in range(20)}
    assert {record["reason"] for record in written(records)} == {"worker_lost"}


async def _stay(process: object, run_id: str, stay: asyncio.Event) -> None:
    async with call(process, run_id, "echo"):
        await stay.wait()


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00\xff" * 100, b'{"journal": 99}', b"null", b"[" * 100_000],
    ids=["empty", "bytes", "another version", "null", "deep"],
)
async def test_a_journal_that_cannot_be_read_is_moved_aside_and_its_call_recorded(
    tmp_path: Path, data: bytes
) -> None:
    """No crash: one log line, the file for a person to look at, and the call id's record."""
    records = tmp_path / "records"
    place = records / "journal" / "calls" / key_of("raw", "R")
    place.mkdir(parents=True)
    name = "20261120T210502Z-3f9c2a1b"
    (place / f"{name}.0-1-abcd").write_bytes(data)
    async with worker(records, 1, 0.2) as process, call(process, "R", "echo") as caller:
        assert await caller.echo()
        record = await until(
            lambda: [each for each in written(records) if each["call_id"] == name], "the record"
        )
        assert await caller.echo()
        assert len(process.log("journal.broken")) == 1
    assert record[0]["reason"] == "worker_lost"
    assert record[0]["started_at_utc"] == "2026-11-20T21:05:02.000Z"
    assert record[0]["problems"][0]["where"] == "journal"
    (aside,) = place.glob("*.bad")
    assert aside.read_bytes() == data


async def test_a_record_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    """A worker killed between its call's record and the end of the journal: one record."""
    records = tmp_path / "records"
    async with worker(records, 0) as first, call(first, "R1", "echo") as caller:
        assert await caller.echo()
        await until(lambda: journals(records), "the journal")
        name = journals(records)[0].name.split(".")[0]
        await first.kill()
    (records / f"{name}.json").write_text('{"reason": "completed"}')
    async with worker(records, 1, 0.2):
        await until(lambda: not journals(records), "the end of the journal")
    assert written(records) == [{"reason": "completed"}]
    assert list((records / "journal" / "lives").iterdir()) == []
