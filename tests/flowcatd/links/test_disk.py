"""Disk: files on real file systems, also full, vanished, forbidden and slow ones."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from flowcatd.audio.wav import parse_wav
from flowcatd.links import disk as disk_room
from flowcatd.links.disk import Disk, Kept, OnProblem, replace_whole
from flowcatd.recording import stereo_header

BLOCK = bytes(range(256)) * 125
"""A second of 8 kHz stereo."""

header = partial(stereo_header, 8000)


@pytest.fixture
async def disk() -> AsyncIterator[Disk]:
    """A writer that is closed with the test."""
    writer = Disk()
    yield writer
    assert await writer.close(30)


@pytest.fixture
def no_problem() -> Iterator[OnProblem]:
    """Where a file tells its problems that should have none."""
    problems: list[str] = []
    yield problems.append
    assert problems == []


@pytest.fixture
def full_disk() -> Iterator[Path]:
    """A file system of 256 KiB; mounting one takes root."""
    with tempfile.TemporaryDirectory() as where:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "flowcatd-test", where],
            check=False,
            capture_output=True,
        )
        if mounted.returncode:
            pytest.skip("mounting a tiny tmpfs takes root; the RLIMIT_FSIZE test below still runs")
        try:
            yield Path(where)
        finally:
            subprocess.run(["umount", where], check=True)


class Stall:
    """The thread, held up as by a disk that hangs."""

    def __init__(self, disk: Disk) -> None:
        self._go_on = threading.Event()
        disk.submit(lambda: self._go_on.wait(30) and None)
        disk.hurry()

    def end(self) -> None:
        """The disk comes back."""
        self._go_on.set()


def mode_of(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def names_in(directory: Path) -> list[str]:
    """What stands there."""
    return sorted(path.name for path in directory.iterdir())


async def test_a_growing_file_holds_its_blocks(
    disk: Disk, tmp_path: Path, no_problem: OnProblem
) -> None:
    """A WAV file has its header, all blocks in order, and tells its name and size."""
    file = disk.create(tmp_path / "a.wav", header, no_problem)
    file.append(BLOCK)
    file.append(BLOCK[::-1])
    assert await file.close() == Kept("a.wav", 2 * len(BLOCK))
    wav = parse_wav((tmp_path / "a.wav").read_bytes())
    assert (wav.rate_hz, wav.channels, wav.pcm) == (8000, 2, BLOCK + BLOCK[::-1])


async def test_directories_are_made_and_nothing_is_for_everybody(
    disk: Disk, tmp_path: Path, no_problem: OnProblem
) -> None:
    """Missing directories are 0750 at every level, files 0640."""
    before = os.umask(0)
    try:
        file = disk.create(tmp_path / "2026" / "11" / "a.wav", header, no_problem)
        file.append(BLOCK)
        await file.close()
        await disk.write_whole(tmp_path / "b" / "a.json", b"{}")
    finally:
        os.umask(before)
    for directory in ("2026", "2026/11", "b"):
        assert mode_of(tmp_path / directory) == 0o750
    assert mode_of(tmp_path / "2026/11/a.wav") == mode_of(tmp_path / "b/a.json") == 0o640


async def test_a_file_is_valid_while_it_grows(
    disk: Disk, tmp_path: Path, no_problem: OnProblem
) -> None:
    """A worker that is killed in the middle of a call leaves what it had written, readable."""
    file = disk.create(tmp_path / "a.wav", header, no_problem)
    for blocks in range(1, 4):
        file.append(BLOCK)
        await disk.write_whole(tmp_path / "barrier", b"")  # the thread works in order
        written = (tmp_path / "a.wav").read_bytes()
        assert parse_wav(written).pcm == BLOCK * blocks
        assert written[:44] == header(len(BLOCK) * blocks)
    await file.close()


async def test_nothing_is_ever_overwritten(
    disk: Disk, tmp_path: Path, no_problem: OnProblem
) -> None:
    """A name that is taken, even by a dangling link, gets a number."""
    (tmp_path / "a.wav").write_bytes(b"earlier")
    (tmp_path / "a.json").write_bytes(b"earlier")
    (tmp_path / "a-2.json").symlink_to(tmp_path / "nowhere")
    file = disk.create(tmp_path / "a.wav", header, no_problem)
    file.append(BLOCK)
    assert (await file.close()).name == "a-2.wav"
    assert await disk.write_whole(tmp_path / "a.json", b"new") == Kept("a-3.json", 3)
    assert (tmp_path / "a.wav").read_bytes() == b"earlier"
    assert (tmp_path / "a.json").read_bytes() == b"earlier"
    assert (tmp_path / "a-3.json").read_bytes() == b"new"
    assert not (tmp_path / "nowhere").exists()


async def test_a_hundred_names_are_enough(disk: Disk, tmp_path: Path) -> None:
    """When every numbered name is taken too, the file is not kept and says why."""
    for name in ["a.json", *(f"a-{n}.json" for n in range(2, 101))]:
        (tmp_path / name).touch()
    assert await disk.write_whole(tmp_path / "a.json", b"new") == Kept("", 0, "EEXIST")
    assert len(names_in(tmp_path)) == 100


async def test_a_whole_file_leaves_no_other_behind(disk: Disk, tmp_path: Path) -> None:
    """Only the file itself stands in the directory, and it is complete."""
    data = os.urandom(300_000)
    assert await disk.write_whole(tmp_path / "a.json", data) == Kept("a.json", len(data))
    assert names_in(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == data


def test_without_hard_links_a_file_still_never_overwrites(tmp_path: Path) -> None:
    """The way by rename takes the next free name too."""
    (tmp_path / "a.json").write_bytes(b"earlier")
    (tmp_path / "part").write_bytes(b"new")
    assert disk_room._publish_by_rename(tmp_path / "part", tmp_path / "a.json").name == "a-2.json"
    assert (tmp_path / "a-2.json").read_bytes() == b"new"
    with pytest.raises(FileNotFoundError):
        disk_room._publish_by_rename(tmp_path / "part", tmp_path / "a.json")
    assert names_in(tmp_path) == ["a-2.json", "a.json"]


async def test_a_recording_without_sound_is_removed(
    disk: Disk, tmp_path: Path, no_problem: OnProblem
) -> None:
    """A file that got no block is no file."""
    file = disk.create(tmp_path / "a.wav", header, no_problem)
    assert await file.close() == Kept("", 0)
    assert names_in(tmp_path) == []


async def test_closing_twice_tells_the_same(
    disk: Disk, tmp_path: Path, no_problem: OnProblem
) -> None:
    """Close is idempotent, and blocks after it are forgotten."""
    file = disk.create(tmp_path / "a.wav", header, no_problem)
    file.append(BLOCK)
    first = await file.close()
    file.append(BLOCK)
    assert await file.close() == first


async def test_a_full_disk_ends_the_file_and_not_the_call(disk: Disk, full_disk: Path) -> None:
    """ENOSPC is told once; what fitted is a valid file; nothing else is left half written."""
    problems: list[str] = []
    file = disk.create(full_disk / "a.wav", header, problems.append)
    for _ in range(20):
        file.append(BLOCK)
    kept = await file.close()
    assert (kept.name, kept.problem, problems) == ("a.wav", "ENOSPC", ["ENOSPC"])
    written = (full_disk / "a.wav").read_bytes()
    assert parse_wav(written).pcm == BLOCK * (kept.size // len(BLOCK))
    assert len(written) == 44 + kept.size > 100_000
    assert await disk.write_whole(full_disk / "a.json", bytes(50_000)) == Kept("", 0, "ENOSPC")
    assert names_in(full_disk) == ["a.wav"]


async def test_a_file_that_never_fitted_is_removed(disk: Disk, full_disk: Path) -> None:
    """A disk full from the start leaves no empty recording; with room again the next one is kept."""
    (full_disk / "ballast").write_bytes(bytes(256 * 1024))
    problems: list[str] = []
    file = disk.create(full_disk / "a.wav", header, problems.append)
    file.append(BLOCK)
    assert await file.close() == Kept("", 0, "ENOSPC")
    assert problems == ["ENOSPC"]
    assert names_in(full_disk) == ["ballast"]
    (full_disk / "ballast").unlink()
    file = disk.create(full_disk / "b.wav", header, problems.append)
    file.append(BLOCK)
    assert await file.close() == Kept("b.wav", len(BLOCK))


async def test_a_directory_that_vanished_is_told(disk: Disk, tmp_path: Path) -> None:
    """Whoever removes the directory under a recording finds ENOENT in the record; others live on."""
    problems: list[str] = []
    file = disk.create(tmp_path / "day" / "a.wav", header, problems.append)
    file.append(BLOCK)
    await disk.write_whole(tmp_path / "barrier", b"")
    (tmp_path / "day" / "a.wav").unlink()
    (tmp_path / "day").rmdir()
    file.append(BLOCK)
    assert await file.close() == Kept("", 0, "ENOENT")
    assert problems == ["ENOENT"]
    assert (await disk.write_whole(tmp_path / "day" / "a.json", b"{}")).name == "a.json"


async def test_a_directory_that_is_none_is_told(disk: Disk, tmp_path: Path) -> None:
    """A path that leads through a file is refused once, however many blocks come."""
    (tmp_path / "file").touch()
    problems: list[str] = []
    file = disk.create(tmp_path / "file" / "a.wav", header, problems.append)
    for _ in range(10):
        file.append(BLOCK)
    assert await file.close() == Kept("", 0, "ENOTDIR")
    assert problems == ["ENOTDIR"]
    assert await disk.write_whole(tmp_path / "file" / "a", b"") == Kept("", 0, "ENOTDIR")


async def test_a_slow_disk_costs_sound_but_not_time(tmp_path: Path) -> None:
    """Beyond the limit blocks become holes of their length, are told once, and no memory is used."""
    disk = Disk(pending_max=2 * len(BLOCK))
    stall = Stall(disk)
    problems: list[str] = []
    file = disk.create(tmp_path / "a.wav", header, problems.append)
    for _ in range(5):
        file.append(BLOCK)
    assert disk.pending == 2 * len(BLOCK)
    assert await disk.write_whole(tmp_path / "a.json", b"x") == Kept("", 0, "ENOBUFS")
    stall.end()
    await disk.write_whole(tmp_path / "barrier", b"")
    assert disk.pending == 0
    file.append(BLOCK)
    assert await file.close() == Kept("a.wav", 6 * len(BLOCK))
    assert problems == ["ENOBUFS"]
    pcm = parse_wav((tmp_path / "a.wav").read_bytes()).pcm
    assert pcm == BLOCK * 2 + bytes(3 * len(BLOCK)) + BLOCK
    assert await disk.close(30)


async def test_a_hung_disk_does_not_hold_up_the_end(tmp_path: Path, no_problem: OnProblem) -> None:
    """Closing gives up after its time, and can be asked again."""
    disk = Disk()
    stall = Stall(disk)
    file = disk.create(tmp_path / "a.wav", header, no_problem)
    file.append(BLOCK)
    assert not await disk.close(0.01)
    stall.end()
    assert await disk.close(30)
    assert parse_wav((tmp_path / "a.wav").read_bytes()).pcm == BLOCK


async def test_a_closed_disk_takes_nothing_and_hangs_nobody(
    tmp_path: Path, no_problem: OnProblem
) -> None:
    """After its end files are refused and closing one returns."""
    disk = Disk()
    early = disk.create(tmp_path / "a.wav", header, no_problem)
    assert await disk.close(30)
    assert await early.close() == Kept("", 0, "ENOBUFS")
    assert await disk.write_whole(tmp_path / "a.json", b"x") == Kept("", 0, "ENOBUFS")


async def test_a_deadline_on_close_does_not_spoil_the_file(
    tmp_path: Path, no_problem: OnProblem
) -> None:
    """Whoever stops waiting for a close can still learn what became of the file."""
    disk = Disk()
    stall = Stall(disk)
    file = disk.create(tmp_path / "a.wav", header, no_problem)
    file.append(BLOCK)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await file.close()
    stall.end()
    assert await file.close() == Kept("a.wav", len(BLOCK))
    assert await disk.close(30)


async def test_what_is_synced_is_the_same(tmp_path: Path, no_problem: OnProblem) -> None:
    """A sync at close changes nothing but the promise."""
    disk = Disk(sync=True)
    file = disk.create(tmp_path / "a.wav", header, no_problem)
    file.append(BLOCK)
    assert await file.close() == Kept("a.wav", len(BLOCK))
    assert await disk.write_whole(tmp_path / "a.json", b"{}") == Kept("a.json", 2)
    assert await disk.close(30)


async def test_a_hundred_recordings_do_not_mix(
    disk: Disk, tmp_path: Path, no_problem: OnProblem
) -> None:
    """Every call's blocks stand in its own file."""
    blocks = [bytes([n, n + 1]) * 4000 for n in range(100)]
    files = [disk.create(tmp_path / f"{n}.wav", header, no_problem) for n in range(100)]
    for _ in range(3):
        for file, block in zip(files, blocks, strict=True):
            file.append(block)
    await asyncio.gather(*(file.close() for file in files))
    for n, block in enumerate(blocks):
        assert parse_wav((tmp_path / f"{n}.wav").read_bytes()).pcm == block * 3


