"""What every worker needs, imported once before the first fork, so that all of them share its pages.

A forked process shares each page with its parent until one of them writes to it. Imported modules are
some 40 MB that nobody writes to, but for reference counts: those dirty the pages of objects in use,
and no setting prevents it (from 3.12 on, the constants are immortal and stay clean). The collector
is kept from writing: it is off while modules are imported, since what it frees in between leaves
holes that a child's first objects would fill and so unshare (gc.freeze in
https://docs.python.org/3/library/gc.html), and everything is frozen before the fork.

Sharing is allowed only for what *starts nothing*: a thread is not forked along, and a loop, an epoll
or a ZeroMQ context that two processes share breaks both. So nothing is believed: after the imports
there must be one thread, no descriptor more than before (every loop has some) and no ZeroMQ context,
or LocalError names what was there. aiohttp makes its TLS client contexts at import; they own neither
descriptor nor thread, and OpenSSL notices a fork by itself (RAND(7)).

Modules are named, not imported by statement: the supervisor's own rooms know nothing of workers but
their orders. Programs of their own (speech helpers, the telephone of `flowcatd call`) are left out.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path

from flowcatd.errors import LocalError

LIBRARIES = (
    *("ssl", "asyncio", "uvloop", "aiohttp.web", "aiohttp.client", "zmq", "zmq.asyncio"),
    *("msgspec.json", "msgspec.toml", "numpy", "soxr", "structlog", "yaml", "psutil"),
    *("pylibsrtp", "sipmessage", "dns.asyncresolver"),
)
"""In the order of who needs whom; each must be there."""

LATE = (
    *("encodings.idna", "encodings.ascii", "encodings.latin_1", "encodings.unicode_escape"),
    *("stringprep", "unicodedata", "_strptime", "concurrent.futures.thread", "queue"),
    *("asyncio.subprocess", "multiprocessing.util", "json.encoder", "wave"),
    *(f"dns.rdtypes.IN.{kind}" for kind in ("A", "AAAA", "NAPTR", "SRV")),
    *(f"dns.rdtypes.ANY.{kind}" for kind in ("CNAME", "SOA", "OPT")),
)
"""What Python itself would import at the first use, in each worker anew."""

OPTIONAL = ("webrtcvad", "G722", "OpenSSL.SSL")
"""Taken when installed. Recognisers and voices are not: they live in processes of their own."""

OURS = ("flowcatd", "workers")

PROGRAMS = ("flowcatd.caller", "flowcatd.links.sphinx_helper", "flowcatd.links.voice_helper")
"""Processes of their own, and what only they use."""

SWITCHBOARD = ("supervisor.switchboard",)
"""The other process that is forked from here."""

_TASKS = Path("/proc/self/task")
_DESCRIPTORS = Path("/proc/self/fd")


def preload() -> None:
    """Import it all and freeze it; LocalError when something was started, ImportError for a gap.

    numpy's OpenBLAS is told beforehand to start no threads: a worker is one core's worth of work.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()
    before = _descriptors()
    for name in (*LIBRARIES, *LATE):
        importlib.import_module(name)
    for name in OPTIONAL:
        _import_if_installed(name)
    for package in OURS:
        for name in _rooms(package):
            importlib.import_module(name)
    for name in SWITCHBOARD:
        _import_if_installed(name)
    _warm()
    started = started_things(before)
    if started:
        raise LocalError(f"an import before the fork has started {', '.join(started)}")
    gc.collect()
    gc.freeze()
    gc.enable()


def started_things(before: dict[str, str]) -> list[str]:
    """What must not exist before a fork: empty is right. `before` is what was open anyway."""
    found = []
    threads = sum(1 for _ in _TASKS.iterdir())
    if threads != 1:
        found.append(f"{threads - 1} threads")
    found += [f"a descriptor of {what}" for fd, what in _descriptors().items() if fd not in before]
    zmq = sys.modules.get("zmq")
    # The one that Context.instance() gives everybody; one of somebody's own shows as a thread.
    if zmq is not None and zmq.Context._instance is not None:  # noqa: SLF001 pyzmq has no question for it
        found.append("a ZeroMQ context")
    return found


def _rooms(package: str) -> Iterator[str]:
    """Every module of a package of ours, less the programs."""
    yield package
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        if module.name in PROGRAMS:
            continue
        if module.ispkg:
            yield from _rooms(module.name)
        else:
            yield module.name


def _warm() -> None:
    """Make a certificate for media, and forget it.

    What OpenSSL looks up when it first makes, signs and loads one are 9 MB, which each worker would own.
    Keys are not shared by it: each worker makes its own, from random numbers that notice the fork.
    """
    dtls = importlib.import_module("flowcatd.transports.dtls")
    if dtls.available():
        dtls.make_certificate()


def _import_if_installed(name: str) -> None:
    """A module that may be missing; one that is there and broken still raises."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise


def _descriptors() -> dict[str, str]:
    """Number and kind of each open descriptor, less the one that looking takes."""
    found = {}
    for link in _DESCRIPTORS.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[link.name] = str(link.readlink())
    return found
