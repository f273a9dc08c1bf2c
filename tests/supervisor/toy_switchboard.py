"""A switchboard for tests: the daemon's ROUTER and XPUB, speaking control.py, with answers as scripted.

It runs in a thread of the test. `answers` maps a kind of question to what is sent back: structs, raw
bytes, seconds to wait (numbers), or a function of the question that returns such a list. Run as a
script (`python tests/supervisor/toy_switchboard.py DIRECTORY [WORKERS]`) it publishes figures that move, for looking
at `flowcatd top` by eye.
"""

import random
import shutil
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import msgspec
import zmq

from flowcatd.control import Ask as Question
from flowcatd.control import (
    AskStatus,
    AskTrunks,
    CallEvent,
    Fleet,
    Status,
    TrunksAre,
    WorkerLine,
    encode,
)
from flowcatd.metrics import Metrics
from supervisor.picture import Gathering

_QUESTIONS = msgspec.json.Decoder(Question)


def worker(slot=0, **changes):
    """A worker that serves."""
    facts = {
        "seat": slot,
        "slot": slot,
        "pid": 4_000_000 + slot,
        "state": "ready",
        "generation": 1,
        "seconds": 4000.0,
        "calls": 3,
        "capacity": 200,
        "lag_ms": 1.2,
    }
    return WorkerLine(**(facts | changes))


def fleet(workers=None, **changes):
    """A daemon that is well."""
    workers = [worker(0), worker(1)] if workers is None else workers
    facts = {
        "version": "1.2.3",
        "pid": 4_000_100,
        "uptime_seconds": 100_000.0,
        "state": "serving",
        "slots": len(workers),
        "generation": 1,
        "restarts": 0,
        "config": "conf/flowcatd.toml",
        "address": "127.0.0.1:6210",
        "metrics_address": "127.0.0.1:9464",
        "workers": workers,
    }
    return Fleet(**(facts | changes))


def snapshot(line, second, *, started=0, lags=(), pauses=(), cpu=0.0):
    """What a worker's process publishes; all counts since its start."""
    metrics = Metrics()
    metrics.set("calls_live", line.calls)
    metrics.set("calls_capacity", line.capacity)
    metrics.add("calls_started", started)
    metrics.total("cpu_seconds", cpu)
    metrics.set("memory_bytes", 10 * 2**20, label="own")
    for value in lags:
        metrics.observe("loop_lag_seconds", value)
    for value in pauses:
        metrics.observe("gc_pause_seconds", value)
    return metrics.snapshot(
        seat=line.seat, slot=line.slot, pid=line.pid, at_utc=0.0, uptime_seconds=float(second)
    )


def gathered(*messages, now=0.0):
    """A gathering that has received these."""
    gathering = Gathering("ipc://x", 0.0)
    for message in messages:
        gathering.receive(message, now)
    return gathering


class Toy:
    """One switchboard; `asked` are the questions it got."""

    def __init__(self, directory, answers, prepare):
        """`prepare(router)` may set CURVE and must bind; without it control.sock is bound."""
        self.directory = Path(directory)
        self.answers = {
            AskStatus: lambda ask: [Status(id=ask.id, fleet=fleet())],
            AskTrunks: lambda ask: [TrunksAre(id=ask.id, trunks=[])],
            **answers,
        }
        self.asked = []
        self._later = []
        self.endpoint = f"ipc://{self.directory}/control.sock"
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        if prepare is None:
            self._router.bind(self.endpoint)
        else:
            self.endpoint = prepare(self._router)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self):
        """Gone, as far as anybody can tell; may be repeated."""
        self._over.set()
        self._thread.join(10)
        self._router.close(linger=0)
        self._context.term()
        (self.directory / "control.sock").unlink(missing_ok=True)

    def _serve(self):
        while not self._over.is_set():
            self._send_what_is_due()
            if not self._router.poll(20):
                continue
            who, data = self._router.recv_multipart()
            ask = _QUESTIONS.decode(data)
            self.asked.append(ask)
            script = self.answers.get(type(ask), [])
            self._answer(who, script(ask) if callable(script) else script)

    def _answer(self, who, script):
        due = time.monotonic()
        for step in script:
            if isinstance(step, int | float):
                due += step
            else:
                data = step if isinstance(step, bytes) else encode(step)
                self._later.append((due, who, data))
        self._send_what_is_due()

    def _send_what_is_due(self):
        now = time.monotonic()
        for due, who, data in self._later:
            if due <= now:
                self._router.send_multipart([who, data])
        self._later = [later for later in self._later if later[0] > now]


