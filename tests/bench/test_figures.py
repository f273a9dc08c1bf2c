"""bench/FIGURES.md has parts; writing one leaves the others alone."""

from __future__ import annotations

from pathlib import Path

from bench.figures import PAGE, heading, parts_of, section, write


def test_writing_a_part_leaves_the_others(tmp_path: Path) -> None:
    """Each command owns its part, whichever is written first or twice."""
    page = tmp_path / "FIGURES.md"
    for command, printed in (("bench.micro", "1"), ("bench.fleet", "2"), ("bench.micro", "3")):
        write(command, [heading(command, "1 CPU"), section(f"{command}.one", printed)], page)
    parts = parts_of(page.read_text())
    assert list(parts) == ["bench.micro", "bench.fleet"]
    assert "```\n3\n```" in parts["bench.micro"]
    assert "```\n2\n```" in parts["bench.fleet"]
    assert "```\n1\n```" not in page.read_text()


def test_the_page_that_there_is_can_be_read() -> None:
    """Every part names the command that wrote it."""
    parts = parts_of(PAGE.read_text())
    assert "bench.micro" in parts
    assert all(
        f"Written by `python -m {command} --write`" in part for command, part in parts.items()
    )
