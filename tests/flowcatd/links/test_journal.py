"""Journals on disk: the newest version, one winner, the living left alone, and nothing left behind."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from flowcatd.journal import Journal, Media, decode
from flowcatd.links.disk import Disk
from flowcatd.links.journal import LOOK_SECONDS, Found, Journals
from flowcatd.record import Identity, Ledger

IDENTITY = Identity(
    call_id="20261120T210502Z-3f9c2a1b", run_id="R", carrier="raw", agent="a", worker_slot=0
)
OTHER = msgspec.structs.replace(IDENTITY, call_id="20261120T210503Z-3f9c2a1b")


def journal(identity: Identity = IDENTITY, **variables: str) -> Journal:
    """A call that knows this."""
    return Journal(
        identity=identity,
        written_at_utc=datetime.now(UTC),
        session={},
        ledger=Ledger(identity, datetime.now(UTC), 0.0).snapshot(1.0),
        media=Media(encoding="pcm", rate_hz=8000),
        variables=variables,
    )


@pytest.fixture
async def disk() -> AsyncIterator[Disk]:
    """A writer that is closed with the test."""
    writer = Disk()
    yield writer
    assert await writer.close(30)


def life(disk: Disk, place: Path, slot: int = 0) -> Journals:
    """A worker's way to the journals; several in one process are as good as several processes."""
    return Journals(disk, place, slot, f"test{slot}")


def no_problem(problem: str) -> None:
    """There is none."""
    raise AssertionError(problem)


def crash(journals: Journals) -> None:
    """What the kernel does with a killed worker's lock; the files stay."""
    os.close(journals._lock)


async def settled(disk: Disk) -> None:
    """Everything given to the disk is done."""
    assert await disk.ask(lambda: True)


def files(place: Path) -> list[Path]:
    """Everything under calls/ that is no directory."""
    return [path for path in (place / "calls").rglob("*") if path.is_file()]


async def test_only_the_newest_version_is_written(disk: Disk, tmp_path: Path) -> None:
    """A hundred versions while the disk hangs are one write, of the last."""
    gate = threading.Event()
    file = life(disk, tmp_path).file(IDENTITY, no_problem)
    disk.submit(lambda: gate.wait(30) and None)
    disk.hurry()
    sizes = [file.write(journal(n=str(number))) for number in range(100)]
    assert disk.pending == sizes[0]
    assert len(file._waiting) == 1
    gate.set()
    await settled(disk)
    (path,) = files(tmp_path)
    assert decode(path.read_bytes()).variables == {"n": "99"}
    assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0
    assert stat.S_IMODE(path.parent.stat().st_mode) & ~0o750 == 0


async def test_a_version_written_while_another_is_being_written_is_not_lost(
    disk: Disk, tmp_path: Path
) -> None:
    """Whatever the two threads do: the last one given is the one on disk."""
    file = life(disk, tmp_path).file(IDENTITY, no_problem)
    for number in range(500):
        file.write(journal(n=str(number)))
        if number % 7 == 0:
            await asyncio.sleep(0)
    await settled(disk)
    (path,) = files(tmp_path)
    assert decode(path.read_bytes()).variables == {"n": "499"}


async def test_the_end_leaves_neither_file_nor_directory(disk: Disk, tmp_path: Path) -> None:
    """Also when a version still waits, and when one comes too late."""
    file = life(disk, tmp_path).file(IDENTITY, no_problem)
    file.write(journal())
    await settled(disk)
    file.write(journal())
    file.remove()
    assert file.write(journal()) == 0
    await settled(disk)
    assert list((tmp_path / "calls").iterdir()) == []


async def test_the_calls_of_the_living_are_not_found(disk: Disk, tmp_path: Path) -> None:
    """Neither one's own nor another's; after the crash both ways find them."""
    mine, theirs = life(disk, tmp_path, 1), life(disk, tmp_path, 2)
    for journals, identity in ((mine, IDENTITY), (theirs, OTHER)):
        journals.file(identity, no_problem).write(journal(identity))
    await settled(disk)
    assert await mine.look(IDENTITY, 20.0) == []
    assert await mine.dead() == []
    crash(theirs)
    (found,) = await mine.look(IDENTITY, 20.0)
    assert found.name.call_id == OTHER.call_id
    assert [path.name for path in await mine.dead()] == [found.path.name]
    mine.close()


async def test_a_slot_finds_the_calls_of_those_who_died_in_it(disk: Disk, tmp_path: Path) -> None:
    """Not those of other slots, which their own successors take up; nor those of the living."""
    dead, other = life(disk, tmp_path, 1), life(disk, tmp_path, 11)
    for journals, identity in ((dead, IDENTITY), (other, OTHER)):
        journals.file(identity, no_problem).write(journal(identity))
    await settled(disk)
    heir = Journals(disk, tmp_path, 1, "heir1")
    assert await heir.of_slot(1) == []
    crash(dead)
    crash(other)
    (found,) = await heir.of_slot(1)
    assert found.name.call_id == IDENTITY.call_id
    assert [each.name.call_id for each in await heir.of_slot(11)] == [OTHER.call_id]
    heir.close()