@contextmanager
def runtime():
    """A runtime directory with a short path."""
    directory = tempfile.mkdtemp(prefix="fc-", dir="/tmp")
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory)


@contextmanager
def toy(answers=None, prepare=None):
    """A running one."""
    with runtime() as directory:
        running = Toy(directory, answers or {}, prepare)
        try:
            yield running
        finally:
            running.stop()


class Publisher:
    """Publishes a fleet, its workers' snapshots and a call's end, over and over."""

    def __init__(self, directory, workers=2, *, every=0.1, run_id="run-7"):
        """Every `every` seconds the workers' clocks go on by one."""
        self.workers = workers
        self._run_id = run_id
        self._every = every
        self._path = Path(directory) / "metrics.sock"
        self._context = zmq.Context()
        self._xpub = self._context.socket(zmq.XPUB)
        self._xpub.linger = 0
        self._xpub.bind(f"ipc://{self._path}")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self):
        """Silence."""
        self._over.set()
        self._thread.join(10)
        self._xpub.close(linger=0)
        self._context.term()

    def _serve(self):
        figures = [Metrics() for _ in range(self.workers)]
        second = 0
        while not self._over.wait(self._every):
            second += 1
            lines = [worker(slot, calls=(slot * 37 + second) % 200) for slot in range(self.workers)]
            self._publish(b"fleet", fleet(lines, uptime_seconds=1000.0 + second))
            for slot, metrics in enumerate(figures):
                self._move(metrics, lines[slot])
                self._publish(
                    b"metrics.%d" % slot,
                    metrics.snapshot(
                        seat=slot,
                        slot=slot,
                        pid=lines[slot].pid,
                        at_utc=time.time(),
                        uptime_seconds=float(second),
                    ),
                )
            if second % 3 == 0:
                self._publish(b"call.ended", self._end(second))

    def _move(self, metrics, line):
        metrics.set("calls_live", line.calls)
        metrics.set("calls_capacity", line.capacity)
        metrics.add("calls_started", 2)
        metrics.total("cpu_seconds", metrics.counters["cpu_seconds"][""] + 0.25)
        metrics.set("memory_bytes", 182 * 2**20, label="rss")
        metrics.set("memory_bytes", 14 * 2**20, label="own")
        metrics.set("descriptors", 210)
        for _ in range(49):
            metrics.observe("loop_lag_seconds", random.choice((0.0005, 0.0015)))
        metrics.observe("loop_lag_seconds", random.choice((0.004, 0.03, 0.09)))
        metrics.observe("gc_pause_seconds", 0.0012)

    def _end(self, second):
        return CallEvent(
            event="ended",
            at_utc=time.time(),
            slot=second % self.workers,
            call_id=f"c{second}",
            run_id=self._run_id,
            carrier="twilio",
            agent="appointment",
            reason="completed",
            ended_by="caller",
            seconds=64.0,
            turns=12,
        )

    def _publish(self, topic, message):
        self._xpub.send_multipart([topic, encode(message)], zmq.NOBLOCK)


@contextmanager
def publisher(directory, workers=2, **options):
    """A running one."""
    running = Publisher(directory, workers, **options)
    try:
        yield running
    finally:
        running.stop()


if __name__ == "__main__":
    with publisher(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2, every=1.0):
        threading.Event().wait(600)