CHILD = """
import asyncio, os, resource, sys
from functools import partial
from pathlib import Path
from flowcatd.links.disk import Disk
from flowcatd.recording import stereo_header

async def main(where, limit):
    disk = Disk()
    told = []
    file = disk.create(where / "a.wav", partial(stereo_header, 8000), told.append)
    for _ in range(20):
        file.append(bytes(range(256)) * 125)
    kept = await file.close()
    await disk.close(30)
    print(kept.name or "-", kept.size, kept.problem, *told)

where = Path(sys.argv[1])
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
elif os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
asyncio.run(main(where, sys.argv[2]))
"""


def in_a_child(where: Path, what: str) -> list[str]:
    """What a process of its own, limited or without rights, says became of its recording."""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, where, what],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.split()


def test_a_block_that_fits_only_in_part_is_cut_off(tmp_path: Path) -> None:
    """At a limit inside the fourth block (RLIMIT_FSIZE) three blocks are kept and valid."""
    assert in_a_child(tmp_path, "limit") == ["a.wav", "96000", "EFBIG", "EFBIG"]
    written = (tmp_path / "a.wav").read_bytes()
    assert len(written) == 44 + 96_000
    assert parse_wav(written).pcm == BLOCK * 3


def test_a_directory_that_is_forbidden_is_told() -> None:
    """Without the right to write nothing is kept, EACCES is told once, and the process lives."""
    with tempfile.TemporaryDirectory() as where:
        Path(where).chmod(0o555)
        assert in_a_child(Path(where), "nobody") == ["-", "0", "EACCES", "EACCES"]


def test_a_replaced_file_is_one_version_or_the_next(tmp_path: Path) -> None:
    """Its directory is made, also again; no temporary file stays; what is refused has a name."""
    path = tmp_path / "a" / "b" / "x"
    for data in (b"one", b"two" * 1000, b""):
        assert replace_whole(path, data) == ""
        assert path.read_bytes() == data
        assert names_in(path.parent) == ["x"]
        assert mode_of(path) & ~0o640 == 0
    path.unlink()
    path.parent.rmdir()
    assert replace_whole(path, b"again") == ""
    path.unlink()
    path.mkdir()
    assert replace_whole(path, b"in the way") == "EISDIR"
    assert names_in(path.parent) == ["x"]


async def test_the_disk_is_asked_and_a_refusal_is_none(disk: Disk, tmp_path: Path) -> None:
    """What the system refuses does not end the thread."""
    assert await disk.ask((tmp_path / "none").read_bytes) is None
    assert await disk.ask(lambda: 7) == 7
