"""The lanes of .ci/test.py: together they run every test, and none of them twice."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
CI = runpy.run_path(str(ROOT / ".ci" / "test.py"))
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/test_*.py"))


def _runs(name: str, file: str) -> bool:
    words = CI["lane"](name)
    named = [word for word in words if word.startswith("tests")]
    ignored = [word.partition("=")[2] for word in words if word.startswith("--ignore=")]
    return _is_below(file, named) and not _is_below(file, ignored)


def _is_below(file: str, paths: list[str]) -> bool:
    return any(file == path or file.startswith(f"{path}/") for path in paths)


def test_every_file_is_run_by_one_lane() -> None:
    """Also one that nobody has put on a list."""
    lanes = {file: [name for name in CI["LANES"] if _runs(name, file)] for file in FILES}
    assert {file: names for file, names in lanes.items() if len(names) != 1} == {}
    assert set().union(*lanes.values()) == set(CI["LANES"])


def test_every_lane_is_run_once_and_what_it_names_is_there() -> None:
    """A list that has aged would be a lane that runs less than it says."""
    run = [name for step in CI["STEPS"].values() for name, words in step.items() if not words]
    assert sorted(run) == sorted(CI["LANES"])
    named = [path for paths in CI["LANES"].values() for path in paths]
    assert len(set(named)) == len(named)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_a_file_on_no_list_is_the_rests() -> None:
    """Wherever it is put."""
    assert [name for name in CI["LANES"] if _runs(name, "tests/new/test_new.py")] == ["rest"]
