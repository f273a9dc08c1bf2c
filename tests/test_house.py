"""The house keeps its own rules: who may import whom, which rooms are pure, what stands where.

The rules are the tables below; a new room is one word in `FLOORS`, and in `PURE` when it takes the
time as an argument and touches nothing. They are checked on the text (ast) and, for purity, on what
a fresh interpreter really loads.
"""

from __future__ import annotations

import ast
import fnmatch
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("flowcatd", "workers", "supervisor", "bench")

# Lowest first. A room imports from floors below its own and never from its own.
FLOORS = (
    ("errors", "frames", "options", "services", "sip_figures", "wake", "media"),
    ("agent", "audio", "carriers", "environment", "playout", "providers", "record", "settings"),
    ("control", "journal", "log", "metrics", "pipeline", "recording", "rtp", "sip"),
    ("links", "processors", "transports"),
    ("call", "caller"),
    ("workers", "bench"),
    ("supervisor",),
)

# Rooms, or single files of a mixed room, that decide and never do.
PURE = (
    "flowcatd.errors",
    "flowcatd.frames",
    "flowcatd.options",
    "flowcatd.services",
    "flowcatd.wake",
    "flowcatd.media",
    "flowcatd.agent",
    "flowcatd.audio",
    "flowcatd.carriers",
    "flowcatd.playout",
    "flowcatd.providers",
    "flowcatd.record",
    "flowcatd.recording",
    "flowcatd.rtp",
    "flowcatd.settings",
    "flowcatd.sip",
    "flowcatd.sip_figures",
    "flowcatd.control",
    "flowcatd.journal",
    "flowcatd.metrics",
    "supervisor.banner",
    "supervisor.exposition",
    "supervisor.fleet",
    "supervisor.lives",
    "supervisor.orders",
    "supervisor.picture",
    "supervisor.report",
    "supervisor.routing",
    "supervisor.screen",
    "workers.load",
    "workers.plan",
    "workers.shed",
    "workers.hand_over_message",
    "workers.sip_head",
    "workers.steer",
    "workers.trunk_counts",
    "workers.trunk_health",
)

IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "os", "select", "selectors", "socket", "ssl"),
    *("logging", "random", "secrets", "subprocess", "threading", "time"),
    *(
        "aiohttp",
        "aiortc",
        "dns",
        "grpc",
        "http",
        "httpx",
        "psutil",
        "requests",
        "structlog",
        "urllib3",
    ),
    *("uvloop", "websockets", "zmq"),
}

# What no pure room may load even indirectly, through whatever library.
UNLOADED = ("asyncio", "multiprocessing", "uvloop", "zmq", "aiohttp", "structlog")

NAMELESS = frozenset(
    {"utils", "util", "common", "helpers", "helper", "misc", "base", "core", "lib"}
)

TOP = {
    *("flowcatd", "workers", "supervisor", "conf", "systemd", "tests", "bench", ".ci"),
    *("pyproject.toml", "uv.lock", "README.md", "Makefile", "LICENSE", ".gitignore"),
}

MOST_FILE_LINES = 500
MOST_FUNCTION_LINES = 60
MOST_PARAMETERS = 6


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