async def test_testers_do_not_take_each_other_for_the_living(disk: Disk, tmp_path: Path) -> None:
    """Somebody else is just asking whether that life is dead: it is dead all the same."""
    gone, mine = life(disk, tmp_path, 1), life(disk, tmp_path, 2)
    gone.file(IDENTITY, no_problem).write(journal())
    await settled(disk)
    crash(gone)
    with (tmp_path / "lives" / gone.life).open("rb") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert len(await mine.look(IDENTITY, 20.0)) == 1
    mine.close()


async def test_a_life_without_a_lock_file_is_dead(disk: Disk, tmp_path: Path) -> None:
    """It was cleared away before its last call was."""
    gone, mine = life(disk, tmp_path, 1), life(disk, tmp_path, 2)
    gone.file(IDENTITY, no_problem).write(journal())
    await settled(disk)
    gone.close()
    assert len(await mine.look(IDENTITY, 20.0)) == 1
    assert len(await mine.dead()) == 1
    mine.close()


async def test_one_of_many_wins_a_call(disk: Disk, tmp_path: Path) -> None:
    """By the resuming way and by the closing way alike."""
    gone = life(disk, tmp_path, 1)
    gone.file(IDENTITY, no_problem).write(journal(day="monday"))
    await settled(disk)
    crash(gone)
    others = [life(disk, tmp_path, slot) for slot in range(2, 6)]
    found: list[Found] = [(await other.look(IDENTITY, 20.0))[0] for other in others]
    (path,) = await others[0].dead()
    claims = [other.claim(each) for other, each in zip(others, found, strict=True)]
    assert claims == [True, False, False, False]
    assert await others[3].take(path) is None
    assert [each.name.split(".")[1] for each in files(tmp_path)] == [others[0].life]
    for other in others:
        other.close()


async def test_the_newest_call_is_the_first_candidate(disk: Disk, tmp_path: Path) -> None:
    """Of several with the same run id."""
    gone, mine = life(disk, tmp_path, 1), life(disk, tmp_path, 2)
    for identity in (IDENTITY, OTHER):
        gone.file(identity, no_problem).write(journal(identity))
    await settled(disk)
    crash(gone)
    found = await mine.look(IDENTITY, 20.0)
    assert [each.name.call_id for each in found] == [OTHER.call_id, IDENTITY.call_id]
    mine.close()


async def test_a_disk_that_hangs_makes_a_new_call(disk: Disk, tmp_path: Path) -> None:
    """A connection waits for the bound, and no longer."""
    mine, gate = life(disk, tmp_path), threading.Event()
    disk.submit(lambda: gate.wait(30) and None)
    disk.hurry()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert await mine.look(IDENTITY, 20.0) == []
    assert LOOK_SECONDS * 0.9 <= loop.time() - begun < 5
    gate.set()
    mine.close()


async def test_what_a_kill_left_half_done_is_cleared_away(disk: Disk, tmp_path: Path) -> None:
    """Temporary files and locks of the dead, empty directories; nothing of the living."""
    gone, mine = life(disk, tmp_path, 1), life(disk, tmp_path, 2)
    mine.file(OTHER, no_problem).write(journal(OTHER))
    await settled(disk)
    crash(gone)
    (place,) = (tmp_path / "calls").iterdir()
    (place / f".{IDENTITY.call_id}.{gone.life}.part").write_bytes(b"half")
    (place / f".{IDENTITY.call_id}.{mine.life}.part").write_bytes(b"half")
    (tmp_path / "calls" / "empty").mkdir()
    assert await mine.dead() == []
    assert sorted(path.name for path in files(tmp_path)) == [
        f".{IDENTITY.call_id}.{mine.life}.part",
        f"{OTHER.call_id}.{mine.life}",
    ]
    assert [path.name for path in (tmp_path / "lives").iterdir()] == [mine.life]
    assert not (tmp_path / "calls" / "empty").exists()
    mine.close()
    assert list((tmp_path / "lives").iterdir()) == []


async def test_a_disk_that_refuses_is_told_once(disk: Disk, tmp_path: Path) -> None:
    """The errno's name, and the call goes on."""
    problems: list[str] = []
    file = life(disk, tmp_path).file(IDENTITY, problems.append)
    (tmp_path / "calls").rmdir()
    (tmp_path / "calls").write_bytes(b"in the way")
    for _ in range(3):
        file.write(journal())
        await settled(disk)
    await asyncio.sleep(0)
    assert problems == ["ENOTDIR"]
