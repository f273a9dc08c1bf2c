"""Typed lines, through a real pipe and a real file."""

from __future__ import annotations

import asyncio
import os

from flowcatd.caller.keyboard import LINE_LIMIT, Keyboard


async def read(descriptor: int) -> list[str]:
    """Every line until the end."""
    lines: list[str] = []
    ended = asyncio.Event()
    keyboard = Keyboard(descriptor, lines.append, ended.set)
    keyboard.start()
    async with asyncio.timeout(5):
        await ended.wait()
    keyboard.stop()
    return lines


async def test_lines_come_whole_however_they_are_written():
    """Two in one write, one in two, and a last one without its end."""
    reader, writer = os.pipe()
    for piece in (b"one\ntwo\nth", b"ree\n", b"\n", "grüße".encode()):
        os.write(writer, piece)
    os.close(writer)
    assert await read(reader) == ["one", "two", "three", "", "grüße"]
    os.close(reader)


async def test_a_file_is_read_at_once(tmp_path):
    """`--interactive < lines.txt` works although a file cannot be watched."""
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\n")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert await read(descriptor) == ["one", "two"]
    finally:
        os.close(descriptor)


async def test_a_line_without_end_is_bounded():
    """What is held never exceeds the limit of a line."""
    reader, writer = os.pipe()
    os.write(writer, b"x" * (LINE_LIMIT + 1000))
    os.close(writer)
    (line,) = await read(reader)
    assert len(line) == LINE_LIMIT
    os.close(reader)
