"""Preloading: everything a worker uses is there before the fork, and nothing was started for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def fresh(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_preloading_starts_nothing_and_freezes_everything():
    """One thread, no descriptor more, tens of thousands of frozen objects, and the collector on."""
    code = (
        "import gc, os\n"
        "from supervisor.preload import preload\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "preload()\n"
        "print(len(os.listdir('/proc/self/task')), len(os.listdir('/proc/self/fd')) - before,"
        " gc.get_freeze_count() > 50_000, gc.isenabled())\n"
    )
    assert fresh(code) == "1 0 True True"


def test_a_child_imports_nothing_more():
    """A worker's program, a loop, a listening HTTP server and ZeroMQ sockets: all was there."""
    code = """
import os, sys
from supervisor.preload import preload
preload()
known = set(sys.modules)
pid = os.fork()
if pid == 0:
    import asyncio, uvloop, zmq
    import workers.main
    from aiohttp import web
    async def live():
        app = web.Application()
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        context = zmq.Context()
        context.socket(zmq.PUB).close(0)
        context.term()
        await asyncio.to_thread(print, end="")
        await runner.cleanup()
    uvloop.run(live())
    print(sorted(set(sys.modules) - known), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""
    assert fresh(code) == "[]"


def test_a_childs_certificate_is_its_own_and_cheap():
    """Two children and their parent make three; a child pays less than 4 MB for it, most of it is shared."""
    code = """
import os
from supervisor.preload import preload
preload()
from flowcatd.transports.dtls import make_certificate
def own():
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
for _ in range(2):
    if not os.fork():
        before = own()
        shown = make_certificate().fingerprint
        print(shown, own() - before < 4096, flush=True)
        os._exit(0)
    os.wait()
print(make_certificate().fingerprint, True)
"""
    lines = fresh(code).splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["True"] * 3
    assert len(set(lines)) == 3


def test_programs_of_their_own_are_left_out():
    """No recogniser, no telephone; but every room of a call."""
    code = (
        "import sys\n"
        "from supervisor.preload import preload\n"
        "preload()\n"
        "print(sorted(n for n in sys.modules if n.startswith(('pocketsphinx', 'flowcatd.caller'))"
        " or n.endswith('_helper')))\n"
        "print(all(n in sys.modules for n in ('flowcatd.processors.vad', 'workers.wiring',"
        " 'flowcatd.carriers.json_media', 'flowcatd.agent.dialog', 'encodings.idna')))\n"
    )
    assert fresh(code) == "[]\nTrue"


@pytest.mark.parametrize(
    ("start", "what"),
    [
        ("import threading, time; threading.Timer(9, print).start()", "1 threads"),
        ("import select; keep = select.epoll()", "a descriptor of anon_inode:[eventpoll]"),
        ("import zmq; keep = zmq.Context.instance()", "a ZeroMQ context"),
    ],
)
def test_something_that_was_started_is_named(start, what):
    """A thread, a descriptor, a context: each refuses the fork."""
    code = (
        "from supervisor.preload import preload, started_things, _descriptors\n"
        "preload()\n"
        "before = _descriptors()\n"
        "assert started_things(before) == []\n"
        f"{start}\n"
        "print(*started_things(before), sep=', ', flush=True)\n"
        "__import__('os')._exit(0)\n"
    )
    assert what in fresh(code)


def test_preloading_refuses_when_a_thread_runs():
    """LocalError, before anything is forked."""
    code = (
        "import threading, time\n"
        "from flowcatd.errors import LocalError\n"
        "from supervisor.preload import preload\n"
        "threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "try:\n"
        "    preload()\n"
        "except LocalError as error:\n"
        "    print(error)\n"
    )
    assert fresh(code).endswith("has started 1 threads")