OURS = _files(*PACKAGES)
ALL = _files(*PACKAGES, "tests", ".ci")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(path: Path) -> Iterator[str]:
    """Every module named in a file, late imports included; `from package import room` is the room."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module in PACKAGES:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def _room(module: str) -> str:
    """The room of one of our modules: under flowcatd its second word, elsewhere its first."""
    first, *rest = module.split(".")
    return rest[0] if first == "flowcatd" and rest else first


def _floor(room: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    raise AssertionError(f"{room} stands on no floor: give it a place in FLOORS")


def _is_pure(module: str) -> bool:
    return any(module == pure or module.startswith(f"{pure}.") for pure in PURE)


def _names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("path", OURS, ids=_names(OURS))
def test_imports_run_downward(path):
    """Rooms know lower floors only, and never each other on their own floor."""
    room = _room(_module(path))
    if room == "flowcatd":
        assert list(_imports(path)) == []
        return
    upward = [
        name
        for name in _imports(path)
        if name.split(".")[0] in PACKAGES
        and not name.endswith("__version__")
        and name != "flowcatd"
        and _room(name) != room
        and _floor(_room(name)) >= _floor(room)
    ]
    assert upward == []


def test_the_supervisor_knows_of_workers_only_their_orders():
    """What owns loops and sockets is imported in the child, after the fork: inside a function."""
    early = {
        name
        for path in _files("supervisor")
        for node in _tree(path).body
        if isinstance(node, ast.ImportFrom)
        for name in [node.module]
        if name.startswith("workers")
    }
    assert early <= {"workers.plan", "workers.load", "workers.trunk_counts", "workers.trunks"}


PURE_FILES = [path for path in OURS if _is_pure(_module(path))]


@pytest.mark.parametrize("path", PURE_FILES, ids=_names(PURE_FILES))
def test_pure_rooms_import_nothing_that_does(path):
    """No clock, loop, socket, process, file system, chance or log; and only pure rooms of ours."""
    names = list(_imports(path))
    assert [name for name in names if name.split(".")[0] in IMPURE] == []
    ours = [name for name in names if name.split(".")[0] in PACKAGES]
    assert [name for name in ours if not _is_pure(name) and not name.endswith("__version__")] == []


@pytest.mark.parametrize("pure", PURE)
def test_every_pure_room_exists(pure):
    """A room that moved away is taken off the list."""
    assert any(_module(path) == pure or _module(path).startswith(f"{pure}.") for path in OURS)


def test_pure_rooms_load_no_loop():
    """What is imported before the fork starts nothing, whichever library it comes through."""
    modules = [_module(path) for path in PURE_FILES]
    code = f"import sys, {', '.join(modules)}\nprint(*(set(sys.modules) & set({UNLOADED!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == []


def test_our_packages_are_the_ones_imported():
    """There are foreign packages called `supervisor`; from anywhere, ours is found."""
    code = "import flowcatd, supervisor, workers\n"
    code += "print(*(p.__path__[0] for p in (flowcatd, supervisor, workers)))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd="/",
        env={},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [
        str(ROOT / name) for name in ("flowcatd", "supervisor", "workers")
    ]


def test_no_room_is_called_nothing_in_particular():
    """`utils` and its like attract what belongs elsewhere."""
    folders = {path.parent for path in OURS}
    assert [str(path) for path in {*OURS, *folders} if path.stem in NAMELESS] == []


def test_the_top_level_is_the_required_one():
    """Nothing else lies about, and nothing is missing."""
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    found = {
        entry.name
        for entry in ROOT.iterdir()
        if entry.name != ".git" and not any(fnmatch.fnmatch(entry.name, line) for line in ignored)
    }
    assert found == TOP


@pytest.mark.parametrize("path", ALL, ids=_names(ALL))
def test_nothing_is_mocked(path):
    """No unittest.mock, and no attribute of ours is replaced behind its back."""
    assert [name for name in _imports_loosely(path) if "mock" in name.split(".")] == []
    patched = [
        ast.unparse(node)
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"monkeypatch.setattr", "monkeypatch.setitem", "mocker.patch"}
    ]
    assert patched == []


def _imports_loosely(path: Path) -> list[str]:
    names = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", OURS, ids=_names(OURS))
def test_a_file_opens_with_its_theory_and_stays_readable(path):
    """A docstring, at most 500 lines, functions of at most 60, constructors of at most 6 values."""
    tree = _tree(path)
    assert ast.get_docstring(tree)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_FILE_LINES
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [
        node.name for node in functions if node.end_lineno - node.lineno >= MOST_FUNCTION_LINES
    ] == []
    assert [
        f"{path.name}:{node.lineno}"
        for node in functions
        if node.name == "__init__"
        and len(node.args.args) - 1 + len(node.args.kwonlyargs) > MOST_PARAMETERS
    ] == []


def test_package_doors_hold_a_docstring_and_nothing_else():
    """Except for the version, which is flowcatd's."""
    doors = [path for path in OURS if path.name == "__init__.py"]
    talkative = [
        str(path.relative_to(ROOT))
        for path in doors
        if len(_tree(path).body) != (2 if path.parent.name == "flowcatd" else 1)
    ]
    assert talkative == []
